"""Log-probabilities of continuations: against bare sequences, a model that knows nothing, and ids written by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks_by_hand import phrase, plain_logprob
from stages import plain_policy, token_nlls

from lit_instructgpt.evaluation.choices import PairEncoder, continuation_logprobs
from lit_instructgpt.models import load_policy, load_tokenizer

Dirs = Callable[[str], str]
SAME = "Question: what do bees make? Answer:"
PAIRS = [
    *[(phrase(i, 3 + i % 9), f" {phrase(2 * i, 1 + i % 6)}") for i in range(12)],
    *[(SAME, f" {phrase(3 * i, 1 + i)}") for i in range(6)],
    ("", phrase(5, 6)),
    ("", "é: 5 €"),
]


def loaded(directory: str) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(directory)
    return load_policy(directory, tokenizer), tokenizer


def test_sums_are_those_of_bare_sequences(family: str, tiny_dir: Dirs, tokenizer: Any):
    directory = tiny_dir(family)
    plain = plain_policy(directory)
    found = continuation_logprobs(*loaded(directory), PAIRS)
    for pair, one in zip(PAIRS, found, strict=True):
        logprob, num_tokens = plain_logprob(plain, tokenizer, *pair)
        assert one.logprob == pytest.approx(logprob, rel=1e-6, abs=1e-6)
        assert one.num_tokens == num_tokens
        assert one.per_token == pytest.approx(logprob / num_tokens, rel=1e-6, abs=1e-6)
        assert one.num_cut == 0
    assert [one.num_bytes for one in found[-2:]] == [len(PAIRS[-2][1]), 9], "two letters are of two and three bytes"


def test_a_model_that_knows_nothing_gives_every_token_its_share(tiny_dir: Dirs, tokenizer: Any):
    policy, own_tokenizer = loaded(tiny_dir("gpt2"))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    found = continuation_logprobs(policy, own_tokenizer, PAIRS)
    for (context, text), one in zip(PAIRS, found, strict=True):
        num = len(tokenizer.encode(context + text)) - len(tokenizer.encode(context))
        assert one.logprob == pytest.approx(-num * math.log(len(tokenizer)), rel=1e-6)


def test_white_space_between_belongs_to_the_continuation(tiny_dir: Dirs):
    policy, tokenizer = loaded(tiny_dir("gpt2"))
    first, second, third, fourth = continuation_logprobs(
        policy, tokenizer, [("say hello ", "to"), ("say hello", " to"), ("say\n\n", "hello"), ("say", "\n\nhello")]
    )
    assert (first.logprob, first.num_tokens) == pytest.approx((second.logprob, second.num_tokens), rel=1e-6)
    assert (third.logprob, third.num_tokens) == pytest.approx((fourth.logprob, fourth.num_tokens), rel=1e-6)
    assert first.num_bytes == 2, "of the text as it was given"


def test_tokens_that_reach_over_the_boundary_are_the_contexts(tokenizer: Any):
    """A merge over the boundary: the ids of both together are cut where the context's own ids end."""
    encode = PairEncoder(tokenizer)
    text, merged = "the quick", 0
    whole = tokenizer.encode(text)
    for at in range(1, len(text)):
        own = tokenizer.encode(text[:at])
        if not text[:at].endswith(" "):
            assert encode(text[:at], text[at:]) == (own, whole[len(own) :])
            merged += own != whole[: len(own)]
    assert merged, "some of them are such merges"


def test_an_empty_context_is_bos_or_else_eos(make_tokenizer: Callable[..., Any], tokenizer: Any):
    assert PairEncoder(tokenizer)("", "hello") == ([tokenizer.eos_token_id], tokenizer.encode("hello"))
    assert PairEncoder(tokenizer)("  ", "hello")[0] == [tokenizer.eos_token_id]
    begins = make_tokenizer(bos_token="<s>")
    assert PairEncoder(begins)("", "hello") == ([begins.bos_token_id], begins.encode("hello"))
    text = f"{tokenizer.eos_token}hello"
    assert PairEncoder(tokenizer)("", text) == ([tokenizer.eos_token_id], tokenizer.encode("hello")), (
        "it is not put twice"
    )


def test_a_tokenizer_that_begins_texts_with_bos(make_tokenizer: Callable[..., Any]):
    from tokenizers.processors import TemplateProcessing

    begins = make_tokenizer(bos_token="<s>")
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begins.bos_token_id)]
    )
    assert begins.encode("say") == [begins.bos_token_id, *begins.encode("say", add_special_tokens=False)]
    context, continuation = PairEncoder(begins)("say", " hello")
    assert context == begins.encode("say")
    assert context + continuation == begins.encode("say hello")


def test_a_long_context_loses_its_beginning_and_says_so(tiny_dir: Dirs, tokenizer: Any):
    directory = tiny_dir("gpt2")  # its context is 128 tokens
    context, continuation = "y" * 100 + "z" * 100, "xq"
    ids = tokenizer.encode(context + continuation)
    assert len(ids) == 202
    with torch.no_grad():
        expected = -float(token_nlls(plain_policy(directory), ids[-128:])[-2:].double().sum())
    one, short = continuation_logprobs(*loaded(directory), [(context, continuation), ("z", "xq")])
    assert one.logprob == pytest.approx(expected, rel=1e-6)
    assert (one.num_cut, short.num_cut) == (202 - 128, 0)


@pytest.mark.parametrize(("pair", "message"), [
    (("say", ""), r"continuation '' has 0 tokens: at least 1"),
    (("say", "z" * 128), r"'z{40}' has 128 tokens: .* at most 127 fit the model's context of 128"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused(tiny_dir: Dirs, pair: tuple[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        continuation_logprobs(*loaded(tiny_dir("gpt2")), [("say", " hello"), pair])
