"""How far labelers agree with one another, and a reward model with them, on the same responses (paper, section 3.4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from lit_instructgpt.evaluation.statistics import bootstrap_ci, win_shares
from lit_instructgpt.records import Comparison, Prompt


def prompt_of(record: Comparison | Prompt) -> Hashable:
    """What tells one prompt from another."""
    if isinstance(record.prompt, str):
        return record.prompt
    return tuple((message.role, message.content) for message in record.prompt)


def prompt_numbers(records: Sequence[Comparison] | Sequence[Prompt]) -> list[int]:
    """The number of each record's prompt, the same for the same prompt."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(prompt_of(record), len(numbers)) for record in records]


@dataclass
class SharedPairs:
    """Pairs of responses that two labelers ranked, neither of them as a tie.

    Attributes:
        first: [N] number of the one labeler's record.
        second: [N] number of the other labeler's record.
        responses: [N] the pair, the first labeler's better response in front.
        agreed: [N] whether the second labeler has the same order.
        prompts: [N] number of the prompt.
        num_tied: pairs that at least one of the two ranked equal; they are in no list.
        num_rankings: rankings of what another labeler ranked too.
        num_unnamed: rankings of what another ranking is of too, left out because they name no labeler.
    """

    first: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    responses: list[tuple[str, str]] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    num_tied: int = 0
    num_rankings: int = 0
    num_unnamed: int = 0


def shared_pairs(records: Sequence[Comparison]) -> SharedPairs:
    """The pairs of every two rankings of the same responses to the same prompt by different labelers.

    Rankings under different names in a field ``criterion`` are of different things, and not compared. Responses of the
    same text count as one. Where more than two labelers ranked the same, every two of them are compared.
    """
    sets: dict[Hashable, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        sets[prompt_of(record), repr(record.extra.get("criterion")), frozenset(record.responses)].append(i)
    numbers, found = prompt_numbers(records), SharedPairs()
    for same in sets.values():
        named = [i for i in same if records[i].labeler is not None]
        found.num_unnamed += len(same) - len(named) if len(same) > 1 else 0
        if len({records[i].labeler for i in named}) > 1:
            found.num_rankings += len(named)
        for i, j in combinations(named, 2):
            if records[i].labeler != records[j].labeler:
                _compare(found, records, i, j, numbers[i])
    return found


def _compare(found: SharedPairs, records: Sequence[Comparison], i: int, j: int, prompt: int) -> None:
    one, other = (dict(zip(records[k].responses, records[k].ranking, strict=True)) for k in (i, j))
    for pair in combinations(one, 2):
        better, worse = pair if one[pair[0]] < one[pair[1]] else pair[::-1]
        if one[better] == one[worse] or other[better] == other[worse]:
            found.num_tied += 1
            continue
        found.first.append(i)
        found.second.append(j)
        found.responses.append((better, worse))
        found.agreed.append(other[better] < other[worse])
        found.prompts.append(prompt)


def labeler_agreement(pairs: SharedPairs, seed: int = 0) -> dict[str, Any] | None:
    """How often two labelers agree on a pair that neither ranked equal; None where nothing was ranked twice.

    Args:
        pairs: of ``shared_pairs``.
        seed: of the resampling of prompts.
    """
    if not pairs.num_rankings:
        return None
    return {
        **_share(np.array(pairs.agreed, dtype=float), pairs.prompts, seed),
        "num_pairs": len(pairs.agreed),
        "num_tied": pairs.num_tied,
        "num_prompts": len(set(pairs.prompts)),
        "num_rankings": pairs.num_rankings,
        "num_without_labeler": pairs.num_unnamed,
    }


def model_agreement(pairs: SharedPairs, scores: Sequence[Mapping[str, float]], seed: int = 0) -> dict[str, Any]:
    """How often a reward model agrees with a labeler, on the very pairs on which labelers are compared.

    Of each pair the mean over its two labelers: 1/2 where they disagree. An equal score counts half.

    Args:
        pairs: of ``shared_pairs``.
        scores: of each record, its responses' scores.
        seed: of the resampling of prompts.
    """
    margins = [
        scores[i][better] - scores[i][worse] for i, (better, worse) in zip(pairs.first, pairs.responses, strict=True)
    ]
    with_first = win_shares(np.array(margins, dtype=float))
    return _share((with_first + np.where(pairs.agreed, with_first, 1 - with_first)) / 2, pairs.prompts, seed)


def _share(agreed: np.ndarray, prompts: Sequence[int], seed: int) -> dict[str, Any]:
    if not len(agreed):
        return {"agreement": None, "ci95": None}
    return {"agreement": float(agreed.mean()), "ci95": bootstrap_ci(agreed, prompts, seed=seed)}
