"""Log-probabilities of chosen tokens: only their positions are projected to the vocabulary, a chunk at a time.

One function for the SFT loss, for the old, new and reference log-probabilities of PPO, and for text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_instructgpt.dropout import lay_out
from lit_instructgpt.functional import token_entropy, token_logprobs
from lit_instructgpt.hidden import hidden_states, positions
from lit_instructgpt.models import inference_mode
from lit_instructgpt.packing import Sharing
from lit_instructgpt.sharding import gathers

POSITIONS_PER_CHUNK = 4096
"""More positions than this are projected in turn, and once more in the backward pass: [N, V] is never whole."""

LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Of configs whose logits are more than a projection."""

_heads: WeakKeyDictionary[Any, Callable[[Tensor], Tensor] | None] = WeakKeyDictionary()


def next_token_logits(model: Any, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
    """Logits that predict the last ``keep`` tokens, by the model's own forward pass: [B, T] -> [B, keep, V].

    Only those are projected to the vocabulary.
    """
    lay_out(torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids), attention_mask)
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=False,
        logits_to_keep=keep + 1,
    )
    return output.logits[:, :-1]


def vocabulary_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The projection from the last hidden state to the logits; None where the model does more than project.

    Some families scale or cap their logits: told by the config, and tried on three tokens, once per model.
    """
    if any(getattr(model.config, name, None) is not None for name in LOGIT_SETTINGS):
        return None
    if model not in _heads:
        head = model.get_output_embeddings()
        ids = torch.arange(3, device=next(model.parameters()).device)[None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids, dtype=torch.bool), "position_ids": ids}
        with inference_mode(model), torch.autocast(ids.device.type, enabled=False):
            expected = model(**inputs, use_cache=False).logits
            found = head(model.base_model(**inputs, use_cache=False).last_hidden_state)
        same = found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
        _heads[model] = head if same else None
    return _heads[model]


def remember_head(model: Any, is_projection: bool) -> None:
    """As another process has found it out; see ``vocabulary_head``."""
    _heads[model] = model.get_output_embeddings() if is_projection else None


def same_head(model: Any, source: Any) -> None:
    """A copy that only computes faster projects as its source does; it is not tried again."""
    if source in _heads:
        _heads[model] = None if _heads[source] is None else model.get_output_embeddings()


@gathers
def target_logprobs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    sharing: Sharing | None = None,
    packing: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probability of every target token, and the entropy of what predicts it.

    Args:
        model: a causal language model.
        input_ids: [B, T].
        attention_mask: [B, T].
        targets: [B, T] True on the tokens that are asked for; a row's first is never one.
        temperature: of both.
        with_entropy: compute the entropies (no gradient), else they are 0.
        sharing: prompts that sequences have in common.
        packing: shared rows, see ``hidden_states``.

    Returns:
        logprobs and entropy, [N] float32 in nats, row by row; N is the number of targets.
    """
    wanted = targets[:, 1:]
    tokens = input_ids[:, 1:][wanted]
    head = vocabulary_head(model)
    if head is None:
        logits = next_token_logits(model, input_ids, attention_mask, input_ids.shape[1] - 1)[wanted]
        return _of_logits(logits, tokens, temperature, with_entropy)
    states, place = hidden_states(model.base_model, input_ids, attention_mask, sharing, packing)
    hidden = states[place[:, :-1][wanted]]

    def chunk(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk's log-probabilities and entropies."""
        return _of_logits(head(hidden), tokens, temperature, with_entropy)

    if len(hidden) <= POSITIONS_PER_CHUNK:
        return chunk(hidden, tokens)
    parts = [
        checkpoint(chunk, *part, use_reentrant=False) if torch.is_grad_enabled() else chunk(*part)
        for part in zip(torch.split(hidden, POSITIONS_PER_CHUNK), torch.split(tokens, POSITIONS_PER_CHUNK), strict=True)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _of_logits(logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool) -> tuple[Tensor, Tensor]:
    logprobs = token_logprobs(logits, tokens, temperature)
    with torch.no_grad():
        entropy = token_entropy(logits, temperature) if with_entropy else torch.zeros_like(logprobs)
    return logprobs, entropy


def response_logprobs(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_mask: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    sharing: Sharing | None = None,
    packing: bool = True,
) -> tuple[Tensor, Tensor]:
    """As ``target_logprobs``, for the response in the last R columns.

    Args:
        model: a causal language model.
        input_ids: [B, T].
        attention_mask: [B, T].
        response_mask: [B, R] True on the response's tokens.
        temperature: of both.
        with_entropy: compute the entropies.
        sharing: prompts that sequences have in common.
        packing: shared rows, see ``hidden_states``.

    Returns:
        logprobs and entropy [B, R], 0 outside the mask.
    """
    before = torch.zeros_like(attention_mask[:, : input_ids.shape[1] - response_mask.shape[1]])
    targets = torch.cat([before, response_mask], 1)
    found = target_logprobs(
        model, input_ids, attention_mask, targets, temperature, with_entropy, sharing, packing
    )  # fmt: skip
    zeros = torch.zeros(response_mask.shape, device=response_mask.device)
    logprobs, entropy = (zeros.masked_scatter(response_mask, values) for values in found)
    return logprobs, entropy
