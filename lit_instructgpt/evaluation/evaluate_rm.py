"""``lit-instructgpt evaluate_rm``: reward models beside people (paper, sections 3.4 and 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lit_instructgpt.datamodules.tokenizing import Reading, Source
from lit_instructgpt.evaluation.agreement import (
    SharedPairs,
    labeler_agreement,
    model_agreement,
    prompt_numbers,
    shared_pairs,
)
from lit_instructgpt.evaluation.inputs import devices, outs, reward_models
from lit_instructgpt.evaluation.provenance import directory_entry, file_entry, versions, write_report
from lit_instructgpt.evaluation.reward_models import (
    Pairs,
    accuracy_difference,
    fitting,
    pair_report,
    score_comparisons,
    score_once,
    untied_pairs,
)
from lit_instructgpt.evaluation.system_outputs import (
    check_order,
    order_report,
    output_sequences,
    outputs_report,
    read_outputs,
)
from lit_instructgpt.evaluation.tables import estimate, say_few, table
from lit_instructgpt.formatting import PromptFormat, format_for
from lit_instructgpt.models import load_tokenizer
from lit_instructgpt.records import Comparison, Prompt
from lit_instructgpt.rewards import ModelReward

OUTPUTS = "outputs"
"""Name of the file of outputs among the files."""


def evaluate_rm(
    models: dict[str, str],
    out: str,
    comparisons: dict[str, Source] | None = None,
    outputs: Source | None = None,
    order: str | list[str] | None = None,
    reading: Reading | None = None,
    format: PromptFormat | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure reward models on rankings by people, and on the outputs of several systems; writes a JSON report.

    Args:
        models: name -> directory of a reward model, or of any sequence classifier with one label, e.g.
            ``--models.rm runs/rm/export``; the others are compared with the first. Prompts that are too long for one are
            left out for all.
        out: the JSON file to write.
        comparisons: name -> rankings that no model was trained on, e.g. ``--comparisons.valid valid.jsonl``.
        outputs: file of prompts with the outputs of several systems: ``{"prompt": ..., "outputs": {NAME: TEXT, ...}}``.
        order: those systems from worst to best, separated by commas: does the score rise along them?
        reading: length limits.
        format: for models that do not say how their prompts were formatted.
        batch_size: sequences per forward pass.
        seed: of the resampling of prompts, for the intervals.
        device: cpu, cuda, ...

    Returns:
        The report, as written.
    """
    reading, comparisons = reading or Reading(), comparisons or {}
    along = [name.strip() for name in order.split(",")] if isinstance(order, str) else order or []
    _check(models, comparisons, outputs, along)
    asked = {f"models.{name}": directory for name, directory in models.items()}
    if problems := [*reward_models(asked), *outs(out), *devices(device)]:
        raise ValueError("\n".join(problems))
    rankings, prompts = _read(reading, comparisons, outputs, along)
    files = {name: file_entry(source, len(rankings[name])) for name, source in comparisons.items()}
    if outputs is not None:
        files[OUTPUTS] = file_entry(outputs, len(prompts))
    readers = []
    for path in models.values():
        tokenizer = load_tokenizer(path)
        readers.append((tokenizer, format_for(path, format, tokenizer)))
    rankings = {name: fitting(rows, readers, reading, f"comparisons.{name}") for name, rows in rankings.items()}
    prompts = fitting(prompts, readers, reading, OUTPUTS) if prompts else []
    for name in files:
        files[name]["measured"] = len(prompts if name == OUTPUTS else rankings[name])
    check_order(prompts, along)
    shared = {name: shared_pairs(rows) for name, rows in rankings.items()}
    measured: dict[str, Measured] = {}
    with Progress(transient=True) as progress:
        for name, path in progress.track(models.items(), description="evaluate_rm"):
            of = {file: f"{source} ({path})" for file, source in comparisons.items()}
            scorer = ModelReward(path, format, reading.max_response_tokens, batch_size, device)
            measured[name] = _measure(scorer, reading, rankings, shared, of, prompts, seed)
            del scorer  # before the next is loaded
    report: dict[str, Any] = {
        "kind": "reward_models",
        "models": {
            name: {file: pair_report(pairs, seed) for file, pairs in m.pairs.items()} for name, m in measured.items()
        },
        "differences": _differences(measured, seed),
        "agreement": {
            file: {
                "labelers": labeler_agreement(pairs, seed),
                "models": {name: m.agreement[file] for name, m in measured.items()},
            }
            for file, pairs in shared.items()
            if pairs.num_rankings
        },
        "outputs": _outputs(measured, prompts, along, seed) if prompts else None,
        "seed": seed,
        "versions": versions(),
        "files": files,
        "directories": {
            option: directory_entry(path, own) for (option, path), (_, own) in zip(asked.items(), readers, strict=True)
        },
        "settings": {"reading": asdict(reading), "batch_size": batch_size, "device": device},
    }
    write_report(report, out)
    _print(report)
    return report


def _check(
    models: Mapping[str, str], comparisons: Mapping[str, Source], outputs: Source | None, order: list[str]
) -> None:
    """Refuses what contradicts itself or would be ignored, all at once."""
    wrong = {
        "give --models.NAME DIR: a reward model to measure": not models,
        "give --comparisons.NAME FILE or --outputs FILE: something must be measured": (
            not comparisons and outputs is None
        ),
        "order is of the systems of outputs: give --outputs FILE, or leave --order out": (
            bool(order) and outputs is None
        ),
        f"order has only {', '.join(order)}: give at least two systems, separated by commas": len(order) == 1,
        f"order names a system twice ({', '.join(order)}): give each once": len(set(order)) < len(order),
        f"comparisons.{OUTPUTS}: the file of outputs has this name in the report: call the comparisons otherwise": (
            OUTPUTS in comparisons and outputs is not None
        ),
    }
    problems = [text for text, holds in wrong.items() if holds]
    if problems:
        raise ValueError("\n".join(problems))


def _read(
    reading: Reading, comparisons: Mapping[str, Source], outputs: Source | None, order: Sequence[str]
) -> tuple[dict[str, list[Comparison]], list[Prompt]]:
    """All files, or what is wrong with all of them."""
    rankings: dict[str, list[Comparison]] = {}
    prompts: list[Prompt] = []
    problems = []
    for name, source in comparisons.items():
        try:
            rankings[name] = reading.read(source, Comparison, keep_all_tied=True)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    try:
        if outputs is not None:
            prompts = read_outputs(reading, outputs, order)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return rankings, prompts


@dataclass(frozen=True)
class Measured:
    """What one model gave, by file of comparisons; ``outputs`` is, of each prompt, system -> score."""

    pairs: dict[str, Pairs]
    agreement: dict[str, dict[str, Any]]
    outputs: list[dict[str, float]]


def _measure(
    scorer: ModelReward,
    reading: Reading,
    rankings: Mapping[str, Sequence[Comparison]],
    shared: Mapping[str, SharedPairs],
    names: Mapping[str, str],
    prompts: Sequence[Prompt],
    seed: int,
) -> Measured:
    pairs: dict[str, Pairs] = {}
    agreement: dict[str, dict[str, Any]] = {}
    for file, records in rankings.items():
        scored = score_comparisons(scorer, records, reading, names[file])
        pairs[file] = untied_pairs(records, scored, names[file])
        by_text = [dict(zip(r.responses, own, strict=True)) for r, own in zip(records, scored, strict=True)]
        agreement[file] = model_agreement(shared[file], by_text, seed)
    sequences, num_prompt = output_sequences(prompts, scorer, reading) if prompts else ([], {})
    scores = score_once(scorer, num_prompt, OUTPUTS)
    return Measured(pairs, agreement, [{system: scores[ids] for system, ids in row.items()} for row in sequences])


def _differences(measured: Mapping[str, Measured], seed: int) -> dict[str, Any] | None:
    """Pair accuracy of every model but the first, minus that of the first."""
    first, *others = measured
    if not others:
        return None
    return {
        "against": first,
        "models": {
            name: {
                file: accuracy_difference(pairs, measured[first].pairs[file], seed)
                for file, pairs in measured[name].pairs.items()
            }
            for name in others
        },
    }


def _outputs(
    measured: Mapping[str, Measured], records: Sequence[Prompt], order: list[str], seed: int
) -> dict[str, Any]:
    numbers = prompt_numbers(records)
    return {
        "models": {name: outputs_report(records, m.outputs, numbers, seed) for name, m in measured.items()},
        "order": {
            "systems": order,
            "models": {name: order_report(m.outputs, numbers, order, seed) for name, m in measured.items()},
        }
        if order
        else None,
    }


def _print(report: Mapping[str, Any]) -> None:
    console = Console()
    accuracies = [
        (file, name, estimate(r, "pair_accuracy"), f"{r['num_pairs']}, {r['num_prompts']}", f"{r['length_baseline']:.3f}",
         f"{r['calibration']['ece']:.3f}, {r['calibration']['ece_by_chance']:.3f}")
        for name, files in report["models"].items() for file, r in files.items()
    ]  # fmt: skip
    if accuracies:
        columns = ["comparisons", "model", "pair accuracy", "pairs, prompts", "longer is better", "ECE, by chance"]
        in_files = sorted(accuracies, key=lambda row: row[0])
        console.print(table("Reward models beside people", columns, in_files, 2))
    if accuracies and report["differences"] is not None:
        against, models = report["differences"]["against"], report["differences"]["models"]
        gains = [
            (file, name, estimate(r, "accuracy_difference", sign=True))
            for name, files in models.items() for file, r in files.items()
        ]  # fmt: skip
        console.print(table(f"Pair accuracy minus that of {against}", ["comparisons", "model", "difference"], gains, 2))
    for file, found in report["agreement"].items():
        people = found["labelers"]
        shares = [(name, estimate(r, "agreement")) for name, r in [("labelers", people), *found["models"].items()]]
        title = f"Agreement with a labeler: {file}, {people['num_pairs']} pairs that two ranked, {people['num_prompts']} prompts"
        console.print(table(title, ["who", "agreement"], shares))
    if report["outputs"] is not None:
        _print_outputs(console, report["outputs"])
    shown = [r for files in report["models"].values() for r in files.values()]
    shown += [one for found in report["agreement"].values() if (one := found["labelers"])["agreement"] is not None]
    counts = [r["num_prompts"] for r in shown]
    if report["outputs"] is not None:
        systems = [r for found in report["outputs"]["models"].values() for r in found.values()]
        counts += [r["num_prompts"] for r in systems]
    say_few(console, counts)


def _print_outputs(console: Console, found: Mapping[str, Any]) -> None:
    models = found["models"]
    systems = list(next(iter(models.values())))
    rows = [
        (
            system,
            *(estimate(models[name][system], "score") for name in models),
            models[next(iter(models))][system]["num_outputs"],
        )
        for system in systems
    ]
    console.print(table("Mean score of each system's outputs", ["system", *models, "outputs"], rows))
    for name, r in found["order"]["models"].items() if found["order"] else ():
        rows = [(step, estimate(gain, "mean", sign=True)) for step, gain in r["differences"].items()]
        rows.append(("prompts whose score rises all along", estimate(r["rising"], "mean")))
        rows.append(("rank correlation of score and place", estimate(r["spearman"], "mean", sign=True)))
        verdict = "rises" if r["mean_rises"] else "does not rise"
        console.print(
            table(f"{name}: the mean score {verdict} along the order ({r['num_prompts']} prompts)", ["", ""], rows)
        )
