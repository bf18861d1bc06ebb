"""Writes the tables of README.md and docs/performance.md from benchmarks/results: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fault_scenarios import TITLES
from benchmarks.gpu_checks import table as gpu_checks_table
from benchmarks.memory import table as memory_table
from benchmarks.paper.results import claims_table, figures_tables
from benchmarks.quantized import table as quantized_table
from benchmarks.targets import table as target_table
from benchmarks.throughput import phase_table
from benchmarks.throughput import table as cases
from benchmarks.two_processes import table as two_processes_table

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


def throughput(results: dict[str, Any]) -> str:
    """Our trainers beside others, case by case."""
    peers = ", ".join(sorted({row["peer"].replace("==", " ") for row in results["rows"]}))
    rounds = min(row["rounds"] for row in results["rows"])
    return (
        f"{cases(results['rows'])}\n\n{phase_table(results['rows'])}\n\n`{results['command']}`, medians of {rounds} or "
        f"more rounds; natural lengths: {results['natural_lengths']}; {peers}; {_where(results)}."
    )


def throughput_again(results: dict[str, Any]) -> str:
    """Cases measured once more, one round."""
    notes = "".join(f" {note}" for note in results.get("notes", []))
    return f"{cases(results['rows'])}\n\n`{results['command']}`; {_where(results)}.{notes}"


def targets(results: dict[str, Any]) -> str:
    """What was aimed at, and what was measured."""
    others = [RESULTS / f"{name}.json" for name in ("startup", "growth")]
    more = [json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None for file in others]
    return target_table(results, *more)


def ideas(results: dict[str, Any]) -> str:
    """Each idea alone."""
    lines = ["| idea | before -> after | gain |", "|---|---|---|"]
    for row in results["rows"]:
        change = f"{row['seconds_before']:.3g} -> {row['seconds_after']:.3g} s"
        if "peak_mb_before" in row:
            change += f", {row['peak_mb_before']:,} -> {row['peak_mb_after']:,} MB"
        lines.append(f"| {row['what']} | {change} | {row['gain']:.2f} |")
    return "\n".join(
        [*lines, "", f"`{results['command']}`, {results['model']}, {_rounds(results)}; {_where(results)}."]
    )


def growth(results: dict[str, Any]) -> str:
    """Time per token, or per episode, as a multiple of that of the smallest size."""
    lines = ["| stage | " + "size: time for each, attention's own growth taken out |", "|---|---|"]
    for row in results["rows"]:
        each = ", ".join(f"{size}: {value:.2f}" for size, value in row["relative_without_attention"].items())
        factor = list(row["attention_factor"].values())[-1]
        said = f" (attention: {factor:.2f} at the largest)" if factor != 1 else ""
        lines.append(f"| {row['stage']}, {row['unit']} | {each}{said} |")
    return "\n".join([*lines, "", f"`{results['command']}`, tiny Llama, {_rounds(results)}; {_where(results)}."])


def engines(results: dict[str, Any]) -> str:
    """Tokens per second of what samples."""
    lines = ["| engine | dtype | tokens/s | ours is faster by |", "|---|---|---|---|"]
    for row in results["rows"]:
        cells = (row["engine"], row["dtype"], f"{row['tokens_per_second']:,.0f}", f"{row['own_is_faster_by']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"`{results['command']}`, {results['model']}, {results['prompts']} prompts, "
         f"{results['response_tokens']} tokens each, {_rounds(results)}; {_where(results)}."]
    )  # fmt: skip


def profiles(results: dict[str, Any]) -> str:
    """Shares of a step's time."""
    kinds = sorted({kind for row in results["rows"] for kind in row["shares"]}, key=lambda kind: -_total(results, kind))
    lines = ["| case | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    for row in results["rows"]:
        lines.append(f"| {row['case']} | " + " | ".join(f"{row['shares'].get(kind, 0):.1%}" for kind in kinds) + " |")
    return "\n".join([*lines, "", f"`{results['command']}`; {_where(results)}."])


def _total(results: dict[str, Any], kind: str) -> float:
    return float(sum(row["shares"].get(kind, 0) for row in results["rows"]))


def startup(results: dict[str, Any]) -> str:
    """Seconds until something happens."""
    seconds = results["seconds"]
    return (
        f"`lit-instructgpt --help`: {seconds['help']:.1f} s. From the start of `lit-instructgpt fit` to the end of the first "
        f"training step of the tiny Llama: {seconds['first_step']:.1f} s (`{results['command']}`, {_rounds(results)}; "
        f"{_where(results)})."
    )


def demo_times(results: dict[str, Any]) -> str:
    """The demo, before and now."""
    before, now = results["seconds"]["before"], results["seconds"]["now"]
    commits = results["commits"]
    return (
        f"`make demo`, seed {results['seed']}: {before:.0f} s at {commits['before']}, {now:.0f} s at {commits['now']} "
        f"({before / now:.2f} x; `{results['command']}`, {_rounds(results)}; {_where(results)})."
    )


def _rounds(results: dict[str, Any]) -> str:
    return f"medians of {results['rounds']} rounds" if results["rounds"] > 1 else "one round"


def _where(results: dict[str, Any]) -> str:
    return f"{results['hardware']}, torch {results['versions']['torch']}"


def fill(text: str, name: str, table: str) -> str:
    """The text with the part between the two marks of `name` replaced.

    Raises:
        ValueError: a mark is missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"there is no {begin} ... {end} in the file")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def memory(results: dict[str, Any]) -> str:
    """Plans beside peaks."""
    return memory_table(results)


def gpu_checks(results: dict[str, Any]) -> str:
    """What holds on which device."""
    return gpu_checks_table(results)


def quantized(results: dict[str, Any]) -> str:
    """A reference in few bits."""
    return quantized_table(results)


def two_processes(results: dict[str, Any]) -> str:
    """PPO-ptx on one process and on two."""
    return two_processes_table(results)


def faults(results: dict[str, Any]) -> str:
    """What became of runs that were killed, cut, filled, flipped and raced."""
    lines = ["| scenario | trials | failures | bytes that differ | where they landed |", "|---|---|---|---|---|"]
    for name, row in sorted(results["scenarios"].items(), key=lambda item: int(item[0][1:])):
        landed = ", ".join(f"{place} {number}" for place, number in row["landed"].items()) or "-"
        lines.append(
            f"| {name}: {TITLES[name]} | {row['trials']} | {row['failures']} | {row['differing_bytes']} | {landed} |"
        )
    about = f"`{results['command']}`, {results['hardware']}, torch {results['versions']['torch']}."
    return "\n".join([*lines, "", about])


def paper_in_miniature(results: dict[str, Any]) -> str:
    """The paper's findings here."""
    return claims_table(results)


def paper_figures(results: dict[str, Any]) -> str:
    """All figures behind them."""
    return figures_tables(results)


PLACES = {
    "README.md": (miniature, paper_in_miniature, real_data),
    "docs/results.md": (paper_figures,),
    "docs/scale.md": (quantized, two_processes, memory, gpu_checks),
    "docs/checkpoints.md": (faults,),
    "docs/performance.md": (
        targets,
        throughput_again,
        throughput,
        ideas,
        growth,
        engines,
        profiles,
        startup,
        demo_times,
    ),
}
"""File -> what it shows; each from the result of the same name, or of that in `SHARED`."""

SHARED = {"targets": "throughput", "paper_figures": "paper_in_miniature"}


def main() -> None:
    """Fill the tables whose results are there."""
    for file, tables in PLACES.items():
        text = Path(file).read_text(encoding="utf-8")
        for table in tables:
            results = RESULTS / f"{SHARED.get(table.__name__, table.__name__)}.json"
            if results.is_file():
                text = fill(text, table.__name__, table(json.loads(results.read_text(encoding="utf-8"))))
                print(f"{file}: {table.__name__} from {results}")
        Path(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
