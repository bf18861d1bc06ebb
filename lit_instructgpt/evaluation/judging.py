"""Who decides which response is better: a callable on one response or on two, or a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from lit_instructgpt.evaluation.policies import Samples
from lit_instructgpt.evaluation.statistics import win_shares
from lit_instructgpt.rewards import ModelReward

Judge = Callable[[list[dict[str, Any]], list[str]], list[dict[str, Any]]]
"""(prompt records, responses) -> one dict of numbers (or None) per response; ``utility`` decides wins."""

PairJudge = Callable[[list[dict[str, Any]], list[str], list[str]], list[float]]
"""(prompt records, first responses, second responses) -> 1 where the first is better, 0 where the second is, 1/2 for a tie."""

Judgements = list[dict[str, Any]]
"""Per response: the judge's numbers, ``rm_score`` and, unless a pair judge decides, ``utility``."""


@dataclass(frozen=True)
class Judges:
    """Those who judge; wins are decided by ``pair_judge``, else by the judge's utility, else by the reward model."""

    judge: Judge | None = None
    pair_judge: PairJudge | None = None
    scorer: ModelReward | None = None

    @property
    def wins_by(self) -> str:
        """Who decides wins."""
        return "pair_judge" if self.pair_judge else "judge" if self.judge else "reward_model"

    def judge_each(self, samples: Samples) -> Judgements:
        """The numbers of each response.

        Raises:
            ValueError: the judge returned something else than a dict of finite numbers or None for each, or nothing decides
                which of two responses wins.
        """
        rows = numbers(self.judge(samples.records, samples.texts)) if self.judge else [{} for _ in samples.texts]
        if len(rows) != len(samples.texts):
            raise ValueError(f"the judge returned {len(rows)} judgements for {len(samples.texts)} responses")
        if self.scorer is not None:
            for row, score in zip(rows, samples.score(self.scorer), strict=True):
                row["rm_score"] = score
                if not self.pair_judge:
                    row.setdefault("utility", score)
        if not self.pair_judge and any(row.get("utility") is None for row in rows):
            raise ValueError(
                "the judge gives no `utility` for some response and there is no reward model: nothing decides which "
                "response wins"
            )
        return rows

    def wins(self, own: Samples, judged: Judgements, other: Samples, judged_other: Judgements) -> np.ndarray:
        """[N] 1 where a model's response is better than the other's, 1/2 for a tie, 0 where it is worse."""
        if self.pair_judge is None:
            return win_shares(
                np.array([a["utility"] - b["utility"] for a, b in zip(judged, judged_other, strict=True)])
            )
        forth = shares(self.pair_judge(own.records, own.texts, other.texts), len(own.texts))
        back = shares(self.pair_judge(own.records, other.texts, own.texts), len(own.texts))
        return (forth + 1 - back) / 2


def numbers(judgements: Sequence[Any]) -> Judgements:
    """The judge's dicts with plain, finite numbers.

    Raises:
        ValueError: something else is in them.
    """
    rows = []
    for judgement in judgements:
        if not isinstance(judgement, Mapping):
            raise ValueError(f"the judge must return one dict per response, got {judgement!r}")
        row: dict[str, Any] = {}
        for key, value in judgement.items():
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                raise ValueError(f"the judge must give finite numbers or None, got {key}={value!r}")
            row[key] = value if value is None or isinstance(value, int) else float(value)
        rows.append(row)
    return rows


def shares(preferences: Sequence[Any], num: int) -> np.ndarray:
    """A pair judge's answers as an array.

    Raises:
        ValueError: not one number from 0 to 1 for each pair.
    """
    if len(preferences) != num:
        raise ValueError(f"the pair judge returned {len(preferences)} preferences for {num} pairs")
    wrong = [(i, p) for i, p in enumerate(preferences) if not isinstance(p, Real) or not 0 <= float(p) <= 1]
    if wrong:
        i, value = wrong[0]
        raise ValueError(
            f"the pair judge must give 1 (first), 0 (second) or 0.5 (tie) for each pair, got {value!r} for pair {i} "
            f"({len(wrong)} such in all)"
        )
    return np.array(preferences, dtype=float)
