"""What every side of the comparison reads and writes; needs nothing but torch.

Input: a JSON-lines file of token ids, in the order in which the steps take them. Output: one JSON file with the
time at the end of every step, the peak resident memory and the losses.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch


def arguments() -> argparse.Namespace:
    """The options that all sides share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float32", "bf16-autocast", "bf16"), required=True)
    parser.add_argument("--batch", type=int, required=True, help="records per optimizer step")
    parser.add_argument("--micro", type=int, required=True, help="records per forward pass")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--response", type=int, default=48, help="tokens that PPO samples at most")
    parser.add_argument("--pairs", type=int, help="pairs per forward pass of TRL's reward trainer")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def read(path: Path) -> list[dict[str, Any]]:
    """The records."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weights_dtype(dtype: str) -> torch.dtype:
    """Of weights, gradients and optimizer state."""
    return torch.bfloat16 if dtype == "bf16" else torch.float32


class Meter:
    """Notes when steps end."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.ends: list[float] = [time.perf_counter()]
        self.losses: list[float] = []
        self.phases: list[dict[str, float]] = []
        self.tokens: list[int] = []

    def step(self, loss: float | None = None, **phases: float) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())
        if loss is not None:
            self.losses.append(loss)
        if phases:
            self.phases.append(phases)

    def write(self) -> None:
        """Writes the file."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.out.write_text(
            json.dumps(
                {
                    "step_seconds": [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)],
                    "peak_mb": usage.ru_maxrss / 1024,
                    "minor_faults": usage.ru_minflt,
                    "losses": self.losses,
                    "phases": self.phases,
                    "tokens": self.tokens,
                }
            )
        )
