"""What is selected of the records, by a written rule."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SYSTEM = "You are helpful."
"""Before every plain prompt, in place of SmolLM2's longer default: 12 tokens less for each sequence."""

BUNDLE = {
    "comparisons": ("hh_helpful", "oasst1", "qa_feedback"),
    "demonstrations": ("dolly_1k", "oasst1", "self_instruct_seed"),
    "prompts": ("hh_helpful_first_turn",),
    "text": ("gutenberg", "wikipedia"),
}
"""Kind of record -> the files that are used."""


@dataclass(frozen=True)
class Size:
    """How much is selected.

    Attributes:
        rankings: source -> the numbers of training and validation rankings.
        demonstrations: the most of a file, for SFT and to validate it.
        prompts: held-out prompts on which the policies are measured.
        documents: of pretraining text, for PPO and to measure the text loss on.
        episodes: of PPO.
        batch: episodes of one iteration of PPO.
        curve_points: reward models that are kept along the epoch, in equal steps.
        curve_part: of the epoch; those kept behind it are not measured, where measuring costs much.
        max_demonstration_chars: longer demonstrations (prompt and response) are not taken.
    """

    rankings: dict[str, tuple[int, int]]
    demonstrations: tuple[int, int]
    prompts: int
    documents: tuple[int, int]
    episodes: int
    batch: int = 32
    curve_points: int = 4
    curve_part: float = 0.6
    max_demonstration_chars: int = 700


ALL = 10**9
SOURCES = BUNDLE["comparisons"]
SIZES = {
    "trial": Size(dict.fromkeys(SOURCES, (8, 4)), (8, 4), 8, (8, 4), 32),
    "hour": Size(
        {"hh_helpful": (1200, 400), "oasst1": (300, ALL), "qa_feedback": (200, ALL)}, (400, 24), 100, (100, 40), 320
    ),
    "all": Size(
        dict.fromkeys(SOURCES, (ALL, ALL)),
        (ALL, ALL),
        400,
        (1000, 200),
        1024,
        batch=64,
        curve_points=8,
        curve_part=1.0,
        max_demonstration_chars=ALL,
    ),
}
"""Name -> how much: to see that it runs, what two CPU cores do in about an hour, all there is (on a GPU)."""


def read(path: Path) -> list[Row]:
    """Read JSON lines, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def find(data: Path, kind: str) -> list[tuple[str, Path]]:
    """(source, file) of a kind of record.

    Raises:
        SystemExit: a file is missing.
    """
    found, missing = [], []
    for name in BUNDLE[kind]:
        files = [path for end in (".jsonl.gz", ".jsonl") if (path := data / kind / f"{name}{end}").is_file()]
        found += [(name, path) for path in files[:1]]
        missing += [] if files else [f"{kind}/{name}.jsonl[.gz]"]
    if missing:
        raise SystemExit(f"{data} has no {', '.join(missing)} (docs/data.md says what they are)")
    return found


def to_messages(prompt: str, kind: str) -> list[dict[str, str]]:
    r"""A prompt as messages for the chat template: the system line, then the turns.

    ``dialog`` is ``\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ...\n\nAssistant:``; anything else is one user
    message.

    Raises:
        ValueError: a dialog that does not begin with Human or does not end with an open Assistant turn, or
            has two turns of one speaker in a row, or an empty one.
    """
    messages = [{"role": "system", "content": SYSTEM}]
    if kind != "dialog":
        return [*messages, {"role": "user", "content": prompt}]
    parts = [part for part in f"\n\n{prompt.strip()}".replace("\n\nHuman:", "\0user\1").replace(
        "\n\nAssistant:", "\0assistant\1").split("\0") if part]  # fmt: skip
    if "\1" not in parts[0]:
        raise ValueError("the dialog does not begin with Human:")
    turns = [(role, content.strip()) for role, content in (part.split("\1") for part in parts)]
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError("the turns of the dialog do not alternate from Human to an open Assistant")
    if turns[-1][1] or not all(content for _, content in turns[:-1]):
        raise ValueError("the dialog has an empty turn, or one behind its end")
    return messages + [{"role": role, "content": content} for role, content in turns[:-1]]


def num_chars(row: Row) -> int:
    """Length of a record: the prompt and all its replies."""
    return len(row["prompt"]) + sum(map(len, row.get("responses", []))) + len(row.get("response", ""))


def select_comparisons(rows: Sequence[Row], source: str, num: tuple[int, int]) -> tuple[dict[str, list[Row]], Row]:
    """The shortest usable rankings of a source, by split, and what was left out.

    Usable: no flag, not one big tie, no reply given twice, and a dialog that alternates. The shortest are taken,
    by characters of prompt and replies, then by id: nothing is drawn by chance.
    """
    counts = {"records": len(rows), "flagged": 0, "all_tied": 0, "same_reply_twice": 0, "bad_dialog": 0}
    usable = []
    for row in rows:
        try:
            messages = to_messages(row["prompt"], row.get("format", "plain"))
        except ValueError:
            counts["bad_dialog"] += 1
            continue
        if row.get("flag"):
            counts["flagged"] += 1
        elif len(set(row["ranking"])) == 1:
            counts["all_tied"] += 1
        elif len(set(row["responses"])) < len(row["responses"]):
            counts["same_reply_twice"] += 1
        else:
            usable.append((num_chars(row), row["id"], {
                "id": row["id"], "source": source, "split": row["split"], "prompt": messages,
                "responses": row["responses"], "ranking": row["ranking"],
            }))  # fmt: skip
    usable.sort(key=lambda item: item[:2])
    taken = {
        split: [(chars, row) for chars, _, row in usable if row["split"] == split][:limit]
        for split, limit in zip(("train", "valid"), num, strict=True)
    }
    for split, rows_ in taken.items():
        counts[split] = len(rows_)
        counts[f"{split}_pairs"] = sum(len(pairs(row)) for _, row in rows_)
        counts[f"{split}_prompts"] = len({prompt_key(row) for _, row in rows_})
        counts[f"{split}_longest_chars"] = max((chars for chars, _ in rows_), default=0)
    return {split: [row for _, row in rows_] for split, rows_ in taken.items()}, counts


def prompt_key(row: Row) -> str:
    """What makes a prompt the same prompt."""
    return json.dumps(row["prompt"])


def pairs(row: Row) -> list[tuple[int, int]]:
    """(index of the preferred reply, of the other one) for every untied pair of a ranking."""
    rank = row["ranking"]
    return [(i, j) for i in range(len(rank)) for j in range(len(rank)) if rank[i] < rank[j]]


def drawn(rows: Sequence[Row], num: int, seed: int) -> list[Row]:
    """``num`` rows by chance, in the order of the seed alone."""
    rows = sorted(rows, key=lambda row: str(row.get("id", row.get("text"))))
    random.Random(seed).shuffle(rows)
    return rows[:num]


def converted(row: Row, source: str) -> Row:
    """A demonstration or prompt with messages."""
    kept = {key: row[key] for key in ("id", "split", "response") if key in row}
    return {**kept, "source": source, "prompt": to_messages(row["prompt"], row.get("format", "plain"))}


def select(data: Path, out: Path, size: Size, seed: int) -> Row:
    """Write the records that are used to ``out``; returns the counts and the rules."""
    some = (
        f"of at most {size.max_demonstration_chars} characters, by chance; at most {size.demonstrations[0]} of a file"
    )
    report: Row = {"rules": {
        "comparisons": " ".join((select_comparisons.__doc__ or "").split("Usable:")[1].split()),
        "demonstrations": f"without flag, {some if size.demonstrations[0] < ALL else 'all'}",
        "prompts": "all of split train for PPO; held-out ones by chance from split valid",
        "text": "pieces by chance; the loss is measured on books and articles of which none was trained on",
        "prompt": f"messages for the chat template, with the system line {SYSTEM!r}",
    }, "comparisons": {}, "demonstrations": {}}  # fmt: skip
    comparisons: dict[str, list[Row]] = {"train": [], "valid": []}
    for source, path in find(data, "comparisons"):
        taken, counts = select_comparisons(read(path), source, size.rankings[source])
        report["comparisons"][source] = counts
        for split in comparisons:
            comparisons[split] += taken[split]
        write(out / f"comparisons.{source}.valid.jsonl", taken["valid"])
    for split, rows in comparisons.items():
        write(out / f"comparisons.{split}.jsonl", rows)

    for split, num in zip(("train", "valid"), size.demonstrations, strict=True):
        demos = []
        for source, path in find(data, "demonstrations"):
            fitting = [row for row in read(path) if row["split"] == split and not row.get("flag")
                       and num_chars(row) <= size.max_demonstration_chars]  # fmt: skip
            chosen = [converted(row, source) for row in drawn(fitting, num, seed)]
            report["demonstrations"].setdefault(source, {})[split] = len(chosen)
            demos += chosen
        write(out / f"demonstrations.{split}.jsonl", demos)

    prompts = [converted(row, source) for source, path in find(data, "prompts") for row in read(path)]
    train = [row for row in prompts if row["split"] == "train"]
    held_out = drawn([row for row in prompts if row["split"] == "valid"], size.prompts, seed)
    write(out / "prompts.train.jsonl", train)
    write(out / "prompts.valid.jsonl", held_out)
    report |= {"prompts_train": len(train), "prompts_valid": len(held_out)}

    works = [split_by_work(read(path), seed) for _, path in find(data, "text")]
    for split, part, num in zip(("train", "valid"), zip(*works, strict=True), size.documents, strict=True):
        pieces = drawn([{"text": row["text"]} for rows in part for row in rows], num, seed)
        write(out / f"text.{split}.jsonl", pieces)
        report[f"text_{split}"] = len(pieces)
    return report | {"episodes": size.episodes}


def split_by_work(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Pieces to train on, and those of a quarter of the books or articles, of which no piece is trained on."""
    of = [row["source"].rsplit(", part", 1)[0] for row in rows]
    works = sorted(set(of))
    random.Random(seed).shuffle(works)
    held_out = set(works[: max(len(works) // 4, 1)])
    parts: tuple[list[Row], list[Row]] = ([], [])
    for row, work in zip(rows, of, strict=True):
        parts[work in held_out].append(row)
    return parts
