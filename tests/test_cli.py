"""The command as users type it: configs, run directories, resuming, messages."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from stages import COMPARISONS, DEMOS, PROMPTS, assert_same, plain_policy, weights, write

import lit_instructgpt
from lit_instructgpt.callbacks import MetricLog
from lit_instructgpt.callbacks.run_directory import changes, flat, lock
from lit_instructgpt.cli import main
from lit_instructgpt.lightning_cli import processes

READING = {"max_prompt_tokens": 24, "max_response_tokens": 16, "max_tokens": 64}
TRAINER = {
    "accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


def save(path: Path, config: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


def last_checkpoint() -> dict[str, Any]:
    return {"class_path": "lit_instructgpt.callbacks.SaveCheckpoints"}


@pytest.fixture
def sft(tiny_dir: Callable[[str], str], tmp_path: Path) -> str:
    """A config of the SFT stage: two epochs of two batches, a checkpoint after each."""
    return save(
        tmp_path / "sft.yaml",
        {
            "trainer": {
                **TRAINER, "max_epochs": 2,
                "callbacks": [{"class_path": "lit_instructgpt.callbacks.ExportHF"}, last_checkpoint()],
            },
            "model": {
                "class_path": "SFT",
                "init_args": {
                    "model": tiny_dir("gpt2"), "dropout": 0.1,
                    "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
                },
            },
            "data": {
                "class_path": "DemoDataModule",
                "init_args": {
                    "train": write(tmp_path / "demos.jsonl", DEMOS), "valid": write(tmp_path / "v.jsonl", DEMOS[:3]),
                    "batch_size": 3, "reading": READING,
                },
            },
        },
    )  # fmt: skip


def files(directory: Path) -> dict[Path, int]:
    """Every file below it, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command that ends with 2, and no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    message = error[error.index("lit-instructgpt: error: ") :]
    assert "Traceback" not in error
    assert message.count("lit-instructgpt: error: ") == 1
    return message.removeprefix("lit-instructgpt: error: ")


# ------------------------------------------------------------------ fit and its directory


def test_fit_writes_everything_into_the_run_directory(sft: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "checkpoints", "export"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "sft.yaml", "demos.jsonl", "v.jsonl"}
    assert plain_policy(run / "export").config.model_type == "gpt2"
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["init_args"]["dropout"] == 0.1
    assert saved["model"]["init_args"]["final_lr_fraction"] == 0.1, "defaults are in it"
    assert saved["seed_everything"] == 0
    assert (run / "export" / "training_config.yaml").read_text() == (run / "config.yaml").read_text()


def test_a_run_that_is_refused_before_its_first_step_leaves_the_directory_free(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    long = ["--data.init_args.reading", "{max_prompt_tokens: 24, max_response_tokens: 16, max_tokens: 9999}"]
    text = tmp_path / "long.jsonl"
    text.write_text(json.dumps({"text": "go " * 400}) + "\n")
    too_long = [*long, "--data.init_args.valid_text", str(text), "--data.init_args.text_tokens", "200"]
    message = refused(["fit", "--config", sft, "--run_dir", str(run), *too_long], capsys)
    assert "do not fit the context" in message
    assert not (run / "config.yaml").exists()
    main(["fit", "--config", sft, "--run_dir", str(run)])
    assert (run / "export").is_dir()


def test_a_second_run_may_not_enter_the_directory(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    before = files(run)
    message = refused(["fit", "--config", sft, "--run_dir", str(run)], capsys)
    assert f"{run} holds another run (config.yaml): choose another --run_dir" in message
    assert files(run) == before


@pytest.mark.filterwarnings("ignore:resumed with other settings")
def test_ckpt_path_resumes_in_the_same_directory(sft: str, tmp_path: Path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main(["fit", "--config", sft, "--run_dir", str(whole)])
    main(["fit", "--config", sft, "--run_dir", str(cut), "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1",
          "--model.init_args.final_lr_fraction", "0.1"])  # fmt: skip
    main(["fit", "--config", sft, "--run_dir", str(cut), "--ckpt_path", "last"])
    assert (cut / "config_resume_1.yaml").is_file()
    assert yaml.safe_load((cut / "config.yaml").read_text())["trainer"]["max_epochs"] == 1
    sidecar = json.loads((cut / "export" / "lit_instructgpt.json").read_text())
    assert sidecar["steps"] == 4
    # The rate of the first epoch was another, so only the structure is compared here; bits in test_resume.py.
    assert weights(plain_policy(cut / "export")).keys() == weights(plain_policy(whole / "export")).keys()
    main(["fit", "--config", sft, "--run_dir", str(cut), "--ckpt_path", str(cut / "checkpoints" / "step-00000004"),
          "--trainer.max_epochs", "3"])  # fmt: skip
    assert (cut / "config_resume_2.yaml").is_file()
    assert json.loads((cut / "export" / "lit_instructgpt.json").read_text())["steps"] == 6


def test_resuming_without_a_checkpoint_is_refused(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    main(
        [
            "fit",
            "--config",
            sft,
            "--run_dir",
            str(run),
            "--trainer.enable_checkpointing=false",
            "--trainer.callbacks=[]",
        ]
    )
    before = files(run)
    without = ["--trainer.callbacks=[]", "--trainer.enable_checkpointing=false", "--ckpt_path", "last"]
    message = refused(["fit", "--config", sft, "--run_dir", str(run), *without], capsys)
    assert f"{run} has no last checkpoint: name one with --ckpt_path" in message
    missing = str(tmp_path / "no.ckpt")
    assert missing in refused(["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", missing], capsys)
    assert files(run) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(sft: str, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("left behind")
    (run / "metrics.jsonl").write_text("left behind")
    with pytest.warns(UserWarning, match="holds no checkpoint yet: the run starts from the beginning"):
        main(["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last"])
    assert (run / "metrics.jsonl.aside-1").read_text() == "left behind"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6, "four steps, two validations"
    assert json.loads((run / "export" / "lit_instructgpt.json").read_text())["steps"] == 4


def test_r14_a_directory_in_use_is_refused(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    held = lock(run)
    message = refused(["fit", "--config", sft, "--run_dir", str(run)], capsys)
    assert f"{run} is in use by process {os.getpid()} on" in message
    assert not (run / "config.yaml").exists()
    held.close()
    main(["fit", "--config", sft, "--run_dir", str(run)])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_r3_the_exit_code_of_a_run_that_was_told_to_stop(
    sft: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    signum: int,
    code: int,
):
    run, before = tmp_path / "run", MetricLog.log_metrics

    def stop(self: Any, metrics: Any, step: int | None = None) -> None:
        before(self, metrics, step)
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(MetricLog, "log_metrics", stop)
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", sft, "--run_dir", str(run)])
    assert caught.value.code == code
    said = capsys.readouterr().err
    assert (
        f"stopped by {signal.Signals(signum).name} at optimizer step 1; saved in {run}/checkpoints/step-00000001"
        in said
    )
    monkeypatch.undo()
    main(["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last"])
    assert json.loads((run / "export" / "lit_instructgpt.json").read_text())["steps"] == 4


def test_no_checkpoint_that_can_be_used_has_a_code_of_its_own(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    for path in (run / "checkpoints").glob("*/manifest.json"):
        path.unlink()
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last"])
    assert caught.value.code == 3
    assert "holds no checkpoint that can be used" in capsys.readouterr().err


def test_validate_takes_the_last_checkpoint(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    expected = json.loads((run / "export/lit_instructgpt.json").read_text())["metrics"]["val/loss"]
    capsys.readouterr()
    for given in ("last", str(run / "checkpoints"), str(run / "checkpoints/step-00000004")):
        main(["validate", "--config", sft, "--run_dir", str(run), "--ckpt_path", given])
        assert f"{expected:.6f}"[:6] in capsys.readouterr().out


def test_ckpt_path_last_may_be_given_from_the_first_run_on(sft: str, tmp_path: Path):
    with pytest.warns(UserWarning, match="holds no checkpoint yet: the run starts from the beginning"):
        main(["fit", "--config", sft, "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"])
    assert json.loads((tmp_path / "run" / "export" / "lit_instructgpt.json").read_text())["steps"] == 4


def test_pitfall_45_the_saved_config_runs_again_elsewhere(sft: str, tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"
    main(["fit", "--config", sft, "--run_dir", str(first)])
    before = files(first)
    main(["fit", "--config", str(first / "config.yaml"), "--run_dir", str(second)])
    assert files(first) == before
    assert any(path.name.startswith("events") for path in second.iterdir())
    assert_same(weights(plain_policy(second / "export")), weights(plain_policy(first / "export")))
    assert str(first) not in (second / "config.yaml").read_text()


def test_overriding_keys_on_the_command_line(sft: str, tmp_path: Path):
    run = tmp_path / "run"
    main(
        [
            "fit",
            "--config",
            sft,
            "--run_dir",
            str(run),
            "--model.init_args.dropout",
            "0.0",
            "--data.init_args.batch_size=6",
        ]
    )
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["model"]["init_args"]["dropout"] == 0
    assert json.loads((run / "export" / "lit_instructgpt.json").read_text())["steps"] == 2


# ------------------------------------------------------------------ the other verbs


def test_all_stages_by_command(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    main(["fit", "--config", sft, "--run_dir", str(tmp_path / "sft")])
    model = str(tmp_path / "sft" / "export")
    export = [{"class_path": "lit_instructgpt.callbacks.ExportHF"}]
    rm = {
        "trainer": {**TRAINER, "callbacks": export, "enable_checkpointing": False},
        "model": {"class_path": "RankingRM", "init_args": {"model": model}},
        "data": {
            "class_path": "ComparisonDataModule",
            "init_args": {
                "train": write(tmp_path / "c.jsonl", COMPARISONS), "valid": str(tmp_path / "c.jsonl"),
                "demonstrations": str(tmp_path / "demos.jsonl"), "reading": READING,
            },
        },
    }  # fmt: skip
    main(["fit", "--config", save(tmp_path / "rm.yaml", rm), "--run_dir", str(tmp_path / "rm")])
    ppo = {
        "trainer": {**TRAINER, "callbacks": export, "enable_checkpointing": False},
        "model": {
            "class_path": "PPOModule",
            "init_args": {
                "policy": model, "reward_model": str(tmp_path / "rm" / "export"),
                "ppo": {"ptx_coef": 0.0, "max_new_tokens": 4, "minibatch_size": 4},
            },
        },
        "data": {
            "class_path": "PromptDataModule",
            "init_args": {
                "train": write(tmp_path / "p.jsonl", PROMPTS), "valid": str(tmp_path / "p.jsonl"),
                "num_episodes": 16, "batch_size": 8, "reading": READING,
            },
        },
    }  # fmt: skip
    main(["fit", "--config", save(tmp_path / "ppo.yaml", ppo), "--run_dir", str(tmp_path / "ppo")])
    assert json.loads((tmp_path / "ppo" / "export" / "lit_instructgpt.json").read_text())["steps"] == 4
    plain_policy(tmp_path / "ppo" / "export")

    capsys.readouterr()
    for verb in ("validate", "test"):
        main([verb, "--config", str(tmp_path / "rm.yaml"), "--run_dir", str(tmp_path / verb)])
        assert "val/pair_accuracy" in capsys.readouterr().out
    before = files(tmp_path / "ppo")
    main(["validate", "--config", str(tmp_path / "ppo.yaml"), "--run_dir", str(tmp_path / "ppo")])
    assert "val/objective/score" in capsys.readouterr().out
    assert files(tmp_path / "ppo") == before, "only fit writes into a run's directory"

    out = tmp_path / "samples.jsonl"
    predict = {
        "trainer": {
            **TRAINER,
            "callbacks": [{"class_path": "lit_instructgpt.callbacks.WriteSamples", "init_args": {"path": str(out)}}],
        },
        "model": {
            "class_path": "SFT", "init_args": {"model": model, "sampling": {"num_samples": 3, "max_new_tokens": 4}},
        },
        "data": {
            "class_path": "PromptDataModule",
            "init_args": {"predict": str(tmp_path / "p.jsonl"), "reading": READING},
        },
    }  # fmt: skip
    arguments = ["predict", "--config", save(tmp_path / "predict.yaml", predict), "--run_dir", str(tmp_path / "p")]
    main(arguments)
    assert [len(json.loads(line)["responses"]) for line in out.read_text().splitlines()] == [3] * 8
    assert "samples.jsonl exists already" in refused(arguments, capsys)
    message = refused(["predict", "--config", str(tmp_path / "rm.yaml"), "--run_dir", str(tmp_path / "q")], capsys)
    assert "predict" in message

    main(["evaluate", "--models.sft", model, "--models.ppo", str(tmp_path / "ppo" / "export"),
          "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "report.json"),
          "--reward_model", str(tmp_path / "rm" / "export"), "--sampling.max_new_tokens", "4"])  # fmt: skip
    assert set(json.loads((tmp_path / "report.json").read_text())["models"]) == {"sft", "ppo"}
    monkeypatch.setattr("sys.stdin", io.StringIO("say red\n/quit\n"))
    capsys.readouterr()
    main(["chat", "--model", model, "--max_new_tokens", "4"])
    assert capsys.readouterr().out.count("> ") == 2


def test_pitfall_21_a_reward_function_by_class_path(
    tiny_dir: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_reward.py").write_text(
        "class Length:\n"
        "    def __init__(self, scale: float):\n        self.scale = scale\n"
        "    def __call__(self, prompts, responses):\n        return [self.scale * len(r) for r in responses]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = save(
        tmp_path / "ppo.yaml",
        {
            "trainer": {**TRAINER, "callbacks": [{"class_path": "lit_instructgpt.callbacks.ExportHF"}],
                        "enable_checkpointing": False},
            "model": {
                "class_path": "PPOModule",
                "init_args": {
                    "policy": tiny_dir("gpt2"),
                    "reward_fn": {"class_path": "my_reward.Length", "init_args": {"scale": 2.0}},
                    "ppo": {"ptx_coef": 0.0, "max_new_tokens": 4, "minibatch_size": 8},
                },
            },
            "data": {
                "class_path": "PromptDataModule",
                "init_args": {"train": write(tmp_path / "p.jsonl", PROMPTS), "num_episodes": 8, "batch_size": 8,
                              "reading": READING},
            },
        },
    )  # fmt: skip
    arguments = ["fit", "--config", config, "--run_dir", str(tmp_path / "run")]
    assert "--allow_import my_reward" in refused(arguments, capsys)
    assert "my_reward" not in sys.modules
    main([*arguments, "--allow_import", "my_reward"])
    score = json.loads((tmp_path / "run" / "export" / "lit_instructgpt.json").read_text())["metrics"]["objective/score"]
    assert score > 0
    assert score * 8 / 2 == pytest.approx(round(score * 8 / 2)), "twice a whole number of characters"


# ------------------------------------------------------------------ messages


def test_help(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        text = capsys.readouterr().out
        for verb in (
            "fit",
            "validate",
            "test",
            "predict",
            "prepare",
            "evaluate",
            "chat",
            "--traceback",
            "--allow_import",
        ):
            assert verb in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--help"], ["--run_dir", "--ckpt_path", "Train a model"]),
        (["fit", "--model.help", "PPOModule"], ["--model.policy", "KL reference", "--model.ppo.help"]),
        (["fit", "--data.help", "DemoDataModule"], ["text_fraction", "demonstrations to train on"]),
        (["evaluate", "--help"], ["--models", "held-out prompts"]),
        (["chat", "--help"], ["--model", "--temperature"]),
        (["prepare", "--help"], ["--config"]),
    ],
)
def test_help_of_a_verb(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code in (0, None)
    text = " ".join(capsys.readouterr().out.split())
    assert all(word in text for word in words)


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert refused(["fitt"], capsys).startswith("unknown verb 'fitt', did you mean 'fit'?")
    assert refused(["xyz"], capsys).startswith("unknown verb 'xyz'; ")


def test_traceback_shows_where(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [
        "fit",
        "--config",
        sft,
        "--run_dir",
        str(tmp_path / "run"),
        "--data.init_args.train",
        str(tmp_path / "no.jsonl"),
    ]
    assert "no.jsonl" in refused(arguments, capsys)
    with pytest.raises(OSError, match=r"no\.jsonl"):
        main([*arguments, "--traceback"])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--trainer.accumulate_grad_batches", "2"], ["accumulate_grad_batches is 2", "micro_batch_size"]),
        (["--trainer.gradient_clip_val", "1"], ["gradient_clip_val is 1", "max_grad_norm"]),
        (["--model.init_args.model", "no/such/directory"], ["no/such/directory"]),
        (["--model.init_args.dropout", "2"], ["dropout", "2"]),
        (["--model.init_args.optimizr", "x"], ["optimizr", "did you mean"]),
        (["--trainer.devices", "no"], ["devices"]),
        (["--trainer.max_epochs", "-1"], ["trainer.max_epochs", "trainer.max_steps"]),
        (["--config", "no.yaml"], ["no.yaml"]),
        (["--allow_import"], ["--allow_import needs the name of a package"]),
    ],
)
def test_user_errors_are_one_message(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: list[str]
):
    message = refused(["fit", "--config", sft, "--run_dir", str(tmp_path / "run"), *extra], capsys)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run" / "export").exists()


def test_a_failing_self_check_is_one_message_with_every_cause(
    tiny_dir: Callable[[str], str],
    tiny_reward_dir: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    config = save(
        tmp_path / "ppo.yaml",
        {
            "trainer": TRAINER,
            "model": {
                "class_path": "PPOModule",
                "init_args": {
                    "policy": tiny_dir("gpt2"), "reward_model": tiny_reward_dir("gpt2"), "ppo": {"minibatch_size": 3},
                },
            },
            "data": {
                "class_path": "PromptDataModule",
                "init_args": {"train": write(tmp_path / "p.jsonl", PROMPTS), "num_episodes": 8, "batch_size": 8},
            },
        },
    )  # fmt: skip
    message = refused(["fit", "--config", config, "--run_dir", str(tmp_path / "run")], capsys)
    for cause in ("data.batch_size (8)", "ppo.ptx_coef is 27.8", "do not fit the context of 128 of the policy"):
        assert cause in message


def test_a_model_that_is_not_ours_to_load_is_no_import(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    message = refused(["fit", "--config", sft, "--model", "os.system", "--run_dir", str(tmp_path / "run")], capsys)
    assert "os.system" in message


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The console script, or the package run as a module where it is not installed."""
    script = Path(sys.executable).with_name("lit-instructgpt")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "lit_instructgpt"]
    root = str(Path(lit_instructgpt.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def test_the_console_script(tmp_path: Path):
    done = run(["fitt"], tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "lit-instructgpt: error: unknown verb 'fitt', did you mean 'fit'?; lit-instructgpt --help lists them\n"
    )
    done = run(["--help"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: lit-instructgpt VERB")


@pytest.mark.slow
def test_a_run_says_nothing_that_is_not_about_the_run(sft: str, tmp_path: Path):
    done = run(["fit", "--config", sft, "--run_dir", "run"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert json.loads((tmp_path / "run/checkpoints/step-00000004/manifest.json").read_text())["step"] == 4
    done = run(
        ["fit", "--config", sft, "--run_dir", "run", "--ckpt_path", "last", "--trainer.max_epochs", "3"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert json.loads((tmp_path / "run" / "export" / "lit_instructgpt.json").read_text())["steps"] == 6


# ------------------------------------------------------------------ resuming with other settings


def test_a_resumed_run_says_what_is_another_setting_now_and_what_has_no_effect(sft: str, tmp_path: Path):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    again = ["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last", "--trainer.max_epochs"]
    with pytest.warns(UserWarning, match=r"resumed with other settings than .*run/config\.yaml") as caught:
        main([*again, "3", "--model.optimizer.init_args.lr", "0.5"])
    said = next(str(w.message) for w in caught if "other settings" in str(w.message)).split(": ", 1)[1]
    assert said.split("; ") == [
        "trainer.max_epochs 2 -> 3",
        "model.init_args.optimizer.init_args.lr 0.01 -> 0.5 (no effect: the checkpoint brings its own)",
    ]
    state = json.loads((sorted((run / "checkpoints").glob("step-*"))[-1] / "state.json").read_text())
    assert "0.5" not in json.dumps(state), "it has none indeed"
    with pytest.warns(UserWarning, match=r"other settings than .*config_resume_1\.yaml: trainer\.max_epochs 3 -> 4"):
        main([*again, "4", "--model.optimizer.init_args.lr", "0.5"])


def test_what_changes_of_a_config_is_listed_by_its_dotted_keys():
    then = {"a": {"b": 1, "c": [1, 2]}, "ckpt_path": None, "model": {"init_args": {"optimizer": {"class_path": "X"}}}}
    now = {"a": {"b": 2, "d": None}, "ckpt_path": "last", "model": {"init_args": {"optimizer": {"class_path": "Y"}}}}
    assert changes(flat(then), flat(now)) == [
        "a.b 1 -> 2",
        "a.c [1, 2] -> None",
        "model.init_args.optimizer.class_path X -> Y",
    ]


def test_seeds_are_not_among_the_changes():
    """The checkpoint has them, and what becomes of others is said there (tests/test_run_seed.py)."""
    before = {"seed_everything": 7, "data.seed": 0, "model.ppo.seed": 7, "data.seeding": 1}
    assert changes(before, {"seed_everything": 8, "data.seed": None, "model.ppo": None, "data.seeding": 2}) == [
        "data.seeding 1 -> 2"
    ]


def test_other_data_are_refused_and_moved_ones_are_not(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    again = ["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    other = write(tmp_path / "other.jsonl", DEMOS[1:] + DEMOS[:1])
    with pytest.warns(UserWarning, match="other settings"):
        message = refused([*again, "--data.train", other], capsys)
    assert (
        f"the checkpoint was trained on other data (no longer there: {tmp_path}/demos.jsonl; not there before: {other})"
        in (message)
    )
    moved = write(tmp_path / "moved.jsonl", DEMOS)
    with pytest.warns(UserWarning, match=r"data\.init_args\.train .*demos\.jsonl -> .*moved\.jsonl"):
        main([*again, "--data.train", moved])
    assert (run / "checkpoints" / "step-00000006").is_dir()


def test_a_checkpoint_is_validated_on_any_data(sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    capsys.readouterr()
    other = write(tmp_path / "other.jsonl", DEMOS[3:])
    main(
        [
            "validate",
            "--config",
            sft,
            "--run_dir",
            str(run),
            "--ckpt_path",
            "last",
            "--data.train",
            other,
            "--data.valid",
            other,
        ]
    )
    assert "val/loss" in capsys.readouterr().out


def test_a_checkpoint_of_another_model_is_refused_in_a_line(
    sft: str, make_dir: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    main(["fit", "--config", sft, "--run_dir", str(run)])
    again = ["fit", "--config", sft, "--run_dir", str(run), "--ckpt_path", "last", "--trainer.max_epochs", "3"]
    with pytest.warns(UserWarning, match="other settings"):
        message = refused([*again, "--model.model", make_dir("gpt_neox")], capsys)
    assert message.startswith("the checkpoint's weights do not fit this model: ")
    assert len(message.strip().splitlines()) == 1
    assert "resume with the model of the run's config.yaml" in message


# ------------------------------------------------------------------ processes


def settings(**given: Any) -> Any:
    return SimpleNamespace(**{"devices": "auto", "accelerator": "cpu", "strategy": "auto", "num_nodes": 1, **given})


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch):
    assert processes(settings(devices="1"), False) == {}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes(settings(), False) == {"devices": 2}
    assert processes(settings(devices=2), False) == {}
    assert processes(settings(devices="0,1"), False) == {}
    assert processes(settings(), True) == {"devices": 2, "strategy": "ddp_find_unused_parameters_true"}
    with pytest.raises(
        ValueError, match=r"torchrun started 2 processes .* trainer\.devices is 1: set --trainer\.devices 2"
    ):
        processes(settings(devices=1), False)


@pytest.mark.parametrize(
    ("given", "is_ppo", "expected"),
    [
        ({"devices": 2}, True, {"strategy": "ddp_find_unused_parameters_true"}),
        ({"devices": [0, 1]}, True, {"strategy": "ddp_find_unused_parameters_true"}),
        ({"devices": 1, "num_nodes": 2}, True, {"strategy": "ddp_find_unused_parameters_true"}),
        ({"devices": 2, "strategy": "fsdp2"}, True, {}),
        ({"devices": 2}, False, {}),
        ({"devices": 1}, True, {}),
        ({"devices": "0,"}, True, {}),
        ({"devices": "no"}, True, {}),  # Lightning's to refuse
        ({}, True, {}),
    ],
)
def test_ppo_on_several_devices_has_a_strategy_that_knows_unused_parameters(
    given: dict[str, Any], is_ppo: bool, expected: dict[str, str]
):
    assert processes(settings(**given), is_ppo) == expected


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_processes_start(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a process was started"))
    message = refused(["fit", "--config", sft, "--run_dir", str(tmp_path / "run"), "--trainer.devices", "2"], capsys)
    assert "data.batch_size (3) is global and must be a positive multiple of the number of devices (2)" in message


def test_more_processes_than_cores_are_said(sft: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: (_ for _ in ()).throw(ValueError("stop here")))
    with (
        pytest.warns(UserWarning, match=r"trainer\.devices is 3 and this machine has 1 cores"),
        pytest.raises(SystemExit),
    ):
        main(["fit", "--config", sft, "--run_dir", str(tmp_path / "run"), "--trainer.devices", "3"])


def test_a_misspelt_strategy_and_a_missing_gpu_have_remedies(
    sft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = ["fit", "--config", sft, "--run_dir", str(tmp_path / "run")]
    message = refused([*run, "--trainer.strategy", "fspd2"], capsys)
    assert "did you mean 'fsdp2'? (models in pieces: fsdp2, docs/scale.md)" in message
    if not torch.cuda.is_available():
        message = refused([*run, "--config", "configs/hardware/multi_gpu_ddp.yaml"], capsys)
        assert "leave out configs/hardware/multi_gpu_ddp.yaml, or set it to cpu" in message


def test_predict_without_a_callback_that_writes_is_refused(
    tiny_dir: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = write(tmp_path / "p.jsonl", PROMPTS)
    message = refused(
        ["predict", "--model", "SFT", "--model.model", tiny_dir("gpt2"), "--data", "PromptDataModule",
         "--data.predict", prompts, "--trainer.accelerator", "cpu", "--trainer.logger", "false",
         "--model.sampling.max_new_tokens", "4"], capsys,
    )  # fmt: skip
    assert "nothing would be written; add --trainer.callbacks+=WriteSamples" in message
