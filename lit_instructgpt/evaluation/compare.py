"""``lit-instructgpt evaluate``: compares exported models on held-out prompts (paper, section 3.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from lit_instructgpt.datamodules.tokenizing import Reading, Source
from lit_instructgpt.evaluation.agreement import prompt_numbers
from lit_instructgpt.evaluation.for_people import write_responses
from lit_instructgpt.evaluation.inputs import devices, outs, policies, reward_models, takes
from lit_instructgpt.evaluation.judging import Judge, Judgements, Judges, PairJudge
from lit_instructgpt.evaluation.policies import Evaluated, Samples, check_scorer, prompts_for_all, reads_ids
from lit_instructgpt.evaluation.provenance import callable_entry, directory_entry, file_entry, versions
from lit_instructgpt.evaluation.reward_models import measurable, read_comparisons, reward_model_report
from lit_instructgpt.evaluation.statistics import bootstrap_ci, length_controlled_win_rate, repetition
from lit_instructgpt.evaluation.tables import estimate, say_few, table
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.records import Prompt, Text
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.sampling import Sampling


def evaluate(
    models: dict[str, str],
    prompts: Source,
    out: str,
    baseline: str = "sft",
    init: str | None = None,
    reward_model: str | None = None,
    judge: Judge | None = None,
    pair_judge: PairJudge | None = None,
    text: Source | None = None,
    text_tokens: int = 256,
    comparisons: Source | None = None,
    held_out_comparisons: Source | None = None,
    sampling: Sampling | None = None,
    reading: Reading | None = None,
    format: PromptFormat | None = None,
    num_shown: int = 12,
    responses_out: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> dict[str, Any]:
    """Compare exported models on the same held-out prompts and write a JSON report.

    Args:
        models: name -> exported directory, e.g. ``--models.sft runs/sft/export --models.ppo runs/ppo/export``.
        prompts: file of held-out prompts; whatever else a line holds is passed to the judge. Those that are too
            long for one of the models are left out for all.
        out: the JSON file to write.
        baseline: name of the model that the others are compared with.
        init: name or directory of the model that ``kl_to_init`` is measured against; the baseline by default.
        reward_model: directory of a reward model; gives ``rm_score``, and decides wins where no judge does.
        judge: class path of a callable ``(records, responses) -> list of dicts``; its ``utility`` decides wins, if it gives
            one for every response, and its other numbers are averaged. Needs ``--allow_import`` for its package.
        pair_judge: class path of a callable ``(records, first, second) -> list``: 1 where the first response is better, 0 where
            the second is, 0.5 for a tie. Asked in both orders; decides wins instead of scores.
        text: file of held-out text for ``text_loss`` (nats per token).
        text_tokens: length of its blocks.
        comparisons: rankings that the reward model was not trained on, for its pair accuracy.
        held_out_comparisons: rankings by labelers who gave no training data.
        sampling: how responses are sampled.
        reading: length limits.
        format: for models that do not say how their prompts were formatted.
        num_shown: prompts whose responses are shown side by side.
        responses_out: JSONL file for all prompts with the responses of all models in random order (``responses``, and whose
            they are, ``systems``), for people to rank; ``lit-instructgpt rankings`` reads their rankings.
        batch_size: prompts per batch.
        device: cpu, cuda, ...

    Returns:
        The report, as written.
    """
    sampling, reading = sampling or Sampling(max_new_tokens=256), reading or Reading()
    seed = sampling.seed or 0
    sampling = replace(sampling, seed=seed)
    judges_named = {"judge": judge, "pair_judge": pair_judge}
    _check(models, baseline, init, reward_model, judges_named, comparisons, held_out_comparisons, sampling)
    _check_places(models, init, reward_model, [out, responses_out], device)
    texts = [] if text is None else reading.read(text, Text)
    read = reading.read(prompts, Prompt)
    rankings = read_comparisons(reading, {"comparisons": comparisons, "held_out_comparisons": held_out_comparisons})
    records = prompts_for_all(list(models.values()), read, texts, format, reading, sampling, text_tokens)
    scorer = (
        ModelReward(reward_model, format, reading.max_response_tokens, batch_size, device) if reward_model else None
    )
    if scorer is not None:
        check_scorer(scorer, list(models.values()), records, format, sampling)
        rankings = {name: measurable(found, scorer, reading) for name, found in rankings.items()}
    how = Measuring(sampling, reading, format, texts, text_tokens, batch_size, device)
    start = init or baseline
    opponent, found = _measure(models, records, baseline, start, how)
    judges = Judges(judge, pair_judge, scorer)
    report = _compare(found, opponent, judges, baseline, prompt_numbers(records), num_shown)
    report["seed"] = seed
    report["versions"] = versions()
    report["files"] = {
        name: file_entry(source, num)
        for name, source, num in (("prompts", prompts, len(read)), ("text", text, len(texts)))
        if source is not None
    } | {name: file_entry(m.source, m.num_rows) | {"measured": len(m.records)} for name, m in rankings.items()}
    report["directories"] = {
        **{f"models.{name}": directory_entry(directory, found[name].format) for name, directory in models.items()},
        **({} if start in models else {"init": directory_entry(start)}),
        **({} if scorer is None else {"reward_model": directory_entry(str(reward_model), scorer.format)}),
    }
    report["settings"] = {
        "baseline": baseline, "init": start, **{name: callable_entry(named) for name, named in judges_named.items()},
        "sampling": asdict(sampling), "reading": asdict(reading), "text_tokens": text_tokens, "batch_size": batch_size,
        "device": device,
    }  # fmt: skip
    if responses_out is not None:
        write_responses(found, responses_out, seed)
    if scorer is not None and comparisons is not None:
        report["rm"] = reward_model_report(
            scorer, reading, rankings["comparisons"], rankings.get("held_out_comparisons")
        )
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(report, baseline)
    return report


def _check(
    models: dict[str, str],
    baseline: str,
    init: str | None,
    reward_model: str | None,
    judges: Mapping[str, Any],
    comparisons: Source | None,
    held_out_comparisons: Source | None,
    sampling: Sampling,
) -> None:
    """Refuses what contradicts itself or would be ignored, all at once."""
    called = {"judge": "(records, responses)", "pair_judge": "(records, first, second)"}
    misfits = [
        f"{name} is called with {arguments}, which it does not take: "
        + ("give it as --pair_judge" if takes(judges["judge"], 3) and name == "judge" else "correct its arguments")
        for (name, arguments), num in zip(called.items(), (2, 3), strict=True)
        if judges[name] is not None and not takes(judges[name], num)
    ]
    wrong = {
        f"baseline {baseline!r} is not among models ({', '.join(models)}): give --baseline NAME": baseline
        not in models,
        "give --reward_model DIR, --judge CLASS_PATH or --pair_judge CLASS_PATH: something must judge the responses": (
            not reward_model and not any(judges.values())
        ),
        "comparisons measure a reward model: give --reward_model DIR, or leave --comparisons out": (
            comparisons is not None and not reward_model
        ),
        "held_out_comparisons are measured beside comparisons: give --comparisons FILE too": (
            held_out_comparisons is not None and comparisons is None
        ),
        f"sampling.num_samples is {sampling.num_samples}: evaluate samples one response per prompt; leave it out "
        "(predict samples several)": sampling.num_samples != 1,
    }
    problems = [*(text for text, holds in wrong.items() if holds), *misfits]
    if problems:
        raise ValueError("\n".join(problems))


def _check_places(
    models: Mapping[str, str], init: str | None, reward_model: str | None, files: Sequence[str | None], device: str
) -> None:
    """Refuses directories of the wrong kind, files that cannot be written and a device that is not there, all at once."""
    asked = {f"models.{name}": directory for name, directory in models.items()}
    problems = [
        *policies(asked | ({"init": init} if init is not None and init not in models else {})),
        *reward_models({"reward_model": reward_model} if reward_model else {}),
        *outs(*files),
        *devices(device),
    ]
    if problems:
        raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class Measuring:
    """What is the same for every model."""

    sampling: Sampling
    reading: Reading
    format: PromptFormat | None
    text: Sequence[Text]
    text_tokens: int
    batch_size: int
    device: str


def _measure(
    models: dict[str, str], records: Sequence[Prompt], baseline: str, reference: str, how: Measuring
) -> tuple[Samples, dict[str, Samples]]:
    """Fresh samples of the baseline, which all models are compared with, and each model's own."""
    reading, sampling, size = how.reading, how.sampling, how.batch_size
    found: dict[str, Samples] = {}

    def load(directory: str, *loaded: Evaluated) -> Evaluated:
        same = [model for model in loaded if model.directory == directory]
        return same[0] if same else Evaluated(directory, how.format, how.device)

    with Progress(transient=True) as progress, torch.no_grad():
        task = progress.add_task("evaluate", total=len(models) + 1)
        model = load(models[baseline])
        opponent = model.sample(records, reading, _reseeded(sampling), size)
        start = load(models.get(reference, reference), model)
        progress.advance(task)
        for name, directory in models.items():
            del model  # two policies at a time, not three
            model = load(directory, start)
            found[name] = samples = model.sample(records, reading, sampling, size)
            samples.kl = model.kl(start, samples, size, sampling.temperature)
            if how.text:
                samples.text_loss, samples.text_loss_per_byte = model.text_loss(how.text, how.text_tokens, size)
            progress.advance(task)
    return opponent, found


def _compare(
    found: dict[str, Samples],
    opponent: Samples,
    judges: Judges,
    baseline: str,
    prompts: Sequence[int],
    num_shown: int,
) -> dict[str, Any]:
    """The report on everyone's responses; ``prompts`` is the number of each response's prompt."""
    names = [*found, f"{baseline}, sampled a second time"]
    (*own, against), wins_by = judges.judge_all(names, [*found.values(), opponent])
    judged = dict(zip(found, own, strict=True))
    report: dict[str, Any] = {
        "kind": "policies",
        "models": {
            name: _model_report(
                s, judged[name], judges.wins(s, judged[name], opponent, against), opponent, baseline, prompts
            )
            for name, s in found.items()
        },
        "samples": _shown(found, judged, num_shown),
        "num_prompts": len(set(prompts)),
        "num_responses": len(prompts),
        "wins_by": wins_by,
    }
    if judges.scorer is not None:
        report["rm_reads"] = "tokens" if reads_ids(judges.scorer, [*found.values(), opponent]) else "text"
    return report


def _reseeded(sampling: Sampling) -> Sampling:
    return replace(sampling, seed=(sampling.seed or 0) + 1)


def _model_report(
    samples: Samples,
    judged: Judgements,
    wins: np.ndarray,
    opponent: Samples,
    baseline: str,
    prompts: Sequence[int],
) -> dict[str, Any]:
    longer_by = np.array([len(a) - len(b) for a, b in zip(samples.texts, opponent.texts, strict=True)])
    controlled, controlled_ci = length_controlled_win_rate(wins, longer_by, prompts)
    lengths = [len(ids) for ids in samples.ids]
    counts, edges = np.histogram(lengths, bins=20, range=(0, max([*lengths, 1])))
    report: dict[str, Any] = {
        f"win_rate_vs_{baseline}": float(wins.mean()),
        "ci95": bootstrap_ci(wins, prompts),
        "length_controlled_win_rate": controlled,
        "ci95_length_controlled_win_rate": controlled_ci,
    }
    for key in dict.fromkeys(key for row in judged for key in row):
        inside = [i for i, row in enumerate(judged) if row.get(key) is not None]
        report |= _mean(key, [judged[i][key] for i in inside], [prompts[i] for i in inside])
        if len(inside) < len(judged):
            report[f"num_{key}"] = len(inside)
    report |= _mean("kl_to_init", samples.kl or [], prompts) | {
        "text_loss": samples.text_loss, "text_loss_per_byte": samples.text_loss_per_byte,
    }  # fmt: skip
    report |= _mean("response_tokens", lengths, prompts) | _mean("stop_rate", samples.stopped, prompts)
    report |= _mean("repetition", [repetition(ids) for ids in samples.ids], prompts) | {
        "num_prompts": len(set(prompts)),
        "length_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
    return report


def _mean(key: str, values: Sequence[float], prompts: Sequence[int]) -> dict[str, Any]:
    """A mean over responses with its interval, prompts resampled; None of nothing."""
    if not values:
        return {key: None}
    return {key: float(np.mean(values)), f"ci95_{key}": bootstrap_ci(np.array(values, float), prompts)}


def _shown(found: dict[str, Samples], judged: dict[str, Judgements], num: int) -> list[dict[str, Any]]:
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
                    "judgement": {k: v for k, v in judged[name][i].items() if k not in ("rm_score", "utility")},
                }
                for name in names
            },
        }
        for i in range(0, len(samples.texts), step)
    ][:num]


def _cell(row: Mapping[str, Any], key: str, interval: str | None) -> str:
    if interval is not None:
        return estimate(row, key, interval)
    return "-" if row.get(key) is None else f"{row[key]:.3f}"


def _print(report: dict[str, Any], baseline: str) -> None:
    wins = f"win_rate_vs_{baseline}"
    keys = [wins, "length_controlled_win_rate", "follows_instruction", "hallucination", "satisfies_constraint", "likert",
            "rm_score", "kl_to_init", "text_loss", "response_tokens", "stop_rate"]  # fmt: skip
    shown = [k for k in keys if any(m.get(k) is not None for m in report["models"].values())]
    intervals = {wins: "ci95", "length_controlled_win_rate": "ci95_length_controlled_win_rate"}
    columns = {key: [_cell(row, key, intervals.get(key)) for row in report["models"].values()] for key in shown}
    title = f"{report['num_prompts']} held-out prompts; wins by {report['wins_by'].replace('_', ' ')}; 95 % intervals in brackets"
    rows = [[name, *cells] for name, *cells in zip(report["models"], *columns.values(), strict=True)]
    console = Console()
    console.print(table(title, ["model", *(key.replace("_", " ") for key in shown)], rows))
    say_few(console, [report["num_prompts"]])
    if report.get("rm_reads") == "text":
        console.print(
            "the reward model reads text, each response ended by EOS, also where it was cut: its format or vocabulary is not "
            "that of all models (docs/metrics.md, rm_reads)"
        )
    if "rm" in report:
        rm = report["rm"]
        console.print(
            f"reward model: pair accuracy {rm['pair_accuracy']:.3f} "
            f"({rm['ci95'][0]:.3f}-{rm['ci95'][1]:.3f}, {rm['num_pairs']} pairs), "
            f"longer is better {rm['length_baseline']:.3f}"
        )
