"""Runs that are killed, cut, filled, flipped and raced, and what became of them.

    python benchmarks/faults.py [--only R1 R2] [--scale 1.0] [--out benchmarks/results/faults.json]

Every trial is a miniature run of the public command (all three stages, with dropout, moving average, adaptive KL and
pretraining text), with a seed; an uninterrupted run of each stage is what the others are compared with, byte by byte:
weights, optimizer, moving average, KL coefficient, random numbers, metric log, samples and export.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.fault_runs import ROOT, STAGES, Server, end_of, finish, finish_pair, make_configs, restarts
from benchmarks.fault_scenarios import SCENARIOS, Bench, Outcome, hostile, trials_of

EIGHT_BIT = {"class_path": "bitsandbytes.optim.AdamW8bit", "init_args": {"lr": 0.003, "eps": 1.0e-5}}


def prepare(server: Server, folder: Path) -> Bench:
    """Trains all stages once, without a fault; the models of the later stages come from it."""
    shutil.rmtree(folder, ignore_errors=True)
    configs = make_configs(folder)
    expected, seconds = {}, {}
    for stage in STAGES:
        finish(server, configs[stage], folder / stage)
        begun = time.monotonic()
        finish(server, configs[stage], folder / f"whole-{stage}")
        seconds[stage] = time.monotonic() - begun
        expected[stage] = end_of(folder / f"whole-{stage}")
    wide = make_configs(folder / "wide", EIGHT_BIT, hidden_size=96)
    for stage in STAGES:
        finish(server, wide[stage], folder / "wide" / stage)
    configs |= {"ppo on two": configs["ppo"], "ppo in 8 bits": wide["ppo"]}
    begun = time.monotonic()
    finish_pair(server, configs["ppo"], folder / "two-ppo")
    expected["ppo on two"], seconds["ppo on two"] = end_of(folder / "two-ppo"), time.monotonic() - begun
    expected["ppo in 8 bits"], seconds["ppo in 8 bits"] = end_of(folder / "wide" / "ppo"), 1.5 * seconds["ppo"]
    return Bench(server, folder, configs, expected, seconds)


def run(only: Sequence[str], scale: float, folder: Path, servers: int = 2) -> dict[str, dict[str, Any]]:
    """All trials of some scenarios: what faults.json holds of them."""
    found = {}
    pool = [Server() for _ in range(servers)]
    try:
        bench = prepare(pool[0], folder)
        benches = [Bench(server, folder, bench.configs, bench.expected, bench.seconds) for server in pool]
        for scenario in only:
            begun, before = time.monotonic(), len(restarts)
            outcome = Outcome()
            if scenario == "R12":
                outcome = hostile(ROOT)
            else:
                trials = trials_of(scenario, scale)
                num = 1 if scenario in ("R5", "R9", "R14") else servers  # warnings of this process; two processes each
                with ThreadPoolExecutor(num) as threads:
                    jobs = [
                        threads.submit(lambda b, part: [trial(b) for trial in part], benches[i], trials[i::num])
                        for i in range(num)
                    ]
                    for one in (one for job in jobs for one in job.result()):
                        outcome.merge(one)
            found[scenario] = {
                "trials": outcome.trials, "failures": outcome.failures, "differing_bytes": outcome.differing_bytes,
                "landed": dict(sorted(outcome.landed.items())), "problems": outcome.problems[:5],
                "restarted_pairs": len(restarts) - before,
                "seeds": "0 and up, named in each trial", "seconds": round(time.monotonic() - begun, 1),
            }  # fmt: skip
            print(scenario, json.dumps(found[scenario]), flush=True)
    finally:
        for server in pool:
            server.close()
    return found


def main(argv: list[str] | None = None) -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(prog="faults", description="Runs that are killed, cut, filled, flipped and raced.")
    parser.add_argument("--only", nargs="*", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of trials")
    parser.add_argument("--work", type=Path, default=Path("runs/faults"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faults.json"))
    args = parser.parse_args(argv)
    found = run(args.only, args.scale, args.work.resolve())
    report = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"scenarios": {}}
    report |= {
        "command": "python benchmarks/faults.py", "scale": args.scale,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}; one thread a run, two runs at a time",
        "scenarios": {**report["scenarios"], **found},
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if any(scenario["failures"] for scenario in found.values()):
        raise SystemExit("faults: there were failures; see problems")


if __name__ == "__main__":
    main()
