"""How long a run is."""

from __future__ import annotations

from lightning.pytorch import Trainer


def num_optimizer_steps(trainer: Trainer) -> int:
    """Optimizer steps of the whole run, one per batch: what the cosine schedules need.

    Not ``trainer.estimated_stepping_batches``: asked for in ``configure_optimizers``, it sets the training
    loaders up before Lightning would restore their position, and a resumed run would begin its epoch anew.

    Raises:
        ValueError: the run has no end.
    """
    max_steps = trainer.max_steps
    if trainer.max_epochs == -1:
        if max_steps == -1:
            raise ValueError("the cosine needs to know when the run ends: set trainer.max_epochs or trainer.max_steps")
        return max_steps
    num_batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches  # an int is a number of batches, a float a share of them
    num_batches = min(limit, num_batches) if isinstance(limit, int) else int(num_batches * limit)
    steps = num_batches * max(trainer.max_epochs or 0, 1)
    return steps if max_steps == -1 else min(steps, max_steps)
