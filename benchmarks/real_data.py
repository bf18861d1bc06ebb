"""SFT, reward model and PPO-ptx with SmolLM2-135M on real human records.

    python benchmarks/real_data.py --data ../shared/data
    python benchmarks/real_data.py --data ../shared/data --device cuda --size all      # where a GPU is at hand

SFT on dolly, oasst1 and self-instruct's seed tasks; the reward model on hh_helpful, oasst1 and qa_feedback, all K together (2 to
8; the shortest records are taken, of K up to 6 in an hour's selection); PPO-ptx on hh_helpful's first turns with book and
encyclopedia text. A part of the records is selected by a written rule (benchmarks/real/selection.py), the stages run as the
public command with ``configs/smollm2`` and every figure goes to one JSON file. A stage whose export is in ``--work`` already is
not run again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real.commands import commit, options
from benchmarks.real.figures import learning_curve, measure_reward_model
from benchmarks.real.selection import SIZES, Row, read, select
from benchmarks.real.stages import Stages

RM_BATCH = 8
"""Of configs/smollm2/rm.yaml."""

MEASURED_BY = [Path(__file__).parent / name for name in ("baselines.py", "real/figures.py")]
"""What says how the reward model's figures are computed."""

SCORED = {"cpu": 16, "cuda": 128}
"""Device -> replies scored at a time."""

OUT = {"cpu": "benchmarks/results/real_data.json", "cuda": "benchmarks/results/real_data_gpu.json"}
WORK = {"cpu": "runs/real_data", "cuda": "runs/real_data_gpu"}
"""Device -> where the figures, and the selection and the runs go."""

POLICY_KEYS = (
    "win_rate_vs_sft", "ci95", "length_controlled_win_rate", "rm_score", "kl_to_init", "text_loss", "response_tokens",
    "repetition", "stop_rate",
)  # fmt: skip
"""Of an evaluation (docs/metrics.md)."""

NOTES = [
    "Validation rankings, and prompts, are of the data's own split valid; no reward model saw them in training.",
    "The settings of SFT, reward model and PPO are those of configs/smollm2; none was tuned on these figures. How much is "
    "selected was set by the time it takes; an earlier selection, with data-to-text rankings and questions without their "
    "passages, had been measured on the same validation rankings of hh_helpful and oasst1.",
    "The policies are compared by the reward model that PPO-ptx was trained against, so its win rate is no evidence that people "
    "would prefer it; KL, text loss, length and repetition are what it cost.",
    "A response cut at its limit costs PPO missing_eos_penalty; scores here are without it, of the tokens that were sampled.",
    "The reward models of the learning curve are one run's, along its epoch: the rate of the earlier ones had not decayed yet.",
    "Seconds are wall time and contain waiting for whatever else the machine did (load_average, at the end).",
    "Intervals are 95 % bootstrap intervals over prompts: pairs of one prompt are drawn together. Above both baselines: both "
    "differences with intervals above 0.",
]


class Figures:
    """The figures of the reward models, in the precision of the training, kept beside them."""

    def __init__(self, work: Path, precision: str, device: str) -> None:
        self.work, self.precision, self.device = work, precision, device
        self.seconds: dict[str, float] = {}

    def reward_model(self, export: Path, baselines: bool = False) -> Row:
        """Accuracies per source of one export, with or without the baselines beside it."""
        from lit_instructgpt.rewards import ModelReward

        data = self.work / "data"
        inputs = [export, *(data / f"comparisons.{split}.jsonl" for split in ("train", "valid"))]

        def compute() -> Row:
            size = SCORED[self.device]
            scorer = ModelReward(str(export), max_response_tokens=256, batch_size=size, device=self.device)
            return measure_reward_model(scorer, data, baselines)

        return self._kept(self.work / f"rm/figures-{export.name}.json", inputs, compute)

    def _kept(self, path: Path, inputs: Sequence[Path], compute: Callable[[], Row]) -> Row:
        """From its file, if it was computed from the same data in the same way before."""
        import torch

        from lit_instructgpt.hashes import hash_of

        hashes = [hash_of(str(file)) for file in [*inputs, *MEASURED_BY]]
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8"))["inputs"] != hashes:
            start = time.perf_counter()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
                figures = compute()
            seconds = round(time.perf_counter() - start, 1)
            path.write_text(json.dumps({"inputs": hashes, "figures": figures, "seconds": seconds}), encoding="utf-8")
        stored = json.loads(path.read_text(encoding="utf-8"))
        self.seconds[path.stem] = stored["seconds"]
        figures = stored["figures"]
        return figures


def versions() -> Row:
    """What the figures were made with."""
    import lightning
    import torch
    import transformers

    import lit_instructgpt

    return {"lit-instructgpt": lit_instructgpt.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__, "lightning": lightning.__version__,
            "python": platform.python_version()}  # fmt: skip


def hardware(device: str = "cpu") -> str:
    """Processor and threads, or the GPU, in words."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} thread(s) used"


def main(argv: list[str] | None = None) -> None:
    """Select, train, measure, write."""
    parser = argparse.ArgumentParser(prog="real_data", description="SFT, RM and PPO-ptx on real human records.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, required=True,
                        help="folder with comparisons/, demonstrations/, prompts/, text/: see docs/data.md")  # fmt: skip
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--out", type=Path, default=argparse.SUPPRESS,
                        help=f"JSON (default: {OUT['cpu']}, with --device cuda {OUT['cuda']})")  # fmt: skip
    parser.add_argument("--work", type=Path, default=argparse.SUPPRESS,
                        help=f"selection and runs (default: {WORK['cpu']}, with --device cuda {WORK['cuda']})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn, and of the stages")
    parser.add_argument("--size", choices=list(SIZES), default="hour",
                        help="trial: a few records; hour: what two CPU cores do in about an hour; all: for a GPU")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of training and figures")
    parser.add_argument(
        "--precision", default="bf16-mixed", help="trainer.precision; 32-true where the CPU has no bf16"
    )
    parser.add_argument("--until", choices=("sft", "rm", "ppo", "end"), default="end", help="stop behind it")
    args = parser.parse_args(argv)
    out, work = (Path(getattr(args, name, places[args.device])) for name, places in (("out", OUT), ("work", WORK)))
    if not (args.model / "config.json").is_file():
        raise SystemExit(f"real_data: no model in {args.model}: run make smollm2 first, or give --model DIR")
    size = SIZES[args.size]
    selection = select(args.data, work / "data", size, args.seed)
    stages = Stages(work, args.model, args.seed, args.precision, args.device)
    stages.sft()
    if args.until == "sft":
        return
    stages.rm(size.curve_points)
    if args.until == "rm":
        return
    stages.ppo(size.episodes, size.batch)
    if args.until == "ppo":
        return
    evaluation = json.loads(stages.evaluate().read_text(encoding="utf-8"))
    figures = Figures(work, args.precision, args.device)
    selected = sum(counts["train"] for counts in selection["comparisons"].values())
    last = max(row["step"] for row in read(work / "rm/metrics.jsonl"))
    num_train = min(last * RM_BATCH, selected)  # prompts over the limit were left out
    last_export = work / "rm/export"
    reward_model = figures.reward_model(last_export, baselines=True)
    show(reward_model)
    curve = learning_curve(work / "rm", num_train, RM_BATCH, size.curve_part,
                           lambda path: reward_model if path == last_export else figures.reward_model(path))  # fmt: skip
    seconds = {**stages.commands.seconds, "rm_figures": round(sum(figures.seconds.values()), 1)}
    shown = f"python benchmarks/real_data.py --data DIR{options(parser, args, ('data', 'out', 'work', 'until'))}"
    origin = args.model / "smollm2_origin.json"
    report = {
        "title": "SmolLM2-135M-Instruct: SFT, reward model and PPO-ptx on real human records",
        "command": shown,
        "commit": commit(),
        "seed": args.seed,
        "model": json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else args.model.name,
        "versions": versions(),
        "hardware": hardware(args.device),
        "load_average": round(os.getloadavg()[1], 1),
        "precision": f"{args.precision}, in training and in the reward model's figures; policies are compared in float32",
        "notes": NOTES,
        "sources_with_rm_above_both": [s for s, row in reward_model.items() if row["rm_above_both"]],
        "reward_model": reward_model,
        "learning_curve": curve,
        "num_rankings_trained": num_train,
        "policies": {name: {key: row[key] for key in POLICY_KEYS} for name, row in evaluation["models"].items()},
        "num_prompts": evaluation["num_prompts"],
        "selection": selection,
        "stages": stages.commands.lines,
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {out}")


def show(reward_model: Row) -> None:
    """Print the accuracies."""
    for source, row in reward_model.items():
        print(f"{source:>20}: RM {row['rm']['accuracy']:.3f} {row['rm']['ci95']}, "
              f"length {row['length_baseline']['accuracy']:.3f}, "
              f"bag of words {row['bag_of_words_baseline']['accuracy']:.3f}, {row['num_pairs']} pairs", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
