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
import time
from pathlib import Path
from typing import Any

from miniature.generate import write
from miniature.rank import compare

CONFIGS = Path("configs/miniature")
PLACE = "runs/miniature"
"""What the shipped configs say; replaced by the directory of this run."""

Row = dict[str, Any]


class Demo:
    """One run: its directory, its seed and the seconds of its stages."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.seconds: dict[str, float] = {}

    def command(self, stage: str, *args: str, module: str = "lit_instructgpt") -> None:
        """Run a command as its own process and time it.

        Raises:
            SystemExit: it failed; its own message is on the screen.
        """
        line = [sys.executable, "-m", module, *args]
        print(
            f"\n== {stage}: {' '.join(['lit-instructgpt', *args] if module == 'lit_instructgpt' else line[1:])}",
            flush=True,
        )
        start = time.perf_counter()
        done = subprocess.run(line, env={**os.environ, "PYTHONPATH": "data"}, check=False)
        self.seconds[stage] = round(time.perf_counter() - start, 2)
        if done.returncode:
            raise SystemExit(f"{stage} ended with exit code {done.returncode}")

    def fit(self, stage: str, *configs: str) -> None:
        """Train a stage from its configs into its own run directory."""
        files = [arg for name in configs for arg in ("--config", str(self.config(name)))]
        self.command(
            stage, "fit", *files, "--run_dir", str(self.out / stage), "--seed_everything", str(self.seed)
        )

    def config(self, name: str) -> Path:
        """The shipped config with this run's directory and seed in it, kept with the run."""
        text = (CONFIGS / f"{name}.yaml").read_text().replace(PLACE, str(self.out))
        path = self.out / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self) -> Row:
        """All stages, in order; returns the report."""
        begin = time.perf_counter()
        out = str(self.out)
        self.command(
            "generate", "--out", f"{out}/collected", "--seed", str(self.seed), module="miniature.generate"
        )
        inputs = [
            f"{out}/collected/raw/{name}.jsonl" for name in ("demonstrations", "prompts_rm", "prompts_ppo")
        ]
        self.command("prepare", "prepare", "--config", str(self.config("prepare")), "--inputs", json.dumps(inputs),
                     "--seed", str(self.seed))  # fmt: skip
        for split in ("train", "valid"):
            os.replace(f"{out}/collected/raw/text.{split}.jsonl", f"{out}/data/text.{split}.jsonl")
        self.fit("base", "base")
        self.fit("sft", "sft")
        self.fit("init", "sft", "init")
        self.command("predict", "predict", "--config", str(self.config("predict")), "--seed_everything", str(self.seed),
                     "--run_dir", f"{out}/predict")  # fmt: skip
        agreement = self.rank()
        self.fit("rm", "rm")
        self.fit("ppo", "ppo")
        self.command(
            "evaluate", "evaluate", "--config", str(self.config("evaluate")), "--allow_import", "miniature"
        )
        self.seconds["total"] = round(time.perf_counter() - begin, 2)
        return self.report(agreement)

    def rank(self) -> Row:
        """The labelers rank the sampled outputs; returns their agreement."""
        start = time.perf_counter()
        valid = {row["id"] for row in read(self.out / "data/prompts_rm.valid.jsonl")}
        rows = [
            {**row, "split": "valid" if row["id"] in valid else "train"}
            for row in read(self.out / "samples.jsonl")
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
        (self.out / "report.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
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
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


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
    parser.add_argument(
        "--out", type=Path, default=None, help="default: runs/miniature, runs/miniature-seedN"
    )
    args = parser.parse_args(argv)
    out = args.out or Path(PLACE if args.seed == 0 else f"{PLACE}-seed{args.seed}")
    make_room(out)
    report = Demo(out, args.seed).run()
    print(
        f"\n{report['seconds']['total']:.0f} s in all. Open {out}/report.html; figures in {out}/report.json"
    )


if __name__ == "__main__":
    main()
