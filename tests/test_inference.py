"""Models for passes without gradients: the numbers of the model itself, and nothing kept twice that need not be."""

import gc
import weakref
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from lit_instructgpt import inference
from lit_instructgpt.batch import pad
from lit_instructgpt.inference import PrepackedLinear, freeze_matrices, inference_copy, matrices
from lit_instructgpt.logprobs import target_logprobs
from lit_instructgpt.models import load_policy
from lit_instructgpt.scalar_model import ScalarModel

Dirs = Callable[[str], str]
IDS, MASK = pad([[5, 9, 30, 7, 11], [64, 7], [3, 90, 41]], 1)
TARGETS = MASK & (torch.arange(5) > 0)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=["prepacked", "cast"], autouse=True)
def machine(request: pytest.FixtureRequest) -> Any:
    """A CPU with oneDNN, and a device without it."""
    if request.param == "prepacked":
        if not inference.can_prepack(torch.device("cpu"), torch.bfloat16):
            pytest.skip("oneDNN has no bfloat16 on this CPU")
        yield request.param
    else:
        with patch.object(inference, "can_prepack", lambda *_: False):
            yield request.param


def logprobs(model: Any, dtype: torch.dtype) -> torch.Tensor:
    lower = dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False):
        return target_logprobs(model, IDS, MASK, TARGETS)[0]


def same(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """To the last bit under autocast, but for the order of sums in float32."""
    if dtype == torch.bfloat16:
        assert found.equal(expected)
    else:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frozen_policy_computes_as_before(family: str, dtype: torch.dtype, tiny_dir: Dirs, tokenizer: Any):
    model = load_policy(tiny_dir(family), tokenizer).eval().requires_grad_(False)
    expected = logprobs(model, dtype)
    plain = list(matrices(model))
    assert len(plain) > 4
    freeze_matrices(model, dtype)
    assert {getattr(parent, name).weight.dtype for parent, name, _ in plain} == {dtype}
    assert model.get_input_embeddings().weight.dtype == torch.float32
    same(logprobs(model, dtype), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frozen_reward_model_computes_as_before(
    family: str, dtype: torch.dtype, tiny_reward_dir: Dirs, tokenizer: Any
):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer).eval().requires_grad_(False)
    found = []
    for frozen in (False, True):
        if frozen:
            freeze_matrices(model.model, dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16, cache_enabled=False):
            found.append(model.score(IDS, MASK))
    same(found[1], found[0], dtype)
    assert type(model.model.score) is nn.Linear, "the head"
    assert model.model.score.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_is_the_policy_of_now_and_shares_what_is_no_matrix(
    make_dir: Any, tokenizer: Any, tied: bool, dtype: torch.dtype
):
    model = load_policy(make_dir("llama", tie_word_embeddings=tied), tokenizer).eval()
    inference_copy(model, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    found = inference_copy(model, dtype)
    same(logprobs(found, dtype), logprobs(model, dtype), dtype)
    assert found.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the policy itself stays as it is"
    assert all(p.requires_grad for p in model.parameters())
    assert all(type(module) is nn.Linear for _, _, module in matrices(model))


def test_a_copy_is_gone_when_nobody_holds_it(tiny_dir: Dirs, tokenizer: Any, machine: str):
    model = load_policy(tiny_dir("llama"), tokenizer).eval()
    gc.collect()
    gc.disable()
    try:
        copy = weakref.ref(inference_copy(model, torch.bfloat16))
        assert copy() is None, "its memory would wait for the garbage collector"
    finally:
        gc.enable()


def test_without_anything_to_gain_it_is_the_model_itself(tiny_dir: Dirs, tokenizer: Any, machine: str):
    model = load_policy(tiny_dir("llama"), tokenizer).eval()
    assert (inference_copy(model, torch.float32) is model) == (machine == "cast")


def test_what_a_copy_can_do_is_not_tried_again(tiny_dir: Dirs, tokenizer: Any):
    model = load_policy(tiny_dir("llama"), tokenizer).eval()
    logprobs(model, torch.float32)
    with patch("lit_instructgpt.hidden.why_not_packed") as trial:
        logprobs(inference_copy(model, torch.bfloat16), torch.bfloat16)
    assert not trial.called


def test_linear_layers_of_their_own_kind_are_left_alone():
    class Biased(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.T + self.bias

    model = nn.Sequential(nn.Linear(2, 2), Biased(2, 2))
    assert [name for _, name, _ in matrices(model)] == ["0"]


def test_a_prepacked_product_by_hand(machine: str):
    if machine == "cast":
        pytest.skip("nothing is prepacked")
    plain = nn.Linear(2, 3)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        plain.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
        found = PrepackedLinear(plain, torch.float32, plain.weight)(torch.tensor([[[1.0, 10.0]]]))
    assert found.tolist() == [[[21.5, 43.0, 64.0]]]
