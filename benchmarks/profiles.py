"""Where the time of a step goes in each stage of SmolLM2-135M: `lit-instructgpt fit --profile true`, collected.

python benchmarks/profiles.py [--only ppo/smollm2-135m/float32 ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import CASES, Case, make_reward_model, ours, prepare, run

MATHS = ("matrix products", "attention", "other tensor work")
"""Kinds of work that are the model's own."""

STEPS = 4
"""Of a profiled run: the third and the fourth are looked at."""


def profiled(case: Case, model: Path, work: Path) -> dict[str, Any]:
    """Shares of the kinds of work in two steps of a case."""
    case = replace(case, warmup=0, steps=STEPS)
    place = work / "profiles" / case.name
    prepare(case, model, [], place)
    if case.stage == "ppo":
        make_reward_model(model, place / "reward_model")
    out = (place / "steps.json").resolve()
    out.unlink(missing_ok=True)
    shutil.rmtree(out.with_suffix(""), ignore_errors=True)
    if run([*ours(case, model, place, out), "--profile", "true"], out, {}) is None:
        raise SystemExit(f"profiles: {case.name} failed")
    found = json.loads((out.with_suffix("") / "profile/shares.json").read_text(encoding="utf-8"))
    shares = {kind: row["share"] for kind, row in found["kinds"].items()}
    largest = max((share, kind) for kind, share in shares.items() if kind not in MATHS)
    print(f"{case.name:40s} beside the maths, the largest: {largest[1]} {largest[0]:.1%}", flush=True)
    return {"case": case.name, "seconds": found["seconds"], "steps": found["steps"], "shares": shares}


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="profiles", description="Shares of a step's time in each stage.")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--only", nargs="*", help="names of cases of throughput.py, or beginnings of names")
    parser.add_argument("--work", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/profiles.json"))
    args = parser.parse_args(argv)
    import torch

    cases = [c for c in CASES if c.model == "smollm2-135m" and c.dtype != "bf16" and c.shape == "natural"]
    if args.only:
        cases = [c for c in cases if any(c.name.startswith(start) for start in args.only)]
    report = {
        "command": "python benchmarks/profiles.py", "natural_lengths": "log-normal",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "rows": [profiled(case, args.model, args.work) for case in cases],
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
