"""The callback that saves: when, what it leaves, and how a run is told to stop."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import DEMOS, PROMPTS, TEXT, adamw, demos, fit, ppo, prompts, write

from lit_instructgpt.callbacks import MetricLog, SampleTable, SaveCheckpoints
from lit_instructgpt.checkpoints import plugin
from lit_instructgpt.checkpoints.directory import CheckpointError, NoValidCheckpoint, checkpoints, newest, step_of
from lit_instructgpt.checkpoints.position import Stopped
from lit_instructgpt.checkpoints.state import read_state
from lit_instructgpt.modules import SFT, PPOModule


def steps_in(folder: Path) -> list[int | None]:
    return [step_of(path) for path in reversed(checkpoints(folder))]


def sft(tiny_dir: Any, **settings: Any) -> SFT:
    return SFT(tiny_dir("gpt2"), optimizer=adamw(0.01), **{"dropout": 0.1, **settings})


def make_ppo(tiny_dir: Any, **settings: Any) -> PPOModule:
    def reward(_: Any, responses: Any) -> list[float]:
        return [float(len(response)) for response in responses]

    return PPOModule(
        tiny_dir("gpt2"), reward_fn=reward, optimizer=adamw(0.01),
        ppo=ppo(**{"minibatch_size": 4, "ema_decay": 0.9, **settings}),
    )  # fmt: skip


class Signal(Callback):
    """Sends this process a signal at the end of a batch, or in a phase of PPO."""

    def __init__(self, signum: int, batch: int | None = None, phase: str | None = None, number: int = 1) -> None:
        self.signum, self.batch, self.phase, self.number = signum, batch, phase, number

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), self.signum)

    def show_phase(self, name: str) -> None:
        if name == self.phase:
            self.number -= 1
            if self.number == 0:
                os.kill(os.getpid(), self.signum)


# ------------------------------------------------------------------ when


@pytest.mark.parametrize(
    ("settings", "trainer", "expected"),
    [
        ({"keep": 9}, {}, [2, 4, 6]),  # after each of the three epochs
        ({"keep": 9, "every_n_batches": 1}, {}, [1, 2, 3, 4, 5, 6]),
        ({"keep": 2, "every_n_batches": 1}, {}, [5, 6]),
        ({"keep": 9, "every_n_batches": 4}, {}, [2, 4, 6]),
        ({"keep": 9}, {"max_steps": 3}, [2, 3]),  # and at the end, in the middle of an epoch
        ({"keep": 9}, {"val_check_interval": 1}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_when_it_saves(tiny_dir: Any, tmp_path: Path, settings: Any, trainer: Any, expected: list[int]):
    valid = write(tmp_path / "v.jsonl", DEMOS[:2])
    data = demos(tmp_path, batch_size=3, valid=valid)
    fit(sft(tiny_dir), data, tmp_path, SaveCheckpoints(**settings), max_epochs=3, **trainer)
    assert steps_in(tmp_path / "checkpoints") == expected
    state = read_state(newest(tmp_path / "checkpoints").path)
    assert state["global_step"] == expected[-1]


@pytest.mark.parametrize("settings", [{"keep": 0}, {"every_n_batches": 0}])
def test_settings_that_save_nothing_are_refused(settings: Any):
    with pytest.raises(ValueError, match="must be at least 1"):
        SaveCheckpoints(**settings)


def test_the_frozen_models_are_named_and_not_copied(tiny_dir: Any, tiny_reward_dir: Any, tmp_path: Path):
    module = PPOModule(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), optimizer=adamw(0.01), ppo=ppo())
    fit(module, prompts(tmp_path), tmp_path, SaveCheckpoints())
    state = read_state(newest(tmp_path / "checkpoints").path)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"policy", "value_model"}
    frozen = state["ppo"]["frozen"]
    assert frozen["policy"]["source"] == tiny_dir("gpt2")
    assert {len(one["sha256"]) for one in frozen.values()} == {64}
    assert set(frozen) == {"policy", "reward_model"}


def test_other_frozen_models_are_refused_and_a_copy_elsewhere_is_not(tiny_dir: Any, make_dir: Any, tmp_path: Path):
    fit(make_ppo(tiny_dir), prompts(tmp_path, num_episodes=16), tmp_path, SaveCheckpoints(), max_steps=2)
    copied = shutil.copytree(tiny_dir("gpt2"), tmp_path / "copied")
    (copied / "README.md").write_text("a model card of my own")
    folder = tmp_path / "checkpoints"
    data = lambda: prompts(tmp_path, num_episodes=16)  # noqa: E731
    fit(make_ppo(lambda _: str(copied)), data(), tmp_path, SaveCheckpoints(), ckpt_path=folder)
    other = make_dir("gpt2", seed=5)
    with pytest.raises(ValueError, match="trained with other frozen models: policy was"):
        fit(make_ppo(lambda _: other), data(), tmp_path, SaveCheckpoints(), ckpt_path=folder)


# ------------------------------------------------------------------ in the middle of an iteration


@pytest.mark.parametrize(
    ("phase", "number", "step"), [("rollout", 2, 4), ("update", 4, 2), ("update", 13, 6), ("ptx", 7, 7)]
)
def test_ppo_stops_and_goes_on_in_the_middle_of_an_iteration(
    tiny_dir: Any, tmp_path: Path, phase: str, number: int, step: int
):
    """Bit by bit: weights, moving average, optimizer, and every metric of the iteration that was cut."""
    text = write(tmp_path / "t.jsonl", TEXT)

    def run(path: Path, *callbacks: Callback, **settings: Any) -> dict[str, Any]:
        data = prompts(tmp_path, num_episodes=24, text=text, text_per_episode=1)
        module = make_ppo(tiny_dir, ptx_coef=0.5, num_epochs=2)
        logger = MetricLog(str(path))
        fit(module, data, path, SaveCheckpoints(), SampleTable(), *callbacks, logger=logger, **settings)
        state = read_state(newest(path / "checkpoints").path)
        return {
            "weights": state["state_dict"], "optimizer": state["optimizer_states"], "ema": state["ema"],
            "metrics": (path / "metrics.jsonl").read_text(), "samples": (path / "samples.jsonl").read_text(),
        }  # fmt: skip

    expected = run(tmp_path / "whole")
    with pytest.raises(Stopped, match="go on with --ckpt_path last"):
        run(tmp_path / "cut", Signal(signal.SIGTERM, phase=phase, number=number))
    cut = read_state(newest(tmp_path / "cut/checkpoints").path)
    assert cut["global_step"] == step
    assert cut["ppo"]["current"]["num_updates"] == step % 4
    found = run(tmp_path / "cut", ckpt_path=tmp_path / "cut/checkpoints")
    assert_same_state(found, expected)


def assert_same_state(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same_state(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            assert_same_state(own, other)
    else:
        assert found == expected


# ------------------------------------------------------------------ signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_r3_a_signal_saves_and_stops(tiny_dir: Any, tmp_path: Path, signum: int, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped:
        fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, SaveCheckpoints(), Signal(signum, 0), max_epochs=2)
    assert stopped.value.signum == signum
    assert steps_in(tmp_path / "checkpoints") == [1]
    assert f"{signal.Signals(signum).name}: the state will be saved" in capsys.readouterr().err
    assert signal.getsignal(signum) == before, "the signals are given back"


def test_a_second_signal_ends_at_once(tiny_dir: Any, tmp_path: Path):
    class Twice(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):  # what Lightning makes of a KeyboardInterrupt
        fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, SaveCheckpoints(), Twice())
    assert steps_in(tmp_path / "checkpoints") == []


# ------------------------------------------------------------------ trouble


def test_going_back_puts_the_later_ones_aside(tiny_dir: Any, tmp_path: Path):
    data = lambda: demos(tmp_path, batch_size=3)  # noqa: E731
    saver = lambda: SaveCheckpoints(every_n_batches=1, keep=9)  # noqa: E731
    fit(sft(tiny_dir), data(), tmp_path, saver(), max_epochs=2)
    folder = tmp_path / "checkpoints"
    expected = read_state(folder / "step-00000004")
    with pytest.warns(UserWarning, match=r"goes on from step 2: step-00000004 is now step-00000004\.aside-1"):
        fit(sft(tiny_dir), data(), tmp_path, saver(), max_epochs=2, ckpt_path=folder / "step-00000002")
    assert steps_in(folder) == [1, 2, 3, 4]
    assert (folder / "step-00000003.aside-1").is_dir()
    assert_same_state(read_state(folder / "step-00000004")["state_dict"], expected["state_dict"])


@pytest.mark.filterwarnings("ignore:this run goes on from step 3")
def test_a_broken_newest_is_skipped_named_and_written_anew(tiny_dir: Any, tmp_path: Path):
    data = lambda: demos(tmp_path, batch_size=3)  # noqa: E731
    fit(sft(tiny_dir), data(), tmp_path, SaveCheckpoints(every_n_batches=1), max_epochs=2)
    folder = tmp_path / "checkpoints"
    expected = read_state(folder / "step-00000004")
    (folder / "step-00000004/state.json").write_text("{}")
    with pytest.warns(
        UserWarning, match=r"resuming from .*step-00000003.*skipped: .*step-00000004: state\.json has 2 bytes"
    ):
        fit(sft(tiny_dir), data(), tmp_path, SaveCheckpoints(every_n_batches=1), max_epochs=2, ckpt_path=folder)
    assert_same_state(read_state(folder / "step-00000004")["state_dict"], expected["state_dict"])


def test_none_that_can_be_used(tiny_dir: Any, tmp_path: Path):
    fit(sft(tiny_dir), demos(tmp_path), tmp_path, SaveCheckpoints())
    folder = tmp_path / "checkpoints"
    for path in checkpoints(folder):
        (path / "manifest.json").unlink()
    with pytest.raises(NoValidCheckpoint, match=r"manifest\.json is missing"):
        fit(sft(tiny_dir), demos(tmp_path), tmp_path, SaveCheckpoints(), ckpt_path=folder)
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        fit(sft(tiny_dir), demos(tmp_path), tmp_path, SaveCheckpoints(), ckpt_path=checkpoints(folder)[0])


def test_r4_without_room_nothing_is_written(tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(plugin.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"no room.* bytes are needed, 1,000 are free; make room and resume"):
        fit(sft(tiny_dir), demos(tmp_path), tmp_path, SaveCheckpoints())
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (OSError(28, "No space left on device"), r"No space left.*bytes are needed.*; make room and resume"),
        (PermissionError(13, "Permission denied"), r"Permission denied.*; mend that and resume"),
        (KeyError("a bug"), r"^'a bug'$"),
    ],
)
def test_what_goes_wrong_while_saving_is_told_as_what_it_is(
    tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, match: str
):
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(plugin, "write_state", broken)
    with pytest.raises(type(error) if isinstance(error, KeyError) else OSError, match=match) as found:
        plugin.write_checkpoint({"state_dict": {"weight": torch.zeros(8)}}, tmp_path / "step-00000001")
    assert found.value is error or found.value.__cause__ is error
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_weights_that_are_no_numbers_are_not_saved(tiny_dir: Any, tmp_path: Path):
    class Spoil(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 2:
                pl_module.policy.transformer.ln_f.bias.data[0] = torch.nan

    data = demos(tmp_path, batch_size=3)
    with pytest.raises(
        FloatingPointError, match=r"step 2 these weights are not finite: policy\.transformer\.ln_f\.bias"
    ):
        fit(sft(tiny_dir), data, tmp_path, SaveCheckpoints(every_n_batches=1), Spoil(), max_epochs=2)
    assert steps_in(tmp_path / "checkpoints") == [1]


def test_the_metric_log_has_no_clocks(tiny_dir: Any, tmp_path: Path):
    data = prompts(tmp_path, num_episodes=16, valid=write(tmp_path / "v.jsonl", PROMPTS))
    fit(make_ppo(tiny_dir), data, tmp_path, SaveCheckpoints(), logger=MetricLog(str(tmp_path)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 1]
    assert all(row["epoch"] == 0 for row in rows)
    names = {name for row in rows for name in row}
    assert {"objective/score", "policy/grad_norm", "val/objective/score"} <= names
    assert not [name for name in names if name.startswith(("time/", "throughput/"))]


def test_lines_of_a_log_that_began_after_the_save_do_not_come_twice(tiny_dir: Any, tmp_path: Path):
    settings: Any = {"logger": MetricLog(str(tmp_path)), "log_every_n_steps": 50, "max_epochs": 3}
    fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, SaveCheckpoints(), max_steps=2, **settings)
    log = tmp_path / "metrics.jsonl"
    assert not log.exists()
    assert read_state(newest(tmp_path / "checkpoints").path)["between_batches"]["logs"]["metrics.jsonl"] == 0
    log.write_text('{"step": 3, "of": "a run that was killed"}\n')
    folder = tmp_path / "checkpoints"
    fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, SaveCheckpoints(), ckpt_path=folder, **settings)
    assert "killed" not in log.read_text()


def test_room_is_asked_for_what_all_processes_write(tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugin.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 << 20}))
    state = {"state_dict": {"weight": torch.zeros(1 << 18)}}  # 1 MiB, and one to spare
    plugin.write_checkpoint(state, tmp_path / "step-00000001")
    with pytest.raises(OSError, match=r"5,242,880 bytes are needed, 3,145,728 are free"):
        plugin.write_checkpoint(state, tmp_path / "step-00000002", add=lambda num: 4 * num)


def test_lightnings_own_checkpoints_still_resume(tiny_dir: Any, tmp_path: Path):
    saver = ModelCheckpoint(tmp_path / "own", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, saver, max_epochs=1)
    last = tmp_path / "own" / "step=2.ckpt"
    again = ModelCheckpoint(tmp_path / "own", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    _, record = fit(sft(tiny_dir), demos(tmp_path, batch_size=3), tmp_path, again, max_epochs=2, ckpt_path=last)
    assert len(record.logged) == 2
