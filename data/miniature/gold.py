"""The truth: judges any response to a task of the miniature from its gold specification alone."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from miniature.templates import ALL_PAIRS, GOOD_PAIRS, TASK_PAIRS, pairs
from miniature.vocab import CATEGORIES, CLASS_OF, NUMBERS, sentences, words
from miniature.world import Gold


@dataclass(frozen=True)
class Judgement:
    """What is true of a response to a prompt."""

    follows_instruction: bool
    hallucination: bool | None
    satisfies_constraint: bool | None
    fluent: bool
    likert: int
    utility: float


@dataclass(frozen=True)
class Features:
    """The measured properties of a response, each between 0 and 1 unless it is a count."""

    num_words: int
    num_sentences: int
    coverage: float
    num_required: int
    foreign: int
    repeated: bool
    complete: bool
    form: float
    task_form: float
    good_form: float
    closing: bool
    too_long: bool
    list_items: int


def _share(sents: list[list[str]], known: frozenset[tuple[str, str]]) -> float:
    """Return the share of neighbouring word classes that are known."""
    found = [pair for sentence in sents for pair in pairs(sentence)]
    return sum(pair in known for pair in found) / len(found) if found else 0.0


def _repeated(sents: list[list[str]], gold: Gold) -> bool:
    """Tell whether a response says a sentence, a run of four words or a word in a row twice."""
    if len({tuple(sentence) for sentence in sents}) < len(sents):
        return True
    for sentence in sents:
        said = [token for token in sentence if token[0].isalnum()]
        if gold["task"] != "repeat" and any(a == b for a, b in pairwise(said)):
            return True
    if gold["task"] == "repeat":
        return False
    flat = [token for sentence in sents for token in sentence if token[0].isalnum()]
    runs = Counter(tuple(flat[i : i + 4]) for i in range(len(flat) - 3))
    return any(count > 1 for count in runs.values())


def _foreign(said: list[str], gold: Gold) -> int:
    """Count the words that claim something the task does not give."""
    allowed = {*gold["slots"].values(), *gold.get("allowed", ())}
    constraint = gold["constraint"] or {}
    if constraint.get("type") == "use":
        allowed.add(constraint["word"])
    strangers = {w for w in said if CLASS_OF.get(w) in gold["scope"] and w not in allowed}
    return len(strangers | {w for w in said if w in gold.get("wrong", ())})


def measure(gold: Gold, response: str) -> Features:
    """Measure the properties of a response that its judgement rests on."""
    sents = sentences(response)
    said = words(response)
    held = sum(any(option in said for option in group.split("|")) for group in gold["require"])
    listed = gold["list"]
    items = [w for w in said if w in CATEGORIES[listed]] if listed else []
    text = response.strip()
    complete = bool(sents) and sents[-1][-1] in ".!?" and text[0].isupper() and text[-1] in ".!?"
    task = gold["task"]
    return Features(
        num_words=len(said),
        num_sentences=len(sents),
        coverage=held / len(gold["require"]) if gold["require"] else 1.0,
        num_required=held,
        foreign=_foreign(said, gold),
        repeated=_repeated(sents, gold) or len(items) > len(set(items)),
        complete=complete,
        form=_share(sents, ALL_PAIRS),
        task_form=_share(sents, TASK_PAIRS[task]),
        good_form=_share(sents, GOOD_PAIRS[task]),
        closing=any(phrase in response for phrase in CLOSINGS),
        too_long=len(said) > gold["max_words"],
        list_items=len(set(items)),
    )


CLOSINGS = (
    "With love, your friend.",
    "Best wishes to you.",
    "Please take care.",
    "Have a good day.",
    "Thank you.",
)


def _constraint(gold: Gold, response: str, f: Features) -> bool | None:
    """Tell whether the constraint holds; None when there is none."""
    constraint: dict[str, Any] | None = gold["constraint"]
    if constraint is None:
        return None
    if f.num_words < 3 or f.task_form < 0.5 or f.too_long:
        return False
    kind, said = constraint["type"], words(response)
    if kind == "sentences":
        return bool(f.num_sentences == constraint["n"]) and f.complete
    if kind == "words":
        return bool(f.num_words <= constraint["n"])
    if kind == "use":
        return constraint["word"] in said
    if kind == "avoid":
        return constraint["word"] not in said
    if kind == "repeat":
        return bool(said.count(constraint["word"]) == constraint["n"])
    stated = {NUMBERS[w] for w in said if w in NUMBERS} - {constraint["n"]}
    return bool(f.list_items == constraint["n"]) and not stated and constraint.get("avoid") not in said


def _follows(gold: Gold, f: Features) -> bool:
    """Tell whether a response does what was asked, its constraint aside."""
    if f.num_required < gold["min_required"] or f.task_form < 0.8 or f.repeated or f.too_long:
        return False
    if gold["list"] and not 2 <= f.list_items <= 6:
        return False
    return bool(gold["closed"]) or f.foreign == 0


def _likert(f: Features, follows: bool, lies: bool | None, kept: bool | None, fluent: bool) -> int:
    """Rate a response from 1 to 7."""
    score = 1.0 + 1.0 * (f.coverage if f.num_words else 0.0) + 2.0 * follows + 1.0 * fluent
    score += 0.0 if lies else 1.0 * follows
    score += 0.0 if kept is False else 1.0 * follows
    return max(1, min(7, round(score)))


def judge(gold: Gold, response: str) -> Judgement:
    """Judge any string as a response to the task of a gold specification."""
    f = measure(gold, response)
    follows = _follows(gold, f)
    lies = f.foreign > 0 if gold["closed"] else None
    kept = _constraint(gold, response, f)
    fluent = f.form >= 0.9 and f.complete and not f.repeated
    aside = max(0, f.num_words - 14) * 0.04
    utility = (
        2.0 * follows
        + 1.0 * (f.coverage if f.task_form >= 0.5 else 0.0)
        - 1.5 * (f.foreign > 0)
        - 0.3 * max(0, min(f.foreign, 4) - 1)
        + 1.5 * (kept is True)
        + 1.0 * (f.form if f.num_words >= 2 else 0.0)
        + 0.5 * f.complete
        + 0.4 * f.good_form
        - 1.0 * f.repeated
        - 1.0 * f.too_long
        + 0.3 * (f.closing and gold["courteous"] and follows)
        - aside
    )
    return Judgement(follows, lies, kept, fluent, _likert(f, follows, lies, kept, fluent), round(utility, 6))


class Judge:
    """Judges responses to prompt records that hold a `gold` specification."""

    def __call__(self, records: list[dict[str, Any]], responses: list[str]) -> list[dict[str, float | None]]:
        """Return one mapping of metrics for each record and its response."""
        if len(records) != len(responses):
            raise ValueError(f"{len(records)} records but {len(responses)} responses")
        return [self._one(record["gold"], text) for record, text in zip(records, responses, strict=True)]

    @staticmethod
    def _one(gold: Gold, response: str) -> dict[str, float | None]:
        """Judge one response."""
        verdict = judge(gold, response)
        lies, kept = verdict.hallucination, verdict.satisfies_constraint
        return {
            "utility": verdict.utility,
            "follows_instruction": float(verdict.follows_instruction),
            "hallucination": None if lies is None else float(lies),
            "satisfies_constraint": None if kept is None else float(kept),
            "likert": float(verdict.likert),
        }
