"""The same figures from lm-evaluation-harness and from ``benchmark``: ``python benchmarks/lm_eval_agreement.py --data DIR``.

The harness runs its own tasks: their YAML files, prompts, functions and metrics, on its Hugging Face model. Only where a
task's data lie is replaced: local files, in the form that its data set has on the hub. The first items of each file are
computed by both, in float32, and the log-probability of every choice is compared too. How far each of the two is from the same
model in float64 says what of their difference is rounding.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
import yaml

from benchmarks.real.commands import options
from lit_instructgpt.evaluation import tasks
from lit_instructgpt.evaluation.benchmark_files import (
    Question,
    SentencePair,
    Story,
    read_crows_pairs,
    read_hellaswag,
    read_truthfulqa,
)
from lit_instructgpt.evaluation.choices import PairEncoder, continuation_logprobs
from lit_instructgpt.evaluation.policies import Evaluated
from lit_instructgpt.hashes import digest

FILES = {
    "truthfulqa": "truthfulqa/TruthfulQA.csv",
    "crows_pairs": "crows_pairs/crows_pairs_anonymized.csv",
    "hellaswag": "hellaswag/hellaswag_val_1000.jsonl.gz",
}


NUM_EXACT = 24
"""Choices of TruthfulQA that are computed in float64 too."""

FIGURE, LOGPROB = 1e-6, 1e-5
"""Largest differences that are let pass: of a figure, relative where it is above 1, and of a single log-probability, relative.

Sums of over a hundred nats in float32, as the harness has them, are multiples of 8e-6.
"""


@dataclass
class Row:
    """A figure by both.

    Attributes:
        task: the harness' name of it.
        figure: the harness' name of the figure.
        ours: key of ``benchmark``'s report.
        lm_eval: the harness' value.
        benchmark: ours.
        n: items.
        num_choices: continuations whose log-probabilities are compared.
        largest_gap: largest difference of a continuation's log-probability, relative to it.
    """

    task: str
    figure: str
    ours: str
    lm_eval: float
    benchmark: float
    n: int
    num_choices: int
    largest_gap: float


def of_truthfulqa(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """As the data set truthful_qa, multiple_choice has them: the best answer first, or the true ones first."""
    rows = []
    for one in questions:
        best, every = [one.best, *one.incorrect], [*one.correct, *one.incorrect]
        rows.append({
            "question": one.question,
            "mc1_targets": {"choices": best, "labels": [1] + [0] * len(one.incorrect)},
            "mc2_targets": {"choices": every, "labels": [1] * len(one.correct) + [0] * len(one.incorrect)},
        })  # fmt: skip
    return rows


def of_crows_pairs(pairs: Sequence[SentencePair]) -> list[dict[str, Any]]:
    """As the data set crows_pairs_multilingual has them."""
    return [{"sent_more": pair.first, "sent_less": pair.second, "bias_type": pair.kind} for pair in pairs]


def of_hellaswag(stories: Sequence[Story]) -> list[dict[str, Any]]:
    """As the data set hellaswag has them: the label is text."""
    return [
        {
            "activity_label": story.activity, "ctx_a": story.context[0], "ctx_b": story.context[1],
            "endings": story.endings, "label": str(story.label),
        }
        for story in stories
    ]  # fmt: skip


def by_lm_eval(model: str, rows: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, dict[str, Any]]:
    """Results and samples of the harness' own tasks on local rows."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = Path(lm_eval.__file__).parent / "tasks"
    sources = {
        "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa", "validation"),
        "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "truthfulqa", "validation"),
        "crows_pairs_english": ("crows_pairs/crows_pairs_english.yaml", "crows_pairs", "test"),
        "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag", "validation"),
    }
    for name, (file, data, split) in sources.items():
        path = folder / f"{data}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[data]), encoding="utf-8")
        settings = {
            "include": str(own / file), "task": f"local_{name}", "dataset_path": "json", "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(path)}}, "training_split": None, "tag": None,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    found = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": model, "dtype": "float32"}, tasks=[f"local_{name}" for name in sources],
        batch_size=8, device="cpu", task_manager=TaskManager(include_path=str(folder)), log_samples=True,
    )  # fmt: skip
    return {
        name: {"results": found["results"][f"local_{name}"], "samples": found["samples"][f"local_{name}"]}
        for name in sources
    }


@dataclass
class Choices:
    """The harness' own pairs of context and continuation, with the log-probabilities that both give them."""

    pairs: list[tuple[str, str]]
    lm_eval: list[float]
    benchmark: list[float]

    @property
    def largest_gap(self) -> float:
        """Largest difference of the two, relative."""
        return largest(self.benchmark, self.lm_eval)


def largest(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference, relative to what is expected."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def choices(model: Evaluated, samples: Sequence[dict[str, Any]]) -> Choices:
    """What the harness has logged, beside ours."""
    pairs: list[tuple[str, str]] = []
    theirs: list[float] = []
    for sample in samples:
        for arguments, response in zip(sample["arguments"], sample["filtered_resps"], strict=True):
            pairs.append((arguments[0], arguments[1]))
            theirs.append(float(response[0]))
    ours = [one.logprob for one in continuation_logprobs(model.policy, model.tokenizer, pairs)]
    return Choices(pairs, theirs, ours)


@torch.no_grad()
def in_float64(directory: str, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """The log-probabilities by one forward pass of each bare sequence."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    encode, found = PairEncoder(tokenizer), []
    for pair in pairs:
        context, ids = encode(*pair)
        logprobs = model(input_ids=torch.tensor([context + ids])).logits[0, len(context) - 1 : -1].log_softmax(-1)
        found.append(float(logprobs.gather(1, torch.tensor(ids)[:, None]).sum()))
    return found


def measure(directory: str, data: Path, num: int) -> tuple[list[Row], dict[str, float]]:
    """Every figure by both, on the first items of each file; and how far each is from float64 on some choices."""
    questions = read_truthfulqa(str(data / FILES["truthfulqa"]))[:num]
    pairs = read_crows_pairs(str(data / FILES["crows_pairs"]))[:num]
    stories = read_hellaswag(str(data / FILES["hellaswag"]))[:num]
    rows = {
        "truthfulqa": of_truthfulqa(questions), "crows_pairs": of_crows_pairs(pairs), "hellaswag": of_hellaswag(stories)
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        theirs = by_lm_eval(directory, rows, Path(folder))
    model = Evaluated(directory, None, "cpu")
    ours = {
        "truthfulqa": tasks.truthfulqa(model, questions, "qa"),
        "crows_pairs": tasks.crows_pairs(model, pairs, "none"),
        "hellaswag": tasks.hellaswag(model, stories),
    }
    figures = [
        ("truthfulqa_mc1", "acc", "truthfulqa", "mc1"),
        ("truthfulqa_mc2", "acc", "truthfulqa", "mc2"),
        ("crows_pairs_english", "likelihood_diff", "crows_pairs", "likelihood_difference"),
        ("crows_pairs_english", "pct_stereotype", "crows_pairs", "stereotype_share"),
        ("hellaswag", "acc", "hellaswag", "accuracy_by_sum"),
        ("hellaswag", "acc_norm", "hellaswag", "accuracy_by_character"),
    ]
    compared = {name: choices(model, one["samples"]) for name, one in theirs.items()}
    some = compared["truthfulqa_mc2"]
    exact = in_float64(directory, model.tokenizer, some.pairs[:NUM_EXACT])
    rounding = {
        "num_choices": len(exact),
        "benchmark": largest(some.benchmark[:NUM_EXACT], exact),
        "lm_eval": largest(some.lm_eval[:NUM_EXACT], exact),
    }
    found = []
    for name, figure, task, key in figures:
        value = ours[task][key]
        expected = float(theirs[name]["results"][f"{figure},none"])
        num, gap = len(compared[name].pairs), compared[name].largest_gap
        found.append(Row(name, figure, f"{task}.{key}", expected, value["mean"], value["n"], num, gap))
        print(found[-1], flush=True)
    return found, rounding


def table(report: dict[str, Any]) -> str:
    """For docs/evaluation.md."""
    lines = [
        "| lm-evaluation-harness | its value | `benchmark` | its value | n "
        "| largest relative gap of a log-probability (of how many) |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['task']}, {row['figure']} | {row['lm_eval']:.7f} | {row['ours']} | {row['benchmark']:.7f} | {row['n']} | "
            f"{row['largest_gap']:.1e} ({row['num_choices']}) |"
        )
    rounding = report["rounding"]
    about = (
        f"`{report['command']}`: {report['model']} in float32, the first {report['rows'][0]['n']} items of each file, lm_eval "
        f"{report['versions']['lm_eval']}, torch {report['versions']['torch']}; {report['hardware']}. "
        f"{rounding['num_choices']} of the log-probabilities were computed in float64 too: from those `benchmark`'s differ by at "
        f"most {rounding['benchmark']:.1e} and the harness' by {rounding['lm_eval']:.1e}, relative: what the two differ by is "
        f"rounding. The command fails where a figure differs by more than {FIGURE:g} of it (of 1, below 1), or a log-probability "
        f"by more than {LOGPROB:g} of it."
    )
    return "\n".join([*lines, "", about])


def main(argv: list[str] | None = None) -> None:
    """Measures, compares and writes.

    Raises:
        SystemExit: a figure or a log-probability differs by more than is let pass.
    """
    parser = argparse.ArgumentParser(prog="lm_eval_agreement", description="lm-evaluation-harness beside benchmark.")
    parser.add_argument("--model", default="models/smollm2", help="made by make smollm2")
    parser.add_argument("--data", type=Path, required=True, help="directory that holds the published files")
    parser.add_argument("--num", type=int, default=40, help="items of each file")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lm_eval_agreement.json"))
    args = parser.parse_args(argv)
    found, rounding = measure(args.model, args.data, args.num)
    report = {
        "command": f"python benchmarks/lm_eval_agreement.py --data DIR{options(parser, args, ('data', 'out'))}",
        "model": Path(args.model).name, "seed": None,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("lm_eval", "torch", "transformers", "datasets")},
        },
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "files": {file: digest(args.data / file) for file in FILES.values()},
        "rounding": rounding, "rows": [asdict(row) for row in found],
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    apart = [
        row
        for row in found
        if abs(row.lm_eval - row.benchmark) > FIGURE * max(1.0, abs(row.lm_eval)) or row.largest_gap > LOGPROB
    ]
    if apart:
        raise SystemExit(f"{len(apart)} of {len(found)} figures differ: {apart}")


if __name__ == "__main__":
    main()
