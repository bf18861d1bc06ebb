"""Saves the training state between batches, and before a signal ends the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lit_instructgpt.callbacks.metric_log import CLOCKS, METRICS
from lit_instructgpt.checkpoints.directory import checkpoints, name_of, prune, step_of, sync
from lit_instructgpt.checkpoints.plugin import CheckpointDirectories
from lit_instructgpt.checkpoints.position import Stopped, put_between_batches, stand
from lit_instructgpt.checkpoints.state import generator_states, restore_generators
from lit_instructgpt.optim import not_finite, shortened
from lit_instructgpt.ranks import of_every_process

LOGS = (METRICS, "samples.jsonl")
"""Files of a run that are only ever appended to: a resumed run continues them where its checkpoint was taken."""


class SaveCheckpoints(Checkpoint):
    """Saves everything that shapes the future of the run to ``checkpoints/step-N``, N being the optimizer steps taken.

    Always after a validation and an epoch, and at the end. SIGTERM and Ctrl-C save, and end the run with 143 and 130; a
    second one ends it at once. ``--ckpt_path last`` resumes with the same bits, logs included.

    Args:
        every_n_batches: save that often too: optimizer steps of SFT and RankingRM, iterations of PPO.
        keep: newest checkpoints that are kept.
    """

    def __init__(self, every_n_batches: int | None = None, keep: int = 2) -> None:
        super().__init__()
        if keep < 1 or (every_n_batches is not None and every_n_batches < 1):
            raise ValueError("SaveCheckpoints: keep and every_n_batches must be at least 1")
        self.every_n_batches, self.keep = every_n_batches, keep
        self.from_the_beginning = False
        self.due = self.saving = False
        self.loaded: dict[str, Any] | None = None
        self.received: int | None = None
        self.handlers: dict[int, Any] = {}

    def folder(self, trainer: Trainer) -> Path:
        """Where the checkpoints are."""
        return Path(trainer.log_dir or trainer.default_root_dir, "checkpoints")

    # ------------------------------------------------------------------ when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reads and writes checkpoints in our way, from here on."""
        if not isinstance(trainer.strategy.checkpoint_io, CheckpointDirectories):
            trainer.strategy.checkpoint_io = CheckpointDirectories()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on where the checkpoint was taken: logs, random numbers, metrics shown; moves away what comes after it.

        Takes the signals, in place of Lightning, which ends a run without a save.
        """
        if threading.current_thread() is threading.main_thread():
            self.handlers = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        folder = self.folder(trainer)
        if self.loaded is not None:
            restore_generators(self.loaded["generators"][trainer.global_rank % len(self.loaded["generators"])])
            trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self.loaded["metrics"].items()})
        if not trainer.is_global_zero:
            return
        if self.loaded is not None:
            _cut_logs(folder.parent, self.loaded["logs"])
        if self.from_the_beginning:  # a run that was to resume, and had saved nothing
            for log in (folder.parent / name for name in LOGS):
                if log.exists():
                    set_aside(log)
        later = [path for path in checkpoints(folder) if (step_of(path) or 0) > trainer.global_step]
        if later:
            renamed = ", ".join(f"{path.name} is now {set_aside(path)}" for path in later)
            rank_zero_warn(f"this run goes on from step {trainer.global_step}: {renamed}; they may be deleted")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The next moment between two batches is one to save at."""
        self.due = self.due or (trainer.state.fn == "fit" and not trainer.sanity_checking)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise."""
        self.due = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Saves, if it is time to; nothing of this batch has been done."""
        if self.loaded is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.loaded["logged_steps"]
            self.loaded = None
        num_done = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        often = self.every_n_batches is not None and num_done > 0 and num_done % self.every_n_batches == 0
        self.between(trainer, self.due or often)

    def between(self, trainer: Trainer, due: bool = False) -> None:
        """A moment at which a save is possible: modules whose batches take long call this within them too.

        Raises:
            Stopped: a signal has come.
        """
        signum = self._agreed(trainer)
        if due or signum:
            self.save(trainer)
        if signum:
            name = signal.Signals(signum).name
            raise Stopped(
                signum,
                f"stopped by {name} at optimizer step {trainer.global_step}; saved in "
                f"{self.folder(trainer) / name_of(trainer.global_step)}: go on with --ckpt_path last",
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end."""
        self.save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)
        self.handlers = {}

    # ------------------------------------------------------------------ what

    def save(self, trainer: Trainer) -> None:
        """Saves now, between two batches, and prunes; nothing where this step is saved already.

        Raises:
            FloatingPointError: a weight is not finite; the checkpoints before are as they were.
        """
        self.due = False
        path = self.folder(trainer) / name_of(trainer.global_step)
        if trainer.strategy.broadcast(path.exists()):
            return
        if trainer.is_global_zero:
            for log in LOGS:
                if (path.parent.parent / log).exists():
                    sync(path.parent.parent / log)
        if weights := not_finite(trainer.lightning_module.named_parameters()):
            raise FloatingPointError(
                f"after optimizer step {trainer.global_step} these weights are not finite: {shortened(weights)}; nothing was "
                "saved, and the checkpoints before are as they were: lower the learning rate"
            )
        self.saving = True
        try:
            trainer.save_checkpoint(path)
        finally:
            self.saving = False
        if trainer.is_global_zero:
            prune(path.parent, self.keep)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the loops between two batches, and adds what Lightning leaves out."""
        if not self.saving:
            return
        put_between_batches(checkpoint["loops"]["fit_loop"], *stand(trainer))
        run = self.folder(trainer).parent
        checkpoint["between_batches"] = {
            "generators": of_every_process(generator_states()),
            "logged_steps": trainer.fit_loop.epoch_loop._batches_that_stepped,
            "metrics": {
                k: float(v)
                for k, v in sorted(trainer.callback_metrics.items())
                if v.numel() == 1 and not k.startswith(CLOCKS)
            },
            "logs": {log: (run / log).stat().st_size if (run / log).exists() else 0 for log in LOGS},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps it until the run starts."""
        self.loaded = checkpoint.get("between_batches")

    # ------------------------------------------------------------------ signals

    def _receive(self, signum: int, _: Any) -> None:
        if self.received is not None:
            signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else signal.default_int_handler)
            os.kill(os.getpid(), signum)
            return
        self.received = signum
        name = signal.Signals(signum).name
        print(f"{name}: the state will be saved at the next step; once more ends the run at once", file=sys.stderr)

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that any rank has received, 0 if none has."""
        if trainer.world_size == 1:
            return self.received or 0
        received = torch.tensor(self.received or 0, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)


def set_aside(path: Path) -> str:
    """Renames what is none of this run's future, a checkpoint or a log; its new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside.name


def _cut_logs(run: Path, sizes: dict[str, int]) -> None:
    """Takes from the logs what was written after the checkpoint."""
    for log, size in sizes.items():
        file = run / log
        if file.exists() and file.stat().st_size > size:
            os.truncate(file, size)
        elif file.exists() and file.stat().st_size < size:
            rank_zero_warn(
                f"{file} has {file.stat().st_size:,} bytes and had {size:,} when the checkpoint was taken: lines are missing"
            )
