"""SHA-256 of files and directories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_of(path: str | Path, patterns: Sequence[str] = ("*",)) -> str:
    """SHA-256 of a file; of its files' names and hashes for a directory; the name itself of what is on a hub.

    Args:
        path: of the file or directory.
        patterns: of the names that count, of a directory's files.
    """
    if str(path).startswith("hf://"):
        return str(path)
    path = Path(path)
    if not path.is_dir():
        return digest(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and any(map(file.match, patterns))]
    lines = [f"{file.relative_to(path)} {digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
