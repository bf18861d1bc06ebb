"""One directory per run: the resolved config is written there first, and no second run may enter."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from lit_instructgpt.checkpoints.position import Stopped


class RunDirectory(SaveConfigCallback):
    """Saves the resolved config as ``config.yaml`` of the run directory.

    A directory that has one belongs to another run and is refused, unless this run resumes it
    (``--ckpt_path``): then the config goes beside it as ``config_resume_N.yaml``. While a run lasts it holds a lock, so
    that two never share a directory, and a run is not resumed that has not ended.
    """

    written: Path | None = None
    lock: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the config, on rank 0, before anything else is written."""
        if self.already_saved or stage not in ("fit", None):
            return
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero:
            self.lock = lock(directory)
        exists = trainer.strategy.broadcast((directory / "config.yaml").exists())
        if exists and self.config.get("ckpt_path") is None:
            raise FileExistsError(occupied(directory))
        name = "config.yaml"
        if exists:
            name = f"config_resume_{1 + len(list(directory.glob('config_resume_*.yaml')))}.yaml"
        if trainer.is_global_zero:
            self.parser.save(self.config, str(directory / name), skip_none=False, multifile=False)
            self.written = directory / name
        self.already_saved = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that was refused before its first step leaves the directory free for the next try."""
        if trainer.global_step == 0 and self.written is not None and not isinstance(exception, Stopped):
            self.written.unlink(missing_ok=True)
        self.give_free()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the directory free."""
        self.give_free()

    def give_free(self) -> None:
        """Lets go of the lock."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def lock(directory: Path) -> Any:
    """The open file ``run.lock``, locked until it is closed or the process ends.

    Raises:
        FileExistsError: another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = open(directory / "run.lock", "a+", encoding="utf-8")  # noqa: SIM115 (open for as long as the run lasts)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise FileExistsError(
            f"{directory} is in use by process {owner}: wait for it, end it, or choose another --run_dir"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def occupied(directory: str | Path) -> str:
    """What to say of a directory with another run in it."""
    return (
        f"{directory} holds another run (config.yaml): choose another --run_dir, or resume that run "
        "with --ckpt_path last"
    )
