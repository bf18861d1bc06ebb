"""What a reward model must beat: a linear model on the words of the replies, trained on the same pairs."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

Pair = tuple[str, str]
"""(the preferred reply, the other one)"""

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]")
"""Words, and single punctuation marks."""


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return WORD.findall(text.lower())


class BagOfWords:
    """Logistic regression on the difference of two replies' word counts, with an L2 penalty.

    P(a is preferred to b) = sigmoid(w . (n(a) - n(b))) with n = log(1 + count) of each word. There is no
    intercept, so that swapping the replies swaps the answer. w minimises the summed negative log-likelihood
    plus ``l2 / 2 |w|^2``, a convex function, found by L-BFGS.

    Args:
        l2: the penalty.
        min_count: a word must occur in this many training replies.
    """

    def __init__(self, l2: float = 3.0, min_count: int = 2) -> None:
        self.l2, self.min_count = l2, min_count
        self.vocabulary: dict[str, int] = {}
        self.weights: NDArray[np.float64] = np.zeros(0)

    def fit(self, pairs: Sequence[Pair]) -> BagOfWords:
        """Learn from pairs; returns itself."""
        counts = Counter(word for pair in pairs for reply in pair for word in set(words(reply)))
        kept = sorted(word for word, count in counts.items() if count >= self.min_count)
        self.vocabulary = {word: i for i, word in enumerate(kept)}
        difference = self._differences(pairs)

        def loss_and_gradient(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            margin = difference @ weights
            loss = np.logaddexp(0, -margin).sum() + self.l2 / 2 * weights @ weights
            return float(loss), self.l2 * weights - difference.T @ expit(-margin)

        found = minimize(loss_and_gradient, np.zeros(len(kept)), jac=True, method="L-BFGS-B",
                         options={"maxiter": 2000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-8})  # fmt: skip
        self.weights = found.x
        return self

    def _differences(self, pairs: Sequence[Pair]) -> csr_array:
        """Of every pair, the preferred reply's features less the other's: [number of pairs, V]."""
        values, rows, columns = [], [], []
        for row, pair in enumerate(pairs):
            for sign, reply in zip((1.0, -1.0), pair, strict=True):
                for word, value in self.features(reply).items():
                    values.append(sign * value)
                    rows.append(row)
                    columns.append(self.vocabulary[word])
        shape = (len(pairs), len(self.vocabulary))
        return csr_array((values, (rows, columns)), shape=shape)  # what has one place is summed

    def features(self, reply: str) -> dict[str, float]:
        """log(1 + count) of each word of the vocabulary that the reply has."""
        return {word: math.log1p(n) for word, n in Counter(words(reply)).items() if word in self.vocabulary}

    def margin(self, a: str, b: str) -> float:
        """Log-odds that ``a`` is preferred to ``b``."""
        return self._score(a) - self._score(b)

    def _score(self, reply: str) -> float:
        return sum(float(self.weights[self.vocabulary[word]]) * value for word, value in self.features(reply).items())


def choose_l2(
    pairs: Sequence[Pair], groups: Sequence[str], values: Sequence[float] = (1.0, 3.0, 10.0, 30.0), folds: int = 5
) -> float:
    """The penalty with the best accuracy on left-out groups of the training pairs; the first of equals.

    Args:
        pairs: training pairs.
        groups: the prompt of each pair; a prompt's pairs are left out together.
        values: penalties to try.
        folds: parts that are left out in turn.
    """
    names = sorted(set(groups))
    random.Random(0).shuffle(names)
    fold = {name: i % folds for i, name in enumerate(names)}
    right = dict.fromkeys(values, 0.0)
    for left_out in range(folds):
        train = [pair for pair, group in zip(pairs, groups, strict=True) if fold[group] != left_out]
        test = [pair for pair, group in zip(pairs, groups, strict=True) if fold[group] == left_out]
        if train and test:
            for value in values:
                model = BagOfWords(value).fit(train)
                right[value] += sum(half_step(model.margin(a, b)) for a, b in test)
    return max(values, key=lambda value: right[value])


def half_step(margin: float) -> float:
    """1 if positive, 0 if negative, one half at 0."""
    return float((margin > 0) + 0.5 * (margin == 0))
