"""Log-probabilities of chosen positions against the model's own full logits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instructgpt import logprobs
from lit_instructgpt.logprobs import response_logprobs, target_logprobs, vocabulary_head
from lit_instructgpt.models import load_policy, load_tokenizer

IDS = torch.tensor([[5, 9, 11, 7, 3], [8, 4, 6, 2, 2]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
TARGETS = torch.tensor([[0, 0, 1, 0, 1], [0, 1, 1, 0, 0]]).bool()


def plain(model: Any, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy at each target, row by row, each row a bare sequence."""
    found, entropy = [], []
    for ids, mask, targets in zip(IDS, MASK, TARGETS, strict=True):
        p = torch.softmax(model(input_ids=ids[mask][None]).logits[0].double() / temperature, -1)
        for i in targets.nonzero().flatten().tolist():
            found.append(p[i - 1, ids[i]].log())
            entropy.append(-(p[i - 1] * p[i - 1].log()).sum())
    return torch.stack(found), torch.stack(entropy)


@pytest.mark.parametrize("chunk", [4096, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_the_full_logits(
    family: str, tiny_dir: Any, monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float
):
    monkeypatch.setattr(logprobs, "POSITIONS_PER_CHUNK", chunk)
    tokenizer = load_tokenizer(tiny_dir(family))
    model = load_policy(tiny_dir(family), tokenizer)
    assert vocabulary_head(model) is not None
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    expected, entropy = plain(model, temperature)
    (expected.float() * weight).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    found = target_logprobs(model, IDS, MASK, TARGETS, temperature, with_entropy=True)
    (found[0] * weight).sum().backward()
    assert torch.allclose(found[0].double(), expected, atol=1e-5)
    assert torch.allclose(found[1].double(), entropy, atol=1e-5)
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, gradients[name], atol=1e-5), name


def test_a_model_that_caps_its_logits_is_found_out_and_still_right(tiny_dir: Any):
    model = load_policy(tiny_dir("llama"), load_tokenizer(tiny_dir("llama")))
    forward = model.forward

    def capped(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = torch.tanh(output.logits / 0.5) * 0.5
        return output

    model.forward = capped
    assert vocabulary_head(model) is None
    expected, _ = plain(model, 1.0)
    found, entropy = target_logprobs(model, IDS, MASK, TARGETS)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert entropy.tolist() == [0.0] * 4, "not asked for"


def test_responses_are_the_last_columns_and_0_outside_the_mask(tiny_dir: Any):
    model = load_policy(tiny_dir("gpt2"), load_tokenizer(tiny_dir("gpt2")))
    response_mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    found, _ = response_logprobs(model, IDS, MASK, response_mask)
    for row in range(2):
        for column in range(3):
            where = torch.zeros_like(MASK)
            where[row, column + 2] = True
            alone = target_logprobs(model, IDS, MASK, where)[0].item() if response_mask[row, column] else 0.0
            assert found[row, column].item() == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_a_config_that_scales_or_caps_logits_is_believed(tiny_dir: Any, setting: str):
    """A cap of 30 does nothing to the small logits of a fresh model: no trial would show it."""
    model = load_policy(tiny_dir("llama"), load_tokenizer(tiny_dir("llama")))
    assert vocabulary_head(model) is not None
    setattr(model.config, setting, 30.0)
    assert vocabulary_head(model) is None
