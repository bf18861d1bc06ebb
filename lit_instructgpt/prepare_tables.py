"""The tables that describe prepared data, as the paper prints them (appendix A, Tables 1 and 6-11)."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_instructgpt.prepare_filters import SIDES, prompt_text
from lit_instructgpt.records import BaseRecord, Demonstration

Lengths = Callable[[list[str]], list[int]]
SUMMARY = ("count", "mean", "std", "min", "25%", "median", "75%", "max")


def length_counter(tokenizer: str | None) -> tuple[Lengths, str]:
    """Return a function that measures texts, and its unit.

    Args:
        tokenizer: Directory of a Hugging Face tokenizer; None counts words between white space.

    Raises:
        ValueError: There is no tokenizer in that directory.
    """
    if tokenizer is None:
        return (lambda texts: [len(text.split()) for text in texts]), "words"
    if not Path(tokenizer).is_dir():
        raise ValueError(f"tokenizer: {tokenizer} is not a directory; give one that holds tokenizer.json")
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"tokenizer: none can be loaded from {tokenizer}: {error}") from error

    def count(texts: list[str]) -> list[int]:
        if not texts:
            return []
        return [len(ids) for ids in loaded(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    return count, "tokens"


def summarise(lengths: Sequence[int]) -> dict[str, float]:
    """Return count, mean, sample standard deviation, minimum, quartiles and maximum."""
    if not lengths:
        return {"count": 0}
    quarters = statistics.quantiles(lengths, n=4, method="inclusive") if len(lengths) > 1 else [lengths[0]] * 3
    values = (
        len(lengths),
        statistics.fmean(lengths),
        statistics.stdev(lengths) if len(lengths) > 1 else 0.0,
        min(lengths),
        *quarters,
        max(lengths),
    )
    return {name: round(value, 2) for name, value in zip(SUMMARY, values, strict=True)}


def source_of(record: BaseRecord) -> str:
    """Return the record's source; without one, ``customer`` if it has a user, else ``labeler``."""
    return record.source or ("customer" if record.user is not None else "labeler")


def file_tables(sides: dict[str, list[BaseRecord]], lengths: Lengths) -> dict[str, Any]:
    """Return the tables of one prepared file.

    Args:
        sides: The records written to each of train, valid and test.
        lengths: Measures texts.

    Returns:
        ``sizes`` (by split and source, Table 6), ``use_cases`` (shares, Table 1; only if
        records hold ``use_case``), ``customers`` (Tables 7 and 8), ``prompt_lengths`` (Tables 9
        and 10) and, for demonstrations, ``demonstration_lengths`` by source (Table 11).
    """
    everything = [record for side in SIDES for record in sides[side]]
    prompts = {side: lengths([prompt_text(record) for record in sides[side]]) for side in SIDES}
    tables: dict[str, Any] = {
        "sizes": {side: dict(Counter(map(source_of, sides[side])).most_common()) for side in SIDES},
        "customers": {side: _customers(sides[side]) for side in SIDES},
        "prompt_lengths": {side: summarise(prompts[side]) for side in SIDES},
    }
    cases = Counter(str(one.extra["use_case"]) for one in everything if one.extra.get("use_case") is not None)
    if cases:
        tables["use_cases"] = {case: round(n / cases.total(), 4) for case, n in cases.most_common()}
    responses: defaultdict[str, list[str]] = defaultdict(list)
    for record in everything:
        if isinstance(record, Demonstration):
            responses[source_of(record)].append(record.response)
    if responses:
        tables["demonstration_lengths"] = {
            source: summarise(lengths(texts)) for source, texts in sorted(responses.items())
        }
    return tables


def _customers(records: list[BaseRecord]) -> dict[str, float]:
    counts = Counter(record.user for record in records if record.user is not None)
    mean = counts.total() / len(counts) if counts else 0.0
    return {"customers": len(counts), "prompts_per_customer": round(mean, 2)}


def as_markdown(result: dict[str, Any]) -> str:
    """Return the statistics of ``prepare`` as a page of Markdown tables."""
    out = ["# Prepared data", "", f"Lengths are in {result['unit']}.", "", "## Lines", ""]
    files: dict[str, dict[str, Any]] = result["files"]
    columns = ("lines", "blank", "bad", "set_aside")
    drops = ("exact_duplicate", "common_prefix", "user_cap", "pii")
    rows = [
        [name, one["kind"], *(one[column] for column in columns), *(one["dropped"][drop] for drop in drops)]
        + [one["written"][side] for side in SIDES]
        for name, one in files.items()
    ]
    out += _table(["file", "kind", *columns, *(f"dropped: {drop}" for drop in drops), *SIDES], rows)
    out += ["", "Lines are the sum of all columns to their right.", ""]
    for name, one in files.items():
        tables = one["tables"]
        out += [f"## {name}", "", "Records by source and split", ""]
        sources = list(dict.fromkeys(source for side in SIDES for source in tables["sizes"][side]))
        sizes = [[source, *(tables["sizes"][side].get(source, 0) for side in SIDES)] for source in sources]
        out += [*_table(["source", *SIDES], sizes), "", "Customers", ""]
        customers = [[side, *tables["customers"][side].values()] for side in SIDES]
        out += [*_table(["split", "customers", "prompts per customer"], customers), "", "Prompt lengths", ""]
        out += _lengths("split", tables["prompt_lengths"])
        if "demonstration_lengths" in tables:
            out += ["", "Demonstration lengths", "", *_lengths("source", tables["demonstration_lengths"])]
        if "use_cases" in tables:
            shares = [[case, f"{share:.1%}"] for case, share in tables["use_cases"].items()]
            out += ["", "Use cases", "", *_table(["use case", "share"], shares)]
        out.append("")
    return "\n".join(out)


def _lengths(first: str, table: dict[str, dict[str, float]]) -> list[str]:
    rows = [[name, *(values.get(column, "") for column in SUMMARY)] for name, values in table.items()]
    return _table([first, *SUMMARY], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in cells]


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
