"""How many test prompts of the miniature were trained on, word for word: ``python benchmarks/paper_overlap.py``.

Reads what benchmarks/paper_in_miniature.py left in ``runs/paper``. As in the paper no customer is in two splits, but customers
of so small a world may write the same thing; here stands how often, and what PPO-ptx' win rate is without those prompts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    sys.path[:0] = [str(ROOT), str(ROOT / "data")]

import numpy as np  # noqa: E402
from miniature.demo import read  # noqa: E402
from miniature.gold import Judge  # noqa: E402

from benchmarks.paper.claims import figure  # noqa: E402
from benchmarks.paper.results import shown  # noqa: E402
from benchmarks.paper.stages import TRAINED_ON  # noqa: E402
from benchmarks.paper_in_miniature import SEEDS, versions  # noqa: E402
from lit_instructgpt.evaluation.statistics import win_shares  # noqa: E402

OUT = ROOT / "benchmarks/results/paper_overlap.json"


def seen_before(folder: Path, prompts: list[dict[str, Any]]) -> np.ndarray:
    """Which prompts stand word for word in a training file of a seed's data."""
    texts = {row["prompt"] for name in TRAINED_ON for row in read(folder / f"data/{name}.train.jsonl")}
    return np.array([row["prompt"] in texts for row in prompts])


def wins(rows: list[dict[str, Any]], model: str = "ppo_ptx", opponent: str = "sft") -> np.ndarray:
    """By the world's truth: 1 where the model's response is better than the opponent's, 0 where worse, 1/2 for a tie."""
    judge = Judge()
    utility = {
        name: np.array([one["utility"] for one in judge(rows, [row["responses"][row["systems"].index(name)] for row in rows])])
        for name in (model, opponent)
    }  # fmt: skip
    return win_shares(utility[model] - utility[opponent])


def of_seed(folder: Path) -> dict[str, float]:
    """Shares seen before, and win rates on the prompts that were and that were not."""
    rows = read(folder / "responses.jsonl")
    seen, won = seen_before(folder, rows), wins(rows)
    return {
        "seen_main": float(seen_before(folder, read(folder / "data/prompts_main.test.jsonl")).mean()),
        "seen_others": float(seen.mean()),
        "win_rate_seen": float(won[seen].mean()),
        "win_rate_unseen": float(won[~seen].mean()),
    }


TITLES = {
    "seen_main": "test prompts of claims 1 and 3 that stand word for word in a training file",
    "seen_others": "those of the other claims",
    "win_rate_seen": "of these: PPO-ptx preferred to SFT on the prompts that do",
    "win_rate_unseen": "on the prompts that do not",
}


def table(report: dict[str, Any]) -> str:
    """For docs/results.md."""
    lines = ["| figure | mean over seeds (95 % CI) |", "|---|---|"]
    lines += [f"| {TITLES[name]} | {shown(report['figures'][name])} |" for name in TITLES]
    seeds = ", ".join(map(str, report["seeds"]))
    return "\n".join([*lines, "", f"`{report['command']}`, seeds {seeds}, behind `benchmarks/paper_in_miniature.py`."])


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="paper_overlap", description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="of benchmarks/paper_in_miniature.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of which")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON")
    args = parser.parse_args(argv)
    folders = {seed: args.work / f"seed-{seed}" for seed in args.seeds}
    missing = [str(path) for path in folders.values() if not (path / "responses.jsonl").is_file()]
    if missing:
        raise SystemExit(f"paper_overlap: no responses.jsonl in {', '.join(missing)}: run paper_in_miniature.py before")
    rows = {seed: of_seed(folder) for seed, folder in folders.items()}
    report = {
        "command": " ".join(["python benchmarks/paper_overlap.py --seeds", *map(str, args.seeds)]),
        "seeds": list(rows),
        "versions": versions(),
        "figures": {name: figure([row[name] for row in rows.values()]).row() for name in TITLES},
        "per_seed": {str(seed): row for seed, row in rows.items()},
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
