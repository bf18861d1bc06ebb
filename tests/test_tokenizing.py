"""From records to padded batches, by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_instructgpt.datamodules.tokenizing import (
    Collator,
    Demo,
    Ranking,
    Reading,
    TokenizedPrompt,
    pack_text,
    tokenize_comparisons,
    tokenize_demos,
    tokenize_prompts,
)
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.records import Comparison, Demonstration, Message, Prompt, Text

PLAIN = PromptFormat("{prompt}:")
ROOMY = Reading()


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


# ------------------------------------------------------------------ reading


def test_rejects_of_every_source_of_a_run_are_kept(tmp_path: Path, write_jsonl: Callable[..., str]):
    bad = {"text": 1}
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": "a"}, bad])
    clean = write_jsonl(tmp_path / "clean.jsonl", [{"text": "a"}])
    other = write_jsonl(tmp_path / "other.jsonl", [bad, {"text": "b"}])
    rejects = tmp_path / "rejects.jsonl"
    rejects.write_text('{"of": "an earlier run"}\n')
    reading = Reading(skip_bad_records=True, rejects=str(rejects))
    for source in (train, clean, other, train):  # the last a second time: its rejects are there already
        reading.read(source, Text)
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in found] == [(train, 2), (other, 1)]
    Reading(skip_bad_records=True, rejects=str(rejects)).read(clean, Text)
    assert rejects.read_text() == "", "another run begins its own file"
    assert sorted(path.name for path in tmp_path.iterdir() if "rejects" in path.name) == ["rejects.jsonl"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([], {}, r"no text to use in .*t\.jsonl: 0 lines: 0 accepted, 0 bad\. Remedy: give data with records"),
        (
            [{"text": "a"}, {"text": "b", "split": "valid"}],
            {"split": "train"},
            r"no text to use in .*t\.jsonl: 2 lines: 0 accepted, 0 bad, 2 of another split\. Remedy: .*reading\.split",
        ),
    ],
)
def test_data_without_a_record_are_refused(
    tmp_path: Path, write_jsonl: Callable[..., str], rows: list[Any], settings: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        Reading(**settings).read(write_jsonl(tmp_path / "t.jsonl", rows), Text)


def test_a_mapped_column_applies_to_the_kinds_that_have_the_field(tmp_path: Path, write_jsonl: Callable[..., str]):
    ranked = write_jsonl(tmp_path / "c.jsonl", [{"prompt": "q", "answers": ["a", "b"], "ranking": [1, 2]}])
    shown = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "q", "response": "a"}])
    plain = write_jsonl(tmp_path / "t.jsonl", [{"text": "a"}])
    reading = Reading(column_mapping={"responses": "answers"})
    assert [record.responses for record in reading.read(ranked, Comparison)] == [["a", "b"]]
    assert [record.response for record in reading.read(shown, Demonstration)] == ["a"]
    assert [record.text for record in reading.read(plain, Text)] == ["a"]
    with pytest.raises(ValueError, match="prompt -> 'question': no such column; the columns are: prompt, response"):
        Reading(column_mapping={"prompt": "question"}).read(shown, Demonstration)
    assert Reading(column_mapping={"prompt": "question"}).read(plain, Text)
    with pytest.raises(ValueError, match=r"reading\.column_mapping: 'respons': no kind of record has this field"):
        Reading(column_mapping={"respons": "answers"})


# ------------------------------------------------------------------ limits


def test_defaults_are_the_papers():
    assert (ROOMY.max_prompt_tokens, ROOMY.max_response_tokens, ROOMY.max_tokens) == (1024, 1024, 2048)


def test_response_limit_by_hand():
    reading = Reading(max_prompt_tokens=10, max_response_tokens=8, max_tokens=15)
    assert [reading.response_limit(n) for n in (1, 7, 8, 10)] == [8, 8, 7, 5]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0, 5, 9), "at least 1"),
        ((5, 0, 9), "at least 1"),
        ((9, 5, 9), "leaves no room"),
        ((10, 5, 9), "leaves no room"),
    ],
)
def test_impossible_limits_are_refused(limits: tuple[int, int, int], message: str):
    with pytest.raises(ValueError, match=message):
        Reading(*limits)


def test_demonstrations_are_cut_and_long_prompts_left_out(tokenizer: Any):
    reading = Reading(max_prompt_tokens=5, max_response_tokens=4, max_tokens=8)
    records = [
        Demonstration(prompt="xqzj", response="kk"),  # 5 tokens with the colon; room for 3
        Demonstration(prompt="xqzjv", response="kk"),  # 6 tokens: left out
        Demonstration(prompt="x", response="wkpwkp"),  # cut to 4
    ]
    demos = tokenize_demos(records, tokenizer, PLAIN, reading)
    eos = tokenizer.eos_token_id
    assert [demo.ids for demo in demos] == [
        [*ids(tokenizer, "xqzj:"), *ids(tokenizer, "kk"), eos],
        [*ids(tokenizer, "x:"), *ids(tokenizer, "wkp"), eos],
    ]
    assert [demo.num_prompt for demo in demos] == [5, 2]
    assert not any(demo.is_text for demo in demos)


def test_nothing_left_is_an_error(tokenizer: Any):
    reading = Reading(max_prompt_tokens=2)
    for tokenize, record in (
        (tokenize_demos, Demonstration(prompt="xqzj", response="k")),
        (tokenize_comparisons, Comparison(prompt="xqzj", responses=["k", "w"], ranking=[1, 2])),
        (tokenize_prompts, Prompt(prompt="xqzj")),
    ):
        with pytest.raises(ValueError, match=r"raise reading\.max_prompt_tokens"):
            tokenize([record], tokenizer, PLAIN, reading)
        assert tokenize([], tokenizer, PLAIN, reading) == []


def test_pitfall_20_comparisons_stay_one_element(tokenizer: Any):
    records = [
        Comparison(prompt="x", responses=["k", "ww", "ppp"], ranking=[2, 1, 2], source="web", labeler="ann"),
        Comparison(prompt="q", responses=["k", "w"], ranking=[1, 2]),
    ]
    first, second = tokenize_comparisons(records, tokenizer, PLAIN, ROOMY)
    eos = tokenizer.eos_token_id
    assert first.ids == [[*ids(tokenizer, "x:"), *ids(tokenizer, r), eos] for r in ("k", "ww", "ppp")]
    assert (first.num_prompt, first.ranking, first.source, first.labeler) == (2, [2, 1, 2], "web", "ann")
    assert (second.source, second.labeler) == ("data", "unknown")


def test_pitfall_17_every_stage_sees_the_same_tokens(tokenizer: Any):
    spaced = PromptFormat("Q: {prompt}\nA:", response_prefix=" ")
    demo = tokenize_demos([Demonstration(prompt="x", response="yes")], tokenizer, spaced, ROOMY)[0]
    comparison = Comparison(prompt="x", responses=["no", "yes"], ranking=[2, 1])
    ranking = tokenize_comparisons([comparison], tokenizer, spaced, ROOMY)[0]
    prompt = tokenize_prompts([Prompt(prompt="x")], tokenizer, spaced, ROOMY)[0]
    assert demo.ids == ranking.ids[1] == [*ids(tokenizer, "Q: x\nA:"), *ids(tokenizer, " yes"), tokenizer.eos_token_id]
    assert prompt.ids == demo.ids[: demo.num_prompt]


def test_prompts_keep_their_record(make_tokenizer: Any):
    own = make_tokenizer()
    own.chat_template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    turns = [Message(role="system", content="kind"), Message(role="user", content="hi")]
    records = [Prompt(prompt="hi", id="7", extra={"gold": 3}), Prompt(prompt=turns)]
    plain, chat = tokenize_prompts(records, own, PromptFormat(chat_template=True), ROOMY)
    assert plain.ids == ids(own, "user=hi;")
    assert (plain.text, plain.record) == ("hi", {"prompt": "hi", "id": "7", "gold": 3})
    assert chat.ids == ids(own, "system=kind;user=hi;")
    assert chat.text == "system: kind\nuser: hi"
    assert chat.record["prompt"] == [{"role": "system", "content": "kind"}, {"role": "user", "content": "hi"}]


# ------------------------------------------------------------------ text


@pytest.mark.parametrize("num_tokens", [2, 3, 4, 7, 100])
def test_packing_loses_no_token(tokenizer: Any, num_tokens: int):
    texts = ["xqzj", "v", "wkpwkp"]  # 4, 1 and 6 tokens, and an EOS behind each: 14
    stream = [token for text in texts for token in [*ids(tokenizer, text), tokenizer.eos_token_id]]
    assert len(stream) == 14
    blocks = pack_text([Text(text=text) for text in texts], tokenizer, num_tokens)
    assert [token for block in blocks for token in block.ids] == stream
    assert {len(block.ids) for block in blocks[:-1]} <= {num_tokens}
    assert all(block.is_text and block.num_prompt == 0 for block in blocks)


def test_a_last_block_of_one_token_has_no_target_and_is_left_out(tokenizer: Any):
    blocks = pack_text([Text(text="xqzj"), Text(text="v")], tokenizer, 3)  # 7 tokens
    assert [len(block.ids) for block in blocks] == [3, 3]


def test_text_without_a_token_to_predict_is_refused(tokenizer: Any):
    with pytest.raises(ValueError, match=r"text: 5 tokens in blocks of text_tokens \(1\) leave no token to predict"):
        pack_text([Text(text="xqzj")], tokenizer, 1)


# ------------------------------------------------------------------ batches


def test_demo_batch_by_hand():
    batch = Collator(9).demos(
        [Demo([1, 2, 3, 4], 2), Demo([5, 6], 0, is_text=True), Demo([7, 9, 8], 1), Demo([3, 4, 5], 0)]
    )
    assert batch.input_ids.tolist() == [[5, 6, 9, 9], [7, 9, 8, 9], [3, 4, 5, 9], [1, 2, 3, 4]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.response_mask.int().tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert batch.is_text.tolist() == [True, False, False, False]


def test_comparison_batch_of_unequal_k_by_hand():
    batch = Collator(9).comparisons(
        [
            Ranking([[1, 2, 3, 4], [1, 5], [1, 9, 9]], 1, [2, 1, 3], "web", "ann"),
            Ranking([[6, 7], [6, 8, 2]], 1, [1, 1], "app", "bob"),
        ]
    )
    assert batch.input_ids.tolist() == [
        [[6, 7, 9, 9], [6, 8, 2, 9], [9, 9, 9, 9]],
        [[1, 2, 3, 4], [1, 5, 9, 9], [1, 9, 9, 9]],
    ]
    assert batch.attention_mask.int().tolist() == [
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]],
    ]
    assert batch.completion_mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.ranking.tolist() == [[1, 1, 0], [2, 1, 3]]
    assert batch.response_length.tolist() == [[1, 2, 0], [3, 1, 2]]
    assert (batch.source, batch.labeler) == (["app", "web"], ["bob", "ann"])


def test_prompt_batch_by_hand():
    batch = Collator(9).prompts([TokenizedPrompt([1, 2], "a", {"id": 1}), TokenizedPrompt([3], "b")])
    assert batch.input_ids.tolist() == [[1, 2], [9, 3]]
    assert batch.attention_mask.tolist() == [[True, True], [False, True]]
    assert (batch.text, batch.record) == (["a", "b"], [{"id": 1}, {}])
