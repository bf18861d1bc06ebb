"""How many real rankings a reward model takes: ``python benchmarks/rm_learning_curve.py --data DIR``.

    python benchmarks/rm_learning_curve.py --data ../shared/data [--trained runs/real_data] [--sizes 200 400 800 1600]

One reward model for each number of rankings, trained to its end from the SFT model of benchmarks/real_data.py: each takes the
first of all training rankings of hh_helpful, oasst1 and qa_feedback in one random order: a smaller set is part of a larger one.
All are measured on all validation rankings, beside them the longer reply and a bag of words that learned from those of the same
rankings that are of its source. What is trained and measured in ``--work`` already is not done again.

A GPU has room for several sizes at a time: each a command of its own, with ``--sizes N --out FILE``; then they become one curve:

    python benchmarks/rm_learning_curve.py --join FILE FILE ...
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.real.selection import ALL, Row, find, pairs, read, select_comparisons, write
from benchmarks.real.stages import MAX_PROMPT_TOKENS, READING, Stages
from benchmarks.real_data import Figures, hardware, show, versions

BASELINES = ("length_baseline", "bag_of_words_baseline")

SAME = ("options", "seed", "versions", "hardware", "precision", "num_available")
"""Of results that become one curve."""

FAR = 10**6
"""Rankings beyond which a line through a few points is not followed."""


def pool(data: Path, sft: Path, seed: int) -> tuple[list[Row], list[Row]]:
    """All usable training rankings in random order, without those whose prompt is over the limit; all of split valid."""
    from lit_instructgpt.formatting import PromptFormat, read_format
    from lit_instructgpt.models import load_tokenizer

    tokenizer = load_tokenizer(str(sft))
    form = read_format(str(sft)) or PromptFormat(chat_template=True)
    splits: dict[str, list[Row]] = {"train": [], "valid": []}
    for source, path in find(data, "comparisons"):
        found, _ = select_comparisons(read(path), source, (ALL, ALL))
        for split, rows in found.items():
            splits[split] += rows
    train = [row for row in splits["train"] if len(form.prompt_ids(row["prompt"], tokenizer)) <= MAX_PROMPT_TOKENS]
    random.Random(seed).shuffle(train)
    return train, splits["valid"]


def train_one(stages: Stages, trained: Path, rows: Sequence[Row], valid: Sequence[Row]) -> Path:
    """A reward model on these rankings; its directory."""
    write(stages.data("comparisons.train"), rows)
    write(stages.data("comparisons.valid"), valid)
    stages.fit("rm", {
        "--model.init_args.model": trained / "sft/export",
        "--data.init_args.train": stages.data("comparisons.train"),
        "--data.init_args.valid": stages.data("comparisons.valid"),
        "--data.init_args.demonstrations": trained / "data/demonstrations.valid.jsonl",
    }, *READING, "--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0")  # fmt: skip
    return stages.export("rm")


def best_gain(row: Row) -> tuple[float, float]:
    """How much more accurate the reward model is than the better of its baselines, and half of that difference's interval."""
    name = max(BASELINES, key=lambda baseline: row[baseline]["accuracy"])
    low, high = row[name]["ci95_of_difference"]
    return row[name]["rm_minus_this"], (high - low) / 2


def line(sizes: Sequence[int], gains: Sequence[float]) -> tuple[float, float]:
    """Slope and start of the line through gains over log2(rankings), by least squares; at least two different sizes."""
    slope, start = np.polyfit(np.log2(sizes), gains, 1)
    return float(slope), float(start)


def size_by_line(sizes: Sequence[int], gains: Sequence[float], half: float) -> int | None:
    """Where that line comes to an interval above 0, to two digits.

    None if it does not rise, or comes there behind `FAR` or within what was measured: then it says nothing.

    Args:
        sizes: numbers of rankings.
        gains: of the reward model over the better baseline.
        half: half of the gain's interval, which validation rankings decide, not training rankings.
    """
    slope, start = line(sizes, gains)
    if slope <= 0:
        return None
    power = (half - start) / slope
    if not math.log2(max(sizes)) < power <= math.log2(FAR):
        return None
    return round(float(f"{2.0**power:.1e}"))


def join(reports: Sequence[Row]) -> tuple[list[Row], Row]:
    """The curve of results of other sizes each, and what they have in common.

    Raises:
        ValueError: they differ in what one curve has in common, or have a size twice.
    """
    differ = [key for key in SAME if any(report[key] != reports[0][key] for report in reports)]
    curve = sorted((row for report in reports for row in report["curve"]), key=lambda row: row["num_rankings"])
    sizes = [row["num_rankings"] for row in curve]
    twice = sorted({size for size in sizes if sizes.count(size) > 1})
    if differ or twice:
        raise ValueError(f"not of one curve: they differ in {differ}, and have twice the sizes {twice}")
    load = {"load_average": max(report["load_average"] for report in reports), "at_a_time": len(reports)}
    return curve, {key: reports[0][key] for key in SAME} | load


def main(argv: list[str] | None = None) -> None:
    """Train and measure size by size, or join what is measured, and write."""
    parser = argparse.ArgumentParser(prog="rm_learning_curve", description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, help="folder with comparisons/: see docs/data.md")
    parser.add_argument("--join", type=Path, nargs="+", help="results of other sizes each; nothing is trained")
    parser.add_argument("--trained", type=Path, default=Path("runs/real_data"), help="made by benchmarks/real_data.py")
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 400, 800, 1600], help="numbers of rankings")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the rankings, and of training")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of training and figures")
    parser.add_argument(
        "--precision", default="bf16-mixed", help="trainer.precision; 32-true where the CPU has no bf16"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/rm_learning_curve"), help="data and runs")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rm_learning_curve.json"), help="JSON")
    args = parser.parse_args(argv)
    if (args.join is None) == (args.data is None):
        parser.error("give --data, or --join")
    if args.join is None:
        options = "".join(
            f" --{name} {value}" for name in ("seed", "device", "precision")
            if (value := getattr(args, name)) != parser.get_default(name)
        )  # fmt: skip
        curve, common = measure(args, options)
    else:
        try:
            curve, common = join([json.loads(file.read_text(encoding="utf-8")) for file in args.join])
        except ValueError as error:
            raise SystemExit(f"rm_learning_curve: --join: {error}") from None
    report = {**common, "command": command(curve, common["options"]), "curve": curve, "sources": verdicts(curve)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")


def command(curve: Sequence[Row], options: str) -> str:
    """What trains and measures a curve."""
    sizes = " ".join(str(row["num_rankings"]) for row in curve)
    return f"python benchmarks/rm_learning_curve.py --data DIR --sizes {sizes}{options}"


def measure(args: argparse.Namespace, options: str) -> tuple[list[Row], Row]:
    """The curve, trained and measured size by size, and what goes beside it."""
    needed = (args.trained / "sft/export/config.json", args.trained / "data/demonstrations.valid.jsonl")
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise SystemExit(f"rm_learning_curve: missing: {', '.join(missing)}; benchmarks/real_data.py makes them")
    train, valid = pool(args.data, args.trained / "sft/export", args.seed)
    if max(args.sizes) > len(train):
        raise SystemExit(
            f"rm_learning_curve: --sizes {max(args.sizes)}: there are {len(train)} training rankings; give less"
        )
    curve: list[Row] = []
    sizes = sorted(set(args.sizes))
    for size in sizes:
        work = args.work / f"{size}-{args.seed}"
        rows = train[:size]
        stages = Stages(work, args.trained / "sft/export", args.seed, args.precision, args.device)
        export = train_one(stages, args.trained, rows, valid)
        figures = Figures(work, args.precision, args.device)
        found = figures.reward_model(export, baselines=True)
        print(f"\n{size} rankings", flush=True)
        show(found)
        curve.append({
            "num_rankings": size,
            "by_source": dict(sorted(Counter(row["source"] for row in rows).items())),
            "num_pairs": sum(len(pairs(row)) for row in rows),
            "sources": found,
            "seconds": {"fit": stages.commands.seconds["rm"], "figures": sum(figures.seconds.values())},
        })  # fmt: skip
    return curve, {
        "options": options,
        "seed": args.seed,
        "versions": versions(),
        "hardware": hardware(args.device),
        "load_average": round(os.getloadavg()[1], 1),
        "precision": args.precision,
        "num_available": len(train),
        "at_a_time": 1,
    }


def verdicts(curve: Sequence[Row]) -> dict[str, Row]:
    """Of each source: from which size on every one is above both baselines, and where a line through the gains would be."""
    found: dict[str, Row] = {}
    for source in curve[0]["sources"]:
        rows = [row["sources"][source] for row in curve]
        above = [row["rm_above_both"] for row in rows]
        first = next((i for i in range(len(rows)) if all(above[i:])), None)
        gains = [best_gain(row) for row in rows]
        sizes = [row["num_rankings"] for row in curve]
        values, half = [gain for gain, _ in gains], gains[-1][1]
        found[source] = {
            "above_both_from": None if first is None else sizes[first],
            "gain_over_better_baseline": [round(value, 4) for value in values],
            "half_of_interval": round(half, 4),
            "gain_rises": line(sizes, values)[0] > 0 if len(sizes) > 1 else None,
            "size_by_line": size_by_line(sizes, values, half) if len(sizes) > 1 and first is None else None,
        }
    return found


if __name__ == "__main__":
    main()
