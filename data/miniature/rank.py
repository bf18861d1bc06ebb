"""Has labelers rank sampled outputs: `python -m miniature.rank --samples FILE --out FILE ...`."""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from miniature.generate import write
from miniature.labelers import HELD_OUT, TRAINING, Labeler, rank

MIN_OUTPUTS, MAX_OUTPUTS = 4, 9
AGREEMENT_SHARE = 0.5

Row = dict[str, Any]


@dataclass
class Agreement:
    """Counts how often two labelers agree on pairs that neither ranked equal."""

    agreed: int = 0
    pairs: int = 0
    tied: int = 0
    prompts: int = field(default=0)

    def add(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Compare two rankings of the same outputs."""
        self.prompts += 1
        for i, j in combinations(range(len(first)), 2):
            a, b = first[i] - first[j], second[i] - second[j]
            if a == 0 or b == 0:
                self.tied += 1
                continue
            self.pairs += 1
            self.agreed += (a < 0) == (b < 0)

    @property
    def rate(self) -> float | None:
        """The share of untied pairs on which the two agree."""
        return self.agreed / self.pairs if self.pairs else None


def said(responses: Sequence[str]) -> list[str]:
    """Distinct outputs that say something. One with a NUL does not: a model may sample it, no record may hold it."""
    return list(dict.fromkeys(text for text in responses if text.strip() and "\0" not in text))


def choose(responses: Sequence[str], rng: random.Random) -> list[str]:
    """Keep the first K distinct outputs that say something, K drawn from 4 to 9."""
    return said(responses)[: rng.randint(MIN_OUTPUTS, MAX_OUTPUTS)]


def comparison(row: Row, responses: list[str], labeler: Labeler, rng: random.Random) -> Row:
    """Have a labeler rank the outputs of a prompt."""
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "responses": responses,
        "ranking": rank(labeler, row["gold"], responses, rng),
        "labeler": labeler.id,
        "user": row["user"],
        "source": row.get("use_case", row["gold"]["use_case"]),
    }


def compare(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """Rank prompts by training labelers and by held-out ones, and measure how far labelers agree.

    Held-out labelers rank the prompts whose `split` is not "train"; without that key, all of them.
    """
    training, held_out = Agreement(), Agreement()
    ranked: list[Row] = []
    ranked_held_out: list[Row] = []
    skipped = 0
    for row in rows:
        rng = random.Random(f"{seed}/{row['id']}")
        responses = choose(row["responses"], rng)
        if len(responses) < 2:
            skipped += 1
            continue
        first, second = rng.sample(TRAINING, 2)
        judge, other = rng.sample(HELD_OUT, 2)
        ranked.append(comparison(row, responses, first, rng))
        by_stranger = comparison(row, responses, judge, rng)
        if row.get("split", "valid") != "train":
            ranked_held_out.append(by_stranger)
        if rng.random() < AGREEMENT_SHARE:
            training.add(ranked[-1]["ranking"], rank(second, row["gold"], responses, rng))
            held_out.add(by_stranger["ranking"], rank(other, row["gold"], responses, rng))
    summary = {
        "training": training.rate,
        "held_out": held_out.rate,
        "num_pairs_training": training.pairs,
        "num_pairs_held_out": held_out.pairs,
        "num_tied_training": training.tied,
        "num_tied_held_out": held_out.tied,
        "num_prompts": training.prompts,
        "num_ranked": len(ranked),
        "num_skipped": skipped,
    }
    return ranked, ranked_held_out, summary


def _read(path: Path) -> list[Row]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="miniature.rank", description=__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="JSON lines with gold and responses")
    parser.add_argument("--out", type=Path, required=True, help="comparisons of training labelers")
    parser.add_argument("--held-out-out", type=Path, help="comparisons of held-out labelers")
    parser.add_argument("--agreement", type=Path, help="where to write the rates of agreement")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    ranked, ranked_held_out, summary = compare(_read(args.samples), args.seed)
    write(args.out, ranked)
    if args.held_out_out is not None:
        write(args.held_out_out, ranked_held_out)
    if args.agreement is not None:
        args.agreement.parent.mkdir(parents=True, exist_ok=True)
        args.agreement.write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps(summary, sort_keys=True))


if __name__ == "__main__":
    main()
