"""What an evaluation is given: what is wrong with it is said before anything is computed, and all at once."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lit_instructgpt.models import policy_problem, read_config
from lit_instructgpt.scalar_model import reward_model_problem


def policies(named: Mapping[str, str]) -> list[str]:
    """Option -> directory: those that hold no policy, each with the reason."""
    return _models(named, policy_problem)


def reward_models(named: Mapping[str, str]) -> list[str]:
    """Option -> directory: those that hold no reward model, each with the reason."""
    return _models(named, reward_model_problem)


def _models(named: Mapping[str, str], problem: Callable[[str, Any], str]) -> list[str]:
    found = []
    for option, directory in named.items():
        try:
            said = problem(directory, read_config(directory))
        except (OSError, ValueError) as error:
            said = str(error)
        if said:
            found.append(f"--{option}: {said}")
    return found


def outs(*paths: str | None) -> list[str]:
    """Files that could not be written."""
    found = []
    for path in paths:
        if path is None:
            continue
        parents = [parent for parent in Path(path).absolute().parents if parent.exists()]
        if Path(path).is_dir():
            found.append(f"{path} is a directory: give the file to write, for instance {Path(path) / 'result.json'}")
        elif not parents[0].is_dir():
            found.append(f"{path}: {os.path.relpath(parents[0])} is a file, not a directory: give another path")
        elif not os.access(Path(path) if Path(path).exists() else parents[0], os.W_OK):
            found.append(f"{path} cannot be written: give another path")
    return found


def devices(device: str) -> list[str]:
    """A device that this machine does not have."""
    try:
        kind = torch.device(device)
    except RuntimeError:
        return [f"device: {device!r} is none; give cpu or cuda"]
    if kind.type == "cuda" and not torch.cuda.is_available():
        built = "torch sees no GPU" if torch.version.cuda else "this torch was built without CUDA"
        return [f"device: {device}: {built}; give --device cpu"]
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        return [
            f"device: {device}: there are {torch.cuda.device_count()}; give cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        ]
    return []


def takes(named: Any, num: int) -> bool:
    """Whether a callable can be called with as many arguments; True where that cannot be told."""
    try:
        inspect.signature(named).bind(*range(num))
    except TypeError:
        return False
    except ValueError:
        return True
    return True
