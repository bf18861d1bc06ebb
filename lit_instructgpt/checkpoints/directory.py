"""Checkpoint directories that are there whole, or not at all.

Files go to ``NAME.partial`` beside the final name, then a manifest with the size and SHA-256 of each, and its own; everything is
synced, renamed, and the parent synced. A name is never written twice. Readers go from the newest step backwards and
verify the manifest before they read anything else. A manifest shows that nothing has changed, not who wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_instructgpt.hashes import digest

MANIFEST, PARTIAL = "manifest.json", ".partial"
FORMAT = 1
"""Version of the layout; a reader refuses those it does not know."""

MOMENTS = ("begun", "files", "manifest", "synced", "renamed", "parent synced", "verified", "retired", "pruned")
"""Of a save, in turn: what has been done when ``reached`` is called."""


def reached(moment: str) -> None:
    """Called at each of ``MOMENTS``; the fault harness ends the process here."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which, and why."""


class NoValidCheckpoint(CheckpointError):
    """There are checkpoints, and none of them can be used."""


def name_of(step: int) -> str:
    """Directory of a step."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int | None:
    """Step of a directory; None for other names."""
    found = re.fullmatch(r"step-(\d{8,})", path.name)
    return int(found[1]) if found else None


def begin(path: Path) -> Path:
    """The empty directory that a checkpoint's files go to.

    Raises:
        FileExistsError: there is a checkpoint of this name.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists: checkpoints are not overwritten")
    partial = path.with_name(path.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    reached("begun")
    return partial


def seal(partial: Path, path: Path, about: dict[str, Any]) -> None:
    """Makes the files in ``partial`` the checkpoint ``path``.

    Args:
        partial: of ``begin``, with all files in it, none in a subdirectory.
        path: the final name.
        about: what the manifest says besides.
    """
    reached("files")
    files = sorted(file for file in partial.iterdir() if file.name != MANIFEST)
    entries = {file.name: {"size": file.stat().st_size, "sha256": digest(file)} for file in files}
    manifest = {"format": FORMAT, **about, "files": entries}
    (partial / MANIFEST).write_text(_text({**manifest, "sha256": _hash(manifest)}), encoding="utf-8")
    reached("manifest")
    for file in [*files, partial / MANIFEST, partial]:
        sync(file)
    reached("synced")
    os.rename(partial, path)
    reached("renamed")
    sync(path.parent)
    reached("parent synced")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, whose files are as they were written.

    Raises:
        CheckpointError: naming every file that is missing, too many, or another.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        version, own = manifest["format"], manifest.pop("sha256", None)
        entries = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: {MANIFEST} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {MANIFEST} cannot be read ({type(error).__name__}: {error})") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: its layout is {version!r}, and this version reads {FORMAT}")
    if _hash(manifest) != own or text != _text({**manifest, "sha256": own}):
        raise CheckpointError(f"{path}: {MANIFEST} has changed since it was written (SHA-256)")
    problems = [f"{name} {problem}" for name, entry in entries.items() if (problem := _problem(path, name, *entry))]
    problems += [
        f"{file.name} is not in the manifest" for file in path.iterdir() if file.name not in {*entries, MANIFEST}
    ]
    if problems:
        raise CheckpointError(f"{path}: " + "; ".join(sorted(problems)))
    return dict(manifest)


def _text(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=1) + "\n"


def _hash(manifest: dict[str, Any]) -> str:
    """Of the manifest without its own."""
    return hashlib.sha256(_text(manifest).encode()).hexdigest()


def _problem(path: Path, name: str, size: int, expected: str) -> str | None:
    file = path / name
    if os.path.basename(name) != name or name in ("", ".", "..") or file.is_symlink():
        return "is no file of the directory's own"
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != size:
        return f"has {file.stat().st_size:,} bytes and not {size:,}"
    if digest(file) != expected:
        return "has changed since it was written (SHA-256)"
    return None


@dataclass
class Found:
    """The newest checkpoint that can be used.

    Attributes:
        path: its directory.
        manifest: of it.
        skipped: why newer ones cannot be used, one message each.
    """

    path: Path
    manifest: dict[str, Any]
    skipped: list[str] = field(default_factory=list)


def checkpoints(folder: Path) -> list[Path]:
    """Directories of steps, newest first; those of unfinished saves are not among them."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if step_of(p) is not None), key=lambda p: -(step_of(p) or 0))


def newest(folder: Path) -> Found:
    """The newest checkpoint whose files are as they were written.

    Raises:
        FileNotFoundError: there is none at all.
        NoValidCheckpoint: none can be used; the message has the reason for each.
    """
    skipped: list[str] = []
    for path in checkpoints(folder):
        try:
            return Found(path, verify(path), skipped)
        except CheckpointError as error:
            skipped.append(str(error))
    if not skipped:
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    raise NoValidCheckpoint(
        f"{folder} holds no checkpoint that can be used: "
        + "; ".join(skipped)
        + ". Restore one from a backup, or start "
        "anew in another --run_dir"
    )


def prune(folder: Path, keep: int, spared: Collection[Path] = ()) -> None:
    """Deletes all but the ``keep`` newest checkpoints and those ``spared``, and what unfinished saves left behind.

    Raises:
        CheckpointError: the newest one is not as it was written; nothing has been deleted.
    """
    steps = checkpoints(folder)
    if steps:
        verify(steps[0])
    reached("verified")
    for path in steps[keep:]:
        if path not in spared:
            os.rename(path, path.with_name(path.name + PARTIAL))  # half a deletion is no checkpoint
    reached("retired")
    for path in list(folder.iterdir()):
        if path.name.endswith(PARTIAL):
            shutil.rmtree(path)
    reached("pruned")
