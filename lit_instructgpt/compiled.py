"""``torch.compile`` for models that are trained: layer by layer, so that one compilation serves all layers of a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from lit_instructgpt.dropout import outside_of_compilation
from lit_instructgpt.lora import sharing_weights
from lit_instructgpt.sharding import layers


def compile_layers(model: nn.Module) -> None:
    """Compiles each layer of a transformer, in place; its names and weights stay.

    The first rows are compiled for their size, the second for any: with every size open from the start (``dynamic=True``)
    torch 2.13 takes head sizes for open too, and fails on their powers.

    Copies of the model (for sampling, for an export) are plain.
    """
    outside_of_compilation(model)
    for layer in layers(model):
        layer.compile()


def plain(model: Any) -> Any:
    """A compiled model without its compilation, with the same weights; any other model as it is.

    A cache of keys and values would be compiled anew for each layer.
    """
    return model if all(layer._compiled_call_impl is None for layer in layers(model)) else sharing_weights(model)
