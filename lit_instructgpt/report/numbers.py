"""How numbers and text are written: what is not a finite number is a dash."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import SupportsFloat

DASH = "\u2013"
NBSP = "\u00a0"
MINUS = "\u2212"

FEW = 30
"""Prompts, or items, below which an interval is too narrow."""

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
