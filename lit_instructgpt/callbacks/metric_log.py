"""Metrics as lines of JSON: what TensorBoard shows, for programs, and the same bits in every run of one seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

METRICS = "metrics.jsonl"
CLOCKS = ("time/", "throughput/")
"""Metrics that measure the machine: TensorBoard has them."""


class MetricLog(Logger):
    """Appends ``{"step": ..., "epoch": ..., NAME: VALUE, ...}`` to ``metrics.jsonl``, without what clocks measure.

    A resumed run continues the file where its checkpoint was taken.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.directory = Path(directory)

    @property
    def name(self) -> str:
        """None is needed."""
        return ""

    @property
    def version(self) -> str:
        """None is needed."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Writes one line."""
        kept = {name: float(value) for name, value in sorted(metrics.items()) if not name.startswith(CLOCKS)}
        if set(kept) <= {"epoch"}:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": int(kept.pop("epoch", 0)), **kept}) + "\n")
