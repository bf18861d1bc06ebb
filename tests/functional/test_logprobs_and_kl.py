"""Log-probabilities at a temperature, entropy, and the two KL estimates."""

import math

import pytest
import torch

from lit_instructgpt import functional as F
from lit_instructgpt.kl_control import AdaptiveKL

LOGITS = torch.tensor([[[0.0, math.log(2), math.log(5)], [1.0, 1.0, 1.0]]], dtype=torch.float64)


def test_token_logprobs_by_hand():
    found = F.token_logprobs(LOGITS, torch.tensor([[2, 0]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(5 / 8), -math.log(3)]]), atol=1e-6, rtol=0)


def test_pitfall_03_temperature_divides_the_logits():
    # at temperature 1/2 the odds 1 : 2 : 5 become 1 : 4 : 25
    found = F.token_logprobs(LOGITS, torch.tensor([[1, 2]]), temperature=0.5)
    torch.testing.assert_close(found, torch.tensor([[math.log(4 / 30), -math.log(3)]]), atol=1e-6, rtol=0)


def test_token_logprobs_of_half_precision_are_computed_in_float32():
    logits = torch.linspace(-3, 3, 200).bfloat16()[None, None]
    found = F.token_logprobs(logits, torch.tensor([[7]]))
    assert found.dtype == torch.float32
    exact = [float(x) for x in logits.flatten()]
    expected = exact[7] - math.log(math.fsum(math.exp(x) for x in exact))
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_token_logprobs_sum_to_one():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    total = sum(F.token_logprobs(logits, torch.full((2, 3), token), 1.3).exp() for token in range(5))
    torch.testing.assert_close(total, torch.ones(2, 3), atol=1e-6, rtol=0)


def test_entropy_by_hand():
    found = F.token_entropy(LOGITS)
    p = [1 / 8, 2 / 8, 5 / 8]
    expected = [-math.fsum(x * math.log(x) for x in p), math.log(3)]
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)
    q = [1 / 30, 4 / 30, 25 / 30]
    assert F.token_entropy(LOGITS, 0.5)[0, 0].item() == pytest.approx(-sum(x * math.log(x) for x in q), abs=1e-6)


def test_pitfall_06_k1_may_be_negative_and_k3_is_not():
    logprobs, ref = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-2.0, -2.0, -1.0])
    assert F.kl_k1(logprobs, ref).tolist() == [1, 0, -2]
    expected = [math.exp(-1) - 1 + 1, 0, math.exp(2) - 1 - 2]
    torch.testing.assert_close(F.kl_k3(logprobs, ref), torch.tensor(expected), atol=1e-6, rtol=0)


def test_both_estimates_have_the_kl_divergence_as_their_mean():
    p, q = [0.2, 0.5, 0.3], [0.6, 0.1, 0.3]
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    logp, logq = torch.tensor(p, dtype=torch.float64).log(), torch.tensor(q, dtype=torch.float64).log()
    for estimate in (F.kl_k1, F.kl_k3):
        assert (torch.tensor(p, dtype=torch.float64) * estimate(logp, logq)).sum().item() == pytest.approx(
            kl, abs=1e-12
        )


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.1 * (1 + 0.1 * 512 / 10_000)),  # 10 % above
        (5.4, 0.1 * (1 - 0.1 * 512 / 10_000)),
        (60.0, 0.1 * (1 + 0.2 * 512 / 10_000)),  # the error is clipped at 20 %
        (-3.0, 0.1 * (1 - 0.2 * 512 / 10_000)),
    ],
)
def test_pitfall_12_adaptive_kl_by_hand(kl: float, expected: float):
    assert AdaptiveKL(target=6, horizon=10_000).next_coef(0.1, kl, 512) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bad", [{"target": 0}, {"target": -1}, {"horizon": 0}])
def test_adaptive_kl_refuses(bad: dict[str, float]):
    with pytest.raises(ValueError, match="must be positive"):
        AdaptiveKL(**bad)
