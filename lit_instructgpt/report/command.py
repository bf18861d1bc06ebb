"""``lit-instructgpt report``: results and runs, any number of them, on one page and in one file."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

from lit_instructgpt.report.page import write_report
from lit_instructgpt.report.parts import of_policies
from lit_instructgpt.report.results import COLUMNS, LM_EVAL


def report(
    out: str,
    results: str | list[str] | None = None,
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
    results = [results] if isinstance(results, str) else results or []
    problems = [problem for name, place in runs.items() if (problem := _run_problem(f"--runs.{name}", Path(place)))]
    if not (results or runs):
        problems.append("nothing to report: give --results FILE.json ... or --runs.NAME RUN_DIR")
    if path.suffix not in (".html", ".htm"):
        problems.append(f"out: {out} must end with .html; the JSON goes beside it")
    problems += [
        f"{place} is a directory: give another out" for place in (path, path.with_suffix(".json")) if place.is_dir()
    ]
    own = path.with_suffix(".json")
    if own.resolve() in {Path(file).resolve() for file in results}:
        problems.append(f"{own} would be overwritten by this report's own JSON: give another out")
    elif own.is_file() and not _is_report(own):
        problems.append(f"{own} would be overwritten, and no report wrote it: give another out")
    found: dict[str, dict[str, Any]] = {}
    places: set[Path] = set()
    for file in results:
        content, problem = _read(Path(file))
        if Path(file).resolve() in places:
            problems.append(f"{file} is named twice in results: name it once")
        elif content is None:
            problems.append(problem)
        else:
            found[_name(Path(file), found)] = content
        places.add(Path(file).resolve())
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
    """One report of several: a lone result of ``evaluate`` as it is, everything else in ``results`` by its file's name.

    Several results of ``evaluate`` were measured on prompts and by judges of their own: none is put beside another.
    """
    policies = [content for content in found.values() if of_policies(content)]
    lone = policies[0] if len(policies) == 1 and "results" not in policies[0] else {}
    results = {file: content for file, content in found.items() if content is not lone}
    return {"models": {}, "samples": [], "results": results, **lone}


def _is_report(file: Path) -> bool:
    """Whether a JSON file is one that this command, or the miniature's demo, wrote: it has a title."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "title" in content


def _run_problem(option: str, place: Path) -> str:
    """Why a directory is no run with training curves; empty where it is one."""
    if not place.is_dir():
        return f"{option}: {place} is no directory"
    if any(place.rglob("*tfevents*")):
        return ""
    above = next((parent for parent in place.absolute().parents if any(parent.glob("*tfevents*"))), None)
    remedy = f"give {os.path.relpath(above)}" if above else "give the run directory, with the logger tensorboard"
    return f"{option}: {place} holds no training curves (TensorBoard events): {remedy}"


def _read(file: Path) -> tuple[dict[str, Any] | None, str]:
    """A result, or what is wrong with the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return None, f"{file}: cannot be read: {error.strerror}"
    except ValueError as error:
        return None, f"{file}: no JSON: {error}"
    problem = _problem(content)
    return (None, f"{file}: {problem}") if problem else (content, "")


def _problem(content: Any) -> str:
    """Why a file's content is no result; empty where it is one."""
    found = content if isinstance(content, dict) else {}
    keys, inner = (("results",), "task") if found.get("kind") == LM_EVAL else (COLUMNS, "name")
    columns = {key: found[key] for key in keys if isinstance(found.get(key), dict)}
    if not columns:
        needed = " or ".join(f"`{key}`" for key in keys)
        return f"not a result of evaluate, rankings, evaluate_rm, benchmark or lm_eval: it has no {needed}"
    wrong = [key for key, value in columns.items() if not all(isinstance(figures, dict) for figures in value.values())]
    return f"{wrong[0]} must be {inner} -> figures" if wrong else ""


def _name(file: Path, taken: Container[str]) -> str:
    """The file's name, with as many of its directories as it needs to be none of those taken."""
    parts = file.with_suffix("").parts
    names = [PurePath(*parts[-n:]).as_posix() for n in range(1, len(parts) + 1)]
    return next(name for name in chain(names, (f"{names[-1]} {i}" for i in count(2))) if name not in taken)
