"""How a reward model does on comparisons that it was not trained on: pairs, their margins, and what is counted of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lit_instructgpt.datamodules.tokenizing import (
    Ranking,
    Reading,
    Source,
    longest,
    num_prompt_tokens,
    tokenize_comparisons,
)
from lit_instructgpt.evaluation.agreement import prompt_numbers
from lit_instructgpt.evaluation.statistics import bootstrap_ci, win_shares
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.models import check_context
from lit_instructgpt.records import Comparison, Prompt
from lit_instructgpt.rewards import ModelReward

NUM_BINS = 10
"""Of the confidence, from 0.5 to 1."""
NUM_DRAWS = 200
"""Of what a calibrated model would show."""

NO_PAIR = "no untied pair to measure the reward model on"

R = TypeVar("R", Comparison, Prompt)


def reward_model_report(
    scorer: ModelReward, reading: Reading, comparisons: Measurable, held_out: Measurable | None = None
) -> dict[str, Any]:
    """Pair accuracy with its 95 % interval over prompts, length baseline, per source, and calibration."""
    whole = pair_report(_pairs(scorer, reading, comparisons))
    report: dict[str, Any] = {
        "pair_accuracy": whole["pair_accuracy"],
        "ci95": whole["ci95"],
        "num_pairs": whole["num_pairs"],
        "length_baseline": whole["length_baseline"],
        "accuracy_minus_length_baseline": whole["accuracy_minus_length_baseline"],
        "calibration": whole["calibration"],
        "per_source": whole["per_source"],
    }
    if held_out is not None:
        others = pair_report(_pairs(scorer, reading, held_out))
        report["pair_accuracy_held_out_labelers"] = others["pair_accuracy"]
        report["ci95_held_out_labelers"] = others["ci95"]
    return report


@dataclass(frozen=True)
class Measurable:
    """Rankings that a reward model can be measured on.

    Attributes:
        name: of the option that gave them.
        source: their file.
        num_rows: records of the file.
        records: those whose prompts are short enough for the model.
    """

    name: str
    source: Source
    num_rows: int
    records: list[Comparison]


def read_comparisons(reading: Reading, sources: Mapping[str, Source | None]) -> dict[str, Measurable]:
    """Option -> the rankings of its file; those of options without one are left out.

    Raises:
        ValueError: a file is wrong, or all that it holds ties.
    """
    found = {}
    for name, source in sources.items():
        if source is not None:
            records = reading.read(source, Comparison, keep_all_tied=True)
            found[name] = Measurable(name, source, len(records), records)
            _check_untied(records, str(source))
    return found


def measurable(found: Measurable, scorer: ModelReward, reading: Reading) -> Measurable:
    """The rankings that fit the reward model.

    Raises:
        ValueError: none does, all of those tie, or its context is too short.
    """
    records = fitting(found.records, [(scorer.tokenizer, scorer.format)], reading, found.name)
    _check_untied(records, str(found.source))
    _tokenized(scorer, records, reading, str(found.source))
    return replace(found, records=records)


def _check_untied(records: Sequence[Comparison], source: str) -> None:
    if all(len(set(record.ranking)) == 1 for record in records):
        raise ValueError(f"{source}: {NO_PAIR}")


def _pairs(scorer: ModelReward, reading: Reading, found: Measurable) -> Pairs:
    scored = score_comparisons(scorer, found.records, reading, str(found.source))
    return untied_pairs(found.records, scored, str(found.source))


def fitting(records: Sequence[R], readers: Sequence[tuple[Any, PromptFormat]], reading: Reading, what: str) -> list[R]:
    """The records whose prompts are short enough for every model's tokenizer and format; says how many are not.

    Raises:
        ValueError: none is.
    """
    lengths = [num_prompt_tokens(records, tokenizer, prompt_format) for tokenizer, prompt_format in readers]
    limit = reading.max_prompt_tokens
    fits = [max(of_all) <= limit for of_all in zip(*lengths, strict=True)]
    left_out = f"{what}: {fits.count(False)} of {len(fits)} prompts have more than {limit} tokens for some model"
    if not any(fits):
        raise ValueError(f"{left_out}: raise reading.max_prompt_tokens")
    if not all(fits):
        rank_zero_info(f"{left_out} and are left out for all")
    return [record for record, kept in zip(records, fits, strict=True) if kept]


def score_comparisons(
    scorer: ModelReward, records: Sequence[Comparison], reading: Reading, source: str
) -> list[list[float]]:
    """Of every record [K] scores, each text scored once however many labelers ranked it.

    NaN where all responses of a record tie and no other record has them, which no number needs.
    """
    rankings = _tokenized(scorer, records, reading, source)
    needed = {
        tuple(ids): ranking.num_prompt for ranking in rankings if len(set(ranking.ranking)) > 1 for ids in ranking.ids
    }
    scores = score_once(scorer, needed, source)
    return [[scores.get(tuple(ids), math.nan) for ids in ranking.ids] for ranking in rankings]


def _tokenized(scorer: ModelReward, records: Sequence[Comparison], reading: Reading, source: str) -> list[Ranking]:
    rankings = tokenize_comparisons(records, scorer.tokenizer, scorer.format, reading)
    needs = {reading.shortened(): longest(rankings)}
    check_context(scorer.model.model.config, f"the reward model, for {source}", needs)
    return rankings


def score_once(
    scorer: ModelReward, sequences: Mapping[tuple[int, ...], int], source: str
) -> dict[tuple[int, ...], float]:
    """The score of each sequence of token ids; the values are the tokens of its prompt, 0 where none is to be shared.

    Raises:
        ValueError: a score is not finite.
    """
    scores = scorer.score_sequences([list(ids) for ids in sequences], list(sequences.values()))
    num_wrong = sum(not math.isfinite(score) for score in scores)
    if num_wrong:
        raise ValueError(
            f"{source}: the reward model gives NaN or infinity for {num_wrong} of {len(scores)} sequences: its weights "
            "are damaged, or overflow in the dtype they were saved in; export it again"
        )
    return dict(zip(sequences, scores, strict=True))


@dataclass(frozen=True)
class Pairs:
    """Pairs of responses of which the labeler ranked one above the other.

    Attributes:
        margin: [N] score of the better one minus score of the worse one.
        longer: [N] 1 where the better one has more characters, 0 where it has fewer, 1/2 where both have as many: of the
            whole texts, whatever the model reads of them.
        prompt: [N] number of the prompt.
        source: [N] the record's source.
        labeler: [N] the record's labeler.
        num_k: [N] how many responses the record has.
        num_tied: pairs that the labeler ranked equal; they are not among the N.
    """

    margin: np.ndarray
    longer: np.ndarray
    prompt: np.ndarray
    source: np.ndarray
    labeler: np.ndarray
    num_k: np.ndarray
    num_tied: int


def untied_pairs(records: Sequence[Comparison], scored: Sequence[Sequence[float]], source: str) -> Pairs:
    """The untied pairs of all records, in the order of the records.

    Args:
        records: the rankings.
        scored: of each [K] scores.
        source: their file, for messages.

    Raises:
        ValueError: there is none.
    """
    rows: list[tuple[Any, ...]] = []
    num_tied = 0
    for record, number, scores in zip(records, prompt_numbers(records), scored, strict=True):
        about = (number, record.source or "data", record.labeler or "unknown", len(record.responses))
        for i, j in combinations(range(len(record.responses)), 2):
            if record.ranking[i] == record.ranking[j]:
                num_tied += 1
                continue
            better, worse = (i, j) if record.ranking[i] < record.ranking[j] else (j, i)
            longer_by = len(record.responses[better]) - len(record.responses[worse])
            rows.append((scores[better] - scores[worse], longer_by, *about))
    if not rows:
        raise ValueError(f"{source}: {NO_PAIR}")
    margin, longer, prompt, source_of, labeler, num_k = map(np.array, zip(*rows, strict=True))
    return Pairs(margin, win_shares(longer), prompt, source_of, labeler, num_k, num_tied)


def pair_report(pairs: Pairs, seed: int = 0) -> dict[str, Any]:
    """Pair accuracy with its interval, length baseline, calibration, and the same per source, labeler and K."""
    everything = np.ones(len(pairs.margin), dtype=bool)
    whole = _accuracy(pairs, everything, seed)
    return {
        "pair_accuracy": whole.pop("accuracy"),
        **whole,
        "num_tied": pairs.num_tied,
        "calibration": calibration(pairs.margin),
        "per_source": _per(pairs, pairs.source, seed),
        "per_labeler": _per(pairs, pairs.labeler, seed),
        "per_k": _per(pairs, pairs.num_k, seed),
    }


def _per(pairs: Pairs, names: np.ndarray, seed: int) -> dict[str, Any]:
    return {str(name): _accuracy(pairs, names == name, seed) for name in sorted(set(names.tolist()))}


def _accuracy(pairs: Pairs, inside: np.ndarray, seed: int) -> dict[str, Any]:
    right, prompts = win_shares(pairs.margin[inside]), pairs.prompt[inside].tolist()
    gain = right - pairs.longer[inside]
    return {
        "accuracy": float(right.mean()),
        "ci95": bootstrap_ci(right, prompts, seed=seed),
        "num_pairs": len(right),
        "num_prompts": len(set(prompts)),
        "length_baseline": float(pairs.longer[inside].mean()),
        "accuracy_minus_length_baseline": {"mean": float(gain.mean()), "ci95": bootstrap_ci(gain, prompts, seed=seed)},
    }


def calibration(margins: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """How often a model that is right with probability sigmoid(score difference) by its own account is right.

    ``ece`` is the mean gap between the two over bins of the confidence, each weighed by its pairs; ``ece_by_chance`` what it
    would be in the mean if the account were true, each pair by itself: few pairs leave a gap in any case.

    Args:
        margins: [N] score of the better response minus score of the worse one.
        seed: of the draws of ``ece_by_chance``.
    """
    right = win_shares(margins)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    place = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = [
        {
            "confidence": float(confidence[place == i].mean()),
            "accuracy": float(right[place == i].mean()),
            "count": int((place == i).sum()),
        }
        for i in sorted(set(place.tolist()))
    ]
    rng = np.random.default_rng(seed)
    by_chance = []
    for _ in range(NUM_DRAWS):
        gap = np.bincount(place, weights=(rng.random(len(margins)) < confidence) - confidence)
        by_chance.append(np.abs(gap).sum() / len(margins))
    return {
        "bins": bins,
        "ece": float(sum(abs(b["confidence"] - b["accuracy"]) * b["count"] for b in bins) / len(margins)),
        "ece_by_chance": float(np.mean(by_chance)),
    }


def accuracy_difference(pairs: Pairs, first: Pairs, seed: int = 0) -> dict[str, Any]:
    """The pair accuracy of one model minus that of another on the same pairs, with its interval over prompts."""
    gain = win_shares(pairs.margin) - win_shares(first.margin)
    prompts = pairs.prompt.tolist()
    return {
        "accuracy_difference": float(gain.mean()),
        "ci95": bootstrap_ci(gain, prompts, seed=seed),
        "num_pairs": len(gain),
        "num_prompts": len(set(prompts)),
    }
