"""The allocator's settings, in a process of their own."""

import os
import subprocess
import sys

import pytest

from lit_instructgpt.allocator import forget_kernels

PROGRAM = """
import resource, torch
from lit_instructgpt.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(12):  # small blocks settle first
    torch.empty(50_000_000).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.empty(50_000_000).fill_(1.0)  # 200 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "GLIBC_TUNABLES") and k[:7] != "MALLOC_"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    told, faults = done.stdout.split()
    return told, int(faults)


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "confstr"), reason="glibc on Linux alone")
def test_freed_blocks_are_not_faulted_in_again():
    told, faults = run()
    assert told == "True"
    assert faults < 1000, "200 MB have 48,828 pages of 4 KiB"


def test_an_allocator_that_the_user_tuned_is_left_alone():
    told, faults = run(MALLOC_ARENA_MAX="2")
    assert told == "False"
    assert faults > 1000


COMMAND = """
import os, sys
from lit_instructgpt import cli
def stop():
    print("torch" in sys.modules, os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"])
    raise SystemExit
cli.keep_freed_memory = stop
cli.main(["fit", "--help"])
"""


def test_the_command_limits_the_kernels_before_torch_is_there():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ONEDNN")}
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "64"]


def test_a_limit_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    forget_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
