"""The paper's residual dropout, with random numbers that belong to samples.

What is dropped for a sample depends on a key of its own and on the block, never on the samples beside it, the rows that they
share, the micro-batch or the process: two processes drop what one drops, and a resumed run what the other would have.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_keys: list[int] | None = None
_places: list[Tensor] | None = None


def key_of(*parts: object) -> int:
    """A key from anything that can be written down: the seed, the step, where a sample is from."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:7])


@contextlib.contextmanager
def dropout_keys() -> Iterator[None]:
    """Inside, keys given by ``next_keys`` decide what is dropped."""
    global _keys, _places
    try:
        yield
    finally:
        _keys = _places = None


def next_keys(keys: Sequence[int]) -> None:
    """The keys of the sequences of the next forward pass, which hold for its backward pass too."""
    global _keys, _places
    _keys, _places = list(keys), None


def lay_out(place: Tensor, attention_mask: Tensor) -> None:
    """Tells where the tokens of each sequence stand in the rows that a transformer is about to read, if keys are in force.

    Args:
        place: [B, T] number of each token's position, in the rows laid end to end.
        attention_mask: [B, T].
    """
    global _places
    if _keys is not None:
        _places = [own[mask] for own, mask in zip(place, attention_mask, strict=True)]


def kept(shape: torch.Size, probability: float, block: int, device: torch.device) -> Tensor:
    """What a block keeps, of [N, S, d] states, by the keys in force: 1 or 0; 0 for padding."""
    assert _keys is not None
    assert _places is not None
    generator = torch.Generator(device)
    found = torch.zeros(shape[0] * shape[1], shape[2], device=device)
    for key, place in zip(_keys, _places, strict=True):
        generator.manual_seed((key * 1_000_003 + block) % 2**63)
        found[place] = (torch.rand(len(place), shape[2], generator=generator, device=device) >= probability).float()
    return found.view(shape)


def add_residual_dropout(model: nn.Module, probability: float) -> int:
    """Dropout on what each attention and MLP block adds to the residual stream.

    One rule for every family (Llama has no such setting): a hook on the blocks' outputs, active in
    train mode alone. Not saved with the model. Without keys (``dropout_keys``) the global random numbers decide.

    Returns:
        How many blocks drop.

    Raises:
        ValueError: not every layer has one attention and one MLP block by a known name.
    """
    names = {"self_attn", "attn", "attention", "mlp", "feed_forward", "ffn", "fc", "fc2"}
    stacks = [
        [[block for name, block in layer.named_children() if name in names] for layer in layers]
        for layers in model.modules()
        if isinstance(layers, nn.ModuleList)
    ]
    found = [blocks for layers in stacks if any(layers) for blocks in layers]
    if not found or any(len(blocks) != 2 for blocks in found):
        raise ValueError(
            f"residual dropout: {type(model).__name__} does not show one attention and one MLP block in each layer; "
            "set model.dropout: 0"
        )
    blocks = [block for layer in found for block in layer]
    for number, block in enumerate(blocks):
        block.register_forward_hook(_Drop(number, probability))
    return len(blocks)


def outside_of_compilation(model: nn.Module) -> None:
    """Lets ``torch.compile`` leave the draws alone: keys change with every pass, and compiled code would be theirs."""
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, _Drop):
                hook.drop = torch.compiler.disable(hook.drop)  # type: ignore[method-assign, no-untyped-call]


class _Drop:
    """The hook of one block."""

    def __init__(self, number: int, probability: float) -> None:
        self.number, self.probability = number, probability

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self.drop(output[0]), *output[1:])
        return self.drop(output)

    def drop(self, x: Tensor) -> Tensor:
        """[N, S, d] -> [N, S, d]."""
        if _keys is None:
            return F.dropout(x, self.probability)
        keep = kept(x.shape, self.probability, self.number, x.device) / (1 - self.probability)
        return x * keep.to(x.dtype)
