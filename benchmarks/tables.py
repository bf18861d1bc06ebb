"""Writes the tables of README.md from benchmarks/results: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path("benchmarks/results")
NAMES = {"base": "base", "sft": "SFT", "init": "PPO's start (SFT with text)", "ppo_ptx": "PPO-ptx"}
COLUMNS = {
    "win_rate_vs_sft": ("preferred to SFT", "{:.0%}"),
    "follows_instruction": ("follows the instruction", "{:.0%}"),
    "hallucination": ("hallucinates", "{:.0%}"),
    "satisfies_constraint": ("satisfies the constraint", "{:.0%}"),
    "likert": ("Likert 1-7", "{:.1f}"),
    "kl_to_init": ("KL to PPO's start, nats", "{:.1f}"),
    "text_loss": ("text loss, nats/token", "{:.2f}"),
}


def miniature(results: dict[str, Any]) -> str:
    """The models of the demo: medians over the seeds."""
    runs = list(results.values())
    lines = [
        "| model | " + " | ".join(title for title, _ in COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for model, name in NAMES.items():
        cells = []
        for key, (_, form) in COLUMNS.items():
            values = [run["models"][model][key] for run in runs]
            cells.append(form.format(median(values)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    rm, agreement = [run["rm"] for run in runs], [run["agreement"] for run in runs]
    held = sum(all(run["holds"].values()) for run in runs)
    version = runs[0]["versions"]
    lines += [
        "",
        f"`make demo`, medians over seeds {', '.join(results)} (`make demo-seeds`); "
        f"{min(run['models']['sft']['num_prompts'] for run in runs)} or more prompts of customers no stage has seen, judged "
        f"by the world's own truth. Reward model: {median(r['pair_accuracy'] for r in rm):.1%} of untied pairs "
        f"(the longer answer: {median(r['length_baseline'] for r in rm):.1%}; two labelers agree on "
        f"{median(a['training'] for a in agreement):.1%}). "
        f"{median(run['seconds']['total'] for run in runs):.0f} s in all on {runs[0]['hardware']}, torch {version['torch']}. "
        f"All findings that the demo checks hold with {held} of {len(runs)} seeds.",
    ]
    return "\n".join(lines)


def real_data(results: dict[str, Any]) -> str:
    """The reward model on human rankings, beside its baselines."""
    lines = [
        "| human rankings | pairs | reward model (95 % CI) | longer answer | bag of words |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["reward_model"].items():
        low, high = row["rm"]["ci95"]
        lines.append(
            f"| {name} | {row['num_pairs']} | {row['rm']['accuracy']:.1%} ({low:.1%}-{high:.1%}) "
            f"| {row['length_baseline']['accuracy']:.1%} | {row['bag_of_words_baseline']['accuracy']:.1%} |"
        )
    gain = results["ppo"]["score_gain"]
    num_train = sum(counts["train"] for counts in results["selection"]["comparisons"].values())
    above = ", ".join(results["sources_with_rm_above_both"]) or "none"
    lines += [
        "",
        f"SmolLM2-135M on validation rankings by people, `python benchmarks/real_data.py --data DIR`, seed {results['seed']}, "
        f"{results['hardware']}, {sum(row['num_rankings'] for row in results['reward_model'].values())} rankings to "
        f"measure on, {num_train} to train on. Above both baselines: {above}. PPO-ptx changed the reward model's score on "
        f"{results['ppo']['after']['num_prompts']} held-out prompts by {gain['mean']:+.2f} (95 % CI {gain['ci95'][0]:.2f} to "
        f"{gain['ci95'][1]:.2f}) at {results['ppo']['after']['kl_to_start_nats']['mean']:.1f} nats. The whole is in "
        "benchmarks/results/real_data.json.",
    ]
    return "\n".join(lines)


def fill(text: str, name: str, table: str) -> str:
    """The text with the part between the two marks of `name` replaced.

    Raises:
        ValueError: a mark is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"README.md has no {begin} ... {end}")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    """Fill the tables whose results are there."""
    readme = Path("README.md")
    text = readme.read_text(encoding="utf-8")
    for name, table in (("miniature", miniature), ("real_data", real_data)):
        results = RESULTS / f"{name}.json"
        if results.is_file():
            text = fill(text, name, table(json.loads(results.read_text(encoding="utf-8"))))
            print(f"README.md: {name} from {results}")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
