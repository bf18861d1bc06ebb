"""Checks a configuration before anything is built from it, and says all that is wrong, with file and line.

jsonargparse has the last word on types and values; here unknown keys and foreign classes are refused with
the nearest known name, before a foreign class is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lit_instructgpt.config_messages import ConfigError, nearest, readable
from lit_instructgpt.config_policy import allow_imports
from lit_instructgpt.config_types import Group, settings
from lit_instructgpt.config_walk import Checker

__all__ = ["ConfigError", "allow_imports", "check_lightning", "check_tool", "nearest", "readable"]

SETTINGS = {"seed_everything": Any, "run_dir": str, "profile": bool, "ckpt_path": Any, "weights_only": Any, "verbose": Any,
            "return_predictions": Any}  # fmt: skip
OPTIONS = {"config", "c", "help", "h", "print_config", "print_shtab"}


def check_lightning(argv: list[str]) -> None:
    """Checks the configs and options behind ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigError: with every problem that was found.
    """

    def root() -> Group:
        from lightning.pytorch import LightningDataModule, LightningModule, Trainer

        for name in ("modules", "datamodules", "callbacks"):  # makes their short names known
            importlib.import_module(f"lit_instructgpt.{name}")
        groups = {"trainer": settings(Trainer), "model": LightningModule, "data": LightningDataModule}
        return Group(groups | SETTINGS)

    _check(argv, root)


def check_tool(argv: list[str], function: Callable[..., Any]) -> None:
    """Checks the options and configs of a command that is a plain function.

    Raises:
        ConfigError: with every problem that was found.
    """
    _check(argv, lambda: settings(function), once=True)


def _check(argv: list[str], root: Callable[[], Group], once: bool = False) -> None:
    checker = Checker()
    given = list(checker.options(argv))
    names = [option for option, _ in given if option not in ("config", "c")]
    if once:
        twice = dict.fromkeys(name for name in names if names.count(name) > 1)
        checker.problems += [f"--{name}: given twice, and the last alone would count" for name in twice]
    for option, value in given:
        if option in ("config", "c"):
            checker.read(value)
    if not checker.problems:
        checker.root = root()
        for option, value in given:
            if option in ("config", "c"):
                checker.file(value, checker.root, "")
            elif option not in OPTIONS:
                checker.source = ""
                checker.option(option, value)
    if checker.problems:
        raise ConfigError(checker.problems)
