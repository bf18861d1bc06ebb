"""A transformer's hidden states for sequences: packed into shared rows where that is exact, padded elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_instructgpt.attention import SHORT_ROWS
from lit_instructgpt.dropout import lay_out
from lit_instructgpt.models import inference_mode
from lit_instructgpt.packing import Rows, Sharing, pack

SHORT = 384
"""Rows up to this width have the attention of attention.py on a CPU: its flash kernel is slower below, in bfloat16 by far."""

WINDOWS = ("sliding_window", "window_size", "attention_types", "attention_chunk_size")
"""Of configs whose attention looks at a window, counted in columns."""

_reasons: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids counted from the first real token: [B, T] -> [B, T]; equal for both paddings."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def hidden_states(
    transformer: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    sharing: Sharing | None = None,
    packing: bool = True,
) -> tuple[Tensor, Tensor]:
    """Last hidden states, and where to find each token's.

    Args:
        transformer: a family's base model, without a head.
        input_ids: [B, T] padded on either side.
        attention_mask: [B, T].
        sharing: prompts that sequences have in common, computed once if packed.
        packing: shared rows if the architecture can; False: padded rows.

    Returns:
        states [M, d], and place [B, T]: the state of token t of sequence b is ``states[place[b, t]]``.
    """
    packable = packing and can_pack(transformer)
    rows = pack(input_ids, attention_mask, transformer.config.hidden_size, sharing) if packable else None
    padded = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
    lay_out(padded if rows is None else rows.place, attention_mask)
    if rows is not None:
        return packed_states(transformer, rows), rows.place
    with attention_for(transformer, input_ids.shape[1]) if packable else contextlib.nullcontext():
        states = transformer(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions(attention_mask), use_cache=False
        ).last_hidden_state
    return states.flatten(0, 1), padded


def packed_states(transformer: Any, rows: Rows) -> Tensor:
    """Hidden states of all tokens of the rows: [N * S, d]."""
    mask = torch.where(rows.attends(), 0.0, torch.finfo(torch.float32).min)  # once, and not again in every layer
    lower = torch.is_autocast_enabled(mask.device.type)
    mask = mask.to(torch.get_autocast_dtype(mask.device.type) if lower else transformer.dtype)
    with attention_for(transformer, mask.shape[-1]):
        states = transformer(
            input_ids=rows.input_ids, attention_mask=mask, position_ids=rows.position_ids, use_cache=False
        ).last_hidden_state
    return states.flatten(0, 1)


@contextlib.contextmanager
def attention_for(transformer: Any, width: int) -> Iterator[None]:
    """The faster attention for rows of this width. See ``SHORT``."""
    config = transformer.config
    usual = config._attn_implementation
    narrow = (
        usual == "sdpa"
        and transformer.device.type == "cpu"
        and width <= SHORT
        and not any(
            getattr(m, "gradient_checkpointing", False) for m in transformer.modules()
        )  # computed again elsewhere
    )
    if not narrow:
        yield
        return
    config._attn_implementation = SHORT_ROWS
    try:
        yield
    finally:
        config._attn_implementation = usual


def can_pack(transformer: Any) -> bool:
    """Whether packed rows are exact for this architecture; says once, loudly, if they are not."""
    if transformer not in _reasons:
        _reasons[transformer] = reason = why_not_packed(transformer)
        if reason:
            rank_zero_warn(
                f"packing: {type(transformer).__name__} computes every sequence in a padded row of its own, which is "
                f"slower: {reason}. Set packing: false to say so yourself"
            )
    return _reasons[transformer] is None


def packing_reason(transformer: Any) -> str | None:
    """Why it is not packed; None: it is."""
    can_pack(transformer)
    return _reasons[transformer]


def remember_packing(transformer: Any, reason: str | None) -> None:
    """As another process has found it out; see ``why_not_packed``."""
    _reasons[transformer] = reason


def same_kind(transformer: Any, source: Any) -> None:
    """A copy that only computes faster can what its source can; it is not tried again."""
    if source in _reasons:
        _reasons[transformer] = _reasons[source]


def why_not_packed(transformer: Any) -> str | None:
    """Why this architecture's states would differ in shared rows; None: they agree.

    Told by its config, and tried on two completions of a prompt of four tokens and a third sequence.
    """
    config = transformer.config
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {config._attn_implementation!r} takes no mask of its own"
    local = {"sliding_attention", "chunked_attention"} & set(getattr(config, "layer_types", None) or [])
    if local or any(getattr(config, name, None) for name in WINDOWS):
        return "it has windows of attention, and counts them in columns"
    device = transformer.device
    ids = torch.arange(1, 28, device=device).view(3, 9) % config.vocab_size
    ids[1, :4] = ids[0, :4]
    mask = torch.arange(9, device=device) < torch.tensor([[7], [9], [3]], device=device)
    sharing = Sharing(torch.tensor([0, 0, 1], device=device), torch.tensor([4, 4, 0], device=device))
    rows = pack(ids, mask, 1 << 20, sharing)
    assert rows is not None
    try:
        with inference_mode(transformer), torch.autocast(device.type, enabled=False):
            apart = transformer(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
            ).last_hidden_state
            together = packed_states(transformer, rows)[rows.place]
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"its attention takes no mask of its own ({str(error).splitlines()[0]})"
    if not torch.isfinite(apart[mask]).all():
        return None  # the weights are no numbers, which the first step says
    difference = float((together - apart)[mask].abs().max() / apart[mask].abs().max().clamp(min=1))
    tolerance = 1e-3 if transformer.dtype == torch.float32 else 0.05
    return None if difference <= tolerance else f"states differ by {difference:.2g}"  # NaN is no agreement
