"""What Lightning calls to write and read checkpoints: directories of ours, and its own files."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

import lit_instructgpt
from lit_instructgpt.checkpoints.directory import PARTIAL, begin, newest, seal, step_of, verify
from lit_instructgpt.checkpoints.state import num_bytes, read_state, split, write_state

SPARE = 1 << 20
"""Bytes asked for beyond the tensors: JSON, manifest, and what a filesystem needs for names."""


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a system says when there is no room: on the disk, and of one's share."""


class CheckpointDirectories(TorchCheckpointIO):
    """Checkpoints as directories (``step-N``); ``.ckpt`` files of Lightning's callbacks as ever, read without pickle.

    To resume, name a directory, or the folder of all of them: then the newest that verifies is taken, and what was
    skipped is said.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a directory, whole or not at all.

        Raises:
            OSError: no room, or the disk failed; nothing is left behind.
        """
        if step_of(Path(path)) is None:
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: Any,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads a directory, or the newest that can be used of a folder; verified first.

        Raises:
            CheckpointError: it cannot be used.
            FileNotFoundError: there is none.
        """
        if Path(path).is_file():
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_state(verified(Path(path)))


def alone(problem: str | None) -> str | None:
    """What processes agree on where there is one."""
    return problem


def its_own(num: int) -> int:
    """What processes take together where there is one."""
    return num


def write_checkpoint(
    checkpoint: dict[str, Any],
    path: Path,
    rank: int = 0,
    agree: Callable[[str | None], str | None] = alone,
    add: Callable[[int], int] = its_own,
) -> None:
    """Writes a directory, whole or not at all; every process its rows of what is sharded.

    Args:
        checkpoint: as Lightning collects it, the same on all processes but for sharded tensors.
        path: of the directory.
        rank: of this process.
        agree: waits for all processes, and returns the problem that any of them has.
        add: sums over all processes.

    Raises:
        OSError: no room, or the disk failed, on any process; nothing is left behind. An error of another kind, as it came,
            on the process that had it.
    """
    rest, tensors = split(checkpoint)
    num = add(num_bytes(tensors))
    partial = path.with_name(path.name + PARTIAL)

    def begun() -> None:
        if rank == 0:
            check_room(path.parent, num)
            begin(path)

    def written() -> None:
        write_state(rest, tensors, partial, rank)

    def sealed() -> None:
        if rank == 0:
            seal(partial, path, about(checkpoint))

    for step in (begun, written, sealed):
        failure: Exception | None = None
        try:
            step()
        except Exception as error:  # the others wait: they must hear of it first
            failure = error
        problem = agree(None if failure is None else told(failure))
        if problem is not None:
            break
    else:
        return
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
    if failure is not None and not isinstance(failure, OSError):
        raise failure
    free = shutil.disk_usage(path.parent).free
    full = free < num + SPARE or any(f"[Errno {code}]" in problem for code in FULL)
    raise OSError(
        f"{path} could not be saved ({problem}): {num + SPARE:,} bytes are needed, {free:,} are free; "
        f"{'make room' if full else 'mend that'} and resume with --ckpt_path last: the checkpoints before it are as they were"
    ) from failure


def told(error: Exception) -> str:
    """An error in a line: what the disk says as it says it, anything else with its type."""
    return str(error) if isinstance(error, OSError) and str(error) else f"{type(error).__name__}: {error}"


def verified(path: Path) -> Path:
    """A checkpoint directory as named, or the newest that can be used of a folder of them.

    Raises:
        CheckpointError: it cannot be used.
        FileNotFoundError: there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint {path}: correct --ckpt_path")
    if step_of(path) is not None:
        verify(path)
        return path
    found = newest(path)
    if found.skipped:
        why = "; ".join(found.skipped)
        rank_zero_warn(f"resuming from {found.path}, the newest that can be used; skipped: {why}")
    else:
        rank_zero_info(f"resuming from {found.path}")
    return found.path


def check_room(folder: Path, num: int) -> None:
    """Refuses a save that has no room.

    Raises:
        OSError: naming the bytes needed and free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < num + SPARE:
        raise OSError(f"no room: {free:,} bytes are free")


def about(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of a checkpoint."""
    return {
        "step": checkpoint.get("global_step"),
        "versions": {
            "lit-instructgpt": lit_instructgpt.__version__,
            "torch": torch.__version__,
            "lightning": lightning.__version__,
            "python": sys.version.split()[0],
        },
    }
