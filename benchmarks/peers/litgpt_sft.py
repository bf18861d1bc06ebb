"""LitGPT's full fine-tuning as it comes, loss on the response alone."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import DataModule
from litgpt.finetune import full
from litgpt.prompts import Default
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from measure import Meter, arguments, read
from torch.utils.data import DataLoader

PRECISION = {"float32": "32-true", "bf16-autocast": "bf16-mixed", "bf16": "bf16-true"}
args = arguments()
records = [
    {"input_ids": r["prompt"] + r["response"], "labels": [-100] * len(r["prompt"]) + r["response"]}
    for r in read(args.ids)[: args.batch * args.steps]
]
meter = Meter(args.out)
started = False


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """A batch, padded to its longest row, as LitGPT pads."""
    width = max(len(r["input_ids"]) for r in rows)

    def tensor(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([r[key] + [fill] * (width - len(r[key])) for r in rows])

    lengths = torch.tensor([[len(r["input_ids"])] for r in rows])
    return {"input_ids": tensor("input_ids", 0), "labels": tensor("labels", -100),
            "token_counts": {"raw": lengths, "raw_plus_prompt_template": lengths}}  # fmt: skip


def next_batch(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """A batch of the training; it is asked for when the step before has ended."""
    global started
    if started:
        meter.step()
    else:
        meter.ends, started = [time.perf_counter()], True
    return padded(rows)


class Ids(DataModule):  # type: ignore[misc]
    """The token ids of the comparison, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt_style = Default()

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        """Nothing to connect: everything is tokenized."""

    def train_dataloader(self) -> Any:
        """Records in order."""
        return DataLoader(records, args.micro, collate_fn=next_batch)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        """One micro-batch: LitGPT validates before it trains."""
        return DataLoader(records[: args.micro], args.micro, collate_fn=padded)  # type: ignore[arg-type]


fit = full.fit


def timed_fit(*given: Any, **named: Any) -> Any:
    """The loop, its last step noted; checkpoints are not compared."""
    fit(*given, **named)
    meter.step()
    meter.write()
    raise SystemExit(0)


full.fit = timed_fit
with tempfile.TemporaryDirectory() as directory:
    checkpoint = Path(directory) / "SmolLM2-135M-Instruct"
    shutil.copytree(args.model, checkpoint)
    convert_hf_checkpoint(checkpoint)
    full.setup(
        checkpoint, Path(directory) / "out", PRECISION[args.dtype], data=Ids(),
        train=TrainArgs(save_interval=10**6, log_interval=1, global_batch_size=args.batch,
                        micro_batch_size=args.micro, lr_warmup_steps=1, epochs=1, max_steps=args.steps),
        eval=EvalArgs(interval=10**6, max_new_tokens=1, initial_validation=False, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-5, "weight_decay": 0.0}},
    )  # fmt: skip
