"""The process's memory on a CPU: freed blocks are kept, and kernels compiled for sizes that do not come back are not."""

from __future__ import annotations

import ctypes
import os
import sys

MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2
"""Parameters of mallopt(3), from glibc's malloc.h."""


NUM_KERNELS = "64"
"""oneDNN keeps this many compiled kernels; by default 1,024. Batches of natural lengths hardly ever have one size twice."""


def forget_kernels() -> None:
    """Limits the kernels that oneDNN keeps, unless the user has; before torch computes anything."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", NUM_KERNELS)


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to serve large blocks from the heap and never to shrink it.

    Leaves an allocator alone that the user has chosen or tuned (``LD_PRELOAD``, ``MALLOC_*``, ``GLIBC_TUNABLES``).

    Returns:
        Whether it was told.
    """
    if sys.platform != "linux" or any(
        n in ("LD_PRELOAD", "GLIBC_TUNABLES") or n.startswith("MALLOC_") for n in os.environ
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, -1), mallopt(TOP_PAD, 64 << 20)])
