"""Where records come from: JSON-lines files, saved datasets, the Hugging Face hub.

The network is used for one kind of source only: a name that begins with ``hf://``.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_instructgpt.records_lines import MAX_LINE_BYTES, LineProblem, check_values, parse_line, raw_lines

HUB = "hf://"
_HUB_NAME = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:#([\w.-]+))?")


@dataclass(frozen=True)
class Row:
    """One line of a file or one row of a dataset, counted from 1.

    ``value`` is the parsed object, or the problem that kept it from being one;
    None is a blank line. ``raw`` is the text of the line as it was read.
    """

    file: str
    line: int
    raw: str
    value: dict[str, Any] | LineProblem | None


def open_source(
    source: str | Path, split: str | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> tuple[Iterator[Row], bool]:
    """Open one source.

    Args:
        source: A ``.jsonl`` or ``.jsonl.gz`` file, a directory that ``datasets`` saved,
            or ``hf://owner/name`` (``hf://owner/name#config``).
        split: For a dataset of several splits, the one to take.
        max_line_bytes: Longest line accepted, in bytes.

    Returns:
        The rows, and whether ``split`` has been applied by choosing one.

    Raises:
        FileNotFoundError: There is no such path.
        ValueError: The source cannot be opened, or the split must be named.
    """
    if str(source).startswith(HUB):
        return _dataset_rows(_hub(str(source)), str(source), split)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(_not_found(path))
    if path.is_dir():
        return _dataset_rows(_saved(path), str(path), split)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path}: cannot be opened: {error.strerror}") from error
    return _file_rows(path, max_line_bytes), False


def _file_rows(path: Path, max_line_bytes: int) -> Iterator[Row]:
    for line in raw_lines(path, max_line_bytes):
        value: dict[str, Any] | LineProblem | None = line.problem
        if value is None and line.data.strip():
            try:
                value = parse_line(line.data)
            except LineProblem as problem:
                value = problem
        yield Row(str(path), line.number, line.data.decode("utf-8", "backslashreplace"), value)


def _dataset_rows(loaded: Any, name: str, split: str | None) -> tuple[Iterator[Row], bool]:
    if not isinstance(loaded, dict):
        return _rows(loaded, name), False
    chosen = split if split is not None else next(iter(loaded)) if len(loaded) == 1 else None
    if chosen not in loaded:
        wanted = "several splits" if split is None else f"no split {split!r}"
        raise ValueError(f"{name}: split: {wanted}; give one of: {', '.join(sorted(loaded))}")
    return _rows(loaded[chosen], name), True


def _rows(dataset: Iterable[dict[str, Any]], name: str) -> Iterator[Row]:
    rows, number = iter(dataset), 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (OSError, ValueError, NotImplementedError) as error:
            problem = f"damaged dataset ({error}); save it again"
            yield Row(name, number + 1, "", LineProblem("line", problem))
            return
        number += 1
        value: dict[str, Any] | LineProblem = row
        try:
            check_values(row)
        except LineProblem as found:
            value = found
        yield Row(name, number, json.dumps(row, ensure_ascii=False, default=str), value)


def _saved(path: Path) -> Any:
    if not (path / "dataset_dict.json").exists() and not (path / "state.json").exists():
        files = sorted(file.name for file in path.iterdir() if ".jsonl" in file.suffixes[-2:])
        raise ValueError(
            f"{path}: is a directory that datasets' save_to_disk did not write; "
            f"give files of it instead: {', '.join(files[:10]) or 'it holds no .jsonl file'}"
        )
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged dataset directory ({error}); save it again") from error


def _hub(name: str) -> Any:
    match = _HUB_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: not a hub dataset; write hf://owner/name or hf://owner/name#config")
    import datasets

    try:
        return datasets.load_dataset(match[1], match[2])
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: cannot be loaded from the Hugging Face hub: {error}") from error


def _not_found(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        text = f"{path}: no such file, and no folder {folder}"
    else:
        names = [entry.name for entry in folder.iterdir()]
        near = difflib.get_close_matches(path.name, names, 3, 0.5)
        text = f"{path}: no such file" + (f"; did you mean {', '.join(near)}?" if near else f" in {folder}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        text += f"; a Hugging Face hub dataset is written {HUB}{path}"
    return text
