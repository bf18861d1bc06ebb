"""How a reward model does on comparisons that it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from lit_instructgpt.datamodules.tokenizing import Collator, Reading, Source, longest, tokenize_comparisons
from lit_instructgpt.evaluation.statistics import bootstrap_ci
from lit_instructgpt.functional import ranking_pairs
from lit_instructgpt.metrics import half_step
from lit_instructgpt.models import check_context
from lit_instructgpt.records import Comparison
from lit_instructgpt.rewards import ModelReward


def reward_model_report(
    scorer: ModelReward, reading: Reading, comparisons: Source, held_out: Source | None = None
) -> dict[str, Any]:
    """Pair accuracy with its 95 % interval over prompts, length baseline, per source, and calibration."""
    margins, longer, prompt, source = _pairs(scorer, reading, comparisons)
    correct = (np.sign(margins) + 1) / 2
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bins, ece = [], 0.0
    for low in np.arange(0.5, 1.0, 0.05):
        inside = (confidence >= low) & (confidence < low + 0.05 + (1e-9 if low > 0.94 else 0))
        if inside.any():
            mean, right = float(confidence[inside].mean()), float(correct[inside].mean())
            bins.append({"confidence": mean, "accuracy": right, "count": int(inside.sum())})
            ece += abs(mean - right) * inside.mean()
    report: dict[str, Any] = {
        "pair_accuracy": float(correct.mean()),
        "ci95": bootstrap_ci(correct, prompt),
        "num_pairs": len(correct),
        "length_baseline": float(longer.mean()),
        "calibration": {"bins": bins, "ece": float(ece)},
        "per_source": {
            name: {
                "accuracy": float(correct[source == name].mean()),
                "ci95": bootstrap_ci(correct[source == name], list(np.array(prompt)[source == name])),
                "num_pairs": int((source == name).sum()),
                "length_baseline": float(longer[source == name].mean()),
            }
            for name in sorted(set(source.tolist()))
        },
    }
    if held_out is not None:
        margins, _, prompt, _ = _pairs(scorer, reading, held_out)
        right = (np.sign(margins) + 1) / 2
        report["pair_accuracy_held_out_labelers"] = float(right.mean())
        report["ci95_held_out_labelers"] = bootstrap_ci(right, prompt)
    return report


def _pairs(scorer: ModelReward, reading: Reading, source: Source) -> tuple[Any, Any, list[int], Any]:
    """Margins of the untied pairs, whether the longer is better, their prompts and their sources."""
    records = reading.read(source, Comparison)
    rankings = tokenize_comparisons(records, scorer.tokenizer, scorer.format, reading)
    needs = {f"reading.max_tokens ({reading.max_tokens})": longest(rankings)}
    check_context(scorer.model.model.config, f"the reward model, for {source}", needs)
    collator = Collator(scorer.tokenizer.pad_token_id)
    margins: list[float] = []
    longer: list[float] = []
    prompt: list[int] = []
    names: list[str] = []
    for i, ranking in enumerate(sorted(rankings, key=lambda r: max(map(len, r.ids)))):
        batch = collator.comparisons([ranking])
        scores = scorer.score_ids(batch.input_ids[0].to(scorer.device), batch.attention_mask[0].to(scorer.device)).cpu()
        pairs = ranking_pairs(scores[None], batch.ranking, batch.completion_mask)
        lengths = ranking_pairs(batch.response_length.float(), batch.ranking, batch.completion_mask)
        found = pairs.margin[pairs.untied].tolist()
        margins += found
        longer += half_step(lengths.margin[pairs.untied]).tolist()
        prompt += [i] * len(found)
        names += [ranking.source] * len(found)
    if not margins:
        raise ValueError(f"{source}: no untied pair to measure the reward model on")
    return np.array(margins), np.array(longer), prompt, np.array(names)
