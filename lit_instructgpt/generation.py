"""Sampling from a policy: pure, at one temperature, from left-padded prompts.

No top-k or top-p: truncation would renormalise the probabilities the update relies on. The
log-probabilities are not taken from here; the training forward recomputes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from lit_instructgpt.models import positions

LEAVE_BELOW = 0.75
"""Finished rows leave the batch when at most this share of it is still alive: each time the cache is copied."""


@contextlib.contextmanager
def inference_mode(*models: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every submodule's own mode and checkpointing restored after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    checkpointing = [
        module
        for model in models
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False) is True
    ]
    for model in models:
        model.eval()
    for module in checkpointing:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        with torch.no_grad():
            yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, training in modes:
            module.training = training


def sample(
    policy: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples one response per row, up to EOS or ``max_new_tokens``.

    Args:
        policy: a causal language model.
        input_ids: [B, P] left-padded.
        attention_mask: [B, P].
        max_new_tokens: > 0.
        eos_token_id: ends a response, and belongs to it.
        pad_token_id: fills what follows.
        temperature: > 0; 0 takes the most likely token.
        generator: of the random numbers, on the policy's device.

    Returns:
        response_ids [B, R] right-padded and response_mask [B, R], True up to and including EOS;
        R <= max_new_tokens is the longest response.
    """
    num_rows, device = input_ids.shape[0], input_ids.device
    cache = DynamicCache(config=policy.config)
    mask, tokens, position_ids = attention_mask, input_ids, positions(attention_mask)
    rows = torch.arange(num_rows, device=device)  # the rows still in the batch
    alive = torch.ones(num_rows, dtype=torch.bool, device=device)
    response_ids = torch.full((num_rows, max_new_tokens), pad_token_id, device=device)
    lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
    with inference_mode(policy):
        for step in range(max_new_tokens):
            logits = policy(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = choose(logits, temperature, generator)
            response_ids[rows[alive], step] = chosen[alive]
            lengths[rows[alive]] += 1
            alive = alive & (chosen != eos_token_id)
            if not alive.any():
                break
            tokens, position_ids, mask = chosen[:, None], position_ids[:, -1:] + 1, F.pad(mask, (0, 1), value=True)
            if alive.sum() <= LEAVE_BELOW * len(alive):  # the finished rows leave the batch
                stay = alive.nonzero().squeeze(1)
                cache.batch_select_indices(stay)
                rows, alive = rows[stay], alive[stay]
                tokens, position_ids, mask = tokens[stay], position_ids[stay], mask[stay]
    width = int(lengths.max())
    response_mask = torch.arange(width, device=device) < lengths[:, None]
    return response_ids[:, :width], response_mask


def choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """One token per row from softmax(logits / temperature): [B, V] -> [B]; the argmax at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
