"""The K completions of a prompt in one row: [prompt, completion 1, ..., completion K].

The prompt is computed once, in the forward and the backward pass. A completion attends to the prompt and to
itself, and its positions continue the prompt's, so every hidden state is the one it would have in a row of
its own, up to the order of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_instructgpt.batch import Sliceable


@dataclass
class SharedRows(Sliceable):
    """Prompts with their completions behind them, right-padded. S tokens to a row, K completions.

    Attributes:
        input_ids: [B, S].
        position_ids: [B, S] position of each token in a sequence of prompt and its own completion.
        segment: [B, S] 0 for the prompt, k for completion k = 1..K, -1 for padding.
        last: [B, K] column of each completion's last token, 0 where none exists.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment: Tensor
    last: Tensor

    def lengths(self) -> Tensor:
        """Tokens of each row: [B]."""
        return (self.segment >= 0).sum(1)

    def trim(self) -> SharedRows:
        """Without the columns that are padding in every row."""
        width = int(self.lengths().max())
        return SharedRows(self.input_ids[:, :width], self.position_ids[:, :width], self.segment[:, :width], self.last)

    def attends(self) -> Tensor:
        """[B, 1, S, S] True where the row's token may see the column's.

        That is itself and what comes before it, in the prompt or in its own completion. Padding sees itself,
        so that no row of the softmax is empty.
        """
        segment, column = self.segment, torch.arange(self.segment.shape[1], device=self.segment.device)
        same = segment[:, :, None] == segment[:, None, :]
        prompt = (segment == 0)[:, None, :] & (segment >= 0)[:, :, None]
        return ((same | prompt) & (column[None, :] <= column[:, None]))[:, None]


def share_prompt(input_ids: Tensor, attention_mask: Tensor, num_prompt: Tensor) -> SharedRows:
    """Joins the K sequences of every prompt to one row.

    Args:
        input_ids: [B, K, T] prompt and completion, right-padded; the prompt is the same for all K.
        attention_mask: [B, K, T] False everywhere for a completion that does not exist; the first exists.
        num_prompt: [B] tokens of the prompt.
    """
    num_k, width = attention_mask.shape[1:]
    column = torch.arange(width, device=input_ids.device).expand_as(input_ids)
    number = torch.arange(1, num_k + 1, device=input_ids.device)[None, :, None].expand_as(input_ids)
    of_prompt = column < num_prompt[:, None, None]
    kept = attention_mask & (~of_prompt | (number == 1))
    place = kept.flatten(1).cumsum(1).view_as(kept) - 1
    size = int(kept.flatten(1).sum(1).max())

    def joined(values: Tensor, fill: int) -> Tensor:
        """[B, K, T] -> [B, S]; the last column takes what is not kept and is cut off."""
        out = torch.full((len(values), size + 1), fill, dtype=values.dtype, device=values.device)
        where = torch.where(kept, place, size).flatten(1)
        return out.scatter_(1, where, values.flatten(1))[:, :size]

    ends = attention_mask.sum(-1)
    last = place.gather(2, (ends - 1).clamp(min=0)[..., None]).squeeze(2)
    return SharedRows(
        joined(input_ids, 0),
        joined(column, 0),
        joined(torch.where(of_prompt, 0, number), -1),
        torch.where(ends > 0, last, 0),
    )


def less_work(rows: SharedRows, attention_mask: Tensor, hidden_size: int) -> Tensor:
    """Whether a prompt's row is less work than its K sequences apart: [B] bool.

    Counted in attended pairs of tokens: the matrices of a layer take about 24 d^2 operations for a token
    (attention's four and an MLP of width 4 d), attention itself 4 d for a pair. Completions much longer than
    their prompt are better apart: a row computes the attention between completions only to mask it.
    """
    together, apart = rows.lengths().double(), attention_mask.sum(-1).double()
    shared = 6 * hidden_size * together + together.square()
    return shared < 6 * hidden_size * apart.sum(1) + apart.square().sum(1)
