"""Writes the miniature's raw data: `python -m miniature.generate --out DIR --seed N`."""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from miniature.customers import customers, prompts
from miniature.labelers import TRAINING, demonstrate
from miniature.webtext import documents
from miniature.world import Task, sample_task

WEB_WORDS = 520_000
VALID_WORDS = 20_000
NUM_CUSTOMERS = 420
NUM_PROMPTS = 9_800
DEMONSTRATIONS_PER_LABELER = 195
DEALT = (21, 33, 46)
"""Parts of the submitted prompts that go to demonstrations, to rankings and to PPO."""


def write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSON lines and return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
    return count


def _demonstration(number: int, task: Task, user: str, source: str, rng: random.Random) -> dict[str, Any]:
    """Have a labeler answer a prompt."""
    labeler = rng.choice(TRAINING)
    if source == "labeler":
        labeler = next(one for one in TRAINING if one.id == user)
    return {
        "id": f"demonstration-{number:05d}",
        "prompt": task.prompt,
        "response": demonstrate(labeler, task.gold, rng),
        "user": user,
        "labeler": labeler.id,
        "use_case": task.gold["use_case"],
        "source": source,
    }


def demonstrations(rng: random.Random, submitted: list[tuple[str, Task]]) -> list[dict[str, Any]]:
    """Write demonstrations for the labelers' own prompts and for those customers submitted."""
    asked = [(one.id, sample_task(rng), "labeler") for one in TRAINING for _ in range(DEMONSTRATIONS_PER_LABELER)]
    asked += [(user, task, "customer") for user, task in submitted]
    return [_demonstration(i, task, user, source, rng) for i, (user, task, source) in enumerate(asked)]


def split_submissions(rng: random.Random, rankings: float = 1.0) -> tuple[list[tuple[str, Task]], ...]:
    """Draw what the customers submit, and deal it to demonstrations, reward model and PPO.

    With `rankings` there are that many times more prompts for the reward model, and about as many as ever for the others.
    """
    dealt: tuple[list[tuple[str, Task]], ...] = ([], [], [])
    weights = (DEALT[0], DEALT[1] * rankings, DEALT[2])
    for customer in customers(rng, NUM_CUSTOMERS, round(NUM_PROMPTS * sum(weights) / sum(DEALT))):
        for task in prompts(customer, rng):
            dealt[rng.choices((0, 1, 2), weights=weights)[0]].append((customer.id, task))
    return dealt


def _prompts(kind: str, submitted: list[tuple[str, Task]]) -> list[dict[str, Any]]:
    """Turn submissions into prompt records."""
    return [
        {
            "id": f"{kind}-{i:05d}",
            "prompt": t.prompt,
            "user": user,
            "use_case": t.gold["use_case"],
            "gold": t.gold,
        }
        for i, (user, t) in enumerate(submitted)
    ]


def generate(
    out: Path,
    seed: int,
    web_words: int = WEB_WORDS,
    valid_words: int = VALID_WORDS,
    rankings: float = 1.0,
    worked_pages: float = 0.0,
    unanswered_pages: float = 0.0,
) -> dict[str, int]:
    """Write all raw files under `out/raw` and return their numbers of rows."""
    raw = out / "raw"
    rngs = {name: random.Random(f"{seed}/{name}") for name in ("train", "valid", "customers", "demonstrations")}
    for_demonstrations, for_rm, for_ppo = split_submissions(rngs["customers"], rankings)

    def texts(split: str, num_words: int) -> Iterator[dict[str, str]]:
        return ({"text": text} for text in documents(rngs[split], num_words, worked_pages, unanswered_pages))

    return {
        "text.train": write(raw / "text.train.jsonl", texts("train", web_words)),
        "text.valid": write(raw / "text.valid.jsonl", texts("valid", valid_words)),
        "demonstrations": write(
            raw / "demonstrations.jsonl", demonstrations(rngs["demonstrations"], for_demonstrations)
        ),
        "prompts_rm": write(raw / "prompts_rm.jsonl", _prompts("rm", for_rm)),
        "prompts_ppo": write(raw / "prompts_ppo.jsonl", _prompts("ppo", for_ppo)),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="miniature.generate", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write raw/ into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--web-words", type=int, default=WEB_WORDS, help="words and marks of pretraining text")
    parser.add_argument("--rankings", type=float, default=1.0, help="times as many prompts for the reward model")
    for name, what in (("worked", "show tasks done well"), ("unanswered", "are requests without answers")):
        parser.add_argument(
            f"--{name}-pages", type=float, default=0.0, help=f"share of the pretraining text's pages that {what}"
        )
    args = parser.parse_args(argv)
    counts = generate(
        args.out, args.seed, args.web_words, rankings=args.rankings, worked_pages=args.worked_pages,
        unanswered_pages=args.unanswered_pages,
    )  # fmt: skip
    for name, count in counts.items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
