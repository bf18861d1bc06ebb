"""``lit-instructgpt rankings``: which system wins, by rankings that people gave (paper, section 3.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
from rich.console import Console

from lit_instructgpt.datamodules.tokenizing import Reading, Source
from lit_instructgpt.evaluation.agreement import labeler_agreement, shared_pairs
from lit_instructgpt.evaluation.inputs import outs
from lit_instructgpt.evaluation.provenance import file_entry, versions, write_report
from lit_instructgpt.evaluation.ranked import Ranked, RankedFile, read_ranked
from lit_instructgpt.evaluation.statistics import bootstrap_ci, length_controlled_win_rate
from lit_instructgpt.evaluation.tables import estimate, say_few, table

Matrix = dict[str, dict[str, dict[str, Any] | None]]
"""System -> opponent -> how often it wins; None for two that never met."""


def rankings(
    rankings: Source,
    baseline: str,
    out: str,
    criterion: str | None = None,
    joined_by: str | None = None,
    reading: Reading | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare systems by recorded rankings, which say in ``systems`` who wrote each response; writes a JSON report.

    Args:
        rankings: file of comparisons with ``systems``, one name per response; several as ``'[ann.jsonl, bob.jsonl]'``.
        baseline: name of the system that the others are compared with.
        out: the JSON file to write.
        criterion: take only rankings whose field ``criterion`` is this.
        joined_by: what stands between the names of systems that wrote the very same text, ``+`` for ``a+b``; the response
            then counts for each of them, and they tie.
        reading: columns, split and what becomes of bad lines; its length limits have no effect, nothing is cut or left out.
        seed: of the resampling of prompts, for the intervals.

    Returns:
        The report, as written.
    """
    if problems := outs(out):
        raise ValueError("\n".join(problems))
    file = read_ranked(reading or Reading(), rankings, criterion, joined_by)
    if baseline not in file.systems:
        raise ValueError(f"baseline: no response is by {baseline!r}; the systems are: {', '.join(file.systems)}")
    if len(file.systems) == 1:
        raise ValueError(f"all responses are by {baseline!r}: there is nothing to compare it with")
    meetings = _meetings(file)
    matrix = _matrix(meetings, file.systems, seed)
    report: dict[str, Any] = {
        "kind": "rankings",
        "baseline": baseline,
        "systems": {
            name: {
                **_means(name, file, seed),
                "against_baseline": _against(name, baseline, matrix, meetings, seed),
            }
            for name in file.systems
        },
        "matrix": matrix,
        "agreement": labeler_agreement(shared_pairs([one.record for one in file.rankings]), seed),
        "num_rankings": len(file.rankings),
        "num_without_systems": file.num_without_systems,
        "num_of_other_criteria": file.num_of_other_criteria,
        "seed": seed,
        "versions": versions(),
        "files": {"rankings": file_entry(rankings, file.num_read)},
    }
    write_report(report, out)
    _print(report, file.fields)
    return report


@dataclass
class Meetings:
    """Rankings that hold responses of two systems, one entry each.

    Attributes:
        wins: share of the pairs of their responses that the first system wins, ties half.
        ties: share of the pairs that tie.
        longer_by: mean length of the first's responses minus that of the second's, in characters.
        prompts: number of the prompt.
        labelers: who ranked.
    """

    wins: list[float] = field(default_factory=list)
    ties: list[float] = field(default_factory=list)
    longer_by: list[float] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    labelers: list[str] = field(default_factory=list)

    def add(self, ranked: Ranked, first: str, second: str) -> None:
        """Adds a ranking that holds responses of both."""
        pairs = list(product(ranked.by(first), ranked.by(second)))
        ranks, texts = ranked.record.ranking, ranked.record.responses
        tied = sum(ranks[i] == ranks[j] for i, j in pairs) / len(pairs)
        self.wins.append(sum(ranks[i] < ranks[j] for i, j in pairs) / len(pairs) + tied / 2)
        self.ties.append(tied)
        self.longer_by.append(sum(len(texts[i]) - len(texts[j]) for i, j in pairs) / len(pairs))
        self.prompts.append(ranked.prompt)
        self.labelers.append(ranked.record.labeler or "unknown")


def _meetings(file: RankedFile) -> dict[tuple[str, str], Meetings]:
    """Of every two systems, the one that comes first in the file in front."""
    found: dict[tuple[str, str], Meetings] = {}
    for ranked in file.rankings:
        for pair in combinations([name for name in file.systems if ranked.by(name)], 2):
            found.setdefault(pair, Meetings()).add(ranked, *pair)
    return found


def _matrix(meetings: Mapping[tuple[str, str], Meetings], systems: Sequence[str], seed: int) -> Matrix:
    matrix: Matrix = {a: {b: None for b in systems if b != a} for a in systems}
    for (first, second), meeting in meetings.items():
        wins, longer_by = np.array(meeting.wins), np.array(meeting.longer_by)
        controlled, interval = length_controlled_win_rate(wins, longer_by, meeting.prompts, seed=seed)
        matrix[first][second] = entry = {
            "win_rate": float(wins.mean()),
            "ci95": bootstrap_ci(wins, meeting.prompts, seed=seed),
            "length_controlled_win_rate": controlled,
            "ci95_length_controlled_win_rate": interval,
            "tie_rate": float(np.mean(meeting.ties)),
            "characters_longer": float(longer_by.mean()),
            "num_rankings": len(wins),
            "num_prompts": len(set(meeting.prompts)),
            "num_labelers": len(set(meeting.labelers)),
        }
        matrix[second][first] = _other_side(entry)
    return matrix


def _other_side(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same meetings as the opponent sees them."""
    seen = {**entry, "win_rate": 1 - entry["win_rate"], "ci95": [1 - p for p in reversed(entry["ci95"])]}
    if entry["length_controlled_win_rate"] is not None:
        seen["length_controlled_win_rate"] = 1 - entry["length_controlled_win_rate"]
        seen["ci95_length_controlled_win_rate"] = [1 - p for p in reversed(entry["ci95_length_controlled_win_rate"])]
    return {
        **seen,
        "characters_longer": -entry["characters_longer"],
    }


def _against(
    name: str,
    baseline: str,
    matrix: Mapping[str, Mapping[str, Any]],
    meetings: Mapping[tuple[str, str], Meetings],
    seed: int,
) -> dict[str, Any] | None:
    """The entry of the matrix, and win rates by labeler; None for the baseline and for who never met it."""
    if name == baseline or matrix[name][baseline] is None:
        return None
    first = (name, baseline) in meetings
    meeting = meetings[name, baseline] if first else meetings[baseline, name]
    wins = np.array(meeting.wins) if first else 1 - np.array(meeting.wins)
    per_labeler = {}
    for labeler in sorted(set(meeting.labelers)):
        inside = [i for i, one in enumerate(meeting.labelers) if one == labeler]
        prompts = [meeting.prompts[i] for i in inside]
        per_labeler[labeler] = {
            "win_rate": float(wins[inside].mean()),
            "ci95": bootstrap_ci(wins[inside], prompts, seed=seed),
            "num_rankings": len(inside),
            "num_prompts": len(set(prompts)),
        }
    return {**matrix[name][baseline], "per_labeler": per_labeler}


def _means(name: str, file: RankedFile, seed: int) -> dict[str, Any]:
    """How many responses of a system were ranked, their mean length, and the means of their own fields."""
    own = [(ranked, k) for ranked in file.rankings for k in ranked.by(name)]
    means = {}
    for key in file.fields:
        held = [(one, values[k]) for one, k in own if (values := one.record.extra.get(key)) is not None]
        given = [(one.prompt, float(value)) for one, value in held if value is not None]
        values, prompts = np.array([value for _, value in given]), [prompt for prompt, _ in given]
        means[key] = {
            "mean": float(values.mean()) if given else None,
            "ci95": bootstrap_ci(values, prompts, seed=seed) if given else None,
            "num": len(given),
            "num_prompts": len(set(prompts)),
        }
    return {
        "num_responses": len(own),
        "num_prompts": len({one.prompt for one, _ in own}),
        "characters": float(np.mean([len(one.record.responses[k]) for one, k in own])),
        "means": means,
    }


def _print(report: Mapping[str, Any], fields: Sequence[str]) -> None:
    console, baseline = Console(), report["baseline"]
    rows, means = [], []
    for name, row in report["systems"].items():
        against = row["against_baseline"]
        counts = [str(against[key]) for key in ("num_rankings", "num_prompts", "num_labelers")] if against else ["-"]
        controlled = estimate(against, "length_controlled_win_rate", "ci95_length_controlled_win_rate")
        rows.append([name, estimate(against, "win_rate"), controlled, ", ".join(counts)])
        means.append([name, f"{row['characters']:.0f}", *(estimate(row["means"][key], "mean") for key in fields)])
    columns = ["system", f"wins against {baseline}", "at equal lengths", "rankings, prompts, labelers"]
    console.print(table(f"{report['num_rankings']} rankings", columns, rows))
    console.print(table("Means of the responses", ["system", "characters", *fields], means))
    systems = list(report["matrix"])
    if len(systems) > 2:
        met = {
            a: {b: f"{e['win_rate']:.3f}" if e else "-" for b, e in row.items()} for a, row in report["matrix"].items()
        }
        cells = [[a, *(met[a].get(b, "-") for b in systems)] for a in systems]
        console.print(table("Win rate of row against column", ["", *systems], cells))
    agreement = report["agreement"]
    if agreement is not None:
        console.print(
            f"labelers agree on {estimate(agreement, 'agreement')} of {agreement['num_pairs']} pairs that two of them "
            f"ranked ({agreement['num_tied']} tied for one of them are not counted)"
        )
    say_few(console, [e["num_prompts"] for row in report["matrix"].values() for e in row.values() if e])
