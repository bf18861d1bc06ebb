"""Policies and scalar models: padding, dtype, dropout, heads, and what is on disk."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from lit_instructgpt import functional as F
from lit_instructgpt.dropout import add_residual_dropout
from lit_instructgpt.hidden import positions
from lit_instructgpt.logprobs import next_token_logits
from lit_instructgpt.models import (
    FreshModel,
    check_source,
    load_policy,
    load_tokenizer,
    quiet_loading,
)
from lit_instructgpt.scalar_model import ScalarModel, draw_head

IDS = [5, 30, 7, 99, 120, 64, 31]
Dirs = Callable[[str], str]


def plain(auto: Any, path: str, **kwargs: Any) -> Any:
    """The model as anyone loads it, in eval mode."""
    with quiet_loading():
        return auto.from_pretrained(path, dtype=torch.float32, **kwargs).eval()


def padded(ids: list[int], left: int, right: int, junk: int = 77) -> tuple[Tensor, Tensor]:
    """One row beside a longer one; the padding is filled with a token that would show."""
    row = [junk] * left + ids + [junk] * right
    real = [False] * left + [True] * len(ids) + [False] * right
    other = [(13 * i + 3) % 200 for i in range(len(row))]
    return torch.tensor([row, other]), torch.tensor([real, [True] * len(row)])


PADDINGS = [(0, 0), (4, 0), (0, 4), (3, 5)]


# ------------------------------------------------------------------ padding


def test_positions_count_from_the_first_real_token():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]]).bool()
    assert positions(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("padding", PADDINGS)
def test_pitfall_07_padding_does_not_change_the_policys_logprobs(
    family: str, tiny_dir: Dirs, tokenizer: Any, padding: tuple[int, int]
):
    reference = plain(transformers.AutoModelForCausalLM, tiny_dir(family))
    row = torch.tensor([IDS])
    with torch.no_grad():
        logits = reference(row).logits[0].double()
        expected = logits.log_softmax(-1)[torch.arange(len(IDS) - 1), IDS[1:]]
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = padded(IDS, *padding)
    with torch.no_grad():
        keep = ids.shape[1] - 1
        found = F.token_logprobs(next_token_logits(policy, ids, mask, keep), ids[:, 1:])[0]
    start = padding[0]
    torch.testing.assert_close(found[start : start + len(IDS) - 1].double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", PADDINGS)
def test_pitfall_07_padding_does_not_change_scores_and_values(
    family: str, tiny_reward_dir: Dirs, tokenizer: Any, padding: tuple[int, int]
):
    path = tiny_reward_dir(family)
    with torch.no_grad():
        reference = plain(transformers.AutoModelForSequenceClassification, path)
        prefixes = [reference(torch.tensor([IDS[:n]])).logits.item() for n in range(1, len(IDS) + 1)]
    model = ScalarModel.load(path, tokenizer)
    ids, mask = padded(IDS, *padding)
    with torch.no_grad():
        everywhere, score = model(ids, mask)[0], model.score(ids, mask)
    start = padding[0]
    assert everywhere[start : start + len(IDS)].tolist() == pytest.approx(prefixes, abs=1e-5)
    assert score[0].item() == pytest.approx(prefixes[-1], abs=1e-5)
    assert max(prefixes) - min(prefixes) > 0.05


def test_values_are_those_before_each_response_token(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    path = tiny_reward_dir(family)
    with torch.no_grad():
        reference = plain(transformers.AutoModelForSequenceClassification, path)
        before = [reference(torch.tensor([IDS[:n]])).logits.item() for n in (4, 5, 6)]
        ids, mask = padded(IDS, 3, 0)
        found = ScalarModel.load(path, tokenizer).values(ids, mask, mask[:, -3:])
    assert found.shape == (2, 3)
    assert found[0].tolist() == pytest.approx(before, abs=1e-5)


def test_next_token_logits_are_the_slice_of_the_full_forward(family: str, tiny_dir: Dirs, tokenizer: Any):
    with torch.no_grad():
        full = plain(transformers.AutoModelForCausalLM, tiny_dir(family))(torch.tensor([IDS])).logits
        policy = load_policy(tiny_dir(family), tokenizer)
        ids, mask = torch.tensor([IDS]), torch.ones(1, len(IDS), dtype=torch.bool)
        for keep in (1, 3, len(IDS) - 1):
            found = next_token_logits(policy, ids, mask, keep)
            torch.testing.assert_close(found, full[:, -keep - 1 : -1], atol=1e-5, rtol=0)


# ------------------------------------------------------------------ tokenizers


def test_tokenizer_with_its_own_pad_is_left_alone(tiny_dir: Dirs, tokenizer: Any):
    loaded = load_tokenizer(tiny_dir("gpt2"))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_pitfall_16_pad_becomes_unk_where_there_is_one(make_tokenizer: Any, tmp_path: Path, pad: str | None):
    own = make_tokenizer(pad_token=pad, unk_token="<unk>")
    own.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": len(own)}))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == "<unk>"
    assert len(loaded) == len(own)
    assert loaded.pad_token_id != loaded.eos_token_id


@pytest.mark.parametrize("special", [{"pad_token": None}, {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}])
def test_pitfall_16_pad_is_added_and_embeddings_grow(
    family: str, make_tokenizer: Any, make_dir: Callable[..., str], special: dict[str, Any]
):
    own = make_tokenizer(**special)
    for reward in (False, True):
        path = make_dir(family, reward=reward, tokenizer=own)
        loaded = load_tokenizer(path)
        assert loaded.pad_token_id not in (None, loaded.eos_token_id)
        assert len(loaded) == len(own) + 1
        model = ScalarModel.load(path, loaded).model if reward else load_policy(path, loaded)
        assert model.get_input_embeddings().num_embeddings == len(loaded)
        assert model.config.pad_token_id == loaded.pad_token_id
        old = plain(type(model), path, num_labels=1).get_input_embeddings().weight
        assert model.get_input_embeddings().weight[: len(own)].equal(old)


def test_a_tokenizer_without_eos_is_refused(make_tokenizer: Any, make_dir: Callable[..., str]):
    path = make_dir("gpt2", tokenizer=make_tokenizer(eos_token=None))
    with pytest.raises(ValueError, match="no EOS token"):
        load_tokenizer(path)


def test_embeddings_larger_than_the_tokenizer_are_kept(make_dir: Callable[..., str], tokenizer: Any):
    path = make_dir("gpt_neox", vocab_size=320)
    assert load_policy(path, tokenizer).get_input_embeddings().num_embeddings == 320


# ------------------------------------------------------------------ sources


@pytest.mark.parametrize(
    "source", ["./nowhere", "/no/such/dir", "~/model", "runs/sft/export", "export", "owner/name/", "a/b/c"]
)
def test_a_missing_directory_is_named(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no model directory {source}"):
        check_source(source)


def test_a_path_below_a_directory_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_source("runs/sft")
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match="no model directory runs/sft"):
        check_source("runs/sft")
    (tmp_path / "runs" / "sft").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        check_source("runs/sft")
    (tmp_path / "runs" / "sft" / "config.json").write_text("{}")
    check_source("runs/sft")


def test_every_loader_checks_its_source(tokenizer: Any, tmp_path: Path):
    missing = str(tmp_path / "missing")
    for load in (load_tokenizer, lambda s: load_policy(s, tokenizer), lambda s: ScalarModel.load(s, tokenizer)):
        with pytest.raises(FileNotFoundError, match="no model directory"):
            load(missing)


# ------------------------------------------------------------------ dtype, modes, dropout


def test_pitfall_36_bf16_on_disk_loads_as_float32(family: str, make_dir: Callable[..., str], tokenizer: Any):
    for reward in (False, True):
        path = make_dir(family, reward=reward, dtype=torch.bfloat16)
        assert json.loads((Path(path) / "config.json").read_text())["dtype"] == "bfloat16"
        model = ScalarModel.load(path, tokenizer) if reward else load_policy(path, tokenizer)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_given_dtype_is_taken(tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir("llama"), tokenizer, dtype=torch.bfloat16)
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}


def test_pitfall_35_models_load_in_train_mode(family: str, tiny_dir: Dirs, tiny_reward_dir: Dirs, tokenizer: Any):
    for model in (load_policy(tiny_dir(family), tokenizer), ScalarModel.load(tiny_reward_dir(family), tokenizer)):
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())


DROPOUTS = {
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3, "summary_first_dropout": 0.3},
    "gpt_neox": {"attention_dropout": 0.3, "hidden_dropout": 0.3, "classifier_dropout": 0.3},
    "llama": {"attention_dropout": 0.3},
}


def test_pitfall_02_all_dropout_of_the_model_is_off(family: str, make_dir: Callable[..., str], tokenizer: Any):
    ids = torch.tensor([IDS])
    mask = torch.ones_like(ids, dtype=torch.bool)
    for reward in (False, True):
        path = make_dir(family, reward=reward, **DROPOUTS[family])
        model = ScalarModel.load(path, tokenizer) if reward else load_policy(path, tokenizer)
        config = (model.model if reward else model).config.to_dict()
        assert [config[name] for name in DROPOUTS[family]] == [0.0] * len(DROPOUTS[family])
        assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))
        with torch.no_grad():
            call = (lambda m: m(ids, mask)) if reward else (lambda m: m(ids, attention_mask=mask).logits)
            assert call(model.train()).equal(call(model.eval()))


def test_pitfall_01_logprobs_in_train_mode_are_those_of_the_rollout(family: str, tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = padded(IDS, 3, 2)
    with torch.no_grad():
        old = F.token_logprobs(next_token_logits(policy.eval(), ids, mask, 5), ids[:, -5:], 0.7)
    new = F.token_logprobs(next_token_logits(policy.train(), ids, mask, 5), ids[:, -5:], 0.7)
    assert (new - old).abs().max().item() < 1e-6


def test_pitfall_35_residual_dropout_is_on_in_train_mode_and_off_in_eval(family: str, tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    before = set(policy.state_dict())
    ids = torch.tensor([IDS])
    with torch.no_grad():
        without = policy.eval()(ids).logits
        assert add_residual_dropout(policy, 0.2) == 4
        assert policy.eval()(ids).logits.equal(without)
        policy.train()
        first, second = policy(ids).logits, policy(ids).logits
    assert (first - second).abs().max() > 1e-2
    assert (first - without).abs().max() > 1e-2
    assert set(policy.state_dict()) == before


def test_residual_dropout_drops_its_share_and_scales_the_rest(family: str, tiny_dir: Dirs, tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    raw, dropped = [], []
    layers = next(m for m in policy.modules() if isinstance(m, torch.nn.ModuleList))
    mlp = layers[0].mlp
    mlp.register_forward_hook(lambda _module, _args, output: raw.append(output))
    add_residual_dropout(policy, 0.25)
    mlp.register_forward_hook(lambda _module, _args, output: dropped.append(output))
    torch.manual_seed(0)
    with torch.no_grad():
        policy.train()(torch.tensor([IDS * 10]))
    gone = dropped[0] == 0
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(dropped[0][~gone], raw[0][~gone] / 0.75, atol=1e-5, rtol=0)


def test_residual_dropout_refuses_a_model_without_known_blocks():
    with pytest.raises(ValueError, match="Linear does not show one attention and one MLP block"):
        add_residual_dropout(torch.nn.Linear(2, 2), 0.1)


@pytest.mark.parametrize("family", ["falcon", "bloom"])
def test_residual_dropout_refuses_families_of_which_it_would_drop_half(family: str):
    config = transformers.AutoConfig.for_model(
        family, vocab_size=32, hidden_size=16, num_hidden_layers=2, n_layer=2, num_attention_heads=2, n_head=2
    )
    with pytest.raises(ValueError, match="does not show one attention and one MLP block in each layer"):
        add_residual_dropout(transformers.AutoModelForCausalLM.from_config(config), 0.1)


def test_residual_dropout_finds_both_blocks_of_opt():
    config = transformers.OPTConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, word_embed_proj_dim=16
    )
    assert add_residual_dropout(transformers.AutoModelForCausalLM.from_config(config), 0.1) == 4


# ------------------------------------------------------------------ scalar models


def test_pitfall_16_score_is_read_by_mask_not_by_token_id(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    texts = [[5, pad, 7, eos], [5, 9, pad], [eos, 4, eos, eos], [pad, 6, pad]]
    width = 6
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in texts])
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in texts])
    with torch.no_grad():
        found = model.score(ids, mask).tolist()
        everywhere = model(ids, mask)
        alone = [model(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))[0, -1].item() for row in texts]
    assert found == pytest.approx(alone, abs=1e-5)
    assert (everywhere[:, 1:] - everywhere[:, :-1])[mask[:, 1:]].abs().min() > 1e-4


def test_pitfall_15_value_model_starts_as_the_reward_model(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    path = tiny_reward_dir(family)
    expected = plain(transformers.AutoModelForSequenceClassification, path)(torch.tensor([IDS])).logits.item()
    value_model = ScalarModel.load(path, tokenizer, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([[*IDS, 8]])
    found = value_model.values(
        ids, torch.ones_like(ids, dtype=torch.bool), torch.ones_like(ids[:, :1], dtype=torch.bool)
    )
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_a_new_head_has_the_spread_of_the_predecessors_code(family: str, tiny_dir: Dirs, tokenizer: Any):
    model = ScalarModel.load(tiny_dir(family), tokenizer, generator=torch.Generator().manual_seed(5))
    expected = torch.randn(1, 16, generator=torch.Generator().manual_seed(5)) / math.sqrt(17)
    torch.testing.assert_close(model.model.score.weight.detach(), expected, atol=1e-6, rtol=0)
    assert model.model.score.bias is None
    drawn = torch.cat(
        [
            ScalarModel.load(
                tiny_dir("llama"), tokenizer, generator=torch.Generator().manual_seed(i)
            ).model.score.weight
            for i in range(20)
        ]
    )
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(17), rel=0.12)


class OnAnotherDevice(torch.Tensor):
    """As a tensor of a GPU: a CPU's generator cannot draw into it."""

    def normal_(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


def test_a_new_head_is_drawn_by_a_cpu_generator_wherever_its_weight_is():
    # Lightning builds models on the device that trains them.
    head = torch.nn.Linear(16, 1, bias=False)
    head.weight = torch.nn.Parameter(torch.zeros(1, 16).as_subclass(OnAnotherDevice))
    draw_head(head, torch.Generator().manual_seed(5))
    expected = torch.randn(1, 16, generator=torch.Generator().manual_seed(5)) / math.sqrt(17)
    torch.testing.assert_close(head.weight.detach().as_subclass(torch.Tensor), expected, atol=1e-6, rtol=0)


def test_new_scalar_model_keeps_the_transformer(family: str, tiny_dir: Dirs, tokenizer: Any):
    policy = plain(transformers.AutoModelForCausalLM, tiny_dir(family))
    model = ScalarModel.load(tiny_dir(family), tokenizer)
    expected = getattr(policy, policy.base_model_prefix).state_dict()
    found = getattr(model.model, model.model.base_model_prefix).state_dict()
    assert set(found) == set(expected)
    assert all(found[name].equal(expected[name]) for name in expected)


def test_pitfall_19_the_head_is_float32_under_autocast(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)) * 10
    expected = (hidden.double() * model.model.score.weight[0].double()).sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = model.head(hidden)
        ids = torch.tensor([IDS])
        assert model.score(ids, torch.ones_like(ids, dtype=torch.bool)).dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", [(0, 0), (3, 2)])
def test_pitfall_19_shift_moves_every_score_by_the_constant(
    family: str, tiny_reward_dir: Dirs, tokenizer: Any, padding: tuple[int, int]
):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer)
    ids, mask = padded(IDS, *padding)
    with torch.no_grad():
        before = model(ids, mask)
        model.shift(-3.7)
        model.shift(0.2)
        after = model(ids, mask)
    torch.testing.assert_close((after - before)[mask], torch.full_like(before, -3.5)[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_pitfall_19_plain_transformers_returns_the_shifted_score(
    name: str, tiny_reward_dir: Dirs, tokenizer: Any, tmp_path: Path
):
    before = plain(transformers.AutoModelForSequenceClassification, tiny_reward_dir(name))(torch.tensor([IDS])).logits
    model = ScalarModel.load(tiny_reward_dir(name), tokenizer)
    model.shift(2.25)
    model.save(tmp_path)
    after = plain(transformers.AutoModelForSequenceClassification, str(tmp_path))(torch.tensor([IDS])).logits
    assert after.item() == pytest.approx(before.item() + 2.25, abs=1e-5)
    assert model.model.config.score_bias == 0


def test_pitfall_19_a_family_without_norm_bias_keeps_the_shift_in_its_config(
    tiny_reward_dir: Dirs, tokenizer: Any, tmp_path: Path
):
    before = plain(transformers.AutoModelForSequenceClassification, tiny_reward_dir("llama"))(torch.tensor([IDS]))
    model = ScalarModel.load(tiny_reward_dir("llama"), tokenizer)
    model.shift(2.0)
    model.shift(0.25)
    model.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["score_bias"] == 2.25
    other = plain(transformers.AutoModelForSequenceClassification, str(tmp_path))
    total = other(torch.tensor([IDS])).logits.item() + other.config.score_bias
    assert total == pytest.approx(before.logits.item() + 2.25, abs=1e-5)


def test_pitfall_18_a_saved_scalar_model_scores_the_same(family: str, tiny_dir: Dirs, tokenizer: Any, tmp_path: Path):
    model = ScalarModel.load(tiny_dir(family), tokenizer, generator=torch.Generator().manual_seed(1))
    model.shift(0.8)
    ids, mask = padded(IDS, 0, 3)
    model.save(tmp_path)
    with torch.no_grad():
        expected = model.score(ids, mask)
        again = ScalarModel.load(str(tmp_path), tokenizer).score(ids, mask)
        another_seed = ScalarModel.load(str(tmp_path), tokenizer, generator=torch.Generator().manual_seed(2)).score(
            ids, mask
        )
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(another_seed, expected, atol=1e-5, rtol=0)


def test_scores_have_a_gradient_to_every_layer_and_the_head(family: str, tiny_reward_dir: Dirs, tokenizer: Any):
    model = ScalarModel.load(tiny_reward_dir(family), tokenizer)
    ids, mask = padded(IDS, 2, 0)
    model.score(ids, mask).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_model_without_a_score_head_is_refused(tiny_dir: Dirs, tokenizer: Any):
    with pytest.raises(ValueError, match="no linear `score` head"):
        ScalarModel(load_policy(tiny_dir("gpt2"), tokenizer))


def test_a_classifier_with_several_labels_is_refused(tiny_dir: Dirs, tokenizer: Any, tmp_path: Path):
    two = str(tmp_path)
    plain(transformers.AutoModelForSequenceClassification, tiny_dir("gpt2"), num_labels=2).save_pretrained(two)
    with pytest.raises(ValueError, match=r"is a classifier with 2 labels: a reward model has one score"):
        ScalarModel.load(two, tokenizer)


# ------------------------------------------------------------------ policies on disk


def test_generation_settings_of_the_source_do_not_leak(make_dir: Callable[..., str], tokenizer: Any, tmp_path: Path):
    path = make_dir("gpt2")
    odd = {"do_sample": True, "temperature": 0.1, "top_k": 1, "top_p": 0.5, "repetition_penalty": 3.0, "min_length": 9}
    (Path(path) / "generation_config.json").write_text(json.dumps({**odd, "eos_token_id": 17}))
    with quiet_loading():
        load_policy(path, tokenizer).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert (written["temperature"], written["top_k"], written["top_p"]) == (1.0, 0, 1.0)
    assert (written["eos_token_id"], written["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert not written.get("repetition_penalty")
    assert not written.get("min_length")


def test_saved_policy_is_a_plain_model_with_the_same_logits(
    family: str, tiny_dir: Dirs, tokenizer: Any, tmp_path: Path
):
    policy = load_policy(tiny_dir(family), tokenizer)
    add_residual_dropout(policy, 0.2)
    with quiet_loading():
        policy.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = plain(transformers.AutoModelForCausalLM, tiny_dir(family))(torch.tensor([IDS])).logits
        found = plain(transformers.AutoModelForCausalLM, str(tmp_path))(torch.tensor([IDS])).logits
    assert found.equal(expected)


# ------------------------------------------------------------------ fresh models


FRESH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def fresh(path: Path, write_jsonl: Callable[..., str], **kwargs: Any) -> FreshModel:
    lines = [{"text": "bees make honey and honey is sweet"}, {"text": "the bees, the honey"}] * 3
    text = write_jsonl(path / "text.jsonl", lines)
    return FreshModel(**{"config": {"model_type": "gpt_neox", **FRESH}, "text": [text], "vocab_size": 270, **kwargs})


def test_trained_tokenizer_is_deterministic(tmp_path: Path, write_jsonl: Callable[..., str]):
    source = fresh(tmp_path, write_jsonl)
    first, second = load_tokenizer(source), load_tokenizer(source)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) == 270
    assert first.eos_token_id != first.pad_token_id
    text = 'bees éµ\n\t"honey" 蜂  ,'
    assert first.decode(first(text).input_ids) == text
    assert len(first("honey").input_ids) < 5


def test_fresh_policy_fits_its_tokenizer(tmp_path: Path, write_jsonl: Callable[..., str]):
    source = fresh(tmp_path, write_jsonl, config={"model_type": "gpt_neox", "hidden_dropout": 0.1, **FRESH})
    tokenizer = load_tokenizer(source)
    policy = load_policy(source, tokenizer)
    assert policy.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (policy.config.eos_token_id, policy.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert policy.config.hidden_dropout == 0
    assert policy.training
    assert source.config["model_type"] == "gpt_neox"
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_fresh_model_errors(tmp_path: Path, write_jsonl: Callable[..., str]):
    with pytest.raises(ValueError, match="needs model_type"):
        fresh(tmp_path, write_jsonl, config=FRESH)
    with pytest.raises(FileNotFoundError, match=r"model\.text: .*gone\.jsonl: no such file"):
        load_tokenizer(fresh(tmp_path, write_jsonl, text=[str(tmp_path / "gone.jsonl")]))
    (tmp_path / "bad.jsonl").write_text('{"text": "honey"}\n{"txt": "bees"}\n')
    with pytest.raises(
        ValueError, match=r"model\.text: .*bad\.jsonl:2: text: missing .*did you mean text.*Correct the file"
    ):
        load_tokenizer(fresh(tmp_path, write_jsonl, text=[str(tmp_path / "bad.jsonl")]))
    with pytest.raises(ValueError, match=r"model\.text: .*none\.jsonl: no text to train the tokenizer on"):
        load_tokenizer(fresh(tmp_path, write_jsonl, text=[write_jsonl(tmp_path / "none.jsonl", [])]))


def test_text_for_a_tokenizer_is_read_as_data_are(tmp_path: Path, write_jsonl: Callable[..., str]):
    source = fresh(tmp_path, write_jsonl)
    lines = Path(source.text[0]).read_text().splitlines()
    (tmp_path / "text.jsonl.gz").write_bytes(gzip.compress("\n\n".join(lines).encode()))  # blank lines between
    zipped = fresh(tmp_path, write_jsonl, text=[str(tmp_path / "text.jsonl.gz")])
    assert load_tokenizer(zipped).get_vocab() == load_tokenizer(source).get_vocab()


def test_pitfall_17_a_policy_is_no_reward_model_and_a_reward_model_no_policy(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tokenizer: Any
):
    with pytest.raises(ValueError, match=r"is no reward model \(GPT2LMHeadModel\): its score head would be random"):
        ScalarModel.load(tiny_dir("gpt2"), tokenizer, need_head=True)
    with pytest.raises(
        ValueError, match=r"is a reward model \(GPT2ForSequenceClassification\), which predicts no tokens"
    ):
        load_policy(tiny_reward_dir("gpt2"), tokenizer)
