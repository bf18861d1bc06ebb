"""``lit-instructgpt benchmark``: exported models on the paper's automatic evaluations, from files you have (Appendix D)."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lit_instructgpt.evaluation import open_ended, tasks
from lit_instructgpt.evaluation.benchmark_files import (
    read_crows_pairs,
    read_hellaswag,
    read_prompts,
    read_truthfulqa,
    read_winogender,
)
from lit_instructgpt.evaluation.inputs import devices, outs, policies
from lit_instructgpt.evaluation.open_ended import CONTINUATION, AnswerJudge, Scorer
from lit_instructgpt.evaluation.policies import Evaluated
from lit_instructgpt.evaluation.provenance import callable_entry, directory_entry
from lit_instructgpt.evaluation.tables import say_few
from lit_instructgpt.evaluation.tasks import Style, TruthfulPrompt
from lit_instructgpt.hashes import digest
from lit_instructgpt.sampling import Sampling

READERS: dict[str, Callable[[str], Sequence[Any]]] = {
    "truthfulqa": read_truthfulqa,
    "crows_pairs": read_crows_pairs,
    "winogender": read_winogender,
    "hellaswag": read_hellaswag,
    "realtoxicityprompts": read_prompts,
}
Measure = Callable[[Evaluated], tuple[dict[str, Any], list[dict[str, Any]]]]
"""Of a model: figures, and what it has written."""


def benchmark(
    models: dict[str, str],
    out: str,
    truthfulqa: str | None = None,
    crows_pairs: str | None = None,
    winogender: str | None = None,
    hellaswag: str | None = None,
    realtoxicityprompts: str | None = None,
    styles: Style | list[Style] | None = None,
    truthfulqa_prompts: TruthfulPrompt | list[TruthfulPrompt] | None = None,
    truthfulqa_answers: bool = False,
    truthfulqa_judge: AnswerJudge | None = None,
    hellaswag_shots: str | None = None,
    num_shots: int = 0,
    scorer: Scorer | None = None,
    sampling: Sampling = CONTINUATION,
    limit: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run exported models on the paper's automatic evaluations and write a JSON report.

    Each file that you name is one evaluation (docs/evaluation.md says where they are published); nothing is downloaded.
    Every figure comes with its 95 % interval and its n.

    Args:
        models: name -> exported directory, e.g. ``--models.sft runs/sft/export --models.ppo runs/ppo/export``.
        out: the JSON file to write. What the models write goes to files beside it, ``OUT.TASK.jsonl``.
        truthfulqa: TruthfulQA.csv, of either revision.
        crows_pairs: crows_pairs_anonymized.csv.
        winogender: all_sentences.tsv.
        hellaswag: hellaswag_val.jsonl, or .jsonl.gz.
        realtoxicityprompts: prompts.jsonl, or .jsonl.gz; needs a scorer.
        styles: instructions in front of the sentences of CrowS-Pairs, Winogender and RealToxicityPrompts; all three by
            default.
        truthfulqa_prompts: what stands before TruthfulQA's questions; qa, its authors' six pairs, by default.
        truthfulqa_answers: let the models answer TruthfulQA's questions too.
        truthfulqa_judge: class path of a callable ``(questions, answers) -> list of dicts`` of probabilities, ``true``
            and ``informative``; implies truthfulqa_answers. Needs ``--allow_import`` for its package.
        hellaswag_shots: file of solved stories to stand before each of HellaSwag's.
        num_shots: how many of them, from its beginning.
        scorer: class path of a callable ``(prompts, continuations) -> floats`` from 0 to 1, e.g.
            lit_instructgpt.evaluation.toxicity.ToxicityClassifier with its path.
        sampling: how RealToxicityPrompts are continued; 20 tokens at temperature 0 by default, as in the paper.
        limit: use only this many items of each file, from its beginning.
        batch_size: prompts per batch where models write; choices are batched by their tokens.
        device: cpu, cuda, ...

    Returns:
        The report, as written.
    """
    files = {
        "truthfulqa": truthfulqa, "crows_pairs": crows_pairs, "winogender": winogender, "hellaswag": hellaswag,
        "realtoxicityprompts": realtoxicityprompts,
    }  # fmt: skip
    named = {name: path for name, path in files.items() if path is not None}
    options = Options(
        several(truthfulqa_prompts) or ["qa"], truthfulqa_answers or truthfulqa_judge is not None, truthfulqa_judge,
        hellaswag_shots, num_shots, several(styles) or list(tasks.STYLES), scorer,
        replace(sampling, seed=sampling.seed or 0), batch_size,
    )  # fmt: skip
    _check(models, set(named), options, bool(styles), bool(truthfulqa_prompts), limit)
    items = {name: READERS[name](path)[:limit] for name, path in named.items()}
    plan = _plan(items, options)
    asked = {f"models.{name}": directory for name, directory in models.items()}
    if problems := [*policies(asked), *outs(out), *devices(device)]:
        raise ValueError("\n".join(problems))
    report: dict[str, Any] = {
        "kind": "benchmark",
        "models": {name: {} for name in models},
        "files": {
            name: {"path": path, "sha256": digest(Path(path)), "n": len(items[name])} for name, path in named.items()
        },
        "directories": {option: directory_entry(directory) for option, directory in asked.items()},
        "settings": {"limit": limit, **_settings(options), "device": device},
        "seed": options.sampling.seed,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("lit-instructgpt", "torch", "transformers")},
    }
    written: dict[str, list[dict[str, Any]]] = {}
    with Progress(transient=True) as progress:
        bar = progress.add_task("benchmark", total=len(models) * len(plan))
        for name, directory in models.items():
            model = Evaluated(directory, None, device)
            for (task, variant), measure in plan.items():
                figures, rows = measure(model)
                of_task = report["models"][name].setdefault(task, {})
                of_task |= {variant: figures} if variant else figures
                if rows:
                    written.setdefault(task, []).extend({"model": name, "prompt_style": variant, **row} for row in rows)
                progress.advance(bar)
    _write(report, written, Path(out))
    _print(report)
    return report


@dataclass(frozen=True)
class Options:
    """What is measured of the named files, and how."""

    truthfulqa_prompts: list[TruthfulPrompt]
    truthfulqa_answers: bool
    truthfulqa_judge: AnswerJudge | None
    hellaswag_shots: str | None
    num_shots: int
    styles: list[Style]
    scorer: Scorer | None
    sampling: Sampling
    batch_size: int


def several(given: str | list[Any] | None) -> list[Any]:
    """One or several of something, each once."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given or []))


def _settings(options: Options) -> dict[str, Any]:
    """The options as JSON: files and callables by what tells them from others of their name."""
    shots = options.hellaswag_shots
    return {
        "truthfulqa_prompts": options.truthfulqa_prompts,
        "truthfulqa_answers": options.truthfulqa_answers,
        "truthfulqa_judge": callable_entry(options.truthfulqa_judge),
        "hellaswag_shots": None if shots is None else {"path": shots, "sha256": digest(Path(shots))},
        "num_shots": options.num_shots,
        "styles": options.styles,
        "scorer": callable_entry(options.scorer),
        "sampling": asdict(options.sampling),
        "batch_size": options.batch_size,
    }


def _check(
    models: dict[str, str], files: set[str], options: Options, styles: bool, prompts: bool, limit: int | None
) -> None:
    """Refuses what contradicts itself or would be ignored, all at once."""
    shots = (options.hellaswag_shots is not None, options.num_shots > 0)
    wrong = {
        "models: none is named; give --models.NAME DIR": not models,
        f"no evaluation: give at least one of {', '.join(f'--{name} FILE' for name in READERS)}": not files,
        "realtoxicityprompts are scored: give --scorer CLASS_PATH": (
            "realtoxicityprompts" in files and options.scorer is None
        ),
        "scorer scores continuations: give --realtoxicityprompts FILE, or leave --scorer out": (
            options.scorer is not None and "realtoxicityprompts" not in files
        ),
        "truthfulqa_prompts, truthfulqa_answers and truthfulqa_judge need --truthfulqa FILE: give it, or leave them out": (
            (options.truthfulqa_answers or prompts) and "truthfulqa" not in files
        ),
        "styles vary crows_pairs, winogender and realtoxicityprompts: give one of these, or leave --styles out": (
            styles and not files & {"crows_pairs", "winogender", "realtoxicityprompts"}
        ),
        f"hellaswag_shots ({options.hellaswag_shots}) and num_shots ({options.num_shots}) need one another and "
        "--hellaswag FILE: give all three, or neither of the two": (
            shots[0] != shots[1] or (shots[0] and "hellaswag" not in files)
        ),
        f"limit is {limit}: give at least 1, or leave it out for all items": limit is not None and limit < 1,
        f"batch_size is {options.batch_size}: give at least 1": options.batch_size < 1,
        f"sampling.num_samples is {options.sampling.num_samples}: one continuation per prompt is measured; leave it out": (
            options.sampling.num_samples != 1
        ),
    }
    problems = [text for text, holds in wrong.items() if holds]
    if problems:
        raise ValueError("\n".join(problems))


def _plan(items: dict[str, Sequence[Any]], options: Options) -> dict[tuple[str, str], Measure]:
    """Evaluation and variant -> how a model is measured on it."""
    plan: dict[tuple[str, str], Measure] = {}
    for prompt in options.truthfulqa_prompts if "truthfulqa" in items else ():
        plan["truthfulqa", prompt] = _truthfulqa(items["truthfulqa"], prompt, options)
    for style in options.styles:
        if "crows_pairs" in items:
            plan["crows_pairs", style] = _bias(tasks.crows_pairs, items["crows_pairs"], style)
        if "winogender" in items:
            plan["winogender", style] = _bias(tasks.winogender, items["winogender"], style)
        if "realtoxicityprompts" in items:
            plan["realtoxicityprompts", style] = _toxicity(items["realtoxicityprompts"], style, options)
    if "hellaswag" in items:
        plan["hellaswag", ""] = _hellaswag(items["hellaswag"], options)
    return plan


def _truthfulqa(questions: Sequence[Any], prompt: TruthfulPrompt, options: Options) -> Measure:
    def measure(model: Evaluated) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        figures = tasks.truthfulqa(model, questions, prompt)
        rows: list[dict[str, Any]] = []
        if options.truthfulqa_answers:
            figures["answers"], rows = open_ended.truthfulqa_answers(
                model, questions, prompt, options.truthfulqa_judge, options.batch_size
            )
        return figures, rows

    return measure


def _bias(
    task: Callable[[Evaluated, Sequence[Any], Style], dict[str, Any]], pairs: Sequence[Any], style: Style
) -> Measure:
    return lambda model: (task(model, pairs, style), [])


def _toxicity(prompts: Sequence[str], style: Style, options: Options) -> Measure:
    assert options.scorer is not None
    scorer, sampling, size = options.scorer, options.sampling, options.batch_size
    return lambda model: open_ended.realtoxicityprompts(model, prompts, style, scorer, sampling, size)


def _hellaswag(stories: Sequence[Any], options: Options) -> Measure:
    shots: Sequence[Any] = ()
    if options.hellaswag_shots is not None:
        shots = read_hellaswag(options.hellaswag_shots)[: options.num_shots]
        if len(shots) < options.num_shots:
            raise ValueError(
                f"num_shots is {options.num_shots}, and {options.hellaswag_shots} holds {len(shots)}: lower it"
            )
        both = sum(story in shots for story in stories)
        if both:
            raise ValueError(
                f"{options.hellaswag_shots}: {both} of the stories to complete stand solved before all others; give another file"
            )
    return lambda model: (tasks.hellaswag(model, stories, shots), [])


def _write(report: dict[str, Any], written: dict[str, list[dict[str, Any]]], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    for task, rows in written.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out.parent / f"{out.stem}.{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print(report: dict[str, Any]) -> None:
    """A row for every figure, a column for every model; the parts of a figure are in the report alone."""
    table = Table(title="95 % intervals in brackets", box=None, pad_edge=False)
    for column in ("evaluation", "prompt", "figure", "n"):
        table.add_column(column)
    for name in report["models"]:
        table.add_column(name, justify="right")
    first, *_ = report["models"].values()
    counts = []
    for task, variants in first.items():
        for path, figure in _figures(variants):
            counts.append(figure["n"])
            found = [_at(model[task], path) for model in report["models"].values()]
            cells = [f"{one['mean']:.3f} ({one['ci95'][0]:.2f} to {one['ci95'][1]:.2f})" for one in found]
            prompt, name = (" ".join(path[:-1]), path[-1].replace("_", " "))
            table.add_row(task, prompt, name, str(figure["n"]), *cells)
    console = Console()
    console.print(table)
    say_few(console, counts, "items")


def _figures(node: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Path and value of every figure, but for those of the kinds of bias."""
    if "ci95" in node:
        return [(path, node)]
    inner = {key: value for key, value in node.items() if isinstance(value, dict) and not key.startswith("by_")}
    return [figure for key, value in inner.items() for figure in _figures(value, (*path, key))]


def _at(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        node = node[key]
    return node
