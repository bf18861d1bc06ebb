"""Sums, means, whitening and variance over the entries that count."""

import math
import threading

import pytest
import torch

from lit_instructgpt import functional as F

NAN, INF = math.nan, math.inf
X = torch.tensor([[1.0, 2.0, NAN], [4.0, INF, -INF]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_pitfall_09_masked_sum_and_mean_leave_padding_out():
    assert F.masked_sum(X, MASK).item() == 7
    assert F.masked_sum(X, MASK, dim=1).tolist() == [3, 4]
    assert F.masked_mean(X, MASK).item() == pytest.approx(7 / 3, abs=1e-12)
    assert F.masked_mean(X, MASK, dim=1).tolist() == [1.5, 4]
    assert F.masked_mean(X, MASK, dim=0).tolist() == [2.5, 2, 0]


def test_masked_mean_of_nothing_is_zero():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert F.masked_mean(X, nothing).item() == 0
    assert F.masked_mean(X, nothing, dim=1).tolist() == [0, 0]


def test_masked_mean_has_no_gradient_at_padding():
    x = X.clone().requires_grad_()
    F.masked_mean(x, MASK).backward()
    third = 1 / 3
    torch.testing.assert_close(
        x.grad, torch.tensor([[third, third, 0], [third, 0, 0]], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_whiten_by_hand():
    # 1, 2, 6: mean 3, biased variance (4 + 1 + 9) / 3
    x = torch.tensor([[1.0, 2.0, NAN], [6.0, INF, 0.0]], dtype=torch.float64)
    white = F.masked_whiten(x, MASK)
    sd = math.sqrt(14 / 3)
    expected = torch.tensor([[-2 / sd, -1 / sd, 0], [3 / sd, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(white, expected, atol=1e-7, rtol=0)


def test_pitfall_10_whitened_mean_zero_variance_one_over_the_mask_alone():
    generator = torch.Generator().manual_seed(0)
    x = 5 + 3 * torch.randn(6, 9, generator=generator, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 7, 2, 5])[:, None]
    white = F.masked_whiten(torch.where(mask, x, 1e6), mask)
    counted = white[mask]
    assert counted.mean().item() == pytest.approx(0, abs=1e-9)
    assert counted.square().mean().item() == pytest.approx(1, abs=1e-6)
    assert white[~mask].eq(0).all()


def test_whiten_keeps_what_does_not_vary_finite():
    assert F.masked_whiten(torch.full((2, 2), 3.0), torch.ones(2, 2, dtype=torch.bool)).eq(0).all()
    assert F.masked_whiten(torch.full((2, 2), NAN), torch.zeros(2, 2, dtype=torch.bool)).eq(0).all()


def test_pitfall_10_whitening_on_two_ranks_is_that_of_one():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([4, 1, 3, 2, 4])[:, None]
    together = F.masked_whiten(x, mask)

    barrier, inbox, outbox = threading.Barrier(2), {}, {}

    def rank(number: int, rows: slice) -> None:
        def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
            inbox[number] = tensor
            barrier.wait(10)
            total = inbox[0] + inbox[1]
            barrier.wait(10)
            return total

        outbox[number] = F.masked_whiten(x[rows], mask[rows], all_reduce)

    other = threading.Thread(target=rank, args=(1, slice(3, 5)))
    other.start()
    rank(0, slice(0, 3))
    other.join(10)
    torch.testing.assert_close(torch.cat([outbox[0], outbox[1]]), together, atol=1e-12, rtol=0)
    alone = F.masked_whiten(x[:3], mask[:3])
    assert (alone - together[:3]).abs().max() > 0.05


def test_explained_variance_by_hand():
    returns = torch.tensor([[1.0, 3.0, NAN], [5.0, NAN, NAN]], dtype=torch.float64)
    values = torch.tensor([[0.0, 3.0, 9.0], [4.0, INF, 9.0]], dtype=torch.float64)
    # errors 1, 0, 1: variance 2/9; returns 1, 3, 5: variance 8/3
    assert F.explained_variance(values, returns, MASK).item() == pytest.approx(1 - (2 / 9) / (8 / 3), abs=1e-9)
    assert F.explained_variance(returns + 7, returns, MASK).item() == pytest.approx(1, abs=1e-9)
    assert F.explained_variance(torch.full_like(returns, 3), returns, MASK).item() == pytest.approx(0, abs=1e-9)


def test_explained_variance_is_zero_without_variance():
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert F.explained_variance(ones * 5, ones, MASK).item() == 0
    assert F.explained_variance(ones, ones, torch.zeros_like(MASK)).item() == 0


@pytest.mark.parametrize(
    ("row", "last"),
    [([1, 1, 0, 0], 1), ([0, 0, 1, 1], 3), ([0, 1, 1, 0], 2), ([1, 0, 0, 1], 3), ([1, 0, 0, 0], 0)],
)
def test_last_index(row: list[int], last: int):
    assert F.last_index(torch.tensor([row, [1, 1, 1, 1]]).bool()).tolist() == [last, 3]
