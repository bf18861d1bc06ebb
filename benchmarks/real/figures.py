"""What the trained models are measured by, on records that none of them saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines import BagOfWords, Pair, choose_l2, half_step
from benchmarks.real.selection import Row, pairs, prompt_key, read


def bag_of_words(train: Sequence[Row]) -> BagOfWords:
    """The baseline, trained on every untied pair of the rankings, its penalty chosen among them."""
    found = [(row, i, j) for row in train for i, j in pairs(row)]
    replies: list[Pair] = [(row["responses"][i], row["responses"][j]) for row, i, j in found]
    return BagOfWords(choose_l2(replies, [prompt_key(row) for row, _, _ in found])).fit(replies)


def accuracies(valid: Sequence[Row], margins: dict[str, Callable[[Row, int, int], float]]) -> Row:
    """Pair accuracy and 95 % interval (over prompts) of each method, and of the differences from ``rm``."""
    import numpy as np

    from lit_instructgpt.evaluation.statistics import bootstrap_ci

    groups = [prompt_key(row) for row in valid for _ in pairs(row)]
    number = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    index = [number[key] for key in groups]
    right = {
        name: np.array([half_step(margin(row, i, j)) for row in valid for i, j in pairs(row)])
        for name, margin in margins.items()
    }
    report: Row = {"num_rankings": len(valid), "num_pairs": len(index), "num_prompts": len(number)}
    for name, values in right.items():
        report[name] = {"accuracy": round(float(values.mean()), 4), "ci95": _rounded(bootstrap_ci(values, index))}
    for name, values in right.items():
        if name != "rm":
            report[name]["rm_minus_this"] = round(float((right["rm"] - values).mean()), 4)
            report[name]["ci95_of_difference"] = _rounded(bootstrap_ci(right["rm"] - values, index))
    if len(right) > 1:
        report["rm_above_both"] = all(report[name]["ci95_of_difference"][0] > 0 for name in right if name != "rm")
    return report


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def measure_reward_model(scorer: Any, data: Path, baselines: bool) -> Row:
    """Per source: the reward model and, if wanted, the longer reply and the bag of words beside it."""
    train, valid = (read(data / f"comparisons.{split}.jsonl") for split in ("train", "valid"))
    replies = [(row, k) for row in valid for k in range(len(row["responses"]))]
    scores = scorer([row["prompt"] for row, _ in replies], [row["responses"][k] for row, k in replies])
    found = {(row["id"], row["source"], k): score for (row, k), score in zip(replies, scores, strict=True)}

    def score(row: Row, k: int) -> float:
        return found[row["id"], row["source"], k]

    report: Row = {}
    for source in sorted({row["source"] for row in valid}):
        own = [row for row in valid if row["source"] == source]
        margins: dict[str, Callable[[Row, int, int], float]] = {"rm": lambda row, i, j: score(row, i) - score(row, j)}
        if not baselines:
            report[source] = accuracies(own, margins)
            continue
        words = bag_of_words([row for row in train if row["source"] == source])
        margins["length_baseline"] = lambda row, i, j: len(row["responses"][i]) - len(row["responses"][j])
        margins["bag_of_words_baseline"] = lambda row, i, j, words=words: words.margin(  # type: ignore[misc]
            row["responses"][i], row["responses"][j]
        )
        report[source] = accuracies(own, margins)
        report[source]["bag_of_words_baseline"] |= {"l2": words.l2, "num_words": len(words.vocabulary)}
    return report


def learning_curve(
    run: Path, num_train: int, batch_size: int, part: float, measure: Callable[[Path], Row]
) -> list[Row]:
    """Accuracies by the number of rankings seen: of the weights kept along the run's one epoch, and of the last.

    Args:
        run: directory of the reward model's run.
        num_train: rankings of the epoch.
        batch_size: rankings of a step.
        part: of the epoch; weights kept behind it are left out but for the last (on a CPU every point costs minutes).
        measure: export directory -> per source, accuracies with ``rm`` among them.
    """
    kept = sorted((run / "export_at").iterdir(), key=lambda path: int(path.name))
    seen = {int(path.name) * batch_size: path for path in kept}
    steps = {num: path for num, path in seen.items() if num < part * num_train}
    return [
        {"num_rankings": num, "sources": {name: row["rm"] for name, row in measure(path).items()}}
        for num, path in [*steps.items(), (num_train, run / "export")]
    ]
