"""Exponential moving average of the policy's weights (the paper: 0.992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class WeightEMA:
    """``average = decay * average + (1 - decay) * weight`` after every optimizer step, in float32.

    Sharded as the weights are. Of the trainable weights alone, and never of the frozen models or the value model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {decay}")
        self.decay = decay
        self.average = {name: p.detach().clone().float() for name, p in _trainable(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call once after each optimizer step."""
        for name, parameter in _trainable(model):
            _here(self.average[name]).lerp_(_here(parameter.detach()).float(), 1 - self.decay)

    @contextlib.contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside and its own again after."""
        own = {name: p.detach().clone() for name, p in _trainable(model)}
        self._copy(model, self.average)
        try:
            yield
        finally:
            self._copy(model, own)

    @torch.no_grad()
    def _copy(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        for name, parameter in _trainable(model):
            _here(parameter).copy_(_here(weights[name]))


def _here(x: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
