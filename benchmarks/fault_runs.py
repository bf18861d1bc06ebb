"""Miniature runs of all stages that can be ended anywhere, resumed and compared byte by byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("sft", "rm", "ppo")
WORDS = ("red", "green", "blue", "fox", "dog", "bee", "honey", "town", "one", "two", "three", "long", "short", "hello")
ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "betas": [0.9, 0.95], "weight_decay": 0.01}}
SAMPLES = {"class_path": "lit_instructgpt.callbacks.SampleTable"}
EXPORT = {"class_path": "lit_instructgpt.callbacks.ExportHF"}
READING = {"max_prompt_tokens": 48, "max_response_tokens": 24, "max_tokens": 96}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """One object per line; the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make_data(folder: Path) -> dict[str, str]:
    """Demonstrations, rankings, prompts and text of a few words each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)

    def words(num: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, num)))

    def ranked(number: int) -> dict[str, Any]:
        responses = list(dict.fromkeys(words(5) for _ in range(4)))
        ranking = [draw.randint(1, 3) for _ in responses]
        if len(set(ranking)) == 1:
            ranking[0] = 4
        return {"prompt": f"{number} {words(4)}", "responses": responses, "ranking": ranking}

    return {
        "demos": write_jsonl(
            folder / "demos.jsonl", [{"prompt": f"{i} {words(4)}", "response": words(6)} for i in range(24)]
        ),
        "rankings": write_jsonl(folder / "rankings.jsonl", [ranked(i) for i in range(12)]),
        "prompts": write_jsonl(folder / "prompts.jsonl", [{"prompt": f"{i} {words(4)}"} for i in range(12)]),
        "text": write_jsonl(folder / "text.jsonl", [{"text": words(30)} for _ in range(40)]),
    }


def make_configs(folder: Path, optimizer: dict[str, Any] | None = None, hidden_size: int = 32) -> dict[str, str]:
    """A YAML file for each stage, with everything that has a state: dropout, moving average, adaptive KL, schedules."""
    data = make_data(folder / "data")
    settings = {
        "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    save = {"class_path": "lit_instructgpt.callbacks.SaveCheckpoints", "init_args": {"every_n_batches": 1, "keep": 2}}
    fresh = {
        "config": {
            "model_type": "gpt_neox", "hidden_size": hidden_size, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 2 * hidden_size, "max_position_embeddings": 96, "tie_word_embeddings": True,
            "initializer_range": 0.2,
        },
        "text": [data["text"]], "vocab_size": 300,
    }  # fmt: skip
    optimizer = optimizer or ADAMW
    stages = {
        "sft": {
            "trainer": {**settings, "max_epochs": 2, "callbacks": [save, EXPORT]},
            "model": {"class_path": "SFT", "init_args": {"model": fresh, "dropout": 0.2, "optimizer": optimizer}},
            "data": {"class_path": "DemoDataModule", "init_args": {
                "train": data["demos"], "valid": data["demos"], "batch_size": 8, "reading": READING}},
        },
        "rm": {
            "trainer": {**settings, "max_epochs": 3, "callbacks": [save, EXPORT]},
            "model": {"class_path": "RankingRM", "init_args": {
                "model": str(folder / "sft/export"), "optimizer": optimizer}},
            "data": {"class_path": "ComparisonDataModule", "init_args": {
                "train": data["rankings"], "valid": data["rankings"], "demonstrations": data["demos"], "batch_size": 4,
                "reading": READING}},
        },
        "ppo": {
            "trainer": {**settings, "max_epochs": 1, "val_check_interval": 2, "callbacks": [save, EXPORT, SAMPLES]},
            "model": {"class_path": "PPOModule", "init_args": {
                "policy": str(folder / "sft/export"), "reward_model": str(folder / "rm/export"), "optimizer": optimizer,
                "ppo": {
                    "kl_coef": 0.05, "ptx_coef": 1.0, "max_new_tokens": 16, "minibatch_size": 4, "num_epochs": 2,
                    "value_lr": 0.003, "num_warmup_iterations": 2, "ema_decay": 0.9, "missing_eos_penalty": 1.0,
                    "adaptive_kl": {"target": 1.0, "horizon": 100}, "max_grad_norm": 1.0}}},
            "data": {"class_path": "PromptDataModule", "init_args": {
                "train": data["prompts"], "valid": data["prompts"], "text": data["text"], "num_episodes": 48,
                "batch_size": 8, "text_per_episode": 1, "text_tokens": 16, "valid_batch_size": 6, "reading": READING}},
        },
    }  # fmt: skip
    found = {}
    for stage, config in stages.items():
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump({"seed_everything": 7, **config}), encoding="utf-8")
        found[stage] = str(folder / f"{stage}.yaml")
    return found


class Server:
    """An interpreter that forks runs; see fault_server.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fault_server"], cwd=ROOT, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the fault server has ended")
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Run:
    """A run that has been started.

    Attributes:
        pid: of its process, which leads a process group.
        marks: file of what it has said of itself, one line each: what, and when.
        log: file of its output.
        code: its exit code, once it was waited for.
        peak: bytes of memory that it held at the most, likewise.
    """

    server: Server
    pid: int
    marks: Path
    log: Path
    code: int | None = field(default=None)
    peak: int = 0

    def said(self) -> list[str]:
        """What it has said, without the times."""
        return [line.split()[0] for line in self.lines()]

    def lines(self) -> list[str]:
        """What it has said."""
        if not self.marks.exists():
            return []
        return [line for line in self.marks.read_text().split("\n") if line]

    def wait_for(self, what: str, number: int, timeout: float = 120.0) -> bool:
        """Until it has said something for the given time; False where it ended before."""
        end = time.monotonic() + timeout
        while self.said().count(what) < number:
            if self.over() or time.monotonic() > end:
                return self.said().count(what) >= number
            time.sleep(0.0005)
        return True

    def wait_for_end(self, timeout: float = 120.0) -> bool:
        """Until it has ended; False where it has not in time."""
        end = time.monotonic() + timeout
        while not self.over():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def over(self) -> bool:
        """Whether it has ended, though nobody has waited for it yet."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        return state == "Z"

    def signal(self, signum: int) -> None:
        """To the whole process group."""
        os.killpg(self.pid, signum)

    def wait(self) -> int:
        """Its exit code; -9 where a SIGKILL ended it."""
        if self.code is None:
            answer = self.server.ask({"wait": self.pid})
            self.code, self.peak = int(answer["code"]), int(answer["peak"])
        return self.code

    def text(self) -> str:
        """Its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(server: Server, config: str, run_dir: Path, *more: str, **request: Any) -> Run:
    """``lit-instructgpt fit --config CONFIG --run_dir RUN_DIR --ckpt_path last``: begins, or resumes."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    number = len(list(run_dir.parent.glob(f"{run_dir.name}.*.log")))
    log, marks = (run_dir.parent / f"{run_dir.name}.{number}.{kind}" for kind in ("log", "marks"))
    log.touch()
    argv = ["fit", "--config", config, "--run_dir", str(run_dir), "--ckpt_path", "last", *more]
    pid = server.ask({"argv": argv, "log": str(log), "marks": str(marks), "cwd": str(ROOT), **request})["pid"]
    return Run(server, pid, marks, log)


def start_pair(
    server: Server, config: str, run_dir: Path, *more: str, strategy: str = "fsdp2", **request: Any
) -> list[Run]:
    """The same, on two processes, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    more = ("--trainer.devices", "2", "--trainer.strategy", strategy, *more)
    return [
        start(
            server, config, run_dir, *more, **request,
            env={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]  # fmt: skip


restarts: list[str] = []
"""Configs of the pairs that were started again after a crash."""


def finish_pair(server: Server, config: str, run_dir: Path, *more: str, **request: Any) -> list[Run]:
    """Two processes, until their end.

    A thread of gloo crashes in the C library's allocator once in some hundred pairs of torch 2.13 (docs/log.md). A pair that ends
    so is started again, once, and resumes, as a user would.

    Raises:
        RuntimeError: one of them failed.
    """
    for again in (True, False):
        runs = start_pair(server, config, run_dir, *more, **request)
        codes = [run.wait() for run in runs]  # all of them: the cause stands in the output of the one that failed first
        if not any(codes):
            return runs
        ends = (f"rank {rank}: exit code {run.code}\n{run.text()[-3000:]}" for rank, run in enumerate(runs))
        said = f"{config}\n" + "\n".join(ends)
        if not again or CRASH not in codes:
            raise RuntimeError(said)
        print(f"started again after a crash: {said}", file=sys.stderr)
        restarts.append(config)
    raise AssertionError


def finish(server: Server, config: str, run_dir: Path, *more: str, **request: Any) -> Run:
    """The same, until its end.

    Raises:
        RuntimeError: it failed.
    """
    run = start(server, config, run_dir, *more, **request)
    if run.wait() != 0:
        raise RuntimeError(f"{config}: exit code {run.code}\n{run.text()[-3000:]}")
    return run


def end_of(run_dir: Path) -> dict[str, bytes]:
    """What a run leaves: its last checkpoint (weights, optimizer, EMA, KL, random numbers), its logs, its export."""
    from lit_instructgpt.checkpoints.directory import newest

    last = newest(run_dir / "checkpoints").path
    files = [*sorted(last.glob("*")), run_dir / "metrics.jsonl", run_dir / "samples.jsonl"]
    files += sorted(run_dir.glob("export*/*.safetensors"))
    return {
        str(file.relative_to(run_dir)): file.read_bytes()
        for file in files
        if file.exists() and file.name != "manifest.json"
    }


def differing_bytes(found: dict[str, bytes], expected: dict[str, bytes]) -> int:
    """Bytes that differ, files and lengths included."""
    total = 0
    for name in found.keys() | expected.keys():
        a, b = found.get(name, b""), expected.get(name, b"")
        total += abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False)) if a != b else 0
    return total


def fresh_dirs(folder: Path, name: str) -> Iterator[Path]:
    """Run directories that are new."""
    number = 0
    while True:
        path = folder / name / f"{number:04d}"
        shutil.rmtree(path, ignore_errors=True)
        for file in path.parent.glob(f"{path.name}.*") if path.parent.exists() else ():
            file.unlink()
        yield path
        number += 1


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CRASH = -signal.SIGSEGV
"""Exit code of a process that has crashed."""
