"""Attention for short rows, against the formula written out head by head, and against transformers' models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.testing import assert_close

from lit_instructgpt.attention import SHORT_ROWS, short_rows
from lit_instructgpt.models import load_policy

Dirs = Callable[[str], str]


def by_hand(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, scaling: float) -> Tensor:
    """One head of one sequence after the other: [B, S, H, e]."""
    out = torch.zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3], dtype=query.dtype)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            g = h * key.shape[1] // query.shape[1]
            for s in range(query.shape[2]):
                seen = allowed[b, 0, s]
                scores = torch.stack([(query[b, h, s] * k).sum() * scaling for k in key[b, g][seen]])
                out[b, s, h] = scores.softmax(0) @ value[b, g][seen]
    return out


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("mask", ["bool", "float"])
def test_the_formula(groups: int, mask: str):
    generator = torch.Generator().manual_seed(groups)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    query, key, value = random(2, 6, 5, 4), random(2, groups, 5, 4), random(2, groups, 5, 3)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    allowed[1, 0, 2:, 1] = False
    given = allowed if mask == "bool" else torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
    expected = by_hand(query, key, value, allowed, 0.3)
    found, _ = short_rows(nn.Module(), query, key, value, given, scaling=0.3)
    assert_close(found, expected, atol=1e-6, rtol=0)  # its softmax is in float32
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), (query, key, value)),
        torch.autograd.grad((expected * weight).sum(), (query, key, value)), strict=True,
    ):  # fmt: skip
        assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_scaling_is_one_over_the_root_of_the_width():
    query = torch.tensor([[[[0.0, 0.0], [2.0, 0.0]]]])
    key = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
    value = torch.tensor([[[[1.0], [0.0]]]])
    found, _ = short_rows(nn.Module(), query, key, value, torch.ones(1, 1, 2, 2, dtype=torch.bool).tril())
    assert found.flatten().tolist() == pytest.approx([1.0, 1 / (1 + torch.tensor(2 / 2**0.5).exp().item())], abs=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_models_compute_what_they_compute_with_sdpa(family: str, padded: bool, tiny_dir: Dirs, tokenizer: Any):
    ids = torch.arange(3, 45).view(3, 14)
    mask = torch.arange(14) < torch.tensor([[14], [9], [5]]) if padded else torch.ones(3, 14, dtype=torch.bool)
    found = []
    for attention in ("sdpa", SHORT_ROWS):
        policy = load_policy(tiny_dir(family), tokenizer)
        policy.config._attn_implementation = attention
        logits = policy(ids, attention_mask=mask).logits[mask]
        logits.sin().sum().backward()
        found.append((logits, policy.get_input_embeddings().weight.grad))
    assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    assert_close(found[1][1], found[0][1], atol=1e-6 * found[0][1].abs().max().item(), rtol=0)


def test_what_is_another_formula_is_left_to_transformers(tokenizer: Any):
    """Dropout of the weights in train mode: the numbers of sdpa with the same seed."""
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16, attn_pdrop=0.5, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).train()
    found = []
    for attention in ("sdpa", SHORT_ROWS):
        model.config._attn_implementation = attention
        torch.manual_seed(1)
        found.append(model(torch.arange(8)[None], attention_mask=torch.ones(1, 8)).logits)
    assert found[0].equal(found[1])
