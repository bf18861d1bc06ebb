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
import hashlib
import json
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import linregress, t

from benchmarks.real.commands import options
from benchmarks.real.selection import ALL, Row, find, pairs, read, select_comparisons, write
from benchmarks.real.stages import MAX_PROMPT_TOKENS, READING, Stages
from benchmarks.real_data import Figures, hardware, show, versions

BASELINES = ("length_baseline", "bag_of_words_baseline")

SAME = ("options", "seed", "start", "records", "versions", "hardware", "precision", "num_available")
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


class Line(NamedTuple):
    """The line through gains over log2(rankings), by least squares, and the 95 % interval of its slope by Student's t."""

    slope: float
    start: float
    low: float
    high: float


def line(sizes: Sequence[int], gains: Sequence[float]) -> Line:
    """Of at least two different sizes; of two, the slope may be anything."""
    found = linregress(np.log2(sizes), gains)
    half = float(t.ppf(0.975, len(sizes) - 2) * found.stderr) if len(sizes) > 2 else math.inf
    slope = float(found.slope)
    return Line(slope, float(found.intercept), slope - half, slope + half)


def size_by_line(sizes: Sequence[int], gains: Sequence[float], half: float) -> int | None:
    """Where that line comes to an interval above 0, to two digits.

    None if it does not surely rise, or comes there behind `FAR` or within what was measured: then it says nothing.

    Args:
        sizes: numbers of rankings.
        gains: of the reward model over the better baseline.
        half: half of the gain's interval, which validation rankings decide, not training rankings.
    """
    found = line(sizes, gains)
    if found.low <= 0:
        return None
    power = (half - found.start) / found.slope
    if not math.log2(max(sizes)) < power <= math.log2(FAR):
        return None
    return round(float(f"{2.0**power:.1e}"))


def join(reports: Sequence[Row]) -> tuple[list[Row], Row]:
    """The curve of results of other sizes each, and what they have in common.

    Raises:
        ValueError: they differ in what one curve has in common, or have a size twice.
    """
    missing = sorted({key for report in reports for key in (*SAME, "curve", "commands") if key not in report})
    if missing:
        raise ValueError(f"not results of this command as it is now: there is no {', '.join(missing)} in some")
    differ = [key for key in SAME if any(report[key] != reports[0][key] for report in reports)]
    curve = sorted((row for report in reports for row in report["curve"]), key=lambda row: row["num_rankings"])
    sizes = [row["num_rankings"] for row in curve]
    twice = sorted({size for size in sizes if sizes.count(size) > 1})
    if differ or twice:
        raise ValueError(f"not of one curve: they differ in {differ}, and have twice the sizes {twice}")
    load = max(report["load_average"] for report in reports)
    joined = {"load_average": load, "commands": sum(report["commands"] for report in reports)}
    return curve, {key: reports[0][key] for key in SAME} | joined


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
    ignored = [f"--{name}" for name, value in vars(args).items()
               if args.join and name not in ("join", "out") and value != parser.get_default(name)]  # fmt: skip
    if ignored:
        parser.error(f"{', '.join(ignored)} beside --join: it trains nothing, the files say it")
    if args.join is None:
        curve, common = measure(args, options(parser, args, ("data", "join", "sizes", "work", "out")))
    else:
        try:
            curve, common = join([json.loads(file.read_text(encoding="utf-8")) for file in args.join])
        except ValueError as error:
            raise SystemExit(f"rm_learning_curve: --join: {error}") from None
    report = {**common, "command": command(curve, common["options"]), "curve": curve, "sources": verdicts(curve)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")


def command(curve: Sequence[Row], given: str) -> str:
    """What trains and measures a curve."""
    sizes = " ".join(str(row["num_rankings"]) for row in curve)
    return f"python benchmarks/rm_learning_curve.py --data DIR --sizes {sizes}{given}"


def measure(args: argparse.Namespace, given: str) -> tuple[list[Row], Row]:
    """The curve, trained and measured size by size, and what goes beside it."""
    from lit_instructgpt.hashes import hash_of

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
        "options": given,
        "seed": args.seed,
        "start": hash_of(args.trained / "sft/export", ("*.safetensors",)),
        "records": hashlib.sha256(json.dumps([train, valid]).encode()).hexdigest(),
        "versions": versions(),
        "hardware": hardware(args.device),
        "load_average": round(os.getloadavg()[1], 1),
        "precision": args.precision,
        "num_available": len(train),
        "commands": 1,
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
            "slope": None
            if len(sizes) < 3
            else [round(value, 4) for value in (line(sizes, values)[i] for i in (0, 2, 3))],
            "size_by_line": size_by_line(sizes, values, half) if len(sizes) > 1 and first is None else None,
        }
    return found


if __name__ == "__main__":
    main()
