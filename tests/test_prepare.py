"""The paper's data preparation, against brute force and hand-counted numbers."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_instructgpt.prepare import prepare
from lit_instructgpt.prepare_filters import SIDES, drop_shared_prefixes, find_pii, mask_pii, prompt_text
from lit_instructgpt.prepare_tables import summarise
from lit_instructgpt.records import (
    Comparison,
    Demonstration,
    Prompt,
    RecordError,
    Sourced,
    Text,
    read_records,
)


def write(path: Path, rows: list[dict]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def read(out: Path, name: str, side: str) -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}.{side}.jsonl").read_text().splitlines()]


def read_all(out: Path, name: str) -> list[dict]:
    return [row for side in SIDES for row in read(out, name, side)]


def accounted(one: dict) -> int:
    left_out = one["blank"] + one["bad"] + one["set_aside"] + sum(one["dropped"].values())
    return left_out + sum(one["written"].values())


@pytest.fixture
def collected(tmp_path) -> list[str]:
    """Three files of the same 40 users, with bad lines nowhere and personal data in some."""
    demos, pairs, prompts = [], [], []
    for n in range(400):
        user = f"user {n % 40}"
        pii = " mail me at a.b@example.org" if n % 7 == 0 else ""
        demos.append({"prompt": f"{n} demo{pii}", "response": f"answer {n}", "user": user, "gold": n})
        pairs.append({"prompt": f"{n} pair", "chosen": "a", "rejected": f"b{pii}", "user": user})
        prompts.append({"prompt": f"{n} prompt", "user": user, "use_case": "chat" if n % 4 else "rewrite"})
    paths = (
        (tmp_path / "demos.jsonl", demos),
        (tmp_path / "pairs.jsonl.gz", pairs),
        (tmp_path / "asked.jsonl", prompts),
    )
    return [write(path, rows) for path, rows in paths]


def test_no_user_is_on_two_sides_of_any_file(collected, tmp_path):
    out = tmp_path / "out"
    result = prepare(collected, str(out), pii="keep", valid_fraction=0.2, test_fraction=0.2)
    names = ("demos", "pairs", "asked")
    users = {side: {row["user"] for name in names for row in read(out, name, side)} for side in SIDES}
    assert all(users.values())
    assert sum(map(len, users.values())) == len(set().union(*users.values())) == 40
    assert all(result["files"][name]["written"] == result["files"]["demos"]["written"] for name in names)


def test_fractions_are_met_and_records_without_a_user_go_by_their_prompt(tmp_path):
    rows = [{"prompt": f"{n} words"} for n in range(4000)]
    both = [write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[::-1])]
    result = prepare(both, str(tmp_path / "out"), valid_fraction=0.1, test_fraction=0.25)
    written = result["files"]["a"]["written"]
    assert abs(written["valid"] - 400) < 80  # 4 standard deviations
    assert abs(written["test"] - 1000) < 110
    assert sorted(map(str, read(tmp_path / "out", "a", "test"))) == sorted(
        map(str, read(tmp_path / "out", "b", "test"))
    )


def test_lines_are_accounted_for_and_kept_as_they_were(collected, tmp_path):
    result = prepare(collected, str(tmp_path / "out"))
    for one in result["files"].values():
        assert one["lines"] == 400 == accounted(one)
    original = set(Path(collected[0]).read_text().splitlines())
    kept = [line for side in SIDES for line in (tmp_path / "out" / f"demos.{side}.jsonl").read_text().splitlines()]
    assert set(kept) <= original
    assert json.loads((tmp_path / "out" / "statistics.json").read_text()) == result


def test_personal_data_leaves_the_train_split_only(collected, tmp_path):
    kept = prepare(collected, str(tmp_path / "keep"), pii="keep", valid_fraction=0.3)["files"]["demos"]["written"]
    dropped = prepare(collected, str(tmp_path / "drop"), pii="drop", valid_fraction=0.3)["files"]["demos"]
    masked = prepare(collected, str(tmp_path / "mask"), pii="mask", valid_fraction=0.3)["files"]["demos"]
    holding = {side: [row for row in read(tmp_path / "keep", "demos", side) if "@" in row["prompt"]] for side in SIDES}
    assert all(holding.values())
    expected = len(holding["train"])
    assert dropped["dropped"]["pii"] == expected == masked["train_pii_found"]["email"]
    assert dropped["written"] == {**kept, "train": kept["train"] - expected}
    assert masked["written"] == kept
    for policy in ("drop", "mask"):
        assert not [row for row in read(tmp_path / policy, "demos", "train") if "@" in row["prompt"]]
        for side in ("valid", "test"):
            name = f"demos.{side}.jsonl"
            assert (tmp_path / policy / name).read_bytes() == (tmp_path / "keep" / name).read_bytes()
    assert any(row["prompt"].endswith(" mail me at [EMAIL]") for row in read(tmp_path / "mask", "demos", "train"))
    assert any(row["rejected"] == "b mail me at [EMAIL]" for row in read(tmp_path / "mask", "pairs", "train"))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to jane.doe+x@mail.example.co.uk, please", "to [EMAIL], please"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("number 4111 1111 1111 1112", "number 4111 1111 1111 1112"),  # wrong check digit
        ("call +44 20 7946 0958 or (555) 123-4567 or 555-123-4567", "call [PHONE] or [PHONE] or [PHONE]"),
        ("ssn 078-05-1120, not 666-05-1120", "ssn [SSN], not 666-05-1120"),
        ("host 192.168.0.1 but not 1.2.3.400 or 1.2.3.4.5", "host [IPV4] but not 1.2.3.400 or 1.2.3.4.5"),
        ("pay GB82 WEST 1234 5698 7654 32 now", "pay [IBAN] now"),
        ("pay GB82 WEST 1234 5698 7654 33 now", "pay GB82 WEST 1234 5698 7654 33 now"),
        (
            "in 1914-1918, 3.14159, 12:30, 1,000,000, 2022-03-04",
            "in 1914-1918, 3.14159, 12:30, 1,000,000, 2022-03-04",
        ),
    ],
)
def test_patterns(text, masked):
    assert mask_pii(text) == masked
    assert find_pii(masked) == []


def test_cap_counts_prompts_per_user_and_file(tmp_path):
    rows = [{"prompt": f"{n} a", "user": f"u{n % 3}"} for n in range(60)] + [{"prompt": f"{n} b"} for n in range(30)]
    source = write(tmp_path / "p.jsonl", rows)
    result = prepare([source], str(tmp_path / "out"), max_prompts_per_user=7)
    kept = read_all(tmp_path / "out", "p")
    assert [sum(row.get("user") == user for row in kept) for user in ("u0", "u1", "u2", None)] == [
        7,
        7,
        7,
        30,
    ]
    assert {row["prompt"] for row in kept if row.get("user") == "u0"} == {f"{n} a" for n in range(0, 21, 3)}
    assert result["files"]["p"]["dropped"]["user_cap"] == 60 - 21


def share_prefix(one: str, two: str, length: int) -> bool:
    return one == two or (length > 0 and min(len(one), len(two)) >= length and one.startswith(two[:length]))


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.text("ab", min_size=1, max_size=8), max_size=20), st.integers(0, 5))
def test_prefix_rule_is_that_of_the_definition(prompts, length):
    expected: list[str] = []
    for prompt in prompts:
        if not any(share_prefix(prompt, kept, length) for kept in expected):
            expected.append(prompt)
    rows = [Sourced(Prompt(prompt=prompt), "f", 1, "") for prompt in prompts]
    kept, dropped = drop_shared_prefixes(rows, length)
    assert [prompt_text(row.record) for row in kept] == expected
    assert sum(dropped.values()) == len(prompts) - len(expected)


def test_what_counts_as_the_same_prompt():
    long = "x" * 70
    system = {"role": "system", "content": "s" * 100}
    chats = [[system, {"role": "user", "content": text}] for text in ("one", "two", "one")]
    pair = {"prompt": "p", "responses": ["a", "b"], "ranking": [1, 2]}

    def kept(records) -> int:
        return len(drop_shared_prefixes([Sourced(one, "f", 1, "") for one in records], 64)[0])

    assert kept([Prompt.model_validate({"prompt": chat}) for chat in chats]) == 2
    assert kept([Comparison(**pair, labeler=name) for name in ("w1", "w2", "w1")]) == 2
    assert kept([Demonstration(prompt=long + end, response="r") for end in "abc"]) == 1
    pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("b", "a")]  # the last is the first again
    assert kept([Comparison(prompt="p", responses=list(two), ranking=[1, 2]) for two in pairs]) == 3
    assert kept([Comparison(prompt=long + end, responses=["a", end], ranking=[1, 2]) for end in "xyz"]) == 1
    assert kept([Text(text=long + end) for end in "aab"]) == 2


def test_equal_input_gives_equal_output_and_a_new_seed_another_division(collected, tmp_path):
    for folder in ("one", "two"):
        prepare(collected, str(tmp_path / folder))
    prepare(collected, str(tmp_path / "one"))  # over its own output
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 11
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    prepare(collected, str(tmp_path / "three"), seed=1)
    users = [{row["user"] for row in read(tmp_path / folder, "asked", "test")} for folder in ("one", "three")]
    assert users[0] != users[1]
    assert not list(tmp_path.glob(".prepare-*"))


def test_other_directories_are_not_touched(collected, tmp_path):
    out = tmp_path / "out"
    prepare(collected, str(out))
    with pytest.raises(ValueError, match="was written with other settings; choose another --out"):
        prepare(collected, str(out), seed=1)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, which this command does not write; choose another"):
        prepare(collected, str(out))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "demos.train.jsonl").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and holds no statistics\.json"):
        prepare(collected, str(tmp_path / "full"))
    assert (tmp_path / "full" / "demos.train.jsonl").read_text() == "mine"
    with pytest.raises(ValueError, match=r"demos\.jsonl is a file; choose another --out"):
        prepare(collected, collected[0])


def test_bad_settings_are_listed_together(tmp_path):
    with pytest.raises(ValueError, match="at least one file") as caught:
        prepare(
            [],
            str(tmp_path / "o"),
            common_prefix=-1,
            max_prompts_per_user=0,
            valid_fraction=0.9,
            test_fraction=0.2,
        )
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "inputs",
        "common_prefix",
        "max_prompts_per_user",
        "valid_fraction, test_fraction",
    ]
    (tmp_path / "x").mkdir()
    same = [
        write(tmp_path / "a.jsonl", [{"prompt": "p"}]),
        write(tmp_path / "x" / "a.jsonl.gz", [{"prompt": "p"}]),
    ]
    with pytest.raises(ValueError, match=r"would both be written to a\.train\.jsonl"):
        prepare(same, str(tmp_path / "o"))
    with pytest.raises(ValueError, match=r"t\.jsonl: cannot tell what it holds: keys found: q; keys known: prompt"):
        prepare([write(tmp_path / "t.jsonl", [{"q": 1}])], str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_bad_lines_stop_it_or_go_to_a_file(tmp_path):
    source = tmp_path / "d.jsonl"
    source.write_text('{"prompt": "p", "response": "r"}\n\n{"prompt": "q"}\nnot json\n')
    with pytest.raises(RecordError, match=r"d\.jsonl:3: response: missing"):
        prepare([str(source)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    one = prepare([str(source)], str(tmp_path / "out"), skip_bad_records=True)["files"]["d"]
    assert (one["lines"], one["bad"], one["blank"], sum(one["written"].values())) == (4, 2, 1, 1)
    rejects = (tmp_path / "out" / "d.rejects.jsonl").read_text().splitlines()
    assert [row["line"] for row in map(json.loads, rejects)] == [3, 4]


def test_an_old_split_field_follows_the_new_side(tmp_path):
    rows = [{"prompt": f"{n} p", "split": "old", "n": 1.10} for n in range(200)]
    prepare([write(tmp_path / "p.jsonl", rows)], str(tmp_path / "out"))
    for side in SIDES:
        records, report = read_records(tmp_path / "out" / f"p.{side}.jsonl", Prompt, split=side)
        assert len(records) == report.lines > 0
        assert records[0].extra == {"n": 1.1}


def test_tables(tmp_path):
    rows = [
        {"prompt": "one two three", "response": "a b", "user": "u", "use_case": "chat"},
        {"prompt": "one", "response": "a", "user": "u", "use_case": "chat"},
        {"prompt": "one two", "response": "a b c d", "user": "v"},
        {"prompt": "four words in this", "response": "a", "source": "book|1", "use_case": "rewrite"},
    ]
    source = write(tmp_path / "d.jsonl", rows)
    result = prepare([source], str(tmp_path / "out"), valid_fraction=0, test_fraction=0)
    tables = result["files"]["d"]["tables"]
    assert result["unit"] == "words"
    assert tables["sizes"]["train"] == {"customer": 3, "book|1": 1}
    assert tables["customers"]["train"] == {"customers": 2, "prompts_per_customer": 1.5}
    assert tables["use_cases"] == {"chat": 0.6667, "rewrite": 0.3333}
    assert tables["demonstration_lengths"]["customer"]["mean"] == 2.33
    lengths = {
        "count": 4,
        "mean": 2.5,
        "std": 1.29,
        "min": 1,
        "25%": 1.75,
        "median": 2.5,
        "75%": 3.25,
        "max": 4,
    }
    assert tables["prompt_lengths"]["train"] == lengths
    page = (tmp_path / "out" / "statistics.md").read_text()
    assert "| train | 4 | 2.5 | 1.29 | 1 | 1.75 | 2.5 | 3.25 | 4 |" in page
    assert "| book\\|1 | 1 | 0 | 0 |" in page
    assert "Lengths are in words." in page
    assert summarise([]) == {"count": 0}


def test_lengths_in_tokens(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")  # one token per character
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?").save_pretrained(tmp_path / "tok")
    source = write(tmp_path / "p.jsonl", [{"prompt": "abcde"}])
    result = prepare(
        [source], str(tmp_path / "out"), valid_fraction=0, test_fraction=0, tokenizer=str(tmp_path / "tok")
    )
    assert result["unit"] == "tokens"
    assert result["files"]["p"]["tables"]["prompt_lengths"]["train"]["mean"] == 5
    with pytest.raises(ValueError, match="is not a directory"):
        prepare([source], str(tmp_path / "o2"), tokenizer="gpt2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="none can be loaded from"):
        prepare([source], str(tmp_path / "o2"), tokenizer=str(tmp_path / "empty"))
