"""The miniature's PPO-ptx sharded over two processes beside one: ``python benchmarks/two_processes.py``.

For each seed the stages before PPO run once. Then PPO runs with the overlays fsdp.yaml and adamw8bit.yaml twice, on one CPU
process and on two, and both policies are judged on the same prompts by the world's own truth.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402

if TYPE_CHECKING:
    from miniature.demo import Demo

OVERLAYS = ("configs/hardware/fsdp.yaml", "configs/optim/adamw8bit.yaml")
FIGURES = (
    "win_rate_vs_sft", "follows_instruction", "hallucination", "satisfies_constraint", "likert", "rm_score", "kl_to_init",
    "text_loss",
)  # fmt: skip
NAMES = {1: "one process", 2: "two processes"}
T_OF_4 = 2.776
"""Student's t for 95 % with four degrees of freedom: two groups of three seeds."""


def train(demo: Demo, processes: int) -> None:
    """PPO on some processes; torch's threads share the two cores."""
    run_dir = demo.out / f"ppo-{processes}"
    configs = [arg for file in (demo.config("ppo"), *OVERLAYS) for arg in ("--config", str(file))]
    command = [
        sys.executable, "-m", "lit_instructgpt", "fit", *configs, "--run_dir", str(run_dir), "--seed_everything",
        str(demo.seed), "--trainer.accelerator", "cpu", "--trainer.devices", str(processes),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // processes, 1))}
    begin = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (demo.out / f"ppo-{processes}.seconds").write_text(f"{time.perf_counter() - begin:.1f}\n", encoding="ascii")


def judge(demo: Demo) -> dict[str, dict[str, float]]:
    """Figures of both policies."""
    config = yaml.safe_load(demo.config("evaluate").read_text(encoding="utf-8"))
    places = {name: config["models"][name] for name in ("sft", "init")}
    config["models"] = places | {name: str(demo.out / f"ppo-{n}/export") for n, name in NAMES.items()}
    file = demo.out / "configs/evaluate-both.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    demo.command("evaluate", "evaluate", "--config", str(file), "--allow_import", "miniature")
    models = json.loads((demo.out / "evaluation.json").read_text(encoding="utf-8"))["models"]
    return {name: {key: models[name][key] for key in FIGURES} for name in NAMES.values()}


def compare(seeds: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """For each figure both means over the seeds, their difference, and what of it is noise: a 95 % interval's half width.

    The seeds' spread is pooled from both (Student's t for two groups of as many seeds).
    """
    found = {}
    for key in FIGURES:
        one, two = ([models[name][key] for models in seeds.values()] for name in NAMES.values())
        spread = ((statistics.variance(one) + statistics.variance(two)) / len(one)) ** 0.5
        means = statistics.mean(one), statistics.mean(two)
        found[key] = {"one": means[0], "two": means[1], "difference": means[1] - means[0], "noise": T_OF_4 * spread}
    return {key: {name: round(value, 4) for name, value in row.items()} for key, row in found.items()}


def table(report: dict[str, Any]) -> str:
    """For docs/scale.md."""
    lines = [
        "| figure | one process | two processes | difference | noise of three seeds (95 %) |",
        "|---|---|---|---|---|",
    ]
    for key, row in report["figures"].items():
        cells = " | ".join(f"{row[name]:.3f}" for name in ("one", "two"))
        verdict = "" if abs(row["difference"]) <= row["noise"] else ", **beyond it**"
        lines.append(f"| {key} | {cells} | {row['difference']:+.3f} | +-{row['noise']:.3f}{verdict} |")
    seconds = {n: statistics.median(row[name] for row in report["seconds"].values()) for n, name in NAMES.items()}
    about = (
        f"`{report['command']}`, means of seeds {', '.join(report['seeds'])}; PPO took {seconds[1]:.0f} s on one process and "
        f"{seconds[2]:.0f} s on two; {report['hardware']}, torch {report['versions']['torch']}."
    )
    return "\n".join([*lines, "", about])


def main(argv: list[str] | None = None) -> None:
    """Trains, judges and writes."""
    parser = argparse.ArgumentParser(prog="two_processes", description="PPO-ptx on two processes beside one.")
    parser.add_argument("--seeds", type=int, nargs=3, default=[0, 1, 2], help="three of them")
    parser.add_argument("--work", type=Path, default=Path("runs/two_processes"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two_processes.json"))
    args = parser.parse_args(argv)
    import torch

    sys.path.insert(0, str(ROOT / "data"))
    from miniature.demo import Demo

    seeds, seconds = {}, {}
    for seed in args.seeds:
        demo = Demo(args.work / str(seed), seed)
        if not (demo.out / "rm/export").exists():
            demo.up_to_reward_model()
        for processes in NAMES:
            if not (demo.out / f"ppo-{processes}/export").exists():
                train(demo, processes)
        seeds[str(seed)] = judge(demo)
        seconds[str(seed)] = {name: float((demo.out / f"ppo-{n}.seconds").read_text()) for n, name in NAMES.items()}
    report = {
        "command": "python benchmarks/two_processes.py", "overlays": OVERLAYS,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "figures": compare(seeds), "seeds": seeds, "seconds": seconds,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    if beyond := [key for key, row in report["figures"].items() if abs(row["difference"]) > row["noise"]]:
        raise SystemExit(f"two_processes: {', '.join(beyond)} differ by more than the noise of three seeds")


if __name__ == "__main__":
    main()
