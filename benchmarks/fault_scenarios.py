"""What can go wrong with a run, each time with a seed: the scenarios of benchmarks/faults.py."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import memory
from benchmarks.fault_runs import (
    INT,
    KILL,
    STAGES,
    TERM,
    Run,
    Server,
    differing_bytes,
    end_of,
    finish,
    finish_pair,
    start,
    start_pair,
)
from lit_instructgpt.checkpoints.directory import MOMENTS, checkpoints, newest, verify
from lit_instructgpt.checkpoints.plugin import CheckpointDirectories
from lit_instructgpt.checkpoints.state import read_state

TWO = " on two"
"""Of the name of a stage: two processes (FSDP2)."""


@dataclass
class Bench:
    """Where runs happen, and what they end in when nothing goes wrong.

    Attributes:
        server: starts them.
        folder: for run directories; each trial takes a new one.
        configs: YAML file of each stage.
        expected: what an uninterrupted run of each stage leaves.
        seconds: how long it takes.
    """

    server: Server
    folder: Path
    configs: dict[str, str]
    expected: dict[str, dict[str, bytes]]
    seconds: dict[str, float]


@dataclass
class Outcome:
    """Of a scenario, so far."""

    trials: int = 0
    failures: int = 0
    differing_bytes: int = 0
    landed: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str | None, differing: int = 0, landed: str | None = None) -> None:
        """One trial."""
        self.trials += 1
        self.differing_bytes += differing
        if landed is not None:
            self.landed[landed] = self.landed.get(landed, 0) + 1
        if problem is not None or differing:
            self.failures += 1
            self.problems.append(problem or f"{differing} bytes differ")

    def merge(self, other: Outcome) -> None:
        """Adds another one."""
        self.trials += other.trials
        self.failures += other.failures
        self.differing_bytes += other.differing_bytes
        self.problems += other.problems
        for name, number in other.landed.items():
            self.landed[name] = self.landed.get(name, 0) + number


def begin(bench: Bench, stage: str, run_dir: Path, **request: Any) -> list[Run]:
    """Starts a run, on two processes where the stage is called so."""
    if stage.endswith(TWO):
        return start_pair(bench.server, bench.configs[stage], run_dir, **request)
    return [start(bench.server, bench.configs[stage], run_dir, **request)]


def resumed(bench: Bench, stage: str, run_dir: Path) -> tuple[str | None, int]:
    """Resumes a run until its end: what went wrong, and how many bytes differ from an uninterrupted run's."""
    try:
        (finish_pair if stage.endswith(TWO) else finish)(bench.server, bench.configs[stage], run_dir)
    except RuntimeError as error:
        return f"not resumed: {error}", 0
    left = [
        path.name
        for path in (run_dir / "checkpoints").iterdir()
        if not path.name.startswith("step-") or "." in path.name
    ]
    if left:
        return f"left behind: {', '.join(left)}", 0
    return None, differing_bytes(end_of(run_dir), bench.expected[stage])


# ------------------------------------------------------------------ R1: killed anywhere


def kill_at(bench: Bench, stage: str, run_dir: Path, place: str, draw: random.Random) -> str:
    """Starts a run, ends it by SIGKILL and says where: ``save``, ``rollout``, ``elsewhere``, or ``too late``."""
    runs = begin(bench, stage, run_dir)
    if place == "anywhere":
        time.sleep(draw.uniform(0.0, bench.seconds[stage]))
    else:
        first, typical = {"save": ("save:begun", 0.02), "rollout": ("begin:rollout", 0.05)}[place]
        runs[0].wait_for(first, draw.randint(1, 5))
        time.sleep(draw.uniform(0.0, typical))
    for run in runs:
        run.signal(KILL)
    codes = [run.wait() for run in runs]
    if codes[0] == 0:
        return "too late"
    return where(runs[0])


def where(run: Run) -> str:
    """In which phase a run was when it ended."""
    said = run.said()
    if said and said[-1].startswith("save:") and said[-1] != "save:pruned":
        return "save"
    open_phases = [line.removeprefix("begin:") for line in said if line.startswith("begin:")]
    return open_phases[-1] if said and said[-1].startswith("begin:") else "elsewhere"


def killed(bench: Bench, stage: str, place: str, seed: int, kills: int = 1) -> Outcome:
    """Kills a run so many times, resuming it in between, and compares its end; drawn again where it came too late."""
    draw, found = random.Random(f"{stage} {place} {seed}"), Outcome()
    for attempt in range(20):
        run_dir = bench.folder / f"killed-{stage}-{place}-{seed}-{attempt}"
        shutil.rmtree(run_dir, ignore_errors=True)
        landed = [kill_at(bench, stage, run_dir, place, draw) for _ in range(kills)]
        if "too late" in landed or (place != "anywhere" and any(x != place for x in landed)):
            continue
        problem, differing = resumed(bench, stage, run_dir)
        found.add(problem and f"{stage} {place} {seed}: {problem}", differing, landed[0] if kills == 1 else "chain")
        if problem is None and not differing:
            shutil.rmtree(run_dir)
        return found
    found.add(f"{stage} {place} {seed}: no kill landed in time")
    return found


def other_seed_differs(bench: Bench, stage: str) -> Outcome:
    """The comparison sees a difference where there is one."""
    run_dir = bench.folder / f"control-{stage}"
    shutil.rmtree(run_dir, ignore_errors=True)
    finish(bench.server, bench.configs[stage], run_dir, "--data.init_args.seed", "1")
    found = Outcome()
    same = differing_bytes(end_of(run_dir), bench.expected[stage]) == 0
    found.add("another seed gives the same bytes" if same else None)
    return found


# ------------------------------------------------------------------ R2: every moment of a save


def crashed(bench: Bench, stage: str, moment: str, occurrence: int = 2) -> Outcome:
    """Ends the process at a moment of a save: a whole checkpoint is there, and the run resumes."""
    run_dir, found = bench.folder / f"crashed-{stage}-{moment.replace(' ', '_')}-{occurrence}", Outcome()
    shutil.rmtree(run_dir, ignore_errors=True)
    run = start(bench.server, bench.configs[stage], run_dir, crash_at=moment, occurrence=occurrence)
    if run.wait() != 137:
        found.add(f"{stage} {moment}: exit code {run.code}: {run.text()[-500:]}")
        return found
    folder = run_dir / "checkpoints"
    whole = len(checkpoints(folder))
    at_hand = newest(folder)
    expected = occurrence if MOMENTS.index(moment) >= MOMENTS.index("renamed") else occurrence - 1
    problem, differing = resumed(bench, stage, run_dir)
    if problem is None and (at_hand.skipped or whole != expected):
        problem = f"{whole} checkpoints, skipped {at_hand.skipped}"
    found.add(problem and f"{stage} {moment}: {problem}", differing, moment)
    shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R3: told to stop


def told_to_stop(bench: Bench, stage: str, signum: int, seed: int) -> Outcome:
    """SIGTERM or Ctrl-C: saved, the exit code says so, and the run resumes."""
    draw, found = random.Random(f"{stage} {signum} {seed}"), Outcome()
    for attempt in range(20):
        run_dir = bench.folder / f"stopped-{stage}-{signum}-{seed}-{attempt}"
        shutil.rmtree(run_dir, ignore_errors=True)
        run = start(bench.server, bench.configs[stage], run_dir)
        run.wait_for("save:begun" if stage != "ppo" else "begin:rollout", draw.randint(1, 4))
        time.sleep(draw.uniform(0, 0.2))
        run.signal(signum)
        if run.wait() == 0 or (run.code == -signum and "`Trainer.fit` stopped" in run.text()):
            continue  # after the end, everything written: the signal met an interpreter that shuts down
        problem, differing = None, 0
        if run.code != 128 + signum:
            problem = f"exit code {run.code}: {run.text()[-500:]}"
        elif "saved in" not in run.text():
            problem = f"nothing was saved: {run.text()[-500:]}"
        else:
            problem, differing = resumed(bench, stage, run_dir)
        found.add(problem and f"{stage} signal {signum}, {seed}: {problem}", differing)
        if problem is None and not differing:
            shutil.rmtree(run_dir)
        return found
    found.add(f"{stage} signal {signum}, {seed}: every run ended before its signal")
    return found


# ------------------------------------------------------------------ R4: no room


def disk_full(bench: Bench, stage: str, share: float) -> Outcome:
    """The disk is full at some byte of the second save: one message with both figures, and the first one is whole."""
    run_dir, found = bench.folder / f"full-{stage}-{share:.2f}", Outcome()
    shutil.rmtree(run_dir, ignore_errors=True)
    size = len(bench.expected[stage][next(n for n in bench.expected[stage] if n.endswith("00000.safetensors"))])
    run = start(bench.server, bench.configs[stage], run_dir, occurrence=2, file_size=int(share * size))
    problem, differing = None, 0
    names = []
    if run.wait() != 2:
        problem = f"exit code {run.code}: {run.text()[-500:]}"
    elif "could not be saved" not in run.text() or "bytes are needed" not in run.text() or "Traceback" in run.text():
        problem = f"the message is {run.text()[-500:]}"
    else:
        names = [path.name for path in (run_dir / "checkpoints").iterdir()]
        if len(names) != 1 or not verify(run_dir / "checkpoints" / names[0]):
            problem = f"left behind: {names}"
        else:
            problem, differing = resumed(bench, stage, run_dir)
    found.add(problem and f"{stage} full at {share:.0%}: {problem}", differing)
    shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R5: damaged


def damaged(folder: Path, seed: int) -> Outcome:
    """A seeded mutation of one file of the newest checkpoint: detected, and the one before is taken; both are named."""
    draw, found = random.Random(seed), Outcome()
    copy = folder.parent / f"damaged-{seed}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    last, before = checkpoints(copy)[:2]
    file = draw.choice(sorted(last.iterdir()))
    kind = draw.choice(("truncate", "flip", "delete", "empty"))
    content = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncate":
        file.write_bytes(content[: draw.randrange(len(content))])
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        state = CheckpointDirectories().load_checkpoint(copy)
    told = " ".join(str(warning.message) for warning in said)
    problem = None
    if state["global_step"] != read_state(before)["global_step"]:
        problem = "the damaged one was read"
    elif str(last) not in told or str(before) not in told:
        problem = f"not named: {told}"
    found.add(problem and f"{kind} of {file.name}, seed {seed}: {problem}", landed=f"{kind} {file.suffix[1:]}")
    shutil.rmtree(copy)
    return found


# ------------------------------------------------------------------ R7: numbers that are none


LINES = {"sft": "demos.jsonl:7", "rm": "rankings.jsonl:5", "ppo": "prompts.jsonl:3"}
OF_LINE = {"sft": "the loss", "rm": "the loss", "ppo": "the values"}  # PPO's are seen before there is a loss of them
SAYS = {
    "reward": ("the reward of prompt",),
    "loss": ("no step was taken", "not finite: {of_line} of ", "{line}"),
    "gradient": ("no step was taken", "not finite: gradients", "samples: "),
    "weight": ("not finite", "weight", "step"),
}


def not_finite(bench: Bench, stage: str, place: str) -> Outcome:
    """A number that is none: the run ends before the next step, says where it is, and its last checkpoint is finite."""
    run_dir, found = bench.folder / f"nan-{stage}-{place}", Outcome()
    shutil.rmtree(run_dir, ignore_errors=True)
    settings = {"step": {"sft": 3, "rm": 3, "ppo": 4}[stage], "line": LINES[stage]}
    run = start(bench.server, bench.configs[stage], run_dir, inject=place, settings=settings)
    problem = None
    if run.wait() != 2 or not checkpoints(run_dir / "checkpoints"):
        problem = f"exit code {run.code}: {run.text()[-500:]}"
    else:
        missing = [x for x in SAYS[place] if x.format(line=LINES[stage], of_line=OF_LINE[stage]) not in run.text()]
        state = read_state(newest(run_dir / "checkpoints").path)
        broken = [name for name, x in state["state_dict"].items() if not bool(torch.isfinite(x).all())]
        if missing:
            problem = f"the message lacks {missing}: {run.text()[-500:]}"
        elif broken:
            problem = f"the last checkpoint has {broken}"
    found.add(problem and f"{stage} {place}: {problem}", landed=f"{stage} {place}")
    shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R8: too little memory


def short_of_memory(bench: Bench, megabytes: int, planned: bool) -> Outcome:
    """A model that needs more than the process may take: refused by its plan, or, without one, ended with advice."""
    run_dir, found = bench.folder / f"short-{megabytes}-{planned}", Outcome()
    shutil.rmtree(run_dir, ignore_errors=True)
    config = memory.make_configs(bench.folder / "large")["sft"]
    request: dict[str, Any] = {} if planned else {"inject": "unplanned"}
    run = start(bench.server, config, run_dir, address_space=megabytes << 20, **request)
    says = (
        ("this run would take", "MB are available", "less memory is taken by")
        if planned
        else ("out of memory", "Less is")
    )
    problem = None
    if run.wait() != 2:
        problem = f"exit code {run.code}: {run.text()[-900:]}"
    elif "Traceback" in run.text() or any(words not in run.text() for words in says):
        problem = f"the message is {run.text()[-900:]}"
    found.add(
        problem and f"{megabytes} MB: {problem}", landed="refused by the plan" if planned else "ended with advice"
    )
    shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R9: one process of two


TIMEOUT = 6.0
"""Seconds that a process waits for another one, in the trials in which it sleeps."""


def one_process_lost(bench: Bench, kind: str, seed: int) -> Outcome:
    """One of two processes is killed, raises an error, or sleeps: all end soon, and say which it was; the run resumes."""
    draw, found = random.Random(f"{kind} {seed}"), Outcome()
    run_dir, rank, step = bench.folder / f"lost-{kind}-{seed}", draw.randrange(2), draw.randrange(4, 16)
    shutil.rmtree(run_dir, ignore_errors=True)
    overlay = bench.folder / "timeout.yaml"
    strategy = {"class_path": "lit_instructgpt.strategy.FSDP2Strategy", "init_args": {"timeout_minutes": TIMEOUT / 60}}
    overlay.write_text(yaml.safe_dump({"trainer": {"strategy": strategy}}), encoding="utf-8")
    request: dict[str, Any] = {}
    if kind != "killed":
        request = {"inject": "trouble", "settings": {"step": step, "line": "", "rank": rank, "kind": kind}}
    runs = start_pair(bench.server, bench.configs["ppo"], run_dir, "--config", str(overlay), **request)
    if kind == "killed":
        runs[0].wait_for("save:pruned", draw.randint(1, 4))
        time.sleep(draw.uniform(0, 0.3))
        runs[rank].signal(KILL)
    elif kind == "sleeps":
        runs[0].wait_for("save:pruned", step // 4)
    else:
        runs[rank].wait_for_end()
    begun = time.monotonic()
    limit = 10.0 + (TIMEOUT if kind == "sleeps" else 0.0)
    for run in runs:
        run.wait_for_end(limit + 20)
    took = time.monotonic() - begun
    for run in runs:
        if not run.over():
            run.signal(KILL)
    codes = [run.wait() for run in runs]
    problem = None
    text = runs[1 - rank].text()
    named = {"killed": "was killed", "sleeps": "hung, and has been ended", "raises": "an error made by the fault"}[kind]
    if took > limit:
        problem = f"ended after {took:.1f} s"
    elif 0 in codes:
        problem = f"exit codes {codes}"
    elif f"process {rank} " not in text or named not in text:
        problem = f"process {rank} is not named: {text[-700:]}"
    differing = 0
    if problem is None:
        try:
            finish_pair(bench.server, bench.configs["ppo"], run_dir)
            differing = differing_bytes(end_of(run_dir), bench.expected["ppo on two"])
        except RuntimeError as error:
            problem = f"not resumed: {error}"
    found.add(problem and f"{kind} {seed}: {problem}", differing, kind)
    if problem is None and not differing:
        shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R14: two runs, one directory


def raced(bench: Bench, stage: str, seed: int) -> Outcome:
    """Two processes start in one directory: one trains, the other is refused."""
    draw, found = random.Random(seed), Outcome()
    run_dir = bench.folder / f"race-{stage}-{seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    first = start(bench.server, bench.configs[stage], run_dir)
    time.sleep(draw.uniform(0, 0.5))
    second = start(bench.server, bench.configs[stage], run_dir)
    codes = sorted([first.wait(), second.wait()])
    loser = first if first.code else second
    problem = None
    if codes != [0, 2]:
        problem = f"exit codes {codes}: {loser.text()[-500:]}"
    elif "is in use by process" not in loser.text():
        problem = f"the message is {loser.text()[-500:]}"
    differing = 0 if problem else differing_bytes(end_of(run_dir), bench.expected[stage])
    found.add(problem and f"{stage} race {seed}: {problem}", differing)
    shutil.rmtree(run_dir)
    return found


# ------------------------------------------------------------------ R12: hostile files


def hostile(root: Path) -> Outcome:
    """Runs the tests of hostile files: one trial for each."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_hostile.py"],
        cwd=root, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    found = Outcome(trials=counts.get("passed", 0) + failed, failures=failed)
    if failed or done.returncode:
        found.failures = max(failed, 1)
        found.problems.append(done.stdout[-1500:])
    return found


Trial = Callable[[Bench], Outcome]


def trials_of(scenario: str, scale: float) -> list[Trial]:
    """The trials of a scenario, fewer where ``scale`` is below 1."""

    def num(whole: int) -> int:
        return max(round(whole * scale), 1)

    if scenario == "R1":
        found: list[Trial] = [
            lambda b, p=place, s=seed: killed(b, "ppo", p, s)  # type: ignore[misc]
            for place, whole in (("anywhere", 100), ("save", 50), ("rollout", 50))
            for seed in range(num(whole))
        ]
        found += [lambda b, s=seed: killed(b, "ppo", "anywhere", 1000 + s, kills=3) for seed in range(num(20))]  # type: ignore[misc]
        found += [
            lambda b, g=stage, s=seed: killed(b, g, "anywhere", s)  # type: ignore[misc]
            for stage in ("sft", "rm")
            for seed in range(num(30))
        ]
        found += [
            lambda b, s=seed: killed(b, "ppo on two", "anywhere", s)  # type: ignore[misc]
            for seed in range(num(20))
        ]
        found += [lambda b, s=seed: killed(b, "ppo in 8 bits", "anywhere", s) for seed in range(num(10))]  # type: ignore[misc]
        return [*found, *(lambda b, g=stage: other_seed_differs(b, g) for stage in STAGES)]  # type: ignore[misc]
    if scenario == "R2":
        stages = STAGES if scale >= 1 else ("ppo",)
        return [lambda b, g=stage, m=moment: crashed(b, g, m) for stage in stages for moment in MOMENTS]  # type: ignore[misc]
    if scenario == "R3":
        return [
            lambda b, n=signum, s=seed: told_to_stop(b, ("ppo", "sft", "rm")[s % 3], n, s)  # type: ignore[misc]
            for signum in (TERM, INT)
            for seed in range(num(20))
        ]
    if scenario == "R4":
        return [lambda b, s=i: disk_full(b, "ppo", s / 10 + 0.02) for i in range(num(10))]  # type: ignore[misc]
    if scenario == "R5":
        return [lambda b, s=seed: damaged(b.folder / "whole-ppo" / "checkpoints", s) for seed in range(num(200))]  # type: ignore[misc]
    if scenario == "R7":
        return [
            lambda b, g=stage, p=place: not_finite(b, g, p)  # type: ignore[misc]
            for stage in STAGES
            for place in SAYS
            if stage == "ppo" or place != "reward"
        ]
    if scenario == "R8":
        limits = [200, 260, 320, 380, 440] if scale >= 1 else [320]
        return [lambda b, m=m, p=planned: short_of_memory(b, m, p) for m in limits for planned in (True, False)]  # type: ignore[misc]
    if scenario == "R9":
        kinds = ("killed", "raises", "sleeps")
        return [lambda b, k=kind, s=seed: one_process_lost(b, k, s) for kind in kinds for seed in range(num(20))]  # type: ignore[misc]
    if scenario == "R14":
        return [lambda b, s=seed: raced(b, "ppo", s) for seed in range(num(50))]  # type: ignore[misc]
    raise ValueError(f"no scenario {scenario}")


TITLES = {
    "R1": "killed (SIGKILL) anywhere, resumed, compared; three kills in a chain; another seed, which must differ",
    "R2": "ended at every moment of a save",
    "R3": "SIGTERM, Ctrl-C",
    "R4": "disk full at a byte of the save",
    "R5": "newest checkpoint truncated, flipped, deleted or emptied",
    "R7": "a reward, loss, gradient or weight that is no number",
    "R8": "less memory than the run needs (address-space limit), with the plan and without",
    "R9": "one process of two killed, failing or hanging (FSDP2)",
    "R12": "hostile configs, models, checkpoints and data, which must not run code (tests/test_hostile.py)",
    "R14": "two runs in one directory",
}
"""Of the scenarios: what happens."""

SCENARIOS = tuple(TITLES)
