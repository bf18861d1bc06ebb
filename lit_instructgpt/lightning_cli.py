"""LightningCLI in subclass mode, with a run directory."""

from __future__ import annotations

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Imported so that short class names (--model SFT) are known.
from lit_instructgpt.callbacks import RunDirectory
from lit_instructgpt.datamodules import ComparisonDataModule, DemoDataModule, PromptDataModule  # noqa: F401
from lit_instructgpt.modules import SFT, PPOModule, RankingRM  # noqa: F401


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

    def before_instantiate_classes(self) -> None:
        """Points logger and checkpoints to the run directory."""
        config = self.config[self.subcommand]
        if config.trainer.logger is None or config.trainer.logger is True:
            config.trainer.logger = Namespace(  # type: ignore[no-untyped-call]
                class_path="lightning.pytorch.loggers.TensorBoardLogger",
                init_args=Namespace(  # type: ignore[no-untyped-call]
                    save_dir=config.run_dir, name="", version=""
                ),
            )
        config.trainer.default_root_dir = config.run_dir
