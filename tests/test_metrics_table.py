"""docs/metrics.md lists every key that is logged, and no other."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stages import COMPARISONS, DEMOS, PROMPTS, TEXT, comparisons, demos, fit, ppo, prompts, sgd, write

from lit_instructgpt.modules import SFT, PPOModule, RankingRM
from lit_instructgpt.sampling import Sampling

TABLE = Path(__file__).parents[1] / "docs" / "metrics.md"
Dirs = Callable[[str], str]


def documented(section: str) -> list[str]:
    """First column of the section's table."""
    text = TABLE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    keys = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) > 0
    return keys


def check(section: str, logged: set[str]) -> None:
    patterns = {key: re.compile(re.sub(r"<\w+>", ".+", key)) for key in documented(section)}
    used = {name: [key for key, pattern in patterns.items() if pattern.fullmatch(name)] for name in logged}
    assert {name for name, keys in used.items() if not keys} == set(), "logged, but not in the table"
    assert set(patterns) - {key for keys in used.values() for key in keys} == set(), "in the table, but not logged"


def test_sft(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    data = demos(
        tmp_path, valid=write(tmp_path / "v.jsonl", DEMOS), valid_text=write(tmp_path / "t.jsonl", TEXT), text_tokens=12
    )
    module = SFT(
        tiny_dir("gpt2"), optimizer=sgd(0.01), reward_model=tiny_reward_dir("gpt2"), sampling=Sampling(max_new_tokens=4)
    )
    run, _ = fit(module, data, tmp_path)
    check("SFT", set(run.callback_metrics))


def test_reward_model(tiny_dir: Dirs, tmp_path: Path):
    data = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS))
    run, _ = fit(RankingRM(tiny_dir("gpt2"), optimizer=sgd(0.01)), data, tmp_path)
    check("Reward model", set(run.callback_metrics))


def test_ppo(tiny_dir: Dirs, tiny_reward_dir: Dirs, tmp_path: Path):
    data = prompts(tmp_path, valid=write(tmp_path / "v.jsonl", PROMPTS), text=write(tmp_path / "t.jsonl", TEXT))
    module = PPOModule(
        tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=sgd(0.01), ppo=ppo(ptx_coef=1.0)
    )
    run, record = fit(module, data, tmp_path)
    check("PPO", set(run.callback_metrics))
    logged = record.logged[0]
    assert all(value >= 0 for key, value in logged.items() if key.startswith("time/"))
    assert logged["throughput/rollout_tokens_per_second"] == pytest.approx(
        8 * logged["response/length"] / logged["time/rollout"], rel=1e-4
    )
    total: Any = sum(value for key, value in logged.items() if key.startswith("time/"))
    assert logged["throughput/episodes_per_second"] == pytest.approx(8 / total, rel=1e-4)
