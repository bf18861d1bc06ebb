"""What the processes of a run tell one another: sums, the same number of passes, and rows of a global batch.

Prompt number i of a process with rank r is number i * W + r of the global batch, W being the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

T = TypeVar("T")


def sum_over_ranks(module: LightningModule, x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, elementwise, where it is; the tensor itself on one."""
    if module.trainer.world_size == 1:
        return x
    sent = x.detach().to(module.device, copy=True)  # NCCL sends what is on its device alone
    torch.distributed.all_reduce(sent)
    return sent.to(x.device)


def in_step(module: LightningModule, passes: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """The passes of this process, and whether each counts: as many as the process with the most of them takes.

    Those that are too many repeat the last one, and count nothing: processes that share a model, or average gradients,
    must pass together.
    """
    if module.trainer.world_size == 1:
        yield from ((one, True) for one in passes)
        return
    own = list(passes)
    most = torch.tensor(len(own), device=module.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    for i in range(int(most)):
        yield (own[i], True) if i < len(own) else (own[-1], False)


def own_rows(num_groups: int, group: int, rank: int, world_size: int, device: torch.device) -> Tensor:
    """Rows of a global batch that are this process's: every ``world_size``-th group of rows, in order.

    Args:
        num_groups: of the global batch.
        group: rows that stay together (the responses to a prompt).
        rank: of this process.
        world_size: number of processes.
        device: of the result.
    """
    groups = torch.arange(rank, num_groups, world_size, device=device)
    return (groups[:, None] * group + torch.arange(group, device=device)).flatten()


def of_all_ranks(module: LightningModule, x: Tensor, group: int = 1) -> Tensor:
    """Rows of all processes in their global order; see ``own_rows``. Every process has as many, of the same width."""
    if module.trainer.world_size == 1:
        return x
    sent = x.to(torch.uint8) if x.dtype == torch.bool else x
    parts = [torch.empty_like(sent) for _ in range(module.trainer.world_size)]
    torch.distributed.all_gather(parts, sent.contiguous())
    stacked = torch.stack([part.view(-1, group, *part.shape[1:]) for part in parts], 1)  # [groups, ranks, group, ...]
    return stacked.flatten(0, 2).to(x.dtype)


def widest(module: LightningModule, width: int) -> int:
    """The largest of a number over all processes."""
    if module.trainer.world_size == 1:
        return width
    found = torch.tensor(width, device=module.device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def padded(x: Tensor, width: int, value: Any, left: bool = False) -> Tensor:
    """Columns added to the right, or left: [B, n] -> [B, width]."""
    num = width - x.shape[1]
    return F.pad(x, (num, 0) if left else (0, num), value=value) if num else x


def of_every_process(x: T) -> list[T]:
    """What each process has, by rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [x]
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, x)
    return parts


def objects_of_all_ranks(module: LightningModule, objects: list[T], group: int = 1) -> list[T]:
    """As ``of_all_ranks``, for anything that can be sent."""
    if module.trainer.world_size == 1:
        return objects
    parts = of_every_process(objects)
    return [x for i in range(0, len(objects), group) for part in parts for x in part[i : i + group]]
