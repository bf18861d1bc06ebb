"""Residual dropout by sample: the same whatever is computed beside it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_instructgpt.batch import pad
from lit_instructgpt.dropout import add_residual_dropout, dropout_keys, kept, key_of, lay_out, next_keys
from lit_instructgpt.logprobs import target_logprobs
from lit_instructgpt.models import checkpoint_activations, load_policy

SEQUENCES = [[5, 9, 11, 3, 8, 40], [7, 7, 12], [30, 31, 32, 33, 34, 35, 36, 37, 38], [21, 22, 23, 24]]
KEYS = [key_of(0, 3, f"demos.jsonl:{i}") for i in range(4)]


def logprobs(policy: Any, rows: list[int], packing: bool, keys: bool = True) -> list[Tensor]:
    """Of every token but the first of each sequence, in train mode."""
    ids, mask = pad([SEQUENCES[i] for i in rows], 1)
    targets = mask & (torch.arange(ids.shape[1]) > 0)
    policy.train()
    with dropout_keys():
        if keys:
            next_keys([KEYS[i] for i in rows])
        found, _ = target_logprobs(policy, ids, mask, targets, packing=packing)
    return list(torch.split(found, [len(SEQUENCES[i]) - 1 for i in rows]))


@pytest.mark.parametrize("packing", [True, False])
def test_a_sample_drops_the_same_alone_and_in_company(
    family: str, tiny_dir: Callable[[str], str], tokenizer: Any, packing: bool
):
    policy = load_policy(tiny_dir(family), tokenizer)
    without = logprobs(policy, [0, 1, 2, 3], packing)
    add_residual_dropout(policy, 0.3)
    alone = [logprobs(policy, [i], packing)[0] for i in range(4)]
    for rows in ([0, 1, 2, 3], [3, 1], [2, 0, 1]):
        for i, found in zip(rows, logprobs(policy, rows, packing), strict=True):
            torch.testing.assert_close(found, alone[i], atol=1e-5, rtol=1e-5)
            assert (found - without[i]).abs().max() > 0.01, "something was dropped"


def test_packed_and_padded_rows_drop_the_same(family: str, tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    add_residual_dropout(policy, 0.3)
    for packed, padded in zip(logprobs(policy, [0, 1, 2, 3], True), logprobs(policy, [0, 1, 2, 3], False), strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)


def test_the_share_and_the_independence_of_what_is_dropped():
    """Over blocks, steps, samples and entries: the share is the probability, and no two are alike."""
    place, mask = torch.arange(50)[None], torch.ones(1, 50, dtype=torch.bool)
    drawn = []
    with dropout_keys():
        for key in (key_of(0, 0, "a"), key_of(0, 0, "b"), key_of(0, 1, "a"), key_of(1, 0, "a")):
            next_keys([key])
            lay_out(place, mask)
            drawn += [kept(torch.Size((1, 50, 64)), 0.25, block, torch.device("cpu")) for block in range(3)]
    for i, one in enumerate(drawn):
        assert one.mean().item() == pytest.approx(0.75, abs=0.03)
        for other in drawn[:i]:
            agree = (one == other).float().mean().item()
            assert agree == pytest.approx(0.75**2 + 0.25**2, abs=0.03)


def test_padding_is_dropped_and_changes_nothing():
    place = torch.arange(8).view(2, 4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    with dropout_keys():
        next_keys([1, 2])
        lay_out(place, mask)
        found = kept(torch.Size((2, 4, 16)), 0.5, 0, torch.device("cpu"))
    assert found[0, 2:].sum() == 0
    assert 0 < found[0, :2].mean() < 1


def test_gradient_checkpointing_drops_the_same_twice(tiny_dir: Callable[[str], str], tokenizer: Any):
    gradients = []
    for checkpointing in (False, True):
        policy = load_policy(tiny_dir("llama"), tokenizer)
        add_residual_dropout(policy, 0.3)
        if checkpointing:
            checkpoint_activations(policy)
        ids, mask = pad(SEQUENCES, 1)
        with dropout_keys():
            next_keys(KEYS)
            found, _ = target_logprobs(policy.train(), ids, mask, mask & (torch.arange(ids.shape[1]) > 0))
            found.sum().backward()
        gradients.append([p.grad for p in policy.parameters()])
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)


def test_the_keys_are_gone_afterwards(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("gpt2"), tokenizer)
    add_residual_dropout(policy, 0.5)
    logprobs(policy, [0, 1], True)
    torch.manual_seed(0)
    first = logprobs(policy, [0, 1], True, keys=False)[0]
    torch.manual_seed(1)
    assert not torch.equal(first, logprobs(policy, [0, 1], True, keys=False)[0]), "the global random numbers decide"
