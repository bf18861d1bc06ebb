"""What must hold on a GPU as on a CPU: sharding, bf16, 8-bit optimizers, bit-exact resume, the memory plan.

``python benchmarks/gpu.py --checks`` runs all of it on the CPU, and on the GPU where there is one; rows of a device that is
not there say "not measured".
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory
from benchmarks.fault_runs import ROOT, STAGES, differing_bytes, end_of, make_configs

Row = dict[str, Any]

CHILD = """
import json, sys
from benchmarks.fault_server import watch
from lit_instructgpt.cli import main
import torch
watch(sys.argv[1], sys.argv[2] or None, 3, None)
try:
    main(sys.argv[4:])
finally:
    if sys.argv[3]:
        with open(sys.argv[3], "w") as file:
            json.dump(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None, file)
"""
"""A run of the public command that can end at a save, and says what it took of the device."""

ADAM = {"lr": 0.003, "eps": 1.0e-5, "weight_decay": 0.01}
LOSS = {"sft": "train/loss", "rm": "train/loss", "ppo": "objective/score"}
ROUNDED = LOSS | {"ppo": "loss/ptx"}
"""What bfloat16 changes by rounding alone: PPO's score is of samples, which part where one token rounds another way."""

NOT_MEASURED = "not measured"
LABELS = {"cpu": "CPU", "cuda": "GPU"}

TIMES = ("time/", "throughput/")
"""Metrics that are of the clock."""


def run(config: str, run_dir: Path, device: str, *more: str, crash_at: str = "", peak: Path | None = None) -> str:
    """One run of the command on a device; its output.

    Raises:
        RuntimeError: it failed, though it was not to.
    """
    argv = ["fit", "--config", config, "--run_dir", str(run_dir), "--ckpt_path", "last", "--trainer.accelerator"]
    argv += ["gpu" if device == "cuda" else "cpu", "--trainer.devices", "1", *more]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    marks = f"{run_dir}.marks"
    result = subprocess.run(
        [sys.executable, "-c", CHILD, marks, crash_at, str(peak or ""), *argv], cwd=ROOT, check=False, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
             "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if result.returncode != (137 if crash_at else 0):
        raise RuntimeError(f"{' '.join(argv)}: exit code {result.returncode}\n{result.stdout[-3000:]}")
    return result.stdout


def metrics(run_dir: Path) -> list[dict[str, float]]:
    """Every line of the log, without what is of the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMES)} for row in rows]


def furthest(found: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """The largest difference of a metric, relative to 1 or to its size."""
    return max(
        abs(own[name] - other[name]) / max(abs(other[name]), 1.0)
        for own, other in zip(found, expected, strict=True)
        for name in own.keys() | other.keys()
    )


class Checks:
    """All of them, on one device; each a row's values.

    Args:
        device: cpu or cuda.
        folder: for runs.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        shutil.rmtree(folder, ignore_errors=True)
        self.configs = make_configs(folder, {"class_path": "torch.optim.AdamW", "init_args": ADAM}, hidden_size=128)

    def fit(self, stage: str, name: str, *more: str, **kwargs: Any) -> Path:
        """A run of a stage, and first of those that it starts from; its directory."""
        for before in STAGES[: STAGES.index(stage)]:
            self.plain(before)
        run_dir = self.folder / name
        run(self.configs[stage], run_dir, self.device, *more, **kwargs)
        return run_dir

    def plain(self, stage: str) -> Path:
        """The stage as it is, run once; the stages that follow start from it."""
        return self.folder / stage if (self.folder / stage / "export").exists() else self.fit(stage, stage)

    def fsdp2(self, stage: str) -> Row:
        """On a mesh of one device, against none: on a CPU every metric, on a GPU the first step's, as rounding parts the rest."""
        found, expected = (
            metrics(self.fit(stage, f"fsdp2-{stage}", "--trainer.strategy", "fsdp2")),
            metrics(self.plain(stage)),
        )
        first, largest = furthest(found[:1], expected[:1]), furthest(found, expected)
        holds = (largest if self.device == "cpu" else first) <= 1e-5
        return {"first_difference": first, "largest_difference": largest, "holds": holds}

    def bf16(self, stage: str) -> Row:
        """Autocast: the first metrics are those of float32 but for rounding; later ones part."""
        found = self.fit(stage, f"bf16-{stage}", "--trainer.precision", "bf16-mixed")
        loss = ROUNDED[stage]
        first, other = (next(row[loss] for row in metrics(path) if loss in row) for path in (found, self.plain(stage)))
        gap = abs(first - other) / max(abs(other), 1.0)
        return {"first_difference": gap, "holds": gap <= 0.05}

    def eight_bit(self, stage: str, paged: bool = False) -> Row:
        """8-bit AdamW against AdamW: the first step's metrics agree, and the last loss is within a tenth."""
        kind = "PagedAdamW8bit" if paged else "AdamW8bit"
        found = self.fit(stage, f"{kind}-{stage}", "--model.init_args.optimizer", f"bitsandbytes.optim.{kind}")
        own, other = metrics(found), metrics(self.plain(stage))
        gap = furthest(own[:1], other[:1])
        last, expected = (
            next(row[LOSS[stage]] for row in reversed(rows) if LOSS[stage] in row) for rows in (own, other)
        )
        end = abs(last - expected) / max(abs(expected), 1.0)
        close = stage == "ppo" or end <= 0.1  # PPO's samples part
        return {
            "first_difference": gap,
            "last_difference": end,
            "holds": gap <= 1e-4 and close and len(own) == len(other),
        }

    def resume(self, stage: str) -> Row:
        """Ended at its third save and resumed, with deterministic algorithms, against uninterrupted."""
        exact = ("--trainer.deterministic", "true")
        whole = self.fit(stage, f"whole-{stage}", *exact)
        self.fit(stage, f"cut-{stage}", *exact, crash_at="renamed")
        differing = differing_bytes(end_of(self.fit(stage, f"cut-{stage}", *exact)), end_of(whole))
        return {"differing_bytes": differing, "holds": differing == 0}

    def memory(self, name: str) -> Row:
        """The plan against what the device gave out; on a CPU ``memory.py`` measures."""
        folder = self.folder / "memory"
        configs = memory.make_configs(folder)
        stage, more = memory.CASES[name]
        for before in STAGES[: STAGES.index(stage)] if stage in STAGES else ():  # a large model starts from nothing
            if not (folder / before / "export").exists():
                run(configs[before], folder / before, self.device)
        peak = folder / "peak.json"
        text = run(configs[stage], folder / f"case-{abs(hash(name))}", self.device, *more, peak=peak)
        plan = int(re.findall(r"peak ([\d,]+)\n", text)[-1].replace(",", "")) << 20
        ratio = plan / json.loads(peak.read_text(encoding="ascii"))
        return {"plan_to_peak": round(ratio, 3), "holds": abs(ratio - 1) <= 0.15}


def checks() -> dict[str, tuple[Callable[[Checks], Row], bool]]:
    """Name -> the check, and whether it needs a GPU."""
    found: dict[str, tuple[Callable[[Checks], Row], bool]] = {}
    for stage in STAGES:
        found[f"FSDP2 on one device, {stage}"] = (lambda on, s=stage: on.fsdp2(s), False)
        found[f"bf16 autocast, {stage}"] = (lambda on, s=stage: on.bf16(s), False)
        found[f"8-bit AdamW, {stage}"] = (lambda on, s=stage: on.eight_bit(s), False)
        found[f"paged 8-bit AdamW, {stage}"] = (lambda on, s=stage: on.eight_bit(s, paged=True), True)
        found[f"resume, deterministic, {stage}"] = (lambda on, s=stage: on.resume(s), False)
    for name in memory.CASES:
        if "two processes" not in name:
            found[f"plan against peak: {name}"] = (lambda on, n=name: on.memory(n), True)
    return found


def measure(devices: list[str], folder: Path, out: Path, only: str = "", jobs: int = 1) -> Row:
    """Runs the checks whose name begins so on the devices that are there; a check that breaks is a row too.

    What is known goes to ``out`` after each of them, so that an interrupted run leaves its rows. Of what was measured there
    before, the rest stays: that of another device, of another machine perhaps, and of other checks.

    Args:
        devices: cpu, cuda.
        folder: for runs.
        out: JSON file.
        only: how a check's name begins.
        jobs: kinds of checks at a time, a kind being what stands before the comma of a name; each has runs of its own.
    """
    before = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"measured_on": {}, "rows": []}
    known = {row["check"]: row for row in before["rows"]}
    names = {"check": "", "cpu": NOT_MEASURED, "cuda": NOT_MEASURED}
    rows: dict[str, Row] = {name: {**names, **known.get(name, {}), "check": name} for name in checks()}
    chosen = {name: check for name, check in checks().items() if name.startswith(only)}
    report = {
        "command": "python benchmarks/gpu.py --checks",
        "measured_on": before["measured_on"] | {device: machine(device) for device in devices},
        "rows": list(rows.values()),
    }
    writing = threading.Lock()

    def run_kind(kind: str, device: str) -> None:
        """The checks of a kind, one after the other."""
        mine = {
            name: check
            for name, (check, needs_gpu) in chosen.items()
            if name.split(",")[0] == kind and not (needs_gpu and device == "cpu")
        }
        if not mine:
            return
        place = Checks(device, folder / device / re.sub(r"\W+", "-", kind))
        for name, check in mine.items():
            begin = time.perf_counter()
            try:
                found = check(place)
            except Exception as error:  # the others are still of use
                found = {"holds": False, "error": f"{type(error).__name__}: {error}"[-1500:]}
            with writing:
                rows[name][device] = {**found, "seconds": round(time.perf_counter() - begin, 1)}
                out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
                print(json.dumps({"check": name, device: rows[name][device]}), flush=True)

    kinds = dict.fromkeys(name.split(",")[0] for name in chosen)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run_kind(*job), [(kind, device) for device in devices for kind in kinds]))
    return report


def machine(device: str) -> str:
    """What a device's rows are measured with, in words."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def table(found: Row) -> str:
    """For docs/scale.md."""
    lines = ["| check | CPU | GPU |", "|---|---|---|"]
    for row in found["rows"]:
        cells = []
        for device in ("cpu", "cuda"):
            value = row[device]
            if isinstance(value, str):
                cells.append(value)
                continue
            figures = [f"{name.replace('_', ' ')} {figure:.2g}" for name, figure in value.items() if _figure(name)]
            cells.append(", ".join([*figures, "holds" if value["holds"] else "**does not hold**"]))
        lines.append(f"| {' | '.join([row['check'], *cells])} |")
    where = "; ".join(f"{LABELS[device]}: {name}" for device, name in found["measured_on"].items())
    return "\n".join([*lines, "", f"`{found['command']}`. {where}."])


def _figure(name: str) -> bool:
    return name not in ("holds", "seconds", "error")
