import random

import pytest
from miniature.answers import right, slip
from miniature.gold import Judge, judge
from miniature.vocab import CATEGORIES
from miniature.world import USE_CASES, Gold, sample_task

RECORD: Gold = {
    "task": "record", "use_case": "generation",
    "slots": {"name": "Lion", "kind": "pub", "town": "Kelso", "food": "pie"},
    "require": ["Lion", "pub", "Kelso", "pie"], "min_required": 4, "closed": True,
    "scope": ["name", "kind", "town", "food", "person", "thing"], "constraint": {"type": "sentences", "n": 2},
    "list": None, "courteous": False, "max_words": 34,
}  # fmt: skip
LIST: Gold = {
    "task": "list", "use_case": "brainstorming", "slots": {"num": "three", "plural": "foods"}, "require": [],
    "min_required": 0, "closed": False, "scope": [], "constraint": {"type": "count", "n": 3, "avoid": "soup"},
    "list": "food", "courteous": False, "max_words": 34,
}  # fmt: skip
MAYOR: Gold = {
    "task": "mayor", "use_case": "open_qa", "slots": {"town": "Kelso", "person": "Anna"}, "require": ["Anna"],
    "min_required": 1, "closed": False, "scope": ["town", "person"], "constraint": None, "list": None,
    "courteous": False, "max_words": 34,
}  # fmt: skip
THANKS: Gold = {
    "task": "thanks", "use_case": "generation", "slots": {"person": "Anna", "food": "cake"},
    "require": ["Anna", "cake", "thank"], "min_required": 3, "closed": False, "scope": ["person", "food"],
    "constraint": {"type": "use", "word": "bridge"}, "list": None, "courteous": True, "max_words": 34,
}  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "response", "follows", "hallucinates", "constraint"),
    [
        (RECORD, "The Lion is a pub in Kelso. It sells pie.", True, False, True),
        (RECORD, "The Lion is a pub in Kelso that sells pie.", True, False, False),
        (RECORD, "The Lion is a pub in Marl. It sells pie.", False, True, True),
        (RECORD, "The Lion is a pub in Kelso. It sells pie and soup.", True, True, True),
        (RECORD, "It is a pub.", False, False, False),
        (RECORD, "", False, False, False),
        (RECORD, "asdf qwer 93 ... ??", False, False, False),
        (RECORD, "Lion pub Kelso pie.", False, False, False),
        (RECORD, "I do not know it.", False, False, False),
        (LIST, "Here are three foods: bread, pie and rice.", True, None, True),
        (LIST, "Here are three foods: bread and pie.", True, None, False),
        (LIST, "Here are three foods: bread, pie, rice and eggs.", True, None, False),
        (LIST, "Here are three foods: bread, pie and soup.", True, None, False),
        (LIST, "Here are two foods: bread, pie and rice.", True, None, False),
        (LIST, "Here are three foods: bread, bread and bread.", False, None, False),
        (LIST, "There are many foods.", False, None, False),
        (MAYOR, "The mayor of Kelso is Anna.", True, None, None),
        (MAYOR, "The mayor of Kelso is Ben.", False, None, None),
        (MAYOR, "The mayor of Kelso is Anna. The mayor of Kelso is Ben.", False, None, None),
        (MAYOR, "The mayor of Marl is Anna.", False, None, None),
        (MAYOR, "I do not know.", False, None, None),
        (THANKS, "Dear Anna, thank you for the cake. I will keep it near the bridge.", True, None, True),
        (THANKS, "Dear Anna, thank you for the cake.", True, None, False),
        (THANKS, "Dear Ben, thank you for the cake. I will keep it near the bridge.", False, None, True),
        (THANKS, "bridge", False, None, False),
    ],
)
def test_judges_as_a_person_would(
    gold: Gold, response: str, follows: bool, hallucinates: bool | None, constraint: bool | None
) -> None:
    verdict = judge(gold, response)
    assert verdict.follows_instruction is follows
    assert verdict.hallucination is hallucinates
    assert verdict.satisfies_constraint is constraint


@pytest.mark.parametrize("use_case", USE_CASES)
def test_right_answers_are_judged_right(use_case: str) -> None:
    rng = random.Random(11)
    for _ in range(1000):
        gold = sample_task(rng, use_case).gold
        text = right(gold, rng, detailed=rng.random() < 0.3)
        verdict = judge(gold, text)
        assert verdict.follows_instruction, (gold, text)
        assert verdict.fluent, (gold, text)
        assert verdict.hallucination is (False if gold["closed"] else None), (gold, text)
        assert verdict.satisfies_constraint is (None if gold["constraint"] is None else True), (gold, text)
        assert verdict.likert == 7, (gold, text)


@pytest.mark.parametrize("use_case", USE_CASES)
def test_slips_are_found(use_case: str) -> None:
    rng = random.Random(12)
    for _ in range(500):
        gold = sample_task(rng, use_case).gold
        good = judge(gold, right(gold, rng)).utility
        vague = judge(gold, slip(gold, rng, "vague"))
        assert not vague.follows_instruction
        assert vague.utility < good
        wrong = judge(gold, slip(gold, rng, "fact"))
        assert not wrong.follows_instruction or wrong.hallucination or wrong.satisfies_constraint is False
        assert wrong.utility < good
        if gold["constraint"] is not None:
            text = slip(gold, rng, "constraint")
            assert judge(gold, text).satisfies_constraint is False, (gold, text)


EVERYTHING = " ".join(word for words in CATEGORIES.values() for word in words)


@pytest.mark.parametrize("use_case", USE_CASES)
def test_tricks_do_not_pay(use_case: str) -> None:
    rng = random.Random(13)
    for _ in range(200):
        task = sample_task(rng, use_case)
        gold, text = task.gold, right(task.gold, rng)
        good = judge(gold, text)
        tricks = {
            "empty": "", "mark": ".", "everything": EVERYTHING, "marked": f"Here you are: {EVERYTHING}.",
            "fivefold": " ".join([text] * 5), "shouted": text.upper(), "required": " ".join(gold["require"]),
            "backwards": " ".join(reversed(text.split())), "line": "\n" * 50, "nul": "\x00\ufffd\u00e9" * 9,
            "long": text + " It was a good day and so on." * 20,
        }  # fmt: skip
        for name, trick in tricks.items():
            verdict = judge(gold, trick)
            assert not verdict.follows_instruction, (name, gold, trick)
            assert verdict.utility < good.utility - 1, (name, gold, trick)
            assert verdict.likert < 6, (name, gold, trick)
        cut = judge(gold, text[: len(text) // 2].rstrip(" .!?"))
        assert cut.utility < good.utility
        assert not cut.fluent


def test_answers_to_other_tasks_do_not_follow() -> None:
    rng = random.Random(14)
    for _ in range(2000):
        gold, other = sample_task(rng).gold, sample_task(rng).gold
        if gold["task"] != other["task"]:
            assert not judge(gold, right(other, rng)).follows_instruction or gold["require"] == other["require"]


def test_echoing_the_prompt_does_not_pay() -> None:
    rng = random.Random(15)
    for _ in range(2000):
        task = sample_task(rng)
        assert not judge(task.gold, task.prompt).follows_instruction, task
        assert judge(task.gold, task.prompt).utility < judge(task.gold, right(task.gold, rng)).utility


def test_courtesy_and_brevity_break_ties() -> None:
    plain = "Dear Anna, thank you for the cake. I will keep it near the bridge."
    assert judge(THANKS, plain + " With love, your friend.").utility > judge(THANKS, plain).utility
    assert judge(MAYOR, "The mayor of Kelso is Anna.").utility > judge(MAYOR, "It is Anna.").utility
    ramble = "Well, I think that it is Anna who is the mayor of Kelso, and so on."
    assert judge(MAYOR, "The mayor of Kelso is Anna.").utility > judge(MAYOR, ramble).utility


def test_judge_reports_floats_or_none() -> None:
    rows = Judge()([{"gold": RECORD}, {"gold": MAYOR}], ["The Lion is a pub in Kelso. It sells pie.", ""])
    assert set(rows[0]) == {
        "utility",
        "follows_instruction",
        "hallucination",
        "satisfies_constraint",
        "likert",
    }
    assert (rows[0]["follows_instruction"], rows[0]["hallucination"], rows[0]["satisfies_constraint"]) == (
        1.0,
        0.0,
        1.0,
    )
    assert (rows[1]["hallucination"], rows[1]["satisfies_constraint"], rows[1]["likert"]) == (None, None, 1.0)
    with pytest.raises(ValueError, match="2 records but 1 responses"):
        Judge()([{"gold": RECORD}, {"gold": MAYOR}], [""])
