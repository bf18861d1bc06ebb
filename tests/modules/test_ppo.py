"""PPO against plain transformers models and explicit loops."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from stages import (
    PROMPTS,
    TEXT,
    Record,
    adamw,
    assert_same,
    fit,
    moved,
    plain_policy,
    plain_scorer,
    ppo,
    prompts,
    score_of,
    sgd,
    token_nlls,
    trainer,
    weights,
    write,
)
from torch import Tensor

from lit_instructgpt.batch import DemoBatch, Rollout
from lit_instructgpt.callbacks import ExportHF, SampleTable
from lit_instructgpt.engines import ENGINES
from lit_instructgpt.generation import sample
from lit_instructgpt.kl_control import AdaptiveKL
from lit_instructgpt.modules import PPOModule, ppo_rollout
from lit_instructgpt.modules.ppo_state import Iteration
from lit_instructgpt.selfcheck import SelfCheckError

Dirs = Callable[[str], str]


class Watch(PPOModule):
    """Keeps every rollout, and the models as they were before its update."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollouts: list[Rollout] = []
        self.before: list[tuple[Any, Any]] = []

    def update(self, current: Iteration, minibatches: Sequence[Tensor], text: DemoBatch | None) -> None:
        self.rollouts.append(current.rollout)
        self.before.append((copy.deepcopy(self.policy).eval(), copy.deepcopy(self.value_model.model).eval()))
        super().update(current, minibatches, text)


def length_reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [len(response) / 5 for response in responses]


def episodes(rollout: Rollout) -> list[tuple[list[int], int]]:
    """Bare token ids of each episode, and how many of them are the response."""
    rows = zip(rollout.input_ids, rollout.attention_mask, rollout.response_mask, strict=True)
    return [(ids[mask].tolist(), int(response.sum())) for ids, mask, response in rows]


def logprobs(policy: Any, ids: list[int], num: int, temperature: float = 1.0) -> Tensor:
    return -token_nlls(policy, ids, temperature)[-num:]


def state_values(model: Any, ids: list[int], num: int) -> Tensor:
    """The scalar head before each response token."""
    hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return model.score(hidden)[-num - 1 : -1, 0]


def advantage_sums(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """GAE as its double sum."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[i] + gamma * following[i] - values[i] for i in range(n)]
    return [sum((gamma * lam) ** (k - i) * deltas[k] for k in range(i, n)) for i in range(n)]


def whitened(rows: list[list[float]]) -> list[list[float]]:
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    sd = (sum((x - mean) ** 2 for x in flat) / len(flat) + 1e-8) ** 0.5
    return [[(x - mean) / sd for x in row] for row in rows]


def close(found: Tensor, expected: Any, atol: float = 2e-5) -> None:
    torch.testing.assert_close(found.double(), torch.as_tensor(expected).double(), atol=atol, rtol=1e-5)


# ------------------------------------------------------------------ the rollout, by loops


@pytest.fixture(scope="module")
def run(
    stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Watch, Record, str, str]:
    """Three iterations with every term in play; the episodes of the last are from a policy that has moved."""
    path = tmp_path_factory.mktemp("run")
    policy, reward = stopping_dir("gpt_neox"), tiny_reward_dir("gpt_neox")
    settings = ppo(
        temperature=0.7, kl_coef=0.3, gamma=0.9, gae_lambda=0.8, missing_eos_penalty=0.5, value_lr=0.05,
        minibatch_size=4, micro_batch_size=2, seed=1,
    )  # fmt: skip
    module = Watch(policy, reward_model=reward, optimizer=sgd(0.3), ppo=settings)
    _, record = fit(module, prompts(path, num_episodes=24), path, SampleTable())
    stopped = [int(module.stopped(rollout).sum()) for rollout in module.rollouts]
    assert all(0 < num < 8 for num in stopped), f"some end, some are cut: {stopped}"
    return module, record, policy, reward


def test_pitfall_03_the_temperature_is_in_all_logprobs(run: Any):
    module, _, policy, _ = run
    ref = plain_policy(policy)
    for rollout, (current, _) in zip(module.rollouts, module.before, strict=True):
        for row, (ids, num) in enumerate(episodes(rollout)):
            with torch.no_grad():
                close(rollout.logprobs[row, :num], logprobs(current, ids, num, 0.7))
                close(rollout.ref_logprobs[row, :num], logprobs(ref, ids, num, 0.7))
    last = module.rollouts[-1]
    assert ((last.logprobs - last.ref_logprobs)[last.response_mask]).abs().max() > 1e-2, "the policy has moved"


def test_pitfall_08_the_score_is_of_the_whole_episode_at_its_last_real_token(run: Any):
    module, record, _, reward = run
    scorer = plain_scorer(reward)
    for rollout, logged in zip(module.rollouts, record.logged, strict=True):
        scores = []
        for row, (ids, num) in enumerate(episodes(rollout)):
            with torch.no_grad():
                scores.append(score_of(scorer, ids).item())
            assert rollout.scores[row].item() == pytest.approx(scores[-1], abs=1e-5)
            penalty = 0.0 if ids[-1] == module.tokenizer.eos_token_id else 0.5
            kl = (rollout.logprobs - rollout.ref_logprobs)[row]
            expected = [-0.3 * kl[i].item() for i in range(num)]
            expected[-1] += scores[-1] - penalty
            close(rollout.rewards[row], [*expected, *[0.0] * (rollout.rewards.shape[1] - num)], 1e-6)
        assert logged["objective/score"] == pytest.approx(sum(scores) / 8, abs=1e-5), "the penalty is not in the score"


def test_pitfall_15_values_come_from_the_reward_models_weights(run: Any):
    module, _, _, reward = run
    assert_same(weights(module.before[0][1]), weights(plain_scorer(reward)))
    for rollout, (_, value_model) in zip(module.rollouts, module.before, strict=True):
        for row, (ids, num) in enumerate(episodes(rollout)):
            with torch.no_grad():
                close(rollout.values[row, :num], state_values(value_model, ids, num))
    assert moved(weights(module.before[-1][1]), weights(module.before[0][1])) > 1e-4


def test_pitfall_10_advantages_and_returns_are_those_of_explicit_sums(run: Any):
    module, _, _, _ = run
    for rollout in module.rollouts:
        lengths = [num for _, num in episodes(rollout)]
        rewards = [rollout.rewards[i, :n].tolist() for i, n in enumerate(lengths)]
        values = [rollout.values[i, :n].tolist() for i, n in enumerate(lengths)]
        raw = [advantage_sums(r, v, 0.9, 0.8) for r, v in zip(rewards, values, strict=True)]
        for i, (found, n) in enumerate(zip(whitened(raw), lengths, strict=True)):
            pad = [0.0] * (rollout.advantages.shape[1] - n)
            close(rollout.advantages[i], found + pad, 1e-4)
            close(rollout.returns[i], [a + v for a, v in zip(raw[i], values[i], strict=True)] + pad)


def test_pitfall_06_and_09_logged_means_count_no_padding(run: Any):
    module, record, _, _ = run
    for rollout, logged in zip(module.rollouts, record.logged, strict=True):
        lengths = [num for _, num in episodes(rollout)]
        kl, k3, entropy, returns, errors = [], [], [], [], []
        for i, n in enumerate(lengths):
            gap = [(rollout.logprobs[i, t] - rollout.ref_logprobs[i, t]).item() for t in range(n)]
            kl.append(sum(gap))
            k3.append(sum(torch.exp(torch.tensor(-g)).item() - 1 + g for g in gap))
            entropy.append(-rollout.logprobs[i, :n].sum().item())
            returns += rollout.returns[i, :n].tolist()
            errors += (rollout.returns - rollout.values)[i, :n].tolist()
        score = rollout.scores.mean().item()
        explained = 1 - torch.tensor(errors).var(correction=0) / torch.tensor(returns).var(correction=0)
        assert {name: logged[name] for name in logged if name.startswith(("objective", "response"))} == pytest.approx(
            {
                "objective/score": score, "objective/kl": sum(kl) / 8, "objective/kl_k3": sum(k3) / 8,
                "objective/entropy": sum(entropy) / 8, "objective/kl_coef": 0.3,
                "objective/non_score_reward": -0.3 * sum(kl) / 8, "objective/rlhf_reward": score - 0.3 * sum(kl) / 8,
                "response/length": sum(lengths) / 8,
                "response/stop_rate": sum(i[-1] == module.tokenizer.eos_token_id for i, _ in episodes(rollout)) / 8,
            },
            abs=1e-5,
        )  # fmt: skip
        assert logged["value/explained_variance"] == pytest.approx(explained.item(), abs=1e-4)
        assert logged["objective/kl_k3"] >= 0


def test_samples_show_text_score_and_kl(run: Any):
    module, _, _, _ = run
    rollout = module.rollouts[-1]
    for row, (ids, num) in enumerate(episodes(rollout)):
        sample = module.samples[row]
        assert sample["response"] == module.tokenizer.decode(ids[-num:], skip_special_tokens=True)
        assert sample["score"] == pytest.approx(rollout.scores[row].item(), abs=1e-4)
        kl = (rollout.logprobs - rollout.ref_logprobs)[row, :num].sum().item()
        assert sample["kl"] == pytest.approx(kl, abs=1e-4)
    table = [
        json.loads(line) for line in (Path(module.trainer.default_root_dir) / "samples.jsonl").read_text().splitlines()
    ]
    assert [line["iteration"] for line in table] == [0] * 8 + [1] * 8 + [2] * 8
    assert [line["response"] for line in table[-8:]] == [sample["response"] for sample in module.samples]


def test_every_prompt_is_visited_equally_often(run: Any):
    _, record, _, _ = run
    asked = [text for batch in record.batches for text in batch["prompts"].text]
    assert sorted(asked) == sorted([row["prompt"] for row in PROMPTS] * 3)


# ------------------------------------------------------------------ the update


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_pitfall_01_the_ratio_is_1_in_the_first_minibatch(
    family: str, tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, micro_batch_size: int | None
):
    settings = ppo(temperature=0.7, micro_batch_size=micro_batch_size)
    module = PPOModule(tiny_dir(family), reward_model=tiny_reward_dir(family), optimizer=sgd(0.1), ppo=settings)
    _, record = fit(module, prompts(tmp_path, num_episodes=16), tmp_path)
    for logged in record.logged:
        assert logged["policy/ratio"] == pytest.approx(1, abs=1e-5)
        assert logged["policy/approx_kl"] == pytest.approx(0, abs=1e-6)
        assert logged["policy/clipfrac"] == 0
    assert record.logged[1]["objective/kl"] != 0, "and yet it learns"


def test_pitfall_01_the_ratio_leaves_1_after_a_step(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = PPOModule(
        tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.5), ppo=ppo(num_epochs=3)
    )
    _, record = fit(module, prompts(tmp_path), tmp_path)
    assert abs(record.logged[0]["policy/ratio"] - 1) > 1e-3
    assert record.logged[0]["policy/approx_kl"] > 1e-5
    assert record.logged[0]["policy/clipfrac"] > 0


def test_the_first_update_is_gradient_descent_on_both_losses(stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = Watch(
        stopping_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.2),
        ppo=ppo(value_lr=0.3, vf_coef=0.4, kl_coef=0.1),
    )  # fmt: skip
    _, record = fit(module, prompts(tmp_path), tmp_path)
    rollout = module.rollouts[0]
    policy, value_model = plain_policy(stopping_dir("gpt2")), plain_scorer(tiny_reward_dir("gpt2"))
    surrogate, squared, entropies = [], [], []
    for row, (ids, num) in enumerate(episodes(rollout)):
        surrogate.append(
            (logprobs(policy, ids, num) - rollout.logprobs[row, :num]).exp() * rollout.advantages[row, :num]
        )
        squared.append((state_values(value_model, ids, num) - rollout.returns[row, :num]) ** 2)
        spread = torch.log_softmax(policy(torch.tensor([ids])).logits[0, -num - 1 : -1], -1)
        entropies.append(-(spread.exp() * spread).sum(-1))
    policy_loss, value_loss = -torch.cat(surrogate).mean(), 0.5 * torch.cat(squared).mean()
    (policy_loss + 0.4 * value_loss).backward()
    for model, own, lr in ((policy, module.policy, 0.2), (value_model, module.value_model.model, 0.3)):
        before = weights(model)
        expected = {n: before[n] - lr * p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert moved(expected, {n: before[n] for n in expected}) > 1e-3
        assert_same({n: x for n, x in weights(own).items() if n in expected}, expected, 2e-6)
    logged = record.logged[0]
    assert logged["loss/policy"] == pytest.approx(policy_loss.item(), abs=1e-5)
    assert logged["loss/value"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert logged["policy/entropy"] == pytest.approx(torch.cat(entropies).mean().item(), abs=1e-4), "no padding in it"
    gradients = [p.grad.flatten() for m in (policy, value_model) for p in m.parameters() if p.grad is not None]
    assert logged["policy/grad_norm"] == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-3)


def test_every_minibatch_is_a_step_of_gradient_descent_on_the_value_loss(
    stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    """The first, whose forward pass gave the values of its episodes too, and the others; clipped in the second epoch."""
    taken: list[Tensor] = []

    class Minibatches(Watch):
        def update(self, current: Iteration, minibatches: Sequence[Tensor], text: DemoBatch | None) -> None:
            taken.extend(minibatches)
            super().update(current, minibatches, text)

    settings = ppo(
        minibatch_size=4, micro_batch_size=2, num_epochs=2, value_lr=0.3, value_clip_eps=0.01, missing_eos_penalty=0.5,
    )  # fmt: skip
    module = Minibatches(
        stopping_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=settings
    )  # fmt: skip
    _, record = fit(module, prompts(tmp_path), tmp_path)
    assert [len(rows) for rows in taken] == [4, 4, 4, 4]
    assert sorted(torch.cat(taken[:2]).tolist()) == sorted(torch.cat(taken[2:]).tolist()) == list(range(8))
    rollout, model = module.rollouts[0], plain_scorer(tiny_reward_dir("gpt2"))
    bare = episodes(rollout)
    with torch.no_grad():
        for row, (ids, num) in enumerate(bare):
            close(rollout.values[row, :num], state_values(model, ids, num))
    losses, clipped = [], []
    for rows in taken:
        squared = []
        for row in rows.tolist():
            ids, num = bare[row]
            value, old, target = state_values(model, ids, num), rollout.values[row, :num], rollout.returns[row, :num]
            near = old + (value - old).clamp(-0.01, 0.01)
            squared.append(torch.maximum((value - target) ** 2, (near - target) ** 2))
            clipped.append(((near - target) ** 2 > (value - target) ** 2).float())
        loss = 0.5 * torch.cat(squared).mean()
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.3 * settings.vf_coef * p.grad
    assert_same(weights(module.value_model.model), weights(model), 2e-6)
    assert 0 < torch.cat(clipped).mean() < 1
    assert record.logged[0]["loss/value"] == pytest.approx(sum(losses) / 4, rel=1e-4)


@pytest.mark.parametrize(("minibatch_size", "passes"), [(8, {True: 1}), (4, {True: 2, False: 1})])
def test_the_values_of_the_first_minibatch_cost_no_pass_of_their_own(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, minibatch_size: int, passes: dict[bool, int]
):
    seen: list[bool] = []
    module = PPOModule(
        tiny_dir("gpt2"),
        reward_model=tiny_reward_dir("gpt2"),
        optimizer=sgd(0.1),
        ppo=ppo(minibatch_size=minibatch_size),
    )
    module.configure_model()
    module.value_model.model.transformer.register_forward_pre_hook(
        lambda *_: (  # the first iteration has its self-check
            seen.append(torch.is_grad_enabled()) if module.iteration > 0 else None
        )
    )
    fit(module, prompts(tmp_path, num_episodes=16), tmp_path)
    assert Counter(seen) == passes


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_pitfall_11_the_micro_batch_split_does_not_change_the_update(
    stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, micro_batch_size: int
):
    data = prompts(tmp_path, text=write(tmp_path / "t.jsonl", TEXT))
    found = []
    for size in (None, micro_batch_size):
        module = PPOModule(
            stopping_dir("gpt_neox"), reward_model=tiny_reward_dir("gpt_neox"), optimizer=sgd(0.1),
            ppo=ppo(minibatch_size=4, num_epochs=2, micro_batch_size=size, ptx_coef=0.5),
        )  # fmt: skip
        _, record = fit(module, data, tmp_path)
        found.append((weights(module.policy), weights(module.value_model), record.logged[0]))
    assert_same(found[1][0], found[0][0], 1e-6)
    assert_same(found[1][1], found[0][1], 1e-6)
    kinds = ("loss", "policy", "value", "objective", "response")
    metrics = [{k: v for k, v in logged.items() if k.startswith(kinds)} for _, _, logged in found]
    assert len(metrics[0]) > 12
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)


def text_blocks(tokenizer: Any, num: int) -> list[list[int]]:
    stream = [*tokenizer(TEXT[0]["text"]).input_ids, tokenizer.eos_token_id] * len(TEXT)
    return [stream[i : i + num] for i in range(0, len(stream), num)]


def test_pitfall_23_the_pretraining_mix_adds_ptx_coef_times_the_gradient_of_the_mean_nll(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tokenizer: Any, tmp_path: Path
):
    path = tiny_dir("gpt_neox")
    data: dict[str, Any] = {"text": write(tmp_path / "t.jsonl", TEXT), "text_per_episode": 2}
    found = []
    for coef in (0.0, 3.0):
        module = PPOModule(path, reward_model=tiny_reward_dir("gpt_neox"), optimizer=sgd(0.1), ppo=ppo(ptx_coef=coef))
        _, record = fit(module, prompts(tmp_path, **(data if coef else {})), tmp_path)
        found.append((weights(module.policy), record))
    batch = found[1][1].batches[0]["text"]
    blocks = [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert len(blocks) == 16
    assert all(block in text_blocks(tokenizer, 12) for block in blocks)
    model = plain_policy(path)
    nll = torch.cat([token_nlls(model, block) for block in blocks]).mean()
    nll.backward()
    assert found[1][1].logged[0]["loss/ptx"] == pytest.approx(nll.item(), abs=1e-5)
    assert "loss/ptx" not in found[0][1].logged[0]
    difference = {n: found[1][0][n] - found[0][0][n] for n in found[0][0]}
    expected = {n: -0.1 * 3.0 * p.grad for n, p in model.named_parameters()}
    assert max(x.abs().max() for x in expected.values()) > 1e-3
    assert_same(difference, expected, 2e-6)


def test_pitfall_23_every_minibatch_takes_its_own_share_of_the_text(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    seen: list[DemoBatch] = []

    class Spy(PPOModule):
        def backward_ptx(self, text: DemoBatch) -> None:
            seen.append(text)
            super().backward_ptx(text)

    module = Spy(
        tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1),
        ppo=ppo(ptx_coef=1.0, minibatch_size=2),
    )  # fmt: skip
    _, record = fit(module, prompts(tmp_path, text=write(tmp_path / "t.jsonl", TEXT), text_per_episode=3), tmp_path)
    assert [len(text) for text in seen] == [6, 6, 6, 6]
    torch.testing.assert_close(
        torch.cat([text.input_ids for text in seen]), record.batches[0]["text"].input_ids, atol=0, rtol=0
    )


def test_pitfall_38_global_step_counts_minibatch_updates(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    settings = ppo(minibatch_size=2, num_epochs=3)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.01), ppo=settings)
    run, _ = fit(module, prompts(tmp_path, num_episodes=16), tmp_path)
    assert run.global_step == 2 * 4 * 3
    assert module.iteration == 2


def test_two_groups_and_a_warmup_from_a_tenth_for_the_policy_alone(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    settings = ppo(num_warmup_iterations=3, value_lr=0.5)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=adamw(0.02), ppo=settings)
    run, record = fit(module, prompts(tmp_path, num_episodes=40), tmp_path)
    assert [lr for lr, _ in record.lrs] == pytest.approx([0.002, 0.008, 0.014, 0.02, 0.02])
    assert [lr for _, lr in record.lrs] == [0.5] * 5
    policy, value = run.optimizers[0].param_groups
    assert {id(p) for p in policy["params"]} == {id(p) for p in module.policy.parameters()}
    assert {id(p) for p in value["params"]} == {id(p) for p in module.value_model.parameters()}


def test_the_frozen_models_do_not_move(
    stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lit_instructgpt.inference.can_prepack", lambda *_: False)  # their weights can be looked at
    path, reward = stopping_dir("gpt2"), tiny_reward_dir("gpt2")
    module = PPOModule(path, reward_model=reward, optimizer=adamw(0.05), ppo=ppo(value_lr=0.05))
    fit(module, prompts(tmp_path, num_episodes=24), tmp_path)
    assert_same(weights(module.ref), weights(plain_policy(path)))
    assert_same(weights(module.reward_model.model), weights(plain_scorer(reward)))
    assert moved(weights(module.policy), weights(module.ref)) > 1e-2
    assert moved(weights(module.value_model.model), weights(module.reward_model.model)) > 1e-2
    assert not module.ref.training
    assert not module.reward_model.training


def test_pitfall_02_and_35_dropout_is_off_and_the_policy_in_train_mode(
    make_dir: Any, tiny_reward_dir: Dirs, tmp_path: Path
):
    modes = []

    class Spy(PPOModule):
        def backward_policy(self, minibatch: Rollout) -> None:
            modes.append((self.policy.training, self.value_model.training, self.ref.training))
            super().backward_policy(minibatch)

        def backward_value(self, minibatch: Rollout, first: bool = False) -> None:
            modes.append((self.policy.training, self.value_model.training, self.ref.training))
            super().backward_value(minibatch, first)

    path = make_dir("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    module = Spy(path, reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=ppo())
    data = prompts(tmp_path, num_episodes=16, valid=write(tmp_path / "v.jsonl", PROMPTS))
    _, record = fit(module, data, tmp_path, val_check_interval=1)
    assert modes == [(True, True, False)] * 4, "two iterations of two models"
    assert [logged["policy/ratio"] for logged in record.logged] == pytest.approx([1, 1], abs=1e-5)


# ------------------------------------------------------------------ moving average, validation, export, checkpoint


def test_the_exported_policy_is_the_moving_average(stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    after_step: list[dict[str, Tensor]] = []

    class Spy(PPOModule):
        def configure_optimizers(self) -> Any:
            optimizers, schedules = super().configure_optimizers()
            optimizers[0].register_step_post_hook(lambda *_: after_step.append(weights(self.policy)))
            return optimizers, schedules

    path = stopping_dir("gpt_neox")
    module = Spy(
        path, reward_model=tiny_reward_dir("gpt_neox"), optimizer=sgd(0.3), ppo=ppo(ema_decay=0.6, minibatch_size=4)
    )
    fit(module, prompts(tmp_path, num_episodes=16), tmp_path, ExportHF())
    assert len(after_step) == 4
    average = weights(plain_policy(path))
    for step in after_step:
        average = {name: 0.6 * average[name] + 0.4 * step[name] for name in average}
    exported = plain_policy(tmp_path / "export")
    assert_same(weights(exported), average, 1e-6)
    assert_same(weights(module.policy), after_step[-1])
    assert moved(average, after_step[-1]) > 1e-3
    ids = torch.tensor([[5, 30, 7, 99]])
    with torch.no_grad(), module.exported_weights():
        close(exported(ids).logits, module.policy(ids).logits, 1e-5)


def test_validation_is_of_the_moving_average_and_repeatable(stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    path, reward = stopping_dir("gpt2"), tiny_reward_dir("gpt2")
    valid = write(tmp_path / "v.jsonl", PROMPTS)
    module = PPOModule(path, reward_model=reward, optimizer=sgd(1.0), ppo=ppo(ema_decay=0.5))
    _, record = fit(module, prompts(tmp_path, num_episodes=16, valid=valid), tmp_path, ExportHF())
    last = record.validated[-1]
    again = PPOModule(str(tmp_path / "export"), reward_model=reward, ppo=ppo())
    found = trainer(tmp_path).validate(again, datamodule=prompts(tmp_path, valid=valid), verbose=False)[0]
    for name in ("val/objective/score", "val/response/length", "val/response/stop_rate"):
        assert found[name] == pytest.approx(last[name], abs=1e-5)
    assert found["val/objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(last["val/objective/kl"]) > 1e-3
    assert module.iteration == 2, "validation is no iteration"


def test_validation_does_not_change_training(stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    found = []
    for valid in (None, write(tmp_path / "v.jsonl", PROMPTS)):
        module = PPOModule(stopping_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=ppo())
        fit(module, prompts(tmp_path, num_episodes=16, valid=valid), tmp_path, val_check_interval=1)
        found.append(weights(module.policy))
    assert_same(found[1], found[0])


class Save(Callback):
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def test_pitfall_34_the_frozen_models_are_not_in_the_checkpoint(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    settings = ppo(ema_decay=0.9)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=settings)
    fit(module, prompts(tmp_path), tmp_path, Save())
    checkpoint = torch.load(tmp_path / "end.ckpt", weights_only=False)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"policy", "value_model"}
    assert checkpoint["ema"].keys() == weights(module.policy).keys()
    assert {k: v for k, v in checkpoint["ppo"].items() if k != "frozen"} == {
        "kl_coef": 0.02,
        "iteration": 1,
        "current": None,
    }
    size = sum(x.numel() for x in checkpoint["state_dict"].values())
    assert size < 1.1 * sum(p.numel() for m in (module.policy, module.value_model) for p in m.state_dict().values())


def test_pitfall_43_the_checkpoint_loads_with_weights_only(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), ppo=ppo(ema_decay=0.9))
    fit(module, prompts(tmp_path), tmp_path, Save())
    assert torch.load(tmp_path / "end.ckpt", weights_only=True)["ppo"]["iteration"] == 1


# ------------------------------------------------------------------ rewards and control


def test_pitfall_21_a_reward_on_text_sees_prompts_and_responses_as_text(stopping_dir: Dirs, tmp_path: Path):
    calls: list[tuple[list[str], list[str]]] = []

    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        calls.append((list(prompts), list(responses)))
        return length_reward(prompts, responses)

    module = Watch(stopping_dir("gpt2"), reward_fn=reward, optimizer=sgd(0.1), ppo=ppo(missing_eos_penalty=0.5))
    _, record = fit(module, prompts(tmp_path), tmp_path)
    ((asked, answered),) = calls
    assert asked == record.batches[0]["prompts"].text
    assert sorted(asked) == sorted(row["prompt"] for row in PROMPTS)
    texts = [module.tokenizer.decode(ids[-num:], skip_special_tokens=True) for ids, num in episodes(module.rollouts[0])]
    assert answered == texts
    assert record.logged[0]["objective/score"] == pytest.approx(sum(map(len, texts)) / 5 / 8, abs=1e-5)


def test_a_value_model_without_a_reward_model_starts_from_the_policy(tiny_dir: Dirs, tmp_path: Path):
    module = PPOModule(tiny_dir("gpt_neox"), reward_fn=length_reward, ppo=ppo())
    module.configure_model()
    own, source = weights(module.value_model.model.gpt_neox), weights(plain_policy(tiny_dir("gpt_neox")).gpt_neox)
    assert_same(own, source)


@pytest.mark.parametrize("num", [0, 1, 7, 9])
def test_pitfall_21_a_reward_must_give_one_score_per_response(tiny_dir: Dirs, tmp_path: Path, num: int):
    module = PPOModule(tiny_dir("gpt2"), reward_fn=lambda p, r: [1.0] * num, ppo=ppo())
    with pytest.raises(ValueError, match=f"the reward gave {num} scores for 8 responses"):
        fit(module, prompts(tmp_path), tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pitfall_13_a_reward_that_is_not_finite_names_its_prompt(tiny_dir: Dirs, tmp_path: Path, bad: float):
    def reward(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [bad if prompt == "stop now" else 0.0 for prompt in prompts]

    module = PPOModule(tiny_dir("gpt2"), reward_fn=reward, ppo=ppo())
    said = rf"the reward of prompt 'stop now' \(.*prompts\.jsonl:4\) is {bad} in iteration 0"
    with pytest.raises(FloatingPointError, match=said):
        fit(module, prompts(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (4, "the values are not finite at optimizer step 4: no step was taken; not finite: the values of "),
        (
            1,
            "the loss is nan and the gradient norm .* at optimizer step [123]: no step was taken; not finite: the loss of ",
        ),
    ],
)
def test_r7_values_that_are_not_finite_name_their_prompt_alone(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, said: str
):
    """From the second rollout on, where whitening would spread them to all episodes; within the first iteration."""
    values = PPOModule.values

    def spoilt(self: PPOModule, part: Any) -> Tensor:
        bad = [self.global_step >= after and self.where[i].endswith(":4") for i in part.prompt.tolist()]
        return torch.where(torch.tensor(bad)[:, None], float("nan"), values(self, part))

    monkeypatch.setattr(PPOModule, "values", spoilt)
    settings = ppo(num_epochs=2, minibatch_size=4)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), ppo=settings)
    with pytest.raises(FloatingPointError, match=said + r"\S*prompts\.jsonl:4; look at these samples"):
        fit(module, prompts(tmp_path, num_episodes=16), tmp_path)


@pytest.mark.parametrize("under", ["the policy", "the reference model"])
def test_log_probabilities_that_are_not_finite_name_their_prompt(
    tiny_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str
):
    score = ppo_rollout.score

    def spoilt(module: PPOModule, rollout: Rollout, texts: Sequence[str]) -> None:
        row = list(texts).index("stop now")
        if under == "the policy":
            rollout.logprobs[row, 0] = float("nan")
        else:
            logprobs = module.logprobs
            monkeypatch.setattr(module, "logprobs", lambda *args: tuple(x + float("-inf") for x in logprobs(*args)))
        score(module, rollout, texts)

    monkeypatch.setattr(ppo_rollout, "score", spoilt)
    module = PPOModule(tiny_dir("gpt2"), reward_fn=length_reward, ppo=ppo())
    where = r"'stop now' \(.*prompts\.jsonl:4\) is nan" if under == "the policy" else r".* is -inf"
    with pytest.raises(FloatingPointError, match=f"log-probability under {under} of prompt {where} in iteration 0"):
        fit(module, prompts(tmp_path), tmp_path)


def test_a_value_model_that_is_damaged_is_named_before_the_first_update(
    tiny_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PPOModule, "values", lambda self, part: torch.full_like(part.logprobs, float("nan")))
    module = PPOModule(tiny_dir("gpt2"), reward_fn=length_reward, ppo=ppo())
    with pytest.raises(SelfCheckError, match="value_model: what it computes is not finite: its weights are damaged"):
        fit(module, prompts(tmp_path), tmp_path)


def test_one_reward_and_not_two(tiny_dir: Dirs, tiny_reward_dir: Dirs):
    with pytest.raises(ValueError, match=r"give reward_model .* or reward_fn"):
        PPOModule(tiny_dir("gpt2"))
    with pytest.raises(ValueError, match="and not both"):
        PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), reward_fn=length_reward)


def test_pitfall_12_the_adaptive_kl_coefficient_follows_the_measured_kl(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    control = AdaptiveKL(target=0.05, horizon=40)
    settings = ppo(kl_coef=0.1, adaptive_kl=control)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.5), ppo=settings)
    _, record = fit(module, prompts(tmp_path, num_episodes=40), tmp_path)
    coef = 0.1
    for logged in record.logged:
        assert logged["objective/kl_coef"] == pytest.approx(coef)
        assert logged["objective/non_score_reward"] == pytest.approx(-coef * logged["objective/kl"], abs=1e-7)
        coef *= 1 + max(-0.2, min(logged["objective/kl"] / 0.05 - 1, 0.2)) * 8 / 40
    assert module.kl_coef == pytest.approx(coef)
    coefs = [logged["objective/kl_coef"] for logged in record.logged]
    assert coefs[1] < coefs[0], "no KL at first"
    assert max(coefs[2:]) > coefs[1], "then too much"


def test_gradients_are_clipped_by_their_global_norm(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = PPOModule(
        tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(1.0),
        ppo=ppo(max_grad_norm=0.01, value_lr=1.0),
    )  # fmt: skip
    module.configure_model()
    before = weights(module)
    _, record = fit(module, prompts(tmp_path), tmp_path)
    steps = [(after - before[name]).flatten() for name, after in weights(module).items()]
    assert torch.cat(steps).norm().item() == pytest.approx(0.01, rel=1e-3)
    assert record.logged[0]["policy/grad_norm"] > 0.1, "what is logged is the norm before"


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [("accumulate_grad_batches", 2, "micro_batch_size"), ("gradient_clip_val", 1.0, "max_grad_norm")],
)
def test_pitfall_37_trainer_flags_that_would_be_ignored_are_refused(
    tiny_dir: Dirs, tmp_path: Path, flag: str, value: float, remedy: str
):
    module = PPOModule(tiny_dir("gpt2"), reward_fn=length_reward, ppo=ppo())
    with pytest.raises(ValueError, match=f"PPOModule: trainer.{flag} is {value}.*{remedy}"):
        fit(module, prompts(tmp_path), tmp_path, **{flag: value})


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {"kl_coef": -0.1},
        {"gamma": 1.1},
        {"gae_lambda": -0.1},
        {"minibatch_size": 0},
        {"value_lr": 0.0},
    ],
)
def test_settings_out_of_range_are_named_with_their_value(setting: dict[str, float]):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"ppo\.{name} must .*, got {value}"):
        ppo(**setting)


def test_all_settings_out_of_range_are_named_at_once():
    with pytest.raises(ValueError, match=r"ppo\.clip_eps .*; ppo\.ptx_coef .*; ppo\.gamma "):
        ppo(clip_eps=0, ptx_coef=-1.0, gamma=2.0)


# ------------------------------------------------------------------ speed that changes no result


@pytest.mark.parametrize("packing", [False, True])
def test_several_samples_per_prompt_are_gradient_descent_on_all_episodes(
    stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, packing: bool
):
    """Four responses to each of two prompts, in one minibatch: the loss of bare sequences, one by one."""
    module = Watch(
        stopping_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.2),
        ppo=ppo(value_lr=0.3, vf_coef=0.4, kl_coef=0.1, packing=packing),
    )  # fmt: skip
    _, record = fit(module, prompts(tmp_path, samples_per_prompt=4), tmp_path)
    rollout = module.rollouts[0]
    rows = episodes(rollout)
    asked = [tuple(ids[:-num]) for ids, num in rows]
    assert asked == [asked[0]] * 4 + [asked[4]] * 4
    assert asked[0] != asked[4]
    assert len({tuple(ids) for ids, _ in rows}) > 4, "the responses differ"
    assert record.batches[0]["prompts"].input_ids.shape[0] == 2
    policy, value_model = plain_policy(stopping_dir("gpt2")), plain_scorer(tiny_reward_dir("gpt2"))
    surrogate, squared = [], []
    for row, (ids, num) in enumerate(rows):
        surrogate.append(
            (logprobs(policy, ids, num) - rollout.logprobs[row, :num]).exp() * rollout.advantages[row, :num]
        )
        squared.append((state_values(value_model, ids, num) - rollout.returns[row, :num]) ** 2)
        assert rollout.scores[row].item() == pytest.approx(score_of(value_model, ids).item(), abs=1e-5)
    (-torch.cat(surrogate).mean() + 0.4 * 0.5 * torch.cat(squared).mean()).backward()
    for model, own, lr in ((policy, module.policy, 0.2), (value_model, module.value_model.model, 0.3)):
        before = weights(model)
        expected = {n: before[n] - lr * p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert moved(expected, {n: before[n] for n in expected}) > 1e-3
        assert_same({n: x for n, x in weights(own).items() if n in expected}, expected, 2e-6)


def test_minibatches_are_of_whole_prompts(stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    seen = []

    class Minibatches(Watch):
        def backward_policy(self, minibatch: Rollout) -> None:
            seen.append(minibatch.prompt.tolist())
            super().backward_policy(minibatch)

    settings = ppo(minibatch_size=4, micro_batch_size=2)
    module = Minibatches(stopping_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=settings)
    fit(module, prompts(tmp_path, samples_per_prompt=2), tmp_path)
    assert sorted(seen[0] + seen[1]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(rows[0] == rows[1] and rows[2] == rows[3] for rows in seen)
    value_model = plain_scorer(tiny_reward_dir("gpt2"))
    for row, (ids, num) in enumerate(episodes(module.rollouts[0])):  # of the first minibatch, and of the other
        with torch.no_grad():
            close(module.rollouts[0].values[row, :num], state_values(value_model, ids, num))


def test_samples_that_do_not_divide_are_refused(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    with pytest.raises(ValueError, match=r"data.batch_size \(8\) .* multiple of data.samples_per_prompt \(3\)"):
        prompts(tmp_path, samples_per_prompt=3)
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), ppo=ppo(minibatch_size=2))
    with pytest.raises(ValueError, match=r"minibatch_size per device \(2\) .* data.samples_per_prompt \(4\)"):
        fit(module, prompts(tmp_path, samples_per_prompt=4), tmp_path)


@pytest.mark.parametrize(
    "settings", [{"micro_batch_tokens": 30}, {"packing": False}, {"sampler_tolerance": 0.0, "micro_batch_size": 1}]
)
def test_settings_for_speed_change_no_update(
    family: str, tiny_dir: Dirs, stopping_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, settings: dict[str, Any]
):
    data = prompts(tmp_path, text=write(tmp_path / "t.jsonl", TEXT), num_episodes=16)
    found = []
    for more in ({}, settings):
        module = PPOModule(
            (tiny_dir if family == "llama" else stopping_dir)(family), reward_model=tiny_reward_dir(family),
            optimizer=sgd(0.1), ppo=ppo(minibatch_size=4, ptx_coef=0.5, **more),
        )  # fmt: skip
        fit(module, data, tmp_path)
        found.append((weights(module.policy), weights(module.value_model)))
    assert_same(found[1][0], found[0][0], 2e-6)
    assert_same(found[1][1], found[0][1], 2e-6)


@pytest.mark.parametrize(
    ("tolerance", "precision", "passes_more"),
    [(None, "32-true", 0), (0.0, "32-true", 1), (None, "bf16-mixed", 0), (1e-5, "bf16-mixed", 1)],
)
def test_logprobs_of_sampling_save_the_policys_scoring_pass(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, tolerance: float | None, precision: Any, passes_more: int
):
    module = PPOModule(
        tiny_dir("gpt_neox"), reward_model=tiny_reward_dir("gpt_neox"), optimizer=sgd(0.1),
        ppo=ppo(sampler_tolerance=tolerance),
    )  # fmt: skip
    module.configure_model()
    scored = []

    def watch(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() and not kwargs.get("use_cache"):
            scored.append((args[0] if args else kwargs["input_ids"]).numel())

    module.policy.gpt_neox.register_forward_pre_hook(watch, with_kwargs=True)
    _, record = fit(module, prompts(tmp_path), tmp_path, precision=precision)
    assert 0 <= record.logged[0]["sampling/logprob_gap"] < (1e-4 if precision == "32-true" else 0.2)
    num_whole = sum(num >= 8 * 6 for num in scored)  # eight episodes of six response tokens, at the least
    assert num_whole == passes_more + 2, "two are the self-check of the first rollout"


def test_a_sampler_that_disagrees_is_not_believed(
    tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever samples with other numbers is found out, and the training forward pass is taken."""

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        found = sample(*args, **kwargs)
        found.logprobs += 0.1 * found.mask
        return found

    monkeypatch.setitem(ENGINES, "own", elsewhere)
    module = Watch(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=ppo())
    _, record = fit(module, prompts(tmp_path), tmp_path)
    assert record.logged[0]["sampling/logprob_gap"] == pytest.approx(0.1, abs=1e-3)
    policy = plain_policy(tiny_dir("gpt2"))
    for row, (ids, num) in enumerate(episodes(module.rollouts[0])):
        with torch.no_grad():
            close(module.rollouts[0].logprobs[row, :num], logprobs(policy, ids, num))


@pytest.mark.parametrize("num_samples", [1, 2])
def test_responses_sampled_in_turn_are_those_sampled_at_once(
    family: str,
    tiny_dir: Dirs,
    tiny_reward_dir: Dirs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_samples: int,
):
    sizes: list[int] = []

    def watched(policy: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        return sample(policy, input_ids, *args, **kwargs)

    monkeypatch.setitem(ENGINES, "own", watched)
    found = []
    for size in (None, 2):
        module = Watch(
            tiny_dir(family), reward_model=tiny_reward_dir(family), optimizer=sgd(0.1), ppo=ppo(rollout_batch_size=size)
        )
        sizes.clear()
        fit(module, prompts(tmp_path, samples_per_prompt=num_samples), tmp_path)
        found.append(module.rollouts[0])
        assert max(sizes) == (2 // num_samples if size else len(found[0]) // num_samples)
    at_once, in_turn = found
    assert len(at_once) > 2
    assert in_turn.input_ids.equal(at_once.input_ids)
    assert in_turn.response_mask.equal(at_once.response_mask)
    close(in_turn.logprobs, at_once.logprobs)


def test_frozen_models_in_bfloat16_score_almost_the_same(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    found = []
    for dtype in ("float32", "bfloat16"):
        module = Watch(
            tiny_dir("llama"),
            reward_model=tiny_reward_dir("llama"),
            optimizer=sgd(0.1),
            ppo=ppo(frozen_dtype=dtype),
        )
        _, record = fit(module, prompts(tmp_path, valid=write(tmp_path / "v.jsonl", PROMPTS)), tmp_path)
        assert "val/objective/score" in record.validated[0], "validation scores with them too"
        found.append(module.rollouts[0])
        assert str(module.ref.model.layers[0].mlp.up_proj.weight.dtype) == f"torch.{dtype}"
    exact, rough = found
    assert rough.input_ids.equal(exact.input_ids)
    assert 0 < (rough.scores - exact.scores).abs().max() < 0.1
    assert 0 < (rough.ref_logprobs - exact.ref_logprobs).abs().max() < 0.2
    assert rough.values.equal(exact.values), "the trained models stay in float32"


def test_bf16_autocast_samples_and_scores_with_cast_copies(
    family: str, tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path
):
    module = Watch(
        tiny_dir(family), reward_model=tiny_reward_dir(family), optimizer=sgd(0.1), ppo=ppo(sampler_tolerance=0.0)
    )
    _, record = fit(module, prompts(tmp_path, num_episodes=16), tmp_path, precision="bf16-mixed")
    assert {p.dtype for p in module.policy.parameters()} == {torch.float32}
    for rollout, (before, _) in zip(module.rollouts, module.before, strict=True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            for rows, part in module.micro_batches(rollout):
                expected = module.logprobs(before, part)[0]
                assert expected.equal(rollout.logprobs[rows, : expected.shape[1]]), "the weights are those of now"
            for row, (ids, num) in enumerate(episodes(rollout)):  # one by one, by transformers under autocast
                plain = logprobs(before, ids, num).float()
                torch.testing.assert_close(rollout.logprobs[row, :num], plain, atol=0.1, rtol=0)
    assert record.logged[-1]["policy/ratio"] == pytest.approx(1, abs=0.01), "one minibatch: the policy that sampled"


def test_no_pass_is_larger_than_the_limits(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    """Of any model, in sampling's check, scoring, update and text; sampling itself has its rows at once."""
    module = PPOModule(
        tiny_dir("gpt_neox"), reward_model=tiny_reward_dir("gpt_neox"), optimizer=sgd(0.1),
        ppo=ppo(micro_batch_size=2, packing=False, ptx_coef=1.0),
    )  # fmt: skip
    module.configure_model()
    rows = []

    def watch(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if not kwargs.get("use_cache") and module.iteration > 0:  # the first has its self-check
            rows.append(len(args[0] if args else kwargs["input_ids"]))

    for model in (module.policy, module.ref, module.value_model.model, module.reward_model.model):
        model.gpt_neox.register_forward_pre_hook(watch, with_kwargs=True)
    data = prompts(tmp_path, num_episodes=16, text=write(tmp_path / "t.jsonl", [{"text": "one two three " * 40}]))
    fit(module, data, tmp_path)
    assert max(rows) <= 2
    assert len(rows) >= 5 * 4, "four passes each of four models and of text"


def test_frozen_models_are_not_frozen_twice_in_two_dtypes(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    module = PPOModule(
        tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.1), ppo=ppo(num_epochs=1)
    )
    fit(module, prompts(tmp_path), tmp_path, precision="bf16-mixed")
    with pytest.raises(ValueError, match=r"in torch\.bfloat16 from an earlier run: make a new PPOModule"):
        fit(module, prompts(tmp_path), tmp_path)
