"""The models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart
from lit_instructgpt.report.numbers import (
    DASH,
    FEW,
    clean,
    decimal,
    digits_for,
    interval,
    number,
    percent,
    percent_range,
)
from lit_instructgpt.report.parts import NOTHING, all_models, color_of, figure, join, name_of
from lit_instructgpt.report.verdicts import METRICS, VERDICTS, WIN_RATE, Metric, by_whom, win_rate_metric


def models_table(report: Mapping[str, Any]) -> Markup:
    """The table of all models, what its rows mean, and a chart per verdict."""
    models = {name: m for name, m in all_models(report).items() if m}
    if not models:
        return NOTHING
    if report.get("wins_by") == "reward_model":  # utility is the score once more
        models = {name: {key: value for key, value in m.items() if key != "utility"} for name, m in models.items()}
    keys = dict.fromkeys(key for m in models.values() for key in m)
    by = by_whom(report)
    wins = {key: win_rate_metric(key.removeprefix(WIN_RATE), by) for key in keys if key.startswith(WIN_RATE)}
    extra = sorted({k for m in models.values() for k, v in m.items() if number(v) is not None} - {*METRICS, *wins})
    known = wins | {k: metric for k, metric in METRICS.items() if any(k in m for m in models.values())}
    known |= {k: Metric(clean(k).replace("_", " "), "", 0, f"{clean(k)} in the report.") for k in extra}
    dot = Markup('<th scope="col"><span class="dot" style="background:{}"></span>{}</th>')
    head = join(dot.format(color_of(m, [*models]), name_of(m)) for m in models)
    rows = join(_metric_row(key, metric, models) for key, metric in known.items())
    terms = join(Markup("<dt>{}</dt><dd>{}</dd>").format(m.name, m.meaning) for k, m in known.items() if k not in extra)
    return Markup(
        '<div class="table"><table><thead><tr><th scope="col">Held-out prompts, mean per model (95 % interval)</th>{}'
        "</tr></thead><tbody>{}</tbody></table></div>"
        '<p class="note">Bold: the best of a row. {}: not measured.{}{}</p>'
        "<details><summary>What the rows mean</summary><dl>{}</dl></details>{}"
    ).format(head, rows, DASH, _how_scored(report), _few(report), terms, _judged_charts(models))


def _how_scored(report: Mapping[str, Any]) -> str:
    """Where the reward model reads text: scores of a comparison in which it reads tokens are not to be set beside it."""
    if report.get("rm_reads") != "text":
        return ""
    return " The reward model reads text, every response ended, even if cut: not all models have its format and vocabulary."


def _few(report: Mapping[str, Any]) -> str:
    num = number(report.get("num_prompts"))
    return (
        ""
        if num is None or num >= FEW
        else f" Intervals of fewer than {FEW} prompts are too narrow; here are {num:.0f}."
    )


def _metric_row(key: str, metric: Metric, models: Mapping[str, Mapping[str, Any]]) -> Markup:
    values = [number(m.get(key)) for m in models.values()]
    present = [v for v in values if v is not None]
    best = max((metric.better * v for v in present), default=0.0) if metric.better and len(present) > 1 else None
    counted = all(isinstance(m[key], int) for m in models.values() if m.get(key) is not None)
    digits = 0 if counted else digits_for(present)
    cells = []
    for value, m in zip(values, models.values(), strict=True):
        shown = percent(value, 1) if metric.unit == "%" else decimal(value, digits)
        bounds = interval(m.get("ci95" if key.startswith(WIN_RATE) else f"ci95_{key}")) if value is not None else None
        ci = (
            percent_range(bounds, 1)
            if metric.unit == "%"
            else " to ".join(decimal(x, digits or 1) for x in bounds or ())
        )
        small = Markup("<br><small>{}</small>").format(ci) if ci else NOTHING
        css = Markup(' class="best"') if value is not None and best == metric.better * value else NOTHING
        cells.append(Markup("<td{}>{}{}</td>").format(css, shown, small))
    return Markup('<tr><th scope="row" title="{}">{}</th>{}</tr>\n').format(metric.meaning, metric.name, join(cells))


def _judged_charts(models: Mapping[str, Mapping[str, Any]]) -> Markup:
    figures = []
    for key in VERDICTS:
        bars = []
        for model, m in models.items():
            rate = number(m.get(key))
            if rate is not None:
                bars.append(
                    Bar(name_of(model), rate, percent(rate), color_of(model, [*models]), interval(m.get(f"ci95_{key}")))
                )
        if bars:
            metric = METRICS[key]
            note = "higher is better" if metric.better > 0 else "lower is better"
            figures.append(
                figure(metric.name, bar_chart(bars, metric.name, "share of responses judged", width=320), note)
            )
    return Markup('<div class="grid g3">{}</div>').format(join(figures)) if figures else NOTHING
