"""One `--seed_everything` for whatever draws: what names no seed of its own takes it."""

import dataclasses
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from stages import DEMOS, PROMPTS, write

import lit_instructgpt
from lit_instructgpt.cli import main
from lit_instructgpt.datamodules import ComparisonDataModule, DemoDataModule, PromptDataModule
from lit_instructgpt.lora import LoRA
from lit_instructgpt.modules import SFT, PPOModule, RankingRM
from lit_instructgpt.modules.ppo_config import PPOConfig
from lit_instructgpt.run_seed import begun_with, seed_of
from lit_instructgpt.sampling import Sampling

READING = {"max_prompt_tokens": 24, "max_response_tokens": 16, "max_tokens": 64}
TRAINER = {
    "accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
    "enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip
OWNERS = [SFT, RankingRM, PPOConfig, DemoDataModule, ComparisonDataModule, PromptDataModule, Sampling, LoRA]
OF_THEIR_OWN = {
    "ppo": ("--data.seed", "--model.ppo.seed"),
    "sft": ("--data.seed", "--model.seed"),
}


@pytest.fixture
def configs(tiny_dir: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """PPO against a function, and SFT with dropout: stage -> its config."""
    (tmp_path / "length_reward.py").write_text(
        "def length(prompts, responses):\n    return [len(r) for r in responses]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prompts, demos = write(tmp_path / "p.jsonl", PROMPTS), write(tmp_path / "d.jsonl", DEMOS)
    stages: dict[str, Any] = {
        "ppo": {
            "model": {
                "class_path": "PPOModule",
                "init_args": {
                    "policy": tiny_dir("gpt2"), "reward_fn": "length_reward.length",
                    "ppo": {"ptx_coef": 0.0, "max_new_tokens": 4, "minibatch_size": 4, "value_lr": 0.01},
                },
            },
            "data": {
                "class_path": "PromptDataModule",
                "init_args": {"train": prompts, "num_episodes": 8, "batch_size": 4, "reading": READING},
            },
        },
        "sft": {
            "model": {"class_path": "SFT", "init_args": {"model": tiny_dir("gpt2"), "dropout": 0.2}},
            "data": {
                "class_path": "DemoDataModule",
                "init_args": {"train": demos, "batch_size": 2, "reading": READING},
            },
        },
    }  # fmt: skip
    found = {}
    for stage, config in stages.items():
        found[stage] = str(tmp_path / f"{stage}.yaml")
        Path(found[stage]).write_text(yaml.safe_dump({"trainer": TRAINER, **config}))
    return found


def fit(config: str, run: Path, *options: str) -> str:
    """What a run logs."""
    main(["fit", "--config", config, "--run_dir", str(run), "--allow_import", "length_reward", *options])
    return (run / "metrics.jsonl").read_text()


def test_none_is_the_runs_and_a_number_is_itself():
    assert seed_of(None) == 0, "without a seed of the run"
    lightning.seed_everything(17)
    assert seed_of(None) == 17
    assert [seed_of(given) for given in (0, 3)] == [0, 3]


@pytest.mark.parametrize("owner", OWNERS)
def test_everything_that_draws_in_a_run_takes_its_seed_unless_told(owner: Any):
    assert inspect.signature(owner).parameters["seed"].default is None


def test_every_seed_in_the_package_is_a_runs_or_a_commands_own():
    own = ("lit_instructgpt.evaluation", "lit_instructgpt.chat", "lit_instructgpt.prepare", "lit_instructgpt.engines")
    found = set()
    for module in pkgutil.walk_packages(lit_instructgpt.__path__, "lit_instructgpt."):
        if module.name.startswith(own) or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if getattr(value, "__module__", None) != module.name or not callable(value):
                continue
            if inspect.isclass(value) and issubclass(value, BaseException):
                continue
            seed = inspect.signature(value).parameters.get("seed")
            if seed is not None and seed.default is not inspect.Parameter.empty:
                found.add((name, seed.default))
    assert found == {(owner.__name__, None) for owner in OWNERS}


def test_modules_have_no_other_seeds():
    assert "seed" not in inspect.signature(PPOModule).parameters, "ppo.seed is its own"
    assert {field.name for field in dataclasses.fields(PPOConfig) if "seed" in field.name} == {"seed"}


@pytest.mark.parametrize("stage", ["ppo", "sft"])
def test_the_seed_of_the_run_is_that_of_all_its_parts(stage: str, configs: dict[str, str], tmp_path: Path):
    config = configs[stage]
    first = fit(config, tmp_path / "first")
    other = fit(config, tmp_path / "other", "--seed_everything", "7")
    assert json.loads(first.splitlines()[0]).keys() == json.loads(other.splitlines()[0]).keys()
    assert first != other, "another seed, another run"
    assert fit(config, tmp_path / "again", "--seed_everything", "7") == other
    each = [word for name in OF_THEIR_OWN[stage] for word in (name, "7")]
    assert fit(config, tmp_path / "each", *each) == other, "as if each had been given it"
    for name in OF_THEIR_OWN[stage]:
        assert fit(config, tmp_path / name.strip("-"), "--seed_everything", "7", name, "0") != other, (
            "one's own goes first"
        )


def drawn(model: Any, name: str) -> list[Any]:
    """Weights of some name, as they start."""
    found = [p.detach().clone() for key, p in model.named_parameters() if name in key]
    assert found
    return found


@pytest.mark.parametrize("what", ["head", "value head", "adapters", "order of comparisons", "samples that score SFT"])
def test_whatever_is_drawn_once_takes_the_seed_of_the_run_too(what: str, tiny_dir: Callable[[str], str]):
    def draw(seed: int | None) -> Any:
        if what == "head":
            module: Any = RankingRM(tiny_dir("gpt2"), seed=seed)
            module.configure_model()
            return drawn(module.reward_model, "score")
        if what == "value head":
            module = PPOModule(tiny_dir("gpt2"), reward_fn=len, ppo=PPOConfig(seed=seed))  # type: ignore[arg-type]
            module.configure_model()
            return drawn(module.value_model, "score")
        if what == "adapters":
            module = SFT(tiny_dir("gpt2"), lora=LoRA(rank=2, seed=seed))
            module.configure_model()
            return drawn(module.policy, "lora_A")
        if what == "order of comparisons":
            return ComparisonDataModule(seed=seed).seed
        return SFT(tiny_dir("gpt2"), sampling=Sampling(seed=seed)).sampling.seed

    def same(a: Any, b: Any) -> bool:
        return all(map(torch.equal, a, b)) if isinstance(a, list) else bool(a == b)

    lightning.seed_everything(7)
    runs, own, other = draw(None), draw(7), draw(0)
    assert same(runs, own)
    assert not same(runs, other)


def test_the_saved_config_runs_with_another_seed(configs: dict[str, str], tmp_path: Path):
    other = fit(configs["ppo"], tmp_path / "other", "--seed_everything", "7")
    fit(configs["ppo"], tmp_path / "first")
    assert fit(str(tmp_path / "first/config.yaml"), tmp_path / "from", "--seed_everything", "7") == other
    assert fit(str(tmp_path / "other/config.yaml"), tmp_path / "again") == other, "and with its own"


def test_predict_samples_with_it(tiny_dir: Callable[[str], str], tmp_path: Path):
    def sample(name: str, *options: str) -> list[list[str]]:
        out = tmp_path / f"{name}.jsonl"
        writer = {"class_path": "lit_instructgpt.callbacks.WriteSamples", "init_args": {"path": str(out)}}
        config = {
            "trainer": {**TRAINER, "callbacks": [writer]},
            "model": {"class_path": "SFT",
                      "init_args": {"model": tiny_dir("gpt2"), "sampling": {"num_samples": 2, "max_new_tokens": 4}}},
            "data": {"class_path": "PromptDataModule",
                     "init_args": {"predict": write(tmp_path / "ask.jsonl", PROMPTS), "reading": READING}},
        }  # fmt: skip
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        main(["predict", "--config", str(file), "--run_dir", str(tmp_path / name), *options])
        return [json.loads(line)["responses"] for line in out.read_text().splitlines()]

    other = sample("other", "--seed_everything", "7")
    assert sample("first") != other
    assert sample("own", "--model.sampling.seed", "7") == other


@pytest.mark.parametrize(
    ("stage", "keys"), [("ppo", "model.ppo.seed 7"), ("sft", "model.seed 7, model.sampling.seed 7")]
)
def test_a_resumed_run_keeps_its_seeds_whatever_it_is_given(
    stage: str, keys: str, configs: dict[str, str], tmp_path: Path
):
    save = tmp_path / "save.yaml"
    callback = {"class_path": "lit_instructgpt.callbacks.SaveCheckpoints",
                "init_args": {"every_n_batches": 1, "keep": 9}}  # fmt: skip
    save.write_text(yaml.safe_dump({"trainer": {**TRAINER, "enable_checkpointing": True, "callbacks": [callback]}}))
    whole = fit(configs[stage], tmp_path / "whole", "--config", str(save), "--seed_everything", "7").splitlines()
    first = min((tmp_path / "whole/checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    resumed = ("--config", str(save), "--ckpt_path", str(first))
    with pytest.warns(UserWarning, match="the run goes on with the seeds it was begun with") as said:
        rest = fit(configs[stage], tmp_path / "rest", *resumed, "--seed_everything", "8").splitlines()
    told = " ".join(str(warning.message) for warning in said)
    for seeds in (keys, "data.seed 7"):
        assert f"begun with: {seeds}; {seeds.replace(' 7', ' 8')} would be another run" in told

    def measured(lines: list[str]) -> list[dict[str, float]]:
        return [{k: v for k, v in json.loads(x).items() if not k.startswith(("time", "throughput"))} for x in lines]

    assert len(rest) < len(whole)
    assert measured(rest) == measured(whole)[-len(rest) :]


def test_a_checkpoint_without_seeds_goes_on_with_those_given_and_says_so(configs: dict[str, str], tmp_path: Path):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert begun_with(trainer, {}, {"a.seed": 3}) == {"a.seed": 3}, "not fitting"
    assert begun_with(trainer, {"a.seed": 2}, {"a.seed": 3}) == {"a.seed": 3}, "not fitting"
    assert begun_with(None, {"a.seed": 2}, {"a.seed": 3}) == {"a.seed": 3}
    trainer.state.fn = "fit"
    with pytest.warns(UserWarning, match=r"the checkpoint holds no seeds: the run goes on with a\.seed 3"):
        assert begun_with(trainer, {}, {"a.seed": 3}) == {"a.seed": 3}
    assert begun_with(trainer, {"a.seed": 2, "b.seed": 1}, {"a.seed": 2, "c.seed": 5}) == {
        "a.seed": 2, "b.seed": 1, "c.seed": 5
    }  # fmt: skip
