"""The ways in which several processes are started: by Lightning, by torchrun, by SLURM. Each is the run that is expected."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stages import LONGER

from benchmarks.fault_runs import ROOT, Server, finish_pair

Stages = tuple[dict[str, str], Path]
COMMAND = [sys.executable, "-m", "lit_instructgpt"]
LAUNCHERS = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_all(lines: list[list[str]], folder: Path, **more: list[str]) -> None:
    """Starts the commands, each with variables of its own, and waits for all."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in os.environ.items() if name not in LAUNCHERS and "SLURM" not in name}
    running = []
    for number, line in enumerate(lines):
        own = {name: values[number] for name, values in more.items()}
        with (folder / f"{number}.log").open("wb") as log:
            environment = {**plain, "OMP_NUM_THREADS": "1", **own}
            running.append(subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait(300) for process in running]
    said = "\n".join((folder / f"{number}.log").read_text()[-3000:] for number in range(len(lines)))
    assert codes == [0] * len(lines), said


def arguments(config: str, run_dir: Path) -> list[str]:
    args = ["fit", "--config", config, "--run_dir", str(run_dir), "--ckpt_path", "last", *LONGER["sft"]]
    return [*args, "--trainer.devices", "2", "--trainer.strategy", "fsdp2"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "slurm"])
def test_two_processes_are_launched(server: Server, stages: Stages, tmp_path: Path, launcher: str):
    configs, _ = stages
    run_dir = tmp_path / "run"
    args = arguments(configs["sft"], run_dir)
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text("of a run that ended before its first save\n")
    if launcher == "lightning":
        run_all([[*COMMAND, *args]], tmp_path / "logs")
    elif launcher == "torchrun":
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--master_port",
            free_port(),
        ]
        run_all([[*torchrun, "-m", "lit_instructgpt", *args]], tmp_path / "logs")
    else:
        run_all(
            [[*COMMAND, *args]] * 2, tmp_path / "logs",
            SLURM_NTASKS=["2", "2"], SLURM_PROCID=["0", "1"], SLURM_LOCALID=["0", "1"], SLURM_NODEID=["0", "0"],
            SLURM_JOB_ID=["7", "7"], SLURM_JOB_NAME=["train", "train"], SLURM_NODELIST=["127.0.0.1"] * 2,
            SLURM_NTASKS_PER_NODE=["2", "2"], MASTER_ADDR=["127.0.0.1"] * 2, MASTER_PORT=[free_port()] * 2,
        )  # fmt: skip
    finish_pair(server, configs["sft"], tmp_path / "expected", *LONGER["sft"])
    assert [path.name for path in run_dir.glob("metrics.jsonl.*")] == ["metrics.jsonl.aside-1"], "by one process, once"
    assert (run_dir / "metrics.jsonl").read_bytes() == (tmp_path / "expected/metrics.jsonl").read_bytes()
    export = "export/model.safetensors"
    assert (run_dir / export).read_bytes() == (tmp_path / "expected" / export).read_bytes()


@pytest.mark.slow
def test_a_signal_to_the_first_of_two_launched_processes_saves(server: Server, stages: Stages, tmp_path: Path):
    configs, _ = stages
    run_dir = tmp_path / "run"
    line = [*COMMAND, *arguments(configs["sft"], run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 200
    while not (run_dir / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, (tmp_path / "log").read_text()[-3000:]
    run_all([line], tmp_path / "logs")
    finish_pair(server, configs["sft"], tmp_path / "expected", *LONGER["sft"])
    assert (run_dir / "metrics.jsonl").read_bytes() == (tmp_path / "expected/metrics.jsonl").read_bytes()
