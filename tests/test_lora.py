"""Adapters: what is trained, what is shared, and the two ways out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from stages import (
    DEMOS,
    PROMPTS,
    TEXT,
    adamw,
    assert_same,
    comparisons,
    demos,
    fit,
    plain_policy,
    plain_scorer,
    ppo,
    prompts,
    weights,
    write,
)

from lit_instructgpt.callbacks import ExportHF, SaveCheckpoints
from lit_instructgpt.checkpoints.directory import newest
from lit_instructgpt.checkpoints.state import read_state
from lit_instructgpt.lora import LoRA, adapters, add_adapters, has_adapters, linear_names, merged
from lit_instructgpt.models import load_policy
from lit_instructgpt.modules import SFT, PPOModule, RankingRM

LORA = LoRA(rank=4, alpha=8)
IDS = torch.tensor([[5, 9, 11, 3, 8, 40, 17]])


def base_of(module: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(family: str, tiny_dir: Any, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    before, names = logits(policy), linear_names(policy)
    add_adapters(policy, LORA)
    assert torch.equal(logits(policy), before)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    num = len({name.rpartition(".lora_")[0] for name in trained})
    assert num == len(list(adapters(policy))) == {"gpt2": 8, "gpt_neox": 8, "llama": 14}[family], names


def test_merged_is_a_plain_model_with_the_same_outputs(family: str, tiny_dir: Any, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    add_adapters(policy, LORA)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if ".lora_" in name:
                p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    plain = merged(policy)
    assert not has_adapters(plain)
    assert has_adapters(policy)
    torch.testing.assert_close(logits(plain), logits(policy), atol=1e-5, rtol=1e-5)
    theirs = plain_policy(tiny_dir(family))
    assert weights(plain).keys() == weights(theirs).keys()
    assert plain.get_input_embeddings().weight is policy.get_input_embeddings().weight, "shared, not copied"


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}])
def test_settings_that_adapt_nothing_are_refused(settings: Any):
    with pytest.raises(ValueError, match="rank and alpha must be positive"):
        LoRA(**settings)


def test_a_name_that_is_not_there_is_refused_with_those_that_are(tiny_dir: Any, tokenizer: Any):
    policy = load_policy(tiny_dir("llama"), tokenizer)
    with pytest.raises(ValueError, match=r"lora\.targets: qqq: LlamaForCausalLM has down_proj, gate_proj"):
        add_adapters(policy, LoRA(targets=["qqq", "q_proj"]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 on transformers 5.23
def test_sft_trains_exports_both_ways_and_resumes(tiny_dir: Any, tmp_path: Path):
    import peft

    def run(path: Path, **settings: Any) -> SFT:
        module = SFT(tiny_dir("llama"), optimizer=adamw(0.02), dropout=0.1, lora=LORA)
        fit(module, demos(tmp_path, batch_size=3), path, SaveCheckpoints(), ExportHF(), **settings)
        return module

    module = run(tmp_path / "whole", max_epochs=3)
    base = plain_policy(tiny_dir("llama"))
    assert_same({n.replace(".base_layer", ""): p for n, p in base_of(module.policy).items()}, weights(base))
    export = plain_policy(tmp_path / "whole/export")
    torch.testing.assert_close(logits(export), logits(module.policy), atol=1e-5, rtol=1e-5)
    assert (logits(export) - logits(base)).abs().max() > 0.01, "it has learned something"
    apart = peft.PeftModel.from_pretrained(base, tmp_path / "whole/export/adapter")
    torch.testing.assert_close(logits(apart), logits(export), atol=1e-5, rtol=1e-5)
    state = read_state(newest(tmp_path / "whole/checkpoints").path)
    assert all(".lora_" in name for name in state["state_dict"]), "the frozen weights are not in it"
    assert state["frozen"]["model"]["source"] == tiny_dir("llama")
    run(tmp_path / "cut", max_epochs=3, max_steps=3)
    again = run(tmp_path / "cut", max_epochs=3, ckpt_path=tmp_path / "cut/checkpoints")
    assert again.global_step == 6
    other = SFT(tiny_dir("gpt2"), optimizer=adamw(0.02), lora=LORA)
    with pytest.raises(ValueError, match="trained with other frozen models"):
        fit(other, demos(tmp_path), tmp_path / "cut", SaveCheckpoints(), ckpt_path=tmp_path / "whole/checkpoints")


def test_a_fresh_model_has_nothing_to_adapt():
    from lit_instructgpt.models import FreshModel

    with pytest.raises(ValueError, match=r"model\.lora needs a model that was trained"):
        SFT(FreshModel({"model_type": "llama"}, []), lora=LORA)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_reward_model_saves_its_head_both_ways(family: str, tiny_dir: Any, tmp_path: Path):
    import peft

    module = RankingRM(tiny_dir(family), optimizer=adamw(0.02), lora=LORA)
    demonstrations = write(tmp_path / "d.jsonl", DEMOS)
    fit(module, comparisons(tmp_path, demonstrations=demonstrations), tmp_path, ExportHF(), max_epochs=3)
    assert module.reward_model is not None
    merged_scorer = plain_scorer(tmp_path / "export")
    module.reward_model.eval()
    with torch.no_grad():
        expected = module.reward_model.score(IDS, torch.ones_like(IDS, dtype=torch.bool)).item()
        found = merged_scorer(input_ids=IDS).logits.item() + merged_scorer.config.score_bias
    assert found == pytest.approx(expected, abs=1e-4)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_dir(family), num_labels=1).eval()
    apart = peft.PeftModel.from_pretrained(base, tmp_path / "export/adapter")
    with torch.no_grad():
        alone = apart(input_ids=IDS).logits.item() + merged_scorer.config.score_bias
    assert alone == pytest.approx(expected, abs=1e-4)
    assert json.loads((tmp_path / "export/adapter/adapter_config.json").read_text())["modules_to_save"] == ["score"]


@pytest.mark.parametrize("with_reward_model", [True, False])
def test_ppo_holds_one_base_for_each_pair(tiny_dir: Any, tiny_reward_dir: Any, tmp_path: Path, with_reward_model: bool):
    text = write(tmp_path / "t.jsonl", TEXT)
    settings = ppo(lora=LORA, minibatch_size=4, ptx_coef=0.5, ema_decay=0.9)
    reward: dict[str, Any] = {"reward_fn": lambda _, responses: [float(len(r)) for r in responses]}
    if with_reward_model:
        reward = {"reward_model": tiny_reward_dir("llama")}

    def make() -> PPOModule:
        return PPOModule(tiny_dir("llama"), optimizer=adamw(0.02), ppo=settings, **reward)

    def data() -> Any:
        valid = write(tmp_path / "v.jsonl", PROMPTS)
        return prompts(tmp_path, num_episodes=24, text=text, text_per_episode=1, valid=valid)

    module = make()
    _, record = fit(module, data(), tmp_path / "whole", SaveCheckpoints(), ExportHF())
    assert abs(record.logged[-1]["objective/kl"]) > 1e-4, "the policy has left its reference"
    own = {id(p) for p in module.policy.parameters() if not p.requires_grad}
    assert own == {id(p) for p in module.ref.parameters()}, "one base"
    value = {id(p) for p in module.value_model.parameters() if not p.requires_grad}
    other = module.reward_model if with_reward_model else module.ref
    assert value <= {id(p) for p in other.parameters()}
    trained = {n for n, p in module.value_model.named_parameters() if p.requires_grad}
    assert "model.score.weight" in trained
    assert all(".lora_" in n for n in trained - {"model.score.weight"})
    assert_same(weights(module.ref), weights(plain_policy(tiny_dir("llama"))))
    with module.exported_weights():
        expected = logits(module.policy)
    torch.testing.assert_close(logits(plain_policy(tmp_path / "whole/export")), expected, atol=1e-5, rtol=1e-5)
    state = read_state(newest(tmp_path / "whole/checkpoints").path)
    size = sum(x.numel() for x in state["state_dict"].values())
    assert size == sum(
        p.numel() for m in (module.policy, module.value_model) for p in m.parameters() if p.requires_grad
    )
    fit(make(), data(), tmp_path / "cut", SaveCheckpoints(), max_steps=2)
    resumed = make()
    fit(resumed, data(), tmp_path / "cut", SaveCheckpoints(), ckpt_path=tmp_path / "cut/checkpoints")
    for p, q in zip(module.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_ppo_holds_one_base_for_all_where_the_reward_model_is_adapters_on_it(
    family: str, tiny_dir: Any, tmp_path: Path
):
    """And trains as with the same reward model merged, in a directory that does not say what it rests on."""
    import shutil

    scorer = RankingRM(tiny_dir(family), optimizer=adamw(0.02), lora=LoRA(rank=2, alpha=8))
    fit(scorer, comparisons(tmp_path, demonstrations=write(tmp_path / "d.jsonl", DEMOS)), tmp_path / "rm", ExportHF())
    shutil.copytree(tmp_path / "rm/export", tmp_path / "plain", ignore=shutil.ignore_patterns("adapter"))
    settings, found = ppo(lora=LORA, minibatch_size=4), []
    for name in ("rm/export", "plain"):
        module = PPOModule(tiny_dir(family), str(tmp_path / name), optimizer=adamw(0.02), ppo=settings)
        _, record = fit(module, prompts(tmp_path, num_episodes=16), tmp_path / "run")
        found.append((module, [{k: v for k, v in row.items() if "/" in k} for row in record.logged]))
    module = found[0][0]
    base = {id(p) for p in module.ref.base_model.parameters()}
    for model in (module.policy, module.value_model.model, module.reward_model.model):
        frozen = {id(p) for n, p in model.base_model.named_parameters() if ".lora_" not in n}
        assert frozen == base
    own = [{id(p) for n, p in m.named_parameters() if ".lora_" in n} for m in (module.value_model, module.reward_model)]
    assert own[0].isdisjoint(own[1])
    assert {p.shape[0] for n, p in module.value_model.named_parameters() if "lora_A" in n} == {2}, (
        "the reward model's rank"
    )
    assert {p.shape[0] for n, p in module.policy.named_parameters() if "lora_A" in n} == {4}
    first, other = found[0][1][0], found[1][1][0]
    for key in ("objective/score", "objective/kl", "value/explained_variance"):  # before any update
        assert first[key] == pytest.approx(other[key], abs=1e-3), key
