"""The training curves."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from lit_instructgpt.report.charts import Line, line_chart, thin
from lit_instructgpt.report.parts import NOTHING, color_of, figure, join, name_of
from lit_instructgpt.report.scalars import Scalars

CURVES_NOTE = "Faint: as logged. Bold: moving mean. Dashed with dots: on held-out data."

# (title, y axis, unit, training tag, validation tag)
Panel = tuple[str, str, str, str, str]
SUPERVISED: list[Panel] = [
    ("loss", "loss (nats)", "", "train/loss", "val/loss"),
    ("pair accuracy", "accuracy", "%", "train/pair_accuracy", "val/pair_accuracy"),
]
REINFORCED: list[list[Panel]] = [
    [
        ("Reward model score", "score", "", "objective/score", "val/objective/score"),
        ("KL from the initial policy", "KL (nats)", "", "objective/kl", "val/objective/kl"),
    ],
    [
        ("Response length", "tokens", "", "response/length", "val/response/length"),
        ("Entropy of the policy", "nats per response", "", "objective/entropy", "val/objective/entropy"),
    ],
    [
        ("Policy loss", "loss", "", "loss/policy", ""),
        ("Value loss", "loss", "", "loss/value", ""),
    ],
    [
        ("Pretraining loss (ptx)", "nats per token", "", "loss/ptx", ""),
        ("Clipped updates", "share of tokens", "%", "policy/clipfrac", ""),
    ],
]


def training_curves(scalars: Mapping[str, Scalars]) -> Markup:
    """The training curves of all stages."""
    supervised = join(
        _curves((f"{name_of(run)}: {panel[0]}", *panel[1:]), {run: curves}, None)
        for run, curves in scalars.items()
        for panel in SUPERVISED
        if not any(tag.startswith("objective/") for tag in curves)
    )
    reinforced = {run: c for run, c in scalars.items() if any(tag.startswith("objective/") for tag in c)}
    tags = {tag for column in REINFORCED for panel in column for tag in panel[3:]}
    steps = [s for c in reinforced.values() for tag in tags for s, _ in c.get(tag, [])]
    x_range = (float(min(steps)), float(max(steps))) if steps else None
    columns = [join(_curves(panel, reinforced, x_range) for panel in column) for column in REINFORCED]
    stacks = join(Markup('<div class="stack">{}</div>').format(c) for c in columns if c)
    if not supervised and not stacks:
        return NOTHING
    grid, heading = Markup('<div class="grid g4">{}</div>'), Markup("<h3>{}</h3>")
    names = " and ".join(name_of(run) for run in reinforced)
    return join([
        Markup('<p class="note">{}</p>').format(CURVES_NOTE),
        heading.format("Supervised stages") + grid.format(supervised) if supervised else NOTHING,
        heading.format(f"Reinforcement learning: {names}") + grid.format(stacks) if stacks else NOTHING,
    ])  # fmt: skip


def _curves(panel: Panel, runs: Mapping[str, Scalars], x_range: tuple[float, float] | None) -> Markup:
    title, axis, unit, train, val = panel
    lines = []
    for run, curves in runs.items():
        color = color_of(run, [*runs])
        lines.append(Line(name_of(run) if len(runs) > 1 else "train", thin(curves.get(train, [])), color))
        held_out = thin(curves.get(val, []), 60)
        lines.append(Line("" if len(runs) > 1 else "val", held_out, color if len(runs) > 1 else "var(--ink)", True))
    if not any(curve.points for curve in lines):
        return NOTHING
    return figure(title, line_chart(lines, title, axis, unit, x_range))
