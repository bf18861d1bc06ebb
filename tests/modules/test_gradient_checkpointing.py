"""``gradient_checkpointing`` changes no update of any stage, and keeps fewer activations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import TEXT, assert_same, comparisons, demos, fit, ppo, prompts, sgd, weights, write

from lit_instructgpt.hidden import hidden_states
from lit_instructgpt.models import checkpoint_activations, load_policy
from lit_instructgpt.modules import SFT, PPOModule, RankingRM

Dirs = Callable[[str], str]


def test_sft_with_dropout(family: str, tiny_dir: Dirs, tmp_path: Path):
    found = []
    for on in (False, True):
        module = SFT(tiny_dir(family), optimizer=sgd(0.1), dropout=0.2, gradient_checkpointing=on)
        fit(module, demos(tmp_path), tmp_path, max_epochs=3)
        found.append(weights(module.policy))
    assert_same(found[1], found[0], 1e-6)


def test_reward_model(family: str, tiny_dir: Dirs, tmp_path: Path):
    found = []
    for on in (False, True):
        module = RankingRM(tiny_dir(family), optimizer=sgd(0.1), gradient_checkpointing=on)
        fit(module, comparisons(tmp_path), tmp_path, max_epochs=3)
        found.append(weights(module.reward_model))
    assert_same(found[1], found[0], 1e-6)


def test_ppo(family: str, stopping_dir: Dirs, tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    found = []
    for on in (False, True):
        module = PPOModule(
            (tiny_dir if family == "llama" else stopping_dir)(family), reward_model=tiny_reward_dir(family),
            optimizer=sgd(0.1), ppo=ppo(ptx_coef=0.5, gradient_checkpointing=on),
        )  # fmt: skip
        fit(module, prompts(tmp_path, text=write(tmp_path / "t.jsonl", TEXT), num_episodes=16), tmp_path)
        found.append((weights(module.policy), weights(module.value_model)))
    assert_same(found[1][0], found[0][0], 2e-6)
    assert_same(found[1][1], found[0][1], 2e-6)


def test_fewer_activations_are_kept(family: str, tiny_dir: Dirs, tokenizer: Any):
    kept = []
    for on in (False, True):
        policy = load_policy(tiny_dir(family), tokenizer)
        if on:
            checkpoint_activations(policy)
        own = {p.untyped_storage().data_ptr() for p in policy.parameters()}
        sizes: dict[int, int] = {}

        def note(x: torch.Tensor, own: set[int] = own, sizes: dict[int, int] = sizes) -> torch.Tensor:
            place = x.untyped_storage().data_ptr()
            if place not in own:
                sizes[place] = x.untyped_storage().nbytes()
            return x

        ids = torch.arange(80).view(2, 40)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            states, _ = hidden_states(policy.base_model, ids, torch.ones_like(ids, dtype=torch.bool))
        kept.append(sum(sizes.values()))
        states.sum().backward()
    assert kept[1] < kept[0] / 2


def test_a_family_that_cannot_is_named(tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir("gpt2"), tokenizer)
    type(policy).supports_gradient_checkpointing, before = False, type(policy).supports_gradient_checkpointing
    try:
        with pytest.raises(ValueError, match=r"GPT2LMHeadModel does not support it; set it to false"):
            checkpoint_activations(policy)
    finally:
        type(policy).supports_gradient_checkpointing = before
