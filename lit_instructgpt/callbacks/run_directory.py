"""One directory per run: the resolved config is written there first, and no second run may enter."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

from lit_instructgpt.checkpoints.position import Stopped

OF_THIS_START = ("ckpt_path", "run_dir", "profile")
"""Settings that every start may have of its own."""

KEPT = (".optimizer.", ".optimizer:", ".ppo.value_lr", ".ppo.kl_coef")
"""Of settings that a checkpoint brings along, so that new values have no effect."""


class RunDirectory(SaveConfigCallback):
    """Saves the resolved config as ``config.yaml`` of the run directory.

    A directory that has one belongs to another run and is refused, unless this run resumes it (``--ckpt_path``): then the
    config goes beside it as ``config_resume_N.yaml``, and what it changes is said. While a run lasts it holds a lock, so
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
            earlier = newest_config(directory)
            self.parser.save(self.config, str(directory / name), skip_none=False, multifile=False)
            self.written = directory / name
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            anew = any(getattr(callback, "from_the_beginning", False) for callback in callbacks)
            if earlier is not None and not anew and (found := changes(read(earlier), read(self.written))):
                rank_zero_warn(f"resumed with other settings than {earlier}: {'; '.join(found)}")
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


def newest_config(directory: Path) -> Path | None:
    """The config of the last start of a run; None before the first."""
    resumed = sorted(directory.glob("config_resume_*.yaml"), key=lambda file: int(file.stem.rpartition("_")[2]))
    return resumed[-1] if resumed else directory / "config.yaml" if (directory / "config.yaml").is_file() else None


def read(file: Path) -> dict[str, Any]:
    """Dotted key -> value of a config."""
    return flat(yaml.safe_load(file.read_text(encoding="utf-8")))


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(config, dict) or not config:
        return {path: config}
    return {
        key: value
        for name, one in config.items()
        for key, value in flat(one, f"{path}.{name}" if path else name).items()
    }


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """``KEY OLD -> NEW`` of what differs, and whether it has an effect."""
    keys = [key for key in dict.fromkeys([*then, *now]) if key.split(".")[0] not in OF_THIS_START and not _seed(key)]
    return [
        f"{key} {then.get(key)} -> {now.get(key)}" + " (no effect: the checkpoint brings its own)" * _kept(key)
        for key in keys
        if then.get(key) != now.get(key)
    ]


def _seed(key: str) -> bool:
    """The checkpoint has them, also those that are null in a config, and says what becomes of them (``run_seed.py``)."""
    return key == "seed_everything" or key.endswith(".seed")


def _kept(key: str) -> bool:
    return any(part in f"{key}:" for part in KEPT) and not key.endswith("class_path")


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
