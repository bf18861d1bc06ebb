"""The stages, each the public command with the shipped configs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MAX_NEW_TOKENS = 96
"""Of the policies' responses."""

MAX_PROMPT_TOKENS = 896
"""Of the rankings: the passages of qa_feedback are long."""

CURVE_POINTS = 4
"""Reward models along the epoch."""


class Stages:
    """The stages of one run, each the public command with the shipped configs and the overrides of this run."""

    def __init__(self, work: Path, model: Path, seed: int, precision: str) -> None:
        self.work, self.model, self.seed, self.precision = work, model, seed, precision
        self.commands: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.trained = False

    def fit(self, stage: str, *overrides: str) -> Path:
        """Train a stage unless its export is there, from the same command and data; returns the export."""
        export, record = self.work / stage / "export", self.work / f"{stage}.json"
        args = ["fit", "--config", f"configs/smollm2/{stage}.yaml", "--config", "configs/smollm2/cpu.yaml",
                "--trainer.precision", self.precision, "--seed_everything", str(self.seed),
                "--run_dir", str(self.work / stage), *overrides]  # fmt: skip
        command = f"lit-instructgpt {' '.join(args)}"
        if self.trained or not self._done(export, record, command):
            self._make_room(self.work / stage)
            self._run(stage, args, command)
            self.trained = True  # what follows starts from another model now
        self._note(stage)
        return export

    def _run(self, stage: str, args: Sequence[str], command: str) -> None:
        """Run the public command, and note command and seconds."""
        print(f"\n== {stage}: {command}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "lit_instructgpt", *args], check=False)
        if done.returncode:
            raise SystemExit(f"{stage} ended with exit code {done.returncode}")
        seconds = round(time.perf_counter() - start, 1)
        (self.work / f"{stage}.json").write_text(json.dumps({"command": command, "seconds": seconds}) + "\n")

    def _note(self, stage: str) -> None:
        stored = json.loads((self.work / f"{stage}.json").read_text())
        self.commands[stage], self.seconds[stage] = stored["command"], stored["seconds"]

    def _done(self, export: Path, record: Path, command: str) -> bool:
        """Whether the export is there, made by this command from the data as they are now."""
        from lit_instructgpt.formatting import read_sidecar
        from lit_instructgpt.hashes import hash_of

        if not (export.is_dir() and record.is_file()) or json.loads(record.read_text())["command"] != command:
            return False
        return all(hash_of(path) == digest for path, digest in read_sidecar(export)["data"].items())

    def _make_room(self, directory: Path) -> None:
        number = 1
        while directory.exists():
            earlier = directory.with_name(f"{directory.name}.{number}")
            if not earlier.exists():
                directory.rename(earlier)
                print(f"{directory} holds another or an interrupted run: moved to {earlier}")
            number += 1

    def sft(self) -> Path:
        """Supervised fine-tuning of the model."""
        return self.fit(
            "sft", "--model.init_args.model", str(self.model),
            "--data.init_args.train", str(self.work / "data/demonstrations.train.jsonl"),
            "--data.init_args.valid", str(self.work / "data/demonstrations.valid.jsonl"),
        )  # fmt: skip

    def rm(self) -> Path:
        """The reward model, from the SFT model, on the rankings of all sources together, K = 2 to 8.

        A quarter of the epoch apart its weights are kept: validation, on one batch, is there for that alone.
        """
        every = {"class_path": "lit_instructgpt.callbacks.ExportHF", "init_args": {"every": 1}}
        overlay = self.work / "rm_overlay.yaml"
        overlay.write_text(json.dumps({"trainer": {
            "callbacks": [every], "val_check_interval": 1 / CURVE_POINTS, "limit_val_batches": 1,
            "num_sanity_val_steps": 0}}), encoding="utf-8")  # fmt: skip
        return self.fit(
            "rm", "--config", str(overlay), "--model.init_args.model", str(self.work / "sft/export"),
            "--data.init_args.train", str(self.work / "data/comparisons.train.jsonl"),
            "--data.init_args.valid", str(self.work / "data/comparisons.hh_helpful.valid.jsonl"),
            "--data.init_args.demonstrations", str(self.work / "data/demonstrations.valid.jsonl"),
            "--data.init_args.reading.max_prompt_tokens", str(MAX_PROMPT_TOKENS),
            "--data.init_args.reading.max_tokens", str(MAX_PROMPT_TOKENS + 256),
        )  # fmt: skip

    def ppo(self, episodes: int) -> Path:
        """PPO-ptx of the SFT model against the reward model."""
        return self.fit(
            "ppo", "--model.init_args.policy", str(self.work / "sft/export"),
            "--model.init_args.reward_model", str(self.work / "rm/export"),
            "--model.init_args.ppo.seed", str(self.seed), "--model.init_args.ppo.max_new_tokens", str(MAX_NEW_TOKENS),
            "--data.init_args.num_episodes", str(episodes),
            "--data.init_args.train", str(self.work / "data/prompts.train.jsonl"),
            "--data.init_args.text", str(self.work / "data/text.train.jsonl"),
        )  # fmt: skip

    def evaluate(self) -> Path:
        """The three models beside one another on held-out prompts, by the public command; returns its JSON file."""
        out = self.work / "evaluation.json"
        args = ["evaluate", *(f"--models.{name}={path}" for name, path in self.models().items()),
                "--init", "sft", "--reward_model", str(self.work / "rm/export"),
                "--prompts", str(self.work / "data/prompts.valid.jsonl"),
                "--text", str(self.work / "data/text.valid.jsonl"), "--text_tokens", "128",
                "--format.chat_template", "true", "--sampling.max_new_tokens", str(MAX_NEW_TOKENS),
                "--sampling.seed", str(self.seed + 1000), "--batch_size", "25", "--out", str(out)]  # fmt: skip
        command, record = f"lit-instructgpt {' '.join(args)}", self.work / "evaluate.json"
        known = out.is_file() and record.is_file() and json.loads(record.read_text())["command"] == command
        if self.trained or not known:
            self._run("evaluate", args, command)
        self._note("evaluate")
        return out

    def models(self) -> dict[str, Path]:
        """Name -> directory of the policies."""
        return {"base": self.model, "sft": self.work / "sft/export", "ppo_ptx": self.work / "ppo/export"}
