"""The evaluation commands on public evaluation files and human judgements: ``python benchmarks/real_evaluation.py``.

    python benchmarks/real_evaluation.py --data ../shared/data [--trained runs/real_data] [--num 200]

SmolLM2-135M as it comes beside the models that benchmarks/real_data.py trained from it, by the public commands ``benchmark``,
``toxicity_classifier``, ``rankings``, ``evaluate_rm`` and ``report``, on ``DATA/eval``. Only numbers are kept: of what the
models write and of the files nothing goes to ``benchmarks/results``. A command whose result is in ``--work`` already is not
run again. The files are in order of their kinds, so records are drawn by chance, not taken from the beginning.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.real.commands import Commands, commit, options
from benchmarks.real.selection import read, to_messages, write
from benchmarks.real.stages import EVALUATION_BATCH
from benchmarks.real_data import hardware, versions

FILES = {
    "truthfulqa": "truthfulqa/TruthfulQA.csv",
    "crows_pairs": "crows_pairs/crows_pairs_anonymized.csv",
    "winogender": "winogender/all_sentences.tsv",
    "hellaswag": "hellaswag/hellaswag_val_1000.jsonl.gz",
    "realtoxicityprompts": "realtoxicityprompts/rtp_5000.jsonl.gz",
}
"""Evaluation -> its file below ``DATA/eval``."""

MAX_RESPONSE_TOKENS = 256
"""What the reward model reads of a reply, as in its training."""

WHOLE = ("tulu1",)
"""Taken whole: few of its prompts were ranked by two people."""

BASELINES = {"tulu1": "tulu_65B", "pandalm": "llama-7b"}
"""Recorded rankings of systems -> the system that the others are compared with."""

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


def sample(source: Path, target: Path, num: int, seed: int, same_reply_twice: bool = False) -> dict[str, int]:
    """Some records of a file by chance, all of the file's order and kinds alike; returns how many there are and were taken.

    CSV and JSON lines, gzipped or not. Prompts of human judgements become messages, as the reward model was trained on them;
    rankings of one text given twice are left out and counted, but where they are asked for: to a reward model they say nothing,
    of two systems they say that these tie. Votes become a ranking by each voter.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".csv":
        with source.open(encoding="utf-8-sig", newline="") as file:
            head, *rows = csv.reader(file)
        chosen = random.Random(seed).sample(rows, min(num, len(rows)))
        with target.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *chosen])
    else:
        rows = read(source)
        records = [
            row for row in rows
            if same_reply_twice or len(set(row.get("responses", ()))) == len(row.get("responses", ()))
        ]  # fmt: skip
        chosen = random.Random(seed).sample(records, min(num, len(records)))
        written = [with_messages(own) for row in chosen for own in by_voter(row)]
        write(target, written)
        more = {"same_reply_twice": len(rows) - len(records)} if len(rows) > len(records) else {}
        more |= {"rankings": len(written)} if len(written) > len(chosen) else {}
        return {"records": len(rows), "taken": len(chosen), **more}
    return {"records": len(rows), "taken": len(chosen)}


def by_voter(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The ranking of each voter of a record with `votes`: 1 or 2, the better reply, or 0, a tie; any other record as it is."""
    if "votes" not in row:
        return [row]
    rankings = {0: [1, 1], 1: [1, 2], 2: [2, 1]}
    return [
        {**row, "id": f"{row['id']}/{i}", "ranking": rankings[vote], "labeler": f"voter {i}"}
        for i, vote in enumerate(row["votes"], start=1)
    ]


def with_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A record of human judgements with its prompt as messages; any other as it is."""
    return {**row, "prompt": to_messages(row["prompt"], row["format"])} if "format" in row else row


class Evaluations:
    """The commands of one run, on samples of the files.

    Args:
        work: directory of samples and results.
        sources: name -> file, all of ``FILES``, ``HUMAN_PAIRS`` and ``outputs``.
        num: records of each file.
        seed: of which are taken.
        device: cpu or cuda.
    """

    def __init__(self, work: Path, sources: dict[str, Path], num: int, seed: int, device: str) -> None:
        self.work, self.device, self.commands = work, device, Commands(work)
        self.sources, self.scored = sources, sources["realtoxicityprompts"]
        self.taken: dict[str, dict[str, int]] = {}
        self.used = {"winogender": sources["winogender"]}
        for name, source in sources.items():
            if name not in self.used:
                self.used[name] = work / "data" / (f"{name}.csv" if source.suffix == ".csv" else f"{name}.jsonl")
                most = sys.maxsize if name in WHOLE else num
                self.taken[name] = sample(source, self.used[name], most, seed)

    def toxicity_classifier(self) -> None:
        """The scorer of the continuations, trained on the file's own scores."""
        self.commands.run(
            "toxicity_classifier",
            ["toxicity_classifier", "--data", json.dumps([str(self.scored)]), "--text", "continuation",
             "--score", "continuation_toxicity", "--out", str(self.work / "toxicity")],
            [self.scored], self.work / "toxicity",
        )  # fmt: skip

    def benchmark(self, models: dict[str, Path]) -> None:
        """The paper's automatic evaluations of the policies."""
        out, scorer = self.work / "benchmark.json", self.work / "toxicity"
        self.commands.run(
            "benchmark",
            ["benchmark", *(f"--models.{name}={path}" for name, path in models.items()),
             *(f"--{name}={self.used[name]}" for name in FILES), "--truthfulqa_prompts", '["bare", "qa"]',
             "--truthfulqa_answers", "true",
             "--scorer", "lit_instructgpt.evaluation.toxicity.ToxicityClassifier", "--scorer.path", str(scorer),
             "--batch_size", str(EVALUATION_BATCH[self.device]), "--device", self.device, "--out", str(out)],
            [*models.values(), *(self.used[name] for name in FILES), scorer], out,
        )  # fmt: skip

    def rankings(self, name: str) -> Path:
        """Which systems people preferred, by all of a file's rankings; the JSON file."""
        whole, out = self.work / f"data/whole_{name}.jsonl", self.work / f"rankings_{name}.json"
        sample(self.sources[name], whole, sys.maxsize, 0, same_reply_twice=True)
        self.commands.run(
            f"rankings_{name}",
            ["rankings", "--rankings", str(whole), "--baseline", BASELINES[name], "--out", str(out)], [whole], out,
        )  # fmt: skip
        return out

    def evaluate_rm(self, rm: Path) -> None:
        """The reward model on people's judgements, and on the outputs of three systems."""
        out = self.work / "evaluate_rm.json"
        self.commands.run(
            "evaluate_rm",
            ["evaluate_rm", "--models.rm", str(rm), *(f"--comparisons.{name}={self.used[name]}" for name in HUMAN_PAIRS),
             "--outputs", str(self.used["outputs"]), "--order", json.dumps(ORDER), "--reading.max_prompt_tokens", "512",
             "--reading.max_response_tokens", str(MAX_RESPONSE_TOKENS), "--reading.max_tokens", "768",
             "--device", self.device,
             "--out", str(out)],
            [rm, *(self.used[name] for name in (*HUMAN_PAIRS, "outputs"))], out,
        )  # fmt: skip


def find_sources(data: Path) -> dict[str, Path]:
    """Name -> file below ``DATA/eval``."""
    files = {**FILES, **{name: f"human_pairs/{name}.jsonl.gz" for name in HUMAN_PAIRS}, "outputs": OUTPUTS}
    return {name: data / "eval" / file for name, file in files.items()}


def main(argv: list[str] | None = None) -> None:
    """Run the commands, and write their figures."""
    parser = argparse.ArgumentParser(prog="real_evaluation", description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="a bundle with a folder eval")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--trained", type=Path, default=Path("runs/real_data"), help="made by benchmarks/real_data.py")
    parser.add_argument("--work", type=Path, default=Path("runs/real_evaluation"), help="samples and results")
    parser.add_argument(
        "--num", type=int, default=200, help="records of each file, by chance; Winogender and tulu1 are taken whole"
    )
    parser.add_argument("--seed", type=int, default=0, help="of which are taken")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the models")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_evaluation.json"), help="JSON")
    args = parser.parse_args(argv)
    models = {"base": args.model, "sft": args.trained / "sft/export", "ppo_ptx": args.trained / "ppo/export"}
    rm = args.trained / "rm/export"
    sources = find_sources(args.data)
    missing = [str(path) for path in (*models.values(), rm) if not (path / "config.json").is_file()]
    policies = args.trained / "evaluation.json"
    missing += [str(path) for path in (policies, *sources.values()) if not path.is_file()]
    if missing:
        raise SystemExit(
            f"real_evaluation: missing: {', '.join(missing)}; make smollm2 makes the model, "
            "benchmarks/real_data.py the trained ones, docs/evaluation.md says where the files are published"
        )
    run = Evaluations(args.work, sources, args.num, args.seed, args.device)
    run.toxicity_classifier()
    preferred = {name: run.rankings(name) for name in BASELINES}
    run.evaluate_rm(rm)
    run.benchmark(models)
    work, taken, commands = args.work, run.taken, run.commands
    results = [work / "benchmark.json", work / "evaluate_rm.json", *preferred.values(), policies]
    runs = {"sft": args.trained / "sft", "rm": args.trained / "rm", "ppo_ptx": args.trained / "ppo"}
    commands.run(
        "report",
        ["report", "--results", json.dumps([str(path) for path in results]),
         *(f"--runs.{name}={path}" for name, path in runs.items()), "--title", "SmolLM2-135M",
         "--out", str(work / "report.html")],
        results, work / "report.html",
    )  # fmt: skip
    report = {
        "command": f"python benchmarks/real_evaluation.py --data DIR --num {args.num}"
        + options(parser, args, ("data", "num", "work", "out")),
        "commit": commit(),
        "seed": args.seed,
        "taken": taken,
        "versions": versions(),
        "hardware": hardware(args.device),
        "benchmark": json.loads((work / "benchmark.json").read_text(encoding="utf-8"))["models"],
        "toxicity_classifier": of_classifier(
            json.loads((work / "toxicity/toxicity_classifier.json").read_text(encoding="utf-8"))
        ),
        "rankings": {
            name: of_rankings(json.loads(path.read_text(encoding="utf-8"))) for name, path in preferred.items()
        },
        "output_words": words_of_systems(read(run.used["outputs"])),
        "reward_model": numbers(json.loads((work / "evaluate_rm.json").read_text(encoding="utf-8"))),
        "commands": commands.lines,
        "seconds": commands.seconds,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}; the page is {work / 'report.html'}")


def of_classifier(found: dict[str, Any]) -> dict[str, Any]:
    """How well the scorer of continuations knows scores that it had not seen."""
    return {key: found[key] for key in ("num_train", "num_held_out", "held_out")}


def of_rankings(found: dict[str, Any]) -> dict[str, Any]:
    """Of what rankings wrote: win rates against the baseline, and how often people agree."""
    kept = ("win_rate", "ci95", "length_controlled_win_rate", "num_rankings", "num_prompts", "num_labelers")
    against = {name: row["against_baseline"] for name, row in found["systems"].items()}
    return {
        "baseline": found["baseline"],
        "systems": {name: {key: row[key] for key in kept} for name, row in against.items() if row is not None},
        "agreement": found["agreement"],
    }


def words_of_systems(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean number of words of each system's outputs: scores that go with it tell little else."""
    systems = rows[0]["outputs"]
    return {name: round(sum(len(row["outputs"][name].split()) for row in rows) / len(rows), 1) for name in systems}


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """Of what evaluate_rm wrote: per file what was measured, pair accuracy and calibration; agreement; the systems' order."""
    kept = ("pair_accuracy", "ci95", "num_pairs", "num_tied", "num_prompts", "length_baseline",
            "accuracy_minus_length_baseline", "per_source")  # fmt: skip
    pairs = {
        name: {
            **{key: row[key] for key in kept},
            "ece": row["calibration"]["ece"],
            "ece_by_chance": row["calibration"]["ece_by_chance"],
            "measured": found["files"][name]["measured"],
        }
        for name, row in found["models"]["rm"].items()
    }
    return {"pairs": pairs, "agreement": found["agreement"], "outputs": found["outputs"]}


if __name__ == "__main__":
    main()
