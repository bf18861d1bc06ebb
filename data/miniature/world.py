"""Tasks of the miniature: the paper's ten use cases, each task a prompt and the truth to judge answers by.

The gold specification of a task is a JSON object:

- `task`: the row of `templates.ANSWERS` that answers it; `use_case`: one of the ten of the paper's Table 1;
- `slots`: what fills the row's slots; `require`: words a full answer holds; `min_required`: how many of them
  an answer must hold to count as following the instruction;
- `closed`: whether the answer must rest on the prompt alone; `scope`: the categories whose words are claims;
- `constraint`: `null` or `{"type": "sentences" | "words" | "use" | "avoid" | "count", ...}`;
- `list`: `null` or the category of an enumeration; `courteous`: whether a courteous closing is apt;
- `max_words`: beyond this an answer is too long.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from miniature.vocab import CATEGORIES, NUMBER_WORDS

Gold = dict[str, Any]

USE_CASES: dict[str, float] = {
    "generation": 45.6, "open_qa": 12.4, "brainstorming": 11.2, "chat": 8.4, "rewrite": 6.6, "summarization": 4.2,
    "classification": 3.5, "other": 3.5, "closed_qa": 2.6, "extract": 1.9,
}  # fmt: skip
"""Share of prompts by use case in percent (paper, Table 1)."""


@dataclass(frozen=True)
class Task:
    """A prompt and the specification that judges any response to it."""

    prompt: str
    gold: Gold = field(hash=False)


Maker = Callable[[random.Random], Task]


def pick(rng: random.Random, category: str) -> str:
    """Draw a word of a category."""
    return rng.choice(CATEGORIES[category])


def spec(task: str, use_case: str, slots: dict[str, str], require: list[str], **more: Any) -> Gold:
    """Build a gold specification, everything not given at its usual value."""
    gold: Gold = {
        "task": task, "use_case": use_case, "slots": slots, "require": require, "min_required": len(require),
        "closed": False, "scope": [], "constraint": None, "list": None, "courteous": False, "max_words": 34,
    }  # fmt: skip
    return gold | more


def constrain(rng: random.Random, kinds: list[str], share: float, bound: int = 0) -> tuple[str, dict[str, Any] | None]:
    """Draw a constraint of one of the kinds, or none: the words that state it and its specification."""
    if rng.random() >= share:
        return "", None
    kind = rng.choice(kinds)
    if kind == "sentences":
        n = rng.choice([1, 2])
        noun = "sentence" if n == 1 else "sentences"
        said = rng.choice([f"Write {NUMBER_WORDS[n]} {noun}.", f"Use {NUMBER_WORDS[n]} {noun}."])
        return " " + said, {"type": kind, "n": n}
    if kind == "words":
        return f" Use at most {NUMBER_WORDS[bound]} words.", {"type": kind, "n": bound}
    if kind == "use":
        word = pick(rng, "scene")
        return " " + rng.choice([f"Use the word {word}.", f"Mention the {word}."]), {
            "type": kind,
            "word": word,
        }
    word = pick(rng, "weather")
    return " " + rng.choice([f"Do not mention {word}.", f"Leave out the {word}."]), {
        "type": kind,
        "word": word,
    }


def sample_task(rng: random.Random, use_case: str | None = None) -> Task:
    """Draw a task, of the given use case or of one drawn by the paper's shares."""
    from miniature.tasks import MAKERS

    if use_case is None:
        use_case = rng.choices(list(USE_CASES), weights=list(USE_CASES.values()))[0]
    makers = MAKERS[use_case]
    maker: Maker = rng.choices([m for m, _ in makers], weights=[w for _, w in makers])[0]
    return maker(rng)
