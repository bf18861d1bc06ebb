"""How long `make demo` takes now and took at an earlier commit, in turns on one machine.

    python benchmarks/demo_times.py --before 59ea87a [--rounds 1]

The earlier commit is checked out beside (``git worktree``) and runs with this environment's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds_of_demo(root: Path) -> float:
    """Of the demo in a checkout, seed 0."""
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'data'}"}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "miniature.demo", "--seed", "0"], cwd=root, env=environment, check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="demo_times", description="Seconds of make demo, before and now.")
    parser.add_argument("--before", required=True, help="a commit")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/demo_times"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo_times.json"))
    args = parser.parse_args(argv)
    import torch

    roots: dict[str, Path] = {}
    for name, commit in (("before", args.before), ("now", "HEAD")):
        roots[name] = (args.work / name).resolve()
        if not roots[name].exists():
            subprocess.run(["git", "worktree", "add", "--detach", str(roots[name]), commit], check=True)
    found: dict[str, list[float]] = {name: [] for name in roots}
    for _ in range(args.rounds):
        for name, root in roots.items():
            found[name].append(seconds_of_demo(root))
            print(f"{name}: {found[name][-1]:.0f} s", flush=True)

    def commit(root: Path) -> str:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    report = {
        "command": f"python benchmarks/demo_times.py --before {args.before}", "seed": 0, "rounds": args.rounds,
        "commits": {name: commit(root) for name, root in roots.items()},
        "seconds": {name: round(statistics.median(values), 1) for name, values in found.items()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for root in roots.values():
        subprocess.run(["git", "worktree", "remove", "--force", str(root)], check=True)


if __name__ == "__main__":
    main()
