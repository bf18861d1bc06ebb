"""Attention for short rows on a CPU, where the flash kernel is slow: plain products, keys and values not repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHORT_ROWS = "short_rows"
"""The name under which a config asks for it."""


def short_rows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """softmax(query key^T * scaling + mask) value, the query heads of a key head side by side.

    What is not this formula (dropout, soft caps, sinks, biases) goes to transformers' ``sdpa``.

    Args:
        module: the attention module.
        query: [B, H, S, d].
        key: [B, G, T, d], G divides H.
        value: [B, G, T, e].
        attention_mask: [B or 1, 1, S, T], True or 0 where it may look.
        dropout: of the weights.
        scaling: d^-1/2 by default.
        kwargs: what families add.

    Returns:
        [B, S, H, e].
    """
    others = any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias", "cache"))
    if dropout or others or attention_mask is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    size, heads, num, width = query.shape
    groups = key.shape[1]
    scores = (
        query.reshape(size, groups, -1, width) @ key.transpose(2, 3) * (width**-0.5 if scaling is None else scaling)
    )
    if attention_mask.dtype == torch.bool:
        zeros = torch.zeros(attention_mask.shape, dtype=scores.dtype, device=scores.device)
        attention_mask = zeros.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    scores = scores.view(size, groups, -1, num, key.shape[2]) + attention_mask[:, :, None]
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    found = weights.view(size, groups, -1, key.shape[2]) @ value
    return found.view(size, heads, num, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(SHORT_ROWS, short_rows)
AttentionMaskInterface.register(SHORT_ROWS, sdpa_mask)
