"""How long the responses are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart, histogram
from lit_instructgpt.report.numbers import decimal, number
from lit_instructgpt.report.parts import NOTHING, all_models, as_dict, as_list, color_of, figure, join, name_of


def length_charts(report: Mapping[str, Any]) -> Markup:
    """A histogram of response lengths per model, or the mean lengths."""
    models = all_models(report)
    bins: dict[str, tuple[list[float], list[float]]] = {}
    for model, m in models.items():
        shape = as_dict(m.get("length_histogram"))
        edges, counts = ([number(x) for x in as_list(shape.get(k))] for k in ("edges", "counts"))
        kept = [x for x in edges if x is not None], [x for x in counts if x is not None]
        if len(kept[0]) == len(edges) == len(counts) + 1 == len(kept[1]) + 1 and sum(kept[1]) > 0:
            bins[model] = kept
    if not bins:
        return _mean_lengths(models)
    full = [(e[i], e[i + 1], n / sum(c)) for e, c in bins.values() for i, n in enumerate(c) if n]
    limits = (min(f[0] for f in full), max(f[1] for f in full), max(f[2] for f in full))
    figures = [
        figure(
            name_of(m),
            histogram(e, c, color_of(m, [*models]), name_of(m), limits, number(models[m].get("response_tokens"))),
        )
        for m, (e, c) in bins.items()
    ]
    return Markup('<div class="grid g3">{}</div>').format(join(figures))


def _mean_lengths(models: Mapping[str, Mapping[str, Any]]) -> Markup:
    bars = []
    for model, m in models.items():
        mean = number(m.get("response_tokens"))
        if mean is not None:
            bars.append(Bar(name_of(model), mean, decimal(mean, 1), color_of(model, [*models])))
    if not bars:
        return NOTHING
    chart = bar_chart(bars, "Response length", "tokens", max(max(b.value for b in bars), 1.0), "")
    return Markup('<div class="grid g2">{}</div>').format(figure("Mean response length", chart))
