"""Rankings that say who wrote each response, read from a file with nothing left out in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from lightning.pytorch.utilities import rank_zero_info
from pydantic import Field

from lit_instructgpt.datamodules.tokenizing import Reading, Source
from lit_instructgpt.evaluation.agreement import prompt_numbers
from lit_instructgpt.records import Comparison
from lit_instructgpt.records_lines import shown

SYSTEMS, CRITERION = "systems", "criterion"
MAX_LISTED = 20


class RankedOutputs(Comparison):
    """A comparison in which a response may be empty: a system that wrote nothing is ranked too."""

    responses: Annotated[list[str], Field(min_length=2)]


@dataclass(frozen=True)
class Ranked:
    """A ranking with the number of its prompt and, [K], the names of who wrote each response."""

    record: Comparison
    prompt: int
    authors: list[list[str]]

    def by(self, system: str) -> list[int]:
        """Which of the responses a system wrote."""
        return [k for k, names in enumerate(self.authors) if system in names]


@dataclass(frozen=True)
class RankedFile:
    """What a file holds.

    Attributes:
        rankings: those that count.
        systems: all names, in the order of their first response.
        fields: names of fields with one number, true, false or null per response.
        num_read: rankings in the file.
        num_without_systems: of these, how many do not say who wrote what.
        num_of_other_criteria: how many are by another criterion than the one asked for.
    """

    rankings: list[Ranked]
    systems: list[str]
    fields: list[str]
    num_read: int
    num_without_systems: int
    num_of_other_criteria: int


def read_ranked(reading: Reading, source: Source, criterion: str | None, joined_by: str | None) -> RankedFile:
    """Reads comparisons with ``systems``; says what is not used.

    Raises:
        ValueError: lines are bad, or no ranking counts.
    """
    read = reading.read(source, RankedOutputs, keep_all_tied=True, say_unused=False)
    chosen = _of_criterion(read, criterion)
    records = _with_systems(chosen, joined_by)
    authors = [
        [list(dict.fromkeys(name.split(joined_by))) if joined_by else [name] for name in record.extra[SYSTEMS]]
        for record in records
    ]
    rankings = [Ranked(*one) for one in zip(records, prompt_numbers(records), authors, strict=True)]
    systems = list(dict.fromkeys(name for ranked in rankings for names in ranked.authors for name in names))
    _hint_at_joined_names(systems, joined_by)
    return RankedFile(
        rankings, systems, _fields(records), len(read), len(chosen) - len(records), len(read) - len(chosen)
    )


def _of_criterion(records: Sequence[Comparison], criterion: str | None) -> list[Comparison]:
    counts: dict[str, int] = {}
    for record in records:
        name = str(record.extra.get(CRITERION))
        counts[name] = counts.get(name, 0) + 1
    known = ", ".join(f"{name} ({num})" for name, num in counts.items())
    if criterion is None:
        if len(counts) > 1:
            rank_zero_info(f"rankings by several criteria taken together: {known}; --criterion NAME takes one")
        return list(records)
    kept = [record for record in records if record.extra.get(CRITERION) == criterion]
    if not kept:
        raise ValueError(f"criterion: no ranking has {criterion!r}; there are: {known}")
    if len(kept) < len(records):
        rank_zero_info(f"criterion: {len(records) - len(kept)} of {len(records)} rankings have another one")
    return kept


def _with_systems(records: Sequence[Comparison], joined_by: str | None) -> list[Comparison]:
    kept = [record for record in records if record.extra.get(SYSTEMS) is not None]
    problems = [f"{record.where}: {problem}" for record in kept if (problem := _problem(record, joined_by))]
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        raise ValueError("\n".join([*problems[:MAX_LISTED], *more]))
    without = f"{len(records) - len(kept)} of {len(records)} rankings have no `{SYSTEMS}`, one name per response"
    if not kept:
        raise ValueError(f"{without}: nothing says who wrote what; add it, first at {records[0].where}")
    if len(kept) < len(records):
        rank_zero_info(f"{without}, and are left out")
    return kept


def _problem(record: Comparison, joined_by: str | None) -> str | None:
    systems, num = record.extra[SYSTEMS], len(record.responses)
    if not isinstance(systems, list) or len(systems) != num:
        found = shown(systems) + (f": {len(systems)} names for {num} responses" if isinstance(systems, list) else "")
        return f"{SYSTEMS}: needs one name per response, found {found}"
    for i, name in enumerate(systems):
        parts = name.split(joined_by) if isinstance(name, str) and joined_by else [name]
        if not all(isinstance(part, str) and part.strip() for part in parts):
            return f"{SYSTEMS}[{i}]: must be the name of who wrote responses[{i}], found {shown(name)}"
    return None


def _hint_at_joined_names(systems: Sequence[str], joined_by: str | None) -> None:
    joined = [name for name in systems if "+" in name and set(name.split("+")) <= set(systems)]
    if joined and joined_by is None:
        rank_zero_info(
            f"{', '.join(joined)}: taken for systems of their own; if these are texts that several systems wrote, "
            "--joined_by + counts them for each"
        )


def _fields(records: Sequence[Comparison]) -> list[str]:
    """Fields with one number, true, false or null per response in every record that has them; says which others there are."""
    fits: dict[str, list[bool]] = {}
    unfit_at: dict[str, str] = {}
    for record in records:
        for name, value in record.extra.items():
            if name in (SYSTEMS, CRITERION) or value is None:
                continue
            per_response = isinstance(value, list) and len(value) == len(record.responses)
            fits.setdefault(name, []).append(
                per_response and all(isinstance(one, bool | int | float | None) for one in value)
            )
            if not fits[name][-1]:
                unfit_at.setdefault(name, record.where)
    for name in unfit_at:
        if any(fits[name]):
            rank_zero_info(
                f"{name}: not averaged, since {fits[name].count(False)} of {len(fits[name])} rankings do not have one number, "
                f"true, false or null per response there, first {unfit_at[name]}"
            )
    unused = [name for name in unfit_at if not any(fits[name])]
    if unused:
        rank_zero_info(f"fields not used: {', '.join(unused)}")
    return [name for name in fits if name not in unfit_at]
