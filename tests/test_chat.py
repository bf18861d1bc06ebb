"""Scripted conversations."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stages import plain_scorer, score_of

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.chat import chat
from lit_instructgpt.formatting import SIDECAR, PromptFormat, format_dict
from lit_instructgpt.models import load_policy, load_tokenizer
from lit_instructgpt.sampling import Sampling, sample_texts

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def script(*lines: str) -> Callable[[str], str]:
    """Reads the lines one by one, then the end of the input."""
    rest: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        for line in rest:
            return line
        raise EOFError

    return read


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed behind the headline."""
    head, end, rest = capsys.readouterr().out.partition("leaves)")
    assert end, head
    return rest


def answer(path: str, prompt_format: PromptFormat, prompt: Any, turn: int, **sampling: Any) -> str:
    """The response to one prompt, by the sampling that predict uses."""
    tokenizer = load_tokenizer(path)
    ids, mask = pad([prompt_format.prompt_ids(prompt, tokenizer)], tokenizer.pad_token_id, left=True)
    batch = PromptBatch(ids, mask, [""], [{}], [""])
    settings = Sampling(**{"max_new_tokens": 6, **sampling})
    return sample_texts(load_policy(path, tokenizer).eval(), tokenizer, prompt_format, batch, settings, turn)[0][0]


def flat(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_each_prompt_is_answered_alone(tiny_dir: Callable[[str], str], capsys: pytest.CaptureFixture[str]):
    path = tiny_dir("gpt2")
    chat(path, max_new_tokens=6, seed=3, read=script("say red", "", "  one ", "/quit", "never read"))
    expected = [answer(path, PromptFormat(), text, turn, seed=3) for turn, text in enumerate(["say red", "one"])]
    assert flat(said(capsys)) == (flat("".join(expected)))
    assert expected[0] != expected[1]


def test_temperature_0_repeats_itself(tiny_dir: Callable[[str], str], capsys: pytest.CaptureFixture[str]):
    path = tiny_dir("gpt2")
    chat(path, max_new_tokens=6, temperature=0, read=script("say red", "say red"))
    expected = answer(path, PromptFormat(), "say red", 0, temperature=0)
    assert flat(said(capsys)) == (flat(expected + expected))


def test_the_format_of_the_directory_is_used(make_dir: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    path = make_dir("gpt2")
    spaced = PromptFormat(template="Q: {prompt} A:", response_prefix=" ")
    Path(path, SIDECAR).write_text(json.dumps({"format": format_dict(spaced)}))
    chat(path, max_new_tokens=6, temperature=0, format=PromptFormat(template="{prompt}!"), read=script("say red"))
    expected = answer(path, spaced, "say red", 0, temperature=0)
    assert flat(said(capsys)) == (flat(expected))
    assert expected != answer(path, PromptFormat(template="{prompt}!"), "say red", 0, temperature=0)


def test_a_chat_template_keeps_the_conversation_until_new(
    make_dir: Callable[..., str], make_tokenizer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    path = make_dir("gpt2", tokenizer=tokenizer)
    chat(path, max_new_tokens=6, temperature=0, read=script("say red", "one", "/new", "one"))
    chatty = PromptFormat(chat_template=True)
    first = [{"role": "user", "content": "say red"}]
    one = answer(path, chatty, first, 0, temperature=0)
    second = [*first, {"role": "assistant", "content": one}, {"role": "user", "content": "one"}]
    two = answer(path, chatty, second, 1, temperature=0)
    three = answer(path, chatty, [{"role": "user", "content": "one"}], 2, temperature=0)
    assert flat(said(capsys)) == (flat(one + two + three))
    assert two != three, "the conversation counts"


def test_scores_of_a_reward_model_are_shown(
    tiny_dir: Callable[[str], str],
    tiny_reward_dir: Callable[[str], str],
    tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
):
    path = tiny_dir("gpt2")
    chat(path, reward_model=tiny_reward_dir("gpt2"), max_new_tokens=6, temperature=0, read=script("say red"))
    text = answer(path, PromptFormat(), "say red", 0, temperature=0)
    ids = tokenizer("say red\n").input_ids + tokenizer(text).input_ids + [tokenizer.eos_token_id]
    score = score_of(plain_scorer(tiny_reward_dir("gpt2")), ids).item()
    assert f"score {score:.3f}" in said(capsys)


def test_no_model_is_a_readable_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no model directory"):
        chat(str(tmp_path / "none"), read=script())
