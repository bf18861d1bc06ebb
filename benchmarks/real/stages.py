"""The stages, each the public command with the shipped configs."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.real.commands import Commands

MAX_NEW_TOKENS = 96
"""Of the policies' responses."""

MAX_PROMPT_TOKENS = 896
"""Of the rankings: the passages of qa_feedback are long."""

READING = (
    "--data.init_args.reading.max_prompt_tokens", str(MAX_PROMPT_TOKENS),
    "--data.init_args.reading.max_tokens", str(MAX_PROMPT_TOKENS + 256),
)  # fmt: skip
"""Of the rankings, by the reward model."""

HARDWARE = {"cpu": "configs/smollm2/cpu.yaml", "cuda": "configs/smollm2/gpu.yaml"}
"""Device -> the overlay of each stage."""

EVALUATION_BATCH = {"cpu": 25, "cuda": 200}
"""Device -> prompts at a time."""


class Stages:
    """The stages of one run, each the public command with the shipped configs and the overrides of this run."""

    def __init__(self, work: Path, model: Path, seed: int, precision: str, device: str = "cpu") -> None:
        self.work, self.model, self.seed, self.precision, self.device = work, model, seed, precision, device
        self.commands = Commands(work)

    def data(self, name: str) -> Path:
        """A file of the selection."""
        return self.work / f"data/{name}.jsonl"

    def export(self, stage: str) -> Path:
        """Directory of a stage's model."""
        return self.work / stage / "export"

    def models(self) -> dict[str, Path]:
        """Name -> directory of the policies."""
        return {"base": self.model, "sft": self.export("sft"), "ppo_ptx": self.export("ppo")}

    def fit(self, stage: str, inputs: dict[str, Path], *overrides: str) -> None:
        """Train a stage; the inputs are options and what they name."""
        options = [arg for option, path in inputs.items() for arg in (option, str(path))]
        args = ["fit", "--config", f"configs/smollm2/{stage}.yaml", "--config", HARDWARE[self.device],
                "--trainer.precision", self.precision, "--seed_everything", str(self.seed),
                "--run_dir", str(self.work / stage), *options, *overrides]  # fmt: skip
        self.commands.run(stage, args, list(inputs.values()), self.export(stage))

    def sft(self) -> None:
        """Supervised fine-tuning of the model."""
        self.fit("sft", {
            "--model.init_args.model": self.model,
            "--data.init_args.train": self.data("demonstrations.train"),
            "--data.init_args.valid": self.data("demonstrations.valid"),
        })  # fmt: skip

    def rm(self, points: int) -> None:
        """The reward model, from the SFT model, on the rankings of all sources together, K = 2 to 8.

        As many times along the epoch its weights are kept: validation, on one batch, is there for that alone.
        """
        every = {"class_path": "lit_instructgpt.callbacks.ExportHF", "init_args": {"every": 1}}
        overlay = self.work / "rm_overlay.yaml"
        overlay.write_text(json.dumps({"trainer": {
            "callbacks": [every], "val_check_interval": 1 / points, "limit_val_batches": 1,
            "num_sanity_val_steps": 0}}), encoding="utf-8")  # fmt: skip
        self.fit("rm", {
            "--config": overlay,
            "--model.init_args.model": self.export("sft"),
            "--data.init_args.train": self.data("comparisons.train"),
            "--data.init_args.valid": self.data("comparisons.hh_helpful.valid"),
            "--data.init_args.demonstrations": self.data("demonstrations.valid"),
        }, *READING)  # fmt: skip

    def ppo(self, episodes: int, batch: int) -> None:
        """PPO-ptx of the SFT model against the reward model."""
        self.fit("ppo", {
            "--model.init_args.policy": self.export("sft"),
            "--model.init_args.reward_model": self.export("rm"),
            "--data.init_args.train": self.data("prompts.train"),
            "--data.init_args.text": self.data("text.train"),
        }, "--model.init_args.ppo.seed", str(self.seed), "--model.init_args.ppo.max_new_tokens", str(MAX_NEW_TOKENS),
           "--data.init_args.num_episodes", str(episodes), "--data.init_args.batch_size", str(batch),
           "--data.init_args.reading.max_response_tokens", str(MAX_NEW_TOKENS))  # fmt: skip

    def evaluate(self) -> Path:
        """The three models beside one another on held-out prompts, by the public command; returns its JSON file."""
        out = self.work / "evaluation.json"
        inputs = {"--reward_model": self.export("rm"), "--prompts": self.data("prompts.valid"),
                  "--text": self.data("text.valid")}  # fmt: skip
        args = ["evaluate", *(f"--models.{name}={path}" for name, path in self.models().items()), "--init", "sft",
                *(arg for option, path in inputs.items() for arg in (option, str(path))), "--text_tokens", "128",
                "--format.chat_template", "true", "--sampling.max_new_tokens", str(MAX_NEW_TOKENS),
                "--sampling.seed", str(self.seed + 1000), "--batch_size", str(EVALUATION_BATCH[self.device]),
                "--device", self.device, "--out", str(out)]  # fmt: skip
        self.commands.run("evaluate", args, [*self.models().values(), *inputs.values()], out)
        return out
