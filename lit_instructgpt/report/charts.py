"""The charts of the report: bars, curves, calibration and histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup

from lit_instructgpt.report.numbers import DASH, NBSP, clean, decimal, percent, percent_range
from lit_instructgpt.report.style import COLORS
from lit_instructgpt.report.svg import Frame, dot, line, path, rect, text


@dataclass(frozen=True)
class Bar:
    """One horizontal bar from ``start`` to ``start + value``, labelled ``shown``."""

    label: str
    value: float
    shown: str
    color: str
    ci95: tuple[float, float] | None = None
    start: float = 0.0


def bar_chart(
    bars: Sequence[Bar],
    name: str,
    axis: str,
    limit: float = 1.0,
    unit: str = "%",
    reference: tuple[float, str] | None = None,
    width: float = 420,
) -> Markup:
    """Horizontal bars with direct labels, 95 % whiskers and, if given, a dashed reference line."""
    row, top = 34, 22 if reference else 6
    left = min(max(len(b.label) for b in bars) * 7.3 + 12, width * 0.4)
    room = max(len(b.shown) for b in bars) * 6.4 + 10
    frame = Frame(width, top + row * len(bars) + 38, (0, limit), (0, 1), left, room, top)
    parts = [frame.axes(axis, "", x_unit=unit, rows=False)]
    marks = []
    for i, bar in enumerate(bars):
        y = top + i * row + 6
        x, end = frame.x(bar.start), frame.x(bar.start + bar.value)
        ci = f" (95{NBSP}% CI {percent_range(bar.ci95, 1)})" if bar.ci95 and unit == "%" else ""
        parts.append(text(left - 8, y + 15, bar.label, "l", "end"))
        parts.append(rect(x, y, max(end - x, 1), row - 12, bar.color, f"{bar.label}: {bar.shown}{ci}"))
        if bar.ci95:
            low, high = frame.x(bar.ci95[0]), frame.x(bar.ci95[1])
            path = f"M{low:.1f} {y + 6}v10M{low:.1f} {y + 11}H{high:.1f}M{high:.1f} {y + 6}v10"
            marks.append(Markup('<path class="whisker" d="{}"/>').format(path))
            end = max(end, high)
        marks.append(text(end + 6, y + 15, bar.shown, "v"))
    if reference:
        x = frame.x(reference[0])
        parts.append(line(x, top - 4, x, frame.height - frame.bottom, "ref"))
        parts.append(text(x, top - 9, reference[1], anchor="middle"))
    return frame.svg(f"{name}. " + "; ".join(f"{b.label} {b.shown}" for b in bars), parts + marks)


@dataclass(frozen=True)
class Line:
    """One curve; ``marks`` draws a dot at each point and does not smooth."""

    label: str
    points: Sequence[tuple[float, float]]
    color: str
    marks: bool = False
    smooth: list[tuple[float, float]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "smooth", list(self.points) if self.marks else _smooth(self.points))


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A centered moving mean over a twentieth of the curve."""
    half = len(points) // 40
    total = [0.0]
    for _, y in points:
        total.append(total[-1] + y)
    result = []
    for i, (x, _) in enumerate(points):
        first, end = max(i - half, 0), min(i + half + 1, len(points))
        result.append((x, (total[end] - total[first]) / (end - first)))
    return result


def thin(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """The finite points, averaged in runs so that at most ``most`` are left."""
    kept = [p for p in points if math.isfinite(p[1])]
    size = -(-len(kept) // most) or 1
    runs = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or max(abs(high) * 0.1, 0.5)
    return low - pad, high + pad


def _y_range(lines: Sequence[Line], unit: str) -> tuple[float, float]:
    """All of the smooth curves and nearly all of the raw ones: a lone spike does not flatten the rest."""
    values = [y for curve in lines for _, y in curve.smooth]
    for curve in lines:
        raw = sorted(y for _, y in curve.points)
        values += [raw[len(raw) // 50], raw[-1 - len(raw) // 50]]
    low, high = _padded(values)
    if unit == "%":
        low, high = max(low, 0.0), min(high, 1.0)
    return (max(low, 0.0) if min(values) >= 0 else low), high


def line_chart(
    lines: Sequence[Line], name: str, axis: str, unit: str = "", x_range: tuple[float, float] | None = None
) -> Markup:
    """Curves over training steps, labelled at their right ends."""
    lines = [c for c in lines if c.points]
    steps = [x for curve in lines for x, _ in curve.points]
    low, high = x_range or (min(steps), max(steps))
    right = max(len(c.label) for c in lines) * 6.4 + 14
    y_range = _y_range(lines, unit)
    frame = Frame(300, 196, (low, high if high > low else low + 1), y_range, right=right, left=48)
    parts = [frame.axes("training step", axis, y_unit=unit)]
    ends = []
    for curve in lines:
        if not curve.marks and curve.smooth != list(curve.points):
            parts.append(path(frame, curve.points, curve.color, "stroke-width:1;opacity:.3"))
        style = "stroke-width:1.5;stroke-dasharray:4 3" if curve.marks else "stroke-width:2"
        parts.append(path(frame, curve.smooth, curve.color, style))
        if curve.marks or len(curve.points) == 1:
            parts += [dot(frame, x, y, 2.5, curve.color, f"{curve.label}, step {x:,.0f}: {decimal(y)}")
                      for x, y in curve.points]  # fmt: skip
        ends.append((frame.y(curve.smooth[-1][1]), frame.x(curve.smooth[-1][0]), curve))
    return frame.svg(f"{name}: {axis} over training steps", parts + _end_labels(frame, ends))


def _end_labels(frame: Frame, ends: list[tuple[float, float, Line]]) -> list[Markup]:
    ends = sorted(ends, key=lambda e: e[0])
    heights = [e[0] for e in ends]
    for i in range(1, len(ends)):
        heights[i] = max(heights[i], heights[i - 1] + 14)
    spill = max(0.0, heights[-1] - (frame.height - frame.bottom)) if heights else 0.0
    for i in reversed(range(len(ends))):
        limit = heights[i + 1] - 14 if i + 1 < len(ends) else heights[i] - spill
        heights[i] = min(heights[i], limit)
    return [
        Markup('<text x="{:.1f}" y="{:.1f}" style="fill:{};font-weight:600">{}</text>').format(
            frame.width - frame.right + 6, y + 4, curve.color, clean(curve.label)
        )
        for y, (_, _, curve) in zip(heights, ends, strict=True)
    ]


def calibration_chart(bins: Sequence[tuple[float, float, float]]) -> Markup:
    """Accuracy against confidence with the diagonal; bins are (confidence, accuracy, pairs)."""
    low = min([0.5, *(min(c, a) for c, a, _ in bins)])
    low = math.floor(low * 10) / 10
    frame = Frame(420, 250, (low, 1.0), (low, 1.0), left=50, right=24, about=5)
    most = max(n for *_, n in bins) or 1
    color = COLORS["rm"]
    middle = low + 0.8 * (1 - low)
    parts = [
        frame.axes("confidence of the reward model", "pairs ranked as the labelers did", "%", "%"),
        line(frame.x(low), frame.y(low), frame.x(1), frame.y(1), "ref"),
        text(frame.x(middle) - 8, frame.y(middle) - 8, "perfectly calibrated", anchor="end"),
        path(frame, [(c, a) for c, a, _ in bins], color, "stroke-width:1.5"),
    ]
    for confidence, accuracy, count in bins:
        tip = f"confidence {percent(confidence)}, accuracy {percent(accuracy)}, {decimal(count, 0)} pairs"
        parts.append(dot(frame, confidence, accuracy, 3 + 6 * math.sqrt(max(count, 0) / most), color, tip))
    return frame.svg("Calibration of the reward model", parts)


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    color: str,
    name: str,
    limits: tuple[float, float, float],
    mean: float | None = None,
) -> Markup:
    """Share of responses per bin; ``limits`` are the shared x range and largest share."""
    total = sum(counts) or 1.0
    frame = Frame(300, 170, limits[:2], (0, limits[2] * 1.2), left=48)
    parts = [frame.axes("response length (tokens)", "share of responses", y_unit="%")]
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        x, y = frame.x(low), frame.y(count / total)
        tip = f"{low:g}{DASH}{high:g} tokens: {decimal(count, 0)} responses"
        parts.append(rect(x, y, frame.x(high) - x - 1, frame.y(0) - y, color, tip))
    if mean is not None:
        x = frame.x(mean)
        right_half = x > frame.width / 2
        parts.append(line(x, frame.top - 2, x, frame.y(0), "ref"))
        label = f"mean {decimal(mean, 1)}"
        parts.append(text(x + (-6 if right_half else 6), frame.top + 8, label, "v", "end" if right_half else "start"))
    return frame.svg(f"Response lengths of {name}", parts)
