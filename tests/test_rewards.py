"""A reward model's directory as a reward on text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lit_instructgpt import rewards
from lit_instructgpt.formatting import SIDECAR, PromptFormat
from lit_instructgpt.models import quiet_loading
from lit_instructgpt.rewards import ModelReward

PROMPTS = ["What do bees make?", "Say hi", "Is it long, the list of the town?"]
RESPONSES = ["honey", "hello to all the people, and then goodbye", ""]


def by_hand(path: str, tokenizer: Any, texts: list[str]) -> list[float]:
    """Each text alone through plain transformers, EOS appended."""
    with quiet_loading():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return [
            model(torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])).logits.item() for text in texts
        ]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_those_of_plain_transformers_in_the_order_given(
    family: str, tiny_reward_dir: Callable[[str], str], tokenizer: Any, batch_size: int
):
    path = tiny_reward_dir(family)
    reward = ModelReward(path, PromptFormat("Q: {prompt}\nA:", " "), batch_size=batch_size)
    texts = [f"Q: {p}\nA: {r}" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert reward(PROMPTS, RESPONSES) == pytest.approx(by_hand(path, tokenizer, texts), abs=1e-5)
    assert reward([], []) == []


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_responses_to_one_prompt_share_it_wherever_they_stand(
    family: str, tiny_reward_dir: Callable[[str], str], tokenizer: Any, batch_size: int
):
    path = tiny_reward_dir(family)
    reward = ModelReward(path, PromptFormat("Q: {prompt}\nA:", " "), batch_size=batch_size)
    prompts = [PROMPTS[i] for i in (0, 1, 0, 2, 0, 1, 0)]
    responses = ["honey", "hi", "honey and wax", "yes", "", "hello to all", "h"]
    texts = [f"Q: {p}\nA: {r}" for p, r in zip(prompts, responses, strict=True)]
    assert reward(prompts, responses) == pytest.approx(by_hand(path, tokenizer, texts), abs=1e-5)


def test_rows_in_which_responses_share_a_prompt_are_bounded(
    tiny_reward_dir: Callable[[str], str], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    """A lower bound means more rows, each with the prompt; the scores are the same."""
    path = tiny_reward_dir("llama")
    reward = ModelReward(path, PromptFormat("{prompt}"))
    computed: list[int] = []
    reward.model.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompt, responses = "what do bees make?" * 3, ["a", "b", "c", "d", "e", "f", "g", "h"]
    num_prompt = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    expected = by_hand(path, tokenizer, [prompt + response for response in responses])
    reward([prompt] * 2, responses[:2])  # a model is tried once before its rows are relied on
    found = []
    for bound in (4096, num_prompt + 8, num_prompt):  # all eight in a row; four, with their EOS, in each of two; none
        monkeypatch.setattr(rewards, "SHARED_TOKENS", bound)
        computed.clear()
        assert reward([prompt] * 8, responses) == pytest.approx(expected, abs=1e-5)
        found.append(sum(computed))
    assert found == [num_prompt + 16, 2 * num_prompt + 16, 8 * num_prompt + 16]


def test_a_prompt_is_computed_once_for_its_responses(tiny_reward_dir: Callable[[str], str]):
    reward = ModelReward(tiny_reward_dir("llama"), PromptFormat("{prompt}"))
    computed: list[int] = []
    reward.model.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    reward(["what do bees make? " * 3], ["a"])
    alone = sum(computed)
    reward(["what do bees make? " * 3] * 8, ["a", "b", "c", "d", "e", "f", "g", "h"])
    assert sum(computed) - alone < 2 * alone


def test_pitfall_17_the_stored_format_is_used(make_dir: Callable[..., str], tokenizer: Any):
    path = make_dir("gpt_neox", reward=True)
    assert ModelReward(path).format == PromptFormat()
    stored = {"format": {"template": "<{prompt}>", "response_prefix": "=", "chat_template": False}}
    (Path(path) / SIDECAR).write_text(json.dumps(stored))
    assert ModelReward(path, PromptFormat("another {prompt}")).format.template == "<{prompt}>", "whatever is given"
    found = ModelReward(path)(["hi"], ["yes"])
    assert found == pytest.approx(by_hand(path, tokenizer, ["<hi>=yes"]), abs=1e-5)


def test_pitfall_17_eos_is_appended_once(tiny_reward_dir: Callable[[str], str], tokenizer: Any):
    reward = ModelReward(tiny_reward_dir("gpt2"))
    once, twice = reward(["hi", "hi"], ["yes", "yes<|endoftext|><|endoftext|>"])
    assert once == pytest.approx(twice, abs=1e-6)
    assert once == pytest.approx(by_hand(tiny_reward_dir("gpt2"), tokenizer, ["hi\nyes"])[0], abs=1e-5)


def test_long_responses_are_cut_and_keep_their_eos(
    tiny_reward_dir: Callable[[str], str], tokenizer: Any, caplog: pytest.LogCaptureFixture
):
    path = tiny_reward_dir("llama")
    reward = ModelReward(path, PromptFormat("{prompt}"), max_response_tokens=4)
    ids = tokenizer("abcdefgh", add_special_tokens=False).input_ids[:3]
    expected = by_hand(path, tokenizer, ["hi" + tokenizer.decode(ids)])
    with caplog.at_level("INFO"):
        assert reward(["hi"], ["abcdefgh"]) == pytest.approx(expected, abs=1e-5)
    assert "1 of 1 responses are longer than it reads (max_response_tokens 4, context 128)" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        assert len(reward(["hi", "hi"], [tokenizer.decode(ids), ""])) == 2
    assert "longer than it reads" not in caplog.text


def test_pitfall_21_a_reward_brings_its_own_tokenizer(make_dir: Callable[..., str], make_tokenizer: Any):
    own = make_tokenizer(eos_token="<end>", pad_token="<fill>", bos_token="<s>")
    path = make_dir("llama", reward=True, tokenizer=own)
    reward = ModelReward(path, PromptFormat("{prompt}"))
    assert reward.tokenizer.eos_token == "<end>"
    assert reward(["hi"], ["yes"]) == pytest.approx(by_hand(path, own, ["hiyes"]), abs=1e-5)


def test_the_model_is_frozen_in_eval_mode(tiny_reward_dir: Callable[[str], str]):
    reward = ModelReward(tiny_reward_dir("gpt2"))
    assert not reward.model.training
    assert not any(p.requires_grad for p in reward.model.parameters())
    with pytest.raises(ValueError, match="zip"):
        reward(["one"], ["a", "b"])
