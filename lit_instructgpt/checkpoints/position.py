"""Where a run stands, in the terms of Lightning's loops.

Lightning's counters tell a dozen moments apart at which a save may have happened, and go on differently from each;
some train a batch twice, or an epoch too many (docs/deviations.md). Checkpoints here are taken at one moment only:
between two batches, when everything about the batches before has been done, validation and logging included.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

COUNTERS = ("ready", "started", "processed", "completed")


class Stopped(Exception):
    """A signal ended the run at a moment from which it can be resumed."""

    def __init__(self, signum: int, said: str) -> None:
        super().__init__(said)
        self.signum = signum


def stand(trainer: Trainer) -> tuple[int, int]:
    """Epochs completed, and batches of the epoch after them that are."""
    loop = trainer.fit_loop
    epochs = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    batches = loop.epoch_loop.batch_progress.current.completed
    over = loop.epoch_progress.current.completed == loop.epoch_progress.current.ready  # the epoch has been left
    if over and batches < trainer.num_training_batches:  # by max_steps: it is not complete
        return epochs - 1, batches
    return epochs, 0 if over else batches


def put_between_batches(state: dict[str, Any], epochs: int, batches: int) -> None:
    """Makes the state of the fit loop that of ``epochs`` whole epochs and ``batches`` more, whatever had begun since.

    Raises:
        TypeError: a loader does not count its batches.
    """
    open_epoch = int(batches > 0)
    _set(state["epoch_progress"], dict(zip(COUNTERS, (epochs + open_epoch,) * 2 + (epochs,) * 2, strict=True)))
    progress = state["epoch_loop.batch_progress"]
    done = progress["total"]["completed"]
    progress["total"] = dict.fromkeys(COUNTERS, done)
    progress["current"] = dict.fromkeys(COUNTERS, batches)
    progress["is_last_batch"] = False
    loaders = state["state_dict"].get("combined_loader", [])
    if any(set(loader) != {"given"} for loader in loaders):
        raise TypeError(
            "checkpoints between batches need loaders that count them (lit_instructgpt.datamodules.loading.ResumableLoader): "
            f"the training data's loaders report {loaders}"
        )
    state["state_dict"]["combined_loader"] = [{"given": batches} for _ in loaders]


def _set(progress: dict[str, Any], counters: dict[str, int]) -> None:
    for count in ("total", "current"):
        progress[count] = dict(counters)
