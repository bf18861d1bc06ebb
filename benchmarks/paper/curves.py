"""Gold and proxy score over sqrt(KL), for docs: Gao et al. (2022), figure 1, in miniature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.paper.claims import best_of_n_curve, overoptimization_curve
from benchmarks.paper.stages import GOLD_RM_PROMPTS

COLORS = ("#c44536", "#2a7f9e", "#3a7d44")
WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 230, 46, 30, 40
WAYS: dict[str, Callable[[Any, int], dict[str, np.ndarray]]] = {
    "PPO": overoptimization_curve, "best of n": best_of_n_curve
}  # fmt: skip


def mean_curve(seeds: Sequence[Mapping[str, Any]], way: str, size: int) -> dict[str, np.ndarray]:
    """sqrt(KL), gold and proxy gain at each step or n, means over the seeds, with the start in front."""
    curves = [WAYS[way](row, size) for row in seeds]
    length = min(len(curve["d"]) for curve in curves)
    return {
        key: np.array([0.0, *np.mean([curve[key][:length] for curve in curves], axis=0)])
        for key in ("d", "gold", "proxy")
    }


def overoptimization_svg(report: Mapping[str, Any]) -> str:
    """Two panels; a colour for each size of the reward model's data, gold in full lines, proxy in dashes."""
    seeds = report["measures"]
    parts = []
    for i, way in enumerate(WAYS):
        found = {size: mean_curve(seeds, way, size) for size in GOLD_RM_PROMPTS}
        parts += _panel(LEFT + i * (WIDTH + GAP + LEFT), way, found)
    width, height = 2 * (LEFT + WIDTH + GAP), TOP + HEIGHT + 76
    for i, size in enumerate(GOLD_RM_PROMPTS):
        parts.append(_text(LEFT + i * 150, height - 10, f"{size} ranked prompts", fill=COLORS[i]))
    parts.append(_text(LEFT + 3 * 150, height - 10, "full line: gold; dashes: proxy (the reward model)"))
    style = 'font-family="sans-serif" font-size="12"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>", "",
    ])  # fmt: skip


def _panel(left: float, title: str, curves: Mapping[int, Mapping[str, np.ndarray]]) -> list[str]:
    values = np.concatenate([curve[key] for curve in curves.values() for key in ("gold", "proxy")])
    low, high = float(values.min()), float(values.max())
    most = max(float(curve["d"].max()) for curve in curves.values())

    def place(x: float, y: float) -> tuple[float, float]:
        return left + WIDTH * x / most, TOP + HEIGHT * (high - y) / (high - low)

    zero = place(0, 0)[1]
    parts = [
        _text(left, TOP - 12, f"{title}: gain over its start"),
        f'<path d="M{left} {TOP}V{TOP + HEIGHT}H{left + WIDTH}" fill="none" stroke="#444444"/>',
        f'<path d="M{left} {zero:.1f}h{WIDTH}" stroke="#bbbbbb"/>',
        _text(left + WIDTH / 2, TOP + HEIGHT + 34, "sqrt(KL), nats", anchor="middle"),
    ]
    parts += [
        _text(left - 6, place(0, y)[1] + 4, f"{y:.1f}", anchor="end")
        for y in (low, 0, high)
        if y in (low, high) or low < 0
    ]
    parts += [_text(place(x, low)[0], TOP + HEIGHT + 16, f"{x:.1f}", anchor="middle") for x in (0, most / 2, most)]
    for color, curve in zip(COLORS, curves.values(), strict=True):
        for key, dashes in (("gold", ""), ("proxy", ' stroke-dasharray="5 4"')):
            points = " ".join(
                f"{x:.1f},{y:.1f}" for x, y in (place(*xy) for xy in zip(curve["d"], curve[key], strict=True))
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"{dashes}/>')
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{text}</text>'
