"""Outputs of several systems for the same prompts, under a reward model: does a better system score higher?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lit_instructgpt.datamodules.tokenizing import Reading, Source, tokenize_prompts
from lit_instructgpt.evaluation.statistics import bootstrap_ci, spearman
from lit_instructgpt.models import check_context
from lit_instructgpt.records import Prompt
from lit_instructgpt.records_lines import shown
from lit_instructgpt.rewards import ModelReward

FIELD = "outputs"
MAX_LISTED = 20
Ids = tuple[int, ...]


def texts_of(record: Prompt) -> dict[str, str]:
    """System -> what it wrote, without the systems that wrote nothing here (null)."""
    return {system: text for system, text in record.extra[FIELD].items() if text is not None}


def read_outputs(reading: Reading, source: Source, order: Sequence[str] = ()) -> list[Prompt]:
    """Records of a prompt and ``outputs``, an object of system -> text; says which systems there are.

    A system may be missing, or null, in some records. An empty text is an output like any other.

    Args:
        reading: how records are read.
        source: of the records.
        order: systems that must be there.

    Raises:
        ValueError: naming every line that does not have them, or the systems of ``order`` that no line has.
    """
    records = reading.read(source, Prompt, say_unused=False)
    problems = [f"{record.where}: {problem}" for record in records for problem in _problems(record)]
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        raise ValueError("\n".join([*problems[:MAX_LISTED], *more]))
    systems = systems_of(records)
    missing = [name for name in order if name not in systems]
    if missing:
        raise ValueError(
            f"order: no outputs of {', '.join(missing)} in {source}; the systems are: {', '.join(systems)}"
        )
    others = dict.fromkeys(name for record in records for name in record.extra if name != FIELD)
    unused = f" Fields not used: {', '.join(others)}." if others else ""
    rank_zero_info(f"outputs of {', '.join(systems)}.{unused}")
    return records


def check_order(records: Sequence[Prompt], order: Sequence[str]) -> None:
    """Refuses an order of systems that no prompt can be asked about."""
    if order and not any(texts_of(record).keys() >= set(order) for record in records):
        raise ValueError(f"order: no prompt has outputs of all of {', '.join(order)}: leave some out of the order")


def _problems(record: Prompt) -> list[str]:
    outputs, form = record.extra.get(FIELD), 'give {"NAME": "text", ...}'
    if not isinstance(outputs, dict) or all(text is None for text in outputs.values()):
        found = f"must be an object with a text, found {shown(outputs)}" if FIELD in record.extra else "missing"
        return [f"{FIELD}: {found}; {form}"]
    wrong = {system: text for system, text in outputs.items() if not isinstance(text, str | None)}
    return [f"{FIELD}.{system}: must be text or null, found {shown(text)}" for system, text in wrong.items()]


def systems_of(records: Sequence[Prompt]) -> list[str]:
    """All systems, in the order of their first output."""
    return list(dict.fromkeys(system for record in records for system in texts_of(record)))


def output_sequences(
    records: Sequence[Prompt], scorer: ModelReward, reading: Reading
) -> tuple[list[dict[str, Ids]], dict[Ids, int]]:
    """Per record, system -> token ids of the prompt and its output; and the tokens of the prompt in each."""
    prompts = tokenize_prompts(records, scorer.tokenizer, scorer.format, reading)
    sequences: list[dict[str, Ids]] = [{} for _ in prompts]
    num_prompt: dict[Ids, int] = {}
    for record, prompt, row in zip(records, prompts, sequences, strict=True):
        limit = reading.response_limit(len(prompt.ids))
        for system, text in texts_of(record).items():
            row[system] = (*prompt.ids, *scorer.format.response_ids(text, scorer.tokenizer, limit))
            num_prompt[row[system]] = len(prompt.ids)
    num_tokens = max(len(ids) for row in sequences for ids in row.values())
    needs = {reading.shortened(): num_tokens}
    check_context(scorer.model.model.config, "the reward model, for the outputs", needs)
    return sequences, num_prompt


def outputs_report(
    records: Sequence[Prompt], scores: Sequence[Mapping[str, float]], prompts: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """Each system's mean score, with its interval over prompts.

    Args:
        records: the prompts and outputs.
        scores: of each record, system -> score.
        prompts: of each record, the number of its prompt.
        seed: of the resampling of prompts.
    """
    report = {}
    for system in systems_of(records):
        inside = [i for i, row in enumerate(scores) if system in row]
        values = np.array([scores[i][system] for i in inside])
        report[system] = {
            "score": float(values.mean()),
            "ci95": bootstrap_ci(values, [prompts[i] for i in inside], seed=seed),
            "num_outputs": len(inside),
            "num_prompts": len({prompts[i] for i in inside}),
            "num_empty": sum(not texts_of(records[i])[system].strip() for i in inside),
        }
    return report


def order_report(
    scores: Sequence[Mapping[str, float]], prompts: Sequence[int], order: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Whether the score rises along an order of systems, on the prompts that all of them answered.

    Args:
        scores: of each record, system -> score.
        prompts: of each record, the number of its prompt.
        order: systems from worst to best.
        seed: of the resampling of prompts.
    """
    inside = [i for i, row in enumerate(scores) if all(system in row for system in order)]
    values = np.array([[scores[i][system] for system in order] for i in inside])
    groups = [prompts[i] for i in inside]

    def mean(of: np.ndarray) -> dict[str, Any]:
        return {"mean": float(of.mean()), "ci95": bootstrap_ci(of, groups, seed=seed)}

    gains = np.diff(values, axis=1)
    return {
        "num_prompts": len(set(groups)),
        "num_left_out": len(scores) - len(inside),
        "mean_rises": bool((gains.mean(0) > 0).all()),
        "differences": {f"{a} to {b}": mean(gains[:, i]) for i, (a, b) in enumerate(pairwise(order))},
        "rising": mean((gains > 0).all(1).astype(float)),
        "spearman": mean(spearman(values)),
    }
