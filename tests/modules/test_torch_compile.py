"""``torch_compile`` changes no update of any stage by more than rounding, and what is computed is compiled."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import TEXT, assert_same, comparisons, demos, fit, ppo, prompts, sgd, weights, write

from lit_instructgpt.compiled import compile_layers, plain
from lit_instructgpt.inference import inference_copy
from lit_instructgpt.models import inference_mode, load_policy
from lit_instructgpt.modules import SFT, PPOModule, RankingRM

Dirs = Callable[[str], str]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),  # torch, while it compiles
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated"),
]


@pytest.fixture
def compilations() -> Iterator[Callable[[], int]]:
    """Counts the frames that were compiled since the last count."""
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters["frames"]

    def count() -> int:
        found = counters["ok"]
        torch.compiler.reset()
        counters.clear()
        return found

    count()
    yield count
    count()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sft_with_dropout(family: str, tiny_dir: Dirs, tmp_path: Path, compilations: Callable[[], int]):
    found = []
    for on in (False, True):
        module = SFT(tiny_dir(family), optimizer=sgd(0.1), dropout=0.2, torch_compile=on)
        fit(module, demos(tmp_path), tmp_path, max_epochs=3)
        found.append(weights(module.policy))
        assert (compilations() > 0) == on
    assert_same(found[1], found[0], 1e-5)


def test_reward_model_with_checkpointing(tiny_dir: Dirs, tmp_path: Path, compilations: Callable[[], int]):
    found = []
    for on in (False, True):
        module = RankingRM(tiny_dir("llama"), optimizer=sgd(0.1), gradient_checkpointing=on, torch_compile=on)
        fit(module, comparisons(tmp_path), tmp_path, max_epochs=3)
        found.append(weights(module.reward_model))
        assert (compilations() > 0) == on
    assert_same(found[1], found[0], 1e-5)


def test_ppo(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, compilations: Callable[[], int]):
    found = []
    for on in (False, True):
        module = PPOModule(
            tiny_dir("llama"), reward_model=tiny_reward_dir("llama"),
            optimizer=sgd(0.1), ppo=ppo(ptx_coef=0.5, torch_compile=on),
        )  # fmt: skip
        fit(module, prompts(tmp_path, text=write(tmp_path / "t.jsonl", TEXT), num_episodes=16), tmp_path)
        found.append((weights(module.policy), weights(module.value_model)))
        assert (compilations() > 0) == on
    assert_same(found[1][0], found[0][0], 1e-5)
    assert_same(found[1][1], found[0][1], 1e-5)


def test_one_compilation_serves_all_layers_and_sizes(tiny_dir: Dirs, tokenizer: Any, compilations: Callable[[], int]):
    policy = load_policy(tiny_dir("llama"), tokenizer)
    compile_layers(policy)
    counters = torch._dynamo.utils.counters["frames"]
    with inference_mode(policy):
        found = []
        for rows, width in ((2, 12), (3, 20), (4, 33), (5, 17), (6, 18)):
            policy(torch.arange(rows * width).view(rows, width) % 200, use_cache=False)
            found.append(counters["ok"])
    assert found == [1, 2, 2, 2, 2]


def test_what_samples_is_plain(family: str, tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    assert plain(policy) is policy
    compile_layers(policy)
    for copy in (plain(policy), inference_copy(policy, torch.float32)):
        assert all(module._compiled_call_impl is None for module in copy.modules())
    assert list(plain(policy).state_dict()) == list(policy.state_dict())
    ours = dict(plain(policy).named_parameters())
    assert all(ours[name] is p for name, p in policy.named_parameters())
