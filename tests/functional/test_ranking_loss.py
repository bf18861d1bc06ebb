"""The K-wise ranking loss against loops over pairs."""

import math

import pytest
import torch
from torch import Tensor

from lit_instructgpt import functional as F


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def brute_force(scores: list[float], ranking: list[int], exists: list[bool], soft_ties: bool = False) -> float | None:
    losses = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            if exists[i] and exists[j] and ranking[i] < ranking[j]:
                losses.append(-log_sigmoid(scores[i] - scores[j]))
            if soft_ties and i < j and exists[i] and exists[j] and ranking[i] == ranking[j]:
                losses.append(-0.5 * log_sigmoid(scores[i] - scores[j]) - 0.5 * log_sigmoid(scores[j] - scores[i]))
    return math.fsum(losses) / len(losses) if losses else None


SCORES = [[0.3, -1.2, 2.0, 0.0], [1.5, 1.5, -0.5, 9.0], [0.1, 0.2, 0.3, 0.4], [7.0, 0.0, 0.0, 0.0]]
RANKING = [[2, 3, 1, 4], [1, 3, 2, 0], [1, 1, 2, 2], [1, 0, 0, 0]]
EXISTS = [[True] * 4, [True, True, True, False], [True] * 4, [True, False, False, False]]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(SCORES, dtype=torch.float64), torch.tensor(RANKING), torch.tensor(EXISTS)


@pytest.mark.parametrize("soft_ties", [False, True])
def test_pitfall_20_k_wise_loss_is_the_mean_over_each_prompts_pairs(soft_ties: bool):
    loss, has_pairs = F.ranking_loss(*batch(), soft_ties=soft_ties)
    assert has_pairs.tolist() == [True, True, True, False]
    for row in range(3):
        expected = brute_force(SCORES[row], RANKING[row], EXISTS[row], soft_ties)
        assert loss[row].item() == pytest.approx(expected, abs=1e-6)
    assert loss[3].item() == 0


def test_two_completions_are_the_logistic_loss():
    scores = torch.tensor([[0.7, -0.4], [-2.0, 3.0]], dtype=torch.float64)
    ranking = torch.tensor([[1, 2], [1, 2]])
    loss, _ = F.ranking_loss(scores, ranking, torch.ones(2, 2, dtype=torch.bool))
    expected = [math.log1p(math.exp(-1.1)), math.log1p(math.exp(5.0))]
    torch.testing.assert_close(loss.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_order_of_the_completions_does_not_matter():
    scores, ranking, exists = batch()
    loss, has_pairs = F.ranking_loss(scores, ranking, exists, soft_ties=True)
    for order in ([3, 1, 0, 2], [1, 0, 3, 2], [2, 3, 1, 0]):
        again, has = F.ranking_loss(scores[:, order], ranking[:, order], exists[:, order], soft_ties=True)
        torch.testing.assert_close(again, loss, atol=1e-6, rtol=0)
        assert has.equal(has_pairs)


def test_a_constant_added_to_all_scores_changes_nothing():
    scores, ranking, exists = batch()
    torch.testing.assert_close(
        F.ranking_loss(scores + 3.5, ranking, exists)[0], F.ranking_loss(scores, ranking, exists)[0], atol=1e-6, rtol=0
    )


def test_names_of_the_ranks_do_not_matter():
    scores, ranking, exists = batch()
    torch.testing.assert_close(
        F.ranking_loss(scores, ranking * 10 - 3, exists)[0], F.ranking_loss(scores, ranking, exists)[0], atol=0, rtol=0
    )


def test_ties_carry_no_gradient_and_no_divisor():
    scores = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    everything = torch.ones(1, 3, dtype=torch.bool)
    loss, _ = F.ranking_loss(scores, torch.tensor([[2, 2, 1]]), everything)
    # the third is better than both: two pairs, with margins -2 and -1.5
    assert loss.item() == pytest.approx((math.log1p(math.exp(2)) + math.log1p(math.exp(1.5))) / 2, abs=1e-6)
    loss.sum().backward()
    expected = [1 / (1 + math.exp(-2)) / 2, 1 / (1 + math.exp(-1.5)) / 2]
    expected.append(-sum(expected))
    torch.testing.assert_close(scores.grad, torch.tensor([expected], dtype=torch.float64), atol=1e-6, rtol=0)

    tied = torch.tensor([[1.0, 0.5, -1.0]], requires_grad=True)
    loss, has_pairs = F.ranking_loss(tied, torch.tensor([[1, 1, 1]]), everything)
    loss.sum().backward()
    assert loss.item() == 0
    assert not has_pairs.any()
    assert tied.grad.eq(0).all()


def test_soft_ties_pull_tied_scores_together():
    scores = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss, has_pairs = F.ranking_loss(scores, torch.tensor([[1, 1]]), torch.ones(1, 2, dtype=torch.bool), soft_ties=True)
    loss.sum().backward()
    assert has_pairs.all()
    # derivative of -(log sigmoid(d) + log sigmoid(-d)) / 2 is sigmoid(d) - 1/2, with d = 2
    slope = 1 / (1 + math.exp(-2)) - 0.5
    torch.testing.assert_close(scores.grad, torch.tensor([[slope, -slope]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("soft_ties", [False, True])
def test_scores_of_missing_completions_do_not_count(junk: float, soft_ties: bool):
    scores = torch.tensor([[0.7, -0.4, junk], [0.2, junk, junk]], dtype=torch.float64, requires_grad=True)
    exists = torch.tensor([[True, True, False], [True, False, False]])
    loss, has_pairs = F.ranking_loss(scores, torch.tensor([[2, 1, 0], [1, 0, 0]]), exists, soft_ties)
    assert has_pairs.tolist() == [True, False]
    torch.testing.assert_close(
        loss.double(), torch.tensor([math.log1p(math.exp(1.1)), 0], dtype=torch.float64), atol=1e-6, rtol=0
    )
    loss.sum().backward()
    slope = 1 / (1 + math.exp(-1.1))
    expected = torch.tensor([[slope, -slope, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(scores.grad, expected, atol=1e-6, rtol=0)


def test_pitfall_19_loss_of_half_precision_scores_is_float32():
    scores = torch.tensor([[200.0, -200.0]], dtype=torch.bfloat16)
    loss, _ = F.ranking_loss(scores, torch.tensor([[2, 1]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert loss.item() == 400


def test_pairs_by_hand():
    pairs = F.ranking_pairs(
        torch.tensor([[5.0, 3.0, 4.0]]), torch.tensor([[2, 1, 2]]), torch.tensor([[True, True, True]])
    )
    assert pairs.index.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert pairs.margin.tolist() == [[-2, 1, -1]]
    assert pairs.untied.tolist() == [[True, False, True]]
    assert pairs.tied.tolist() == [[False, True, False]]
    assert pairs.first_is_better.tolist() == [[False, False, True]]
