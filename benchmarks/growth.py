"""How our stages grow: SFT and reward model from 128 to 2,048 tokens, PPO from 16 to 256 episodes.

    python benchmarks/growth.py [--rounds 3]

A stage grows linearly when its seconds per token (per episode for PPO) stay the same. Attention's own work grows with
the square: its share is stated by counting multiplications (4 d for a pair of tokens against 24 d^2 for the matrices
of a token, and the scores of a whole row, since a masked pair is computed too), and taken out of the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import Case, default_text, make_reward_model, ours, prepare, run, tiny_model

Row = dict[str, Any]
WIDTH = 256
"""Of the tiny model."""

TOKENS = (128, 256, 512, 1024, 2048)
EPISODES = (16, 32, 64, 128, 256)


def attention_factor(num_tokens: int, first: int, width: int = WIDTH) -> float:
    """Work per token of a row of ``num_tokens``, relative to one of ``first`` tokens, attention included."""
    return (6 * width + num_tokens) / (6 * width + first)


def cases(stage: str) -> list[tuple[int, Case]]:
    """What grows, and the case: the tokens of a batch stay 8,192, so that only their rows become longer."""
    if stage == "ppo":
        plain = Case("ppo", "tiny-llama", "float32", "uniform", steps=2, prompt=64, response=32)
        return [(n, replace(plain, batch=n, micro=min(n, 32))) for n in EPISODES]
    if stage == "sft":
        plain = Case("sft", "tiny-llama", "float32", "uniform", steps=3)
        return [(n, replace(plain, prompt=n // 2, response=n // 2, batch=8192 // n, micro=8192 // n)) for n in TOKENS]
    plain = Case("rm", "tiny-llama", "float32", "uniform", steps=3, num_completions=4)
    return [(n, replace(plain, prompt=n // 2, response=n // 8, batch=8192 // n, micro=8192 // n)) for n in TOKENS]


def measure(stage: str, model: Path, work: Path, rounds: int) -> Row:
    """Seconds per unit at every size, relative to the smallest, attention's own growth taken out."""
    sizes = cases(stage)
    found: dict[int, list[float]] = {size: [] for size, _ in sizes}
    for turn in range(rounds):
        for size, case in sizes:
            place = work / "growth" / stage / str(size)
            if turn == 0:
                prepare(case, model, [], place)
                if stage == "ppo":
                    make_reward_model(model, place / "reward_model")
            result = run(ours(case, model, place, (place / f"{turn}.json").resolve()), place / f"{turn}.json", {})
            if result is None:
                raise SystemExit(f"growth: {stage} with {size} failed")
            seconds = statistics.median(result["step_seconds"][case.warmup :])
            found[size].append(seconds / (case.batch if stage == "ppo" else case.batch * size))
            print(f"{stage} {size:5d}: {found[size][-1] * 1e3:.4f} ms for each", flush=True)
    first = sizes[0][0]
    medians = {size: statistics.median(values) for size, values in found.items()}
    factor = {size: 1.0 if stage == "ppo" else attention_factor(size, first) for size in medians}
    relative = {size: medians[size] / medians[first] for size in medians}
    return {
        "stage": stage, "unit": "episodes of an iteration" if stage == "ppo" else "tokens of a sequence",
        "milliseconds_each": {size: round(1e3 * value, 4) for size, value in medians.items()},
        "relative": {size: round(value, 3) for size, value in relative.items()},
        "attention_factor": {size: round(value, 3) for size, value in factor.items()},
        "relative_without_attention": {size: round(relative[size] / factor[size], 3) for size in medians},
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="growth", description="Seconds per token and per episode as runs grow.")
    parser.add_argument("--stages", nargs="*", default=["sft", "rm", "ppo"], choices=["sft", "rm", "ppo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth.json"))
    args = parser.parse_args(argv)
    import torch

    model = args.work / "growth" / "tiny-llama"
    if not (model / "config.json").exists():
        text = args.work / "growth" / "text.jsonl"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(json.dumps({"text": t}) + "\n" for t in default_text()), encoding="utf-8")
        tiny_model("llama", text, model)
    rows = [measure(stage, model, args.work, args.rounds) for stage in args.stages]
    report = {
        "command": "python benchmarks/growth.py",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "rounds": args.rounds,
        "rows": rows,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row["stage"], row["relative_without_attention"])


if __name__ == "__main__":
    main()
