"""A callback that notes when the steps of a run end and how much memory it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.peers.measure import Meter


class StepTimes(Callback):
    """Writes the file that the other sides of the comparison write."""

    def __init__(self, out: str) -> None:
        self.out = out

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts."""
        self.meter = Meter(Path(self.out))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        phases = {name.removeprefix("time/"): value for name, value in found.items() if name.startswith("time/")}
        self.meter.step(found.get("train/loss"), **phases)
        if "response/length" in found:
            self.meter.tokens.append(round(found["response/length"] * len(batch["prompts"])))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over."""
        self.meter.write()
