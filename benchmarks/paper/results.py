"""The claims as tables, for README.md and docs/results.md."""

from __future__ import annotations

from typing import Any


def claims_table(report: dict[str, Any]) -> str:
    """One line per claim."""
    lines = ["| | the paper's finding | paper | here (95 % CI over seeds) | holds |", "|---|---|---|---|---|"]
    for row in report["claims"]:
        here = f"{row['ours_is']}: {shown({'mean': row['ours'], 'ci95': row['ci95']})}"
        lines.append(f"| {row['id']} | {row['claim']} | {row['paper']} | {here} | {'yes' if row['holds'] else 'no'} |")
    held = sum(row["holds"] for row in report["claims"])
    lines += ["", f"{held} of {len(report['claims'])} hold; {_where(report)}."]
    return "\n".join(lines)


def figures_tables(report: dict[str, Any]) -> str:
    """Every figure behind every claim, with the rule by which it holds or not."""
    parts = []
    for row in report["claims"]:
        lines = [
            f"**{row['id']}. {row['claim']}.** Paper: {row['paper']}. Holds here if {row['rule']}: "
            f"{'it does' if row['holds'] else '**it does not**'}." + (f" {row['note']}" if row.get("note") else ""),
            "",
            "| figure | mean over seeds (95 % CI) |",
            "|---|---|",
            *[f"| {name} | {shown(value)} |" for name, value in row["figures"].items()],
        ]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"{_where(report)}."])


def shown(value: dict[str, Any]) -> str:
    """A mean with its interval; a number alone, if it has none (a count, or a mean of a single seed)."""
    if None in value["ci95"]:
        return f"{value['mean']:.3g}"
    ends = [f"{end:.3g}" for end in value["ci95"]]
    return f"{value['mean']:.3g} ({' to '.join(ends)})"


def _where(report: dict[str, Any]) -> str:
    commit = f"trained at commit {report['commit']}, " if report.get("commit") else ""
    return (
        f"`{report['command']}`, seeds {', '.join(map(str, report['seeds']))}, {commit}{report['minutes']:.0f} minutes on "
        f"{report['hardware']}, torch {report['versions']['torch']}"
    )
