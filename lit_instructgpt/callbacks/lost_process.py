"""Says which process of a run failed, and leaves none behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_instructgpt.checkpoints.position import Stopped
from lit_instructgpt.ranks import of_every_process

PATIENCE = 4.0
"""Seconds in which every process that has lost another one can say so."""

FROM_COLLECTIVES = ("RuntimeError", "DistBackendError", "DistNetworkError", "DistStoreError")
"""Types of the errors that torch.distributed raises; a reward's server that is down raises others."""

LOST = ("Connection", "Broken pipe", "imed out", "Socket", "closed by peer", "reset by peer", "NCCL", "gloo")
"""Of errors that only say that another process is gone or late."""


class LostProcess(Callback):
    """When a run on several processes ends by an error, names the process that caused it.

    A process that fails leaves a line in ``RUN_DIR/failed`` for the others, who only lose a connection. One that leaves none
    was killed, or hangs, and is ended where it is on the same machine. (NCCL ends waiting processes itself; then the
    launcher names the rank.)
    """

    def __init__(self) -> None:
        self.processes: list[tuple[str, int, str]] = []
        self.folder = Path()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns machine, number and start of every process."""
        if trainer.world_size == 1:
            return
        self.folder = Path(trainer.log_dir or trainer.default_root_dir, "failed")
        if trainer.is_global_zero:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        self.processes = of_every_process((socket.gethostname(), os.getpid(), _started(os.getpid())))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A run that has ended well leaves nothing."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells the others; one that has only lost another listens to them first."""
        if not self.processes or isinstance(exception, Stopped):
            return
        rank, world = trainer.global_rank, trainer.world_size
        own = f"{type(exception).__name__}: {exception}".splitlines()[0][:500]
        (self.folder / f"{rank}").write_text(own, encoding="utf-8")
        said = {rank: own}
        end = time.monotonic() + (PATIENCE if _lost(own) else 0.0)
        while len(said) < world and time.monotonic() < end:
            for other in set(range(world)) - set(said):
                if (self.folder / f"{other}").exists():
                    said[other] = (self.folder / f"{other}").read_text(encoding="utf-8")
            time.sleep(0.05)
        if _lost(own):
            said |= {other: self._ended(other) for other in range(world) if other not in said}
        causes = {r: text for r, text in said.items() if not _lost(text)} or said
        print("; ".join(f"process {r} {text}" for r, text in sorted(causes.items())), file=sys.stderr, flush=True)

    def _ended(self, rank: int) -> str:
        host, pid, started = self.processes[rank]
        if host != socket.gethostname():
            return f"(on {host}) gave no sign: it was killed, or hangs"
        if not _alive(pid) or _started(pid) != started:  # the number may be another process's by now
            return f"(pid {pid}) was killed"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return f"(pid {pid}) hung, and has been ended"


def _started(pid: int) -> str:
    """When a process began, in the system's own ticks; nothing where the system does not say."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _lost(text: str) -> bool:
    return text.startswith(FROM_COLLECTIVES) and any(word in text for word in LOST)
