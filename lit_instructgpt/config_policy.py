"""Which packages a configuration may name."""

from __future__ import annotations

import os
import re

import jsonargparse

from lit_instructgpt.config_messages import ConfigError

ALLOWED = (
    "lit_instructgpt", "lightning", "torchmetrics", "torch.optim", "torch.nn", "torch.distributed.fsdp",
    "torch.bfloat16", "torch.float16", "torch.float32", "bitsandbytes.optim",
    "transformers.optimization", "transformers.Adafactor",
)  # fmt: skip
"""What a configuration may name: nothing here loads pickles, compiles code or runs commands."""

DENIED = ("*", "lightning.fabric.utilities", "lightning.pytorch.cli", "lightning.pytorch.utilities")
"""Refused; the longest entry that matches a name decides."""

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_policy: dict[str, bool] = {}


def allow_imports(extra: list[str]) -> None:
    """Lets configurations name only ``ALLOWED`` and ``extra``; replaces what an earlier call allowed.

    Raises:
        ConfigError: a name in ``extra`` is not a dotted name, or is jsonargparse.
    """
    bad = [name for name in extra if not DOTTED.fullmatch(name) or name.split(".")[0] == "jsonargparse"]
    if bad:
        raise ConfigError([f"--allow_import: {name!r} is not a package that can be allowed" for name in bad])
    defaults = dict.fromkeys(DENIED, False) | dict.fromkeys(ALLOWED, True)
    before = [name for name, allowed in _policy.items() if allowed and not _allows(defaults, name)]
    _policy.clear()
    _policy.update(defaults | dict.fromkeys(extra, True))
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls what jsonargparse renamed
    jsonargparse.set_parsing_settings(
        import_path_denylist=[*DENIED, *before],
        import_path_allowlist=[*ALLOWED, *extra],
        instantiate_subclass_spec_in_any=False,
    )


def _allows(policy: dict[str, bool], name: str) -> bool:
    parts = name.split(".")
    entries = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((policy[entry] for entry in entries if entry in policy), False)


def allows(name: str) -> bool:
    """Whether a configuration may name this."""
    if not _policy:
        allow_imports([])
    return _allows(_policy, name)
