"""Brings together what one seed has shown: `python -m benchmarks.paper.measure DIR SEED` writes DIR/measures.json."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from miniature.demo import read
from miniature.gold import judge
from miniature.labelers import HELD_OUT, TRAINING, Labeler, rank
from safetensors import safe_open

from benchmarks.paper.stages import BEST_OF, GOLD_RM_PROMPTS, OVER_RUNS
from lit_instructgpt.callbacks.metric_log import METRICS
from lit_instructgpt.evaluation.statistics import best_of_n, best_of_n_kl
from lit_instructgpt.rewards import ModelReward

Row = dict[str, Any]
KEYS = (
    "win_rate_vs_sft", "ci95", "length_controlled_win_rate", "utility", "follows_instruction", "hallucination",
    "satisfies_constraint", "likert", "rm_score", "kl_to_init", "text_loss", "response_tokens", "repetition", "stop_rate",
)  # fmt: skip


def models_of(file: Path) -> dict[str, Row]:
    """The models of an evaluation, without histograms and counts."""
    rows = json.loads(file.read_text(encoding="utf-8"))["models"]
    return {
        name: {key: value for key, value in row.items() if key in KEYS or key.startswith("win_rate_vs_")}
        for name, row in rows.items()
    }


def curve(run: Path, *keys: str) -> dict[str, list[float]]:
    """Metrics over a run, of the steps that have all of them: one list per metric, and the steps."""
    rows = [row for row in read(run / METRICS) if all(key in row for key in keys)]
    return {"step": [row["step"] for row in rows]} | {key: [row[key] for row in rows] for key in keys}


def parameters(directory: Path) -> int:
    """How many numbers a model's weights are."""
    total = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:  # type: ignore[no-untyped-call]
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def preferences(responses: Sequence[Row], one: str, other: str, seed: int) -> dict[str, Row]:
    """Share of prompts on which labelers prefer one system to the other, ties half: of both groups of labelers, and of each."""
    found = {}
    for name, labelers in (("training", TRAINING), ("held_out", HELD_OUT)):
        rates = {
            who.id: float(np.mean([_prefers(who, row, one, other, seed) for row in responses])) for who in labelers
        }
        found[name] = {"rate": float(np.mean(list(rates.values()))), "labelers": rates}
    return found


def _prefers(labeler: Labeler, row: Row, one: str, other: str, seed: int) -> float:
    texts = [row["responses"][row["systems"].index(name)] for name in (one, other)]
    first, second = rank(labeler, row["gold"], texts, random.Random(f"{seed}/{row['id']}/{labeler.id}/{one}/{other}"))
    return 0.5 if first == second else float(first < second)


def head_to_head(responses: Sequence[Row], one: str, other: str) -> float:
    """Share of prompts on which one system's response has the higher utility, ties half."""
    wins = []
    for row in responses:
        first, second = (
            judge(row["gold"], row["responses"][row["systems"].index(name)]).utility for name in (one, other)
        )
        wins.append(0.5 if first == second else float(first > second))
    return float(np.mean(wins))


def best_of(out: Path, size: int) -> list[Row]:
    """Best-of-n by a reward model: proxy and gold score, and KL, over n."""
    rows = read(out / "best_of.jsonl")
    scorer = ModelReward(str(out / f"gold_rm_{size}" / "export"))
    num = len(rows[0]["responses"])
    prompts = [row["prompt"] for row in rows for _ in range(num)]
    texts = [text for row in rows for text in row["responses"]]
    proxy = np.array(scorer(prompts, texts)).reshape(len(rows), num)
    gold = np.array([judge(row["gold"], text).utility for row in rows for text in row["responses"]]).reshape(
        proxy.shape
    )
    ns = [2**i for i in range(int(math.log2(BEST_OF)) + 1)]
    return [
        {"n": n, "kl": best_of_n_kl(n), "proxy": best_of_n(proxy, proxy, n), "gold": best_of_n(proxy, gold, n),
         "gold_std": float(gold.std())}
        for n in ns
    ]  # fmt: skip


def forward_passes(out: Path) -> dict[str, int]:
    """Completions that one epoch computes: each once in K-wise elements, once for every pair otherwise."""
    kwise = sum(len(row["responses"]) for row in read(out / "ranked/kwise.train.jsonl"))
    return {"kwise": kwise, "pairs": 2 * len(read(out / "ranked/pairs.train.jsonl"))}


def main(out: Path, seed: int) -> None:
    """Write the measures of a seed."""
    rm_keys = ("val/loss", "val/pair_accuracy")
    measures = {
        "seed": seed,
        "models": models_of(out / "evaluate_all.json"),
        "main": models_of(out / "evaluate_main.json"),
        "prompted": models_of(out / "evaluate_prompted.json"),
        "num_prompts": {
            name: json.loads((out / f"evaluate_{name}.json").read_text(encoding="utf-8"))["num_prompts"]
            for name in ("all", "main")
        },
        "parameters": {name: parameters(out / name / "export") for name in ("base", "large", "ppo_ptx")},
        "rm": json.loads((out / "evaluate_rm.json").read_text(encoding="utf-8")),
        "agreement": json.loads((out / "ranked/agreement.json").read_text(encoding="utf-8")),
        "rm_curves": {name: curve(out / name, *rm_keys) for name in ("rm_kwise", "rm_pairs")},
        "forward_passes": forward_passes(out),
        "sft_curve": curve(out / "sft", "val/loss", "val/rm_score"),
        "sft": models_of(out / "evaluate_sft.json"),
        "head_to_head": {"ppo_ptx/large": head_to_head(read(out / "responses.jsonl"), "ppo_ptx", "large")},
        "preferences": preferences(read(out / "responses.jsonl"), "ppo_ptx", "sft", seed),
        "over": {name: models_of(out / f"evaluate_over_{name}.json") for name in OVER_RUNS},
        "best_of": {str(size): best_of(out, size) for size in GOLD_RM_PROMPTS},
    }
    (out / "measures.json").write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
