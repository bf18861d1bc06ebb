"""Frozen matrices in 8 and 4 bits: what a weight becomes, what it takes, and what PPO makes of it."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import PROMPTS, fit, ppo, prompts, sgd, write
from torch import nn
from transformers.pytorch_utils import Conv1D

from lit_instructgpt.inference import QuantizedLinear, freeze_matrices, matrices
from lit_instructgpt.lora import LoRA
from lit_instructgpt.models import load_policy
from lit_instructgpt.modules import PPOModule

Dirs = Callable[[str], str]
NF4 = torch.tensor(
    [
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ]
)  # fmt: skip
"""The 16 levels, as printed in QLoRA's Appendix E."""


def linear(kind: str, rows: int = 96, columns: int = 64) -> Any:
    torch.manual_seed(0)
    if kind == "Conv1D":
        found: Any = Conv1D(rows, columns)
        nn.init.normal_(found.bias)
        return found
    return nn.Linear(columns, rows)


def matrix(module: Any) -> torch.Tensor:
    """[out, in]."""
    weight = module.weight.detach()
    return weight.T if isinstance(module, Conv1D) else weight


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_nf4_is_the_nearest_of_the_published_levels(kind: str):
    module = linear(kind)
    quantized = QuantizedLinear(module, "nf4", torch.empty(0))
    blocks = matrix(module).reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = NF4[(blocks[..., None] / scale[..., None] - NF4).abs().argmin(-1)] * scale
    torch.testing.assert_close(quantized.restore().reshape(-1, 64), nearest, atol=1e-5, rtol=0)
    x = torch.randn(5, 64)
    expected = x @ nearest.reshape(96, 64).T + module.bias
    torch.testing.assert_close(quantized(x), expected, atol=1e-4, rtol=1e-4)
    assert quantized.num_bytes == 96 * 64 // 2 + 4 * 96, "half a byte each, and four for 64"


@pytest.mark.parametrize("kind", ["Linear", "Conv1D"])
def test_int8_is_within_a_hundredth_of_the_largest_of_a_block(kind: str):
    module = linear(kind)
    quantized = QuantizedLinear(module, "int8", torch.empty(0))
    blocks = matrix(module).reshape(-1, 256)
    off = (quantized.restore().reshape(-1, 256) - blocks).abs() / blocks.abs().amax(1, keepdim=True)
    assert 0 < off.max() <= 0.01
    assert quantized.num_bytes == 96 * 64 + 4 * 24, "a byte each, and four for 256"


@pytest.mark.parametrize("kept", ["int8", "nf4"])
def test_the_layers_are_quantized_and_nothing_else(family: str, tiny_dir: Dirs, tokenizer: Any, kept: Any):
    policy = load_policy(tiny_dir(family), tokenizer).eval()
    head, num = policy.get_output_embeddings(), len(list(matrices(policy)))
    freeze_matrices(policy, kept)
    quantized = [module for module in policy.modules() if isinstance(module, QuantizedLinear)]
    assert len(quantized) == num - 1 > 4
    assert policy.get_output_embeddings() is head
    assert [module for _, _, module in matrices(policy)] == [head]


@pytest.mark.filterwarnings("ignore:ppo.frozen_dtype")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_ppo_scores_almost_the_same(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, precision: str):
    found = []
    for dtype in ("float32", "int8", "nf4"):
        module = PPOModule(
            tiny_dir("llama"), reward_model=tiny_reward_dir("llama"), optimizer=sgd(0.0), ppo=ppo(frozen_dtype=dtype)
        )
        data = prompts(tmp_path, valid=write(tmp_path / "v.jsonl", PROMPTS))
        _, record = fit(module, data, tmp_path, precision=precision)
        found.append((record.logged[0]["objective/score"], record.logged[0]["objective/kl"]))
        assert "val/objective/score" in record.validated[0], "validation scores with them too"
        assert all(p.dtype == torch.float32 for p in module.policy.parameters())
    (score, kl), *others = found
    gaps = [(abs(s - score), abs(k - kl)) for s, k in others]
    assert 0 < gaps[0][0] < gaps[1][0] < 1
    assert 0 < gaps[0][1] < gaps[1][1] < 10


def test_a_reference_that_is_far_from_the_policy_is_said(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    """The tiny models' weights are far from their usual start: 4 bits move their outputs by nats."""
    for dtype, far in (("nf4", True), ("float32", False)):
        module = PPOModule(
            tiny_dir("llama"), reward_model=tiny_reward_dir("llama"), optimizer=sgd(0.0), ppo=ppo(frozen_dtype=dtype)
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit(module, prompts(tmp_path), tmp_path)
        assert any("nats an episode before any update" in str(warning.message) for warning in said) == far


def test_they_do_not_go_with_lora():
    with pytest.raises(ValueError, match=r"ppo\.frozen_dtype: nf4 does not go with ppo\.lora.*float32 or bfloat16"):
        ppo(frozen_dtype="nf4", lora=LoRA())
