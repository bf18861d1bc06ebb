"""The whole of InstructGPT on the miniature: `python -m miniature.demo [--seed N] [--out DIR]`.

generate -> prepare -> base -> SFT -> PPO's start -> K samples -> labelers rank -> reward model -> PPO-ptx
-> evaluate -> report.json and report.html. Every stage is the public command `lit-instructgpt`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from miniature.generate import write
from miniature.rank import compare

CONFIGS = Path("configs/miniature")
PLACE = "runs/miniature"
"""What the shipped configs say; replaced by the directory of this run."""

Row = dict[str, Any]


class Job(NamedTuple):
    """A running command."""

    stage: str
    process: subprocess.Popen[bytes]
    begin: float
    log: TextIO | None


class Demo:
    """One run: its directory, its seed and the seconds of its stages."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.seconds: dict[str, float] = {}

    def start(self, stage: str, args: list[str], module: str = "lit_instructgpt", beside: bool = False) -> Job:
        """Start a command as a process of its own; `beside` another it has one thread and writes to a log file."""
        line = [sys.executable, "-m", module, *args]
        print(
            f"\n== {stage}: {' '.join(['lit-instructgpt', *args] if module == 'lit_instructgpt' else line[1:])}",
            flush=True,
        )
        environment = {**os.environ, "PYTHONPATH": "data"}
        log = None
        if beside:
            environment["OMP_NUM_THREADS"] = "1"
            log = open(self.out / f"{stage}.log", "w", encoding="utf-8")  # noqa: SIM115
            print(f"   (its output: {log.name})", flush=True)
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=subprocess.STDOUT if log else None)
        return Job(stage, process, time.perf_counter(), log)

    def finish(self, job: Job) -> None:
        """Wait for a command and note its seconds.

        Raises:
            SystemExit: it failed; its own message is on the screen or in its log.
        """
        code = job.process.wait()
        self.seconds[job.stage] = round(time.perf_counter() - job.begin, 2)
        if job.log is not None:
            job.log.close()
        if code:
            where = f"; see {job.log.name}" if job.log is not None else ""
            raise SystemExit(f"{job.stage} ended with exit code {code}{where}")

    def command(self, stage: str, *args: str, module: str = "lit_instructgpt") -> None:
        """Run a command and wait for it."""
        self.finish(self.start(stage, list(args), module))

    def fit_args(self, stage: str, *configs: str) -> list[str]:
        """Arguments that train a stage from its configs into its own run directory."""
        files = [arg for name in configs for arg in ("--config", str(self.config(name)))]
        return ["fit", *files, "--run_dir", str(self.out / stage), "--seed_everything", str(self.seed)]

    def fit(self, stage: str, *configs: str) -> None:
        """Train a stage."""
        self.command(stage, *self.fit_args(stage, *configs))

    def config(self, name: str) -> Path:
        """The shipped config with this run's directory and seed in it, kept with the run."""
        text = (CONFIGS / f"{name}.yaml").read_text().replace(PLACE, str(self.out))
        path = self.out / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:  # another command of this run may be reading it
            scratch = path.with_suffix(f".{threading.get_ident()}")
            scratch.write_text(text)
            scratch.replace(path)
        return path

    def run(self) -> Row:
        """All stages, in order; returns the report."""
        begin = time.perf_counter()
        agreement = self.up_to_reward_model()
        self.fit("ppo", "ppo")
        self.command("evaluate", "evaluate", "--config", str(self.config("evaluate")), "--allow_import", "miniature")
        self.seconds["total"] = round(time.perf_counter() - begin, 2)
        return self.report(agreement)

    def up_to_reward_model(self) -> Row:
        """The stages before PPO; returns the labelers' agreement."""
        out = str(self.out)
        self.command("generate", "--out", f"{out}/collected", "--seed", str(self.seed), module="miniature.generate")
        inputs = [f"{out}/collected/raw/{name}.jsonl" for name in ("demonstrations", "prompts_rm", "prompts_ppo")]
        self.command("prepare", "prepare", "--config", str(self.config("prepare")), "--inputs", json.dumps(inputs),
                     "--seed", str(self.seed))  # fmt: skip
        for split in ("train", "valid"):
            os.replace(f"{out}/collected/raw/text.{split}.jsonl", f"{out}/data/text.{split}.jsonl")
        self.fit("base", "base")
        jobs = [
            self.start(stage, self.fit_args(stage, *configs), beside=True)
            for stage, configs in (("sft", ("sft",)), ("init", ("sft", "init")))
        ]
        for job in jobs:
            self.finish(job)
        self.command("predict", "predict", "--config", str(self.config("predict")), "--seed_everything", str(self.seed),
                     "--run_dir", f"{out}/predict")  # fmt: skip
        agreement = self.rank()
        self.fit("rm", "rm")
        return agreement

    def rank(self) -> Row:
        """The labelers rank the sampled outputs; returns their agreement."""
        start = time.perf_counter()
        valid = {row["id"] for row in read(self.out / "data/prompts_rm.valid.jsonl")}
        rows = [
            {**row, "split": "valid" if row["id"] in valid else "train"} for row in read(self.out / "samples.jsonl")
        ]
        ranked, held_out, agreement = compare(rows, self.seed)
        write(self.out / "ranked/comparisons.train.jsonl", [row for row in ranked if row["id"] not in valid])
        write(self.out / "ranked/comparisons.valid.jsonl", [row for row in ranked if row["id"] in valid])
        write(self.out / "ranked/held_out_comparisons.valid.jsonl", held_out)
        self.seconds["rank"] = round(time.perf_counter() - start, 2)
        print(f"\n== rank: training labelers agree on {agreement['training']:.3f} of untied pairs, "
              f"held-out labelers on {agreement['held_out']:.3f}", flush=True)  # fmt: skip
        return agreement

    def report(self, agreement: Row) -> Row:
        """Write report.json and report.html."""
        import torch
        import transformers

        from lit_instructgpt.report import write_report

        report: Row = {
            "title": "InstructGPT in miniature",
            "command": f"make demo SEED={self.seed}",
            "seed": self.seed,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                         "python": platform.python_version()},
            "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "seconds": self.seconds,
            "agreement": agreement,
            **json.loads((self.out / "evaluation.json").read_text(encoding="utf-8")),
        }  # fmt: skip
        report["seed"] = self.seed
        (self.out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        runs = {
            "base": self.out / "base",
            "sft": self.out / "sft",
            "rm": self.out / "rm",
            "ppo_ptx": self.out / "ppo",
        }
        write_report(report, self.out / "report.html", runs)
        return report


def read(path: Path) -> list[Row]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def make_room(out: Path) -> None:
    """Move an earlier run to DIR.1, DIR.2, ...: runs are never mixed nor overwritten."""
    if out.exists():
        number = 1
        while (kept := out.with_name(f"{out.name}.{number}")).exists():
            number += 1
        out.rename(kept)
        print(f"{out} holds an earlier run: moved to {kept}")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="miniature.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="default: runs/miniature, runs/miniature-seedN")
    args = parser.parse_args(argv)
    out = args.out or Path(PLACE if args.seed == 0 else f"{PLACE}-seed{args.seed}")
    make_room(out)
    report = Demo(out, args.seed).run()
    print(f"\n{report['seconds']['total']:.0f} s in all. Open {out}/report.html; figures in {out}/report.json")


if __name__ == "__main__":
    main()
