"""Sampling from left-padded prompts, against plain transformers and brute-force probabilities."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from scipy.stats import chi2
from stages import token_nlls
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.functional import token_logprobs
from lit_instructgpt.generation import RoomyLayer, choose, prefill, sample
from lit_instructgpt.logprobs import next_token_logits
from lit_instructgpt.models import inference_mode, load_policy, quiet_loading
from lit_instructgpt.sampling import Sampling, sample_ids, sample_texts

PROMPTS = [[5, 30, 7, 99, 120], [64], [31, 8, 200]]
NEVER = -1


def plain(path: str) -> Any:
    with quiet_loading():
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def left_padded() -> tuple[Tensor, Tensor]:
    return pad(PROMPTS, 1, left=True)


def test_greedy_is_generate_without_sampling(family: str, tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = left_padded()
    found = sample(policy, ids, mask, 12, NEVER, tokenizer.pad_token_id, temperature=0).ids
    reference = plain(tiny_dir(family))
    config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=tokenizer.pad_token_id
    )
    together = reference.generate(ids, attention_mask=mask.long(), generation_config=config)[:, ids.shape[1] :]
    assert found.tolist() == together.tolist()
    for row, prompt in enumerate(PROMPTS):
        alone = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), generation_config=config
        )
        assert found[row].tolist() == alone[0, len(prompt) :].tolist()
    assert len(set(map(tuple, found.tolist()))) == 3


def test_pitfall_05_the_training_forward_finds_what_the_cached_decoding_chose(
    family: str, tiny_dir: Callable[[str], str], tokenizer: Any
):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = left_padded()
    sampled = sample(policy, ids, mask, 10, NEVER, 1, temperature=0)
    found, found_mask = sampled.ids, sampled.mask
    with torch.no_grad():
        logits = next_token_logits(policy, torch.cat([ids, found], 1), torch.cat([mask, found_mask], 1), 10)
    assert logits.argmax(-1).tolist() == found.tolist()


@pytest.fixture(scope="module")
def eight() -> Any:
    """A model with a vocabulary of eight tokens, and settings that would truncate its sampling."""
    config = transformers.GPT2Config(
        vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=16,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape)
    model.generation_config.update(do_sample=True, top_k=1, temperature=0.01)
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_pitfall_04_samples_follow_the_untruncated_softmax(eight: Any, temperature: float):
    """Both tokens of a response: the first from the prompt's forward pass, the second from the cache."""
    prompt, num = [3, 5], 20_000
    expected = torch.zeros(8, 8, dtype=torch.float64)
    with torch.no_grad():
        first = (eight(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
        for token in range(8):
            second = eight(torch.tensor([[*prompt, token]])).logits[0, -1].double() / temperature
            expected[token] = first[token] * second.softmax(-1)
    ids = torch.tensor([[7, *prompt]]).repeat(num, 1)
    mask = torch.tensor([[False, True, True]]).repeat(num, 1)
    found = sample(eight, ids, mask, 2, NEVER, 0, temperature, torch.Generator().manual_seed(1)).ids
    counts = torch.zeros(64, dtype=torch.float64)
    counts += torch.bincount(found[:, 0] * 8 + found[:, 1], minlength=64)
    wanted = (expected * num).flatten()
    frequent = wanted >= 5
    assert frequent.sum() > 30
    statistic = ((counts - wanted).square() / wanted)[frequent].sum().item()
    assert statistic < chi2.ppf(0.9999, int(frequent.sum()) - 1)
    rare = wanted[~frequent].sum().item()
    assert abs(counts[~frequent].sum().item() - rare) <= 5 * rare**0.5 + 5


def test_pitfall_03_temperature_of_sampling_is_that_of_the_logprobs(eight: Any):
    ids, mask = torch.tensor([[3, 5]]).repeat(20_000, 1), torch.ones(20_000, 2, dtype=torch.bool)
    found = sample(eight, ids, mask, 1, NEVER, 0, 0.6, torch.Generator().manual_seed(2)).ids
    with torch.no_grad():
        logits = next_token_logits(eight, torch.cat([ids, found], 1)[:1], mask[:1, :1].expand(1, 3), 1)
    for token in range(8):
        share = (found == token).double().mean().item()
        assert token_logprobs(logits, torch.tensor([[token]]), 0.6).exp().item() == pytest.approx(share, abs=0.015)


def test_pitfall_22_a_response_ends_at_eos_and_the_mask_includes_it(eight: Any):
    ids, mask = torch.tensor([[3, 5]]).repeat(200, 1), torch.ones(200, 2, dtype=torch.bool)
    eos, filler, limit = 4, 0, 9
    sampled = sample(eight, ids, mask, limit, eos, filler, 1.0, torch.Generator().manual_seed(3))
    found, found_mask = sampled.ids, sampled.mask
    assert found.shape == found_mask.shape
    lengths = set()
    for row, keep in zip(found.tolist(), found_mask.tolist(), strict=True):
        length = row.index(eos) + 1 if eos in row else limit
        assert keep == [i < length for i in range(len(row))]
        assert row[length:] == [filler] * (len(row) - length)
        lengths.add(length)
    assert {1, 2, limit} <= lengths


def test_sampling_stops_when_every_response_has_ended(eight: Any):
    ids, mask = torch.tensor([[3, 5]]).repeat(4, 1), torch.ones(4, 2, dtype=torch.bool)
    with torch.no_grad():
        favourite = int(eight(ids[:1]).logits[0, -1].argmax())
    sampled = sample(eight, ids, mask, 9, favourite, 0, temperature=0)
    found, found_mask = sampled.ids, sampled.mask
    assert found.tolist() == [[favourite]] * 4
    assert found_mask.all()


def test_a_sampled_pad_token_belongs_to_the_response(eight: Any):
    ids, mask = torch.tensor([[3, 5]]).repeat(300, 1), torch.ones(300, 2, dtype=torch.bool)
    for filler in (2, 6):
        sampled = sample(eight, ids, mask, 3, NEVER, filler, 1.0, torch.Generator().manual_seed(4))
        found, found_mask = sampled.ids, sampled.mask
        assert (found == filler).any()
        assert found_mask.all()


def test_same_seed_same_responses_and_nothing_from_the_global_generator(eight: Any):
    ids, mask = torch.tensor([[3, 5]]).repeat(50, 1), torch.ones(50, 2, dtype=torch.bool)

    def draw(seed: int) -> list[list[int]]:
        return sample(eight, ids, mask, 4, NEVER, 0, 1.0, torch.Generator().manual_seed(seed)).ids.tolist()

    before = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert torch.get_rng_state().equal(before)


def test_choose_by_hand():
    logits = torch.tensor([[0.0, 5.0, 1.0], [900.0, 0.0, 0.0]])
    half = torch.full((2,), 0.5, dtype=torch.float64)
    assert choose(logits, 0, half).tolist() == [1, 0]
    assert choose(logits, 1e-3, half).tolist() == [1, 0]
    probabilities = torch.zeros(5, 1000)  # four blocks of the vocabulary; half of the mass is on 3, half on 600
    probabilities[:, [3, 600]] = 0.5
    uniform = torch.tensor([0.0, 0.4999, 0.5, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert choose(probabilities.log(), 1.0, uniform).tolist() == [3, 3, 600, 600, 600]


def test_a_response_does_not_depend_on_the_rows_that_leave(
    family: str, tiny_dir: Callable[[str], str], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = left_padded()

    def draw(eos: int) -> Any:
        return sample(policy, ids, mask, 12, eos, 1, 1.5, torch.Generator().manual_seed(3))

    whole = draw(NEVER)
    eos = int(whole.ids[1, 2])  # ends the second row early
    for share in (0.0, 1.0):  # no row leaves; every row leaves at once
        monkeypatch.setattr("lit_instructgpt.generation.LEAVE_BELOW", share)
        found = draw(eos)
        assert found.mask[1].sum() <= 3 < found.mask.sum(1).max()
        for row in range(len(ids)):
            num = int(found.mask[row].sum())
            assert found.ids[row, :num].tolist() == whole.ids[row, :num].tolist()
            torch.testing.assert_close(found.logprobs[row, :num], whole.logprobs[row, :num], atol=1e-5, rtol=0)


def test_logprobs_of_sampling_are_those_of_bare_sequences(family: str, tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = left_padded()
    found = sample(policy, ids, mask, 8, 40, 1, 0.7, torch.Generator().manual_seed(5), num_samples=3)
    assert found.ids.shape[0] == 3 * len(ids)
    for row in range(len(found.ids)):
        response = found.ids[row][found.mask[row]].tolist()
        prompt = ids[row // 3][mask[row // 3]].tolist()
        with torch.no_grad():
            expected = -token_nlls(policy, prompt + response, 0.7)[-len(response) :]
        torch.testing.assert_close(found.logprobs[row, : len(response)], expected, atol=1e-5, rtol=0)
        assert not found.logprobs[row, len(response) :].any()


def test_a_prompt_is_computed_once_for_all_its_samples(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("llama"), tokenizer)
    ids, mask = left_padded()
    seen = []
    policy.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True)
    sample(policy, ids, mask, 3, NEVER, 1, num_samples=4, generator=torch.Generator().manual_seed(0))
    assert seen[0] == ids.shape
    assert seen[1:] == [(4 * len(ids), 1)] * 2


def test_generation_config_leaks_nothing(make_dir: Callable[..., str], tokenizer: Any):
    path = make_dir("gpt_neox")
    settings = {"do_sample": True, "top_k": 1, "temperature": 0.01, "repetition_penalty": 5.0}
    (Path(path) / "generation_config.json").write_text(json.dumps(settings))
    policy = load_policy(path, tokenizer)
    ids, mask = torch.tensor([[5, 9]]).repeat(500, 1), torch.ones(500, 2, dtype=torch.bool)
    first = sample(policy, ids, mask, 2, NEVER, 1, 1.0, torch.Generator().manual_seed(0)).ids
    policy.generation_config = transformers.GenerationConfig()
    second = sample(policy, ids, mask, 2, NEVER, 1, 1.0, torch.Generator().manual_seed(0)).ids
    assert first.equal(second)
    assert len(set(first[:, 0].tolist())) > 20


# ------------------------------------------------------------------ modes


def checkpoint(model: Any) -> None:
    """Sets the flags by which transformers checkpoints activations in train mode."""
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True


def test_pitfall_35_modes_and_checkpointing_are_restored(family: str, tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir(family), tokenizer)
    checkpoint(policy)
    child = next(m for m in policy.modules() if isinstance(m, torch.nn.ModuleList))[1]
    child.eval()
    modes = [m.training for m in policy.modules()]
    flags = [getattr(m, "gradient_checkpointing", None) for m in policy.modules()]
    assert True in flags
    assert False in modes
    with inference_mode(policy):
        assert not any(m.training for m in policy.modules())
        assert not any(getattr(m, "gradient_checkpointing", False) for m in policy.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in policy.modules()] == modes
    assert [getattr(m, "gradient_checkpointing", None) for m in policy.modules()] == flags
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="inside"), inference_mode(policy):
        raise RuntimeError("inside")
    assert [m.training for m in policy.modules()] == modes
    assert [getattr(m, "gradient_checkpointing", None) for m in policy.modules()] == flags


def test_sampling_in_train_mode_with_checkpointing_is_the_same(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("llama"), tokenizer)
    ids, mask = left_padded()
    expected = sample(policy.eval(), ids, mask, 6, NEVER, 1, temperature=0).ids
    checkpoint(policy)
    found = sample(policy.train(), ids, mask, 6, NEVER, 1, temperature=0).ids
    assert found.equal(expected)
    assert policy.training
    assert any(getattr(m, "gradient_checkpointing", False) for m in policy.modules())


# ------------------------------------------------------------------ responses per prompt


def prompt_batch() -> PromptBatch:
    return PromptBatch(*left_padded(), ["a", "b", "c"], [{}, {}, {}], ["", "", ""])


def test_k_responses_per_prompt_stay_with_their_prompt(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("gpt2"), tokenizer)
    one = sample_ids(policy, tokenizer, prompt_batch(), Sampling(1, 5, temperature=0), 0)
    three = sample_ids(policy, tokenizer, prompt_batch(), Sampling(3, 5, temperature=0), 0)
    assert three == [row for row in one for _ in range(3)]
    texts = sample_texts(policy, tokenizer, PromptFormat(), prompt_batch(), Sampling(2, 5, temperature=0), 0)
    assert texts == [[tokenizer.decode(row, skip_special_tokens=True)] * 2 for row in one]


def test_every_batch_and_seed_has_its_own_random_numbers(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("gpt2"), tokenizer)

    def draw(seed: int, stream: int) -> list[list[int]]:
        return sample_ids(policy, tokenizer, prompt_batch(), Sampling(4, 6, seed=seed), stream)

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1)
    assert draw(0, 0) != draw(1, 0)
    rows = draw(0, 0)
    assert all(tokenizer.eos_token_id not in row[:-1] for row in rows)


@pytest.mark.parametrize("bad", [{"num_samples": 0}, {"max_new_tokens": 0}, {"temperature": -0.1}])
def test_sampling_settings_out_of_range_are_refused(bad: dict[str, Any]):
    with pytest.raises(ValueError, match="sampling"):
        Sampling(**bad)


def test_storage_that_grows_changes_nothing(
    family: str, tiny_dir: Callable[[str], str], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
):
    policy = load_policy(tiny_dir(family), tokenizer)
    ids, mask = left_padded()
    expected = sample(policy, ids, mask, 30, NEVER, 1, 1.0, torch.Generator().manual_seed(3))
    monkeypatch.setattr("lit_instructgpt.generation.ROOM", 1)
    found = sample(policy, ids, mask, 30, NEVER, 1, 1.0, torch.Generator().manual_seed(3))
    assert found.ids.equal(expected.ids)
    assert found.logprobs is not None
    assert expected.logprobs is not None
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-6, rtol=0)


def test_under_autocast_the_cache_is_in_its_dtype_and_the_numbers_are_those_of_generate(
    family: str, tiny_dir: Callable[[str], str], tokenizer: Any
):
    policy = load_policy(tiny_dir(family), tokenizer).eval()
    ids, mask = left_padded()
    config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=tokenizer.pad_token_id
    )
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), torch.no_grad():
        _, cache, _ = prefill(policy, ids, mask, 1)
        assert {layer.keys.dtype for layer in cache.layers} == {torch.bfloat16}
        assert {layer.values.dtype for layer in cache.layers} == {torch.bfloat16}
        found = sample(policy, ids, mask, 12, NEVER, tokenizer.pad_token_id, temperature=0).ids
        expected = plain(tiny_dir(family)).generate(ids, attention_mask=mask.long(), generation_config=config)
    assert found.tolist() == expected[:, ids.shape[1] :].tolist()


def test_keys_and_values_may_differ_in_size():
    layer = DynamicLayer()
    layer.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 6))
    roomy = RoomyLayer(layer, 2, 3)
    roomy.fill(torch.arange(2), layer.keys, layer.values)
    keys, values = roomy.update(torch.full((2, 1, 1, 4), 2.0), torch.full((2, 1, 1, 6), 3.0))
    assert keys.shape == (2, 1, 4, 4)
    assert values.shape == (2, 1, 4, 6)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 2]
    assert values[1, 0, :, 5].tolist() == [1, 1, 1, 3]


def test_a_family_with_windows_samples_as_generate_does(make_tokenizer: Any, tmp_path: Path):
    """Its cache is its own: rows stay, and every sample computes its prompt."""
    config = transformers.MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = transformers.MistralForCausalLM(config).eval()
    ids, mask = left_padded()
    generation = transformers.GenerationConfig(do_sample=False, max_new_tokens=9, eos_token_id=None, pad_token_id=1)
    expected = policy.generate(ids, attention_mask=mask.long(), generation_config=generation)[:, ids.shape[1] :]
    found = sample(policy, ids, mask, 9, NEVER, 1, temperature=0, num_samples=2).ids
    assert found.tolist() == expected.repeat_interleave(2, 0).tolist()
    eos = int(expected[0, 3])
    cut = sample(policy, ids, mask, 9, eos, 1, temperature=0)
    for row, keep, whole in zip(cut.ids.tolist(), cut.mask, expected.tolist(), strict=True):
        length = whole.index(eos) + 1 if eos in whole else 9
        assert int(keep.sum()) == length
        assert row[:length] == whole[:length]


def test_weights_that_are_no_numbers_are_named(tiny_dir: Callable[[str], str], tokenizer: Any):
    policy = load_policy(tiny_dir("llama"), tokenizer)
    with torch.no_grad():
        policy.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        sample(policy, *left_padded(), 3, NEVER, 1)
