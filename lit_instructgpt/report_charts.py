"""The look of the report: numbers, palette, style sheet and charts.

A chart is one ``<svg>`` with a view box whose colors are CSS variables, so the same drawing serves light,
dark and print. ``<title>`` elements are the tooltips. Text is escaped by ``Markup.format``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import SupportsFloat

from markupsafe import Markup

DASH = "\u2013"
NBSP = "\u00a0"
MINUS = "\u2212"

# Okabe and Ito's palette, told apart under the common color vision deficiencies; lighter in dark mode.
COLORS = {
    "base": "var(--gray)",
    "sft": "var(--blue)",
    "rm": "var(--green)",
    "ppo": "var(--purple)",
    "ppo_ptx": "var(--orange)",
}
SPARE_COLORS = ("var(--sky)", "var(--yellow)", "var(--green)", "var(--purple)")

STYLE = """
:root{color-scheme:light dark;--bg:#f6f6f4;--card:#fff;--ink:#1b2230;--muted:#596273;--line:#dfe2e6;
--gray:#7d8592;--blue:#0072b2;--orange:#d55e00;--green:#009e73;--purple:#b0558a;--sky:#3f9fd8;--yellow:#b88a00;
--good:#00795a;--bad:#b34700}
@media screen and (prefers-color-scheme:dark){:root{--bg:#11151b;--card:#191f27;--ink:#e7eaef;--muted:#9da7b6;
--line:#2e3641;--gray:#949dab;--blue:#4aa6e0;--orange:#f0823c;--green:#2fbf96;--purple:#d98bb8;--sky:#7cc4ee;
--yellow:#e0b640;--good:#3fcaa2;--bad:#f59a5f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
main,footer{max-width:1160px;margin:0 auto;padding:0 20px}
h1{font-size:clamp(1.6rem,4vw,2.3rem);line-height:1.15;margin:2.2rem 0 .5rem;letter-spacing:-.015em}
h2{font-size:1.35rem;margin:2.6rem 0 .2rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.3rem 0 .5rem}
p{margin:.5rem 0 1rem;max-width:72ch}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.9rem;margin:.2rem 0 1.2rem}
nav a{color:var(--muted);text-decoration-color:var(--line);text-underline-offset:3px}
nav a:hover{color:var(--ink)}
.hero,.grid{display:grid;gap:16px}
.hero{grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));align-items:start;gap:16px 40px}
.hero p{margin-top:0}
.hero .lead{font-size:1.15rem;font-weight:600;line-height:1.45}
.g4{grid-template-columns:repeat(auto-fill,minmax(min(100%,255px),1fr))}
.g3{grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr))}
.g2{grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.stack{display:grid;gap:16px;align-content:start}
figure,.card,.table{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px}
figure{padding:12px 12px 8px;break-inside:avoid}
figcaption{font-weight:600;font-size:.92rem;line-height:1.35;margin-bottom:4px}
figcaption small,.note{font-weight:400;color:var(--muted)}
.note{font-size:.9rem}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif}
svg text{fill:var(--muted)}
svg .v{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}
svg .l{fill:var(--ink)}
svg .grid-line{stroke:var(--line);stroke-width:1}
svg .ref{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:4 3}
svg .whisker{stroke:var(--ink);stroke-width:1.6;fill:none}
.table{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.5rem .9rem;text-align:right;border-top:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:8rem}
thead th{border-top:0;font-size:.9rem}
tbody th{font-weight:400}
tbody th[title]{cursor:help}
th small,td small{color:var(--muted);font-weight:400}
td.best{font-weight:700}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.4em}
details{margin:.4rem 0 1rem}
summary{cursor:pointer;color:var(--muted);font-size:.92rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;font-size:.92rem;margin:.7rem 0}
dt{font-weight:600}
dd{margin:0;color:var(--muted);min-width:0;overflow-wrap:anywhere}
.card{padding:16px;margin:0 0 16px}
.prompt{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.98rem;margin:0 0 14px;padding:10px 14px;
background:var(--bg);border-radius:7px;max-height:16em;overflow:auto}
.chip{display:inline-block;font-size:.78rem;color:var(--muted);border:1px solid var(--line);
border-radius:99px;padding:0 .7em;margin-bottom:.5rem}
.answers{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr))}
.answer{border-top:3px solid;padding-top:8px;display:flex;flex-direction:column;min-width:0;
break-inside:avoid}
.who{display:flex;justify-content:space-between;gap:8px;font-size:.88rem;font-weight:600}
.who span{font-weight:400;color:var(--muted);font-variant-numeric:tabular-nums}
.who .top{color:var(--ink);font-weight:700}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.95rem;margin:.4rem 0 .7rem;max-height:18em;
overflow:auto;flex:1}
.badges{display:flex;flex-wrap:wrap;gap:4px 6px;font-size:.78rem}
.badges span{border:1px solid var(--line);border-radius:5px;padding:0 .5em;color:var(--muted)}
.badges .good{color:var(--good);border-color:currentColor}
.badges .bad{color:var(--bad);border-color:currentColor}
footer{margin-top:2.5rem;padding-top:1rem;padding-bottom:2.5rem;position:relative}
footer::before{content:"";position:absolute;left:20px;right:20px;top:0;border-top:1px solid var(--line)}
code{font:.88em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media (max-width:520px){main,footer{padding-left:14px;padding-right:14px}
th,td{padding:.45rem .5rem}table{font-size:.87rem}th:first-child,td:first-child{min-width:6.5rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{html{font-size:13px}body{background:#fff;font-size:13px;-webkit-print-color-adjust:exact;
print-color-adjust:exact}nav,summary{display:none}.prompt,.text{max-height:none;overflow:visible}
.card,.table{break-inside:avoid}h2,h3,.note{break-after:avoid}.hero,.g2{grid-template-columns:1fr 1fr}
.g4{grid-template-columns:repeat(4,1fr);gap:8px}.stack{gap:8px}.g4 figure{padding:8px}
.g3{grid-template-columns:repeat(3,1fr)}.answers{grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}}
"""

# --------------------------------------------------------------------------- numbers and text

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: object) -> str:
    """``str(text)`` with what neither HTML nor XML may hold (control characters, surrogates) replaced."""
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n").replace("\r", "\n"))


def number(value: object) -> float | None:
    """The value as a float; None for whatever is not a finite number."""
    if isinstance(value, str) or not isinstance(value, SupportsFloat):
        return None
    result = float(value)
    return result if math.isfinite(result) else None


def decimal(value: object, digits: int | None = None) -> str:
    """A number with about three significant digits (or ``digits`` decimals), thousands separated."""
    x = number(value)
    if x is None:
        return DASH
    if digits is None:
        digits = digits_for([x])
    text = f"{abs(x):,.{digits}f}"
    return MINUS + text if x < 0 and text.strip("0.,") else text


def digits_for(values: Sequence[float]) -> int:
    """Decimals that suit the largest of the values."""
    top = max((abs(v) for v in values), default=0.0)
    if top >= 100:
        return 0
    if top >= 10:
        return 1
    return 2 if top >= 0.1 or top == 0 else min(1 - math.floor(math.log10(top)), 8)


def percent(value: object, digits: int = 0) -> str:
    """A fraction in percent."""
    x = number(value)
    return DASH if x is None else f"{decimal(100 * x, digits)}{NBSP}%"


def percent_range(bounds: object, digits: int = 0) -> str:
    """A pair of fractions as one range in percent; empty when it is not a pair of numbers."""
    pair = interval(bounds)
    if pair is None:
        return ""
    return f"{decimal(100 * pair[0], digits)}{DASH}{decimal(100 * pair[1], digits)}{NBSP}%"


def interval(bounds: object) -> tuple[float, float] | None:
    """A confidence interval as two floats, or None."""
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        return None
    low, high = number(bounds[0]), number(bounds[1])
    return None if low is None or high is None else (low, high)


def duration(seconds: object) -> str:
    """Seconds as ``3.2 s``, ``5 min 0 s`` or ``2 h 5 min``."""
    x = number(seconds)
    if x is None:
        return DASH
    if x < 59.95:
        return f"{x:.1f}{NBSP}s"
    whole = round(x)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    minutes = round(x / 60)
    return f"{minutes // 60:,}{NBSP}h {minutes % 60}{NBSP}min"


# --------------------------------------------------------------------------- frame


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between ``low`` and ``high``."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_labels(values: Sequence[float], unit: str = "") -> list[str]:
    if unit == "%":
        return [percent(v) for v in values]
    steps = [b - a for a, b in pairwise(values)]
    digits = max(0, -math.floor(math.log10(steps[0]) + 1e-9)) if steps else digits_for(values)
    return [decimal(v, digits) for v in values]


@dataclass(frozen=True)
class Frame:
    """A plot area and its two linear scales."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 44
    right: float = 12
    top: float = 24
    bottom: float = 38
    about: int = 4

    def x(self, value: float) -> float:
        """Horizontal position of a value, kept inside the plot."""
        share = (value - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        return self.left + min(max(share, 0), 1) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical position of a value, kept inside the plot."""
        share = (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.height - self.bottom - min(max(share, 0), 1) * (self.height - self.top - self.bottom)

    def axes(
        self, x_label: str, y_label: str, x_unit: str = "", y_unit: str = "", rows: bool = True
    ) -> Markup:
        """Grid lines, tick labels and axis titles; without ``rows`` the y axis is left to the caller."""
        base = self.height - self.bottom
        x_ticks, y_ticks = ticks(*self.x_range, self.about), ticks(*self.y_range, self.about) if rows else []
        parts = []
        for value, label in zip(y_ticks, _tick_labels(y_ticks, y_unit), strict=True):
            parts.append(line(self.left, self.y(value), self.width - self.right, self.y(value), "grid-line"))
            parts.append(text(self.left - 6, self.y(value) + 4, label, anchor="end"))
        for value, label in zip(x_ticks, _tick_labels(x_ticks, x_unit), strict=True):
            x = self.x(value)
            parts.append(line(x, base if rows else self.top, x, base + 4, "grid-line"))
            parts.append(text(x, base + 17, label, anchor="middle"))
        parts.append(
            text((self.left + self.width - self.right) / 2, self.height - 5, x_label, anchor="middle")
        )
        parts.append(text(2, 12, y_label))
        return Markup("").join(parts)

    def svg(self, label: str, parts: Sequence[Markup]) -> Markup:
        """The finished drawing; ``label`` is what a screen reader says."""
        return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, clean(label), Markup("").join(parts)
        )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight SVG line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        css, x1, y1, x2, y2
    )


def text(x: float, y: float, content: str, css: str = "t", anchor: str = "start") -> Markup:
    """SVG text."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, clean(content)
    )


def _rect(x: float, y: float, width: float, height: float, color: str, tip: str) -> Markup:
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" style="fill:{}">'
        "<title>{}</title></rect>"
    ).format(x, y, max(width, 0), max(height, 0), color, clean(tip))


# --------------------------------------------------------------------------- charts


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
        parts.append(_rect(x, y, max(end - x, 1), row - 12, bar.color, f"{bar.label}: {bar.shown}{ci}"))
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


def _path(frame: Frame, points: Sequence[tuple[float, float]], color: str, style: str) -> Markup:
    d = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    return Markup('<path d="{}" style="fill:none;stroke:{};{}"/>').format(d, color, style)


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
            parts.append(_path(frame, curve.points, curve.color, "stroke-width:1;opacity:.3"))
        style = "stroke-width:1.5;stroke-dasharray:4 3" if curve.marks else "stroke-width:2"
        parts.append(_path(frame, curve.smooth, curve.color, style))
        if curve.marks or len(curve.points) == 1:
            parts += [_dot(frame, x, y, 2.5, curve.color, f"{curve.label}, step {x:,.0f}: {decimal(y)}")
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


def _dot(frame: Frame, x: float, y: float, radius: float, color: str, tip: str) -> Markup:
    return Markup(
        '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" style="fill:{}"><title>{}</title></circle>'
    ).format(frame.x(x), frame.y(y), radius, color, clean(tip))


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
        _path(frame, [(c, a) for c, a, _ in bins], color, "stroke-width:1.5"),
    ]
    for confidence, accuracy, count in bins:
        tip = f"confidence {percent(confidence)}, accuracy {percent(accuracy)}, {decimal(count, 0)} pairs"
        parts.append(_dot(frame, confidence, accuracy, 3 + 6 * math.sqrt(max(count, 0) / most), color, tip))
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
        parts.append(_rect(x, y, frame.x(high) - x - 1, frame.y(0) - y, color, tip))
    if mean is not None:
        x = frame.x(mean)
        right_half = x > frame.width / 2
        parts.append(line(x, frame.top - 2, x, frame.y(0), "ref"))
        label = f"mean {decimal(mean, 1)}"
        parts.append(
            text(x + (-6 if right_half else 6), frame.top + 8, label, "v", "end" if right_half else "start")
        )
    return frame.svg(f"Response lengths of {name}", parts)
