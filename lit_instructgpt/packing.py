"""Sequences in shared rows: nothing is padded that need not be, and a prompt is computed once for all its completions.

A row holds units one behind the other: a sequence, or a prompt with all its completions. A token attends to what
comes before it in its own sequence and to nothing else, and its position is that in its own sequence, so every hidden
state is the one it would have in a row of its own, up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WIDTHS = (1.0, 1.125, 1.25, 1.5, 1.75, 2.0, 3.0)
"""Widths of the rows that are tried, in lengths of the longest unit."""


@dataclass
class Sharing:
    """Which sequences have their first tokens in common.

    Attributes:
        owner: [B] number of the prompt of each sequence, sequences of one prompt in direct succession.
        num_prompt: [B] tokens that they share; 0 shares nothing.
    """

    owner: Tensor
    num_prompt: Tensor

    def take(self, rows: Tensor) -> Sharing:
        """Of some of the sequences."""
        return Sharing(self.owner[rows], self.num_prompt[rows])

    def first(self) -> Tensor:
        """[B] True for the sequences that carry their prompt: the first of each."""
        return torch.cat([torch.ones_like(self.owner[:1], dtype=torch.bool), self.owner[1:] != self.owner[:-1]])

    def where_less_work(self, lengths: Tensor, hidden_size: int) -> Sharing:
        """Without the prompts of which sharing would be more work.

        Counted in attended pairs of tokens: the matrices of a layer take about 24 d^2 operations for a token
        (attention's four and an MLP of width 4 d), attention itself 4 d for a pair. Completions much longer than
        their prompt are better apart: a row computes the attention between completions only to mask it.
        """
        first = self.first()
        number = first.cumsum(0) - 1
        together = unit_lengths(lengths, self).double()
        apart = torch.zeros_like(together).index_add_(0, number, work(lengths.double(), hidden_size))
        shared = (work(together, hidden_size) < apart)[number]
        return Sharing((first | ~shared).cumsum(0) - 1, torch.where(shared, self.num_prompt, 0))


def work(length: Tensor, hidden_size: int) -> Tensor:
    """Work on a row, in attended pairs of tokens; see ``Sharing.where_less_work``."""
    return 6 * hidden_size * length + length.square()


def no_sharing(num_sequences: int, device: torch.device) -> Sharing:
    """Every sequence for itself."""
    return Sharing(
        torch.arange(num_sequences, device=device), torch.zeros(num_sequences, dtype=torch.int64, device=device)
    )


def unit_lengths(lengths: Tensor, sharing: Sharing) -> Tensor:
    """Tokens of each unit, its prompt counted once: lengths [B] -> [U]."""
    first = sharing.first()
    own = torch.where(first, lengths, lengths - sharing.num_prompt)
    return torch.zeros_like(lengths[first]).index_add_(0, first.cumsum(0) - 1, own)


def check_micro_batches(size: int | None, tokens: int | None) -> None:
    """Refuses limits of a micro-batch that hold nothing.

    Raises:
        ValueError: naming setting and value.
    """
    for name, value in (("micro_batch_size", size), ("micro_batch_tokens", tokens)):
        if value is not None and value < 1:
            raise ValueError(f"model.{name} must be null or positive, got {value}")


def passes(
    lengths: Tensor, sharing: Sharing | None = None, num_tokens: int | None = None, num_sequences: int | None = None
) -> Iterator[Tensor]:
    """Indices of the sequences of one forward pass after the other: units of about one length together, longest first.

    Args:
        lengths: [B].
        sharing: their prompts; the sequences of one stay together.
        num_tokens: of a pass at the most, unless one unit alone has more; None: no limit.
        num_sequences: as ``num_tokens``.
    """
    sharing = sharing or no_sharing(len(lengths), lengths.device)
    units = unit_lengths(lengths, sharing).tolist()
    number = (sharing.first().cumsum(0) - 1).tolist()
    members: list[list[int]] = [[] for _ in units]
    for row, unit in enumerate(number):
        members[unit].append(row)
    group: list[int] = []
    tokens = 0
    for unit in sorted(range(len(units)), key=lambda i: -units[i]):
        full = num_tokens is not None and tokens + units[unit] > num_tokens
        if group and (full or (num_sequences is not None and len(group) + len(members[unit]) > num_sequences)):
            yield torch.tensor(group, device=lengths.device)
            group, tokens = [], 0
        group += members[unit]
        tokens += units[unit]
    if group:
        yield torch.tensor(group, device=lengths.device)


@dataclass
class Rows:
    """Packed sequences. N rows of S tokens hold the tokens of B sequences.

    Attributes:
        input_ids: [N, S].
        position_ids: [N, S] position of each token in its sequence.
        segment: [N, S] number of the stretch that a token belongs to, -1 for padding.
        prompt: [N, S] number of the stretch that its sequence begins with (its own, for a token of a prompt).
        place: [B, T] where each token of the sequences stands, in the rows laid end to end; 0 for padding.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment: Tensor
    prompt: Tensor
    place: Tensor

    def attends(self) -> Tensor:
        """[N, 1, S, S] True where the row's token may see the column's.

        That is itself and what comes before it in its stretch or in its prompt. Padding sees itself, so that no
        row of the softmax is empty.
        """
        column = torch.arange(self.segment.shape[1], device=self.segment.device)
        same = self.segment[:, :, None] == self.segment[:, None, :]
        prompt = self.prompt[:, :, None] == self.segment[:, None, :]
        return ((same | prompt) & (column[None, :] <= column[:, None]))[:, None]


def pack(input_ids: Tensor, attention_mask: Tensor, hidden_size: int, sharing: Sharing | None = None) -> Rows | None:
    """Puts sequences into shared rows; None where each would have a row of its own.

    Args:
        input_ids: [B, T] padded on either side.
        attention_mask: [B, T].
        hidden_size: of the model, by which the width of the rows is chosen.
        sharing: what sequences have in common; the tokens of a shared prompt are taken from its first sequence.
    """
    num = len(input_ids)
    lengths = attention_mask.sum(1)
    sharing = sharing or no_sharing(num, input_ids.device)
    first = sharing.first()
    number = first.cumsum(0) - 1
    units = unit_lengths(lengths, sharing).tolist()
    row, start, width = arrange(units, hidden_size)
    if max(row, default=0) + 1 == num:
        return None
    rank = attention_mask.cumsum(1) - 1
    of_prompt = attention_mask & (rank < sharing.num_prompt[:, None])
    kept = attention_mask & (~of_prompt | first[:, None])
    before = kept.flatten().cumsum(0).view_as(kept) - 1  # kept tokens before each, over all sequences
    begin = torch.tensor([0, *units], device=input_ids.device).cumsum(0)[number]
    base = torch.tensor([r * width + s for r, s in zip(row, start, strict=True)], device=input_ids.device)[number]
    place = base[:, None] + torch.where(of_prompt, rank, before - begin[:, None])
    size = (max(row) + 1) * width

    def laid(values: Tensor, fill: int) -> Tensor:
        """[B, T] -> [N, S]."""
        out = torch.full((size,), fill, dtype=torch.int64, device=input_ids.device)
        return out.index_copy_(0, place[kept], values[kept]).view(-1, width)

    owner = (num + number)[:, None].expand_as(rank)
    own = torch.arange(num, device=input_ids.device)[:, None].expand_as(rank)
    return Rows(
        laid(input_ids, 0), laid(rank, 0), laid(torch.where(of_prompt, owner, own), -1), laid(owner, -1),
        torch.where(attention_mask, place, 0),
    )  # fmt: skip


def arrange(units: Sequence[int], hidden_size: int) -> tuple[list[int], list[int], int]:
    """Row and first column of each unit, and the width of the rows: the arrangement with the least work.

    Longest first into the first row with room, for each of some widths.
    """
    order = sorted(range(len(units)), key=lambda i: -units[i])
    longest = max(units, default=1)
    best: tuple[float, list[int], list[int], int] | None = None
    for factor in WIDTHS:
        capacity, used = int(longest * factor), list[int]()
        row, start = [0] * len(units), [0] * len(units)
        for i in order:
            place = next((r for r, u in enumerate(used) if u + units[i] <= capacity), len(used))
            if place == len(used):
                used.append(0)
            row[i], start[i] = place, used[place]
            used[place] += units[i]
        width = max(used, default=1)
        total = len(used) * (6 * hidden_size * width + width * width)
        if best is None or total < best[0]:
            best = (total, row, start, width)
    assert best is not None
    return best[1:]
