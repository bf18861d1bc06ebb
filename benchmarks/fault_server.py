"""Starts training runs for the fault harness: an interpreter that has imported the package forks one for each.

A run then costs its own work and not eight seconds of imports. Requests are lines of JSON on standard input, answers lines on
standard output. A run is the public command, ``lit-instructgpt ARGS``, in a process group of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.fault_injections import INJECTIONS
from lit_instructgpt import lightning_cli  # noqa: F401 (imported before the forks)
from lit_instructgpt.checkpoints import directory
from lit_instructgpt.cli import main
from lit_instructgpt.modules import PPOModule


def mark(file: str) -> Callable[[str], None]:
    """A function that appends a line and the time to a file, at once."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda line: os.write(handle, f"{line} {time.monotonic():.6f}\n".encode()) and None


def watch(marks: str, crash_at: str | None, occurrence: int, file_size: int | None) -> None:
    """Writes down each moment of a save and each phase of PPO.

    Args:
        marks: the file for it.
        crash_at: a moment at which the process ends.
        occurrence: the how-manieth save it is that fails.
        file_size: bytes that a file can have from there on: as on a full disk.
    """
    say, seen = mark(marks), 0

    def reached(moment: str) -> None:
        nonlocal seen
        say(f"save:{moment.replace(' ', '_')}")
        seen += moment == "begun"
        if seen == occurrence and moment == crash_at:
            os._exit(137)
        if seen == occurrence and moment == "begun" and file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))

    directory.reached = reached
    phase = PPOModule.phase

    @contextlib.contextmanager
    def marked(self: PPOModule, name: str) -> Iterator[None]:
        say(f"begin:{name}")
        with phase(self, name):
            yield
        say(f"end:{name}")

    PPOModule.phase = marked  # type: ignore[method-assign, assignment]


def child(request: dict[str, Any]) -> None:
    """Becomes the run; does not come back."""
    os.setsid()
    code = 70
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if "file_size" in request:  # the limit must not stop what the run says
            pipe = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=log, start_new_session=True).stdin
            assert pipe is not None
            log = pipe.fileno()
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        os.environ |= request.get("env", {})
        torch.set_num_threads(1)
        watch(request["marks"], request.get("crash_at"), request.get("occurrence", 1), request.get("file_size"))
        if "address_space" in request:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + request["address_space"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if "inject" in request:
            INJECTIONS[request["inject"]](**request.get("settings", {}))
        main(request["argv"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Forks for each request, and answers with the process id; ``{"wait": pid}`` waits for its end."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status, usage = os.wait4(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status), "peak": usage.ru_maxrss * 1024}
        else:
            pid = os.fork()
            if pid == 0:
                child(request)
            answer = {"pid": pid}
        os.write(answers, (json.dumps(answer) + "\n").encode())


if __name__ == "__main__":
    serve()
