"""Lightning's rich progress bar, which also says what phase of a PPO iteration is running."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class PhaseProgressBar(RichProgressBar):
    """Rich progress with the phase of the step (rollout, scoring, update, ptx) among the metrics."""

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave)
        self.current_phase = ""

    def show_phase(self, name: str) -> None:
        """Shows the phase in the bar's description."""
        if name == self.current_phase or self.train_progress_bar_id is None or self.progress is None:
            return
        self.current_phase = name
        self.progress.update(self.train_progress_bar_id, description=f"{self.train_description} {name}")
        if self.is_enabled:
            self.progress.refresh()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A new step has no phase yet."""
        self.current_phase = ""
