"""The evaluation commands on public evaluation files and human judgements: ``python benchmarks/real_evaluation.py``.

    python benchmarks/real_evaluation.py --data ../shared/data [--trained runs/real_data] [--limit 100]

SmolLM2-135M as it comes beside the models that benchmarks/real_data.py trained from it, by the public commands ``benchmark``,
``toxicity_classifier``, ``evaluate_rm`` and ``report``, on ``DATA/eval``. Only numbers are kept: of what the models write and
of the files nothing goes to ``benchmarks/results``. A command whose result is in ``--work`` already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real.selection import read, to_messages, write
from benchmarks.real_data import hardware, versions

FILES = {
    "truthfulqa": "truthfulqa/TruthfulQA.csv",
    "crows_pairs": "crows_pairs/crows_pairs_anonymized.csv",
    "winogender": "winogender/all_sentences.tsv",
    "hellaswag": "hellaswag/hellaswag_val_1000.jsonl.gz",
    "realtoxicityprompts": "realtoxicityprompts/rtp_5000.jsonl.gz",
}
"""Evaluation -> its file below ``DATA/eval``."""

HUMAN_PAIRS = ("tulu1", "pandalm", "pandalm_kwise", "llmbar")
ORDER = ("text-davinci-001", "text-davinci-002", "text-davinci-003")
OUTPUTS = "self_instruct_252/predictions.jsonl.gz"

SHOWN = (
    ("truthfulqa", "bare", "true_by_average"),
    ("truthfulqa", "qa", "mc1"),
    ("truthfulqa", "qa", "mc2"),
    ("crows_pairs", "none", "entropy"),
    ("crows_pairs", "none", "stereotype_share"),
    ("winogender", "none", "entropy"),
    ("winogender", "none", "male_share"),
    ("hellaswag", None, "accuracy_by_average"),
    ("hellaswag", None, "accuracy_by_character"),
    ("realtoxicityprompts", "none", "toxicity"),
    ("realtoxicityprompts", "respectful", "toxicity"),
    ("realtoxicityprompts", "biased", "toxicity"),
)
"""Evaluation, variant and figure of the table."""


class Commands:
    """Public commands, each run once."""

    def __init__(self, work: Path) -> None:
        self.work, self.seconds = work, dict[str, float]()

    def run(self, name: str, *args: str, out: Path) -> None:
        """Run a command unless it ended well before with the same arguments."""
        done, line = self.work / f"{name}.done.json", [*args, f"--out={out}"]
        if not done.is_file() or json.loads(done.read_text(encoding="utf-8"))["args"] != line:
            print(f"\n== lit-instructgpt {' '.join(line)}", flush=True)
            begin = time.perf_counter()
            if code := subprocess.run([sys.executable, "-m", "lit_instructgpt", *line], check=False).returncode:
                raise SystemExit(f"{name} ended with exit code {code}")
            row = {"args": line, "seconds": round(time.perf_counter() - begin, 1)}
            done.write_text(json.dumps(row) + "\n", encoding="utf-8")
        self.seconds[name] = json.loads(done.read_text(encoding="utf-8"))["seconds"]


def prompts_as_messages(source: Path, target: Path, limit: int) -> None:
    """The first records of a file, prompts as the reward model was trained on them."""
    rows = [{**row, "prompt": to_messages(row["prompt"], row.get("format", "plain"))} for row in read(source)[:limit]]
    write(target, rows)


def main(argv: list[str] | None = None) -> None:
    """Run the commands, and write their figures."""
    parser = argparse.ArgumentParser(prog="real_evaluation", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a bundle with a folder eval")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--trained", type=Path, default=Path("runs/real_data"), help="made by benchmarks/real_data.py")
    parser.add_argument("--work", type=Path, default=Path("runs/real_evaluation"))
    parser.add_argument(
        "--limit", type=int, default=100, help="items of each evaluation file; of human pairs twice as many"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_evaluation.json"))
    args = parser.parse_args(argv)
    models = {"base": args.model, "sft": args.trained / "sft/export", "ppo_ptx": args.trained / "ppo/export"}
    rm = args.trained / "rm/export"
    missing = [str(path) for path in (*models.values(), rm) if not (path / "config.json").is_file()]
    missing += [str(args.data / "eval" / file) for file in (*FILES.values(), OUTPUTS)
                if not (args.data / "eval" / file).is_file()]  # fmt: skip
    if missing:
        raise SystemExit(
            f"real_evaluation: missing: {', '.join(missing)}; make smollm2 makes the model, "
            "benchmarks/real_data.py the trained ones, docs/evaluation.md says where the files are published"
        )
    args.work.mkdir(parents=True, exist_ok=True)
    commands, work = Commands(args.work), args.work
    toxicity_of = json.dumps([str(args.data / "eval" / FILES["realtoxicityprompts"])])
    commands.run("toxicity_classifier", "toxicity_classifier", "--data", toxicity_of, "--text", "continuation",
                 "--score", "continuation_toxicity", out=work / "toxicity")  # fmt: skip
    commands.run(
        "benchmark", "benchmark", *(f"--models.{name}={path}" for name, path in models.items()),
        *(f"--{name}={args.data / 'eval' / file}" for name, file in FILES.items()), "--limit", str(args.limit),
        "--scorer", "lit_instructgpt.evaluation.toxicity.ToxicityClassifier", "--scorer.path", str(work / "toxicity"),
        "--batch_size", "25", out=work / "benchmark.json",
    )  # fmt: skip
    for name in HUMAN_PAIRS:
        prompts_as_messages(args.data / f"eval/human_pairs/{name}.jsonl.gz", work / f"{name}.jsonl", 2 * args.limit)
    prompts_as_messages(args.data / "eval" / OUTPUTS, work / "outputs.jsonl", args.limit)
    commands.run(
        "evaluate_rm", "evaluate_rm", "--models.rm", str(rm),
        *(f"--comparisons.{name}={work / name}.jsonl" for name in HUMAN_PAIRS), "--outputs", str(work / "outputs.jsonl"),
        "--order", json.dumps(ORDER), "--reading.max_prompt_tokens", "512", "--reading.max_response_tokens", "256",
        "--reading.max_tokens", "768", "--reading.skip_bad_records", "true", out=work / "evaluate_rm.json",
    )  # fmt: skip
    commands.run(
        "report", "report", "--results", json.dumps([str(work / "benchmark.json"), str(work / "evaluate_rm.json")]),
        "--runs.sft", str(args.trained / "sft"), "--runs.rm", str(args.trained / "rm"), "--runs.ppo_ptx",
        str(args.trained / "ppo"), "--title", "SmolLM2-135M", out=work / "report.html",
    )  # fmt: skip
    report = {
        "command": f"python benchmarks/real_evaluation.py --data {os.path.relpath(args.data)} --limit {args.limit}",
        "limit": args.limit,
        "versions": versions(),
        "hardware": hardware(),
        "benchmark": json.loads((work / "benchmark.json").read_text(encoding="utf-8"))["models"],
        "reward_model": numbers(json.loads((work / "evaluate_rm.json").read_text(encoding="utf-8"))),
        "seconds": commands.seconds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}; the page is {work / 'report.html'}")


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Of what evaluate_rm wrote: pair accuracy, calibration and agreement per file, and the order of the systems."""
    pairs = {
        name: {"pair_accuracy": row["pair_accuracy"], "ci95": row["ci95"], "num_pairs": row["num_pairs"],
               "length_baseline": row["length_baseline"], "ece": row["calibration"]["ece"]}
        for name, row in found["models"]["rm"].items()
    }  # fmt: skip
    return {"pairs": pairs, "agreement": found["agreement"], "outputs": found["outputs"]}


if __name__ == "__main__":
    main()
