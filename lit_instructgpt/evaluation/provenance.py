"""What a report must say so that it can be made again: versions, seed, and the files behind the numbers."""

from __future__ import annotations

import inspect
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lit_instructgpt
from lit_instructgpt.datamodules.tokenizing import Source
from lit_instructgpt.formatting import PromptFormat, format_dict
from lit_instructgpt.hashes import hash_of

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja")
"""Of a model's directory: weights, config, tokenizer and format."""


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that the numbers depend on."""
    libraries = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"lit-instructgpt": lit_instructgpt.__version__, "python": platform.python_version(), **libraries}


def file_entry(source: Source, num_rows: int) -> dict[str, Any]:
    """``path``, ``sha256`` (lists of both for several files) and ``rows``, the records that were accepted."""
    if isinstance(source, str):
        return {"path": source, "sha256": hash_of(source), "rows": num_rows}
    return {"path": list(source), "sha256": [hash_of(path) for path in source], "rows": num_rows}


def directory_entry(directory: str, prompt_format: PromptFormat | None = None) -> dict[str, Any]:
    """``path`` and ``sha256`` of a model's directory (None of one on a hub), and the ``format`` of its prompts if it has one."""
    local = Path(directory).is_dir()
    entry = {"path": directory, "sha256": hash_of(directory, MODEL_FILES) if local else None}
    return entry if prompt_format is None else {**entry, "format": format_dict(prompt_format)}


def callable_entry(named: Any) -> dict[str, Any] | None:
    """``class_path`` of a callable that was named, and its ``provenance`` if it has one; None for none.

    Raises:
        ValueError: ``provenance`` is no dict that JSON can hold.
    """
    if named is None:
        return None
    kind = named if inspect.isroutine(named) else type(named)
    entry = {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
    provenance = getattr(named, "provenance", None)
    if provenance is None:
        return entry
    try:
        return entry | {"provenance": json.loads(json.dumps(dict(provenance), allow_nan=False))}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{entry['class_path']}.provenance must be a dict that JSON can hold: {error}") from None


def write_report(report: dict[str, Any], out: str) -> None:
    """Writes a report as JSON, with the folders it needs."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
