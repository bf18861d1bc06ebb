"""SVG primitives: a plot area with its scales and axes, and the shapes in it.

A chart is one ``<svg>`` with a view box whose colors are CSS variables, so the same drawing serves light,
dark and print. ``<title>`` elements are the tooltips. Text is escaped by ``Markup.format``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from lit_instructgpt.report.numbers import clean, decimal, digits_for, percent


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

    def axes(self, x_label: str, y_label: str, x_unit: str = "", y_unit: str = "", rows: bool = True) -> Markup:
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
        parts.append(text((self.left + self.width - self.right) / 2, self.height - 5, x_label, anchor="middle"))
        parts.append(text(2, 12, y_label))
        return Markup("").join(parts)

    def svg(self, label: str, parts: Sequence[Markup]) -> Markup:
        """The finished drawing; ``label`` is what a screen reader says."""
        return Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
            self.width, self.height, clean(label), Markup("").join(parts)
        )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    """A straight SVG line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(css, x1, y1, x2, y2)


def text(x: float, y: float, content: str, css: str = "t", anchor: str = "start") -> Markup:
    """SVG text."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, clean(content)
    )


def rect(x: float, y: float, width: float, height: float, color: str, tip: str) -> Markup:
    """A filled SVG rectangle with a tooltip."""
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2" style="fill:{}"><title>{}</title></rect>'
    ).format(x, y, max(width, 0), max(height, 0), color, clean(tip))


def path(frame: Frame, points: Sequence[tuple[float, float]], color: str, style: str) -> Markup:
    """An SVG line through points."""
    d = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
    return Markup('<path d="{}" style="fill:none;stroke:{};{}"/>').format(d, color, style)


def dot(frame: Frame, x: float, y: float, radius: float, color: str, tip: str) -> Markup:
    """An SVG dot with a tooltip."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" style="fill:{}"><title>{}</title></circle>').format(
        frame.x(x), frame.y(y), radius, color, clean(tip)
    )
