"""The command ``lit-instructgpt``: Lightning's verbs, and those of ``TOOLS``."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jsonargparse

from lit_instructgpt.allocator import forget_kernels, keep_freed_memory

OVERVIEW = """\
usage: lit-instructgpt VERB [options]

train and use models (configs in YAML, every key also as --key value):
  fit        train: --config configs/sft.yaml | rm.yaml | ppo.yaml [--run_dir DIR] [--ckpt_path last]
  validate   the validation metrics of a model
  test       the same on a test set
  predict    sample K responses per prompt to a JSONL file, ready to be ranked

before and after:
  prepare    data: deduplicate prompts, cap and split by user, filter PII, statistics
  evaluate   compare exported models: win rate, reward-model score, KL, text loss, your own judge
  evaluate_rm  reward models beside people: pair accuracy, calibration, agreement, systems in order
  rankings   win rates by rankings that people gave, with agreement between labelers
  benchmark  the paper's automatic evaluations of exported models: truth, bias, toxicity, HellaSwag
  toxicity_classifier  train a small scorer of toxicity on texts with scores
  lm_eval    any task of lm-evaluation-harness on an exported model
  report     results and runs, any number of them, on one HTML page
  chat       talk to an exported policy in the terminal

help:
  lit-instructgpt VERB --help                 the options of a verb
  lit-instructgpt fit --model.help PPOModule  the settings of a module (SFT, RankingRM, PPOModule)
  lit-instructgpt fit --data.help DemoDataModule  (ComparisonDataModule, PromptDataModule)

safety and debugging (any verb):
  --allow_import NAME  let a class_path name this package too (besides lit_instructgpt, lightning,
                       torchmetrics, torch.optim, torch.nn, bitsandbytes.optim)
  --traceback          show where an error was raised, not only what it says
"""

LIGHTNING_VERBS = ("fit", "validate", "test", "predict")

TOOLS = {
    "prepare": ("prepare", "prepare"),
    "evaluate": ("evaluation.compare", "evaluate"),
    "evaluate_rm": ("evaluation.evaluate_rm", "evaluate_rm"),
    "rankings": ("evaluation.rankings", "rankings"),
    "benchmark": ("evaluation.benchmark", "benchmark"),
    "toxicity_classifier": ("evaluation.toxicity", "toxicity_classifier"),
    "lm_eval": ("evaluation.lm_eval", "harness"),
    "report": ("report.command", "report"),
    "chat": ("chat", "chat"),
}
"""Verb -> module and function."""

STOPPED, NO_CHECKPOINT = 128, 3
"""Exit codes: with the signal's number added; ``--ckpt_path last`` found checkpoints, and none that can be used."""

USER_ERRORS = (ValueError, OSError, FloatingPointError, TypeError, NotImplementedError, MemoryError)
"""What a wrong input or set-up raises; shown as one message unless ``--traceback`` is given."""


NO_MEMORY = ("OutOfMemoryError", "can't allocate memory", "bad_alloc", "Unable to allocate", "out of memory")
"""Of what torch, C++, numpy and CUDA say when there is none left."""

LESS_MEMORY = (
    "The memory plan above says what takes how much. Less is taken by --config configs/optim/adamw8bit.yaml, by "
    "gradient_checkpointing: true, by a smaller micro_batch_tokens (in PPO rollout_batch_size too), by lora: {rank: 16}, and by "
    "--config configs/hardware/fsdp.yaml on several devices (docs/scale.md). A run that has saved goes on with --ckpt_path last"
)


def main(args: Sequence[str] | None = None) -> None:
    """Runs one verb; exits with 2 and one readable message if the inputs are wrong."""
    argv = list(sys.argv[1:] if args is None else args)
    allowed, traceback = take_options(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(OVERVIEW, end="")
        return
    verb = argv[0]
    verbs: dict[str, Callable[[list[str]], Any]] = {
        **dict.fromkeys(LIGHTNING_VERBS, run_lightning),
        **dict.fromkeys(TOOLS, run_tool),
    }
    from lit_instructgpt.config_check import ConfigError, allow_imports, nearest, readable

    if verb not in verbs:
        fail(f"unknown verb {verb!r}{nearest(verb, verbs)}; lit-instructgpt --help lists them")
    quiet_libraries()
    forget_kernels()
    keep_freed_memory()
    try:
        allow_imports(allowed)
        if allowed and os.getcwd() not in sys.path:  # the console script leaves the working directory out
            sys.path.insert(0, os.getcwd())
        verbs[verb](argv)
    except ConfigError as error:
        fail(str(error))
    except (*USER_ERRORS, RuntimeError) as error:
        lacking = any(words in f"{type(error).__name__}: {error}" for words in NO_MEMORY)
        if traceback or not (lacking or isinstance(error, USER_ERRORS)):
            raise
        message = readable(f"{error}") or type(error).__name__
        fail(f"out of memory: {message.splitlines()[0]}\n{LESS_MEMORY}" if lacking else message)


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints one message and exits."""
    print(f"lit-instructgpt: {'' if code > STOPPED else 'error: '}{message}", file=sys.stderr)
    raise SystemExit(code)


def take_options(argv: list[str]) -> tuple[list[str], bool]:
    """Takes ``--allow_import NAME`` and ``--traceback`` out of the arguments."""
    allowed = []
    traceback = "--traceback" in argv
    if traceback:
        argv.remove("--traceback")
    while "--allow_import" in argv:
        i = argv.index("--allow_import")
        if i + 1 == len(argv):
            fail("--allow_import needs the name of a package")
        allowed.append(argv[i + 1])
        del argv[i : i + 2]
    return allowed, traceback


def run_tool(argv: list[str]) -> Any:
    """A verb beside training: a function whose signature is its options."""
    module, name = TOOLS[argv[0]]
    function = getattr(importlib.import_module(f"lit_instructgpt.{module}"), name)
    parser = jsonargparse.ArgumentParser(prog=f"lit-instructgpt {argv[0]}", exit_on_error=False)
    parser.add_function_arguments(function, as_group=False, skip={"read"})  # how chat is scripted
    parser.add_argument("--config", action="config", help="YAML file with these options")
    from lit_instructgpt.config_check import ConfigError, check_tool, readable

    check_tool(argv[1:], function)
    try:
        config = parser.parse_args(argv[1:])
    except jsonargparse.ArgumentError as error:
        raise ConfigError([readable(str(error))]) from None
    config.pop("config", None)
    return function(**parser.instantiate_classes(config).as_dict())


def run_lightning(argv: list[str]) -> Any:
    """``fit``, ``validate``, ``test`` or ``predict``: checks the configs first, then LightningCLI."""
    from lit_instructgpt.config_check import ConfigError, check_lightning, readable

    check_lightning(argv[1:])
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from lit_instructgpt.checkpoints.directory import NoValidCheckpoint
    from lit_instructgpt.checkpoints.position import Stopped
    from lit_instructgpt.lightning_cli import InstructCLI

    try:
        return InstructCLI(argv)
    except Stopped as stopped:
        child = os.environ.get("LOCAL_RANK", "0") != "0" and not {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & set(
            os.environ
        )
        if child:  # Lightning, who launched it, kills a first process whose child has failed
            raise SystemExit(0) from None
        fail(str(stopped), STOPPED + stopped.signum)
    except NoValidCheckpoint as error:
        fail(str(error), NO_CHECKPOINT)
    except (MisconfigurationException, ValueError) as error:
        remedy = _remedy(str(error), argv)
        if isinstance(error, ValueError) and not remedy:
            raise
        raise ValueError(f"{error}{remedy}") from error
    except RuntimeError as error:
        if "loading state_dict for" not in str(error):
            raise
        _, *misfits = (line.strip() for line in str(error).splitlines() if line.strip())
        raise ValueError(
            f"the checkpoint's weights do not fit this model: {misfits[0] if misfits else error}"
            + f" (and {len(misfits) - 1} more)" * (len(misfits) > 1)
            + "; resume with the model of the run's config.yaml, or start a new run"
        ) from error
    except jsonargparse.ArgumentError as error:
        raise ConfigError([readable(str(error))]) from None


def _remedy(message: str, argv: list[str]) -> str:
    """What helps where Lightning refuses the trainer's settings."""
    if "gpu backend" in message:
        files = [value for value in argv if "hardware/" in value]
        without = f"leave out {', '.join(files)}, or set it to cpu" if files else "set it to cpu"
        return f" (trainer.accelerator asks for one: {without})"
    if "invalid strategy name" in message:
        from lightning.pytorch.strategies import StrategyRegistry

        from lit_instructgpt.config_check import nearest

        name = message.partition("strategy=")[2].strip("'\"").partition("'")[0]
        return f"{nearest(name, StrategyRegistry.available_strategies())} (models in pieces: fsdp2, docs/scale.md)"
    return ""


def quiet_libraries() -> None:
    """Leaves out what libraries say about themselves and not about the run."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # without the line of source that warned
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter is intended.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*treespec.*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*no pre-optimization state was saved.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode at the start of training.*")
    warnings.filterwarnings(
        "ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*"
    )  # the same everywhere
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    warnings.filterwarnings("ignore", message="Precision .* is not supported by the model summary.*")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
        logging.ERROR
    )  # about 4-bit kernels that it can do without
    said = ("Tip:", "GPU available", "TPU available", "to estimate number of stepping batches")
    logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(text in record.getMessage() for text in said)
    )


if __name__ == "__main__":
    main()
