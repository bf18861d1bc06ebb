"""FSDP2 through Lightning: ``--trainer.strategy fsdp2``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from lit_instructgpt.checkpoints.plugin import verified, write_checkpoint
from lit_instructgpt.checkpoints.state import read_state
from lit_instructgpt.eight_bit import eight_bit_state, is_eight_bit, like_parameter
from lit_instructgpt.ranks import of_every_process
from lit_instructgpt.sharding import fill

BY_ROWS = ("state_dict", "optimizer_states", "ema")
"""Parts of a checkpoint that may be larger than one process can hold."""


class FSDP2Strategy(ModelParallelStrategy):
    """Weights, gradients and optimizer state in pieces, one for each process; every process its share of a batch.

    The modules shard their models themselves (``configure_model``). Checkpoints are those of one process, in as many
    files as processes, and are read at any number of them.

    Args:
        timeout_minutes: after which a process that waits for another one ends the run.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout=timedelta(minutes=timeout_minutes))

    def setup(self, trainer: Trainer) -> None:
        """Refuses callbacks whose files could not be read again.

        Raises:
            ValueError: naming them.
        """
        others = [type(c).__name__ for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if others:
            raise ValueError(
                f"trainer.callbacks: {', '.join(others)} does not go with strategy fsdp2: take it out; SaveCheckpoints saves "
                "what is in pieces, and resumes at any number of devices"
            )
        super().setup(trainer)

    def setup_environment(self) -> None:
        """All processes share the data, and none a layer."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        """As on one process."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, sharded."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Every process reads its rows.

        Raises:
            ValueError: the checkpoint is of another model.
        """
        assert self.lightning_module is not None
        own, stored = self.lightning_module.state_dict(), checkpoint["state_dict"]
        problems = [f"{name} is missing" for name in own if name not in stored and strict]
        problems += [f"{name} is unknown" for name in stored if name not in own]
        problems += [
            f"{name} has shape {tuple(stored[name].shape)} and not {tuple(x.shape)}"
            for name, x in own.items()
            if name in stored and stored[name].shape != x.shape
        ]
        if problems:
            raise ValueError("the checkpoint is of another model: " + "; ".join(problems[:8]))
        for name, x in own.items():
            if name in stored:
                fill(x, stored[name])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Its state, sharded as the weights are."""
        optimizer = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return eight_bit_state(optimizer) if is_eight_bit(optimizer) else optimizer.state_dict()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Every process reads its rows of what is as large as a weight."""
        for optimizer, stored in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            if not (
                is_eight_bit(optimizer) or isinstance(optimizer, torch.optim.AdamW)
            ):  # which find their rows themselves
                stored["state"] = {
                    number: {name: like_parameter(x, parameters[number]) for name, x in entries.items()}
                    for number, entries in stored["state"].items()
                }
            optimizer.load_state_dict(stored)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Every process writes its rows."""
        path = Path(self.broadcast(str(filepath)))
        write_checkpoint(checkpoint, path, self.global_rank, self._agree, self._sum)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Finds and verifies the checkpoint on the first process; nothing large is read yet.

        Raises:
            CheckpointError: there is none that can be used.
        """
        found: Any = None
        if self.global_rank == 0:
            try:
                found = verified(Path(checkpoint_path))
            except Exception as error:
                found = error
        found = self.broadcast(found)
        if isinstance(found, Exception):
            raise found
        return read_state(found, by_rows=BY_ROWS)

    def _sum(self, num: int) -> int:
        return sum(of_every_process(num))

    def _agree(self, problem: str | None) -> str | None:
        problems: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(problems, problem)
        return next((f"process {rank}: {text}" for rank, text in enumerate(problems) if text is not None), None)


def mesh_of(trainer: Trainer | None) -> DeviceMesh | None:
    """The processes that share the models of a run; None where each has them whole."""
    strategy = getattr(trainer, "strategy", None)
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, FSDP2Strategy) else None


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2, with lit_instructgpt's checkpoints")
