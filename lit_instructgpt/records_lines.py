"""Physical lines of a JSON-lines file, and strict parsing of one line.

Nothing here knows what a record means: lines come out numbered from 1, and a
line that cannot be one JSON object is told apart by a ``LineProblem``.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 16 * 2**20
MAX_DEPTH = 64
MAX_DIGITS = 4000
_SHOWN_BYTES = 1000
_BOM = b"\xef\xbb\xbf"
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


class LineProblem(ValueError):
    """One thing wrong with one line: the field it is about, and what is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        """Return ``field: problem``."""
        return f"{self.field}: {self.problem}"


@dataclass(frozen=True)
class RawLine:
    """A line of a file, numbered from 1, without its line end.

    ``problem`` is set when the bytes could not be read as a line at all (too
    long, damaged gzip); ``data`` then holds at most the first 1,000 bytes.
    """

    number: int
    data: bytes
    problem: LineProblem | None = None


def shown(value: object, limit: int = 40) -> str:
    """Return a short printable one-line form of any value, for messages."""
    if isinstance(value, dict | list):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        value = value[: limit + 1]
    elif isinstance(value, int) and value.bit_length() > 4 * limit:
        return f"an integer of {value.bit_length()} bits"
    text = ascii(value)
    return text if len(text) <= limit else text[:limit] + "..."


def field_name(name: str) -> str:
    """Return a field name fit to be printed: odd or long names are quoted."""
    return name if name.isprintable() and 0 < len(name) <= 60 else shown(name)


def raw_lines(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[RawLine]:
    """Yield the lines of a plain or gzipped file.

    A byte-order mark at the start of the file and a carriage return at the end
    of a line are removed. A line longer than ``max_line_bytes`` is skipped
    without being held in memory. Damaged or cut gzip data ends the file with one
    line that says so; every whole line before it is delivered.

    Args:
        path: The file; gzip is recognised by its first bytes or the name's ``.gz``.
        max_line_bytes: Longest line accepted, in bytes.
    """
    number = 0
    with path.open("rb") as plain:
        magic = plain.read(2)
        plain.seek(0)
        zipped = magic == b"\x1f\x8b" or path.suffix == ".gz"
        stream = gzip.GzipFile(fileobj=plain) if zipped else plain
        try:
            while chunk := stream.readline(max_line_bytes + 1):
                number += 1
                too_long = len(chunk) > max_line_bytes and not chunk.endswith(b"\n")
                rest = chunk if too_long else b""
                while rest and not rest.endswith(b"\n"):
                    rest = stream.readline(max_line_bytes + 1)
                if number == 1:
                    chunk = chunk.removeprefix(_BOM)
                problem = None
                if too_long:
                    chunk = chunk[:_SHOWN_BYTES]
                    problem = LineProblem("line", f"longer than {max_line_bytes} bytes")
                yield RawLine(number, chunk.rstrip(b"\r\n"), problem)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            text = f"damaged or cut-off gzip data ({error}); fetch or write the file again"
            yield RawLine(number + 1, b"", LineProblem("line", text))


def parse_line(data: bytes) -> dict[str, Any]:
    """Return the JSON object on one line, or raise ``LineProblem``.

    Stricter than ``json.loads``: no invalid UTF-8, NUL, lone surrogates,
    duplicate keys (at any depth), NaN or infinity, nothing nested deeper than
    ``MAX_DEPTH``, no integer of more than ``MAX_DIGITS`` digits.

    Args:
        data: The line's bytes, without the line end.

    Raises:
        LineProblem: The line is not one acceptable JSON object.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "; this looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        problem = f"invalid UTF-8 at byte offset {error.start} of the line{hint}; save it as UTF-8"
        raise LineProblem("line", problem) from None
    if "\0" in text:
        raise LineProblem("line", f"NUL character at character {text.index(chr(0)) + 1}; remove it")
    _check_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} at character {error.pos + 1}"
        if text.startswith("\ufeff"):
            problem = "byte-order mark in the middle of the file; remove it"
        raise LineProblem("line", problem) from None
    if not isinstance(value, dict):
        found = type(value).__name__ if value is not None else "null"
        raise LineProblem("line", f"must be one JSON object {{...}}, found {found}")
    if "\\u" in text:
        check_values(value)
    return value


def check_values(value: object, where: str = "") -> None:
    """Raise ``LineProblem`` for a NUL, a lone surrogate, NaN or infinity inside.

    Args:
        value: A parsed JSON value.
        where: Dotted name of the value, for the message.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise LineProblem(where, "holds a NUL character; remove it")
        if _SURROGATE.search(value):
            raise LineProblem(where, "holds a lone surrogate (half a character); remove it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise LineProblem(where, "NaN or infinity is not allowed")
    elif isinstance(value, dict):
        for key, item in value.items():
            name = field_name(str(key))
            check_values(key, name)
            check_values(item, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_values(item, f"{where}[{index}]")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            raise LineProblem("line", f"nested deeper than {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise LineProblem(field_name(key), "this key appears twice; keep one")
            seen.add(key)
    return result


def _constant(name: str) -> float:
    raise LineProblem("line", f"{name} is not JSON; use a number or leave the field out")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise LineProblem("line", f"the number {shown(digits)} is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise LineProblem("line", f"an integer of more than {MAX_DIGITS} digits")
    return int(digits)
