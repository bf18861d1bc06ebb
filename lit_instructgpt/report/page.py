"""The whole page. Nothing is fetched, no script runs.

What the report lacks is left out of the page; what was not measured (None, NaN) is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.lengths import length_charts
from lit_instructgpt.report.models import models_table
from lit_instructgpt.report.numbers import clean
from lit_instructgpt.report.parts import NOTHING, as_dict, join, of_policies
from lit_instructgpt.report.results import results_section, settings_list
from lit_instructgpt.report.reward_model import reward_model_charts
from lit_instructgpt.report.samples import sample_cards
from lit_instructgpt.report.scalars import read_scalars
from lit_instructgpt.report.style import STYLE
from lit_instructgpt.report.summary import hero
from lit_instructgpt.report.timing import time_chart
from lit_instructgpt.report.training import training_curves

Section = tuple[str, str, Markup]
"""Anchor, heading and content."""


def write_report(report: dict[str, Any], path: str | Path, runs: Mapping[str, str | Path] | None = None) -> None:
    """Write the report as one HTML file.

    Args:
        report: the numbers and samples of a run (what ``report.json`` holds); what else was measured is in its
            ``results``, by the name of its file.
        path: the HTML file.
        runs: the directory with the TensorBoard logs of each stage, for the training curves.
    """
    scalars = {name: read_scalars(run) for name, run in (runs or {}).items()}
    shown = [s for s in _sections(report, training_curves(scalars)) if s[2]]
    link, block = Markup('<a href="#{}">{}</a>'), Markup('<section id="{}"><h2>{}</h2>{}</section>')
    nav = Markup("<nav>{}</nav>").format(join(link.format(a, h) for a, h, _ in shown)) if shown else NOTHING
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
        hero(report),
        join((block.format(*s) for s in shown), "\n"),
        _footer(report),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def _sections(report: Mapping[str, Any], training: Markup = NOTHING) -> list[Section]:
    """Anchor, heading and content of all sections; every further result of ``evaluate`` is one of its own."""
    results = {name: as_dict(result) for name, result in as_dict(report.get("results")).items()}
    policies = {name: result for name, result in results.items() if of_policies(result)}
    others = {name: result for name, result in results.items() if not of_policies(result)}
    return [
        ("models", "Models", models_table(report)),
        ("reward-model", "Reward model", reward_model_charts(report)),
        *((f"policies-{i}", f"Policies: {clean(name)}", _block(p)) for i, (name, p) in enumerate(policies.items(), 1)),
        ("results", "Other results", results_section(others)),
        ("training", "Training", training),
        ("lengths", "Response lengths", length_charts(report)),
        ("samples", "Samples", sample_cards(report)),
        ("time", "Time", time_chart(report)),
    ]


def _block(report: Mapping[str, Any]) -> Markup:
    """A report within the page: nothing of it is put beside what was measured elsewhere."""
    block = Markup("<h3>{}</h3>{}")
    return join(
        [hero(report), *(block.format(h, content) for _, h, content in _sections(report) if content), _facts(report)]
    )


def _footer(report: Mapping[str, Any]) -> Markup:
    facts = _facts(report)
    return Markup("<footer>{}</footer>").format(facts) if facts else NOTHING


def _facts(report: Mapping[str, Any]) -> Markup:
    versions = " \u00b7 ".join(f"{clean(k)} {clean(v)}" for k, v in as_dict(report.get("versions")).items())
    facts = {"Seed": report.get("seed"), "Versions": versions, "Hardware": report.get("hardware")}
    rows = [Markup("<dt>{}</dt><dd>{}</dd>").format(k, clean(v)) for k, v in facts.items() if v not in (None, "")]
    if report.get("command"):
        rows.append(Markup("<dt>Command</dt><dd><code>{}</code></dd>").format(clean(report["command"])))
    facts_list = Markup("<dl>{}</dl>").format(join(rows)) if rows else NOTHING
    return join([facts_list, settings_list(report)])
