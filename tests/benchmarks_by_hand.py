"""The paper's automatic evaluations by bare forward passes, one sequence at a time: what the package is compared with."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import token_nlls

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval"
"""Where the published files lie, if they do."""

SENTENCES = (
    "the quick brown fox jumps over the lazy dog. bees make honey, people say hello to the town; is it long? no, it is short. "
    "one two three list question answer make over goodbye"
)
WORDS = SENTENCES.split()


def published(name: str) -> str:
    """Path of a published file; skips the test where it is not."""
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs the published file {name} in ../shared/data/eval")
    return str(path)


def phrase(start: int, length: int, step: int = 7) -> str:
    """Some words."""
    return " ".join(WORDS[(start + step * i) % len(WORDS)] for i in range(length))


def split_ids(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of both, for contexts that do not end with white space."""
    if not context:
        return [tokenizer.eos_token_id], tokenizer.encode(continuation)
    first = tokenizer.encode(context)
    return first, tokenizer.encode(context + continuation)[len(first) :]


def plain_logprob(model: Any, tokenizer: Any, context: str, continuation: str) -> tuple[float, int]:
    """Log-probability of the continuation, nats, and its tokens."""
    first, second = split_ids(tokenizer, context, continuation)
    with torch.no_grad():
        nlls = token_nlls(model, first + second).double()
    return -float(nlls[len(first) - 1 :].sum()), len(second)


def plain_logprobs(model: Any, tokenizer: Any, context: str, texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Sums and averages of several continuations."""
    found = [plain_logprob(model, tokenizer, context, text) for text in texts]
    return [total for total, _ in found], [total / num for total, num in found]


def plain_greedy(model: Any, tokenizer: Any, prompt: str, num_tokens: int) -> str:
    """What the most likely tokens say, up to the first newline."""
    ids = tokenizer.encode(prompt)
    written: list[int] = []
    for _ in range(num_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True).split("\n")[0].strip()


def entropy(first: float, second: float) -> float:
    """Of choosing between two with these log-probabilities, bits."""
    d = second - first
    p, q = 1 / (1 + math.exp(d)), 1 / (1 + math.exp(-d))
    return (p * math.log1p(math.exp(d)) + q * math.log1p(math.exp(-d))) / math.log(2)


def mean(values: Sequence[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)
