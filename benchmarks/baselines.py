"""What a reward model must beat: a linear model on the words of the replies, trained on the same pairs."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

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
        self.weights = torch.zeros(0, dtype=torch.float64)

    def fit(self, pairs: Sequence[Pair]) -> BagOfWords:
        """Learn from pairs; returns itself."""
        counts = Counter(word for pair in pairs for reply in pair for word in set(words(reply)))
        kept = sorted(word for word, count in counts.items() if count >= self.min_count)
        self.vocabulary = {word: i for i, word in enumerate(kept)}
        difference = torch.stack([self.features(a) - self.features(b) for a, b in pairs])
        self.weights = torch.zeros(len(kept), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights], max_iter=500, line_search_fn="strong_wolfe",
                                      tolerance_grad=1e-8, tolerance_change=1e-12)  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.softplus(-difference @ self.weights).sum() + self.l2 / 2 * self.weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        self.weights = self.weights.detach()
        return self

    def features(self, reply: str) -> Tensor:
        """log(1 + count) of the vocabulary's words: [V]."""
        vector = torch.zeros(len(self.vocabulary), dtype=torch.float64)
        for word, count in Counter(words(reply)).items():
            if word in self.vocabulary:
                vector[self.vocabulary[word]] = math.log1p(count)
        return vector

    def margin(self, a: str, b: str) -> float:
        """Log-odds that ``a`` is preferred to ``b``."""
        return float((self.features(a) - self.features(b)) @ self.weights)


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
