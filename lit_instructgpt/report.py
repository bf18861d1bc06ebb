"""One self-contained HTML page about a run: results, curves and samples. Nothing is fetched, no script runs.

What the report lacks is left out of the page; what was not measured (None, NaN) is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from lit_instructgpt.report_charts import (
    COLORS,
    DASH,
    NBSP,
    SPARE_COLORS,
    STYLE,
    Bar,
    Line,
    bar_chart,
    calibration_chart,
    clean,
    decimal,
    digits_for,
    duration,
    histogram,
    interval,
    line_chart,
    number,
    percent,
    percent_range,
    thin,
)

Scalars = dict[str, list[tuple[int, float]]]

NAMES = {"base": "Base", "sft": "SFT", "rm": "Reward model", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
OPEN_SAMPLES = 8
NOTHING = Markup()


class Metric(NamedTuple):
    """How a number of a model is shown; ``better`` is 1 for higher, -1 for lower, 0 for neither."""

    name: str
    unit: str
    better: int
    meaning: str


METRICS = {
    "win_rate_vs_sft": Metric(
        "Preferred to SFT",
        "%",
        1,
        "Share of held-out prompts on which the model's response is preferred to the SFT model's. "
        "At 50 % the model is as good as SFT.",
    ),
    "follows_instruction": Metric(
        "Follows the instruction", "%", 1, "Share of responses that attempt the task the prompt asks for."
    ),
    "hallucination": Metric(
        "Hallucinates",
        "%",
        -1,
        "Share of responses that state what the prompt does not support, where that can be judged.",
    ),
    "satisfies_constraint": Metric(
        "Satisfies the constraint",
        "%",
        1,
        "Share of responses that obey the prompt's explicit constraint, where it has one.",
    ),
    "likert": Metric(
        "Overall quality (1 to 7)", "", 1, "Mean rating of the responses from 1 (worst) to 7 (best)."
    ),
    "rm_score": Metric(
        "Reward model score",
        "",
        1,
        "Mean score by the reward model, which PPO maximizes. It can rise while the responses get worse.",
    ),
    "kl_to_init": Metric(
        "KL from the initial policy (nats)",
        "",
        0,
        "How far training moved the model from where it started: mean KL divergence per response.",
    ),
    "text_loss": Metric(
        "Loss on text (nats per token)",
        "",
        -1,
        "Cross-entropy on held-out pretraining text. A rise is the alignment tax that ptx is to lower.",
    ),
    "response_tokens": Metric("Response length (tokens)", "", 0, "Mean number of tokens in a response."),
    "stop_rate": Metric(
        "Ends by itself", "%", 1, "Share of responses that end with the end-of-text token in time."
    ),
    "num_prompts": Metric(
        "Held-out prompts", "", 0, "Number of held-out prompts behind the numbers of the model."
    ),
}
VERDICTS = {
    "follows_instruction": ("misses the instruction", "follows the instruction"),
    "hallucination": ("no hallucination", "hallucinates"),
    "satisfies_constraint": ("breaks the constraint", "satisfies the constraint"),
}

CURVES_NOTE = "Faint: as logged. Bold: moving mean. Dashed with dots: on held-out data."

# (title, y axis, unit, training tag, validation tag)
Panel = tuple[str, str, str, str, str]
SUPERVISED: list[Panel] = [
    ("loss", "loss (nats)", "", "train/loss", "val/loss"),
    ("pair accuracy", "accuracy", "%", "train/pair_accuracy", "val/pair_accuracy"),
]
REINFORCED: list[list[Panel]] = [
    [
        ("Reward model score", "score", "", "objective/score", "val/objective/score"),
        ("KL from the initial policy", "KL (nats)", "", "objective/kl", "val/objective/kl"),
    ],
    [
        ("Response length", "tokens", "", "response/length", "val/response/length"),
        ("Entropy of the policy", "nats per response", "", "objective/entropy", "val/objective/entropy"),
    ],
    [
        ("Policy loss", "loss", "", "loss/policy", ""),
        ("Value loss", "loss", "", "loss/value", ""),
    ],
    [
        ("Pretraining loss (ptx)", "nats per token", "", "loss/ptx", ""),
        ("Clipped updates", "share of tokens", "%", "policy/clipfrac", ""),
    ],
]


def write_report(
    report: dict[str, Any], path: str | Path, runs: Mapping[str, str | Path] | None = None
) -> None:
    """Write the report as one HTML file.

    Args:
        report: the numbers and samples of a run (what ``report.json`` holds).
        path: the HTML file.
        runs: the directory with the TensorBoard logs of each stage, for the training curves.
    """
    scalars = {name: read_scalars(run) for name, run in (runs or {}).items()}
    sections = [
        ("models", "Models", _models(report)),
        ("reward-model", "Reward model", _reward_model(report)),
        ("training", "Training", _training(scalars)),
        ("lengths", "Response lengths", _lengths(report)),
        ("samples", "Samples", _samples(report)),
        ("time", "Time", _time(report)),
    ]
    shown = [s for s in sections if s[2]]
    link, block = Markup('<a href="#{}">{}</a>'), Markup('<section id="{}"><h2>{}</h2>{}</section>')
    nav = Markup("<nav>{}</nav>").format(_join(link.format(a, h) for a, h, _ in shown)) if shown else NOTHING
    title = clean(report.get("title") or "InstructGPT report")
    page = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n{}\n{}\n{}\n</main>\n{}\n"
        "</body>\n</html>\n"
    ).format(
        title,
        Markup(STYLE),
        title,
        nav,
        _hero(report),
        _join((block.format(*s) for s in shown), "\n"),
        _footer(report),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def read_scalars(run_dir: str | Path) -> Scalars:
    """All scalars in the TensorBoard event files below a directory, as tag -> [(step, value)] by step.

    Where files overlap, as after resuming, the value written last counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    latest: dict[str, dict[int, tuple[float, float]]] = {}
    for file in sorted(Path(run_dir).rglob("*tfevents*")):
        events = EventAccumulator(str(file), size_guidance={SCALARS: 0})
        events.Reload()
        for tag in events.Tags()[SCALARS]:
            curve = latest.setdefault(tag, {})
            for event in events.Scalars(tag):
                if event.step not in curve or event.wall_time >= curve[event.step][0]:
                    curve[event.step] = (event.wall_time, event.value)
    return {tag: [(s, curve[s][1]) for s in sorted(curve)] for tag, curve in sorted(latest.items())}


# --------------------------------------------------------------------------- reading the report


def _join(parts: Any, by: str = "") -> Markup:
    return Markup(by).join(parts)


def _dict(value: object) -> dict[str, Any]:
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _all_models(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: _dict(metrics) for name, metrics in _dict(report.get("models")).items()}


def _name(model: str) -> str:
    return NAMES.get(model, clean(model))


def _color(model: str, others: Sequence[str]) -> str:
    if model in COLORS:
        return COLORS[model]
    unknown = [m for m in others if m not in COLORS]
    return SPARE_COLORS[unknown.index(model) % len(SPARE_COLORS)] if model in unknown else "var(--gray)"


def _figure(caption: str, chart: Markup, note: str = "") -> Markup:
    small = Markup(" <small>{}</small>").format(note) if note else NOTHING
    return Markup("<figure><figcaption>{}{}</figcaption>{}</figure>\n").format(caption, small, chart)


# --------------------------------------------------------------------------- summary


def _hero(report: Mapping[str, Any]) -> Markup:
    preferences, others = _preferences(report)
    sentences = [*others, *_behaviour(report), *_reward_model_sentences(report), *_cost(report)]
    if not preferences and not sentences:
        return NOTHING
    opening = (
        "A language model learned to follow instructions the way InstructGPT did: supervised fine-tuning "
        "(SFT) on demonstrations, a reward model fitted to comparisons, then reinforcement learning (PPO) "
        "against that reward model."
    )
    lead = Markup('<p class="lead">{}</p>').format(" ".join(preferences)) if preferences else NOTHING
    summary = Markup("<div><p>{}</p>{}<p>{}</p></div>").format(opening, lead, " ".join(sentences))
    return Markup('<div class="hero">{}{}</div>').format(summary, _win_chart(report))


def _preferences(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The sentences on the trained models, the last model first, and the one on the base model."""
    trained: list[str] = []
    base: list[str] = []
    for model, m in _all_models(report).items():
        rate, ci = number(m.get("win_rate_vs_sft")), interval(m.get("ci95"))
        if rate is None or model == "sft":
            continue
        count = number(m.get("num_prompts"))
        prompts = f"{decimal(count, 0)} held-out prompts" if count else "held-out prompts"
        bounds = f" (95{NBSP}% CI {percent_range(ci)})" if ci else ""
        verdict = ", so the two cannot be told apart" if ci and ci[0] <= 0.5 <= ci[1] else ""
        of = "of" if count else "of the"
        subject = "The base model" if model == "base" else _name(model)
        (base if model == "base" else trained).append(
            f"{subject} is preferred to SFT on {percent(rate)} {of} {prompts}{bounds}{verdict}."
        )
    return trained[::-1], base


def _behaviour(report: Mapping[str, Any]) -> list[str]:
    models = _all_models(report)
    trained = [m for m in models if m not in ("base", "sft")]
    if not trained or "sft" not in models:
        return []
    last = models[trained[-1]]
    verbs = {"follows_instruction": "follows the instruction in", "hallucination": "hallucinates in",
             "satisfies_constraint": "satisfies the stated constraint in"}  # fmt: skip
    parts = [
        f"{verb} {percent(last[key])} of responses (SFT: {percent(models['sft'].get(key))})"
        for key, verb in verbs.items()
        if number(last.get(key)) is not None
    ]
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + "".join(parts[-1:])
    return [f"{_name(trained[-1])} {listed}."] if parts else []


def _reward_model_sentences(report: Mapping[str, Any]) -> list[str]:
    rm, agreement = _dict(report.get("rm")), _dict(report.get("agreement"))
    if number(rm.get("pair_accuracy")) is None:
        return []
    count = number(rm.get("num_pairs"))
    pairs = f"{decimal(count, 0)} held-out pairs" if count else "the held-out pairs"
    sentence = f"The reward model ranks {percent(rm['pair_accuracy'])} of {pairs} as the labelers did"
    compared = []
    if number(rm.get("length_baseline")) is not None:
        compared.append(f"preferring the longer response gets {percent(rm['length_baseline'])}")
    if number(agreement.get("training")) is not None:
        compared.append(f"two labelers agree on {percent(agreement['training'])}")
    return [sentence + ("; " + " and ".join(compared) if compared else "") + "."]


def _cost(report: Mapping[str, Any]) -> list[str]:
    total = _total_seconds(report)
    hardware = report.get("hardware")
    return (
        [f"All of it took {duration(total)}{f' on {clean(hardware)}' if hardware else ''}."] if total else []
    )


def _win_chart(report: Mapping[str, Any]) -> Markup:
    models = _all_models(report)
    bars = []
    for model, m in models.items():
        rate = number(m.get("win_rate_vs_sft"))
        if rate is not None and model != "sft":
            bars.append(
                Bar(_name(model), rate, percent(rate), _color(model, [*models]), interval(m.get("ci95")))
            )
    if not bars:
        return NOTHING
    chart = bar_chart(
        bars, "Preferred to SFT", "share of held-out prompts", reference=(0.5, f"50{NBSP}%: as good as SFT")
    )
    return _figure("Preferred to the SFT model", chart, f"Whiskers: 95{NBSP}% confidence interval.")


# --------------------------------------------------------------------------- models


def _models(report: Mapping[str, Any]) -> Markup:
    models = {name: m for name, m in _all_models(report).items() if m}
    if not models:
        return NOTHING
    extra = sorted({k for m in models.values() for k, v in m.items() if number(v) is not None} - set(METRICS))
    known = {k: metric for k, metric in METRICS.items() if any(k in m for m in models.values())}
    known |= {k: Metric(clean(k).replace("_", " "), "", 0, f"{clean(k)} in the report.") for k in extra}
    dot = Markup('<th scope="col"><span class="dot" style="background:{}"></span>{}</th>')
    head = _join(dot.format(_color(m, [*models]), _name(m)) for m in models)
    rows = _join(_metric_row(key, metric, models) for key, metric in known.items())
    terms = _join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(m.name, m.meaning) for k, m in known.items() if k in METRICS
    )
    return Markup(
        '<div class="table"><table><thead><tr><th scope="col">Held-out prompts, mean per model</th>{}'
        "</tr></thead><tbody>{}</tbody></table></div>"
        '<p class="note">Bold: the best of a row. {}: not measured.</p>'
        "<details><summary>What the rows mean</summary><dl>{}</dl></details>{}"
    ).format(head, rows, DASH, terms, _judged_charts(models))


def _metric_row(key: str, metric: Metric, models: Mapping[str, Mapping[str, Any]]) -> Markup:
    values = [number(m.get(key)) for m in models.values()]
    present = [v for v in values if v is not None]
    best = (
        max((metric.better * v for v in present), default=0.0) if metric.better and len(present) > 1 else None
    )
    counted = all(isinstance(m[key], int) for m in models.values() if m.get(key) is not None)
    digits = 0 if counted else digits_for(present)
    cells = []
    for value, m in zip(values, models.values(), strict=True):
        shown = percent(value, 1) if metric.unit == "%" else decimal(value, digits)
        ci = percent_range(m.get("ci95"), 1) if key == "win_rate_vs_sft" and value is not None else ""
        small = Markup("<br><small>{}</small>").format(ci) if ci else NOTHING
        css = Markup(' class="best"') if value is not None and best == metric.better * value else NOTHING
        cells.append(Markup("<td{}>{}{}</td>").format(css, shown, small))
    return Markup('<tr><th scope="row" title="{}">{}</th>{}</tr>\n').format(
        metric.meaning, metric.name, _join(cells)
    )


def _judged_charts(models: Mapping[str, Mapping[str, Any]]) -> Markup:
    figures = []
    for key in VERDICTS:
        bars = []
        for model, m in models.items():
            rate = number(m.get(key))
            if rate is not None:
                bars.append(Bar(_name(model), rate, percent(rate), _color(model, [*models])))
        if bars:
            metric = METRICS[key]
            note = "higher is better" if metric.better > 0 else "lower is better"
            figures.append(
                _figure(metric.name, bar_chart(bars, metric.name, "share of responses", width=320), note)
            )
    return Markup('<div class="grid g3">{}</div>').format(_join(figures)) if figures else NOTHING


# --------------------------------------------------------------------------- reward model


def _reward_model(report: Mapping[str, Any]) -> Markup:
    rm, agreement = _dict(report.get("rm")), _dict(report.get("agreement"))
    rows = [
        ("Reward model", rm.get("pair_accuracy"), "var(--green)", interval(rm.get("ci95"))),
        ("RM, new labelers", rm.get("pair_accuracy_held_out_labelers"), "var(--green)", None),
        ("Longer response", rm.get("length_baseline"), "var(--gray)", None),
        ("Labelers agree", agreement.get("training"), "var(--sky)", None),
        ("New labelers agree", agreement.get("held_out"), "var(--sky)", None),
    ]
    bars = [
        Bar(name, v, percent(v), color, ci)
        for name, value, color, ci in rows
        if (v := number(value)) is not None
    ]
    figures = []
    if bars:
        chart = bar_chart(bars, "Pair accuracy", "share of pairs", reference=(0.5, f"50{NBSP}%: chance"))
        count = number(rm.get("num_pairs"))
        note = f"{decimal(count, 0)} held-out pairs. " if count else ""
        figures.append(
            _figure("Agreement with the labelers", chart, note + "New labelers took no part in training.")
        )
    figures.append(_calibration(_dict(rm.get("calibration"))))
    content = _join(figures)
    grid = Markup('<div class="grid g2">{}</div>').format(content) if content else NOTHING
    return grid + _per_source(_dict(rm.get("per_source")))


def _calibration(calibration: Mapping[str, Any]) -> Markup:
    bins = []
    for entry in map(_dict, _list(calibration.get("bins"))):
        confidence, accuracy = number(entry.get("confidence")), number(entry.get("accuracy"))
        count = number(entry.get("count")) or 0.0
        if confidence is not None and accuracy is not None and count > 0:
            bins.append((confidence, accuracy, count))
    if not bins:
        return NOTHING
    ece = number(calibration.get("ece"))
    note = f"Expected calibration error {percent(ece, 1)}. " if ece is not None else ""
    return _figure("Calibration", calibration_chart(sorted(bins)), note + "Larger dots hold more pairs.")


def _per_source(sources: Mapping[str, Any]) -> Markup:
    row = Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>\n')
    rows = [
        row.format(
            clean(name).replace("_", " "), percent(s.get("accuracy"), 1), decimal(s.get("num_pairs"), 0)
        )
        for name, s in ((name, _dict(s)) for name, s in sources.items())
    ]
    if not rows:
        return NOTHING
    return Markup(
        '<div class="table"><table><thead><tr><th scope="col">Source of the prompt</th>'
        '<th scope="col">Pair accuracy</th><th scope="col">Held-out pairs</th></tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(_join(rows))


# --------------------------------------------------------------------------- training curves


def _training(scalars: Mapping[str, Scalars]) -> Markup:
    supervised = _join(
        _curves((f"{_name(run)}: {panel[0]}", *panel[1:]), {run: curves}, None)
        for run, curves in scalars.items()
        for panel in SUPERVISED
        if not any(tag.startswith("objective/") for tag in curves)
    )
    reinforced = {run: c for run, c in scalars.items() if any(tag.startswith("objective/") for tag in c)}
    tags = {tag for column in REINFORCED for panel in column for tag in panel[3:]}
    steps = [s for c in reinforced.values() for tag in tags for s, _ in c.get(tag, [])]
    x_range = (float(min(steps)), float(max(steps))) if steps else None
    columns = [_join(_curves(panel, reinforced, x_range) for panel in column) for column in REINFORCED]
    stacks = _join(Markup('<div class="stack">{}</div>').format(c) for c in columns if c)
    if not supervised and not stacks:
        return NOTHING
    grid, heading = Markup('<div class="grid g4">{}</div>'), Markup("<h3>{}</h3>")
    names = " and ".join(_name(run) for run in reinforced)
    return _join([
        Markup('<p class="note">{}</p>').format(CURVES_NOTE),
        heading.format("Supervised stages") + grid.format(supervised) if supervised else NOTHING,
        heading.format(f"Reinforcement learning: {names}") + grid.format(stacks) if stacks else NOTHING,
    ])  # fmt: skip


def _curves(panel: Panel, runs: Mapping[str, Scalars], x_range: tuple[float, float] | None) -> Markup:
    title, axis, unit, train, val = panel
    lines = []
    for run, curves in runs.items():
        color = _color(run, [*runs])
        lines.append(Line(_name(run) if len(runs) > 1 else "train", thin(curves.get(train, [])), color))
        held_out = thin(curves.get(val, []), 60)
        lines.append(
            Line("" if len(runs) > 1 else "val", held_out, color if len(runs) > 1 else "var(--ink)", True)
        )
    if not any(curve.points for curve in lines):
        return NOTHING
    return _figure(title, line_chart(lines, title, axis, unit, x_range))


# --------------------------------------------------------------------------- lengths, samples, time


def _lengths(report: Mapping[str, Any]) -> Markup:
    models = _all_models(report)
    bins: dict[str, tuple[list[float], list[float]]] = {}
    for model, m in models.items():
        shape = _dict(m.get("length_histogram"))
        edges, counts = ([number(x) for x in _list(shape.get(k))] for k in ("edges", "counts"))
        kept = [x for x in edges if x is not None], [x for x in counts if x is not None]
        if len(kept[0]) == len(edges) == len(counts) + 1 == len(kept[1]) + 1 and sum(kept[1]) > 0:
            bins[model] = kept
    if not bins:
        return _mean_lengths(models)
    full = [(e[i], e[i + 1], n / sum(c)) for e, c in bins.values() for i, n in enumerate(c) if n]
    limits = (min(f[0] for f in full), max(f[1] for f in full), max(f[2] for f in full))
    figures = [
        _figure(
            _name(m),
            histogram(e, c, _color(m, [*models]), _name(m), limits, number(models[m].get("response_tokens"))),
        )
        for m, (e, c) in bins.items()
    ]
    return Markup('<div class="grid g3">{}</div>').format(_join(figures))


def _mean_lengths(models: Mapping[str, Mapping[str, Any]]) -> Markup:
    bars = []
    for model, m in models.items():
        mean = number(m.get("response_tokens"))
        if mean is not None:
            bars.append(Bar(_name(model), mean, decimal(mean, 1), _color(model, [*models])))
    if not bars:
        return NOTHING
    chart = bar_chart(bars, "Response length", "tokens", max(max(b.value for b in bars), 1.0), "")
    return Markup('<div class="grid g2">{}</div>').format(_figure("Mean response length", chart))


def _samples(report: Mapping[str, Any]) -> Markup:
    cards = [_sample(s) for s in map(_dict, _list(report.get("samples"))) if s]
    if not cards:
        return NOTHING
    note = Markup(
        '<p class="note">Held-out prompts. The number is the score by the reward model, the highest in bold.'
        "</p>"
    )
    rest = Markup("<details><summary>{} more</summary>{}</details>").format(
        f"{len(cards) - OPEN_SAMPLES:,}", _join(cards[OPEN_SAMPLES:])
    )
    return note + _join(cards[:OPEN_SAMPLES]) + (rest if len(cards) > OPEN_SAMPLES else NOTHING)


def _sample(sample: Mapping[str, Any]) -> Markup:
    chip = (
        Markup('<span class="chip">{}</span>').format(clean(sample["use_case"]).replace("_", " "))
        if sample.get("use_case")
        else NOTHING
    )
    responses = {name: _dict(r) for name, r in _dict(sample.get("responses")).items()}
    scores = [v for r in responses.values() if (v := number(r.get("score"))) is not None]
    top = max(scores) if len(scores) > 1 else None
    answers = []
    for model, r in responses.items():
        score = number(r.get("score"))
        css = "top" if score is not None and score == top else "score"
        badges = _join(_badge(k, v) for k, v in _dict(r.get("judgement")).items())
        answers.append(
            Markup(
                '<div class="answer" style="border-color:{}"><div class="who">{}<span class="{}" '
                'title="reward model score">{}</span></div><div class="text">{}</div>'
                '<div class="badges">{}</div></div>\n'
            ).format(
                _color(model, [*responses]),
                _name(model),
                css,
                decimal(score, 2),
                clean(r.get("text") or "(empty)"),
                badges,
            )
        )
    return Markup(
        '<article class="card">{}<div class="prompt">{}</div><div class="answers">{}</div></article>\n'
    ).format(chip, clean(sample.get("prompt") or ""), _join(answers))


def _badge(key: str, value: object) -> Markup:
    x, label = number(value), clean(key).replace("_", " ")
    if x is None:
        return Markup('<span title="not judged">{} {}</span>').format(DASH, label)
    if key not in VERDICTS or x not in (0.0, 1.0):
        return Markup("<span>{} {}</span>").format(label, f"{x:g}")
    good = (x == 1.0) == (METRICS[key].better > 0)
    css, sign = ("good", "\u2713") if good else ("bad", "\u2717")
    return Markup('<span class="{}">{} {}</span>').format(css, sign, VERDICTS[key][x == 1.0])


def _total_seconds(report: Mapping[str, Any]) -> float:
    seconds = _dict(report.get("seconds"))
    total = number(seconds.get("total"))
    return total if total is not None else sum(number(v) or 0.0 for v in seconds.values())


def _time(report: Mapping[str, Any]) -> Markup:
    stages = {
        k: v for k, s in _dict(report.get("seconds")).items() if k != "total" and (v := number(s)) is not None
    }
    if not stages:
        return NOTHING
    total = max(_total_seconds(report), sum(stages.values())) or 1.0
    unit, name = (3600, "hours") if total >= 7200 else (60, "minutes") if total >= 120 else (1, "seconds")
    bars, start = [], 0.0
    for stage, seconds in stages.items():
        color = _color(stage, [*stages])
        label = NAMES.get(stage, clean(stage).replace("_", " ").capitalize())
        bars.append(Bar(label, seconds / unit, duration(seconds), color, start=start / unit))
        start += seconds
    chart = bar_chart(bars, "Time per stage", f"{name} since the start", total / unit, "", width=560)
    return Markup('<div style="max-width:760px">{}</div>').format(
        _figure("Stages, one after the other", chart, f"{duration(total)} in all")
    )


def _footer(report: Mapping[str, Any]) -> Markup:
    versions = " \u00b7 ".join(f"{clean(k)} {clean(v)}" for k, v in _dict(report.get("versions")).items())
    facts = {"Seed": report.get("seed"), "Versions": versions, "Hardware": report.get("hardware")}
    rows = [
        Markup("<dt>{}</dt><dd>{}</dd>").format(k, clean(v)) for k, v in facts.items() if v not in (None, "")
    ]
    if report.get("command"):
        rows.append(Markup("<dt>Command</dt><dd><code>{}</code></dd>").format(clean(report["command"])))
    return Markup("<footer><dl>{}</dl></footer>").format(_join(rows)) if rows else NOTHING
