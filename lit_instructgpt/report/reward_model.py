"""The reward model against the labelers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart, calibration_chart
from lit_instructgpt.report.numbers import NBSP, clean, decimal, interval, number, percent, percent_range
from lit_instructgpt.report.parts import NOTHING, as_dict, as_list, figure, join, name_of


def reward_model_charts(report: Mapping[str, Any]) -> Markup:
    """Accuracy, calibration and accuracy per source of the reward model."""
    rm, agreement = as_dict(report.get("rm")), as_dict(report.get("agreement"))
    rows = [
        ("Reward model", rm.get("pair_accuracy"), "var(--green)", interval(rm.get("ci95"))),
        (
            "RM, new labelers",
            rm.get("pair_accuracy_held_out_labelers"),
            "var(--green)",
            interval(rm.get("ci95_held_out_labelers")),
        ),
        ("Longer response", rm.get("length_baseline"), "var(--gray)", None),
        ("Labelers agree", agreement.get("training"), "var(--sky)", None),
        ("New labelers agree", agreement.get("held_out"), "var(--sky)", None),
    ]
    bars = [Bar(name, v, percent(v), color, ci) for name, value, color, ci in rows if (v := number(value)) is not None]
    figures = []
    if bars:
        chart = bar_chart(bars, "Pair accuracy", "share of pairs", reference=(0.5, f"50{NBSP}%: chance"))
        count = number(rm.get("num_pairs"))
        note = f"{decimal(count, 0)} held-out pairs. " if count else ""
        figures.append(figure("Agreement with the labelers", chart, note + "New labelers took no part in training."))
    figures.append(_calibration(as_dict(rm.get("calibration"))))
    content = join(figures)
    grid = Markup('<div class="grid g2">{}</div>').format(content) if content else NOTHING
    return grid + _per_source(as_dict(rm.get("per_source")))


def rankings_charts(result: Mapping[str, Any]) -> Markup:
    """Of a result of `evaluate_rm`: for each file of rankings every model beside length and labelers, and its calibration."""
    models, agreement = as_dict(result.get("models")), as_dict(result.get("agreement"))
    figures = []
    for file in dict.fromkeys(file for files in models.values() for file in as_dict(files)):
        found = {name: as_dict(as_dict(files).get(file)) for name, files in models.items()}
        people = as_dict(as_dict(agreement.get(file)).get("labelers"))
        longer, count = (
            next((x for m in found.values() if (x := number(m.get(key))) is not None), None)
            for key in ("length_baseline", "num_pairs")
        )
        rows = [
            *[
                (name_of(name), m.get("pair_accuracy"), "var(--green)", interval(m.get("ci95")))
                for name, m in found.items()
            ],
            ("Longer response", longer, "var(--gray)", None),
            ("Labelers agree", people.get("agreement"), "var(--sky)", interval(people.get("ci95"))),
        ]
        bars = [
            Bar(name, x, percent(x), color, ci) for name, value, color, ci in rows if (x := number(value)) is not None
        ]
        title, reference = clean(file).replace("_", " "), (0.5, f"50{NBSP}%: chance")
        note = f"{decimal(count, 0)} pairs." if count else ""
        if bars:
            figures.append(figure(title, bar_chart(bars, title, "share of pairs", reference=reference), note))
        figures += [
            _calibration(as_dict(m.get("calibration")), f"{name_of(name)}, {title}") for name, m in found.items()
        ]
    content = join(figures)
    return Markup('<div class="grid g2">{}</div>').format(content) if content else NOTHING


def _calibration(calibration: Mapping[str, Any], of: str = "") -> Markup:
    bins = []
    for entry in map(as_dict, as_list(calibration.get("bins"))):
        confidence, accuracy = number(entry.get("confidence")), number(entry.get("accuracy"))
        count = number(entry.get("count")) or 0.0
        if confidence is not None and accuracy is not None and count > 0:
            bins.append((confidence, accuracy, count))
    if not bins:
        return NOTHING
    ece, by_chance = number(calibration.get("ece")), number(calibration.get("ece_by_chance"))
    chance = f" ({percent(by_chance, 1)} by chance, were its confidence right)" if by_chance is not None else ""
    note = f"Expected calibration error {percent(ece, 1)}{chance}. " if ece is not None else ""
    return figure(
        f"Calibration: {of}" if of else "Calibration",
        calibration_chart(sorted(bins)),
        note + "Larger dots hold more pairs.",
    )


def _per_source(sources: Mapping[str, Any]) -> Markup:
    row = Markup('<tr><th scope="row">{}</th><td>{}<br><small>{}</small></td><td>{}</td></tr>\n')
    rows = [
        row.format(
            clean(name).replace("_", " "),
            percent(s.get("accuracy"), 1),
            percent_range(s.get("ci95"), 1),
            decimal(s.get("num_pairs"), 0),
        )
        for name, s in ((name, as_dict(s)) for name, s in sources.items())
    ]
    if not rows:
        return NOTHING
    return Markup(
        '<div class="table"><table><thead><tr><th scope="col">Source of the prompt</th>'
        '<th scope="col">Pair accuracy (95 % interval)</th><th scope="col">Held-out pairs</th></tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(join(rows))
