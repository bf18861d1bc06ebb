"""Numbers with their uncertainty, against hand-worked cases, enumeration and scipy."""

import math
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from lit_instructgpt.evaluation import statistics
from lit_instructgpt.evaluation.statistics import (
    RIDGE,
    best_of_n,
    best_of_n_kl,
    bootstrap_ci,
    length_controlled_win_rate,
    pair_entropy,
    repetition,
    spearman,
    win_shares,
)

# ------------------------------------------------------------------ the bootstrap


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_interval_is_that_of_all_resamples_of_whole_prompts(seed: int):
    prompts = [[1.0, 0.0, 0.0], [1.0], [0.0, 1.0], [0.5, 0.0]]
    means = []
    for drawn in product(range(4), repeat=4):  # every resample is as likely as another
        values = [value for i in drawn for value in prompts[i]]
        means.append(sum(values) / len(values))
    values = np.array([value for prompt in prompts for value in prompt])
    groups = [i for i, prompt in enumerate(prompts) for _ in prompt]
    low, high = bootstrap_ci(values, groups, num=20_000, seed=seed)
    assert np.quantile(means, 0.02) <= low <= np.quantile(means, 0.03)
    assert np.quantile(means, 0.97) <= high <= np.quantile(means, 0.98)
    assert (low, high) != tuple(bootstrap_ci(values, num=20_000, seed=seed)), "the groups matter"


def test_the_names_of_the_groups_do_not_matter():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_ci(values, [i // 3 for i in range(30)]) == bootstrap_ci(values, [7 * (i // 3) for i in range(30)])


@pytest.mark.parametrize("most", [1, 50, 1000])
def test_resampling_in_portions_draws_the_same(monkeypatch: pytest.MonkeyPatch, most: int):
    values, longer_by = np.random.default_rng(3).random((2, 31))
    groups = [i // 2 for i in range(31)]
    whole = bootstrap_ci(values, groups, num=101), length_controlled_win_rate(values, longer_by, groups, num=101)
    monkeypatch.setattr(statistics, "MOST_DRAWS", most)
    found = bootstrap_ci(values, groups, num=101), length_controlled_win_rate(values, longer_by, groups, num=101)
    assert found[0] == whole[0]
    assert found[1][0] == whole[1][0]
    assert found[1][1] == pytest.approx(whole[1][1], abs=1e-9)


def test_a_tie_is_half_a_win():
    assert win_shares(np.array([3.0, -0.1, 0.0, -7.0])).tolist() == [1.0, 0.0, 0.5, 0.0]


# ------------------------------------------------------------------ length control


def best_intercept(wins: np.ndarray, longer_by: np.ndarray) -> float:
    """sigmoid(a) of the a, b that minimise the penalised cross-entropy, by a search that takes no derivative from us."""
    spread = longer_by.std()
    x = np.tanh(longer_by / spread) if spread else 0 * longer_by

    def loss(ab: np.ndarray) -> float:
        z = ab[0] + ab[1] * x
        return float((np.logaddexp(0, z) - wins * z).sum() + RIDGE / 2 * (ab**2).sum())

    found = scipy.optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9})
    polished = scipy.optimize.minimize(
        loss, found.x, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
    )
    return 1 / (1 + math.exp(-polished.x[0]))


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(20, 200))
    longer_by = rng.normal(rng.uniform(-1, 1), 1, num) * 100
    chance = 1 / (1 + np.exp(-rng.normal(0, 2) - rng.normal(0, 3) * np.tanh(longer_by / 100)))
    return np.where(rng.random(num) < 0.2, 0.5, rng.random(num) < chance), longer_by


def longer_by_far() -> tuple[np.ndarray, np.ndarray]:
    """Wins that are a matter of length, of responses that are all some 800 characters longer: what is left at 0 is unknown."""
    rng = np.random.default_rng(0)
    longer_by = rng.normal(800, 100, 500)
    return (rng.random(500) < 1 / (1 + np.exp(-longer_by / 500))).astype(float), longer_by


CASES: dict[str, tuple[Any, Any]] = {
    "all wins": (np.ones(40), np.arange(40.0) - 9),
    "all losses": (np.zeros(300), np.arange(300.0) - 150),
    "all ties": (np.full(7, 0.5), np.arange(7.0)),
    "equal lengths": (np.array([1.0, 1.0, 0.0]), np.zeros(3)),
    "one prompt": (np.array([1.0]), np.array([0.0])),
    "separable": (np.array([1.0] * 80 + [0.0] * 20), np.array([1.0] * 80 + [-1.0] * 20)),
    "one outlier": (np.array([1.0] * 99 + [0.0]), np.array([0.0] * 99 + [1000.0])),
    **{f"drawn {seed}": draw(seed) for seed in range(20)},
}
ONE_SIDED = {
    "all longer": (np.ones(40), np.full(40, 100.0)),
    "all but one": (np.ones(40), np.array([100.0] * 39 + [-1.0])),
    "far longer, by length alone": longer_by_far(),
}


@pytest.mark.parametrize("name", ONE_SIDED)
def test_nothing_is_said_of_equal_lengths_where_one_side_is_longer(name: str):
    wins, longer_by = ONE_SIDED[name]
    assert length_controlled_win_rate(wins, longer_by, num=20) == (None, None)
    assert length_controlled_win_rate(1 - wins, -longer_by, num=20) == (None, None)


@pytest.mark.parametrize("name", CASES)
def test_the_length_controlled_win_rate_is_the_minimum_that_scipy_finds(name: str):
    wins, longer_by = CASES[name]
    rate, (low, high) = length_controlled_win_rate(wins, longer_by, num=200)
    assert rate == pytest.approx(best_intercept(wins, longer_by), abs=2e-5)
    assert 0 <= low <= high <= 1


def test_a_win_rate_that_is_all_length_goes_to_a_half():
    longer_by = np.array([30.0, 30, 30, 20, 20, 10, 10, 5, -10, -20])
    chance = 1 / (1 + np.exp(-2.5 * np.tanh(longer_by / longer_by.std())))
    many, lengths = np.repeat(chance, 50), np.repeat(longer_by, 50)
    assert many.mean() > 0.7
    rate, _ = length_controlled_win_rate(many, lengths, num=10)
    assert rate == pytest.approx(0.5, abs=1e-3)
    intervals = [
        length_controlled_win_rate((np.random.default_rng(seed).random(500) < many).astype(float), lengths, num=200)[1]
        for seed in range(40)
    ]
    assert 0.85 <= np.mean([low <= 0.5 <= high for low, high in intervals]) < 1, "95 % of them hold the truth"
    assert all(high < 0.65 for _, high in intervals), "and all exclude the raw win rate"


def test_a_win_rate_at_equal_lengths_is_the_plain_one():
    wins = np.array([1.0] * 300 + [0.5] * 40 + [0.0] * 160)
    rate, interval = length_controlled_win_rate(wins, np.zeros(500))
    assert rate == pytest.approx(wins.mean(), abs=1e-4)
    assert interval == pytest.approx(bootstrap_ci(wins), abs=0.005)


def test_the_opponent_sees_the_complement():
    wins, longer_by = draw(5)
    rate, (low, high) = length_controlled_win_rate(wins, longer_by)
    other, interval = length_controlled_win_rate(1 - wins, -longer_by)
    assert other == pytest.approx(1 - rate, abs=1e-9)
    assert interval == pytest.approx([1 - high, 1 - low], abs=1e-9)


def test_rankings_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(2)
    wins, longer_by = rng.binomial(1, 0.6, 100).astype(float), rng.normal(0, 9, 100)
    many, lengths, groups = np.repeat(wins, 10), np.repeat(longer_by, 10), np.repeat(np.arange(100), 10).tolist()
    low, high = length_controlled_win_rate(wins, longer_by)[1]
    assert length_controlled_win_rate(many, lengths, groups)[1] == pytest.approx([low, high], abs=2e-3)
    narrow = length_controlled_win_rate(many, lengths)[1]
    assert narrow[1] - narrow[0] < (high - low) / 2.5, "as if they were independent, it would be too narrow"


# ------------------------------------------------------------------ order


def test_spearman_is_scipys_with_ties():
    values = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [1, 1, 2, 0], [5, 5, 5, 6], [0.1, 0.3, 0.2, 0.2]])
    expected = [scipy.stats.spearmanr(row, range(4)).statistic for row in values]
    assert expected[:2] == pytest.approx([1, -1])
    assert spearman(values).tolist() == pytest.approx(expected)


def test_equal_values_have_no_order():
    assert spearman(np.full((2, 3), 7.0)).tolist() == [0.0, 0.0]


# ------------------------------------------------------------------ repetition and entropy


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3, 4], 4, 1 / 5),  # 1234 2341 3412 4123 1234
        ([9] * 7, 4, 3 / 4),
        ([1, 2, 1, 2, 1], 2, 2 / 4),  # 12 21 12 21
        ([1, 2, 3, 4], 4, 0.0),
        ([1, 1, 1], 4, 0.0),
        ([], 4, 0.0),
    ],
)
def test_repetition_by_hand(tokens: list[int], n: int, expected: float):
    assert repetition(tokens, n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "bits"),
    [
        (-4.0, -4.0, 1.0),
        (-700.0, -700.0 - math.log(3), 2 - 0.75 * math.log2(3)),  # 3/4 and 1/4
        (-2.0, -2.0 + math.log(7), 3 - 7 / 8 * math.log2(7)),  # 1/8 and 7/8
        (0.0, -2000.0, 0.0),
        (-5.0, -math.inf, 0.0),
    ],
)
def test_pair_entropy_by_hand(first: float, second: float, bits: float):
    found = pair_entropy(first, second)
    assert found == pytest.approx(bits, abs=1e-12)
    assert pair_entropy(second, first) == found
    assert math.copysign(1, found) == 1, "no minus before a zero"


# ------------------------------------------------------------------ best of n


@pytest.mark.parametrize("n", range(1, 7))
def test_best_of_n_is_the_mean_over_all_subsets(n: int):
    proxy, gold = np.random.default_rng(4).random((2, 3, 6))
    expected = [
        np.mean([gold[row, max(subset, key=lambda i: proxy[row, i])] for subset in combinations(range(6), n)])
        for row in range(3)
    ]
    assert best_of_n(proxy, gold, n) == pytest.approx(np.mean(expected))


def test_best_of_one_is_the_mean_and_of_all_the_best():
    proxy, gold = np.array([[1.0, 3, 2], [5, 4, 9]]), np.array([[10.0, 20, 60], [1, 2, 6]])
    assert best_of_n(proxy, gold, 1) == pytest.approx((30 + 3) / 2)
    assert best_of_n(proxy, gold, 3) == pytest.approx((20 + 6) / 2)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_kl_is_the_sum_over_many_equally_likely_outcomes(n: int):
    place = np.arange(1, 200_001) / 200_000
    best = place**n - (place - 1 / 200_000) ** n  # chance that the outcome at this place is the best of n
    kept = best[best > 0]
    assert best_of_n_kl(n) == pytest.approx((kept * np.log(kept * 200_000)).sum(), abs=1e-4)
