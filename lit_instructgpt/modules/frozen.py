"""Weights that no checkpoint holds: it names where they are from, and the hash of what was there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_instructgpt.hashes import hash_of
from lit_instructgpt.lora import without_frozen

MODEL_FILES = ("*.safetensors", "*.bin", "*.gguf", "config.json", "tokenizer.json")
"""What of a directory makes the model; a model card may be edited."""

Sources = dict[str, dict[str, str]]
"""Name of a model -> its directory, and the hash of its files."""


def describe(source: str) -> dict[str, str]:
    """Where frozen weights come from, and the hash of their files; of a hub model its name."""
    return {"source": source, "sha256": hash_of(source, MODEL_FILES) if Path(source).is_dir() else source}


def name_frozen(module: Any, checkpoint: dict[str, Any]) -> None:
    """Of a stage that trains adapters: its checkpoint names the frozen weights, and does not hold them."""
    if module.lora is not None:
        without_frozen(module, checkpoint["state_dict"])
        checkpoint["frozen"] = module.frozen_sources


def check_same(then: Mapping[str, Mapping[str, str]], now: Sources) -> None:
    """Refuses to go on beside other frozen weights.

    Raises:
        ValueError: naming each model that has changed.
    """
    changed = [
        f"{name} was {before['source']} ({before['sha256'][:12]}...) and is {one['source']} ({one['sha256'][:12]}...)"
        for name, one in now.items()
        if (before := then.get(name, one))["sha256"] != one["sha256"]
    ]
    if changed:
        raise ValueError(
            f"the checkpoint was trained with other frozen models: {'; '.join(changed)}; give the same weights (the "
            "directories may have moved), or start a new run"
        )
