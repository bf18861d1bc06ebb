"""Wrong configurations end with one short message that names the place and the remedy."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from lit_instructgpt import cli
from lit_instructgpt.config_check import (
    ConfigError,
    allow_imports,
    check_lightning,
    check_tool,
    nearest,
    readable,
)

BROKEN = Path(__file__).parent / "broken_configs"

EXPECTED = {
    "top_level_key": [":1: trainr: unknown key, did you mean 'trainer'?"],
    "trainer_key": [":2: trainer.max_epoch: unknown key, did you mean 'max_epochs'?"],
    "init_arg": [":7: model.init_args.soft_tie: unknown key, did you mean 'soft_ties'?"],
    "nested_field": [":10: model.init_args.ppo.kl_cof: unknown key, did you mean 'kl_coef'?"],
    "wrong_type": [":11: data.init_args.batch_size: expected an integer, got 'many'"],
    "literal": ["trainer.precision: ", "bf16-mixed", "got 'bf17'"],
    "foreign_class": [":4: model.class_path: canary_package.Canary", "--allow_import canary_package"],
    "no_such_class": [":4: model.class_path: ", "does not exist, did you mean 'lit_instructgpt.modules.SFT'?"],
    "yaml_syntax": [":6: not valid YAML: "],
    "duplicate_key": [":8: model.init_args.dropout: given twice, first in line 7"],
    "out_of_range": ["model.dropout must be at least 0 and below 1, got 1.5"],
    "contradiction": ["give reward_model (a directory) or reward_fn (a class path), and not both"],
    "episodes_not_a_multiple": ["data.num_episodes (100) must be a multiple of data.batch_size (64): take 128"],
    "no_model_directory": ["no model directory ./runs/nowhere/export: run the stage that exports it"],
}

SHARED = """
seed_everything: 1
run_dir: runs/x
ckpt_path: null
trainer:
  max_epochs: 1
  precision: bf16-mixed
  log_every_n_steps: 1
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: runs/x, prefix: a}
  callbacks:
    - class_path: ExportHF
      init_args: {monitor: val/loss, mode: min}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {save_top_k: 1, every_n_train_steps: 10, save_last: true}
    - class_path: PhaseProgressBar
"""
OPTIMIZER = """
    optimizer:
      class_path: torch.optim.AdamW
      init_args: {lr: 1e-5, betas: [0.9, 0.95], eps: 1e-5, weight_decay: 0.0}
"""
FORMAT = """
    format: {template: "{prompt}\\n", response_prefix: " ", chat_template: false}
    reading: {max_prompt_tokens: 8, max_tokens: 16, split: train, column_mapping: {prompt: p}, rejects: r.jsonl}
"""
COMPLETE = {
    "sft": f"""{SHARED}
model:
  class_path: SFT
  init_args:
    model: {{config: {{model_type: gpt2}}, text: [a.jsonl], vocab_size: 300}}
    dropout: 0.2
    micro_batch_size: 4
    final_lr_fraction: 0.1
    sampling: {{num_samples: 1, temperature: 0.7}}
{OPTIMIZER}
data:
  class_path: lit_instructgpt.datamodules.DemoDataModule
  init_args:
    train: demos.jsonl
    text: [a.jsonl, b.jsonl]
    text_fraction: 0.1
    batch_size: 32
{FORMAT}""",
    "rm": f"""{SHARED}
model:
  class_path: lit_instructgpt.modules.RankingRM
  init_args:
    model: runs/sft/export
    soft_ties: false
    max_grad_norm: 1.0
{OPTIMIZER}
data:
  class_path: ComparisonDataModule
  init_args:
    train: rankings.jsonl
    demonstrations: demos.jsonl
    keep_all_tied: false
{FORMAT}""",
    "ppo": f"""{SHARED}
model:
  class_path: lit_instructgpt.modules.ppo.PPOModule
  init_args:
    policy: runs/sft/export
    reward_fn: lit_instructgpt.functional.kl_k1
    value_model: runs/rm/export
    ppo:
      kl_coef: 0.02
      adaptive_kl: {{target: 6, horizon: 1e4}}
      ptx_coef: 27.8
      micro_batch_size: null
      ema_decay: 0.99
{OPTIMIZER}
data:
  class_path: PromptDataModule
  init_args:
    train: prompts.jsonl
    num_episodes: 128
    text_per_episode: 8
{FORMAT}""",
}
FREE = {"model_type", "prompt"}
"""Keys of dictionaries that hold what the user likes."""


@pytest.fixture(autouse=True)
def _policy() -> Iterator[None]:
    allow_imports([])
    yield
    allow_imports([])


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run in, with a package that leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["lit-instructgpt"])
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning logs to an earlier test's stderr
    (tmp_path / "canary_package.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Canary: pass\n"
    )
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "one two three"}) + "\n")
    return tmp_path


def problems(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_lightning(list(argv))
    return caught.value.problems


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_every_broken_config_is_expected() -> None:
    assert {path.stem for path in BROKEN.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_broken_config(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", "--config", str(BROKEN / f"{name}.yaml"), "--trainer.logger", "false"])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    for part in EXPECTED[name]:
        assert part in error
    assert "Traceback" not in error
    assert len(error.splitlines()) < 8
    assert not (workplace / "imported").exists()
    assert not (workplace / "runs").exists()


def lines_with_keys(text: str) -> list[tuple[str, yaml.Node]]:
    """Every key of a YAML text that is not free, with its node."""
    found: list[tuple[str, yaml.Node]] = []
    stack: list[Any] = [yaml.compose(text)]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            found += [(key.value, key) for key, _ in node.value if key.value not in FREE]
            stack += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    return found


@pytest.mark.parametrize("stage", COMPLETE)
def test_complete_config_passes(stage: str, tmp_path: Path) -> None:
    check_lightning(["--config", write(tmp_path / "c.yaml", COMPLETE[stage])])


@pytest.mark.parametrize("change", ["double", "drop"])
@pytest.mark.parametrize("stage", COMPLETE)
def test_a_typo_in_any_key_is_refused(stage: str, change: str, tmp_path: Path) -> None:
    text = COMPLETE[stage]
    for key, node in lines_with_keys(text):
        wrong = key + key[-1] if change == "double" else key[:1] + key[2:]
        begin, end = node.start_mark.index, node.end_mark.index
        file = write(tmp_path / "c.yaml", text[:begin] + wrong + text[end:])
        found = problems(f"--config={file}")
        place = f"{file}:{node.start_mark.line + 1}: "
        assert any(p.startswith(place) and wrong in p and f"'{key}'" in p for p in found), (key, wrong, found)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--trainer.max_epoch=3", "--trainer.max_epoch: unknown option, did you mean '--trainer.max_epochs'?"),
        ("--model.ppo.kl_cof=0.1", "--model.ppo.kl_cof: unknown option, did you mean '--model.ppo.kl_coef'?"),
        ("--model.init_args.polcy=x", "did you mean '--model.init_args.policy'?"),
        ("--model.optimizer.init_args.lrr=1", "did you mean '--model.optimizer.init_args.lr'?"),
        ("--model.policy.kl_coef=1", "--model.policy.kl_coef: unknown option"),
        ("--model.ppo.adaptive_kl.kl_coef=1", "unknown option, did you mean '--model.ppo.kl_coef'?"),
        ("--model.packing=false", "--model.packing: unknown option, did you mean '--model.ppo.packing'?"),
        ("--data.max_tokens=9", "--data.max_tokens: unknown option, did you mean '--data.reading.max_tokens'?"),
        ("--run_dr=x", "--run_dr: unknown option, did you mean '--run_dir'?"),
        ("--data=PromtDataModule", "--data: unknown class 'PromtDataModule', did you mean 'PromptDataModule'?"),
        ("--model.ppo={kl_cof: 1}", "--model.ppo.kl_cof: unknown key, did you mean 'kl_coef'?"),
        ("--data.batch_size=many", "--data.batch_size: expected an integer, got 'many'"),
        ("--data.batch_size=2.5", "expected an integer, got '2.5'"),
        ("--model.optimizer=torch.load", "--allow_import torch.load"),
        ("--model.reward_fn=os.system", "--allow_import os"),
        ("--trainer.callbacks+=ExportHG", "--trainer.callbacks+: unknown class 'ExportHG', did you mean 'ExportHF'?"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_wrong_option(option: str, said: str, tmp_path: Path) -> None:
    found = problems("--config", write(tmp_path / "c.yaml", COMPLETE["ppo"]), option)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    "options",
    [
        ["--model.help"], ["--print_config"], ["--print_config=skip_null"], ["--help"], ["--seed_everything", "3"],
        ["--model.ppo.kl_coef", "-1"], ["--model.init_args.ppo.adaptive_kl.target=2"], ["--data", "DemoDataModule"],
        ["--trainer.callbacks+=SampleTable", "--trainer.callbacks.num_samples=2"], ["--trainer.logger=false"],
        ["--trainer.strategy=ddp"], ["--model.optimizer.lr=1e-6"], ["--data.reading.column_mapping.prompt=q"],
        ["--trainer.callbacks=[{class_path: ExportHF}]"], ["--model=SFT", "--model.dropout=0"],
        ["--model.optimizer=bitsandbytes.optim.AdamW8bit", "--model.optimizer.lr=1e-5"],
        ["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentum=0.9"], ["--trainer.devices=[0, 1]"],
    ],
)  # fmt: skip
def test_right_options_pass(options: list[str], tmp_path: Path) -> None:
    check_lightning(["-c", write(tmp_path / "c.yaml", COMPLETE["ppo"]), *options])


def test_overlay_knows_the_class_of_an_earlier_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", COMPLETE["rm"])
    second = write(tmp_path / "b.yaml", "model:\n  init_args:\n    soft_tie: true\n")
    assert problems("--config", first, "--config", second) == [
        f"{second}:3: model.init_args.soft_tie: unknown key, did you mean 'soft_ties'?"
    ]
    assert "needs class_path" in problems("--config", second)[0]


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = COMPLETE["sft"].replace("max_epochs", "max_epoch").replace("dropout", "drop_out").replace("lr:", "l_r:")
    found = problems("--config", write(tmp_path / "c.yaml", text), "--seed_everythin=1")
    assert len(found) == 4
    with pytest.raises(ConfigError, match=r"4 problems\n  .*max_epoch"):
        check_lightning(["--config", str(tmp_path / "c.yaml"), "--seed_everythin=1"])


def test_file_by_name_in_yaml(tmp_path: Path) -> None:
    write(tmp_path / "model.yaml", "class_path: SFT\ninit_args:\n  model: x\n  dropot: 0\n")
    found = problems("--config", write(tmp_path / "c.yaml", "model: model.yaml\n"))
    assert found == [f"{tmp_path}/model.yaml:4: model.init_args.dropot: unknown key, did you mean 'dropout'?"]


def test_missing_file_and_keys_beside_class_path(tmp_path: Path) -> None:
    file = write(tmp_path / "ppo.yaml", "model:\n  class_path: SFT\n  dropout: 0\n  init_arg: {}\n")
    assert problems("--config", str(tmp_path / "pppo.yaml"))[0].endswith(f"did you mean '{file}'?")
    assert problems("--config", file) == [
        f"{file}:3: model.dropout: must stand below init_args: model.init_args.dropout",
        f"{file}:4: model.init_arg: unknown key, did you mean 'init_args'?",
    ]


@pytest.mark.parametrize("text", ["", "{}\n", "$schema: x\n", "a: &a\n  b: *a\n", "- 1\n", "\x00", "a: [\n"])
def test_odd_files(text: str, tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", text)
    if text in ("", "{}\n", "$schema: x\n"):
        check_lightning(["--config", file])
    else:
        assert problems("--config", file)[0].startswith(f"{file}:1: ") or "[" in text


def test_allowed_import_is_replaced_by_the_next(workplace: Path) -> None:
    config = str(BROKEN / "foreign_class.yaml")
    allow_imports(["canary_package"])
    check_lightning(["--model", "canary_package.Canary"])
    assert (workplace / "imported").exists()
    allow_imports([])
    assert "--allow_import canary_package" in problems("--config", config)[0]
    with pytest.raises(ConfigError, match="--allow_import: 'jsonargparse'"):
        allow_imports(["jsonargparse"])


def test_an_option_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError) as caught:
        check_tool(["--models.a", "x", "--models.a=y", "--models.b", "z", "--out", "o"], models_tool)
    assert caught.value.problems == ["--models.a: given twice, and the last alone would count"]


def models_tool(models: dict[str, str], out: str) -> None:
    """As evaluate and benchmark."""


def tool(inputs: list[str], out: str, pii: Literal["drop", "keep"] = "drop", seed: int = 0) -> None:
    """A command."""


def test_tool(tmp_path: Path) -> None:
    good = write(tmp_path / "good.yaml", "inputs: [a.jsonl]\nout: x\n")
    check_tool(["--config", good, "--pii=keep", "--seed", "1"], tool)
    bad = write(tmp_path / "bad.yaml", "inputs: [a.jsonl]\nsed: 3\n")
    with pytest.raises(ConfigError) as caught:
        check_tool([f"--config={bad}", "--se=1"], tool)
    assert caught.value.problems == [
        f"{bad}:2: sed: unknown key, did you mean 'seed'?",
        "--se: unknown option, did you mean '--seed'?",
    ]


def test_nearest() -> None:
    assert nearest("fitt", ["fit", "test"]) == ", did you mean 'fit'?"
    assert nearest("zzz", ["fit", "test"]) == ""


def test_readable() -> None:
    union = "Does not validate against any of the Union subtypes\n"
    built = f"{union}Subtypes: [<class 'X'>]\nErrors:\n  - data.text_fraction must be below 1, got 2.0\n"
    built += "  - Expected a <class 'NoneType'>\nGiven value type: <class 'N'>\nGiven value: Namespace(a=1)"
    assert readable(built) == "data.text_fraction must be below 1, got 2.0"
    parsed = f"""Parser key "model":
  {union}  Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lit_instructgpt.modules.SFT':
        Parser key "num_samples":
          Expected a <class 'int'>. Got value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: x"""
    assert readable(parsed) == "model.num_samples: expected int, got 'abc'"
    assert readable("nothing\nto change") == "nothing\nto change"


def test_a_choice_is_named_with_its_alternatives(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "configs/ppo.yaml", "--model.init_args.ppo.engine", "vllm"])
    said = capsys.readouterr().err
    assert "ppo.engine: expected one of 'own', 'generate', 'continuous_batching', got 'vllm'" in said
