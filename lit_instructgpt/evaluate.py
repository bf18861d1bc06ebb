"""``lit-instructgpt evaluate``: compares exported models on held-out prompts (paper, section 3.6)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.datamodules.tokenizing import (
    Collator,
    Reading,
    Source,
    TokenizedPrompt,
    pack_text,
    tokenize_comparisons,
    tokenize_prompts,
)
from lit_instructgpt.formatting import PromptFormat, read_format
from lit_instructgpt.functional import kl_k1, masked_sum, ranking_pairs, token_logprobs
from lit_instructgpt.generation import inference_mode
from lit_instructgpt.metrics import half_step
from lit_instructgpt.models import load_policy, load_tokenizer, next_token_logits
from lit_instructgpt.records import Comparison, Prompt, Text
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.sampling import Sampling, sample_ids

Judge = Callable[[list[dict[str, Any]], list[str]], list[dict[str, Any]]]
"""(prompt records, responses) -> one dict of numbers (or None) per response; ``utility`` decides wins."""


def evaluate(
    models: dict[str, str],
    prompts: Source,
    out: str,
    baseline: str = "sft",
    init: str | None = None,
    reward_model: str | None = None,
    judge: Judge | None = None,
    text: Source | None = None,
    text_tokens: int = 256,
    comparisons: Source | None = None,
    held_out_comparisons: Source | None = None,
    sampling: Sampling | None = None,
    reading: Reading | None = None,
    format: PromptFormat | None = None,
    num_shown: int = 12,
    batch_size: int = 64,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare exported models on the same held-out prompts and write a JSON report.

    Args:
        models: name -> exported directory, e.g. ``--models.sft runs/sft/export --models.ppo runs/ppo/export``.
        prompts: file of held-out prompts; whatever else a line holds is passed to the judge.
        out: the JSON file to write.
        baseline: name of the model that the others are compared with.
        init: name or directory of the model that ``kl_to_init`` is measured against; the baseline by default.
        reward_model: directory of a reward model; gives ``rm_score``, and decides wins without a judge.
        judge: class path of a callable ``(records, responses) -> list of dicts``; its ``utility`` decides wins,
            its other numbers are averaged. Needs ``--allow_import`` for its package.
        text: file of held-out text for ``text_loss`` (nats per token).
        text_tokens: length of its blocks.
        comparisons: rankings that the reward model was not trained on, for its pair accuracy.
        held_out_comparisons: rankings by labelers who gave no training data.
        sampling: how responses are sampled.
        reading: length limits.
        format: for models that do not say how their prompts were formatted.
        num_shown: prompts whose responses are shown side by side.
        batch_size: prompts per batch.
        device: cpu, cuda, ...

    Returns:
        The report, as written.
    """
    if baseline not in models:
        raise ValueError(
            f"baseline {baseline!r} is not among models ({', '.join(models)}): give --baseline NAME"
        )
    sampling, reading = sampling or Sampling(max_new_tokens=256), reading or Reading()
    scorer = (
        ModelReward(reward_model, format, reading.max_response_tokens, batch_size, device)
        if reward_model
        else None
    )
    if scorer is None and judge is None:
        raise ValueError("give --reward_model DIR or --judge CLASS_PATH: something must judge the responses")
    records = reading.read(prompts, Prompt)
    reference = init or baseline
    found: dict[str, Samples] = {}
    losses: dict[str, float | None] = {}
    with Progress(transient=True) as progress, torch.no_grad():
        task = progress.add_task("evaluate", total=len(models) + 1)
        first = Evaluated(models[baseline], format, device)
        opponent = first.sample(records, reading, _reseeded(sampling), batch_size)
        start = Evaluated(models.get(reference, reference), format, device)
        progress.advance(task)
        for name, directory in models.items():
            model = Evaluated(directory, format, device)
            found[name] = model.sample(records, reading, sampling, batch_size)
            found[name].kl = model.kl(start, found[name], batch_size, sampling.temperature)
            losses[name] = model.text_loss(reading, text, text_tokens, batch_size) if text else None
            progress.advance(task)
    judged = {name: _judge(s, judge, scorer) for name, s in found.items()}
    against = _judge(opponent, judge, scorer)
    report: dict[str, Any] = {
        "models": {
            name: _model_report(found[name], judged[name], against, losses[name], baseline) for name in models
        },
        "samples": _shown(found, judged, num_shown),
        "num_prompts": len(opponent.texts),
        "wins_by": "judge" if judge is not None else "reward_model",
        "seed": sampling.seed,
    }
    if scorer is not None and comparisons is not None:
        report["rm"] = reward_model_report(scorer, reading, comparisons, held_out_comparisons)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(report, baseline)
    return report


@dataclass
class Samples:
    """One response per prompt, as ids and text."""

    prompts: list[TokenizedPrompt]
    ids: list[list[int]]
    texts: list[str]
    stopped: list[bool]
    kl: list[float] | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The prompts' records."""
        return [prompt.record for prompt in self.prompts]


class Evaluated:
    """An exported policy with its tokenizer and format."""

    def __init__(self, directory: str, prompt_format: PromptFormat | None, device: str) -> None:
        self.tokenizer = load_tokenizer(directory)
        self.policy = load_policy(directory, self.tokenizer).eval().to(device)
        self.format = read_format(directory) or prompt_format or PromptFormat()
        self.device = device

    def sample(
        self, records: Sequence[Prompt], reading: Reading, sampling: Sampling, batch_size: int
    ) -> Samples:
        """One response per prompt; batches hold prompts of similar length."""
        prompts = tokenize_prompts(records, self.tokenizer, self.format, reading)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        collator = Collator(self.tokenizer.pad_token_id)
        ids: list[list[int]] = [[] for _ in prompts]
        for stream, begin in enumerate(range(0, len(order), batch_size)):
            rows = order[begin : begin + batch_size]
            batch = self._to_device(collator.prompts([prompts[i] for i in rows]))
            for i, response in zip(
                rows, sample_ids(self.policy, self.tokenizer, batch, sampling, stream), strict=True
            ):
                ids[i] = response
        texts = [self.format.decode(response, self.tokenizer) for response in ids]
        return Samples(prompts, ids, texts, [r[-1:] == [self.tokenizer.eos_token_id] for r in ids])

    def kl(self, reference: Evaluated, samples: Samples, batch_size: int, temperature: float) -> list[float]:
        """log(model / reference) of each sampled response, summed over its tokens, in nats."""
        if reference.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            return []
        totals = []
        for begin in range(0, len(samples.ids), batch_size):
            rows = range(begin, min(begin + batch_size, len(samples.ids)))
            prompt, prompt_mask = pad(
                [samples.prompts[i].ids for i in rows], self.tokenizer.pad_token_id, left=True
            )
            response, mask = pad([samples.ids[i] for i in rows], self.tokenizer.pad_token_id)
            ids = torch.cat([prompt, response], 1).to(self.device)
            attention = torch.cat([prompt_mask, mask], 1).to(self.device)
            own, other = (
                self._logprobs(policy, ids, attention, response.shape[1], temperature or 1.0)
                for policy in (self.policy, reference.policy)
            )
            totals += masked_sum(kl_k1(own, other), mask.to(self.device), 1).tolist()
        return totals

    def _logprobs(self, policy: Any, ids: Tensor, mask: Tensor, num: int, temperature: float) -> Tensor:
        with inference_mode(policy):
            return token_logprobs(next_token_logits(policy, ids, mask, num), ids[:, -num:], temperature)

    def text_loss(self, reading: Reading, text: Source, num_tokens: int, batch_size: int) -> float:
        """Mean negative log-likelihood of held-out text, nats per token."""
        blocks = pack_text(reading.read(text, Text), self.tokenizer, num_tokens)
        total, count = 0.0, 0
        for begin in range(0, len(blocks), batch_size):
            ids, mask = (
                x.to(self.device) for x in pad([b.ids for b in blocks[begin : begin + batch_size]], 0)
            )
            logprobs = self._logprobs(self.policy, ids, mask, ids.shape[1] - 1, 1.0)
            total -= float(masked_sum(logprobs, mask[:, 1:]))
            count += int(mask[:, 1:].sum())
        return total / count

    def _to_device(self, batch: PromptBatch) -> PromptBatch:
        batch.input_ids, batch.attention_mask = (
            batch.input_ids.to(self.device),
            batch.attention_mask.to(self.device),
        )
        return batch


def _reseeded(sampling: Sampling) -> Sampling:
    return Sampling(1, sampling.max_new_tokens, sampling.temperature, sampling.seed + 1)


def _judge(samples: Samples, judge: Judge | None, scorer: ModelReward | None) -> list[dict[str, Any]]:
    """Per response: the judge's numbers, the reward model's score, and the utility that decides wins."""
    rows = _numbers(judge(samples.records, samples.texts)) if judge else [{} for _ in samples.texts]
    if len(rows) != len(samples.texts):
        raise ValueError(f"the judge returned {len(rows)} judgements for {len(samples.texts)} responses")
    if scorer is not None:
        prompts = [record["prompt"] for record in samples.records]
        for row, score in zip(rows, scorer(prompts, samples.texts), strict=True):
            row["rm_score"] = score
            row.setdefault("utility", score)
    if any(row.get("utility") is None for row in rows):
        raise ValueError(
            "the judge gives no `utility` for some response and there is no reward model: nothing decides which "
            "response wins"
        )
    return rows


def _numbers(judgements: Sequence[Any]) -> list[dict[str, Any]]:
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


def _model_report(
    samples: Samples,
    judged: list[dict[str, Any]],
    against: list[dict[str, Any]],
    text_loss: float | None,
    baseline: str,
) -> dict[str, Any]:
    margins = np.array([a["utility"] - b["utility"] for a, b in zip(judged, against, strict=True)])
    wins = (np.sign(margins) + 1) / 2
    lengths = [len(ids) for ids in samples.ids]
    counts, edges = np.histogram(lengths, bins=20, range=(0, max([*lengths, 1])))
    report: dict[str, Any] = {
        f"win_rate_vs_{baseline}": float(wins.mean()),
        "ci95": bootstrap_ci(wins),
    }
    for key in dict.fromkeys(key for row in judged for key in row):
        values = [row[key] for row in judged if row.get(key) is not None]
        report[key] = float(np.mean(values)) if values else None
        report[f"num_{key}"] = len(values)
    for key in ("rm_score", "utility", "likert", "follows_instruction"):
        report.pop(f"num_{key}", None)
    report |= {
        "kl_to_init": float(np.mean(samples.kl)) if samples.kl else None,
        "text_loss": text_loss,
        "response_tokens": float(np.mean(lengths)),
        "stop_rate": float(np.mean(samples.stopped)),
        "num_prompts": len(judged),
        "length_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
    return report


def bootstrap_ci(
    values: np.ndarray, groups: Sequence[int] | None = None, num: int = 2000, seed: int = 0
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
    rows = rng.integers(0, len(total), (num, len(total)))
    means = total[rows].sum(1) / count[rows].sum(1)
    return [float(np.quantile(means, q)) for q in (0.025, 0.975)]


def _shown(
    found: dict[str, Samples], judged: dict[str, list[dict[str, Any]]], num: int
) -> list[dict[str, Any]]:
    names = list(found)
    samples = found[names[0]]
    step = max(len(samples.texts) // max(num, 1), 1)
    return [
        {
            "prompt": samples.prompts[i].text,
            "use_case": samples.records[i].get("use_case"),
            "responses": {
                name: {
                    "text": found[name].texts[i],
                    "score": judged[name][i].get("rm_score"),
                    "judgement": {
                        k: v for k, v in judged[name][i].items() if k not in ("rm_score", "utility")
                    },
                }
                for name in names
            },
        }
        for i in range(0, len(samples.texts), step)
    ][:num]


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
    collator = Collator(scorer.tokenizer.pad_token_id)
    margins: list[float] = []
    longer: list[float] = []
    prompt: list[int] = []
    names: list[str] = []
    for i, ranking in enumerate(sorted(rankings, key=lambda r: max(map(len, r.ids)))):
        batch = collator.comparisons([ranking])
        scores = scorer.score_ids(
            batch.input_ids[0].to(scorer.device), batch.attention_mask[0].to(scorer.device)
        ).cpu()
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


def _print(report: dict[str, Any], baseline: str) -> None:
    keys = [f"win_rate_vs_{baseline}", "follows_instruction", "hallucination", "satisfies_constraint", "likert",
            "rm_score", "kl_to_init", "text_loss", "response_tokens"]  # fmt: skip
    table = Table(title=f"{report['num_prompts']} held-out prompts")
    table.add_column("model")
    shown = [k for k in keys if any(m.get(k) is not None for m in report["models"].values())]
    for key in shown:
        table.add_column(key.replace("_", " "), justify="right")
    for name, row in report["models"].items():
        table.add_row(name, *["-" if row.get(k) is None else f"{row[k]:.3f}" for k in shown])
    Console().print(table)
    if "rm" in report:
        rm = report["rm"]
        Console().print(
            f"reward model: pair accuracy {rm['pair_accuracy']:.3f} "
            f"({rm['ci95'][0]:.3f}-{rm['ci95'][1]:.3f}, {rm['num_pairs']} pairs), "
            f"longer is better {rm['length_baseline']:.3f}"
        )
