"""Matrices that are cast once: the numbers of autocast to the last bit, and nothing kept twice that need not be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_instructgpt.batch import pad
from lit_instructgpt.casting import LowPrecisionCopy, cast_matrices, matrices
from lit_instructgpt.logprobs import target_logprobs
from lit_instructgpt.models import load_policy
from lit_instructgpt.scalar_model import ScalarModel

Dirs = Callable[[str], str]
IDS, MASK = pad([[5, 9, 30, 7, 11], [64, 7], [3, 90, 41]], 1)
TARGETS = MASK & (torch.arange(5) > 0)


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return target_logprobs(model, IDS, MASK, TARGETS)[0]


def test_a_cast_policy_gives_the_bits_of_autocast(family: str, tiny_dir: Dirs, tokenizer: Any):
    model = load_policy(tiny_dir(family), tokenizer).eval().requires_grad_(False)
    expected = logprobs(model)
    cast_matrices(model)
    assert {p.dtype for m in matrices(model) for p in m.parameters(recurse=False)} == {torch.bfloat16}
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert logprobs(model).equal(expected)


def test_a_cast_reward_model_gives_the_bits_of_autocast(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer).eval().requires_grad_(False)
    found = []
    for cast in (False, True):
        if cast:
            cast_matrices(model.model)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            found.append(model.score(IDS, MASK))
    assert found[0].equal(found[1])
    assert model.model.score.weight.dtype == torch.float32, "the head"


@pytest.mark.parametrize("tied", [False, True])
def test_the_copy_follows_the_policy_and_shares_what_is_not_cast(make_dir: Any, tokenizer: Any, tied: bool):
    model = load_policy(make_dir("llama", tie_word_embeddings=tied), tokenizer).eval()
    low = LowPrecisionCopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    expected = logprobs(model)
    assert logprobs(low.refreshed()).equal(expected)
    assert low.model.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the policy itself stays as it is"
    assert all(p.requires_grad for p in model.parameters())
