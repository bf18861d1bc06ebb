"""Writes the tables of README.md and docs from benchmarks/results: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fault_scenarios import TITLES
from benchmarks.gpu_checks import table as gpu_checks_table
from benchmarks.lm_eval_agreement import table as agreement_table
from benchmarks.memory import table as memory_table
from benchmarks.paper.curves import overoptimization_svg
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
        f"The demo's checks (`data/miniature/seeds.py`; not the constraint) all hold with {held} of {len(runs)} seeds.",
    ]
    return "\n".join(lines)


def real_data(results: dict[str, Any]) -> str:
    """The reward model on human rankings, beside its baselines."""
    num_train = results["num_rankings_trained"]
    above = ", ".join(results["sources_with_rm_above_both"]) or "none"
    return (
        f"{reward_model_table(results)}\n\n"
        f"SmolLM2-135M-Instruct on validation rankings by people (of hh_helpful the shortest), "
        f"`python benchmarks/real_data.py --data DIR`, seed {results['seed']}, "
        f"{results['hardware']}, {sum(row['num_rankings'] for row in results['reward_model'].values())} rankings to "
        f"measure on, {num_train} to train on. Above both baselines: {above}. More in "
        "[docs/results.md](docs/results.md)."
    )


def reward_model_table(results: dict[str, Any]) -> str:
    """Pair accuracies per source."""
    lines = [f"| human rankings | pairs | reward model (95 % CI) | {BASELINES} |", "|---|---|---|---|---|"]
    for name, row in results["reward_model"].items():
        low, high = row["rm"]["ci95"]
        lines.append(
            f"| {name} | {row['num_pairs']} | {row['rm']['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {_baselines(row)} |"
        )
    return "\n".join(lines)


BASELINES = "longer answer; reward model less it, points | bag of words; reward model less it, points"


def _baselines(row: dict[str, Any]) -> str:
    """The two cells of ``BASELINES``: how often a baseline is right, and the difference with its interval."""
    cells = []
    for key in ("length_baseline", "bag_of_words_baseline"):
        low, high = row[key]["ci95_of_difference"]
        difference = f"{100 * row[key]['rm_minus_this']:+.1f} ({100 * low:.1f} to {100 * high:.1f})"
        cells.append(f"{row[key]['accuracy']:.1%}; {difference}")
    return " | ".join(cells)


def beside_length(row: dict[str, Any]) -> str:
    """How often the longer answer is the better one, and what the reward model has over it on the same pairs."""
    gain = row["accuracy_minus_length_baseline"]
    low, high = gain["ci95"]
    return f"{row['length_baseline']:.1%}; {100 * gain['mean']:+.1f} ({100 * low:.1f} to {100 * high:.1f})"


def against_length(pairs: dict[str, Any]) -> str:
    """On which files the reward model is surely above the longer answer, or below it, by the difference on the same pairs."""
    gains = {name: row["accuracy_minus_length_baseline"] for name, row in pairs.items()}
    above = [name for name, gain in gains.items() if gain["ci95"][0] > 0]
    below = [name for name, gain in gains.items() if gain["ci95"][1] < 0]
    return (
        f"On the same pairs the reward model is above the longer answer, its interval too, on: {', '.join(above) or 'none'}; "
        f"below it on: {', '.join(below) or 'none'}."
    )


def real_data_figures(results: dict[str, Any]) -> str:
    """The reward model's course, and the policies, with the rules of selection and the notes; for docs/results.md."""
    notes = "\n".join(f"- {note}" for note in results["notes"])
    rules = "\n".join(f"- {name}: {rule}" for name, rule in results["selection"]["rules"].items())
    return f"{_course_and_policies(results)}\n\nSelected are:\n\n{rules}\n\n{notes}"


def real_data_gpu(results: dict[str, Any]) -> str:
    """The same of all records, on a GPU; rules and notes stand above."""
    return _course_and_policies(results)


def _course_and_policies(results: dict[str, Any]) -> str:
    sources = list(results["reward_model"])
    curve = [f"| rankings seen | {' | '.join(sources)} |", "|---" * (1 + len(sources)) + "|"]
    for row in results["learning_curve"]:
        cells = [
            f"{found['accuracy']:.1%} ({found['ci95'][0]:.1%} to {found['ci95'][1]:.1%})"
            for found in (row["sources"][name] for name in sources)
        ]
        curve.append(f"| {row['num_rankings']} | {' | '.join(cells)} |")
    policies = [
        "| model | preferred to SFT (95 % CI) | at equal lengths | score | KL to SFT, nats | text loss | tokens "
        "| repetition | stopped |",
        "|---" * 9 + "|",
    ]
    for name, row in results["policies"].items():
        low, high = row["ci95"]
        policies.append(
            f"| {name} | {row['win_rate_vs_sft']:.3f} ({low:.3f} to {high:.3f}) | {_at_equal_lengths(row)} | "
            f"{row['rm_score']:.3f} | {row['kl_to_init']:.3f} | {row['text_loss']:.3f} | {row['response_tokens']:.1f} | "
            f"{row['repetition']:.3f} | {row['stop_rate']:.3f} |"
        )
    counts = results["selection"]["comparisons"]
    taken = ", ".join(f"{name} {row['train']} rankings ({row['train_pairs']} pairs)" for name, row in counts.items())
    demos = ", ".join(f"{name} {row['train']}" for name, row in results["selection"]["demonstrations"].items())
    minutes = ", ".join(f"{name} {value / 60:.0f}" for name, value in results["seconds"].items())
    ptx = results["policies"].get("ppo_ptx")
    said = ""
    if ptx is not None:
        low, high = ptx["ci95"]
        verdict = "more often than" if low > 0.5 else "less often than" if high < 0.5 else "about as often as"
        said = f"By it PPO-ptx is preferred {verdict} SFT on these prompts ({low:.2f} to {high:.2f}).\n\n"
    return (
        f"{reward_model_table(results)}\n\nPair accuracy along the epoch:\n\n{chr(10).join(curve)}\n\n"
        f"The policies on {results['num_prompts']} held-out prompts, judged by that reward model:\n\n"
        f"{chr(10).join(policies)}\n\n{said}"
        f"`{results['command']}`, seed {results['seed']}, {results['hardware']}, torch {results['versions']['torch']}, "
        f"{results['precision']}. Selected for training: {taken}, of which {results['num_rankings_trained']} rankings are "
        f"within the limit of tokens; demonstrations: {demos}; "
        f"{results['selection']['episodes']} episodes of PPO. Minutes: {minutes}."
    )


def _at_equal_lengths(row: dict[str, Any]) -> str:
    rate = row["length_controlled_win_rate"]
    return "-" if rate is None else f"{rate:.3f}"


def rm_learning_curve(results: dict[str, Any]) -> str:
    """Reward models on more and more real rankings, beside their baselines."""
    lines = [
        f"| human rankings | trained on, all | of its source | reward model (95 % CI) | {BASELINES} |",
        "|---" * 6 + "|",
    ]
    for name in results["sources"]:
        for row in results["curve"]:
            found = row["sources"][name]
            low, high = found["rm"]["ci95"]
            lines.append(
                f"| {name} | {row['num_rankings']} | {row['by_source'].get(name, 0)} | "
                f"{found['rm']['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {_baselines(found)} |"
            )
    said = []
    for name, row in results["sources"].items():
        measured = results["curve"][-1]["sources"][name]
        if row["above_both_from"] is not None:
            size = f"above both baselines from {row['above_both_from']} rankings on"
        elif row["size_by_line"] is not None:
            size = (
                "not above both; by a line through its gains over log2(rankings) it takes about "
                f"{row['size_by_line']:,} of all sources together"
            )
        elif row["slope"] is None:
            size = "not above both"
        else:
            slope, low, high = (100 * value for value in row["slope"])
            size = (
                f"not above both; {len(results['curve'])} sizes do not tell how many it takes (with each doubling the gain over "
                f"the better baseline changes by {slope:.1f} points, {low:.1f} to {high:.1f})"
            )
        said.append(
            f"- {name}: {size}. Its {measured['num_rankings']} validation rankings tell a difference of "
            f"{100 * row['half_of_interval']:.0f} points from none."
        )
    seconds = sum(sum(row["seconds"].values()) for row in results["curve"])
    together = f" in {results['commands']} commands, side by side or not," if results["commands"] > 1 else ""
    return (
        f"{chr(10).join(lines)}\n\n"
        f"Pair accuracy; the bag of words learned from the rankings of its source.\n\n"
        f"{chr(10).join(said)}\n\n`{results['command']}`, seed {results['seed']}, of "
        f"{results['num_available']:,} training rankings, {seconds / 60:.0f} minutes{together} on {results['hardware']}, torch "
        f"{results['versions']['torch']}, {results['precision']}."
    )


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


def lm_eval_agreement(results: dict[str, Any]) -> str:
    """The harness' figures beside ours."""
    return agreement_table(results)


FEW_PAIRS = 10
"""A source of fewer pairs has no row of its own; the JSON has it."""


def real_evaluation(results: dict[str, Any]) -> str:
    """The evaluation commands on public files and human judgements."""
    from benchmarks.real_evaluation import MAX_RESPONSE_TOKENS, ORDER, SHOWN

    models = list(results["benchmark"])
    lines = [f"| figure (95 % CI over items) | {' | '.join(models)} |", "|---" * (1 + len(models)) + "|"]
    for task, variant, key in SHOWN:
        found = [results["benchmark"][name][task] for name in models]
        rows = [row[variant][key] if variant else row[key] for row in found]
        cells = [f"{row['mean']:.3f} ({row['ci95'][0]:.3f} to {row['ci95'][1]:.3f})" for row in rows]
        name = ", ".join(part for part in (task, variant, key) if part)
        lines.append(f"| {name}, n = {rows[0]['n']} | {' | '.join(cells)} |")
    pairs = [
        "| human pairs | rankings | pairs | ties | reward model (95 % CI) | longer answer; reward model less it, points "
        "| calibration error; by chance "
        "| labelers with one another; reward model with them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reward = results["reward_model"]
    for name, row in reward["pairs"].items():
        low, high = row["ci95"]
        people = reward["agreement"].get(name)
        num_rankings = results["taken"][name].get("rankings", results["taken"][name]["taken"])
        among = with_people(people["labelers"], people["models"]["rm"]) if people else "one ranking a pair"
        pairs.append(
            f"| {name} | {row['measured']} of {num_rankings} | {row['num_pairs']} | {row['num_tied']} "
            f"| {row['pair_accuracy']:.1%} ({low:.1%} to {high:.1%}) | {beside_length(row)} "
            f"| {row['ece']:.3f}; {row['ece_by_chance']:.3f} | {among} |"
        )
        for source, part in row["per_source"].items() if len(row["per_source"]) > 1 else ():
            if part["num_pairs"] < FEW_PAIRS:
                continue
            low, high = part["ci95"]
            pairs.append(
                f"| {name}: {source} | | {part['num_pairs']} | | {part['accuracy']:.1%} ({low:.1%} to {high:.1%}) "
                f"| {beside_length(part)} | | |"
            )
    lengths = against_length(reward["pairs"])
    scores = reward["outputs"]["models"]["rm"]
    order = reward["outputs"]["order"]["models"]["rm"]
    systems = ["| system | mean score (95 % CI) | outputs | words of an output |", "|---|---|---|---|"]
    for name, row in scores.items():
        low, high = row["ci95"]
        words = results["output_words"][name]
        systems.append(
            f"| {name} | {row['score']:.3f} ({low:.3f} to {high:.3f}) | {row['num_outputs']} | {words:.0f} |"
        )
    rising = order["rising"]
    said = (
        f"From {' to '.join(ORDER)} the mean score {'rises' if order['mean_rises'] else 'does not rise'} at every step; it "
        f"rises at {rising['mean']:.1%} of the prompts ({rising['ci95'][0]:.1%} to {rising['ci95'][1]:.1%}; by chance 16.7 %)."
    )
    num_few = sum(
        part["num_pairs"] < FEW_PAIRS
        for row in reward["pairs"].values()
        for part in (row["per_source"].values() if len(row["per_source"]) > 1 else ())
    )
    drawn = ", ".join(taken(name, row) for name, row in results["taken"].items())
    preferred = [
        "| people's rankings | system | preferred to | share (95 % CI) | rankings | prompts |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results["rankings"].items():
        for system, row in found["systems"].items():
            low, high = row["ci95"]
            preferred.append(
                f"| {name} | {system} | {found['baseline']} | {row['win_rate']:.1%} ({low:.1%} to {high:.1%}) "
                f"| {row['num_rankings']} | {row['num_prompts']} |"
            )
    minutes = ", ".join(f"{name} {value / 60:.0f}" for name, value in results["seconds"].items())
    how = (
        f"`{results['command']}`, {_where(results)}. Minutes: {minutes}. Drawn by chance, seed {results['seed']}: "
        f"{drawn}; Winogender whole. The reward model reads {MAX_RESPONSE_TOKENS} tokens of a reply; "
        f"rankings whose prompt is over its limit are left out. "
        f"Parts of a file with fewer than {FEW_PAIRS} pairs, as most of tulu1's, have no row ({num_few}); the JSON has them."
    )
    tables = ["\n".join(rows) for rows in (lines, pairs, systems)]
    return "\n\n".join([tables[0], scorer(results), tables[1], lengths, tables[2], said, "\n".join(preferred), how])


def scorer(results: dict[str, Any]) -> str:
    """What scored the continuations, and how well it knows scores that it had not seen."""
    told = results["toxicity_classifier"]
    unseen = told["held_out"]
    return (
        f"Toxicity is by the classifier that `toxicity_classifier` trained on {told['num_train']:,} of the file's scored "
        f"continuations: on {told['num_held_out']} others its scores correlate with theirs at {unseen['correlation']:.2f}, AUC "
        f"{unseen['auc']:.2f}. It compares models, and is no measure of the paper's."
    )


def with_people(labelers: dict[str, Any], model: dict[str, Any]) -> str:
    """How often two labelers agree, and the reward model with one, on the pairs that several ranked."""
    if labelers["agreement"] is None or model["agreement"] is None:
        return "all pairs tied"
    shares = [f"{r['agreement']:.1%} ({r['ci95'][0]:.1%} to {r['ci95'][1]:.1%})" for r in (labelers, model)]
    return f"{shares[0]}; {shares[1]}, {labelers['num_pairs']} pairs"


def taken(name: str, row: dict[str, Any]) -> str:
    """What was drawn of a file, and what was left out before."""
    twice = f" ({row['same_reply_twice']} with one reply twice left out)" if "same_reply_twice" in row else ""
    return f"{row['taken']} of {row['records']} of {name}{twice}"


PLACES = {
    "README.md": (miniature, paper_in_miniature, real_data),
    "docs/results.md": (
        paper_figures,
        real_data_figures,
        real_data_gpu,
        rm_learning_curve,
        real_evaluation,
    ),
    "docs/evaluation.md": (lm_eval_agreement,),
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

DRAWINGS = {"docs/overoptimization.svg": overoptimization_svg}

SHARED = {
    "targets": "throughput", "paper_figures": "paper_in_miniature", "real_data_figures": "real_data",
    "overoptimization_svg": "paper_in_miniature",
}  # fmt: skip


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
    for file, draw in DRAWINGS.items():
        results = RESULTS / f"{SHARED[draw.__name__]}.json"
        if results.is_file():
            Path(file).write_text(draw(json.loads(results.read_text(encoding="utf-8"))), encoding="utf-8")
            print(f"{file}: from {results}")


if __name__ == "__main__":
    main()
