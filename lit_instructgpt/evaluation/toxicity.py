"""A small classifier of text, trained on scores that you have: ``lit-instructgpt toxicity_classifier``.

The paper scores toxicity with the Perspective service, which this tool does not call. This stands in for it where texts with
its scores are at hand (RealToxicityPrompts has them): a logistic regression on hashed n-grams of words and characters.
It knows words, not what is meant by them; how well it agrees with the scores it was not trained on stands beside it.
"""

from __future__ import annotations

import json
import math
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lit_instructgpt.evaluation.benchmark_files import read_scored_texts
from lit_instructgpt.evaluation.statistics import bootstrap_ci
from lit_instructgpt.hashes import digest, hash_of

WEIGHTS, CONFIG = "model.safetensors", "toxicity_classifier.json"
WORD = re.compile(r"[^\W_]+(?:['\u2019*][^\W_]+)*|[^\w\s]")
"""Words, also with an apostrophe or an asterisk inside, and single punctuation marks."""

TOXIC = 0.5
"""Scores above it are what the AUC tells from the others."""


@dataclass(frozen=True)
class Features:
    """How text becomes numbers of features.

    Attributes:
        num_buckets: features are hashed to this many weights.
        words: longest n-gram of words.
        characters: shortest and longest n-gram of a word's characters, its ends marked.
    """

    num_buckets: int = 2**18
    words: int = 2
    characters: tuple[int, int] = (3, 5)

    def __call__(self, text: str) -> list[int]:
        """Numbers of the features that occur in a text, in increasing order."""
        found = {zlib.crc32(name.encode()) % self.num_buckets for name in self._names(WORD.findall(text.lower()))}
        return sorted(found)

    def _names(self, words: Sequence[str]) -> Iterator[str]:
        for n in range(1, self.words + 1):
            for i in range(len(words) - n + 1):
                yield " ".join(["w", *words[i : i + n]])
        low, high = self.characters
        for word in words:
            marked = f"<{word}>"
            for n in range(low, high + 1):
                for i in range(len(marked) - n + 1):
                    yield f"c {marked[i : i + n]}"


class Classifier(nn.Module):
    """Logistic regression: the sum of the features' weights, divided by the root of their number."""

    def __init__(self, num_buckets: int) -> None:
        super().__init__()
        self.weights = nn.EmbeddingBag(num_buckets, 1, mode="sum")
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.weights.weight)

    def forward(self, features: Sequence[list[int]]) -> Tensor:
        """Logits of texts given by their features: [N]."""
        lengths = torch.tensor([len(one) for one in features])
        offsets = lengths.cumsum(0) - lengths
        flat = torch.tensor([number for one in features for number in one], dtype=torch.int64)
        sums: Tensor = self.weights(flat, offsets).squeeze(1)
        return sums / lengths.clamp(min=1).sqrt() + self.bias


class ToxicityClassifier:
    """A trained classifier as a scorer of continuations: ``(prompts, continuations) -> scores``.

    Args:
        path: directory that ``lit-instructgpt toxicity_classifier`` wrote; it and its SHA-256 are the ``provenance``.
    """

    def __init__(self, path: str) -> None:
        file = Path(path) / CONFIG
        if not file.is_file():
            raise FileNotFoundError(
                f"{path} holds no {CONFIG}: give the directory that lit-instructgpt toxicity_classifier wrote"
            )
        self.config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings = self.config["features"]
        self.features = Features(settings["num_buckets"], settings["words"], tuple(settings["characters"]))
        self.model = Classifier(self.features.num_buckets).eval()
        self.model.load_state_dict(load_file(Path(path) / WEIGHTS))
        self.provenance = {"path": path, "sha256": hash_of(path, (CONFIG, WEIGHTS))}

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[float]:
        """Scores of the continuations alone, 0 to 1."""
        return predict(self.model, [self.features(text) for text in continuations])


def toxicity_classifier(
    data: str | list[str],
    out: str,
    text: str = "text",
    score: str = "score",
    held_out: float = 0.1,
    num_epochs: int = 10,
    learning_rate: float = 0.05,
    weight_decay: float = 0.1,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a small classifier on texts with scores, and measure it on texts that it has not seen.

    Args:
        data: file, or files, of one JSON object per line, .jsonl or .jsonl.gz. Lines whose score is null are left out and
            counted.
        out: directory to write to, new or empty.
        text: name of the field with the text; a.b is field b of the object a.
        score: of the field with its score, 0 to 1, for instance the share of people who find it toxic.
        held_out: share of the texts that are measured on and not trained on; equal texts are on one side.
        num_epochs: passes over the texts.
        learning_rate: of Adam, falling linearly to 0.
        weight_decay: how strongly weights are pulled to 0.
        batch_size: texts per step.
        seed: of the order of the texts, and of which are held out.

    Returns:
        What is written beside the weights: settings, files with their SHA-256, and the measures.
    """
    _check(out, held_out, num_epochs, batch_size)
    data = [data] if isinstance(data, str) else data
    features = Features()
    lines = [row for path in data for row in read_scored_texts(path, text, score)]
    rows = [row for row in lines if row is not None]
    train, test = _split(rows, held_out, seed)
    train_features, test_features = ([features(text) for text, _ in part] for part in (train, test))
    targets = torch.tensor([score for _, score in train])
    model = Classifier(features.num_buckets)
    _fit(model, train_features, targets, num_epochs, learning_rate, weight_decay, batch_size, seed)
    scores = np.array([score for _, score in test])
    found = np.array(predict(model, test_features))
    report: dict[str, Any] = {
        "kind": "toxicity_classifier",
        "features": asdict(features),
        "settings": {
            "text": text, "score": score, "held_out": held_out, "num_epochs": num_epochs, "learning_rate": learning_rate,
            "weight_decay": weight_decay, "batch_size": batch_size, "seed": seed,
        },
        "data": [{"path": path, "sha256": digest(Path(path))} for path in data],
        "num_train": len(train),
        "num_held_out": len(test),
        "num_unscored": len(lines) - len(rows),
        "held_out": agreement(found, scores),
        "versions": {name: version(name) for name in ("lit-instructgpt", "torch")},
    }  # fmt: skip
    Path(out).mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), Path(out) / WEIGHTS)
    (Path(out) / CONFIG).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report, out)
    return report


def _print(report: dict[str, Any], out: str) -> None:
    found, unscored = report["held_out"], report["num_unscored"]
    parts = [
        f"{out}: trained on {report['num_train']} texts"
        + f" ({unscored} without a score are left out)" * bool(unscored),
        f"on {report['num_held_out']} others the correlation with their scores is {found['correlation']:.3f}",
        "" if found["auc"] is None else f"the AUC of those above {TOXIC} {found['auc']:.3f}",
        f"the mean absolute error {found['error']['mean']:.3f} (of their mean: {found['error_of_the_mean']:.3f})",
    ]
    Console().print("; ".join(part for part in parts if part))


def _check(out: str, held_out: float, num_epochs: int, batch_size: int) -> None:
    wrong = {
        f"held_out is {held_out}: give a share above 0 and below 1": not 0 < held_out < 1,
        f"num_epochs is {num_epochs}, batch_size {batch_size}: give at least 1": min(num_epochs, batch_size) < 1,
        f"{out} is not empty: give a new directory": Path(out).exists() and (
            not Path(out).is_dir() or any(Path(out).iterdir())
        ),
    }  # fmt: skip
    problems = [text for text, holds in wrong.items() if holds]
    if problems:
        raise ValueError("\n".join(problems))


def _split(
    rows: Sequence[tuple[str, float]], held_out: float, seed: int
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Texts to train on and held-out ones, by a hash of the text.

    Raises:
        ValueError: one of the two would be empty.
    """
    train: list[tuple[str, float]] = []
    test: list[tuple[str, float]] = []
    for row in rows:
        place = zlib.crc32(f"{seed}\n{row[0]}".encode()) / 2**32
        (test if place < held_out else train).append(row)
    if not train or len(test) < 2:
        raise ValueError(
            f"{len(rows)} texts give {len(train)} to train on and {len(test)} to measure on: give more, or another held_out"
        )
    return train, test


def _fit(
    model: Classifier,
    features: Sequence[list[int]],
    targets: Tensor,
    num_epochs: int,
    learning_rate: float,
    weight_decay: float,
    batch_size: int,
    seed: int,
) -> None:
    """Minimises the cross-entropy with the scores, which are taken as probabilities."""
    mean = float(targets.mean().clamp(0.01, 0.99))
    nn.init.constant_(model.bias, math.log(mean / (1 - mean)))
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
    order, rng = list(range(len(features))), random.Random(seed)
    num_steps = num_epochs * math.ceil(len(order) / batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    for _ in range(num_epochs):
        rng.shuffle(order)
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            loss = F.binary_cross_entropy_with_logits(model([features[i] for i in rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


@torch.no_grad()
def predict(model: Classifier, features: Sequence[list[int]]) -> list[float]:
    """Scores, 0 to 1, of texts given by their features."""
    parts = [model(features[i : i + 1024]) for i in range(0, len(features), 1024)]
    return [float(score) for part in parts for score in torch.sigmoid(part)]


def agreement(found: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """How well scores are predicted: correlation, AUC of those above ``TOXIC``, mean absolute error and that of the mean.

    Args:
        found: [N] predicted.
        scores: [N] true.
    """
    constant = min(found.std(), scores.std()) == 0
    errors = np.abs(found - scores)
    return {
        "correlation": 0.0 if constant else float(np.corrcoef(found, scores)[0, 1]),
        "auc": auc(found, scores > TOXIC),
        "num_toxic": int((scores > TOXIC).sum()),
        "error": {"mean": float(errors.mean()), "ci95": bootstrap_ci(errors), "n": len(errors)},
        "error_of_the_mean": float(np.abs(scores - scores.mean()).mean()),
    }


def auc(found: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive has the higher value than a negative, ties half; None if one of them is missing.

    Args:
        found: [N] values.
        positive: [N] bool.
    """
    high, low = found[positive], np.sort(found[~positive])
    if not len(high) or not len(low):
        return None
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).mean() / 2 / len(low))
