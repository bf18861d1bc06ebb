"""One directory per run: the resolved config is written there first, and no second run may enter."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback


class RunDirectory(SaveConfigCallback):
    """Saves the resolved config as ``config.yaml`` of the run directory.

    A directory that has one belongs to another run and is refused, unless this run resumes it
    (``--ckpt_path``): then the config goes beside it as ``config_resume_N.yaml``.
    """

    written: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the config, on rank 0, before anything else is written."""
        if self.already_saved or stage not in ("fit", None):
            return
        directory = Path(trainer.log_dir or trainer.default_root_dir)
        exists = trainer.strategy.broadcast((directory / "config.yaml").exists())
        if exists and self.config.get("ckpt_path") is None:
            raise FileExistsError(occupied(directory))
        name = "config.yaml"
        if exists:
            name = f"config_resume_{1 + len(list(directory.glob('config_resume_*.yaml')))}.yaml"
        if trainer.is_global_zero:
            directory.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, str(directory / name), skip_none=False, multifile=False)
            self.written = directory / name
        self.already_saved = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that was refused before its first step leaves the directory free for the next try."""
        if trainer.global_step == 0 and self.written is not None:
            self.written.unlink(missing_ok=True)


def occupied(directory: str | Path) -> str:
    """What to say of a directory with another run in it."""
    return (
        f"{directory} holds another run (config.yaml): choose another --run_dir, or resume that run "
        "with --ckpt_path last"
    )
