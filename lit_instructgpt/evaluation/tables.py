"""How estimates stand in the tables of the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_instructgpt.evaluation.statistics import FEW


def estimate(entry: Mapping[str, Any] | None, key: str, interval: str = "ci95", sign: bool = False) -> str:
    """``0.724 (0.700, 0.748)``; a dash where there is none.

    Args:
        entry: part of a report.
        key: of the number in it.
        interval: key of its interval.
        sign: write a plus too.
    """
    if entry is None or entry.get(key) is None:
        return "-"
    low, high = entry[interval]
    form = "+.3f" if sign else ".3f"
    return f"{entry[key]:{form}} ({low:{form}}, {high:{form}})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], num_names: int = 1) -> Table:
    """A table whose first columns are names and whose others are numbers; names are shown as they are, never as markup."""
    made = Table(title=Text(title))
    for i, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if i < num_names else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def say_few(console: Console, counts: Sequence[int], of: str = "prompts") -> None:
    """Says so where an interval is of few prompts, or of few of what else is resampled."""
    fewest = min(counts, default=FEW)
    if fewest < FEW:
        console.print(f"intervals of fewer than {FEW} {of} are too narrow; here are some of {fewest}")
