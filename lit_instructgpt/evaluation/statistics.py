"""Numbers with their uncertainty: pure functions on numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

NUM_RESAMPLES = 2000
NEWTON_STEPS = 25
MOST_DRAWS = 2**22
"""Numbers held at a time while resampling: 32 MB an array; the resamples are the same whatever it is."""
CONVERGED = 1e-9
FEW = 30
"""With fewer prompts a bootstrap interval is too narrow, and is said to be."""
RIDGE = 1e-2
"""Keeps the logistic regression finite where one side wins every time; moves a win rate of 500 prompts by 1e-5."""
EITHER_WAY = 0.05
"""So many responses must be no longer than the opponent's, and so many no shorter, to say what is left at equal lengths."""


def bootstrap_ci(
    values: np.ndarray, groups: Sequence[int] | None = None, num: int = NUM_RESAMPLES, seed: int = 0
) -> list[float]:
    """95 % percentile interval of the mean, resampling prompts.

    Args:
        values: one number per prompt or per pair.
        groups: the prompt of each value, when a prompt has several; prompts are then resampled whole.
        num: resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    index = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    total = np.bincount(index, weights=values)
    count = np.bincount(index)
    means = []
    for size in _portions(num, len(total)):
        rows = rng.integers(0, len(total), (size, len(total)))
        means.append(total[rows].sum(1) / count[rows].sum(1))
    return interval(np.concatenate(means))


def _portions(num: int, width: int) -> list[int]:
    """``num`` rows of ``width`` numbers in portions that hold at most ``MOST_DRAWS``, or one row."""
    size = max(MOST_DRAWS // width, 1)
    return [min(size, num - begin) for begin in range(0, num, size)]


def interval(resampled: np.ndarray) -> list[float]:
    """The middle 95 % of resampled figures."""
    return [float(np.quantile(resampled, q)) for q in (0.025, 0.975)]


def win_shares(margins: np.ndarray) -> np.ndarray:
    """1 for a win, 0 for a loss, 1/2 for a tie."""
    return (np.sign(margins) + 1) / 2


def length_controlled_win_rate(
    wins: np.ndarray,
    longer_by: np.ndarray,
    groups: Sequence[int] | None = None,
    num: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, list[float]] | tuple[None, None]:
    """The win rate that is left at equal lengths, and its 95 % interval over prompts.

    None where there is next to nothing at equal lengths or on one side of them (``EITHER_WAY``): it would be an extrapolation.

    A logistic regression of the wins on tanh(length difference / its standard deviation), read at difference 0: AlpacaEval's
    length control (Dubois et al., 2024) without its term per prompt. Where the chance to win is a
    logistic function of this length alone, 1/2 is left; a merit that always comes with length counts as length.

    Args:
        wins: [N] 1 for a win, 0 for a loss, a share for what lies between.
        longer_by: [N] length of the response minus length of the opponent's, in any unit.
        groups: [N] the prompt of each, when a prompt has several; prompts are then resampled whole.
        num: resamples.
        seed: of the resampling.
    """
    if min(np.mean(longer_by <= 0), np.mean(longer_by >= 0)) < EITHER_WAY:
        return None, None
    spread = float(np.std(longer_by))
    x = np.tanh(longer_by / spread) if spread > 0 else np.zeros(len(wins))
    index = np.arange(len(wins)) if groups is None else np.unique(groups, return_inverse=True)[1]
    total = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    rates = []
    for size in _portions(num, len(wins)):
        weights = rng.multinomial(total, np.full(total, 1 / total), size).astype(float)[:, index]
        rates.append(_sigmoid(_fit_intercepts(wins, x, weights)))
    whole = _sigmoid(_fit_intercepts(wins, x, np.ones((1, len(wins)))))
    return float(whole[0]), interval(np.concatenate(rates))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (np.tanh(x / 2) + 1) / 2


def _fit_intercepts(y: np.ndarray, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Intercepts of weighted logistic regressions of y [N] on x [N], one per row of weights [R, N], by Newton's method."""
    a, b = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(a[:, None] + b[:, None] * x)
        residual, curvature = weights * (y - p), weights * p * (1 - p)
        grad_a, grad_b = residual.sum(1) - RIDGE * a, residual @ x - RIDGE * b
        h_aa, h_ab, h_bb = curvature.sum(1) + RIDGE, curvature @ x, curvature @ x**2 + RIDGE
        determinant = h_aa * h_bb - h_ab**2
        step_a = (h_bb * grad_a - h_ab * grad_b) / determinant
        step_b = (h_aa * grad_b - h_ab * grad_a) / determinant
        a, b = a + step_a, b + step_b
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < CONVERGED:
            break
    return a


def spearman(values: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row's values with their places: [N, S] -> [N].

    Equal values share their mean rank; 0 where all are equal, which have no order.
    """
    above = values[:, :, None] - values[:, None, :]
    ranks = win_shares(above).sum(2)
    centred = ranks - ranks.mean(1, keepdims=True)
    places = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    norm = np.sqrt((centred**2).sum(1) * (places**2).sum())
    return np.divide(centred @ places, norm, out=np.zeros(len(values)), where=norm > 0)


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a response's n-grams that have occurred in it before; 0 if it is too short to have two."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def pair_entropy(first: float, second: float) -> float:
    """Entropy in bits of choosing between two texts with these log-probabilities (nats): 1 is no preference.

    The paper's measure of bias (Appendix D): the probabilities of the two are divided by their sum.
    """
    p = 1 / (1 + math.exp(-abs(first - second)))
    q = math.exp(-abs(first - second)) * p
    return 0.0 - p * math.log2(p) - (q * math.log2(q) if q > 0 else 0.0)


def best_of_n(proxy: np.ndarray, gold: np.ndarray, n: int) -> float:
    """Expected gold score of the one of n samples that the proxy likes best, averaged over prompts.

    The unbiased estimate from all N samples per prompt (Nakano et al., 2021, Appendix I): every subset of n counts.

    Args:
        proxy: [prompts, N] scores that choose.
        gold: [prompts, N] scores that are reported.
        n: at most N.
    """
    order = np.argsort(proxy, axis=1, kind="stable")
    total = proxy.shape[1]
    share = [math.comb(i, n - 1) / math.comb(total, n) for i in range(total)]
    return float((np.take_along_axis(gold, order, 1) * np.array(share)).sum(1).mean())


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling from its policy, nats (Stiennon et al., 2020): log n - (n - 1) / n."""
    return math.log(n) - (n - 1) / n
