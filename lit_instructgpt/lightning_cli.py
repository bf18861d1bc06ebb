"""LightningCLI in subclass mode, with a run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

# Imported so that short class names (--model SFT) are known.
from lit_instructgpt.callbacks import (
    LostProcess,
    MetricLog,
    PhaseProgressBar,
    Profile,
    RunDirectory,
    SaveCheckpoints,
    WriteSamples,
)
from lit_instructgpt.callbacks.run_directory import occupied
from lit_instructgpt.checkpoints.directory import checkpoints
from lit_instructgpt.checkpoints.plugin import CheckpointDirectories
from lit_instructgpt.datamodules import ComparisonDataModule, DemoDataModule, PromptDataModule  # noqa: F401
from lit_instructgpt.datamodules.loading import per_rank
from lit_instructgpt.modules import SFT, PPOModule, RankingRM  # noqa: F401


def processes(trainer: Any, is_ppo: bool) -> dict[str, Any]:
    """Trainer settings that follow from who starts the processes, and how many.

    Under torchrun a CPU run has as many as it started (Lightning's ``auto`` is one). Plain copies of the models on several
    devices (strategy ``auto``) are for PPO such that not every parameter takes part in every pass.

    Args:
        trainer: the configured settings.
        is_ppo: of the module.

    Raises:
        ValueError: ``trainer.devices`` is another number than torchrun started.
    """
    found: dict[str, Any] = {}
    gpus = torch.cuda.device_count() if trainer.accelerator != "cpu" else 0
    devices: Any = trainer.devices
    if "TORCHELASTIC_RUN_ID" in os.environ:
        started = int(os.environ["LOCAL_WORLD_SIZE"])
        if devices == "auto" and not gpus:
            found["devices"] = devices = started
        given = num_devices(devices, started)
        if given != started:
            raise ValueError(
                f"torchrun started {started} processes on this machine, and trainer.devices is {given}: set --trainer.devices "
                f"{started}"
            )
    if is_ppo and trainer.strategy == "auto" and max(num_devices(devices, gpus), 1) * trainer.num_nodes > 1:
        found["strategy"] = "ddp_find_unused_parameters_true"
    return found


def num_devices(devices: Any, otherwise: int) -> int:
    """How many ``trainer.devices`` names: a number, a list, or numbers with commas; ``otherwise`` where it names none."""
    if isinstance(devices, str) and "," in devices:
        devices = devices.strip(",").split(",")
    return len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else otherwise


class InstructCLI(LightningCLI):
    """One CLI for all stages: ``model`` and ``data`` are chosen by class path."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=RunDirectory,
            seed_everything_default=0,
            trainer_class=Trainer,
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs={"exit_on_error": False}
            | {
                name: {"exit_on_error": False, "description": text}
                for name, text in {
                    "fit": "Train a model. Start from a file in configs/ and override keys on the command line.",
                    "validate": "Run the validation of a model.",
                    "test": "Run the test of a model.",
                    "predict": "Sample responses to prompts with a model.",
                }.items()
            },
            args=argv,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds ``--run_dir``."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default="runs/run",
            help="everything of this run goes here: config.yaml, logs, checkpoints/, export/",
        )
        parser.add_argument(
            "--profile",
            type=bool,
            default=False,
            help="fit: profile the third and fourth step to RUN_DIR/profile (TensorBoard trace, shares.json)",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Points logger and checkpoints to the run directory; the saved config names it in ``run_dir`` alone.

        The progress bar is one that shows PPO's phases, unless another is configured.

        Only ``fit`` logs: the other verbs print, and leave a run's directory as it is.
        """
        config = self.config[self.subcommand]
        if config.trainer.logger is None or config.trainer.logger is True:
            fitting = self.subcommand == "fit"
            loggers = [TensorBoardLogger(config.run_dir, name="", version=""), MetricLog(config.run_dir)]
            kwargs["logger"] = loggers if fitting else False
        given = self.config_init[self.subcommand].trainer.callbacks or []
        if config.trainer.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in given):
            self.trainer_defaults["callbacks"] = [PhaseProgressBar()]
        savers = [c for c in given if isinstance(c, Checkpoint)]
        if self.subcommand == "fit" and config.trainer.enable_checkpointing is not False and not savers:
            self.trainer_defaults["callbacks"] = [*self.trainer_defaults.get("callbacks", []), SaveCheckpoints()]
        if self.subcommand == "fit":
            self.trainer_defaults["callbacks"] = [*self.trainer_defaults.get("callbacks", []), LostProcess()]
        if config.profile and self.subcommand == "fit":
            self.trainer_defaults["callbacks"] = [*self.trainer_defaults.get("callbacks", []), Profile()]
        kwargs |= processes(config.trainer, isinstance(self.model, PPOModule))
        trainer = super().instantiate_trainer(default_root_dir=config.run_dir, **kwargs)
        trainer.strategy.checkpoint_io = CheckpointDirectories()
        return trainer

    def before_predict(self) -> None:
        """Refuses to sample for nothing.

        Raises:
            ValueError: no callback writes the samples.
        """
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, BasePredictionWriter | WriteSamples) for callback in callbacks):
            raise ValueError(
                "predict: nothing would be written; add --trainer.callbacks+=WriteSamples --trainer.callbacks.path FILE"
            )
        self.find_checkpoint()

    def before_fit(self) -> None:
        """Refuses an occupied run directory before the logger writes to it.

        Raises:
            FileExistsError: another run is in it.
            FileNotFoundError: there is no such checkpoint.
            ValueError: the batch cannot be dealt out evenly; known before other processes are started.
        """
        config = self.config["fit"]
        if isinstance(batch_size := getattr(self.datamodule, "batch_size", None), int):
            per_rank(batch_size, self.trainer.world_size)
        num, cores = self.trainer.num_devices, os.cpu_count() or 1
        if self.trainer.strategy.root_device.type == "cpu" and num > cores:
            rank_zero_warn(
                f"trainer.devices is {num} and this machine has {cores} cores: processes wait for one another"
            )
        if config.ckpt_path is None and Path(config.run_dir, "config.yaml").exists():
            raise FileExistsError(occupied(config.run_dir))
        self.find_checkpoint()

    def before_validate(self) -> None:
        """See ``find_checkpoint``."""
        self.find_checkpoint()

    def before_test(self) -> None:
        """See ``find_checkpoint``."""
        self.find_checkpoint()

    def find_checkpoint(self) -> None:
        """Resolves ``--ckpt_path``: ``last`` is the newest checkpoint of the run directory that verifies.

        A run that ended before its first checkpoint starts from the beginning, so that one command line can begin and
        resume.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        assert self.subcommand is not None
        config = self.config[self.subcommand]
        if config.ckpt_path not in (None, "last", "best", "hpc"):
            if "://" not in config.ckpt_path and not Path(config.ckpt_path).exists():
                raise FileNotFoundError(f"no checkpoint {config.ckpt_path}: correct --ckpt_path")
            return
        if config.ckpt_path != "last":
            return
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        savers = [callback for callback in callbacks if isinstance(callback, SaveCheckpoints)]
        folder = Path(config.run_dir, "checkpoints")
        if checkpoints(folder):
            self.config_init[self.subcommand]["ckpt_path"] = str(folder)
        elif self.subcommand == "fit" and savers and not list(Path(config.run_dir).glob("export*")):
            savers[0].from_the_beginning = True
            rank_zero_warn(f"{folder} holds no checkpoint yet: the run starts from the beginning")
            self.config_init[self.subcommand]["ckpt_path"] = None
        elif not list(folder.glob("last*.ckpt")):
            raise FileNotFoundError(
                f"{config.run_dir} has no last checkpoint: name one with --ckpt_path, or train with the callback "
                "SaveCheckpoints"
            )
