"""What the project set out to reach in speed and memory, beside what was measured."""

from __future__ import annotations

from typing import Any

Results = dict[str, Any]

FIGURES = {
    "ratio_to_peer": "speed to TRL",
    "ratio_to_peer_same_allocator": "to TRL, same allocator",
    "ratio_to_floor": "to the loop",
    "memory_ratio_to_peer": "peak memory to TRL",
    "memory_ratio_to_floor": "to the loop's",
}
"""Of a case of throughput.py; those of memory are to be at most the bound, the others at least."""

BOUNDS = {
    "sft/smollm2-135m/float32/natural": (1.7, 1.5, 0.95, 0.85, 1.05),
    "sft/smollm2-135m/bf16-autocast/natural": (2.3, 1.7, 0.95, 0.85, 1.05),
    "sft/tiny-llama/float32/natural": (2.3, 1.5, 0.9, 0.85, 1.05),
    "sft/tiny-llama/bf16-autocast/natural": (3.0, 1.7, 0.9, 0.85, 1.05),
    "rm-k4/smollm2-135m/float32/natural": (6.0, 6.0, 0.95, 0.5, 1.05),
    "rm-k9/smollm2-135m/float32/long-prompt": (25.0, 25.0, 0.95, 0.85, 1.05),
    "ppo/smollm2-135m/float32/natural": (1.5, 1.5, 1.25, 0.85, 1.05),
    "ppo/smollm2-135m/bf16-autocast/natural": (2.0, 2.0, 1.25, 0.85, 1.05),
}
RECOMMENDED = {"ppo/smollm2-135m/float32/natural": 2.5}
"""Speed of the recommended settings, to TRL in float32."""
SECONDS = {"help": ("`lit-instructgpt --help`", 4.0), "first_step": ("to the first step of the tiny Llama", 12.0)}
GROWTH = 1.15
"""Most time for a token (episode, for ppo) at any size, to that of the smallest; attention's own growth taken out."""


def cell(measured: float | None, bound: float, at_most: bool) -> str:
    """A measured value with its bound."""
    aim = f"({'<=' if at_most else '>='} {bound:g})"
    if measured is None:
        return f"not measured {aim}"
    met = measured <= bound if at_most else measured >= bound
    return f"{measured:.2f} {aim}" if met else f"**{measured:.3f}, short of {aim[1:-1]}**"


def table(throughput: Results, startup: Results | None, growth: Results | None) -> str:
    """All targets with their measured values, as Markdown."""
    rows = {row["name"]: row for row in throughput["rows"]}
    lines = [f"| case | {' | '.join(FIGURES.values())} |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, bounds in BOUNDS.items():
        row = rows.get(name, {})
        cells = [
            cell(row.get(key), bound, key.startswith("memory")) for key, bound in zip(FIGURES, bounds, strict=True)
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
        if name in RECOMMENDED:
            first = cell(row.get("recommended_to_peer"), RECOMMENDED[name], False)
            lines.append(f"| {' | '.join([f'{name}, recommended settings', first, *['-'] * (len(FIGURES) - 1)])} |")
    lines += ["", "| what | measured (target) |", "|---|---|"]
    for key, (what, bound) in SECONDS.items():
        lines.append(f"| {what}, seconds | {cell(startup and startup['seconds'][key], bound, True)} |")
    for stage in ("sft", "rm", "ppo"):
        found = [row for row in (growth or {"rows": []})["rows"] if row["stage"] == stage]
        worst = max(found[0]["relative_without_attention"].values()) if found else None
        lines.append(f"| growth of {stage}: most time for each, to the smallest size | {cell(worst, GROWTH, True)} |")
    return "\n".join(lines)
