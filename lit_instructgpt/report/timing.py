"""How long the run and its stages took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart
from lit_instructgpt.report.numbers import clean, duration, number
from lit_instructgpt.report.parts import NAMES, NOTHING, as_dict, color_of, figure


def total_seconds(report: Mapping[str, Any]) -> float:
    """Seconds of the whole run."""
    seconds = as_dict(report.get("seconds"))
    total = number(seconds.get("total"))
    return total if total is not None else sum(number(v) or 0.0 for v in seconds.values())


def time_chart(report: Mapping[str, Any]) -> Markup:
    """The stages, one after the other."""
    stages = {k: v for k, s in as_dict(report.get("seconds")).items() if k != "total" and (v := number(s)) is not None}
    if not stages:
        return NOTHING
    total = max(total_seconds(report), sum(stages.values())) or 1.0
    unit, name = (3600, "hours") if total >= 7200 else (60, "minutes") if total >= 120 else (1, "seconds")
    bars, start = [], 0.0
    for stage, seconds in stages.items():
        color = color_of(stage, [*stages])
        label = NAMES.get(stage, clean(stage).replace("_", " ").capitalize())
        bars.append(Bar(label, seconds / unit, duration(seconds), color, start=start / unit))
        start += seconds
    chart = bar_chart(bars, "Time per stage", f"{name} since the start", total / unit, "", width=560)
    return Markup('<div style="max-width:760px">{}</div>').format(
        figure("Stages, one after the other", chart, f"{duration(total)} in all")
    )
