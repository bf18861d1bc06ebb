"""The paper's findings on the miniature, with error bars: ``python benchmarks/paper_in_miniature.py``.

Trains and measures everything once per seed (benchmarks/paper/stages.py), some commands at a time on one thread each, and
writes what it says about each claim (benchmarks/paper/claims.py). It can be stopped and started again: what is done stays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[:0] = [str(ROOT), str(ROOT / "data")]

from benchmarks.paper.claims import evaluate_claims  # noqa: E402
from benchmarks.paper.jobs import Ledger, run  # noqa: E402
from benchmarks.paper.results import claims_table, shown  # noqa: E402
from benchmarks.paper.stages import Seed  # noqa: E402
from lit_instructgpt.hashes import hash_of  # noqa: E402

SEEDS = (27, 28, 29, 30, 31, 32)
"""Settings and rules were tried on seeds 0 to 26."""

OUT = ROOT / "benchmarks/results/paper_in_miniature.json"

SOURCES = ("benchmarks/paper/[smp]*.py", "data/miniature/*.py", "configs/miniature/*.yaml", "lit_instructgpt/**/*.py")
"""What says what is trained and measured: stages, measures and prompts, the world, the configs, the package."""


def main(argv: list[str] | None = None) -> None:
    """Run what is left to do, and write the claims."""
    parser = argparse.ArgumentParser(prog="paper_in_miniature", description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(SEEDS), help="each a world, a start and an order of its own"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="where everything is trained")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="commands at a time")
    parser.add_argument("--only", nargs="+", help="jobs to do, and what they need, for instance 0/ppo_ptx")
    parser.add_argument(
        "--judge",
        action="store_true",
        help="train nothing: judge the measures of the results anew, by the rules of now",
    )
    parser.add_argument("--out", type=Path, help=f"default: {OUT.relative_to(ROOT)}, for seeds {SEEDS} alone")
    args = parser.parse_args(argv)
    if args.judge:
        judge_again(args.out or OUT)
        return
    if args.out is None and tuple(args.seeds) != SEEDS and not args.only:
        parser.error(f"--seeds: {OUT.relative_to(ROOT)} is for the seeds {SEEDS}; give --out FILE for others")
    os.chdir(ROOT)
    begin = time.perf_counter()
    jobs = [job for seed in args.seeds for job in Seed(args.work, seed, threads=1).jobs()]
    if args.only:
        wanted, needs = set(args.only), {job.name: job.needs for job in jobs}
        while more := {need for name in wanted for need in needs[name]} - wanted:
            wanted |= more
        jobs = [job for job in jobs if job.name in wanted]
    ledger = Ledger(args.work / "done")
    check_sources(ledger)
    jobs = [replace(job, work=partial(unmixed, job.work, ledger)) for job in jobs]
    spent = ledger.directory / "minutes.txt"
    earlier = float(spent.read_text(encoding="ascii")) if spent.is_file() else 0.0

    def minutes() -> float:
        """Of all invocations in this directory; noted behind each job, so that one that is killed loses a job's at most."""
        found = earlier + (time.perf_counter() - begin) / 60
        ledger.directory.mkdir(parents=True, exist_ok=True)
        spent.write_text(f"{found:.2f}\n", encoding="ascii")
        return found

    failed = run(jobs, ledger, args.lanes, behind_each=minutes)
    if failed:
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in failed.items()))
    if args.only:
        return
    measures = [
        json.loads((args.work / f"seed-{seed}/measures.json").read_text(encoding="utf-8")) for seed in args.seeds
    ]
    report = {
        "command": " ".join(["python benchmarks/paper_in_miniature.py", *(sys.argv[1:] if argv is None else argv)]),
        "seeds": args.seeds,
        "minutes": round(minutes(), 1),
        "commit": commit(),
        "sources_sha256": hash_of(str(ledger.directory / "sources.txt")),
        "versions": versions(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "claims": evaluate_claims(measures),
        "seconds": {name: seconds for name, seconds in ledger.seconds().items() if int(name.split("/")[0]) in args.seeds},
        "measures": measures,
    }  # fmt: skip
    write(report, args.out or OUT)


def judge_again(file: Path) -> None:
    """The claims of a results file by the rules of now, from the measures that it holds."""
    report = json.loads(file.read_text(encoding="utf-8"))
    write({**report, "claims": evaluate_claims(report["measures"])}, file)


def write(report: dict[str, Any], out: Path) -> None:
    """Writes and shows the claims."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(claims_table(report))
    for row in report["claims"]:
        print(f"\n{row['id']}. {row['claim']}: {'holds' if row['holds'] else 'DOES NOT HOLD'}")
        for name, value in row["figures"].items():
            print(f"   {name}: {shown(value)}")


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}


def commit() -> str | None:
    """Of the sources, where git knows it and they are as it has them."""
    places = [f":(glob){pattern}" for pattern in SOURCES]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *places], capture_output=True).returncode
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() if changed == 0 and found.returncode == 0 else None


def unmixed(work: Callable[[], None], ledger: Ledger) -> None:
    """A job, which is done only if the sources are the same before and after it: its commands read them again and again."""
    check_sources(ledger)
    work()
    check_sources(ledger)


def check_sources(ledger: Ledger) -> None:
    """Stop if what is done was done with other sources."""
    try:
        ledger.check_sources([path for pattern in SOURCES for path in Path().glob(pattern)], versions())
    except ValueError as error:
        raise SystemExit(f"paper_in_miniature: {error}") from None


if __name__ == "__main__":
    main()
