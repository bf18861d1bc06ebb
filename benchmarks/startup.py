"""How long one waits: for ``lit-instructgpt --help``, and for the first training step of a tiny model.

    python benchmarks/startup.py [--rounds 5]

The step is that of SFT with the tiny Llama of throughput.py (4 layers, 256 wide, vocabulary 8,192), until its end, from the
start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.throughput import CASES, default_text, ours, prepare, run, tiny_model


class FirstStep(Callback):
    """Writes the time at which the first training step ended."""

    def __init__(self, out: str) -> None:
        self.out = Path(out)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The first step has ended."""
        if not self.out.exists():
            self.out.write_text(json.dumps({"ended": time.time()}), encoding="utf-8")


def seconds_of_help() -> float:
    """Of ``lit-instructgpt --help``."""
    start = time.time()
    subprocess.run([sys.executable, "-m", "lit_instructgpt", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.time() - start


def seconds_to_first_step(model: Path, work: Path) -> float:
    """From the start of ``lit-instructgpt fit`` to the end of its first step."""
    case = replace(CASES[0], steps=1, warmup=0)
    prepare(case, model, [], work)
    out = (work / "first.json").resolve()
    out.unlink(missing_ok=True)
    shutil.rmtree(out.with_suffix(""), ignore_errors=True)
    command = ours(case, model, work, out)
    config = work / "config.yaml"
    text = config.read_text(encoding="utf-8").replace("benchmarks.step_times.StepTimes", "benchmarks.startup.FirstStep")
    config.write_text(text, encoding="utf-8")
    start = time.time()
    found = run(command, out, {})
    if found is None:
        raise SystemExit("startup: the run failed; the end of its output is above")
    return float(found["ended"]) - start


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="startup", description="Seconds until something happens.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/startup.json"))
    args = parser.parse_args(argv)
    import torch

    work = args.work / "startup"
    model = work / "tiny-llama"
    if not (model / "config.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        text = work / "text.jsonl"
        text.write_text("".join(json.dumps({"text": t}) + "\n" for t in default_text()), encoding="utf-8")
        tiny_model("llama", text, model)
    found = {
        "help": [seconds_of_help() for _ in range(args.rounds)],
        "first_step": [seconds_to_first_step(model, work / "run") for _ in range(args.rounds)],
    }
    report = {
        "command": "python benchmarks/startup.py", "rounds": args.rounds,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "seconds": {name: round(statistics.median(values), 2) for name, values in found.items()},
        "slowest": {name: round(max(values), 2) for name, values in found.items()},
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["seconds"]))


if __name__ == "__main__":
    main()
