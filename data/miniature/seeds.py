"""Rerun the demo with several seeds and say whether the signs agree: `python -m miniature.seeds 0 1 2`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miniature.demo import PLACE, main

FINDINGS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "PPO-ptx is preferred to SFT (95 % CI above 0.5)": lambda r: r["models"]["ppo_ptx"]["ci95"][0] > 0.5,
    "PPO-ptx hallucinates less than SFT": lambda r: _less(r, "hallucination"),
    "PPO-ptx follows instructions more often": lambda r: _less(r, "follows_instruction", -1),
    "PPO-ptx keeps the text loss (within 5 %)": lambda r: (
        r["models"]["ppo_ptx"]["text_loss"] <= 1.05 * r["models"]["sft"]["text_loss"]
    ),
    "PPO-ptx keeps the text loss of its own start (within 5 %)": lambda r: (
        r["models"]["ppo_ptx"]["text_loss"] <= 1.05 * r["models"]["init"]["text_loss"]
    ),
    "the KL to the start is between 1 and 60 nats": lambda r: 1 <= r["models"]["ppo_ptx"]["kl_to_init"] <= 60,
    "the reward model beats 0.60 and the length baseline": lambda r: (
        r["rm"]["ci95"][0] > max(0.60, r["rm"]["length_baseline"])
    ),
    "training labelers agree on 69-77 % of pairs": lambda r: 0.69 <= r["agreement"]["training"] <= 0.77,
    "held-out labelers agree on 69-77 % of pairs": lambda r: 0.69 <= r["agreement"]["held_out"] <= 0.77,
    "the whole takes at most 480 s": lambda r: r["seconds"]["total"] <= 480,
}
"""What the demo must show, with every seed."""


def _less(report: dict[str, Any], key: str, sign: int = 1) -> bool:
    models = report["models"]
    return bool(sign * models["ppo_ptx"][key] < sign * models["sft"][key])


def check(seeds: list[int], out: Path) -> bool:
    """Compare the reports of the seeds; writes what held to `out` and returns whether all of it did."""
    rows = {}
    for seed in seeds:
        place = PLACE if seed == 0 else f"{PLACE}-seed{seed}"
        report = json.loads(Path(place, "report.json").read_text(encoding="utf-8"))
        rows[seed] = {
            "holds": {finding: bool(test(report)) for finding, test in FINDINGS.items()},
            "models": report["models"],
            "rm": {k: v for k, v in report["rm"].items() if k not in ("calibration", "per_source")},
            "agreement": report["agreement"],
            "seconds": report["seconds"],
            "versions": report["versions"],
            "hardware": report["hardware"],
        }
    for finding in FINDINGS:
        marks = "  ".join(f"seed {seed}: {'yes' if row['holds'][finding] else 'NO'}" for seed, row in rows.items())
        print(f"{finding:58s} {marks}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({str(k): v for k, v in rows.items()}, indent=1) + "\n", encoding="utf-8")
    return all(all(row["holds"].values()) for row in rows.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="miniature.seeds", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/miniature.json"))
    parser.add_argument("--only-compare", action="store_true", help="do not run, read the reports that are there")
    args = parser.parse_args()
    for seed in [] if args.only_compare else args.seeds:
        main(["--seed", str(seed)])
    raise SystemExit(0 if check(args.seeds, args.out) else "a finding did not hold with every seed")
