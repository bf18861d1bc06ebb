"""Loaders that cut *global* batches, the same on any number of ranks, and remember where they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


def shuffled(num_items: int, seed: int, epoch: int) -> list[int]:
    """A permutation that depends on seed and epoch alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(num_items, generator=generator).tolist()


def repeated(num_items: int, num_samples: int, seed: int) -> list[int]:
    """``num_samples`` indices: permutation after permutation, so that every item comes equally often (+-1).

    Raises:
        ValueError: there are no items to repeat.
    """
    if num_items < 1 <= num_samples:
        raise ValueError(f"there are no items to draw {num_samples} from: give data that are not empty")
    indices: list[int] = []
    epoch = 0
    while len(indices) < num_samples:
        indices += shuffled(num_items, seed, epoch)
        epoch += 1
    return indices[:num_samples]


def mixed(num_demos: int, num_text: int, text_fraction: float, seed: int, epoch: int) -> list[int]:
    """All demonstrations, and text items (numbered after them) so that they make up ``text_fraction``.

    The text is drawn anew each epoch: the epochs together walk through it.
    """
    wanted = round(num_demos * text_fraction / (1 - text_fraction))
    drawn = repeated(num_text, wanted * (epoch + 1), seed + 1)[wanted * epoch :] if wanted else []
    items = list(range(num_demos)) + [num_demos + i for i in drawn]
    return [items[i] for i in shuffled(len(items), seed, epoch)]


def per_rank(batch_size: int, world_size: int, name: str = "data.batch_size") -> int:
    """This rank's share of a global batch.

    Raises:
        ValueError: it does not divide evenly.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"{name} ({batch_size}) is global and must be a positive multiple of the number of devices ({world_size})"
        )
    return batch_size // world_size


class GlobalBatches(Sampler[list[int]]):
    """Batches of a global order; each rank takes its slice of every batch.

    A last batch with fewer items than ranks is left out, since a rank would have nothing to do.

    Args:
        order: epoch -> indices.
        batch_size: global.
        rank: of this process.
        world_size: number of processes.
        drop_last: leave out an incomplete last batch (the order is another in the next epoch).
    """

    def __init__(
        self,
        order: Callable[[int], Sequence[int]],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        per_rank(batch_size, world_size)
        self.order, self.batch_size, self.drop_last = order, batch_size, drop_last
        self.rank, self.world_size = rank, world_size
        self.sampler = self  # Lightning calls set_epoch on a batch sampler's sampler, never on itself
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.order(self.epoch)), self.batch_size)
        return full + (rest >= self.world_size and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        indices = self.order(self.epoch)
        for i in range(self.start, len(self)):
            batch = list(indices[i * self.batch_size : (i + 1) * self.batch_size])
            yield batch[self.rank :: self.world_size]


class ResumableLoader(DataLoader[Any]):
    """A loader whose state is the number of batches it has given out in this epoch.

    Lightning saves it in checkpoints and restores it, so that a resumed run sees the batches that
    the interrupted one had not seen. Draws nothing from the global random number generator.
    """

    def __init__(self, items: Sequence[Any], batches: GlobalBatches, collate: Callable[[list[Any]], Any]) -> None:
        super().__init__(
            items,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            generator=torch.Generator(),
        )
        self.batches = batches
        self.given = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.given = self.batches.start
        for batch in super().__iter__():
            self.batches.start = 0  # for the next epoch; Lightning counts the batches and does not exhaust this
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches given out so far; 0 when the epoch is over."""
        return {"given": self.given if self.given < len(self.batches) else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues behind the batches given out before."""
        self.batches.start = state["given"]


def sequential_loader(items: Sequence[Any], batch_size: int, collate: Callable[[list[Any]], Any]) -> DataLoader[Any]:
    """For validation, test and prediction: in the data's order."""
    return DataLoader(items, batch_size=batch_size, collate_fn=collate, generator=torch.Generator())  # type: ignore[arg-type]
