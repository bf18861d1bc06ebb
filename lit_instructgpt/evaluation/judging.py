"""Who decides which response is better: a callable on one response or on two, or a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from lit_instructgpt.evaluation.policies import Samples, rm_scores
from lit_instructgpt.evaluation.statistics import win_shares
from lit_instructgpt.rewards import ModelReward

Judge = Callable[[list[dict[str, Any]], list[str]], list[dict[str, Any]]]
"""(prompt records, responses) -> one dict of numbers (or None) per response; ``utility`` decides wins."""

PairJudge = Callable[[list[dict[str, Any]], list[str], list[str]], list[float]]
"""(prompt records, first responses, second responses) -> 1 where the first is better, 0 where the second is, 1/2 for a tie."""

Judgements = list[dict[str, Any]]
"""Per response: the judge's numbers, ``rm_score`` and, unless a pair judge decides, ``utility``."""


RESERVED = {
    "rm_score", "kl_to_init", "text_loss", "text_loss_per_byte", "response_tokens", "stop_rate", "repetition", "length_histogram",
    "length_controlled_win_rate", "ci95",
}  # fmt: skip
RESERVED_BEGINNINGS = ("win_rate_vs_", "ci95_", "num_")
"""Keys of a model's report that are not a judge's to give."""


@dataclass(frozen=True)
class Judges:
    """Those who judge."""

    judge: Judge | None = None
    pair_judge: PairJudge | None = None
    scorer: ModelReward | None = None

    def judge_all(self, names: Sequence[str], answers: Sequence[Samples]) -> tuple[list[Judgements], str]:
        """The numbers of each response of everyone who answered, and who decides wins.

        Args:
            names: of those who answered, for messages.
            answers: of each, its responses.

        Raises:
            ValueError: the judge returned something else than a dict of finite numbers or None for each, or nothing decides
                which of any two responses wins.
        """
        judged = [self._judge(samples) for samples in answers]
        wins_by = self._wins_by(dict(zip(names, judged, strict=True)))
        if self.scorer is not None:
            for rows, scores in zip(judged, rm_scores(self.scorer, answers), strict=True):
                for row, score in zip(rows, scores, strict=True):
                    row["rm_score"] = score
                    if wins_by == "reward_model":
                        row["utility"] = score
        return judged, wins_by

    def _judge(self, samples: Samples) -> Judgements:
        """What the judge says of each response; nothing without one."""
        rows = numbers(self.judge(samples.records, samples.texts)) if self.judge else [{} for _ in samples.texts]
        if len(rows) != len(samples.texts):
            raise ValueError(f"the judge returned {len(rows)} judgements for {len(samples.texts)} responses")
        return rows

    def _wins_by(self, judged: Mapping[str, Judgements]) -> str:
        """The pair judge, else the judge if each response has its ``utility``, else the reward model if none has.

        One of them decides for all responses: a utility and a score are in different units.

        Raises:
            ValueError: some responses have a utility and some have none, or none has and there is no reward model.
        """
        if self.pair_judge is not None:
            return "pair_judge"
        without = {name: sum(row.get("utility") is None for row in rows) for name, rows in judged.items()}
        if not any(without.values()):
            return "judge"
        if any(num < len(judged[name]) for name, num in without.items()):
            counts = [f"{num} of {len(judged[name])} responses of {name}" for name, num in without.items() if num]
            raise ValueError(
                f"the judge gives no `utility` for {', '.join(counts)}, and gives one for the others: let it give one "
                "for every response, or for none and let --reward_model DIR decide"
            )
        if self.scorer is None:
            raise ValueError(
                "the judge gives no `utility` and there is no reward model: nothing decides which response wins; let it "
                "give one for every response, or give --reward_model DIR or --pair_judge CLASS_PATH"
            )
        return "reward_model"

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
            if key in RESERVED or str(key).startswith(RESERVED_BEGINNINGS):
                raise ValueError(f"the judge gives {key}, which the report gives itself: call it otherwise")
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
