"""``lit-instructgpt report``: results and runs, any number of them, on one page and in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_instructgpt.report.page import write_report

POLICIES = "policies"
"""Kind of what ``evaluate`` writes: its models are the page's models."""


def report(
    out: str,
    results: list[str] | None = None,
    runs: dict[str, str] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Put results of ``evaluate``, ``rankings``, ``evaluate_rm``, ``benchmark`` and ``lm_eval`` beside one another.

    Args:
        out: the HTML file; the same in JSON goes beside it.
        results: JSON files that these commands wrote.
        runs: name -> run directory, for its training curves, e.g. ``--runs.sft runs/sft``.
        title: of the page.

    Returns:
        The JSON, as written.

    Raises:
        ValueError: there is nothing to report, or a file or directory is not what it should be; all of them are named.
    """
    path, runs = Path(out), runs or {}
    problems = [f"--runs.{name}: {place} is no directory" for name, place in runs.items() if not Path(place).is_dir()]
    if not (results or runs):
        problems.append("nothing to report: give --results FILE.json ... or --runs.NAME RUN_DIR")
    if path.suffix not in (".html", ".htm"):
        problems.append(f"out: {out} must end with .html; the JSON goes beside it")
    found: dict[str, dict[str, Any]] = {}
    for file in results or []:
        content, problem = _read(Path(file))
        if content is None:
            problems.append(problem)
        elif Path(file) == path.with_suffix(".json"):
            problems.append(f"{file} would be overwritten by this report's own JSON: give another out")
        else:
            found[_name(Path(file), found)] = content
    if problems:
        raise ValueError("\n".join(problems))
    merged = merge(found)
    merged["title"] = title or "InstructGPT report"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_report(merged, path, runs)
    print(f"{path}: {len(found)} results, {len(runs)} runs; the figures are in {path.with_suffix('.json')}")
    return merged


def merge(found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """One report of several: the policies in ``models``, whatever else was measured in ``results``.

    A name that two files give to models with other figures is followed by its file's.
    """
    merged: dict[str, Any] = {"models": {}, "samples": [], "results": {}}
    for file, content in found.items():
        if content.get("kind", POLICIES) != POLICIES:
            merged["results"][file] = content
            continue
        names = {}
        for name, figures in content["models"].items():
            clash = merged["models"].get(name, figures) != figures
            names[name] = f"{name} ({file})" if clash else name
            merged["models"][names[name]] = figures
        for sample in content.get("samples", []):
            responses = {names.get(name, name): response for name, response in sample["responses"].items()}
            merged["samples"].append({**sample, "responses": responses})
        for key, value in content.items():
            if key not in ("models", "samples"):
                merged.setdefault(key, value)
    return merged


def _read(file: Path) -> tuple[dict[str, Any] | None, str]:
    """A result, or what is wrong with the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{file}: cannot be read: {error.strerror}"
    except ValueError as error:
        return None, f"{file}: no JSON: {error}"
    if not isinstance(content, dict) or not isinstance(content.get("models", content.get("systems")), dict | str):
        return (
            None,
            f"{file}: not a result of evaluate, rankings, evaluate_rm, benchmark or lm_eval: it has no `models`",
        )
    if isinstance(content.get("models"), dict) and not all(isinstance(m, dict) for m in content["models"].values()):
        return None, f"{file}: models must be name -> figures"
    return content, ""


def _name(file: Path, taken: Mapping[str, Any]) -> str:
    """The file's name, with its directory's where that is needed."""
    name = file.stem
    return name if name not in taken else f"{file.parent.name}/{name}" if file.parent.name else f"{name} {len(taken)}"
