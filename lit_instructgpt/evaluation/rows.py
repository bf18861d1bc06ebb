"""Rows of tables and JSON-lines files: what is made of each, and every problem as ``FILE:LINE: COLUMN: problem``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lit_instructgpt.records_lines import LineProblem, shown
from lit_instructgpt.records_sources import open_source

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Mapping[str, Any])
MISSING = object()
MAX_LISTED = 20
"""Problems that one error message lists."""


def items(path: str, rows: Iterable[tuple[int, Row | LineProblem]], item: Callable[[Row], Item]) -> list[Item]:
    """What is made of every row.

    Args:
        path: of the file, for messages.
        rows: line number, and the row or why it is none.
        item: makes something of a row, or raises ``LineProblem``.

    Raises:
        ValueError: with every problem, or because there is no row.
    """
    found: list[Item] = []
    problems: list[str] = []
    said: set[str] = set()
    fields: list[str] = []
    for line, row in rows:
        try:
            if isinstance(row, LineProblem):
                raise row
            fields = fields or [str(name) for name in row]
            found.append(item(row))
        except LineProblem as problem:
            said.add(str(problem))
            problems.append(f"{path}:{line}: {problem}")
    if not found and len(problems) > 1 and len(said) == 1:  # the wrong file, or the wrong name
        have = f"; the fields are: {', '.join(map(shown, fields))}" if fields else ""
        raise ValueError(f"{path}: in all of its {len(problems)} lines: {said.pop()}{have}")
    refuse(problems)
    if not found:
        raise ValueError(f"{path}: holds no item; give the file as its authors publish it")
    return found


def refuse(problems: list[str]) -> None:
    """Stops if there is a problem.

    Raises:
        ValueError: with all of them, the first ``MAX_LISTED`` in full.
    """
    if problems:
        more = [f"... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        remedy = "Correct these lines, or fetch the file again: no line is left out silently."
        raise ValueError("\n".join([*problems[:MAX_LISTED], *more, remedy]))


def objects(path: str) -> Iterator[tuple[int, dict[str, Any] | LineProblem]]:
    """Line number and JSON object of every line of a ``.jsonl`` or ``.jsonl.gz`` file that is not blank.

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows, _ = open_source(path)
    return ((row.line, row.value) for row in rows if row.value is not None)


def table(path: str, delimiter: str, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str] | LineProblem]]:
    """First line and cells of every row of a table with a header; the named columns must be there and filled.

    Args:
        path: of the file, UTF-8.
        delimiter: of cells; with a tab, quotation marks are ordinary characters.
        columns: that are needed.

    Raises:
        ValueError: the file is not UTF-8, or lacks columns.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of the file itself")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: invalid UTF-8 at byte {error.start}; save it as UTF-8") from None
    lines = io.StringIO(text, newline="")
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, [])
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(map(shown, header)) or "nothing"
        raise ValueError(f"{path}:1: no column {', '.join(missing)}; found: {found}. Give the file as it is published")
    return _rows(reader, header, columns)


def _rows(
    reader: Any, header: list[str], columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str] | LineProblem]]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield line, LineProblem("line", f"not a row of a table: {error}; look for a quotation mark too many")
            return
        if cells is None:
            return
        if not cells:
            continue
        if len(cells) != len(header):
            problem = f"has {len(cells)} cells, the header {len(header)}; put cells with a delimiter in quotation marks"
            yield line, LineProblem("line", problem)
            continue
        row = dict(zip(header, cells, strict=True))
        empty = [name for name in columns if not row[name].strip()]
        yield line, LineProblem(", ".join(empty), "empty; fill it in") if empty else row


def field_of(row: Mapping[str, Any], name: str) -> str:
    """A text that is there and not blank; ``a.b`` is field b of the object a.

    Raises:
        LineProblem: it is not.
    """
    value = inside(row, name, MISSING)
    if value is MISSING:
        raise LineProblem(name, "is not there")
    if not isinstance(value, str) or not value.strip():
        raise LineProblem(name, f"must be a text that is not blank, found {shown(value)}")
    return value


def inside(row: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a field, ``default`` where it is not there; ``a.b`` is field b of the object a."""
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value
