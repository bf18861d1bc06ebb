"""PPO raises a reward that can be computed by hand, past a threshold, on a tiny policy."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from stages import PROMPTS, TEXT, adamw, fit, ppo, prompts, write

from lit_instructgpt.callbacks import ExportHF
from lit_instructgpt.modules import PPOModule

Dirs = Callable[[str], str]


def vowels(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Share of vowels among eight characters; an empty response has none."""
    return [sum(character in "aeiou" for character in response[:8]) / 8 for response in responses]


def learn(path: Path, policy: str, num_iterations: int, ptx: bool = False, **settings: Any) -> list[dict[str, float]]:
    rows = [{"prompt": f"{row['prompt']} {i}"} for i in range(4) for row in PROMPTS]
    module = PPOModule(
        policy, reward_fn=vowels, optimizer=adamw(0.01),
        ppo=ppo(
            **{
                "max_new_tokens": 8, "minibatch_size": 32, "value_lr": 0.01, "kl_coef": 0.01, "ema_decay": 0.9,
                "num_warmup_iterations": 5, **settings,
            }
        ),
    )  # fmt: skip
    text = {"text": write(path / "t.jsonl", TEXT)} if ptx else {}
    data = prompts(path, rows, batch_size=64, num_episodes=64 * num_iterations, **text)
    _, record = fit(module, data, path, ExportHF())
    return record.logged


def mean(logged: list[dict[str, float]], key: str) -> float:
    return sum(step[key] for step in logged) / len(logged)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_ppo_learns_a_rule_based_reward(tiny_dir: Dirs, tmp_path: Path, family: str):
    logged = learn(tmp_path, tiny_dir(family), 50)
    assert mean(logged[:3], "objective/score") < 0.15
    assert mean(logged[-5:], "objective/score") > 0.7
    assert mean(logged[-5:], "objective/kl") > 1
    assert mean(logged[-5:], "value/explained_variance") > 0


@pytest.mark.slow
def test_pitfall_14_several_epochs_and_the_pretraining_mix_learn_without_diverging(tiny_dir: Dirs, tmp_path: Path):
    logged = learn(tmp_path, tiny_dir("gpt_neox"), 40, ptx=True, num_epochs=3, ptx_coef=0.3, max_grad_norm=1.0)
    assert mean(logged[-5:], "objective/score") > 0.5
    assert logged[-1]["loss/ptx"] < logged[0]["loss/ptx"] - 0.5
    assert max(step["policy/approx_kl"] for step in logged) < 0.5
    assert max(abs(step["policy/ratio"] - 1) for step in logged) < 0.3


@pytest.mark.slow
def test_pitfall_12_a_large_kl_coefficient_holds_the_policy_near_its_start(tiny_dir: Dirs, tmp_path: Path):
    logged = learn(tmp_path, tiny_dir("gpt2"), 20, kl_coef=1.0)
    free = learn(tmp_path, tiny_dir("gpt2"), 20, kl_coef=0.0)
    assert mean(logged[-5:], "objective/kl") < 0.5 * mean(free[-5:], "objective/kl")
