"""Where the time of a step goes: torch's profiler for TensorBoard, and shares that can be read at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "_linear_pointwise"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention", "softmax"),
    "optimizer": ("fused_adam", "Optimizer.", "_foreach"),
    "data": ("DataLoader",),
    "sampling": ("searchsorted", "cumsum", "multinomial", "rand"),
}
"""Kind of work -> what the names of its operations contain; the rest of torch's operations is "other tensor work"."""


class Profile(Callback):
    """Profiles a few training steps and writes ``profile/`` in the run directory.

    A trace for TensorBoard (plugin ``torch-tb-profiler``) or ``chrome://tracing``, and ``shares.json``: seconds
    of each kind of work and its share of the steps' wall time; ``outside of torch`` is Python and waiting.

    Args:
        skip: steps before, of which the first warm up.
        steps: profiled.
    """

    def __init__(self, skip: int = 2, steps: int = 2) -> None:
        if skip < 0 or steps < 1:
            raise ValueError(f"Profile: skip ({skip}) must not be negative, and steps ({steps}) be at least 1")
        self.skip, self.steps = skip, steps
        self.profiler: Any = None
        self.seconds = 0.0
        self.seen = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts behind the steps that are skipped, and stops behind those that are profiled."""
        self.seen += 1
        if self.seen == self.skip:
            self._start(trainer)
        elif self.seen == self.skip + self.steps:
            self._stop(trainer, self.steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts at once where nothing is skipped."""
        if self.skip == 0:
            self._start(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says so if the run was too short."""
        if self.seen < self.skip + self.steps:
            if self.profiler is not None:
                self._stop(trainer, 0)
            rank_zero_warn(
                f"Profile: the run ended after {self.seen} steps, {self.skip + self.steps} are needed: nothing is written"
            )

    def _start(self, trainer: Trainer) -> None:
        self.cuda = trainer.lightning_module.device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])])
        self.profiler.start()
        self.seconds = time.perf_counter()

    def _stop(self, trainer: Trainer, steps: int) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        wall = time.perf_counter() - self.seconds
        self.profiler.stop()
        profiler, self.profiler = self.profiler, None
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "profile"
        if not steps or not trainer.is_global_zero:
            return
        tensorboard_trace_handler(str(folder))(profiler)
        events = [  # of the operations, and not of their kernels again
            (event.key, (event.self_device_time_total if self.cuda else event.self_cpu_time_total) / 1e6)
            for event in profiler.key_averages()
            if event.device_type.name == "CPU"
        ]
        found = shares(events, wall)
        text = json.dumps({"steps": steps, "seconds": round(wall, 4), "kinds": found}, indent=1)
        (folder / "shares.json").write_text(text + "\n", encoding="utf-8")
        said = ", ".join(f"{kind} {row['share']:.1%}" for kind, row in found.items())
        rank_zero_info(f"profile of {steps} steps, {wall:.2f} s: {said}; the trace is in {folder}")


def shares(events: list[tuple[str, float]], wall: float) -> dict[str, dict[str, float]]:
    """Seconds and share of the wall time of each kind of work, largest first.

    Args:
        events: name and own seconds of every operation.
        wall: seconds in all.
    """
    seconds = dict.fromkeys([*KINDS, "other tensor work"], 0.0)
    for name, own in events:
        kind = next((k for k, parts in KINDS.items() if _is_of(name, parts)), "other tensor work")
        seconds[kind] += own
    seconds["outside of torch"] = max(wall - sum(seconds.values()), 0.0)
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {kind: {"seconds": round(own, 4), "share": round(own / wall, 4)} for kind, own in ordered}


def _is_of(name: str, parts: tuple[str, ...]) -> bool:
    plain = name.removeprefix("aten::")
    return any(plain == part or (len(part) > 8 and part in name) or plain.strip("_") == part for part in parts)
