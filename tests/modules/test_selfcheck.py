"""Every cause that the self-check knows: a set-up with it is refused before the first update, by name."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import PROMPTS, TEXT, assert_same, fit, ids_of, ppo, prompts, sgd, trainer, weights, write

from lit_instructgpt.dropout import add_residual_dropout
from lit_instructgpt.engines import ENGINES
from lit_instructgpt.formatting import SIDECAR, PromptFormat, format_dict
from lit_instructgpt.generation import sample
from lit_instructgpt.modules import PPOModule
from lit_instructgpt.selfcheck import SelfCheckError

Dirs = Callable[[str], str]


def constant(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [1.0] * len(responses)


def started(policy: str, reward_model: str | None = None, **settings: Any) -> PPOModule:
    """A module whose models are loaded, to be spoilt."""
    module = PPOModule(
        policy, reward_model=reward_model, reward_fn=None if reward_model else constant, optimizer=sgd(0.1),
        ppo=ppo(**settings),
    )  # fmt: skip
    module.configure_model()
    return module


def problems(module: PPOModule, path: Path, **data: Any) -> list[str]:
    """What the self-check says; nothing has been updated."""
    before = weights(module)
    with pytest.raises(SelfCheckError) as caught:
        fit(module, prompts(path, **data), path)
    after = weights(module)
    trained = [name for name in before if name.startswith(("policy.", "value_model."))]
    assert_same({name: after[name] for name in trained}, {name: before[name] for name in trained})
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def with_sidecar(path: str, **content: Any) -> str:
    (Path(path) / SIDECAR).write_text(json.dumps(content))
    return path


def test_a_sound_setup_passes(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"), tiny_reward_dir("gpt2"), micro_batch_size=4)
    run, _ = fit(module, prompts(tmp_path), tmp_path)
    assert run.global_step == 1


@pytest.mark.parametrize("max_epochs", [2, -1, 1000])
def test_a_run_is_one_epoch_of_its_episodes(tiny_dir: Dirs, tmp_path: Path, max_epochs: int):
    said = rf"trainer\.max_epochs is {max_epochs}, but data\.num_episodes \(8\) are those of the whole run"
    with pytest.raises(SelfCheckError, match=said):
        fit(started(tiny_dir("gpt2")), prompts(tmp_path), tmp_path, max_epochs=max_epochs)
    run, _ = fit(started(tiny_dir("gpt2")), prompts(tmp_path), tmp_path, max_epochs=max_epochs, max_steps=2)
    assert run.global_step == 2


@pytest.mark.parametrize(
    ("settings", "data", "expected"),
    [
        ({"minibatch_size": 3}, {}, "data.batch_size (8) must be a multiple of ppo.minibatch_size (3)"),
        ({"micro_batch_size": 3}, {}, "per device (8) must be a multiple of ppo.micro_batch_size (3)"),
        ({"micro_batch_size": 16}, {}, "per device (8) must be a multiple of ppo.micro_batch_size (16)"),
    ],
)
def test_batch_sizes_that_do_not_divide(tiny_dir: Dirs, tmp_path: Path, settings: Any, data: Any, expected: str):
    (problem,) = problems(started(tiny_dir("gpt2"), **settings), tmp_path, **data)
    assert expected in problem


def test_pitfall_23_ptx_without_text(tiny_dir: Dirs, tmp_path: Path):
    (problem,) = problems(started(tiny_dir("gpt2"), ptx_coef=27.8), tmp_path)
    assert "ppo.ptx_coef is 27.8 but there is no data.text" in problem


def test_pitfall_23_text_without_ptx(tiny_dir: Dirs, tmp_path: Path):
    (problem,) = problems(started(tiny_dir("gpt2")), tmp_path, text=write(tmp_path / "t.jsonl", TEXT))
    assert "data.text is given but ppo.ptx_coef is 0" in problem


def test_pitfall_21_another_tokenizer(tiny_dir: Dirs, make_dir: Any, make_tokenizer: Any, tmp_path: Path):
    other = make_dir("gpt2", reward=True, tokenizer=make_tokenizer(unk_token="<unk>"))
    found = problems(started(tiny_dir("gpt2"), other), tmp_path)
    assert [text.split(" ")[0] for text in found] == ["reward_model", "value_model"]
    assert "has another tokenizer than the policy" in found[0]
    assert "lit_instructgpt.rewards.ModelReward" in found[0]


def test_pitfall_17_the_reward_model_was_trained_with_another_format(tiny_dir: Dirs, make_dir: Any, tmp_path: Path):
    spaced = PromptFormat(template="Human: {prompt}\nAssistant:", response_prefix=" ")
    reward = with_sidecar(make_dir("gpt2", reward=True), format=format_dict(spaced))
    (problem,) = problems(started(tiny_dir("gpt2"), reward), tmp_path)
    assert problem.startswith("reward_model")
    assert "Assistant:" in problem
    assert "set data.format to it" in problem


def test_pitfall_17_the_policy_was_trained_with_another_format(make_dir: Any, tmp_path: Path):
    policy = with_sidecar(make_dir("gpt2"), format=format_dict(PromptFormat(template="Q: {prompt}\n")))
    (problem,) = problems(started(policy), tmp_path)
    assert problem.startswith("policy")
    run, _ = fit(started(policy), prompts(tmp_path, format=PromptFormat(template="Q: {prompt}\n")), tmp_path)
    assert run.global_step == 1


def test_prompts_and_responses_longer_than_the_context(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tokenizer: Any, tmp_path: Path
):
    longest = max(len(ids_of(tokenizer, row["prompt"], "")[0]) for row in PROMPTS)
    assert longest < 24, "judged by the data, not by the limit"
    found = problems(started(tiny_dir("gpt2"), tiny_reward_dir("gpt2"), max_new_tokens=129 - longest), tmp_path)
    assert [text.split(" (")[0].rsplit(" ", 1)[1] for text in found] == ["policy", "value_model", "reward_model"]
    assert found[0] == (
        f"sequences of 129 tokens do not fit the context of 128 of the policy ({tiny_dir('gpt2')}): lower "
        f"ppo.max_new_tokens ({129 - longest}) or data.reading.max_prompt_tokens (the longest has {longest})"
    )
    data = prompts(tmp_path, valid=write(tmp_path / "v.jsonl", PROMPTS))
    with pytest.raises(SelfCheckError, match=r"the policy .*ppo\.max_new_tokens"):
        trainer(tmp_path).validate(started(tiny_dir("gpt2"), max_new_tokens=129 - longest), datamodule=data)
    run, _ = fit(started(tiny_dir("gpt2"), max_new_tokens=128 - longest), prompts(tmp_path), tmp_path)
    assert run.global_step == 1


def test_text_longer_than_the_context(tiny_dir: Dirs, tmp_path: Path):
    text = write(tmp_path / "t.jsonl", TEXT)
    (problem,) = problems(started(tiny_dir("gpt2"), ptx_coef=1.0), tmp_path, text=text, text_tokens=129)
    assert problem.startswith("sequences of 129 tokens do not fit the context of 128 of the policy")
    assert problem.endswith("lower data.text_tokens (129)")


@pytest.mark.parametrize("name", ["policy", "value_model"])
def test_pitfall_36_trained_weights_below_float32(tiny_dir: Dirs, tmp_path: Path, name: str):
    module = started(tiny_dir("gpt2"))
    getattr(module, name).bfloat16()
    (problem,) = problems(module, tmp_path)
    assert problem.startswith(f"{name} holds torch.bfloat16 weights")
    assert "bf16-mixed" in problem


@pytest.mark.parametrize("name", ["policy", "value_model", "ref", "reward_model"])
def test_pitfall_02_dropout(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, name: str):
    module = started(tiny_dir("gpt_neox"), tiny_reward_dir("gpt_neox"))
    next(m for m in getattr(module, name).modules() if isinstance(m, torch.nn.Dropout)).p = 0.1
    (problem,) = problems(module, tmp_path)
    assert problem.startswith(f"{name} has dropout")


def test_a_frozen_model_that_is_not(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"), tiny_reward_dir("gpt2"))
    module.ref.requires_grad_(True)
    module.reward_model.train()
    assert problems(module, tmp_path) == [
        "ref must be frozen and in eval mode", "reward_model must be frozen and in eval mode"
    ]  # fmt: skip


def test_a_trained_model_that_is_frozen(tiny_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"))
    next(module.policy.parameters()).requires_grad_(False)
    assert problems(module, tmp_path) == ["policy has frozen weights"]


def test_pitfall_18_a_reward_model_that_no_longer_scores_its_probe_as_it_did(
    tiny_dir: Dirs, make_dir: Any, tmp_path: Path
):
    reward = make_dir("gpt2", reward=True)
    probe = {"input_ids": [5, 30, 7, 99], "score": 0.0}
    module = started(tiny_dir("gpt2"), with_sidecar(reward))
    ids = torch.tensor([probe["input_ids"]])
    with torch.no_grad():
        score = module.reward_model.score(ids, torch.ones_like(ids).bool()).item()
    with_sidecar(reward, probe={**probe, "score": score})
    run, _ = fit(started(tiny_dir("gpt2"), reward), prompts(tmp_path), tmp_path)
    assert run.global_step == 1
    with_sidecar(reward, probe={**probe, "score": score + 0.01})
    (problem,) = problems(started(tiny_dir("gpt2"), reward), tmp_path)
    assert f"scores its own probe {score:.5f}, but {score + 0.01:.5f} was recorded" in problem


def test_pitfall_22_pad_is_eos(tiny_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"))
    module.tokenizer.pad_token = module.tokenizer.eos_token
    (problem,) = problems(module, tmp_path)
    assert "the policy's pad token is its EOS token" in problem


def test_pitfall_01_something_random_in_train_mode(tiny_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"))
    add_residual_dropout(module.policy, 0.1)  # a hook: no Dropout module to be found
    (problem,) = problems(module, tmp_path)
    assert "log-probabilities changed by" in problem
    assert "random in train mode" in problem
    assert all(p.grad is None for p in module.parameters()), "the next fit starts from nothing"


def test_pitfall_01_values_that_are_random_in_train_mode(tiny_dir: Dirs, tmp_path: Path):
    module = started(tiny_dir("gpt2"))
    add_residual_dropout(module.value_model.model, 0.1)
    (problem,) = problems(module, tmp_path)
    assert "the value model's values change by" in problem
    assert "random in train mode" in problem


def blind(model: Any) -> None:
    """Makes a model attend to padding."""

    def forget(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("past_key_values") is None:
            kwargs["attention_mask"] = torch.ones_like(kwargs["attention_mask"])
        return args, kwargs

    model.register_forward_pre_hook(forget, with_kwargs=True)


@pytest.mark.filterwarnings("ignore:packing")
@pytest.mark.parametrize("name", ["policy", "value_model"])
@pytest.mark.parametrize("longest_answer", ["long prompt", "short prompt"])
def test_pitfall_07_a_model_that_does_not_honour_the_mask(
    tiny_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, longest_answer: str
):
    def answers(policy: Any, ids: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        found = sample(policy, ids, mask, *args, **kwargs)
        length = mask.sum(1)
        row = length.argmax() if longest_answer == "long prompt" else length.argmin()
        for i in range(len(ids)):  # all but one answer in three tokens
            if i != row:
                found.mask[i, 3:] = False
        found.logprobs *= found.mask
        return found

    monkeypatch.setitem(ENGINES, "own", answers)
    module = PPOModule(tiny_dir("gpt_neox"), reward_fn=constant, optimizer=sgd(0.1), ppo=ppo())
    module.configure_model()
    blind(module.policy.gpt_neox if name == "policy" else module.value_model.model.gpt_neox)
    found = problems(module, tmp_path)
    assert any(text.startswith(f"{name}: padding changes its output by") for text in found)


def test_several_causes_are_named_at_once(tiny_dir: Dirs, make_dir: Any, make_tokenizer: Any, tmp_path: Path):
    other = make_dir("gpt2", reward=True, tokenizer=make_tokenizer(unk_token="<unk>"))
    module = started(tiny_dir("gpt2"), other, minibatch_size=3, ptx_coef=1.0, max_new_tokens=120)
    module.ref.train()
    found = problems(module, tmp_path)
    for cause in ("data.batch_size", "no data.text", "another tokenizer", "do not fit", "ref must be frozen"):
        assert any(cause in text for text in found), cause
    with pytest.raises(SelfCheckError) as caught:
        fit(module, prompts(tmp_path), tmp_path)
    assert str(caught.value).count("\n  - ") == len(found) == 8


def test_validation_alone_needs_no_training_setup(tiny_dir: Dirs, tmp_path: Path):
    data = prompts(tmp_path, valid=write(tmp_path / "v.jsonl", PROMPTS))
    found = trainer(tmp_path).validate(started(tiny_dir("gpt2"), minibatch_size=3), datamodule=data, verbose=False)
    assert found[0]["val/objective/score"] == 1
