"""Writes responses to tasks from their gold specification: right ones in several styles, and slips."""

import random
from typing import Any

from miniature.templates import ANSWERS
from miniature.vocab import CATEGORIES, CLASS_OF, NUMBER_WORDS, PLURALS, join, sentences, words
from miniature.world import Gold

STYLES = ("plain", "detailed", "terse", "ramble")
SLIPS = ("fact", "constraint", "vague")
CHECKED = ("sentences", "words", "use", "avoid")


def _fill(template: str, gold: Gold, rng: random.Random) -> str:
    """Fill a template from the gold slots; what they leave open is drawn, without the word to avoid."""
    slots: dict[str, str] = dict(gold["slots"])
    constraint: dict[str, Any] = gold["constraint"] or {}
    if "scene" not in slots and constraint.get("type") == "use":
        slots["scene"] = constraint["word"]
    if gold["list"]:
        items = [word for word in CATEGORIES[gold["list"]] if word != constraint.get("avoid")]
        n = constraint["n"]
        slots = {"num": NUMBER_WORDS[n], "plural": PLURALS[gold["list"]], "list": join(rng.sample(items, n))}
    for category, members in CATEGORIES.items():
        if category not in slots and "{" + category + "}" in template:
            slots[category] = rng.choice([word for word in members if word != constraint.get("word")])
    return template.format(**slots)


def _bodies(gold: Gold, detailed: bool) -> list[str]:
    """List the templates of right answers, as far as the constraint on sentences and words decides."""
    parts = ANSWERS[gold["task"]]
    constraint: dict[str, Any] = gold["constraint"] or {}
    single, double = list(parts["one"]), list(parts.get("two", ()))
    tails = list(parts.get("extra", ())) + list(parts.get("closing", ()))
    longer = [f"{body} {tail}" for body in single for tail in tails]
    if constraint.get("type") == "use":
        return [f"{body} {tail}" for body in single for tail in parts["use"]]
    if constraint.get("type") == "sentences":
        return single if constraint["n"] == 1 else (double or longer)
    if constraint.get("type") == "words":
        return single
    if detailed:
        return [f"{body} {tail}" for body in double for tail in tails] or longer or double or single
    return single + double


def right(gold: Gold, rng: random.Random, detailed: bool = False) -> str:
    """Write a right and well-formed answer."""
    return _fill(rng.choice(_bodies(gold, detailed)), gold, rng)


HEED = 0.7
"""How often a terse or rambling person still heeds an explicit constraint."""


def styled(gold: Gold, rng: random.Random, style: str) -> str:
    """Write an answer in a style; terse and rambling ones may break constraints and leave things out."""
    if style not in ("terse", "ramble"):
        return right(gold, rng, detailed=style == "detailed")
    text = _fill(rng.choice(ANSWERS[gold["task"]][style]), gold, rng)
    constraint: dict[str, Any] | None = gold["constraint"]
    broken = constraint is not None and constraint["type"] in CHECKED and violates(constraint, text)
    return right(gold, rng) if broken and rng.random() < HEED else text


def _other(word: str, rng: random.Random) -> str:
    """Draw another word of the same category."""
    return rng.choice([w for w in CATEGORIES[CLASS_OF[word]] if w != word])


def _wrong_fact(gold: Gold, rng: random.Random) -> str:
    """Write an answer in which one thing is not what the task says."""
    if gold["list"]:
        n = gold["constraint"]["n"]
        return right(gold | {"constraint": {"type": "count", "n": n - 1 if n == 4 else n + 1}}, rng)
    slots: dict[str, str] = dict(gold["slots"])
    if "label" in slots:
        slots["label"] = "bad" if slots["label"] == "good" else "good"
        return right(gold | {"slots": slots}, rng)
    wanted = [key for key, value in slots.items() if value in CLASS_OF and value in gold["require"]]
    key = rng.choice(wanted or [key for key, value in slots.items() if value in CLASS_OF])
    before = slots[key]
    slots[key] = _other(before, rng)
    if "repeats" in slots:
        slots["repeats"] = slots["repeats"].replace(before, slots[key])
    return right(gold | {"slots": slots}, rng)


def _broken_constraint(gold: Gold, rng: random.Random) -> str:
    """Write an answer that is right but for its constraint."""
    constraint: dict[str, Any] = gold["constraint"]
    kind = constraint["type"]
    if kind == "count":
        return _wrong_fact(gold, rng)
    if kind == "repeat":
        n = constraint["n"] % 4 + 1
        return right(gold | {"slots": gold["slots"] | {"repeats": ", ".join([constraint["word"]] * n)}}, rng)
    free = gold | {"constraint": None}
    if kind == "avoid":
        free["slots"] = gold["slots"] | {"weather": constraint["word"]}
    for _ in range(64):
        text = right(free, rng, detailed=rng.random() < 0.5)
        if violates(constraint, text):
            return text
    return styled(gold, rng, "ramble")


def violates(constraint: dict[str, Any], text: str) -> bool:
    """Tell whether a text breaks a constraint on sentences, words, or a word to use or avoid."""
    kind = constraint["type"]
    if kind == "sentences":
        return bool(len(sentences(text)) != constraint["n"])
    if kind == "words":
        return bool(len(words(text)) > constraint["n"])
    return (constraint["word"] in words(text)) == (kind == "avoid")


def embellished(gold: Gold, rng: random.Random) -> str:
    """Write a right answer and a sentence that the text to keep to does not bear out."""
    added = _fill(rng.choice(ANSWERS[gold["task"]]["embellish"]), gold | {"slots": {}}, rng)
    return f"{right(gold, rng)} {added}"


def slip(gold: Gold, rng: random.Random, kind: str) -> str:
    """Write an answer with a slip: a wrong fact, a broken constraint, or saying nothing."""
    if kind == "vague":
        return _fill(rng.choice(ANSWERS[gold["task"]]["vague"]), gold, rng)
    if kind == "constraint" and gold["constraint"] is not None:
        return _broken_constraint(gold, rng)
    return _wrong_fact(gold, rng)
