"""The memory plan: its parts against counts by hand and against real passes; refusals with advice."""

import math
import random
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from stages import COMPARISONS, adamw, comparisons, demos, fit, ppo, prompts, write
from torch import Tensor
from transformers import AutoModelForCausalLM

from lit_instructgpt.lora import LoRA
from lit_instructgpt.memory_plan import (
    Part,
    Plan,
    activation_bytes,
    available_bytes,
    cache_bytes,
    check_fits,
    count_weights,
    largest_batch,
    logit_bytes,
    resident_bytes,
    without_storage,
)
from lit_instructgpt.modules import SFT, PPOModule, RankingRM
from lit_instructgpt.modules.plans import Change, plan_ppo, plan_rm, plan_sft, state_bytes

LLAMA = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=100,
    tie_word_embeddings=True,
)  # fmt: skip


def test_weights_by_hand():
    """Embeddings 100 x 32, once; per layer q and o 32 x 32, k and v 16 x 32, three matrices of 32 x 80, two norms; a norm."""
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 80 + 2 * 32
    model, _ = without_storage(LLAMA, AutoModelForCausalLM)
    assert count_weights(model) == 100 * 32 + 3 * layer + 32


def test_cache_and_logits_by_hand():
    assert cache_bytes(LLAMA, num_rows=5, num_tokens=7, entry=4) == 2 * 3 * 16 * 5 * 7 * 4
    assert logit_bytes(LLAMA, 10) == 3 * 4 * 10 * 100
    assert logit_bytes(LLAMA, 1_000_000) == 3 * 4 * 4096 * 100, "more positions are projected in turn"


def kept_bytes(attention: str, autocast: torch.dtype | None) -> int:
    """Of every tensor that autograd keeps of a real pass, each storage once, weights aside."""
    model = transformers.AutoModel.from_config(LLAMA, dtype=torch.float32)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = x  # held, so that no address comes twice
        return x

    ids = torch.zeros(4, 24, dtype=torch.int64)
    mask = torch.zeros(4, 1, 24, 24, dtype=autocast or torch.float32)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None),
    ):
        model.config._attn_implementation = attention
        model(input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_activations_are_those_of_a_real_pass(autocast: torch.dtype | None):
    assert activation_bytes(LLAMA, 4 * 24, 24, autocast) == pytest.approx(kept_bytes("short_rows", autocast), rel=0.05)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_activations_elsewhere_are_those_of_a_fused_attention(autocast: torch.dtype | None):
    kept = kept_bytes("sdpa", autocast)
    assert activation_bytes(LLAMA, 4 * 24, 24, autocast, device="cuda") == pytest.approx(kept, rel=0.05)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    whole, kept = (activation_bytes(LLAMA, 96, 24, None, checkpointing) for checkpointing in (False, True))
    inputs = 3 * 96 * 32 * 4
    assert inputs < kept < inputs + whole // 2


@pytest.mark.parametrize(("make", "expected"), [(torch.optim.AdamW, 8), (torch.optim.SGD, 0)])
def test_state_of_an_optimizer(make: Any, expected: int):
    assert state_bytes(lambda p: make(p, lr=0.1)) == expected


def test_phases_come_in_turn():
    plan = Plan(
        [Part("a", "weights", 100), Part("a", "copy", 30, "rollout"), Part("b", "gradients", 50, "update")], base=7
    )
    assert plan.of_phase("rollout") == 130
    assert plan.of_phase("update") == 150
    assert plan.peak() == int(7 + 1.05 * 150)
    assert "rollout" in plan.table()


def test_a_plan_that_does_not_fit_is_refused_with_what_would():
    plan = Plan([Part("policy", "weights", 3 << 30)])
    less = Plan([Part("policy", "weights", 1 << 30)])
    with pytest.raises(
        MemoryError, match=r"would take 3,226 MB and 2,048 MB are available.*(.|\n)*less memory.* half: 1,075 MB"
    ):
        check_fits(plan, 2 << 30, [("half", less), ("more", Plan([Part("policy", "weights", 4 << 30)]))])
    check_fits(plan, 4 << 30, [])


def test_the_largest_batch_of_examples_of_unequal_lengths():
    """By hand, and against the batches of shuffled epochs."""
    assert largest_batch([7] * 10, 4) == 28
    assert largest_batch([7] * 3, 4) == 21, "there are no more"
    assert largest_batch([1, 3], 1) == 3
    assert largest_batch([0, 10] * 50, 100) == 500, "all of them"
    rng = random.Random(0)
    lengths = [round(math.exp(rng.gauss(5, 1))) for _ in range(1600)]
    found = []
    for _ in range(40):
        rng.shuffle(lengths)
        found.append(max(sum(lengths[i : i + 8]) for i in range(0, 1600, 8)))
    assert sorted(found)[20] == pytest.approx(largest_batch(lengths, 8), rel=0.2)
    assert largest_batch(lengths, 8) > 1.5 * 8 * sum(lengths) / 1600, "a mean batch says little"


def test_what_a_process_has_and_may_have():
    assert 100 << 20 < resident_bytes() < 8 << 30
    free = available_bytes(torch.device("cpu"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (64 << 30, hard))
        assert available_bytes(torch.device("cpu")) <= min(free, 64 << 30) * 1.2
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_attention_over_wide_rows_is_a_fused_kernels():
    """Of a row of 512 tokens: no table of queries and keys, which would be 2 heads x 512 x 512 x 4 bytes a layer."""
    wide = LLAMA.__class__(**{**LLAMA.to_dict(), "max_position_embeddings": 512})
    narrow = activation_bytes(wide, 4 * 128, 128)
    table = 4 * wide.num_hidden_layers * wide.num_attention_heads * 512 * 512
    assert activation_bytes(wide, 512, 512) < narrow + table / 4


def test_the_plan_counts_text_in_its_share_of_an_epoch(tiny_dir: Any, tmp_path: Path):
    """However much text there is to draw from: demonstrations, which are longer, make the batch."""
    short = write(tmp_path / "t.jsonl", [{"text": f"text {i}"} for i in range(300)])
    activations = []
    for more in ({}, {"text": short, "text_fraction": 0.25, "text_tokens": 4}):
        module = SFT(tiny_dir("llama"), optimizer=adamw(0.01))
        fit(module, demos(tmp_path, batch_size=4, **more), tmp_path)
        activations.append(sum(part.num_bytes for part in plan_sft(module).parts if part.what == "activations"))
    assert activations[1] >= 0.7 * activations[0]


def test_every_stage_prints_its_plan_before_it_loads_anything(
    tiny_dir: Any,
    tiny_reward_dir: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    caplog.set_level("INFO", logger="lightning.pytorch.utilities.rank_zero")
    comparison = write(tmp_path / "c.jsonl", COMPARISONS)
    runs = {
        "policy": (SFT(tiny_dir("llama"), optimizer=adamw(0.01)), demos(tmp_path)),
        "reward_model": (RankingRM(tiny_dir("llama"), optimizer=adamw(0.01)), comparisons(tmp_path, valid=comparison)),
        "value_model": (
            PPOModule(tiny_dir("llama"), reward_model=tiny_reward_dir("llama"), optimizer=adamw(0.01), ppo=ppo()),
            prompts(tmp_path),
        ),
    }
    for name, (module, data) in runs.items():
        caplog.clear()
        fit(module, data, tmp_path)
        plans = [record.getMessage() for record in caplog.records if "memory plan" in record.getMessage()]
        assert len(plans) == 1
        assert name in plans[0]
        make: Any = {"policy": plan_sft, "reward_model": plan_rm, "value_model": plan_ppo}[name]
        plan, smaller, pieces, lora = (
            replace(make(module, change), base=0)
            for change in (Change(), Change(eight_bit=True, checkpointing=True), Change(shards=8), Change(lora=LoRA()))
        )
        assert lora.peak() != plan.peak()
        assert smaller.peak() < plan.peak()
        kept = [sum(part.num_bytes for part in x.parts if part.phase == "always") for x in (plan, pieces)]
        assert kept[1] == pytest.approx(kept[0] / 8, rel=0.01)
        grads, holes = (
            sum(p.num_bytes for p in smaller.parts if p.what == what) for what in ("gradients", "fragments")
        )
        assert holes == pytest.approx(grads / 4, rel=0.01), "layers computed again leave holes between gradients"
        assert all(part.what != "fragments" for part in plan.parts), "nothing is computed again"
        assert {"whole", "gathered"} <= {part.what for part in pieces.parts}, "while loading, and for a pass"
    monkeypatch.setattr("lit_instructgpt.modules.plans.available_bytes", lambda _: -(1 << 50))
    module = SFT(tiny_dir("llama"))
    with pytest.raises(MemoryError, match=r"configs/optim/adamw8bit\.yaml: "):
        fit(module, demos(tmp_path), tmp_path)
    assert module.policy is None, "nothing was loaded"
