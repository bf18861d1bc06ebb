"""Prompts and responses as token ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from lit_instructgpt.formatting import (
    SIDECAR,
    PromptFormat,
    check_format,
    format_dict,
    prompt_text,
    read_format,
    read_sidecar,
)

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def with_specials(tokenizer: Any, single: str, *tokens: str) -> Any:
    """The tokenizer adds special tokens of its own to every text."""
    pairs = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=pairs)
    return tokenizer


def test_prompt_is_put_into_the_template(tokenizer: Any):
    found = PromptFormat("Q: {prompt}\nA:").prompt_ids("why {prompt}?", tokenizer)
    assert found == ids(tokenizer, "Q: why {prompt}?\nA:")
    assert PromptFormat().prompt_ids("hi", tokenizer) == ids(tokenizer, "hi\n")


def test_bos_comes_once_where_the_tokenizer_uses_one(make_tokenizer: Callable[..., Any]):
    own = with_specials(make_tokenizer(bos_token="<s>"), "<s> $A", "<s>")
    assert PromptFormat("{prompt}:").prompt_ids("hi", own) == [own.bos_token_id, *ids(own, "hi:")]
    assert PromptFormat().response_ids("yes", own, 99) == [*ids(own, "yes"), own.eos_token_id]


def test_no_bos_where_the_tokenizer_uses_none(make_tokenizer: Callable[..., Any]):
    own = make_tokenizer(bos_token="<s>")
    assert PromptFormat("{prompt}").prompt_ids("hi", own) == ids(own, "hi")


def test_a_tokenizer_that_appends_eos_gets_none_into_the_prompt(make_tokenizer: Callable[..., Any]):
    own = with_specials(make_tokenizer(bos_token="<s>"), "<s> $A <|endoftext|>", "<s>", "<|endoftext|>")
    assert PromptFormat("{prompt}").prompt_ids("hi", own) == [own.bos_token_id, *ids(own, "hi")]
    assert PromptFormat("{prompt}").response_ids("hi", own, 9) == [*ids(own, "hi"), own.eos_token_id]
    ends = with_specials(make_tokenizer(), "$A <|endoftext|>", "<|endoftext|>")
    assert PromptFormat("{prompt}").prompt_ids("hi", ends) == ids(ends, "hi")


def test_eos_that_is_also_bos_does_not_start_the_prompt(make_tokenizer: Callable[..., Any]):
    own = with_specials(make_tokenizer(bos_token="<|endoftext|>"), "<|endoftext|> $A", "<|endoftext|>")
    assert own.bos_token_id == own.eos_token_id
    assert PromptFormat("{prompt}").prompt_ids("hi", own) == ids(own, "hi")


def spelt(tokenizer: Any, text: str) -> list[int]:
    """Every character of an ASCII text by its own byte token, or a merge of them, never a special token."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    try:
        return ids(tokenizer, text)
    finally:
        tokenizer.backend_tokenizer.encode_special_tokens = False


def test_special_tokens_in_the_text_of_a_prompt_are_ordinary_text(make_tokenizer: Callable[..., Any]):
    own = with_specials(make_tokenizer(bos_token="<s>"), "<s> $A", "<s>")
    eos = spelt(own, "<|endoftext|>")
    assert own.eos_token_id not in eos
    assert own.decode(eos) == "<|endoftext|>"
    found = PromptFormat("{prompt}:").prompt_ids("x<|endoftext|>q<s>", own)
    assert found == [own.bos_token_id, *ids(own, "x"), *eos, *ids(own, "q"), *spelt(own, "<s>"), *ids(own, ":")]
    assert PromptFormat().prompt_ids("\ue000 0 \ue000", own)[1:] == ids(own, "\ue000 0 \ue000\n")


def test_special_tokens_of_a_template_stay_special(make_tokenizer: Callable[..., Any]):
    own = make_tokenizer()
    own.chat_template = "{% for m in messages %}<|pad|>{{ m.content }}<|endoftext|>{% endfor %}"
    turns = [{"role": "user", "content": "x<|endoftext|>"}, {"role": "assistant", "content": "q"}]
    pad, eos = own.pad_token_id, own.eos_token_id
    expected = [pad, *ids(own, "x"), *spelt(own, "<|endoftext|>"), eos, pad, *ids(own, "q"), eos]
    assert PromptFormat(chat_template=True).prompt_ids(turns, own) == expected
    plain = PromptFormat("<|pad|>{prompt}").prompt_ids("x<|pad|>", own)
    assert plain == [pad, *ids(own, "x"), *spelt(own, "<|pad|>")]
    response = PromptFormat(response_prefix="<|pad|>").response_ids("x<|pad|>", own, 99)
    assert response == [pad, *ids(own, "x"), *spelt(own, "<|pad|>"), eos]


@pytest.mark.parametrize(
    "response", ["yes", "yes<|endoftext|>", "yes<|endoftext|><|endoftext|>", "<|endoftext|>yes", "y<|endoftext|>es"]
)
def test_pitfall_22_eos_is_appended_once(tokenizer: Any, response: str):
    found = PromptFormat(response_prefix=" ").response_ids(response, tokenizer, 99)
    assert found[-1] == tokenizer.eos_token_id
    assert found.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(found[:-1]) == " yes"


def test_pitfall_22_eos_is_a_target_where_pad_was_eos(make_tokenizer: Callable[..., Any]):
    same = make_tokenizer(pad_token="<|endoftext|>")
    assert PromptFormat().response_ids("yes", same, 99)[-1] == same.eos_token_id


@pytest.mark.parametrize("limit", [1, 2, 3, 8, 9, 10])
def test_a_cut_response_keeps_its_eos(tokenizer: Any, limit: int):
    text = "xqzjvwkp"
    whole = ids(tokenizer, text)
    assert len(whole) == 8
    found = PromptFormat().response_ids(text, tokenizer, limit)
    assert found == [*whole[: limit - 1], tokenizer.eos_token_id]
    assert len(found) == min(limit, 9)


def test_an_empty_response_is_eos_alone(tokenizer: Any):
    assert PromptFormat().response_ids("", tokenizer, 5) == [tokenizer.eos_token_id]


def test_decode_takes_prefix_and_special_tokens_away(tokenizer: Any):
    prompt_format = PromptFormat(response_prefix=" ")
    for text in ("yes", "  two spaces", "a\nb", "é 蜂"):
        assert prompt_format.decode(prompt_format.response_ids(text, tokenizer, 99), tokenizer) == text
    assert prompt_format.decode(ids(tokenizer, "no prefix"), tokenizer) == "no prefix"


def test_chat_template(make_tokenizer: Callable[..., Any]):
    own = make_tokenizer()
    own.chat_template = CHAT
    chat = PromptFormat(chat_template=True)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "why?"},
    ]
    text = "<system>Be kind.\n<user>hi\n<assistant>hello\n<user>why?\n<assistant>"
    assert chat.prompt_ids(turns, own) == ids(own, text)
    assert chat.prompt_ids("hi", own) == ids(own, "<user>hi\n<assistant>")


def test_bos_of_a_chat_template_comes_once(make_tokenizer: Callable[..., Any]):
    own = with_specials(make_tokenizer(bos_token="<s>"), "<s> $A", "<s>")
    own.chat_template = "{{ bos_token }}" + CHAT
    found = PromptFormat(chat_template=True).prompt_ids("hi", own)
    assert found == [own.bos_token_id, *ids(own, "<user>hi\n<assistant>")]


def test_errors_name_their_remedy(tokenizer: Any):
    with pytest.raises(ValueError, match="the model has no chat template"):
        PromptFormat(chat_template=True).prompt_ids("hi", tokenizer)
    with pytest.raises(ValueError, match=r"set format\.chat_template: true"):
        PromptFormat().prompt_ids([{"role": "user", "content": "hi"}], tokenizer)


@pytest.mark.parametrize("template", ["", "no place", "{prompt} and {prompt}"])
def test_a_template_must_hold_the_prompt_once(template: str):
    with pytest.raises(ValueError, match="exactly once"):
        PromptFormat(template)


def test_prompt_text():
    assert prompt_text("plain") == "plain"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert prompt_text(turns) == "user: hi\nassistant: yes"


def test_pitfall_17_the_format_travels_with_the_directory(tmp_path: Path):
    assert read_sidecar(tmp_path) == {}
    assert read_format(tmp_path) is None
    stored = PromptFormat("Q {prompt} A", response_prefix=" ", chat_template=False)
    (tmp_path / SIDECAR).write_text(json.dumps({"format": format_dict(stored), "stage": "sft"}))
    assert read_format(tmp_path) == stored
    assert read_format(tmp_path) != PromptFormat()
    assert read_sidecar(tmp_path)["stage"] == "sft"
    (tmp_path / SIDECAR).write_text(json.dumps({"stage": "sft"}))
    assert read_format(tmp_path) is None


def test_pitfall_17_another_format_than_the_stored_one_is_refused(tmp_path: Path):
    (tmp_path / SIDECAR).write_text(json.dumps({"format": format_dict(PromptFormat("Q: {prompt}"))}))
    check_format(str(tmp_path), PromptFormat("Q: {prompt}"))
    with pytest.raises(ValueError, match=r"was trained with .*Q: \{prompt\}.*set data.format to it"):
        check_format(str(tmp_path), PromptFormat())
