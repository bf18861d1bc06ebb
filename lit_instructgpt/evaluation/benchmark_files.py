"""Reads the files of the paper's automatic evaluations; every line is used or named, with what is wrong with it.

Nothing is downloaded. Field and column names are those of the files as their authors publish them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_instructgpt.evaluation.rows import MISSING, field_of, inside, items, objects, refuse, table
from lit_instructgpt.records_lines import LineProblem, shown


@dataclass(frozen=True)
class Question:
    """A question of TruthfulQA. Answers end with a full stop, as its authors' ``split_multi_answer`` closes them.

    Attributes:
        question: as it is asked.
        best: the best of the correct answers.
        correct: reference answers that are true, the best among them.
        incorrect: those that are false.
    """

    question: str
    best: str
    correct: list[str]
    incorrect: list[str]


@dataclass(frozen=True)
class SentencePair:
    """Two sentences that differ in the group they speak of.

    Attributes:
        first: the more stereotyping one (CrowS-Pairs), the one with male pronouns (Winogender).
        second: the other.
        kind: type of bias (CrowS-Pairs); ``participant`` or ``someone``, who the occupation deals with (Winogender).
    """

    first: str
    second: str
    kind: str


@dataclass(frozen=True)
class Story:
    """An item of HellaSwag as its authors publish it.

    Attributes:
        activity: of the caption or the how-to.
        context: ``ctx_a`` and ``ctx_b``.
        endings: the choices.
        label: number of the right one.
    """

    activity: str
    context: tuple[str, str]
    endings: list[str]
    label: int


def read_truthfulqa(path: str) -> list[Question]:
    """TruthfulQA.csv of either revision (2021: 817 questions; 2025: 790).

    Raises:
        ValueError: with every problem, as ``FILE:LINE: COLUMN: problem``.
        FileNotFoundError: there is no such file.
    """

    def item(row: Mapping[str, str]) -> Question:
        best = _closed(row["Best Answer"])
        correct = [_closed(text) for text in row["Correct Answers"].split(";") if text.strip()]
        incorrect = [_closed(text) for text in row["Incorrect Answers"].split(";") if text.strip()]
        for column, answers in (("Correct Answers", correct), ("Incorrect Answers", incorrect)):
            if not answers:
                raise LineProblem(column, "holds no answer; answers stand between semicolons")
        correct = list(dict.fromkeys([*correct, best]))
        return Question(row["Question"].strip(), best, correct, list(dict.fromkeys(incorrect)))

    columns = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    return items(path, table(path, ",", columns), item)


def read_crows_pairs(path: str) -> list[SentencePair]:
    """crows_pairs_anonymized.csv; ``sent_more`` stereotypes more than ``sent_less``.

    Raises:
        ValueError: as ``read_truthfulqa``.
        FileNotFoundError: there is no such file.
    """

    def item(row: Mapping[str, str]) -> SentencePair:
        return SentencePair(row["sent_more"], row["sent_less"], row["bias_type"])

    return items(path, table(path, ",", ("sent_more", "sent_less", "bias_type")), item)


def read_winogender(path: str) -> list[SentencePair]:
    """all_sentences.tsv of Winogender: the male and the female version of every sentence.

    The paper asks 120 binary questions and shows sentences with ``he`` and ``she`` (Figure 14), so the third version,
    ``they``, is left out. The file has 240 pairs: 120 name the other participant, as the paper's examples do
    (``kind`` participant), and 120 call them "someone".

    Raises:
        ValueError: as ``read_truthfulqa``.
        FileNotFoundError: there is no such file.
    """
    versions: dict[tuple[str, ...], dict[str, str]] = {}

    def item(row: Mapping[str, str]) -> None:
        parts = tuple(row["sentid"].removesuffix(".txt").rsplit(".", 3))
        if len(parts) != 4 or parts[3] not in ("male", "female", "neutral"):
            raise LineProblem(
                "sentid", f"must be OCCUPATION.PARTICIPANT.ANSWER.GENDER.txt, found {shown(row['sentid'])}"
            )
        found = versions.setdefault(parts[:3], {})
        if parts[3] in found:
            raise LineProblem("sentid", f"{row['sentid']} has stood above already; keep one")
        found[parts[3]] = row["sentence"]

    items(path, table(path, "\t", ("sentid", "sentence")), item)
    lacking = [
        f"{path}: sentid: {'.'.join(name)}.{gender}.txt is in no line; add it"
        for name, found in versions.items()
        for gender in ("male", "female")
        if gender not in found
    ]
    refuse(lacking)
    return [
        SentencePair(found["male"], found["female"], "someone" if name[1] == "someone" else "participant")
        for name, found in versions.items()
    ]


BRACKETS = re.compile(r"\[.*?\]")


def clean(text: str) -> str:
    """Text of HellaSwag without the marks of WikiHow, as lm-evaluation-harness has it.

    A title becomes a sentence of its own, all else in square brackets goes, and two spaces become one.
    """
    return BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def read_hellaswag(path: str) -> list[Story]:
    """HellaSwag as ``.jsonl`` or ``.jsonl.gz``.

    Raises:
        ValueError: as ``read_truthfulqa``.
        FileNotFoundError: there is no such file.
    """

    def item(row: Mapping[str, Any]) -> Story:
        endings, label = row.get("endings"), row.get("label")
        if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(e, str) and e for e in endings):
            raise LineProblem("endings", f"must be a list of two or more texts, found {shown(endings)}")
        if unread := [ending for ending in endings if not clean(ending)]:
            raise LineProblem("endings", f"holds {shown(unread[0])}, of which nothing is left without marks and spaces")
        if isinstance(label, str) and label.isdecimal():  # as the Hugging Face copy has it
            label = int(label)
        if not isinstance(label, int) or not 0 <= label < len(endings):
            raise LineProblem(
                "label", f"must be the number of an ending, 0 to {len(endings) - 1}, found {shown(label)}"
            )
        activity, first, second = (_text(row, name, name == "ctx_b") for name in ("activity_label", "ctx_a", "ctx_b"))
        return Story(activity, (first, second), endings, label)

    return items(path, objects(path), item)


def read_prompts(path: str) -> list[str]:
    """RealToxicityPrompts as ``.jsonl`` or ``.jsonl.gz``: ``prompt`` is a text, or an object with ``text``.

    Raises:
        ValueError: as ``read_truthfulqa``.
        FileNotFoundError: there is no such file.
    """

    def item(row: Mapping[str, Any]) -> str:
        return field_of(row, "prompt.text" if isinstance(row.get("prompt"), dict) else "prompt")

    return items(path, objects(path), item)


def read_scored_texts(path: str, text: str, score: str) -> list[tuple[str, float] | None]:
    """Texts with a score between 0 and 1 as ``.jsonl`` or ``.jsonl.gz``; None for a line whose score is null.

    Args:
        path: of the file.
        text: name of the field of the text; ``a.b`` is field b of the object a.
        score: of the score, in the same way.

    Raises:
        ValueError: as ``read_truthfulqa``.
        FileNotFoundError: there is no such file.
    """

    def item(row: Mapping[str, Any]) -> tuple[str, float] | None:
        value = inside(row, score, MISSING)
        if value is MISSING:
            raise LineProblem(score, "is not there")
        if value is None:  # RealToxicityPrompts has texts that the service gave no score
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise LineProblem(score, f"must be a number from 0 to 1, found {shown(value)}")
        return field_of(row, text), float(value)

    return items(path, objects(path), item)


def _text(row: Mapping[str, Any], name: str, may_be_empty: bool) -> str:
    return "" if may_be_empty and row.get(name) == "" else field_of(row, name)


def _closed(answer: str) -> str:
    answer = answer.strip()
    return answer if answer.endswith(".") else f"{answer}."
