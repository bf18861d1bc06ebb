"""The memory plan of runs beside what they took: ``python benchmarks/memory.py``.

Each run is the public command for a few steps, with a model from scratch, of 30 million parameters where nothing else is
said; its plan is the one that it prints, its peak what the operating system counted for the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import yaml

from benchmarks.fault_runs import Run, Server, finish, finish_pair, write_jsonl

MODEL = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
LARGE = {**MODEL, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 12}
"""Of 0.4 billion parameters."""

EIGHT_BIT = ["--model.init_args.optimizer", "bitsandbytes.optim.AdamW8bit", "--model.init_args.optimizer.lr", "1e-4"]
CASES: dict[str, tuple[str, list[str]]] = {
    "SFT": ("sft", []),
    "SFT, bf16 autocast": ("sft", ["--trainer.precision", "bf16-mixed"]),
    "SFT, gradient checkpointing": ("sft", ["--model.init_args.gradient_checkpointing", "true"]),
    "SFT, 8-bit AdamW": ("sft", EIGHT_BIT),
    "SFT, 0.4B, 8-bit AdamW, gradient checkpointing": (
        "large",
        [*EIGHT_BIT, "--model.init_args.gradient_checkpointing", "true"],
    ),
    "SFT, two processes (FSDP2)": ("sft", []),
    "reward model, K = 4": ("rm", []),
    "reward model, K = 4, bf16 autocast": ("rm", ["--trainer.precision", "bf16-mixed"]),
    "PPO-ptx": ("ppo", []),
    "PPO-ptx, bf16 autocast": ("ppo", ["--trainer.precision", "bf16-mixed"]),
    "PPO-ptx, two processes (FSDP2)": ("ppo", []),
    "PPO-ptx, gradient checkpointing": ("ppo", ["--model.init_args.ppo.gradient_checkpointing", "true"]),
}
"""Name -> stage and settings."""


def make_configs(folder: Path) -> dict[str, str]:
    """A config of each stage, for three optimizer steps."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)

    def words(num: int) -> str:
        return " ".join("".join(draw.choice("abcdefghij") for _ in range(4)) for _ in range(num))

    demos = [{"prompt": words(40), "response": words(40)} for _ in range(48)]
    rankings = [
        {"prompt": words(40), "responses": [words(20) for _ in range(4)], "ranking": [1, 2, 3, 4]} for _ in range(24)
    ]
    data = {
        "demos": write_jsonl(folder / "demos.jsonl", demos),
        "rankings": write_jsonl(folder / "rankings.jsonl", rankings),
        "prompts": write_jsonl(folder / "prompts.jsonl", [{"prompt": words(40)} for _ in range(16)]),
        "text": write_jsonl(folder / "text.jsonl", [{"text": words(400)} for _ in range(20)]),
    }
    settings = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 1, "max_steps": 3, "log_every_n_steps": 1,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4, "fused": True}}
    reading = {"max_prompt_tokens": 192, "max_response_tokens": 192, "max_tokens": 384}
    fresh = {"config": MODEL, "text": [data["text"]], "vocab_size": 8000}
    export = [{"class_path": "lit_instructgpt.callbacks.ExportHF"}]
    stages = {
        "sft": {
            "trainer": {**settings, "callbacks": export},
            "model": {"class_path": "SFT", "init_args": {"model": fresh, "dropout": 0.0, "optimizer": adamw}},
            "data": {"class_path": "DemoDataModule", "init_args": {
                "train": data["demos"], "batch_size": 16, "reading": reading}},
        },
        "rm": {
            "trainer": {**settings, "callbacks": export},
            "model": {"class_path": "RankingRM", "init_args": {"model": str(folder / "sft/export"), "optimizer": adamw}},
            "data": {"class_path": "ComparisonDataModule", "init_args": {
                "train": data["rankings"], "demonstrations": data["demos"], "batch_size": 4, "reading": reading}},
        },
        "ppo": {
            "trainer": settings,
            "model": {"class_path": "PPOModule", "init_args": {
                "policy": str(folder / "sft/export"), "reward_model": str(folder / "rm/export"), "optimizer": adamw,
                "ppo": {"max_new_tokens": 64, "minibatch_size": 16, "ema_decay": 0.99, "ptx_coef": 1.0}}},
            "data": {"class_path": "PromptDataModule", "init_args": {
                "train": data["prompts"], "text": data["text"], "num_episodes": 48, "batch_size": 16, "text_per_episode": 1,
                "text_tokens": 128, "reading": reading}},
        },
    }  # fmt: skip
    found = {}
    large = {"model": {**fresh, "config": LARGE}}
    sft = stages["sft"]["model"]
    stages["large"] = {**stages["sft"], "model": {**sft, "init_args": {**sft["init_args"], **large}}}
    for stage, config in stages.items():
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump({"seed_everything": 0, **config}), encoding="utf-8")
        found[stage] = str(folder / f"{stage}.yaml")
    return found


SIZES: dict[str, dict[str, Any]] = {
    "1.3B": {"n_layer": 24, "n_embd": 2048, "n_head": 16},
    "6B": {"n_layer": 32, "n_embd": 4096, "n_head": 32},
}
"""GPT-3's shapes (Brown et al., 2020, table 2.1), but that 6.7B is called 6B in the paper of InstructGPT."""

PAPER = {"max_new_tokens": 1024, "minibatch_size": 64, "rollout_batch_size": 32}
"""PPO's minibatch, and prompts and responses of 1,024 tokens each (section 3.5, C.4); responses sampled at once are our own."""

WAYS: dict[str, dict[str, Any]] = {
    "all weights, AdamW, passes of 16,384 tokens (the default on a GPU)": {},
    "passes of 2,048 tokens": {"micro_batch_tokens": 2048},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "8-bit AdamW": {"eight_bit": True},
    "8-bit AdamW, passes of 2,048 tokens": {"eight_bit": True, "micro_batch_tokens": 2048},
    "8-bit AdamW, gradient checkpointing": {"eight_bit": True, "gradient_checkpointing": True},
    "8-bit AdamW, gradient checkpointing, frozen models in nf4": {
        "eight_bit": True, "gradient_checkpointing": True, "frozen_dtype": "nf4"},
    "LoRA, gradient checkpointing": {"lora": True, "gradient_checkpointing": True},
}  # fmt: skip


def paper_plans(folder: Path) -> list[dict[str, Any]]:
    """Peaks, by plan, of PPO-ptx at the paper's sizes on one GPU under bf16 autocast, GB of 10^9 bytes. Nothing is loaded."""
    from functools import partial
    from types import SimpleNamespace

    import bitsandbytes
    import transformers

    from lit_instructgpt.lora import ADAPTER, BASE, LoRA
    from lit_instructgpt.models import FreshModel, load_tokenizer
    from lit_instructgpt.modules import PPOModule
    from lit_instructgpt.modules.plans import plan_ppo
    from lit_instructgpt.modules.ppo_config import PPOConfig

    text = write_jsonl(folder / "plan.jsonl", [{"text": "one two three"}])
    tokenizer = load_tokenizer(FreshModel({"model_type": "gpt2"}, [text], vocab_size=260))
    for name, shape in SIZES.items():
        config = transformers.GPT2Config(**shape, vocab_size=50257, n_positions=2048)
        config.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "model.safetensors").touch()
    (folder / "1.3B" / ADAPTER).mkdir(exist_ok=True)
    (folder / "1.3B" / ADAPTER / BASE).write_text(
        json.dumps({"sha256": "-"}), encoding="utf-8"
    )  # with LoRA, on one base
    found = []
    for reward in SIZES:
        for way, changes in WAYS.items():
            settings = {**PAPER, **changes}
            kind = bitsandbytes.optim.AdamW8bit if settings.pop("eight_bit", False) else torch.optim.AdamW
            settings["lora"] = LoRA() if settings.pop("lora", False) else None
            optimizer: Any = partial(kind, lr=1e-5)
            module = PPOModule(
                str(folder / "1.3B"), str(folder / reward), optimizer=optimizer, ppo=PPOConfig(**settings)
            )
            data = SimpleNamespace(
                train_items=[SimpleNamespace(ids=range(1024))],
                text_items=[SimpleNamespace(ids=range(2048))],
                batch_size=512,
            )
            trainer: Any = SimpleNamespace(
                precision="bf16-mixed",
                world_size=1,
                datamodule=data,
                strategy=SimpleNamespace(root_device=torch.device("cuda")),
            )
            module._trainer = trainer
            module.frozen_sources = {"policy": {"sha256": "-"}}
            plan = plan_ppo(module)
            phases = {phase: round(plan.of_phase(phase) / 1e9, 1) for phase in plan.phases()}
            found.append(
                {"policy": "1.3B", "reward": reward, "way": way, "peak_gb": round(plan.peak() / 1e9, 1), **phases}
            )
            print(found[-1], flush=True)
    return found


def paper_table(rows: Sequence[dict[str, Any]]) -> str:
    """For docs/scale.md."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    rewards = list(dict.fromkeys(row["reward"] for row in rows))
    peaks = {(row["way"], row["reward"]): row["peak_gb"] for row in rows}
    titles = " | ".join(f"reward and value model of {reward}, GB" for reward in rewards)
    lines = [f"| PPO-ptx of a 1.3B policy, by plan | {titles} |", "|---" * (1 + len(rewards)) + "|"]
    for way in ways:
        cells = (f"{peaks[way, reward]:.0f}{'' if peaks[way, reward] <= 80 else ' (over 80)'}" for reward in rewards)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def planned(run: Run) -> int:
    """Bytes of the peak in the plan that a run has printed."""
    found = re.search(r"peak ([\d,]+)\n", run.text())
    if found is None:
        raise RuntimeError(f"no plan in {run.text()[-2000:]}")
    return int(found[1].replace(",", "")) << 20


def measure(names: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Plan and peak of some cases, MB."""
    shutil.rmtree(folder, ignore_errors=True)
    configs, found = make_configs(folder), {}
    with Server() as server:
        for stage in ("sft", "rm"):
            finish(server, configs[stage], folder / stage)
        for number, name in enumerate(names):
            stage, more = CASES[name]
            begin = finish_pair if "two processes" in name else lambda *args: [finish(*args)]
            runs = begin(server, configs[stage], folder / f"case-{number}", *more)
            plan, peak = planned(runs[0]) / 2**20, max(run.peak for run in runs) / 2**20
            found[name] = {"plan_mb": round(plan), "peak_mb": round(peak), "ratio": round(plan / peak, 3)}
            print(f"{name:40} {found[name]}", flush=True)
    return found


def table(report: dict[str, Any]) -> str:
    """For docs/scale.md."""
    lines = ["| run | plan, MB | peak, MB | plan / peak |", "|---|---|---|---|"]
    for name, row in report["cases"].items():
        lines.append(f"| {name} | {row['plan_mb']:,} | {row['peak_mb']:,} | {row['ratio']:.2f} |")
    about = f"`{report['command']}`, {report['hardware']}, torch {report['versions']['torch']}."
    return "\n".join([*lines, "", about, "", paper_table(report["paper"])])


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(prog="memory", description="Plans beside peaks.")
    parser.add_argument("--work", type=Path, default=Path("runs/memory"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    args = parser.parse_args(argv)
    report = {
        "command": "python benchmarks/memory.py",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "cases": measure(list(CASES), args.work.resolve()),
        "paper": paper_plans(args.work.resolve()),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
