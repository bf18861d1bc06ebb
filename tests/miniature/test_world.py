import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from miniature import generate, webtext
from miniature.customers import PREAMBLES, customers
from miniature.facts import FACTS
from miniature.gold import judge
from miniature.labelers import TRAINING, demonstrate
from miniature.vocab import CATEGORIES, CLASS_OF, sentences, words
from miniature.world import USE_CASES, sample_task

PAPER = {
    "generation": 0.456, "open_qa": 0.124, "brainstorming": 0.112, "chat": 0.084, "rewrite": 0.066,
    "summarization": 0.042, "classification": 0.035, "other": 0.035, "closed_qa": 0.026, "extract": 0.019,
}  # fmt: skip
PERSONAL = re.compile(r"@|555-")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("miniature")
    generate.main(["--out", str(out), "--seed", "7", "--web-words", "60000"])
    return out / "raw"


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_seed_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    script = "from miniature.generate import main; import sys; main(sys.argv[1:])"
    env = {"PYTHONHASHSEED": "123", "PYTHONPATH": str(Path(generate.__file__).parents[1])}
    args = ["--out", str(tmp_path), "--seed", "7", "--web-words", "60000"]
    subprocess.run([sys.executable, "-c", script, *args], check=True, env=env, stdout=subprocess.DEVNULL)
    names = sorted(path.name for path in raw.iterdir())
    assert names == [
        "demonstrations.jsonl",
        "prompts_ppo.jsonl",
        "prompts_rm.jsonl",
        "text.train.jsonl",
        "text.valid.jsonl",
    ]
    for name in names:
        assert (tmp_path / "raw" / name).read_bytes() == (raw / name).read_bytes()


def test_another_seed_gives_other_data(raw: Path, tmp_path: Path) -> None:
    generate.generate(tmp_path, 8, 1000, 1000)
    assert (tmp_path / "raw" / "prompts_ppo.jsonl").read_bytes() != (raw / "prompts_ppo.jsonl").read_bytes()


def test_use_cases_have_the_papers_shares(raw: Path) -> None:
    assert set(USE_CASES) == set(PAPER)
    rng = random.Random(0)
    golds = [sample_task(rng).gold for _ in range(8000)]
    counts = Counter(gold["use_case"] for gold in golds)
    for use_case, share in PAPER.items():
        assert counts[use_case] / 8000 == pytest.approx(share, abs=0.02)
    assert sum(gold["closed"] for gold in golds) / 8000 == pytest.approx(0.305, abs=0.03)
    rows = read(raw / "prompts_ppo.jsonl")
    assert Counter(row["use_case"] for row in rows)["generation"] / len(rows) == pytest.approx(0.45, abs=0.05)


def test_rows_have_the_agreed_keys(raw: Path) -> None:
    assert set(read(raw / "text.train.jsonl")[0]) == {"text"}
    rows = read(raw / "demonstrations.jsonl")
    assert set(rows[0]) == {"id", "prompt", "response", "user", "labeler", "use_case", "source"}
    assert all(row["user"] == row["labeler"] for row in rows if row["source"] == "labeler")
    assert Counter(row["source"] for row in rows)["labeler"] > len(rows) / 2
    for name in ("rm", "ppo"):
        prompts = read(raw / f"prompts_{name}.jsonl")
        assert set(prompts[0]) == {"id", "prompt", "user", "use_case", "gold"}
        assert len({row["id"] for row in prompts}) == len(prompts)


def test_customers_have_a_heavy_tail_and_habits(raw: Path) -> None:
    people = customers(random.Random(1), 400, 6000)
    sizes = sorted(customer.num_prompts for customer in people)
    assert len(people) == 400
    assert sum(sizes) == pytest.approx(6000, rel=0.1)
    assert sum(size > 200 for size in sizes) == 2
    assert sum(size <= 3 for size in sizes) > 60
    rows = read(raw / "prompts_ppo.jsonl")
    assert sum(any(row["prompt"].startswith(p) for p in PREAMBLES) for row in rows) > 20
    assert sum(bool(PERSONAL.search(row["prompt"])) for row in rows) > 10
    assert len({(row["user"], row["prompt"]) for row in rows}) < len(rows)


def test_the_vocabulary_is_closed() -> None:
    assert len(CLASS_OF) == sum(len(members) for members in CATEGORIES.values())
    rng = random.Random(3)
    seen = Counter(word for text in webtext.documents(rng, 520_000) for word in words(text))
    assert 380 <= len(seen) <= 800
    used: set[str] = set()
    for _ in range(4000):
        task = sample_task(rng)
        used.update(words(task.prompt), words(demonstrate(rng.choice(TRAINING), task.gold, rng)))
    assert {word for word in used if seen[word] < 10} == set()


def test_worked_pages_show_under_a_heading_a_task_done_right() -> None:
    for seed in range(300):
        page, task = webtext.worked(random.Random(seed)), sample_task(random.Random(seed))
        head = next(head for head in webtext.PAGE_HEADS if page.startswith(f"{head}\n"))
        answer = page.removeprefix(f"{head}\n{task.prompt}\n")
        assert judge(task.gold, answer).follows_instruction, page
        assert judge(task.gold, answer).satisfies_constraint is not False, page


def test_pages_that_are_asked_for_are_that_share_and_others_keep_theirs() -> None:
    texts = list(webtext.documents(random.Random(5), 100_000, worked_pages=0.2, unanswered_pages=0.4))
    heads = sum(text.startswith(webtext.PAGE_HEADS) for text in texts) / len(texts)
    assert heads == pytest.approx(0.2, abs=0.04)
    rude = [sum(text.startswith("It is rude to say:") for text in found) / len(found)
              for found in (texts, list(webtext.documents(random.Random(6), 100_000)))]  # fmt: skip
    assert rude[0] / rude[1] == pytest.approx(0.4, abs=0.1), "0.4 of the pages are as ever"
    plain = list(webtext.documents(random.Random(5), 2_000))
    assert not any(text.startswith(webtext.PAGE_HEADS) for text in plain)


def test_the_command_gives_each_kind_of_page_its_share(tmp_path: Path) -> None:
    def shares(name: str, *options: str) -> tuple[float, float]:
        """Of worked pages, and of those that say what is rude, which are as ever."""
        generate.main(["--out", str(tmp_path / name), "--web-words", "200000", "--worked-pages", "0.1", *options])
        lines = (tmp_path / name / "raw/text.train.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines]
        return tuple(sum(map(has, texts)) / len(texts) for has in (
            lambda text: text.startswith(webtext.PAGE_HEADS), lambda text: text.startswith("It is rude to say:")
        ))  # type: ignore[return-value]  # fmt: skip

    both, worked_alone = shares("both", "--unanswered-pages", "0.5"), shares("alone")
    assert (both[0], worked_alone[0]) == (pytest.approx(0.1, abs=0.03), pytest.approx(0.1, abs=0.03))
    assert both[1] / worked_alone[1] == pytest.approx(0.4 / 0.9, abs=0.15), "0.4 of the pages are as ever, else 0.9"


def test_facts_are_many_and_often_stated() -> None:
    assert 100 <= sum(len(table) for table in FACTS.values()) <= 160
    text = "\n".join(webtext.documents(random.Random(4), 520_000))
    for town, river in FACTS["river"].items():
        assert len(re.findall(rf"{river} runs through {town}\.", text)) >= 30
    for town, mayor in FACTS["mayor"].items():
        assert len(re.findall(rf"mayor of {town} is {mayor}\.", text)) >= 30


def test_sentences_are_cut_at_marks() -> None:
    assert sentences("It is Anna. Yes!") == [["It", "is", "Anna", "."], ["Yes", "!"]]
    assert sentences("No end") == [["No", "end"]]
    assert sentences(" ... ?") == []
