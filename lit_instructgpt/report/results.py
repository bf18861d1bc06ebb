"""Results of any evaluation command as tables: one row per figure, one column per model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart
from lit_instructgpt.report.numbers import DASH, FEW, clean, decimal, interval, number
from lit_instructgpt.report.parts import NOTHING, as_dict, color_of, figure, join, name_of
from lit_instructgpt.report.reward_model import rankings_charts

COLUMNS = ("models", "systems")
"""Keys whose entries are compared: each is a column."""

APART = ("kind", "versions", "files", "directories", "settings", "seed", "samples", "matrix", *COLUMNS)
"""Keys that are no figures of the file as a whole."""


COUNTS = ("n", "sample_len")
"""How many items a figure is of: shown beside its interval."""

LM_EVAL = "lm_eval"
"""Kind of what ``lm_eval`` writes: figures by task, of one model."""

REWARD_MODELS = "reward_models"
"""Kind of what ``evaluate_rm`` writes."""

STDERR = "_stderr"
"""Ends lm-evaluation-harness' name of a metric's standard error."""


class Value(NamedTuple):
    """A figure with its 95 % interval and its number of items, if it has them."""

    value: float
    ci95: tuple[float, float] | None
    n: int | None = None


def figures(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Value]]:
    """All figures below a mapping, with the keys that lead to each.

    An interval `ci95` belongs to the first number beside it, `ci95_NAME` to NAME; a number called `mean` goes by the
    keys above it.
    """
    intervals = {key: interval(value) for key, value in content.items() if key.startswith("ci95")}
    count = content.get("n", content.get("num_prompts"))
    n = count if isinstance(count, int) else None
    first = True
    for key, value in content.items():
        x = number(value)
        if x is not None and not isinstance(value, bool):
            own = intervals.get(f"ci95_{key}") or (intervals.get("ci95") if first else None)
            first = False
            if key in COUNTS:
                continue
            yield (path if key == "mean" and path else (*path, key)), Value(x, own, None if own is None else n)
        elif isinstance(value, Mapping):
            yield from figures(as_dict(value), (*path, key))


def harness_figures(report: Mapping[str, Any]) -> dict[str, dict[tuple[str, ...], Value]]:
    """The figures of a report of lm-evaluation-harness by task and metric, and their standard errors, if it gives any.

    Its keys are ``METRIC,FILTER`` and ``METRIC_stderr,FILTER``; an interval reaches 1.96 standard errors to either side.
    """
    found: dict[tuple[str, ...], Value] = {}
    errors: dict[tuple[str, ...], Value] = {}
    for task, content in as_dict(report.get("results")).items():
        metrics = as_dict(content)
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            x, error = number(value), number(metrics.get(f"{metric}{STDERR}{comma}{filtered}"))
            if x is None or metric in COUNTS or metric.endswith(STDERR):
                continue
            row = (task, metric) if filtered in ("", "none") else (task, metric, filtered)
            found[row] = Value(x, None if error is None else (x - 1.96 * error, x + 1.96 * error))
            if error is not None:
                errors[row] = Value(error, None)
    return {str(report.get("model")): found} | ({"standard error": errors} if errors else {})


def results_section(results: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Every result file in turn: its figures by model, then those of the file as a whole.

    Files of ``lm_eval`` whose models did the same in the same way are one: their models stand side by side.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, result in results.items():
        content = as_dict(result)
        key = json.dumps(same_tasks(content), sort_keys=True) if content.get("kind") == LM_EVAL else name
        models = [other.get("model") for other in groups.get(key, {}).values()]
        if content.get("model") in models:  # two of one model would be one column
            key = name
        groups.setdefault(key, {})[name] = content
    return join(_result(", ".join(files), list(files.values())) for files in groups.values())


def same_tasks(result: Mapping[str, Any]) -> list[Any]:
    """What files of ``lm_eval`` must have in common for their figures to stand in a row."""
    limit = as_dict(result.get("config")).get("limit")
    return [
        *(result.get(key) for key in ("versions", "n-shot", "n-samples")),
        limit,
        bool(result.get("apply_chat_template")),
    ]


def _result(name: str, found: Sequence[Mapping[str, Any]]) -> Markup:
    result = found[0]
    content = _harness(found) if result.get("kind") == LM_EVAL else _evaluation(result)
    kind = clean(result.get("kind") or "results").replace("_", " ")
    heading = Markup("<h3>{} <small>{}</small></h3>").format(clean(name), kind)
    return heading + content if content else NOTHING


def _harness(found: Sequence[Mapping[str, Any]]) -> Markup:
    columns: dict[str, Mapping[tuple[str, ...], Value]] = {}
    for result in found:
        (model, *errors) = harness_figures(result).items()
        alone = len(found) == 1
        columns |= dict([model, *errors]) if alone else {model[0]: model[1]}
    table = _table(columns)
    note = Markup('<p class="note">Intervals: 1.96 standard errors of lm-evaluation-harness to either side.</p>')
    return table + note if table else NOTHING


def _evaluation(result: Mapping[str, Any]) -> Markup:
    columns = {
        column: dict(figures(as_dict(content)))
        for key in COLUMNS
        for column, content in as_dict(result.get(key)).items()
    }
    whole = dict(figures({key: value for key, value in result.items() if key not in APART}))
    charts = rankings_charts(result) if result.get("kind") == REWARD_MODELS else _charts(columns)
    met = _matrix(as_dict(result.get("matrix")))
    return join([_table(columns), charts, met, _table({"all": whole}), settings_list(result)])


def _matrix(matrix: Mapping[str, Any]) -> Markup:
    """How often people preferred the row's system to the column's."""
    columns: dict[str, dict[tuple[str, ...], Value]] = {}
    for column in matrix:
        met = {name: as_dict(as_dict(row).get(column)) for name, row in matrix.items()}
        columns[column] = {
            (name,): Value(x, interval(m.get("ci95")), m.get("num_prompts"))
            for name, m in met.items()
            if (x := number(m.get("win_rate"))) is not None
        }
    return _table(columns, "Preferred to (95 % interval)")


def settings_list(result: Mapping[str, Any]) -> Markup:
    """What a result was asked for: models, files and settings, as they were given."""
    paths = {
        f"{key}: {name}": as_dict(entry).get("path")
        for key in ("directories", "files")
        for name, entry in as_dict(result.get(key)).items()
    }
    given = {
        name: value for name, value in {**paths, **_flat(as_dict(result.get("settings")))}.items() if value is not None
    }
    if not given:
        return NOTHING
    rows = join(Markup("<dt>{}</dt><dd>{}</dd>").format(clean(name), clean(value)) for name, value in given.items())
    return Markup("<details><summary>Models, files and settings</summary><dl>{}</dl></details>").format(rows)


def _flat(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{above}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            found |= _flat(as_dict(value), f"{name}: ")
        else:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return found


def _table(columns: Mapping[str, Mapping[tuple[str, ...], Value]], corner: str = "Figure (95 % interval)") -> Markup:
    rows = dict.fromkeys(key for found in columns.values() for key in found)
    if not rows:
        return NOTHING
    head = join(Markup('<th scope="col">{}</th>').format(name_of(column)) for column in columns)
    body = []
    for key in rows:
        cells = join(Markup("<td>{}</td>").format(_cell(found.get(key))) for found in columns.values())
        body.append(Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(_label(key), cells))
    fewest = min((one.n for found in columns.values() for one in found.values() if one.n is not None), default=FEW)
    few = Markup('<p class="note">Intervals of fewer than {} items are too narrow; here are some of {}.</p>')
    return Markup(
        '<div class="table"><table><thead><tr><th scope="col">{}</th>{}</tr></thead><tbody>{}</tbody></table></div>{}'
    ).format(corner, head, join(body), few.format(FEW, fewest) if fewest < FEW else NOTHING)


def _cell(found: Value | None) -> Markup:
    if found is None:
        return Markup(DASH)
    shown = decimal(found.value, 0) if found.value == round(found.value) else decimal(found.value, 3)
    small = []
    if found.ci95 is not None:
        small.append(" to ".join(decimal(bound, 3) for bound in found.ci95))
    if found.n is not None:
        small.append(f"n = {found.n:,}")
    return Markup("{}<br><small>{}</small>").format(shown, ", ".join(small)) if small else Markup("{}").format(shown)


def _label(key: tuple[str, ...]) -> str:
    return ": ".join(clean(part).replace("_", " ") for part in key)


def _charts(columns: Mapping[str, Mapping[tuple[str, ...], Value]]) -> Markup:
    """Bars of the first share with an interval below each first key, for two models or more; a share is one of all models."""
    shown: dict[str, tuple[str, ...]] = {}
    for key in dict.fromkeys(key for found in columns.values() for key in found):
        values = [found[key] for found in columns.values() if key in found]
        ends = [end for value in values for end in (value.value, *(value.ci95 or ()))]
        if any(value.ci95 for value in values) and 0 <= min(ends) <= max(ends) <= 1:
            shown.setdefault(key[0], key)
    if len(columns) < 2:
        return NOTHING
    charts = []
    for key in shown.values():
        bars = [
            Bar(name_of(column), found[key].value, decimal(found[key].value, 3), color_of(column, [*columns]),
                found[key].ci95)
            for column, found in columns.items() if key in found
        ]  # fmt: skip
        charts.append(figure(_label(key), bar_chart(bars, _label(key), "", unit="", width=320)))
    return Markup('<div class="grid g3">{}</div>').format(join(charts)) if charts else NOTHING
