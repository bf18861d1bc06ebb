"""From prompts to texts, for predict, evaluate and chat."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stages import plain_policy

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.models import load_policy
from lit_instructgpt.sampling import Sampling, sample_ids, sample_texts

TEXTS = ["say red", "what do bees make?", "I"]


@pytest.fixture
def policy(tiny_dir: Callable[[str], str], tokenizer: Any) -> Any:
    return load_policy(tiny_dir("gpt_neox"), tokenizer).eval()


@pytest.fixture
def batch(tokenizer: Any) -> PromptBatch:
    ids, mask = pad([tokenizer(text + "\n").input_ids for text in TEXTS], tokenizer.pad_token_id, left=True)
    return PromptBatch(ids, mask, TEXTS, [{"prompt": text} for text in TEXTS], [""] * len(TEXTS))


def greedy(model: Any, ids: list[int], eos: int, num: int) -> list[int]:
    """The most likely response by whole forwards of the bare sequence."""
    response: list[int] = []
    while len(response) < num and response[-1:] != [eos]:
        with torch.no_grad():
            response.append(int(model(torch.tensor([ids + response])).logits[0, -1].argmax()))
    return response


def test_temperature_0_is_the_most_likely_response(
    policy: Any, batch: PromptBatch, tokenizer: Any, tiny_dir: Callable[[str], str]
):
    model = plain_policy(tiny_dir("gpt_neox"))
    expected = [greedy(model, tokenizer(text + "\n").input_ids, tokenizer.eos_token_id, 7) for text in TEXTS]
    assert sample_ids(policy, tokenizer, batch, Sampling(1, 7, temperature=0), 0) == expected


def test_k_samples_stand_together_behind_their_prompt(policy: Any, batch: PromptBatch, tokenizer: Any):
    sampling = Sampling(3, 5, seed=4)
    ids = sample_ids(policy, tokenizer, batch, sampling, 0)
    texts = sample_texts(policy, tokenizer, PromptFormat(), batch, sampling, 0)
    assert [len(row) for row in texts] == [3, 3, 3]
    assert [text for row in texts for text in row] == [tokenizer.decode(i, skip_special_tokens=True) for i in ids]
    greedy_texts = sample_texts(policy, tokenizer, PromptFormat(), batch, Sampling(2, 5, temperature=0), 0)
    assert all(first == second for first, second in greedy_texts)
    assert greedy_texts[0] != greedy_texts[1]


def test_seed_and_stream_decide_the_random_numbers(policy: Any, batch: PromptBatch, tokenizer: Any):
    def ids(seed: int, stream: int) -> list[list[int]]:
        return sample_ids(policy, tokenizer, batch, Sampling(2, 5, seed=seed), stream)

    torch.manual_seed(1)
    first = ids(0, 0)
    torch.manual_seed(2)
    assert ids(0, 0) == first
    assert ids(0, 1) != first
    assert ids(1, 0) != first


def test_pitfall_04_samples_follow_the_models_own_distribution(
    policy: Any, tokenizer: Any, tiny_dir: Callable[[str], str]
):
    ids = tokenizer("say red\n").input_ids
    one = PromptBatch(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), ["say red"], [{}], [""])
    num = 20_000
    with torch.no_grad():
        expected = torch.softmax(plain_policy(tiny_dir("gpt_neox"))(torch.tensor([ids])).logits[0, -1] / 0.5, -1)
    counts = Counter(row[0] for row in sample_ids(policy, tokenizer, one, Sampling(num, 1, temperature=0.5), 0))
    found = torch.tensor([counts[token] / num for token in range(len(expected))])
    sd = (expected * (1 - expected) / num).sqrt()
    assert ((found - expected).abs() < 5 * sd + 1e-4).all()
    assert len(counts) > 50, "nothing is cut off (top-k, top-p)"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_samples": 0}, "num_samples and max_new_tokens must be at least 1"),
        ({"max_new_tokens": 0}, "num_samples and max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, r"sampling\.temperature must not be negative, got -1\.0"),
    ],
)
def test_bad_settings(setting: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**setting)
