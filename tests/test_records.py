"""Records: accepted shapes, refused lines, and the messages a user reads."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_instructgpt.records import (
    Comparison,
    Demonstration,
    Message,
    Prompt,
    RecordError,
    RecordReader,
    Text,
    read_records,
)

BROKEN = Path(__file__).parent / "broken_data"
GOOD = {"prompt": "Say hi", "response": "hi"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def total(report) -> int:
    return report.accepted + len(report.bad) + len(report.set_aside) + report.other_split + report.blank


def problem_of(tmp_path: Path, kind, *rows: object) -> str:
    with pytest.raises(RecordError) as caught:
        read_records(write(tmp_path / "d.jsonl", *rows), kind)
    assert total(caught.value.report) == caught.value.report.lines
    return str(caught.value).splitlines()[0].removeprefix(f"{tmp_path / 'd.jsonl'}:")


def test_own_shapes_and_extra_fields(tmp_path):
    row = {
        "prompt": "p",
        "responses": ["a", "b", "c"],
        "ranking": [7, 2, 7],
        "labeler": "w1",
        "judge": "human",
    }
    records, report = read_records(write(tmp_path / "c.jsonl", row), Comparison)
    assert records[0].responses == ["a", "b", "c"]
    assert records[0].ranking == [7, 2, 7]
    assert records[0].labeler == "w1"
    assert records[0].extra == {"judge": "human"}
    assert report.ignored_fields == {"judge": 1}
    assert report.summary() == "1 lines: 1 accepted, 0 bad. Fields not used: judge (1)."


USER = {"role": "user", "content": "q"}
REPLY = {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
TURNS = [Message(role="user", content="q")]
PAIR = (["a", "b"], [1, 2])


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        ({"prompt": "q", "completion": "a"}, "q", "a"),
        ({"prompt": [USER], "completion": [REPLY]}, TURNS, "a"),
        ({"messages": [USER, REPLY]}, TURNS, "a"),
        ({"messages": [USER, REPLY], "prompt": "unused", "id": None}, TURNS, "a"),
        ({"prompt": "q", "response": "a", "messages": [USER, OTHER]}, "q", "a"),
    ],
)
def test_demonstration_shapes(tmp_path, row, prompt, response):
    (record,), _ = read_records(write(tmp_path / "d.jsonl", row), Demonstration)
    assert (record.prompt, record.response) == (prompt, response)


@pytest.mark.parametrize(
    ("row", "prompt", "pair"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", PAIR),
        ({"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER]}, TURNS, PAIR),
        ({"chosen": [USER, REPLY], "rejected": [USER, OTHER]}, TURNS, PAIR),
        ({"prompt": "q", "chosen": [USER, REPLY], "rejected": [USER, OTHER]}, TURNS, PAIR),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
            "\n\nHuman: q\n\nAssistant:",
            PAIR,
        ),
    ],
)
def test_comparison_shapes(tmp_path, row, prompt, pair):
    (record,), _ = read_records(write(tmp_path / "d.jsonl", row), Comparison)
    assert (record.prompt, (record.responses, record.ranking)) == (prompt, pair)


def test_prompt_messages_and_text(tmp_path):
    (prompt,), report = read_records(write(tmp_path / "p.jsonl", {"messages": [{**USER, "name": "x"}]}), Prompt)
    assert prompt.prompt == TURNS
    assert report.ignored_fields == {"prompt[].name": 1}
    (text,), _ = read_records(write(tmp_path / "t.jsonl", {"text": " words "}), Text)
    assert text.text == " words "


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            Demonstration,
            {"prompt": " \n", "response": "a"},
            "1: prompt: must not be empty or only white space",
        ),
        (
            Demonstration,
            {"prompt": 3, "response": "a"},
            "1: prompt: must be a string or a list of messages, found 3",
        ),
        (Demonstration, {"prompt": "q", "response": 3}, "1: response: must be a valid string, found 3"),
        (Demonstration, {"prompt": "q", "respnse": "a"}, "respnse: unknown; did you mean response?"),
        (Demonstration, {"prompt": "q", "response": None}, "1: response: missing (fields found: prompt"),
        (Demonstration, {**GOOD, "user": 17}, "1: user: must be a valid string, found 17"),
        (Demonstration, {"messages": [REPLY]}, "1: messages: needs at least 2 message(s), found 1"),
        (
            Demonstration,
            {"messages": [REPLY, USER]},
            "the last message must be the assistant's, found 'user'",
        ),
        (Demonstration, {"messages": "q"}, "1: messages: must be a list of messages, found 'q'"),
        (
            Demonstration,
            {"prompt": [{"role": "bot", "content": "q"}], "response": "a"},
            "1: prompt[0].role: must be",
        ),
        (Comparison, {"prompt": "q", "responses": ["a"], "ranking": [1]}, "1: responses: List should have"),
        (Comparison, {"prompt": "q", "chosen": "a"}, "1: rejected: missing"),
        (Comparison, {"chosen": "a", "rejected": "b"}, "1: prompt: missing"),
        (
            Comparison,
            {"prompt": "q", "chosen": "a", "rejected": "a"},
            "are the same text under two different ranks",
        ),
        (
            Comparison,
            {"chosen": [USER, REPLY], "rejected": [REPLY, OTHER]},
            "must be equal up to their last message",
        ),
        (
            Comparison,
            {"prompt": "x", "chosen": [USER, REPLY], "rejected": [USER, OTHER]},
            "1: prompt: differs",
        ),
        (Text, {"text": "\ud800"}, "1: text: holds a lone surrogate"),
        (Text, {"text": "a", "meta": {"x": ["\0"]}}, "1: meta.x[0]: holds a NUL"),
    ],
)
def test_bad_fields_say_why(tmp_path, kind, row, message):
    assert message in problem_of(tmp_path, kind, row)


@pytest.mark.parametrize("rank", [0, -1, 1.0, True, "1", None])
def test_rank_must_be_a_whole_number_from_1(tmp_path, rank):
    row = {"prompt": "q", "responses": ["a", "b"], "ranking": [2, rank]}
    assert problem_of(tmp_path, Comparison, row).startswith("1: ranking[1]: must be ")


def test_all_problems_of_a_line_are_listed(tmp_path):
    path = write(tmp_path / "d.jsonl", {"prompt": "", "responses": ["a", 2], "ranking": [0, 1]})
    with pytest.raises(RecordError) as caught:
        read_records(path, Comparison)
    fields = [line.split(": ")[1] for line in str(caught.value).splitlines()[:3]]
    assert fields == ["prompt", "responses[1]", "ranking[0]"]


def test_huge_ranks_and_same_text_with_same_rank_are_fine(tmp_path):
    row = {"prompt": "q", "responses": ["a", "a", "b"], "ranking": [10**400, 10**400, 1], "n": 10**300}
    (record,), _ = read_records(write(tmp_path / "c.jsonl", row), Comparison)
    assert record.ranking == [10**400, 10**400, 1]


def test_all_tied_is_set_aside_unless_kept(tmp_path):
    path = write(tmp_path / "c.jsonl", {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 1]})
    records, report = read_records(path, Comparison)
    assert records == []
    assert report.set_aside[0].lines() == [f"{path}:1: ranking: all responses are tied: no preference to learn"]
    assert len(read_records(path, Comparison, keep_all_tied=True)[0]) == 1


def test_physical_oddities(tmp_path):
    path = tmp_path / "d.jsonl"
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \n" + line)
    records, report = read_records(path, Demonstration)
    assert (len(records), report.lines, report.blank) == (2, 4, 2)
    zipped = tmp_path / "named_without_gz.jsonl"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert read_records(zipped, Demonstration)[0] == records
    path.write_bytes(b"")
    assert read_records(path, Demonstration)[1].lines == 0


def test_cut_gzip_keeps_count_of_the_lines_before(tmp_path):
    path = tmp_path / "d.jsonl.gz"
    lines = "".join(json.dumps({"text": f"{n} {hash(str(n))}"}) + "\n" for n in range(5000))
    path.write_bytes(gzip.compress(lines.encode())[:-2000])
    with pytest.raises(RecordError, match="damaged or cut-off gzip data") as caught:
        read_records(path, Text)
    report = caught.value.report
    assert report.accepted > 100
    assert report.bad[0].line == report.lines == report.accepted + 1


def test_over_long_line_is_not_repeated_in_the_message(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"text": "' + b"a" * 50_000_000 + b'"}\n{"text": "b"}\n')
    reader = RecordReader(Text, {})
    reader.read(path)
    assert [bad.lines() for bad in reader.report.bad] == [[f"{path}:1: line: longer than 16777216 bytes"]]
    assert [item.line for item in reader.records] == [2]


def test_split_filters_and_counts(tmp_path):
    rows = [{"text": "a", "split": "train"}, {"text": "b", "split": "valid"}, {"text": "c"}]
    records, report = read_records(write(tmp_path / "t.jsonl", *rows), Text, split="train")
    assert [record.text for record in records] == ["a"]
    assert report.other_split == 2


def test_column_mapping(tmp_path):
    path = write(tmp_path / "d.jsonl", {"question": "q", "answer": "a"}, {"question": "q", "answer": 1})
    mapping = {"prompt": "question", "response": "answer"}
    with pytest.raises(RecordError, match="2: answer: must be a valid string, found 1"):
        read_records(path, Demonstration, column_mapping=mapping)
    with pytest.raises(ValueError, match="no such column; the columns are: question, answer"):
        read_records(path, Demonstration, column_mapping={"prompt": "question", "response": "reply"})
    with pytest.raises(ValueError, match="'respons': not a field of a demonstration; the fields are: prompt"):
        read_records(path, Demonstration, column_mapping={"respons": "answer"})


def test_repeated_ids_name_the_first_line_but_may_recur_in_another_file(tmp_path):
    path = write(tmp_path / "d.jsonl", {"text": "a", "id": "x"}, {"text": "b"}, {"text": "c", "id": "x"})
    with pytest.raises(RecordError, match=r"d\.jsonl:3: id: 'x' is already used in line 1"):
        read_records(path, Text)
    one, two = (write(tmp_path / name, {"text": "a", "id": "x"}) for name in ("1.jsonl", "2.jsonl"))
    assert read_records([one, two], Text)[1].accepted == 2
    with pytest.raises(ValueError, match="given twice"):
        read_records([one, one], Text)


def test_listing_stops_but_counts_go_on(tmp_path):
    with pytest.raises(RecordError) as caught:
        read_records(write(tmp_path / "d.jsonl", *[{"text": 1}] * 30, {"text": "a"}), Text, max_listed=5)
    lines = str(caught.value).splitlines()
    assert len(lines) == 8
    assert lines[5] == "... and 25 more"
    assert lines[6].startswith("31 lines: 1 accepted, 30 bad")
    assert "skip_bad_records" in lines[7]


def test_skip_bad_records_writes_rejects(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": 1}\n\xff\n')
    with pytest.raises(ValueError, match="needs rejects_path"):
        read_records(path, Text, skip_bad_records=True)
    with pytest.raises(ValueError, match="is one of the files to read"):
        read_records(path, Text, skip_bad_records=True, rejects_path=path)
    rejects = tmp_path / "new" / "rejects.jsonl"
    records, report = read_records(path, Text, skip_bad_records=True, rejects_path=rejects)
    assert len(records) == 1
    assert total(report) == report.lines == 3
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["file"], row["line"], row["raw"]) for row in rows] == [
        (str(path), 2, '{"text": 1}'),
        (str(path), 3, "\\xff"),
    ]
    assert rows[0]["problems"] == ["text: must be a valid string, found 1"]


def test_missing_sources_suggest_names_and_never_use_the_network(tmp_path, monkeypatch):
    write(tmp_path / "demonstrations.jsonl", GOOD)
    with pytest.raises(FileNotFoundError, match=r"did you mean demonstrations\.jsonl"):
        read_records(tmp_path / "demonstration.jsonl", Demonstration)
    with pytest.raises(ValueError, match="save_to_disk did not write; give files of it instead: demonstrations"):
        read_records(tmp_path, Demonstration)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="is written hf://owner/name"):
        read_records("owner/name", Demonstration)
    with pytest.raises(ValueError, match="not a hub dataset"):
        read_records("hf://a/b/c", Demonstration)


def test_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": ""}])
    data.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(RecordError, match="one:2: completion: must not be empty"):
        read_records(tmp_path / "one", Demonstration)
    parts = {"train": data.select([0]), "test": data.select([1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    records, _ = read_records(tmp_path / "two", Demonstration, split="train")
    assert [record.response for record in records] == ["a"]
    with pytest.raises(ValueError, match="several splits; give one of: test, train"):
        read_records(tmp_path / "two", Demonstration)
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="damaged dataset directory"):
        read_records(tmp_path / "one", Demonstration)


@pytest.mark.parametrize(
    ("name", "kind", "line", "field", "what"),
    [
        ("cut_line.jsonl", Demonstration, 2, "line", "not valid JSON"),
        ("not_utf8.jsonl", Demonstration, 2, "line", "invalid UTF-8 at byte offset 25"),
        ("nul.jsonl", Demonstration, 1, "line", "NUL character"),
        ("repeated_key.jsonl", Demonstration, 2, "prompt", "appears twice"),
        ("misspelt_field.jsonl", Demonstration, 1, "response", "did you mean response"),
        ("empty_prompt.jsonl", Prompt, 3, "prompt", "must not be empty"),
        ("ranks_do_not_fit.jsonl", Comparison, 1, "ranking", "found 2 ranks for 3 responses"),
        ("not_a_number.jsonl", Comparison, 2, "line", "NaN is not JSON"),
        ("too_deep.jsonl", Text, 1, "line", "nested deeper than 64"),
        ("cut_off.jsonl.gz", Text, 2, "line", "damaged or cut-off gzip"),
    ],
)
def test_broken_files_give_one_readable_message(name, kind, line, field, what):
    with pytest.raises(RecordError) as caught:
        read_records(BROKEN / name, kind)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(f"{BROKEN / name}:{line}: {field}: ")
    assert what in first
    assert len(first) < len(str(BROKEN)) + 250
    assert len(rest) == 2
    assert rest[-1].startswith("Remedy: correct these lines, or ")


def test_bad_lines_can_be_left_out_where_there_are_others(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(
        RecordError, match=r"Remedy: correct these lines, or give another file: none is what is asked for"
    ):
        read_records(path, Text)
    path.write_text('{"text": "good"}\n{"text": ""}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"Remedy: correct these lines, or set reading\.skip_bad_records to true"):
        read_records(path, Text)


def test_reading_needs_no_deep_learning_package():
    code = (
        "import sys, lit_instructgpt.records_models, lit_instructgpt.records as r; "
        "print(sorted({'torch', 'lightning', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "row", "field"),
    [
        (Comparison, {"prompt": "q", "chosen": "a", "rejected": 2}, "rejected"),
        (
            Comparison,
            {"chosen": [{"role": "x", "content": "q"}, REPLY], "rejected": [USER, OTHER]},
            "rejected",
        ),
        (Demonstration, {"messages": [{"role": "x", "content": "q"}, REPLY]}, "messages[0].role"),
        (Demonstration, {"messages": [USER, {"role": "assistant", "content": ""}]}, "messages"),
        (Demonstration, {"prompt": [{"role": "x", "content": "q"}], "completion": "a"}, "prompt[0].role"),
    ],
)
def test_problems_use_the_names_in_the_file(tmp_path, kind, row, field):
    assert problem_of(tmp_path, kind, row).startswith(f"1: {field}: ")
