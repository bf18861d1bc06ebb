"""Reading training data: demonstrations, comparisons, prompts and plain text.

One record per line of a JSON-lines file; every line is accepted or reported with
its file, line number, field and reason, so nothing disappears silently::

    lines = accepted + bad + set aside + other split + blank
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from pydantic import ValidationError

from lit_instructgpt.records_lines import MAX_LINE_BYTES, LineProblem, field_name, shown
from lit_instructgpt.records_models import (
    BaseRecord,
    Comparison,
    Demonstration,
    Message,
    Prompt,
    Record,
    RecordType,
    Text,
    validation_problems,
)
from lit_instructgpt.records_report import BadRecord, ReadReport, RecordError
from lit_instructgpt.records_shapes import fields_of, normalise, written_name
from lit_instructgpt.records_sources import Row, open_source

__all__ = [
    "BadRecord",
    "BaseRecord",
    "Comparison",
    "Demonstration",
    "Message",
    "Prompt",
    "ReadReport",
    "Record",
    "RecordError",
    "RecordReader",
    "RecordType",
    "Sourced",
    "Text",
    "read_records",
]


@dataclass(frozen=True)
class Sourced(Generic[RecordType]):
    """A record with the line it came from; ``raw`` is that line's text, unchanged."""

    record: RecordType
    file: str
    line: int
    raw: str


def read_records(
    source: str | Path | Sequence[str | Path],
    kind: type[RecordType],
    *,
    column_mapping: dict[str, str] | None = None,
    skip_bad_records: bool = False,
    rejects_path: str | Path | None = None,
    keep_all_tied: bool = False,
    split: str | None = None,
    max_listed: int = 20,
    append_rejects: bool = False,
) -> tuple[list[RecordType], ReadReport]:
    """Read and check every record of one kind.

    Tolerated: a byte-order mark at the start of the file, CRLF line ends, blank lines
    (counted), a last line without a line end, unknown fields (kept in ``extra`` and
    counted). Bad: anything that is not one JSON object in valid UTF-8, NaN, NUL,
    lone surrogates, a key given twice, nesting deeper than 64, a line over 16 MiB,
    damaged gzip data, a missing, empty or wrongly typed field, a ranking that does
    not have one integer >= 1 per response, the same response under two ranks,
    and an ``id`` already used in the same file.

    Args:
        source: File (``.jsonl``, ``.jsonl.gz``), several files, a directory saved by
            ``datasets``, or ``hf://owner/name``; only the last uses the network.
        kind: ``Demonstration``, ``Comparison``, ``Prompt`` or ``Text``.
        column_mapping: Our field name to the file's, for example
            ``{"response": "answer"}``.
        skip_bad_records: Write bad lines to ``rejects_path`` and read on.
        rejects_path: JSON-lines file for the bad lines: file, line, problems, raw.
        keep_all_tied: Return rankings in which all responses tie; by default they
            are set aside, because they carry no preference.
        split: Return only the records whose ``split`` is this; in a dataset that is
            divided into splits, the split to take.
        max_listed: Most problems listed in the error message.
        append_rejects: Keep what ``rejects_path`` holds, for the later sources of one run;
            without it the file starts anew.

    Returns:
        The records in file order, and what became of every line.

    Raises:
        RecordError: Some lines are bad and ``skip_bad_records`` is false.
        ValueError: The arguments or the source cannot be used.
        FileNotFoundError: There is no such file.
    """
    if skip_bad_records and rejects_path is None:
        raise ValueError("skip_bad_records: needs rejects_path, the file to write the bad lines to")
    reader = RecordReader(kind, column_mapping or {}, keep_all_tied, split)
    sources = [source] if isinstance(source, str | Path) else source
    if rejects_path is not None and Path(rejects_path).resolve() in [Path(one).resolve() for one in sources]:
        raise ValueError(f"rejects_path: {rejects_path} is one of the files to read; name another")
    for one in sources:
        reader.read(one)
    reader.check_columns()
    report = reader.report
    if report.bad and not skip_bad_records:
        raise RecordError(report, max_listed)
    if rejects_path is not None and skip_bad_records:
        reader.write_rejects(Path(rejects_path), append_rejects)
    return [item.record for item in reader.records], report


class RecordReader(Generic[RecordType]):
    """Reads sources one after another into ``records``, ``report`` and ``rejects``."""

    def __init__(
        self,
        kind: type[RecordType],
        column_mapping: dict[str, str],
        keep_all_tied: bool = False,
        split: str | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        known = fields_of(kind.kind)
        wrong = [name for name in column_mapping if name not in known]
        if wrong:
            text = f"{', '.join(map(shown, wrong))}: not a field of a {kind.kind}"
            raise ValueError(f"column_mapping: {text}; the fields are: {', '.join(known)}")
        self.kind = kind
        self.records: list[Sourced[RecordType]] = []
        self.report = ReadReport()
        self._raw: list[str] = []
        self._mapping = column_mapping
        self._keep_all_tied = keep_all_tied
        self._split = split
        self._max_line_bytes = max_line_bytes
        self._columns: dict[str, None] = {}
        self._files: set[str] = set()

    def read(self, source: str | Path) -> None:
        """Read one source; see ``read_records``.

        Raises:
            ValueError: The source cannot be opened, or was read before.
            FileNotFoundError: There is no such file.
        """
        if str(source) in self._files:
            raise ValueError(f"{source}: given twice; leave one out")
        self._files.add(str(source))
        rows, split_applied = open_source(source, self._split, self._max_line_bytes)
        self._read_rows(rows, None if split_applied else self._split)

    def _read_rows(self, rows: Iterable[Row], split: str | None) -> None:
        report, first_line = self.report, dict[str, int]()
        for row in rows:
            report.lines += 1
            if row.value is None:
                report.blank += 1
                continue
            try:
                record = self._record(row, first_line)
            except LineProblem as problem:
                self._bad(row, (problem,))
            except ValidationError as error:
                self._bad(row, tuple(self._as_written(row, one) for one in validation_problems(error)))
            else:
                self._sort(row, record, split)

    def _record(self, row: Row, first_line: dict[str, int]) -> RecordType:
        if not isinstance(row.value, dict):
            assert isinstance(row.value, LineProblem)
            raise row.value
        given = dict(row.value)
        self._columns.update(dict.fromkeys(given))
        moved = {ours: given.pop(theirs) for ours, theirs in self._mapping.items() if theirs in given}
        shape, rest = normalise(given | moved, self.kind.kind)
        record = self.kind.model_validate({**shape, "extra": rest})
        if record.id is not None and (first := first_line.setdefault(record.id, row.line)) != row.line:
            raise LineProblem("id", f"{shown(record.id)} is already used in line {first}")
        ignored = self.report.ignored_fields
        for name in [*rest, *_message_extras(shape.get("prompt"))]:
            ignored[name] = ignored.get(name, 0) + 1
        return record

    def _sort(self, row: Row, record: RecordType, split: str | None) -> None:
        if split is not None and record.split != split:
            self.report.other_split += 1
        elif isinstance(record, Comparison) and len(set(record.ranking)) == 1 and not self._keep_all_tied:
            tied = LineProblem("ranking", "all responses are tied: no preference to learn")
            self.report.set_aside.append(BadRecord(row.file, row.line, (tied,)))
        else:
            self.report.accepted += 1
            record._where = f"{row.file}:{row.line}"
            self.records.append(Sourced(record, row.file, row.line, row.raw))

    def _as_written(self, row: Row, problem: LineProblem) -> LineProblem:
        assert isinstance(row.value, dict)
        keys = {key for key, value in row.value.items() if value is not None}
        keys |= {ours for ours, theirs in self._mapping.items() if theirs in keys}
        return LineProblem(written_name(problem.field, keys), problem.problem)

    def _bad(self, row: Row, problems: tuple[LineProblem, ...]) -> None:
        named = tuple(LineProblem(self._their_name(one.field), one.problem) for one in problems)
        self.report.bad.append(BadRecord(row.file, row.line, named))
        self._raw.append(row.raw)

    def _their_name(self, name: str) -> str:
        head = re.split(r"[.\[]", name, maxsplit=1)[0]
        return self._mapping[head] + name[len(head) :] if head in self._mapping else name

    def check_columns(self) -> None:
        """Raise ``ValueError`` if a mapped column was in no line at all."""
        wrong = {ours: name for ours, name in self._mapping.items() if name not in self._columns}
        if wrong and self._columns:
            text = ", ".join(f"{ours} -> {shown(name)}" for ours, name in wrong.items())
            names = ", ".join(field_name(name) for name in list(self._columns)[:30])
            raise ValueError(f"column_mapping: {text}: no such column; the columns are: {names}")

    def write_rejects(self, path: Path, append: bool = False) -> None:
        """Write the bad lines as JSON lines (file, line, problems, raw), whole or not at all.

        Args:
            path: The file to write.
            append: Keep the lines that are in it; one that is there already is not written twice.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if append and path.exists() else []
        for bad, raw in zip(self.report.bad, self._raw, strict=True):
            problems = [str(problem) for problem in bad.problems]
            lines.append(json.dumps({"file": bad.file, "line": bad.line, "problems": problems, "raw": raw}))
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="utf-8")
        os.replace(partial, path)


def _message_extras(prompt: object) -> list[str]:
    if not isinstance(prompt, list):
        return []
    turns = [turn for turn in prompt if isinstance(turn, dict)]
    names = {key for turn in turns for key, value in turn.items() if value is not None}
    return [f"prompt[].{name}" for name in sorted(names - {"role", "content"})]
