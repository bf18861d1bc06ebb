"""Reads TensorBoard logs."""

from __future__ import annotations

from pathlib import Path

Scalars = dict[str, list[tuple[int, float]]]


def read_scalars(run_dir: str | Path) -> Scalars:
    """All scalars in the TensorBoard event files below a directory, as tag -> [(step, value)] by step.

    Where files overlap, as after resuming, the value written last counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    latest: dict[str, dict[int, tuple[float, float]]] = {}
    for file in sorted(Path(run_dir).rglob("*tfevents*")):
        events = EventAccumulator(str(file), size_guidance={SCALARS: 0})
        events.Reload()
        for tag in events.Tags()[SCALARS]:
            curve = latest.setdefault(tag, {})
            for event in events.Scalars(tag):
                if event.step not in curve or event.wall_time >= curve[event.step][0]:
                    curve[event.step] = (event.wall_time, event.value)
    return {tag: [(s, curve[s][1]) for s in sorted(curve)] for tag, curve in sorted(latest.items())}
