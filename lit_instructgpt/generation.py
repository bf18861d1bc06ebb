"""Sampling from a policy: pure, at one temperature, from left-padded prompts.

No top-k or top-p: truncation would renormalise the probabilities the update relies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lit_instructgpt.batch import tokens_per_pass
from lit_instructgpt.functional import token_logprobs
from lit_instructgpt.hidden import positions
from lit_instructgpt.models import inference_mode
from lit_instructgpt.packing import passes

LEAVE_BELOW = 0.75
"""Finished rows leave the batch when at most this share of it is still alive: each time the cache is copied."""

ROOM = 64
"""Tokens that storage has room for at first; then it grows by half, so that a response of 2,000 is copied 7 times."""

BLOCK = 256
"""Tokens of the vocabulary whose probabilities are summed first: a draw looks into one block alone."""


@dataclass
class Sampled:
    """Responses. N = B * num_samples rows, those of one prompt together.

    Attributes:
        ids: [N, R] right-padded; R is the longest response.
        mask: [N, R] True up to and including EOS.
        logprobs: [N, R] float32 of the sampled tokens, at the temperature of sampling, as sampling saw them; 0
            outside the mask, and everywhere at temperature 0; None from an engine that does not say.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor | None


def sample(
    policy: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    num_samples: int = 1,
    uniform: Tensor | None = None,
) -> Sampled:
    """Samples responses up to EOS or ``max_new_tokens``; a prompt is computed once for all of its samples.

    Every row has random numbers of its own, so what it becomes does not depend on the rows beside it.

    Args:
        policy: a causal language model.
        input_ids: [B, P] left-padded.
        attention_mask: [B, P].
        max_new_tokens: > 0.
        eos_token_id: ends a response, and belongs to it.
        pad_token_id: fills what follows.
        temperature: > 0; 0 takes the most likely token.
        generator: of the random numbers, on the policy's device.
        num_samples: responses per prompt.
        uniform: [B * num_samples, max_new_tokens] numbers in [0, 1) that decide, in place of the generator's.

    Raises:
        FloatingPointError: the policy's logits are infinite or not numbers.
    """
    num_rows, device = len(input_ids) * num_samples, input_ids.device
    if uniform is None:
        uniform = torch.rand(num_rows, max_new_tokens, generator=generator, dtype=exact(device), device=device)
    rows = torch.arange(num_rows, device=device)  # the rows still in the batch
    alive = torch.ones(num_rows, dtype=torch.bool, device=device)
    response_ids = torch.full((num_rows, max_new_tokens), pad_token_id, device=device)
    logprobs = torch.zeros(num_rows, max_new_tokens, device=device)
    lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
    with inference_mode(policy):
        logits, cache, can_leave = prefill(policy, input_ids, attention_mask, num_samples)
        mask = attention_mask.repeat_interleave(num_samples, 0)
        position_ids = mask.sum(1, keepdim=True) - 1
        for step in range(max_new_tokens):
            chosen = choose(logits, temperature, uniform[rows, step])
            response_ids[rows[alive], step] = chosen[alive]
            if temperature > 0:
                logprobs[rows[alive], step] = token_logprobs(logits, chosen, temperature)[alive]
            lengths[rows[alive]] += 1
            alive = alive & (chosen != eos_token_id)
            if step + 1 == max_new_tokens or not alive.any():
                break
            position_ids, mask = position_ids + 1, F.pad(mask, (0, 1), value=True)
            if can_leave and alive.sum() <= LEAVE_BELOW * len(alive):  # the finished rows leave the batch
                stay = alive.nonzero().squeeze(1)
                cache.batch_select_indices(stay)
                rows, alive, chosen = rows[stay], alive[stay], chosen[stay]
                position_ids, mask = position_ids[stay], mask[stay]
            logits = policy(
                input_ids=chosen[:, None], attention_mask=mask, position_ids=position_ids, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
    if not torch.isfinite(logprobs).all():
        raise FloatingPointError(
            "sampling: the policy's logits are not finite: its weights have diverged, or are no weights"
        )
    width = int(lengths.max())
    response_mask = torch.arange(width, device=device) < lengths[:, None]
    return Sampled(response_ids[:, :width], response_mask, logprobs[:, :width])


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer in storage with room for more tokens: they are copied rarely as they grow.

    Under autocast they are kept in its dtype, in which attention reads them.
    """

    def __init__(self, like: DynamicLayer, num_rows: int, num_tokens: int) -> None:
        super().__init__()
        keys, kind = like.keys, like.keys.device.type
        self.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
        self.device, self.is_initialized = keys.device, True
        self.storage = [
            torch.zeros(num_rows, x.shape[1], num_tokens + ROOM, x.shape[3], dtype=self.dtype, device=x.device)
            for x in (keys, like.values)
        ]
        self._show(num_tokens)

    def _show(self, num_tokens: int) -> None:
        self.keys, self.values = (x[:, :, :num_tokens] for x in self.storage)

    def fill(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Writes what prompts left behind to the last columns of some rows."""
        width = keys.shape[2]
        for own, new in ((self.keys, keys), (self.values, values)):
            own[:, :, own.shape[2] - width :].index_copy_(0, rows, new.to(self.dtype))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Puts new tokens behind the others; all keys and values so far."""
        num, more = self.keys.shape[2], key_states.shape[2]
        if num + more > self.storage[0].shape[2]:
            self.storage = [F.pad(x, (0, 0, 0, num // 2 + more)) for x in self.storage]
        for storage, new in zip(self.storage, (key_states, value_states), strict=True):
            storage[:, :, num : num + more] = new
        self._show(num + more)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows."""
        self.storage = [F.pad(x[indices], (0, 0, 0, ROOM)) for x in (self.keys, self.values)]
        self._show(self.storage[0].shape[2] - ROOM)


def prefill(
    policy: Any, input_ids: Tensor, attention_mask: Tensor, num_samples: int
) -> tuple[Tensor, DynamicCache, bool]:
    """What comes behind each prompt, and the cache: prompts of about one length together, each computed once.

    Caches of windows and of states (linear attention, convolutions) are as the family has them: every sample computes its
    prompt, in one pass.

    Returns:
        logits [N, V] of the first token, N = B * num_samples; the cache of N rows; and whether rows can leave it.
    """
    cache = DynamicCache(config=policy.config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return (*_whole(policy, input_ids, attention_mask, num_samples), False)
    lengths = attention_mask.sum(1)
    groups = list(passes(lengths, num_tokens=tokens_per_pass(input_ids.device)))
    logits: Tensor | None = None
    layers: list[RoomyLayer] = []
    for group in groups:
        width = int(lengths[group].max()) if len(groups) > 1 else input_ids.shape[1]
        ids, mask = input_ids[group, -width:], attention_mask[group, -width:]
        part = DynamicCache(config=policy.config)
        found = policy(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), past_key_values=part, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1].repeat_interleave(num_samples, 0)  # fmt: skip
        rows = (group[:, None] * num_samples + torch.arange(num_samples, device=group.device)).flatten()
        if logits is None:
            logits = found.new_zeros(len(input_ids) * num_samples, found.shape[1])
        logits[rows] = found
        if num_samples > 1:
            part.batch_repeat_interleave(num_samples)
        if not all(type(layer) is DynamicLayer for layer in part.layers):
            return (*_whole(policy, input_ids, attention_mask, num_samples), False)
        if not layers:
            num = len(input_ids) * num_samples
            layers = [RoomyLayer(layer, num, input_ids.shape[1]) for layer in part.layers]
        for layer, new in zip(layers, part.layers, strict=True):
            layer.fill(rows, new.keys, new.values)
    assert logits is not None
    cache.layers = layers
    return logits, cache, True


def _whole(policy: Any, input_ids: Tensor, attention_mask: Tensor, num_samples: int) -> tuple[Tensor, DynamicCache]:
    ids, mask = (x.repeat_interleave(num_samples, 0) for x in (input_ids, attention_mask))
    cache = DynamicCache(config=policy.config)
    found = policy(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    return found.logits[:, -1], cache


def exact(device: torch.device) -> torch.dtype:
    """Of sums of probabilities and the numbers they are compared with; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def choose(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """One token per row from softmax(logits / temperature): [B, V] -> [B]; the argmax at temperature 0.

    By inversion, in two steps: the block of the vocabulary in which the sum of the probabilities passes
    ``uniform``, then the token in it.

    Args:
        logits: [B, V].
        temperature: >= 0.
        uniform: [B] in [0, 1), see ``exact``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    blocks = F.pad(probabilities, (0, -probabilities.shape[1] % BLOCK)).view(len(logits), -1, BLOCK)
    dtype = exact(logits.device)
    ends = blocks.sum(-1, dtype=dtype).cumsum(-1)
    target = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[1] - 1)
    begin = F.pad(ends, (1, 0)).gather(1, block)
    inside = blocks.take_along_dim(block[..., None], 1).squeeze(1).to(dtype).cumsum(-1)
    under = 1 - 4 * torch.finfo(dtype).eps
    rest = torch.minimum(target - begin, inside[:, -1:] * under)  # sums in another order differ in the last bits
    chosen = block * BLOCK + torch.searchsorted(inside, rest, right=True)
    return chosen.clamp(max=logits.shape[1] - 1).squeeze(1)  # beyond it only where probabilities are no numbers
