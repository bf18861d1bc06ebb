"""What the policy says: sample tables while it trains, JSONL files when it predicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger


class SampleTable(Callback):
    """Writes episodes (prompt, response, score, KL in nats) to ``samples.jsonl`` and to TensorBoard.

    Args:
        every_n_iterations: of PPO.
        num_samples: episodes per table.
    """

    def __init__(self, every_n_iterations: int = 1, num_samples: int = 8) -> None:
        if every_n_iterations < 1 or num_samples < 1:
            raise ValueError("SampleTable: every_n_iterations and num_samples must be at least 1")
        self.every_n_iterations, self.num_samples = every_n_iterations, num_samples

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the first episodes of the iteration."""
        directory = Path(trainer.log_dir or trainer.default_root_dir)  # a broadcast: on every rank
        rows: list[dict[str, Any]] = getattr(pl_module, "samples", [])[: self.num_samples]
        if not rows or batch_idx % self.every_n_iterations or not trainer.is_global_zero:
            return
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "samples.jsonl", "a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"iteration": batch_idx, **row}, ensure_ascii=False) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", markdown_table(rows), batch_idx)


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """A table with one row per sample; pipes and line breaks in texts escaped."""
    columns = list(rows[0])
    cells = [[str(row[c]).replace("|", "\\|").replace("\n", "<br>") for c in columns] for row in rows]
    header = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*header, *["| " + " | ".join(row) + " |" for row in cells]])


class WriteSamples(BasePredictionWriter):
    """Writes what ``predict`` samples as JSONL: ``{prompt, responses: [K texts], ...}``, ready to be ranked.

    Args:
        path: the file; it must not exist.
    """

    def __init__(self, path: str) -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses to overwrite."""
        if stage == "predict":
            if self.path.exists():
                raise FileExistsError(f"{self.path} exists already: give WriteSamples another path, or move the file")
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Appends the batch's prompts and responses, which every process has."""
        if not trainer.is_global_zero:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in prediction)
