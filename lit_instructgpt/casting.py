"""Weights in bfloat16 that autocast would cast to it at every use: the same numbers, without the casts.

Autocast computes matrix products in bfloat16 and casts their float32 weights each time. Weights that do not change
between uses (of the frozen models, and of the policy while it samples) are cast once here. Everything else, the
embeddings and norms among it, stays in float32, so that every output is the one under autocast to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lit_instructgpt.hidden import can_pack
from lit_instructgpt.logprobs import vocabulary_head


def matrices(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose matrix products autocast computes in bfloat16; not a scalar head, which is float32."""
    scalar_head = getattr(model, "score", None)
    return (m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not scalar_head)


@torch.no_grad()
def cast_matrices(model: Any, dtype: torch.dtype = torch.bfloat16) -> None:
    """Casts the weights of a frozen transformers model's matrices; it then runs under autocast alone.

    A vocabulary head that shares its weight with the embeddings gets one of its own.
    """
    _look_at(model)
    for module in matrices(model):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))


class LowPrecisionCopy:
    """A policy for passes without gradients under autocast: its matrices in bfloat16, all else shared with it.

    Args:
        model: the policy that is trained.
    """

    def __init__(self, model: Any) -> None:
        _look_at(model)
        casts = {id(p) for module in matrices(model) for p in module.parameters(recurse=False)}
        shared = {id(p): p for p in model.parameters() if id(p) not in casts}
        shared |= {id(p): p for p in model.get_input_embeddings().parameters()}
        self.source, self.model = model, copy.deepcopy(model, shared)
        cast_matrices(self.model.eval())

    @torch.no_grad()
    def refreshed(self) -> Any:
        """The copy, with the weights that the policy has now."""
        for own, source in zip(matrices(self.model), matrices(self.source), strict=True):
            for name, parameter in own.named_parameters(recurse=False):
                parameter.copy_(getattr(source, name))
        return self.model


def _look_at(model: Any) -> None:
    """Tries what is tried in float32 alone, while the model still is."""
    can_pack(model.base_model)
    if model.get_output_embeddings() is not None:
        vocabulary_head(model)
