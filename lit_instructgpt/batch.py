"""What the stages pass around.

Dimensions: B prompts, K completions, P prompt tokens, R response tokens, T = P + R. Masks are bool,
True = counts. Lightning moves every tensor in here to the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound="Sliceable")


@dataclass
class Sliceable:
    """A batch whose every field has the prompt as its first dimension."""

    def __len__(self) -> int:
        first = getattr(self, fields(self)[0].name)
        return len(first)

    def take(self: B, rows: slice | Tensor) -> B:
        """The rows of the batch, in the order given (a slice, or an int64 tensor of indices)."""
        return replace(self, **{f.name: _take(getattr(self, f.name), rows) for f in fields(self)})

    def split(self: B, size: int | None) -> Iterator[B]:
        """Consecutive micro-batches of at most ``size`` rows (all rows when None)."""
        step = size or max(len(self), 1)
        for start in range(0, len(self), step):
            yield self.take(slice(start, start + step))


def _take(value: Any, rows: slice | Tensor) -> Any:
    if isinstance(value, Tensor) or isinstance(rows, slice):
        return value[rows]
    return [value[i] for i in rows.tolist()]


@dataclass
class DemoBatch(Sliceable):
    """Demonstrations, or text (then every token but the first is a target). Right-padded.

    Attributes:
        input_ids: [B, T] int64.
        attention_mask: [B, T].
        response_mask: [B, T] True on the response's tokens, EOS included.
        is_text: [B] True for pretraining text.
        where: B places they were read from, ``FILE:LINE``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    is_text: Tensor
    where: list[str]


@dataclass
class ComparisonBatch(Sliceable):
    """Rankings: the K completions of a prompt are one element. Right-padded in K and T.

    Attributes:
        input_ids: [B, K, T] prompt and completion.
        attention_mask: [B, K, T].
        completion_mask: [B, K] True where the completion exists.
        ranking: [B, K] int64, 1 is best, equal is a tie, 0 where none exists.
        response_length: [B, K] tokens of the completion, EOS included.
        source: B names of where the comparison comes from.
        labeler: B ids of who ranked it.
        where: B places they were read from, ``FILE:LINE``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor
    ranking: Tensor
    response_length: Tensor
    source: list[str]
    labeler: list[str]
    where: list[str]


@dataclass
class PromptBatch(Sliceable):
    """Prompts, left-padded so that sampling starts at the same column.

    Attributes:
        input_ids: [B, P].
        attention_mask: [B, P].
        text: B prompts as the user wrote them (what a reward function on text receives).
        record: B records as read (id, user and whatever else the line held).
        where: B places they were read from, ``FILE:LINE``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    text: list[str]
    record: list[dict[str, Any]]
    where: list[str]


@dataclass
class Rollout(Sliceable):
    """Episodes with everything the update needs; no gradients.

    Attributes:
        input_ids: [B, T] left-padded prompt, then right-padded response.
        attention_mask: [B, T].
        response_mask: [B, R] True up to and including EOS.
        prompt: [B] number of the prompt; the responses to one prompt stand together.
        logprobs: [B, R] of the sampled tokens under the policy that sampled them.
        ref_logprobs: [B, R] under the frozen reference.
        values: [B, R] before each token.
        scores: [B] of the whole episode.
        rewards: [B, R] KL penalty, plus the score at the last token.
        advantages: [B, R] whitened.
        returns: [B, R] targets of the value model.
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    prompt: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    scores: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor

    @classmethod
    def empty(cls, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, prompt: Tensor) -> Rollout:
        """Sampled episodes whose numbers are still to be filled in."""
        per_token = {
            name: torch.zeros(response_mask.shape, device=input_ids.device)
            for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
        }
        scores = torch.zeros(len(input_ids), device=input_ids.device)
        return cls(input_ids, attention_mask, response_mask, prompt, scores=scores, **per_token)

    def trim(self) -> Rollout:
        """Without the columns that are padding in every row, left of prompts and right of responses."""
        num_prompt = self.input_ids.shape[1] - self.response_mask.shape[1]
        used = self.attention_mask.any(0)
        start = int(used[:num_prompt].long().argmax()) if used[:num_prompt].any() else num_prompt
        num = max(int(self.response_mask.any(0).sum()), 1)
        wide, narrow = slice(start, num_prompt + num), slice(0, num)
        per_token = [f.name for f in fields(self)[2:] if f.name not in ("scores", "prompt")]
        cut = {name: getattr(self, name)[:, narrow] for name in per_token}
        return replace(self, input_ids=self.input_ids[:, wide], attention_mask=self.attention_mask[:, wide], **cut)


def pad(rows: list[list[int]], value: int, left: bool = False, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Rectangular int64 tensor and its bool mask: [[1, 2], [3]] -> [B, T], [B, T]."""
    width = max([width or 1, *map(len, rows)])
    ids = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, where] = torch.tensor(row, dtype=torch.int64)
        mask[i, where] = True
    return ids, mask


def tokens_per_pass(device: torch.device) -> int:
    """Tokens that keep a device busy in one forward pass; larger passes pad more."""
    return 1024 if device.type == "cpu" else 16384
