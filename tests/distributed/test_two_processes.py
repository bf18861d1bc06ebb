"""FSDP2 and DDP on two processes: the same run as on one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stages import LONGER

from benchmarks.fault_runs import (
    STAGES,
    Server,
    differing_bytes,
    end_of,
    finish,
    finish_pair,
    make_configs,
    start,
    start_pair,
)
from lit_instructgpt.checkpoints.directory import newest
from lit_instructgpt.checkpoints.state import read_state

Stages = tuple[dict[str, str], Path]


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_close(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float = 1e-5) -> None:
    """Every metric of every step, relative to 1 or to its size.

    But for the mean score of a reward model: no loss holds it, and AdamW makes steps of what rounding leaves of its gradient.
    """
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for own, other in zip(found, expected, strict=True):
        assert own.keys() == other.keys()
        for name in own:
            allowed = 1e-3 if name == "val/score" else tolerance
            assert own[name] == pytest.approx(other[name], abs=allowed, rel=allowed), (own["step"], name)


def steps(run_dir: Path) -> int:
    return int(read_state(newest(run_dir / "checkpoints").path)["global_step"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "ddp_find_unused_parameters_true"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_what_one_gives(server: Server, stages: Stages, tmp_path: Path, stage: str, strategy: str):
    configs, folder = stages
    run_dir = tmp_path / stage
    finish_pair(server, configs[stage], run_dir, *LONGER[stage], strategy=strategy)
    assert steps(run_dir) == steps(folder / stage) >= 20
    assert_close(metrics(run_dir), metrics(folder / stage))
    own, other = (load_file(path / "export/model.safetensors") for path in (run_dir, folder / stage))
    assert own.keys() == other.keys()
    for name in own:
        torch.testing.assert_close(own[name], other[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_r10_from_two_processes_to_one_and_back(server: Server, stages: Stages, tmp_path: Path, stage: str):
    """A run that is killed goes on at another number of processes as it would have gone on at its own."""
    configs, folder = stages
    more = LONGER[stage]
    expected = metrics(folder / stage)
    for first, second in ((2, 1), (1, 2)):
        run_dir = tmp_path / f"{first}-{second}"
        begin = start_pair if first == 2 else lambda *args, **request: [start(*args, **request)]
        runs = begin(server, configs[stage], run_dir, *more, crash_at="pruned", occurrence=3)
        assert runs[0].wait() == 137
        assert all(run.wait() != 0 for run in runs)
        at = steps(run_dir)
        (finish_pair if second == 2 else finish)(server, configs[stage], run_dir, *more)
        assert 0 < at < steps(run_dir) == steps(folder / stage)
        assert_close(metrics(run_dir), expected)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_r10_two_processes_resume_bit_by_bit(server: Server, stages: Stages, tmp_path: Path, stage: str):
    configs, _ = stages
    more = LONGER[stage]
    finish_pair(server, configs[stage], tmp_path / "whole", *more)
    runs = start_pair(server, configs[stage], tmp_path / "cut", *more, crash_at="renamed", occurrence=4)
    assert runs[0].wait() == 137
    assert runs[1].wait() != 0
    finish_pair(server, configs[stage], tmp_path / "cut", *more)
    assert differing_bytes(end_of(tmp_path / "cut"), end_of(tmp_path / "whole")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_what_two_processes_saved_is_on_one_what_it_was(server: Server, stages: Stages, tmp_path: Path, stage: str):
    """The state is put together bit by bit: one process that resumes a finished run exports the same files."""
    configs, _ = stages
    finish_pair(server, configs[stage], tmp_path / "run", *LONGER[stage])
    before = (tmp_path / "run/export/model.safetensors").read_bytes()
    assert len(list(newest(tmp_path / "run/checkpoints").path.glob("tensors-*.safetensors"))) == 2
    finish(server, configs[stage], tmp_path / "run", *LONGER[stage])
    assert (tmp_path / "run/export/model.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (g++)")
def test_compiled_layers_on_two_processes_give_what_plain_ones_give_on_one(
    server: Server, stages: Stages, tmp_path: Path
):
    configs, folder = stages
    compiled = ("--model.init_args.torch_compile", "true")
    finish_pair(server, configs["sft"], tmp_path / "run", *LONGER["sft"], *compiled)
    assert_close(metrics(tmp_path / "run"), metrics(folder / "sft"), 1e-4)


EIGHT = {"class_path": "bitsandbytes.optim.AdamW8bit", "init_args": {"lr": 0.003, "eps": 1.0e-5, "weight_decay": 0.01}}


@pytest.fixture(scope="module")
def eight_bit(server: Server, stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Path]:
    """The stages with 8-bit AdamW and a model wide enough for it, and an uninterrupted run of each on one process."""
    folder = tmp_path_factory.mktemp("eight")
    configs = make_configs(folder, EIGHT, hidden_size=128)
    for stage in STAGES:
        finish(server, configs[stage], folder / stage)
    return configs, folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_8_bits_on_two_processes_are_close_to_one_and_resume_bit_by_bit(
    server: Server, eight_bit: Stages, tmp_path: Path, stage: str
):
    """Blocks are cut at other places, so that moments are rounded otherwise: close, and no more."""
    configs, folder = eight_bit
    finish_pair(server, configs[stage], tmp_path / "whole")
    first, other = metrics(tmp_path / "whole")[0], metrics(folder / stage)[0]
    for name in first:
        assert first[name] == pytest.approx(other[name], abs=1e-4, rel=1e-4), name
    if stage != "ppo":  # whose samples part after a few steps
        assert_close(metrics(tmp_path / "whole"), metrics(folder / stage), tolerance=0.1)
    runs = start_pair(server, configs[stage], tmp_path / "cut", crash_at="renamed", occurrence=3)
    assert [run.wait() != 0 for run in runs] == [True, True]
    finish_pair(server, configs[stage], tmp_path / "cut")
    assert differing_bytes(end_of(tmp_path / "cut"), end_of(tmp_path / "whole")) == 0
    state = read_state(newest(tmp_path / "whole/checkpoints").path)["optimizer_states"][0]["state"]
    kinds = {entry["state1"].dtype for entry in state.values()}
    assert kinds == {torch.uint8, torch.float32}


@pytest.mark.slow
def test_8_bits_go_on_at_another_number_of_processes_and_in_adamw(server: Server, eight_bit: Stages, tmp_path: Path):
    configs, folder = eight_bit
    for name, first, second, optimizer in (
        ("fewer", start_pair, finish, []),
        ("more", lambda *args, **request: [start(*args, **request)], finish_pair, []),
        ("plain", start_pair, finish, ["--model.init_args.optimizer", "torch.optim.AdamW"]),
    ):
        run_dir = tmp_path / name
        for run in first(server, configs["sft"], run_dir, crash_at="pruned", occurrence=3):
            assert run.wait() != 0
        assert steps(run_dir) == 3
        second(server, configs["sft"], run_dir, *optimizer)
        assert_close(metrics(run_dir), metrics(folder / "sft"), tolerance=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "ddp_find_unused_parameters_true"])
def test_adapters_on_two_processes_give_what_they_give_on_one(
    server: Server, stages: Stages, tmp_path: Path, strategy: str
):
    """PPO with LoRA; on one process the models share their bases, in pieces they do not."""
    configs, _ = stages
    lora = ["--model.init_args.ppo.lora", "{rank: 4}"]
    finish(server, configs["ppo"], tmp_path / "one", *lora)
    finish_pair(server, configs["ppo"], tmp_path / "two", *lora, strategy=strategy)
    assert_close(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    own, other = (load_file(tmp_path / name / "export/adapter/adapter_model.safetensors") for name in ("one", "two"))
    assert own.keys() == other.keys()
    for name in own:
        torch.testing.assert_close(own[name], other[name], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_adapters_on_one_base_go_on_at_another_number_of_processes(server: Server, stages: Stages, tmp_path: Path):
    """The reward model was adapters beside the policy's start: the value model starts from them at any number."""
    configs, _ = stages
    finish(server, configs["rm"], tmp_path / "rm", "--model.init_args.lora", "{rank: 4}")
    lora = ["--model.init_args.ppo.lora", "{rank: 4}", "--model.init_args.reward_model", str(tmp_path / "rm/export")]
    finish(server, configs["ppo"], tmp_path / "one", *lora)
    finish_pair(server, configs["ppo"], tmp_path / "two", *lora)
    assert_close(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    run = start(server, configs["ppo"], tmp_path / "more", *lora, crash_at="pruned", occurrence=3)
    assert run.wait() == 137
    finish_pair(server, configs["ppo"], tmp_path / "more", *lora)
    assert_close(metrics(tmp_path / "more"), metrics(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("sft", ["--model.init_args.lora", "{rank: 4}", "--model.init_args.model"]),
        ("rm", ["--model.init_args.lora", "{rank: 4}"]),
        ("rm", ["--model.init_args.gradient_checkpointing", "true"]),
        (
            "ppo",
            [
                "--model.init_args.ppo.gradient_checkpointing", "true", "--model.init_args.ppo.rollout_batch_size", "2",
                "--data.init_args.samples_per_prompt", "2",
            ],
        ),
    ],
)  # fmt: skip
def test_combinations_on_two_processes_give_what_they_give_on_one(
    server: Server, stages: Stages, tmp_path: Path, stage: str, settings: list[str]
):
    configs, folder = stages
    if stage == "sft":  # adapters need a model that was trained
        settings = [*settings, str(folder / "sft/export")]
    finish(server, configs[stage], tmp_path / "one", *settings)
    finish_pair(server, configs[stage], tmp_path / "two", *settings)
    assert_close(metrics(tmp_path / "two"), metrics(tmp_path / "one"))


@pytest.mark.slow
def test_bf16_autocast_on_two_processes_begins_as_on_one(server: Server, stages: Stages, tmp_path: Path):
    """Rounding parts them: SFT roughly, and PPO's samples at once, but for its loss on text."""
    configs, _ = stages
    found: dict[str, list[list[dict[str, float]]]] = {}
    for stage in ("sft", "ppo"):
        half = ["--trainer.precision", "bf16-mixed"]
        finish(server, configs[stage], tmp_path / f"one-{stage}", *half)
        finish_pair(server, configs[stage], tmp_path / f"two-{stage}", *half)
        found[stage] = [metrics(tmp_path / f"{number}-{stage}") for number in ("two", "one")]
    assert_close(*found["sft"], 0.05)
    two, one = ([row["loss/ptx"] for row in rows if "loss/ptx" in row] for rows in found["ppo"])
    assert len(two) == len(one) > 4
    assert two[:2] == pytest.approx(one[:2], rel=0.05)


@pytest.mark.slow
def test_a_callback_whose_files_could_not_be_read_again_is_refused(server: Server, stages: Stages, tmp_path: Path):
    configs, _ = stages
    own = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    run = start(server, configs["sft"], tmp_path / "run", "--trainer.strategy", "fsdp2", own)
    assert run.wait() == 2
    assert "ModelCheckpoint does not go with strategy fsdp2: take it out" in run.text()
