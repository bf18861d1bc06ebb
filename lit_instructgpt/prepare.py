"""``lit-instructgpt prepare``: from collected records to train, valid and test files."""

import json
import os
import tempfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lit_instructgpt.prepare_filters import (
    SIDES,
    Rows,
    cap_users,
    drop_shared_prefixes,
    mask_record,
    record_pii,
    side_of,
)
from lit_instructgpt.prepare_tables import Lengths, as_markdown, file_tables, length_counter
from lit_instructgpt.records import (
    BaseRecord,
    Comparison,
    Demonstration,
    Prompt,
    RecordError,
    RecordReader,
    Text,
)
from lit_instructgpt.records_lines import parse_line
from lit_instructgpt.records_shapes import detect_kind
from lit_instructgpt.records_sources import open_source

STATISTICS = "statistics.json"
_KINDS: dict[str, type[BaseRecord]] = {model.kind: model for model in (Demonstration, Comparison, Prompt, Text)}
_LOOKED_AT = 1000


def prepare(
    inputs: list[str],
    out: str,
    common_prefix: int = 64,
    max_prompts_per_user: int = 200,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    pii: Literal["drop", "mask", "keep"] = "drop",
    tokenizer: str | None = None,
    skip_bad_records: bool = False,
) -> dict[str, Any]:
    """Clean collected records and split them by user, as the paper did (section 3.2, appendix A).

    Each input file becomes NAME.train.jsonl, NAME.valid.jsonl and NAME.test.jsonl in the output
    directory, next to statistics.json and statistics.md, which hold the paper's tables and say how
    many lines were left out at each step. The steps, in order: check every line, drop prompts that
    share a long beginning with an earlier one of the same file, limit the prompts per user, split by
    user, and take personal data out of the training files.

    Args:
        inputs: Files to prepare, .jsonl or .jsonl.gz. What a file holds (demonstrations,
            comparisons, prompts or plain text) is recognised by the field names in it.
        out: Directory to write to: new, empty, or written by this command with the same settings.
        common_prefix: Two prompts of one file that begin with this many equal characters count as
            the same, and the later one is dropped (the paper does not state its length). 0 drops
            only equal prompts. For comparisons the labeler must be the same too.
        max_prompts_per_user: Keep at most this many different prompts of one user in each file.
            Records without a user are not limited.
        valid_fraction: Share of the users whose records go to the validation files.
        test_fraction: Share of the users whose records go to the test files.
        seed: Changes who is on which side. A record without a user is placed by its prompt.
        pii: What to do with training records that hold what looks like an e-mail address, phone
            number, card number, IBAN, US social security number or IPv4 address: drop the record,
            mask the place, or keep it. It finds obvious patterns only and is no guarantee.
        tokenizer: Directory of the tokenizer to count lengths with; without it they are in words.
        skip_bad_records: Write unreadable lines to NAME.rejects.jsonl instead of stopping.

    Returns:
        The content of statistics.json.

    Raises:
        ValueError: A setting, an input or the output directory cannot be used, or lines are bad
            (``RecordError``) and ``skip_bad_records`` is false.
        FileNotFoundError: An input does not exist.
    """
    settings = {name: value for name, value in locals().items() if name != "out"}
    _check(settings)
    names, target = _names(inputs), Path(out)
    _check_out(target, settings, _written(names))
    lengths, unit = length_counter(tokenizer)
    result: dict[str, Any] = {"arguments": settings, "unit": unit, "files": {}}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prepare-") as folder:
        for name, source in names.items():
            result["files"][name] = _prepare_file(source, Path(folder) / name, settings, lengths)
        _publish(result, Path(folder), target, _written(names))
    _print(result, target)
    return result


def _written(names: Iterable[str]) -> set[str]:
    return {f"{name}.{part}.jsonl" for name in names for part in (*SIDES, "rejects")}


def _publish(result: dict[str, Any], folder: Path, target: Path, written: set[str]) -> None:
    """Move the files to the output directory, the statistics last: they mark it as complete."""
    (folder / "statistics.md").write_text(as_markdown(result), encoding="utf-8")
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (folder / STATISTICS).write_text(text, encoding="utf-8")
    target.mkdir(exist_ok=True)
    for stale in written:
        (target / stale).unlink(missing_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == STATISTICS):
        os.replace(path, target / path.name)


def _names(inputs: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for source in inputs:
        name = Path(source.rpartition("#")[0] or source if source.startswith("hf://") else source).name
        name = name.removesuffix(".gz").removesuffix(".jsonl")
        if name in names:
            raise ValueError(
                f"inputs: {names[name]} and {source} would both be written to {name}.train.jsonl; rename "
                "one, or prepare them into two directories (users stay on their sides as long as seed and "
                "fractions are the same)"
            )
        names[name] = source
    return names


def _check(settings: dict[str, Any]) -> None:
    valid, test = settings["valid_fraction"], settings["test_fraction"]
    wrong = {
        "inputs: give at least one file": not settings["inputs"],
        f"common_prefix: must be 0 or more, found {settings['common_prefix']}": settings["common_prefix"] < 0,
        f"max_prompts_per_user: must be 1 or more, found {settings['max_prompts_per_user']}": (
            settings["max_prompts_per_user"] < 1
        ),
        f"valid_fraction, test_fraction: must be 0 or more, below 1 together, found {valid} and {test}": (
            not (valid >= 0 and test >= 0 and valid + test < 1)
        ),
        f"pii: must be drop, mask or keep, found {settings['pii']!r}": settings["pii"] not in ("drop", "mask", "keep"),
    }
    problems = [text for text, holds in wrong.items() if holds]
    if problems:
        raise ValueError("\n".join(problems))


def _check_out(target: Path, settings: dict[str, Any], written: set[str]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"out: {target} is a file; choose another --out")
    present = {path.name for path in target.iterdir()}
    if not present:
        return
    foreign = sorted(present - written - {STATISTICS, "statistics.md"})
    why = f"holds {foreign[0]}, which this command does not write" if foreign else None
    if why is None:
        try:
            before = json.loads((target / STATISTICS).read_bytes())["arguments"]
        except (OSError, ValueError, KeyError, TypeError):
            why = f"is not empty and holds no {STATISTICS} of this command"
        else:
            if before != settings:
                why = "was written with other settings"
    if why is not None:
        raise ValueError(f"out: {target} {why}; choose another --out")


def _prepare_file(source: str, stem: Path, settings: dict[str, Any], lengths: Lengths) -> dict[str, Any]:
    rows, _ = open_source(source)
    looked_at = [row.value for row in islice(rows, _LOOKED_AT) if isinstance(row.value, dict)]
    try:
        kind = detect_kind(looked_at)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    reader = RecordReader(_KINDS[kind], {})
    reader.read(source)
    report = reader.report
    if report.bad:
        if not settings["skip_bad_records"]:
            raise RecordError(report)
        reader.write_rejects(stem.with_name(f"{stem.name}.rejects.jsonl"))
    kept, dropped = drop_shared_prefixes(reader.records, settings["common_prefix"])
    kept, dropped["user_cap"] = cap_users(kept, settings["max_prompts_per_user"])
    sides: dict[str, Rows] = {side: [] for side in SIDES}
    for row in kept:
        fractions = settings["valid_fraction"], settings["test_fraction"]
        sides[side_of(row.record, *fractions, settings["seed"])].append(row)
    found: dict[str, int] = {}
    dropped["pii"] = 0
    for side in SIDES:
        before = len(sides[side])
        policy = settings["pii"] if side == "train" else "keep"
        sides[side] = _write(stem.with_name(f"{stem.name}.{side}.jsonl"), sides[side], side, policy, found)
        dropped["pii"] += before - len(sides[side])
    written = {side: len(sides[side]) for side in SIDES}
    counts = {"lines": report.lines, "blank": report.blank, "bad": len(report.bad)}
    counts["set_aside"] = len(report.set_aside)
    assert report.lines == sum(list(counts.values())[1:]) + sum(dropped.values()) + sum(written.values())
    records = {side: [row.record for row in sides[side]] for side in SIDES}
    return {
        "kind": kind,
        "input": source,
        **counts,
        "dropped": dropped,
        "written": written,
        "train_pii_found": dict(sorted(found.items())),
        "fields_passed_through": report.ignored_fields,
        "tables": file_tables(records, lengths),
    }


def _write(path: Path, rows: Rows, side: str, pii: str, found: dict[str, int]) -> Rows:
    """Write rows as they were read and return those written.

    A ``split`` field is set to the new side, because a stale one would mislead a later reader.
    """
    kept = []
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            value = parse_line(row.raw.encode())
            kinds = record_pii(value) if pii != "keep" else []
            for kind in kinds:
                found[kind] = found.get(kind, 0) + 1
            if kinds and pii == "drop":
                continue
            new = mask_record(value) if kinds else value
            if row.record.split is not None:
                new = {**new, "split": side}
            stream.write((row.raw if new == value else json.dumps(new, ensure_ascii=False)) + "\n")
            kept.append(row)
    return kept


def _print(result: dict[str, Any], target: Path) -> None:
    table = Table(title=f"Prepared data in {target}")
    for column in ("file", "kind", "lines", *SIDES, "left out"):
        table.add_column(column, justify="left" if column in ("file", "kind") else "right", overflow="fold")
    for name, one in result["files"].items():
        left_out = one["lines"] - sum(one["written"].values())
        table.add_row(name, one["kind"], *map(str, (one["lines"], *one["written"].values(), left_out)))
    Console().print(table)
    for name, one in result["files"].items():
        empty = [side for side, num in one["written"].items() if not num]
        if empty and one["lines"]:
            Console(stderr=True).print(
                f"{name}: no record for {' and '.join(empty)}: whole users are put to one side, and there are few. Give more "
                "users, or another --valid_fraction, --test_fraction or --seed; or leave out what is empty (data.valid: null)",
                soft_wrap=True, markup=False,
            )  # fmt: skip
