"""Rewards, advantages and the clipped losses."""

import math

import pytest
import torch
from torch import Tensor

from lit_instructgpt import functional as F

NAN, INF = math.nan, math.inf
LENGTHS = [4, 1, 3, 6]
MASK = torch.arange(6) < torch.tensor(LENGTHS)[:, None]


def randn(seed: int) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def junk(x: Tensor, value: float = NAN) -> Tensor:
    return torch.where(MASK, x, value)


# ------------------------------------------------------------------ rewards


def test_rewards_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, NAN, INF]])
    ref = torch.tensor([[-1.5, -1.0, -3.0], [-3.0, 0.0, INF]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards = F.shape_rewards(torch.tensor([10.0, -4.0]), logprobs, ref, mask, 0.1)
    expected = torch.tensor([[-0.05, 0.1, 10.0], [-4.2, 0.0, 0.0]])
    torch.testing.assert_close(rewards, expected, atol=1e-6, rtol=0)


def test_pitfall_08_score_is_at_the_last_real_token():
    zeros = torch.zeros(4, 6, dtype=torch.float64)
    score = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    rewards = F.shape_rewards(score, zeros, zeros, MASK, 0.02)
    for row, length in enumerate(LENGTHS):
        assert rewards[row].tolist() == [0.0] * (length - 1) + [row + 1.0] + [0.0] * (6 - length)


def test_rewards_sum_to_score_minus_kl():
    logprobs, ref, score = randn(0), randn(1), torch.arange(4.0, dtype=torch.float64)
    rewards = F.shape_rewards(score, junk(logprobs), junk(ref, INF), MASK, 0.3)
    for row, length in enumerate(LENGTHS):
        kl = sum(logprobs[row, i].item() - ref[row, i].item() for i in range(length))
        assert rewards[row].sum().item() == pytest.approx(row - 0.3 * kl, abs=1e-9)


# ------------------------------------------------------------------ advantages


def double_sum(rewards: Tensor, values: Tensor, length: int, gamma: float, lam: float) -> list[float]:
    """A_i = sum over k of (gamma lambda)^k (r_{i+k} + gamma V_{i+k+1} - V_{i+k}), with V_length = 0."""
    r, v = rewards.tolist(), [*values.tolist()[:length], 0.0]
    return [
        math.fsum((gamma * lam) ** k * (r[i + k] + gamma * v[i + k + 1] - v[i + k]) for k in range(length - i))
        for i in range(length)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1, 0.95), (0.9, 0.8), (1, 1), (1, 0), (0.5, 1), (0.7, 0), (0, 0.95)])
@pytest.mark.parametrize("padding", [0.0, NAN, INF])
def test_gae_is_the_double_sum(gamma: float, lam: float, padding: float):
    rewards, values = randn(2), randn(3)
    advantages, returns = F.gae(junk(rewards, padding), junk(values, padding), MASK, gamma, lam)
    for row, length in enumerate(LENGTHS):
        expected = double_sum(rewards[row], values[row], length, gamma, lam)
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-10)
        targets = [a + v for a, v in zip(expected, values[row].tolist(), strict=False)]
        assert returns[row, :length].tolist() == pytest.approx(targets, abs=1e-10)
    assert advantages[~MASK].eq(0).all()
    assert returns[~MASK].eq(0).all()


def test_gae_lambda_one_returns_are_the_rewards_to_go():
    rewards, values = randn(4), randn(5)
    _, returns = F.gae(rewards, values, MASK, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        to_go = [math.fsum(rewards[row, i:length].tolist()) for i in range(length)]
        assert returns[row, :length].tolist() == pytest.approx(to_go, abs=1e-10)


def test_gae_lambda_zero_is_one_step_td():
    rewards, values = randn(4), randn(5)
    advantages, _ = F.gae(rewards, values, MASK, 1.0, 0.0)
    for row, length in enumerate(LENGTHS):
        v = [*values[row, :length].tolist(), 0.0]
        td = [rewards[row, i].item() + v[i + 1] - v[i] for i in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(td, abs=1e-12)


def test_gae_by_hand():
    # deltas: 0 + 2 - 1 = 1 and 5 - 2 = 3; A_1 = 3, A_0 = 1 + 0.5 * 3
    advantages, returns = F.gae(
        torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool), 1.0, 0.5
    )
    assert advantages.tolist() == [[2.5, 3.0]]
    assert returns.tolist() == [[3.5, 5.0]]


# ------------------------------------------------------------------ policy loss


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # inside
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.4, 0.0, 1),  # good action already likelier by more than 20 %: held
        (0.5, 2.0, -1.0, -1.0, 0),  # good action became unlikelier: pulled back
        (1.0, -2.0, 2.0, 2.0, 0),
        (0.9, -2.0, 1.8, 1.8, 0),
        (0.5, -2.0, 1.6, 0.0, 1),  # bad action already unlikelier by more than 20 %: held
        (1.5, -2.0, 3.0, 3.0, 0),  # bad action became likelier: pushed back
    ],
)
def test_policy_clipping_regions(ratio: float, advantage: float, loss: float, slope: float, clipped: int):
    """``slope`` is d loss / d logprob: -advantage * ratio where nothing binds."""
    old = torch.tensor([[-1.3]], dtype=torch.float64)
    logprobs = (old + math.log(ratio)).requires_grad_()
    one = torch.ones(1, 1, dtype=torch.bool)
    found = F.clipped_policy_loss(logprobs, old, torch.tensor([[advantage]], dtype=torch.float64), one, 0.2)
    assert found.loss.item() == pytest.approx(loss, abs=1e-9)
    assert found.clipfrac.item() == clipped
    found.loss.backward()
    assert logprobs.grad.item() == pytest.approx(slope, abs=1e-9)


def test_policy_loss_is_a_mean_over_tokens_not_over_episodes():
    old, advantages = randn(6), randn(7)
    logprobs = old + 0.3 * randn(8)
    found = F.clipped_policy_loss(junk(logprobs), junk(old), junk(advantages), MASK, 0.2)
    losses, held = [], 0
    for row, length in enumerate(LENGTHS):
        for i in range(length):
            ratio = math.exp((logprobs[row, i] - old[row, i]).item())
            advantage = advantages[row, i].item()
            clamped = min(max(ratio, 0.8), 1.2)
            losses.append(-min(ratio * advantage, clamped * advantage))
            held += clamped * advantage < ratio * advantage
    assert found.loss.item() == pytest.approx(math.fsum(losses) / sum(LENGTHS), abs=1e-10)
    assert 0 < held < sum(LENGTHS)
    assert found.clipfrac.item() == pytest.approx(held / sum(LENGTHS), abs=1e-6)


@pytest.mark.parametrize("padding", [NAN, INF, -INF, 1e30])
def test_policy_loss_ignores_padding(padding: float):
    old, advantages = randn(6), randn(7)
    logprobs = old + 0.1 * randn(8)
    clean = logprobs.clone().requires_grad_()
    F.clipped_policy_loss(clean, old, advantages, MASK).loss.backward()
    dirty = junk(logprobs, padding).requires_grad_()
    F.clipped_policy_loss(dirty, junk(old, -padding), junk(advantages, padding), MASK).loss.backward()
    assert dirty.grad[~MASK].eq(0).all()
    torch.testing.assert_close(dirty.grad[MASK], clean.grad[MASK], atol=1e-12, rtol=0)
    assert clean.grad[MASK].ne(0).any()


# ------------------------------------------------------------------ value loss


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope", "clipped"),
    [
        (1.1, 3.0, 0.5 * 1.9**2, -1.9, 0),  # moved by less than 0.2
        (1.5, 3.0, 0.5 * 1.8**2, 0.0, 1),  # moved towards the target by more: clipped to 1.2, held
        (0.5, 3.0, 0.5 * 2.5**2, -2.5, 0),  # moved away: clipped to 0.8, the larger error binds
        (0.5, -1.0, 0.5 * 1.8**2, 0.0, 1),
        (1.5, -1.0, 0.5 * 2.5**2, 2.5, 0),
    ],
)
def test_value_clipping_regions(value: float, target: float, loss: float, slope: float, clipped: int):
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.bool)
    old, returns = torch.full((1, 1), 1.0, dtype=torch.float64), torch.full((1, 1), target, dtype=torch.float64)
    found = F.clipped_value_loss(values, old, returns, one, 0.2)
    assert found.loss.item() == pytest.approx(loss, abs=1e-9)
    assert found.clipfrac.item() == clipped
    found.loss.backward()
    assert values.grad.item() == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("padding", [NAN, INF, -INF])
def test_value_loss_ignores_padding(padding: float):
    old, returns = randn(9), randn(10)
    values = old + 0.3 * randn(11)
    losses = []
    for row, length in enumerate(LENGTHS):
        for i in range(length):
            v, o, r = values[row, i].item(), old[row, i].item(), returns[row, i].item()
            near = min(max(v, o - 0.2), o + 0.2)
            losses.append(0.5 * max((v - r) ** 2, (near - r) ** 2))
    dirty = junk(values, padding).requires_grad_()
    found = F.clipped_value_loss(dirty, junk(old, padding), junk(returns, padding), MASK, 0.2)
    assert found.loss.item() == pytest.approx(math.fsum(losses) / sum(LENGTHS), abs=1e-10)
    found.loss.backward()
    clean = values.clone().requires_grad_()
    F.clipped_value_loss(clean, old, returns, MASK, 0.2).loss.backward()
    assert dirty.grad[~MASK].eq(0).all()
    torch.testing.assert_close(dirty.grad[MASK], clean.grad[MASK], atol=1e-12, rtol=0)


# ------------------------------------------------------------------ micro-batches


def test_pitfall_11_micro_batches_with_num_tokens_add_up_to_one_batch():
    old, advantages, returns = randn(6), randn(7), randn(10)
    logprobs, num_tokens = old + 0.3 * randn(8), torch.tensor(float(sum(LENGTHS)))
    whole_p, whole_v = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    policy = F.clipped_policy_loss(whole_p, old, advantages, MASK)
    value = F.clipped_value_loss(whole_v, old, returns, MASK)
    (policy.loss + value.loss).backward()
    part_p, part_v = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    totals = torch.zeros(4, dtype=torch.float64)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4)):
        p = F.clipped_policy_loss(part_p[rows], old[rows], advantages[rows], MASK[rows], num_tokens=num_tokens)
        v = F.clipped_value_loss(part_v[rows], old[rows], returns[rows], MASK[rows], num_tokens=num_tokens)
        (p.loss + v.loss).backward()
        totals += torch.stack([p.loss, v.loss, p.clipfrac, v.clipfrac]).detach()
    expected = torch.stack([policy.loss, value.loss, policy.clipfrac, value.clipfrac]).detach().double()
    torch.testing.assert_close(totals, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(part_p.grad, whole_p.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(part_v.grad, whole_v.grad, atol=1e-12, rtol=0)
