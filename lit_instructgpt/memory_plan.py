"""How much memory a run will take, counted before a weight is loaded.

Weights are counted on models without storage; what a backward pass needs is counted by running the forward pass on tensors
without storage and adding up what autograd keeps. Nothing is estimated by a rule of thumb but ``SLACK`` and ``LIBRARIES``.
"""

from __future__ import annotations

import copy
import random
import resource
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel
from transformers.masking_utils import sdpa_mask

from lit_instructgpt.attention import SHORT_ROWS
from lit_instructgpt.hidden import SHORT
from lit_instructgpt.logprobs import POSITIONS_PER_CHUNK

DRAWN = 300
"""Batches among which the largest is looked for: unequal examples make some much larger than the mean."""

SLACK = 1.05
"""Of the allocator: blocks that do not fit one another."""

FUSED = "fused_without_storage"
"""The name under which a config asks for ``fused``."""

LOADING = "loading"
"""The phase before training: the first process of a sharded run holds a whole model, one at a time."""

LATER = ("optimizer", "moving average")
"""What is not there yet while models are loaded."""

LIBRARIES = 150 << 20
"""Bytes that libraries take when they are first used: oneDNN's kernels, threads."""


@dataclass(frozen=True)
class Part:
    """Something that takes memory.

    Attributes:
        model: policy, ref, reward_model, value_model, or run.
        what: weights, gradients, optimizer, moving average, copy, cache, activations, logits.
        num_bytes: on one device.
        phase: in which it is there; ``always``, or one of those that come in turn.
    """

    model: str
    what: str
    num_bytes: int
    phase: str = "always"


@dataclass
class Plan:
    """All parts, on one device.

    Attributes:
        parts: what takes memory.
        base: bytes of the process before anything is loaded.
        reuses: what one phase frees serves the next. On a CPU it hardly does: freed memory stays in the process (allocator.py),
            in pieces that are too small for the blocks of another phase, so that phases add up.
    """

    parts: list[Part] = field(default_factory=list)
    base: int = 0
    reuses: bool = True

    def add(self, model: str, what: str, num_bytes: float, phase: str = "always") -> None:
        """One more part."""
        self.parts.append(Part(model, what, int(num_bytes), phase))

    def phases(self) -> list[str]:
        """Those that come in turn."""
        return list(dict.fromkeys(part.phase for part in self.parts if part.phase != "always")) or ["always"]

    def of_phase(self, phase: str) -> int:
        """Bytes at work in a phase."""
        return sum(
            part.num_bytes
            for part in self.parts
            if part.phase in ("always", phase) and not (phase == LOADING and part.what in LATER)
        )

    def peak(self) -> int:
        """Bytes at the most."""
        largest = max(self.of_phase(phase) for phase in self.phases())
        if not self.reuses:
            largest = max(largest, sum(part.num_bytes for part in self.parts))
        return int(self.base + SLACK * largest)

    def table(self) -> str:
        """Lines to be printed: a row for each model, a column for each kind of part, MB."""
        kinds = list(dict.fromkeys(part.what for part in self.parts))
        models = list(dict.fromkeys(part.model for part in self.parts))
        lines = ["memory plan, MB on each device:", "  " + " ".join(["model".ljust(14), *(k.rjust(14) for k in kinds)])]
        for model in models:
            cells = [sum(p.num_bytes for p in self.parts if (p.model, p.what) == (model, kind)) for kind in kinds]
            row = [model.ljust(14), *((megabytes(cell) if cell else "-").rjust(14) for cell in cells)]
            lines.append("  " + " ".join(row))
        phases = ", ".join(f"{phase} {self.of_phase(phase) / 2**20:,.0f}" for phase in self.phases())
        lines.append(f"  {phases}; the process itself {self.base / 2**20:,.0f}; peak {self.peak() / 2**20:,.0f}")
        return "\n".join(lines)


def megabytes(num_bytes: float) -> str:
    """MB (2^20 bytes), with a decimal where there are few."""
    mb = num_bytes / 2**20
    return f"{mb:,.0f}" if mb >= 10 else f"{mb:.1f}"


def count_weights(model: nn.Module) -> int:
    """Entries of all weights; tied ones once."""
    return sum(p.numel() for p in model.parameters())


def without_storage(config: Any, auto: Any) -> tuple[Any, FakeTensorMode]:
    """A model of a config, whose tensors have shapes alone; float32."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, torch.random.fork_rng():
        return auto.from_config(copy.deepcopy(config), dtype=torch.float32), mode  # the model's config will be changed


def activation_bytes(
    config: Any,
    num_tokens: int,
    width: int,
    autocast: torch.dtype | None = None,
    checkpointing: bool = False,
    device: str = "cpu",
) -> int:
    """What autograd keeps of a transformer's forward pass over ``num_tokens`` tokens in rows of ``width``.

    Matrices that autocast has cast are among it.

    Args:
        config: of the model.
        num_tokens: of the pass.
        width: tokens of a row.
        autocast: dtype of matrix products, None for that of the weights.
        checkpointing: the layers keep their inputs alone, and one layer at a time the rest.
        device: its type; short rows have an attention of their own on a CPU alone.
    """
    width = min(width, num_tokens)
    model, mode = without_storage(config, AutoModel)
    kept: dict[int, int] = {}
    with mode:
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        rows = -(-num_tokens // width)
        ids = torch.zeros(rows, width, dtype=torch.int64)
        mask = torch.zeros(rows, 1, width, width, dtype=autocast or torch.float32)  # as hidden.py makes it
        if model.config._attn_implementation == "sdpa":
            short = device == "cpu" and width <= SHORT and not checkpointing
            model.config._attn_implementation = SHORT_ROWS if short else FUSED

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in weights:
                kept[storage._cdata] = storage.nbytes()
            return x

        inside = torch.autocast("cpu", autocast) if autocast is not None else nullcontext()
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        with inside, hooks:
            model(input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False)
    total = sum(kept.values())
    if not checkpointing:
        return total
    layers = config.num_hidden_layers
    return total // layers + layers * num_tokens * config.hidden_size * 4


class _Fused(torch.autograd.Function):
    """What a fused attention kernel keeps: its inputs with the mask, its output, and one number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """[B, H, S, d] -> [B, H, S, d], not computed."""
        found = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, mask, found, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return found


def fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of a model without storage, for which torch would choose no fused kernel.

    As transformers calls torch's with a mask: keys and values once for every head of the queries, all of it in autocast's dtype.
    """
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (x.to(torch.get_autocast_dtype("cpu")) for x in (query, key, value))
    return _Fused.apply(query, key, value, attention_mask).transpose(1, 2).contiguous(), None  # type: ignore[no-untyped-call]


AttentionInterface.register(FUSED, fused)
AttentionMaskInterface.register(FUSED, sdpa_mask)


def logit_bytes(config: Any, num_positions: int) -> int:
    """The vocabulary projection of one chunk, its log-softmax and its gradient, float32."""
    return 3 * 4 * min(num_positions, POSITIONS_PER_CHUNK) * config.vocab_size


def largest_batch(tokens: Sequence[int], size: int) -> int:
    """Tokens of the largest of DRAWN batches, drawn from examples of so many tokens each; always the same."""
    size = min(size, len(tokens))
    rng = random.Random(0)
    return max(sum(rng.sample(tokens, size)) for _ in range(DRAWN))


def cache_bytes(config: Any, num_rows: int, num_tokens: int, entry: int) -> int:
    """Keys and values of all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * num_rows * num_tokens * entry


def resident_bytes() -> int:
    """What this process has taken so far, at the most; without what a parent held, where the system tells them apart."""
    held = _kilobytes("/proc/self/status", "VmHWM")
    if held is not None:
        return held
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def available_bytes(device: torch.device) -> int:
    """What a device could still give, of what this process may take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [
        limit - taken
        for limit, taken in (
            (resource.getrlimit(resource.RLIMIT_AS)[0], _kilobytes("/proc/self/status", "VmSize")),
            (resource.getrlimit(resource.RLIMIT_DATA)[0], _kilobytes("/proc/self/status", "VmData")),
            (_number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")),
        )
        if limit is not None and taken is not None and limit != resource.RLIM_INFINITY
    ]
    free = _kilobytes("/proc/meminfo", "MemAvailable")
    return min([*found, *([] if free is None else [free])], default=sys.maxsize)


def _kilobytes(file: str, name: str) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in Path(file).read_text(encoding="ascii").splitlines() if ":" in line)
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def check_fits(plan: Plan, available: int, advice: Iterable[tuple[str, Plan]]) -> None:
    """Refuses a plan that needs more memory than there is.

    Args:
        plan: of the run.
        available: bytes, the process's own included.
        advice: what could be set instead, and the plan that it would give.

    Raises:
        MemoryError: with the figures, and what would fit.
    """
    if plan.peak() <= available:
        return
    options = sorted(((other.peak(), setting) for setting, other in advice), key=lambda option: option[0])
    said = [f"{setting}: {peak / 2**20:,.0f} MB" for peak, setting in options if peak < plan.peak()]
    enough = options and options[0][0] <= available
    raise MemoryError(
        f"this run would take {plan.peak() / 2**20:,.0f} MB and {available / 2**20:,.0f} MB are available (the plan is above).\n"
        + ("less memory is taken by " + "; ".join(said) if said else "take a smaller model or smaller batches")
        + ("" if enough or not said else "; none of these fits here: take a smaller model, or more memory")
        + ".\nThe settings belong to model.init_args (in PPO to model.init_args.ppo); docs/scale.md has the commands"
    )
