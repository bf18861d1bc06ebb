"""benchmarks.tables: the tables of human records, from results made by hand."""

import json
from pathlib import Path
from typing import Any

from benchmarks.real_evaluation import ORDER, SHOWN, numbers, of_rankings, words_of_systems
from benchmarks.tables import (
    DRAWINGS,
    PLACES,
    SHARED,
    fill,
    real_data,
    real_data_figures,
    real_data_gpu,
    real_evaluation,
    rm_learning_curve,
)


def interval(mean: float, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - 0.1, mean + 0.1], "n": 40, **more}


def source(accuracy: float, above: float) -> dict[str, Any]:
    baseline = {
        "accuracy": 0.5,
        "ci95": [0.4, 0.6],
        "rm_minus_this": above,
        "ci95_of_difference": [above - 0.01, above + 0.01],
    }
    return {
        "num_rankings": 30, "num_pairs": 44, "num_prompts": 30, "rm": {"accuracy": accuracy, "ci95": [0.55, 0.75]},
        "length_baseline": baseline, "bag_of_words_baseline": baseline | {"l2": 3.0, "num_words": 9},
        "rm_above_both": above > 0.01,
    }  # fmt: skip


RESULTS: dict[str, Any] = {
    "command": "python benchmarks/real_data.py --data DIR", "seed": 0, "hardware": "2 CPU cores", "precision": "bf16-mixed",
    "versions": {"torch": "2.13.0"}, "notes": ["a note"], "num_rankings_trained": 96, "num_prompts": 50,
    "sources_with_rm_above_both": ["hh"], "reward_model": {"hh": source(0.661, 0.05), "oasst1": source(0.62, -0.03)},
    "learning_curve": [
        {"num_rankings": num, "sources": {name: {"accuracy": accuracy, "ci95": [0.5, 0.7]} for name in ("hh", "oasst1")}}
        for num, accuracy in ((48, 0.6), (96, 0.661))
    ],
    "policies": {
        "base": {"win_rate_vs_sft": 0.4, "ci95": [0.3, 0.5], "length_controlled_win_rate": 0.41, "rm_score": -1.5,
                 "kl_to_init": 2.25, "text_loss": 3.5, "response_tokens": 60.2, "repetition": 0.03, "stop_rate": 0.9},
    },
    "selection": {
        "comparisons": {"hh": {"train": 80, "train_pairs": 80}, "oasst1": {"train": 20, "train_pairs": 70}},
        "demonstrations": {"dolly": {"train": 16, "valid": 4}}, "episodes": 320,
        "rules": {"comparisons": "the shortest"},
    },
    "seconds": {"sft": 60.0, "total": 3600.0},
}  # fmt: skip


def cells(table: str, first: str) -> list[str]:
    """The row that begins so, without its ends."""
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_pages_show_the_results_that_are_committed():
    """Nothing was typed into a table, and no result was exchanged without its table."""
    for file, tables in PLACES.items():
        text = Path(file).read_text(encoding="utf-8")
        for table in tables:
            results = Path("benchmarks/results") / f"{SHARED.get(table.__name__, table.__name__)}.json"
            if results.is_file():
                found = json.loads(results.read_text(encoding="utf-8"))
                assert fill(text, table.__name__, table(found)) == text, f"{file}: run python -m benchmarks.tables"
    for file, draw in DRAWINGS.items():
        found = json.loads(Path(f"benchmarks/results/{SHARED[draw.__name__]}.json").read_text(encoding="utf-8"))
        assert Path(file).read_text(encoding="utf-8") == draw(found), f"{file}: run python -m benchmarks.tables"


def test_the_reward_model_on_human_rankings():
    table = real_data(RESULTS)
    assert cells(table, "hh") == [
        "hh",
        "44",
        "66.1% (55.0% to 75.0%)",
        "50.0%; +5.0 (4.0 to 6.0)",
        "50.0%; +5.0 (4.0 to 6.0)",
    ]
    assert cells(table, "oasst1")[3] == "50.0%; -3.0 (-4.0 to -2.0)"
    assert "60 rankings to measure on, 96 to train on. Above both baselines: hh." in table


def test_the_course_of_the_reward_model_and_the_policies():
    page = real_data_figures(RESULTS)
    assert cells(page, "48") == ["48", "60.0% (50.0% to 70.0%)", "60.0% (50.0% to 70.0%)"]
    assert cells(page, "base") == [
        "base",
        "0.400 (0.300 to 0.500)",
        "0.410",
        "-1.500",
        "2.250",
        "3.500",
        "60.2",
        "0.030",
        "0.900",
    ]
    assert "hh 80 rankings (80 pairs), oasst1 20 rankings (70 pairs), of which 96 rankings are within the limit" in page
    assert "Minutes: sft 1, total 60." in page
    assert "- comparisons: the shortest" in page
    assert page.endswith("- a note")
    assert page.startswith(f"{real_data_gpu(RESULTS)}\n\nSelected are:"), "rules and notes are said once"


PREFERRED: dict[str, Any] = {
    "baseline": "b",
    "systems": {
        "a": {"characters": 80.0, "against_baseline": {
            "win_rate": 0.75, "ci95": [0.6, 0.9], "length_controlled_win_rate": 0.7, "num_rankings": 40, "num_prompts": 30,
            "num_labelers": 5, "tie_rate": 0.1, "per_labeler": {},
        }},
        "b": {"characters": 70.0, "against_baseline": None},
    },
    "agreement": {"agreement": 0.8},
}  # fmt: skip


def test_a_learning_curve_says_what_size_it_took_or_would_take():
    curve = [
        {"num_rankings": size, "num_pairs": 2 * size, "by_source": {"hh": size}, "seconds": {"fit": 60.0, "figures": 30.0},
         "sources": {"hh": source(0.6, gain), "oasst1": source(0.55, gain / 10), "qa": source(0.5, 0.001)}}
        for size, gain in ((200, 0.02), (400, 0.06))
    ]  # fmt: skip
    sources = {
        "hh": {"above_both_from": 200, "size_by_line": None, "slope": None, "half_of_interval": 0.01},
        "oasst1": {
            "above_both_from": None,
            "size_by_line": 12000,
            "slope": [0.01, 0.005, 0.015],
            "half_of_interval": 0.01,
        },
        "qa": {
            "above_both_from": None,
            "size_by_line": None,
            "slope": [-0.005, -0.018, 0.008],
            "half_of_interval": 0.01,
        },
    }
    page = rm_learning_curve(
        {**RESULTS, "command": "python x.py", "num_available": 5000, "commands": 2, "curve": curve, "sources": sources}
    )
    assert cells(page, "hh | 400 | 400")[3:] == ["60.0% (55.0% to 75.0%)", *["50.0%; +6.0 (5.0 to 7.0)"] * 2]
    assert cells(page, "qa | 200 | 0")[3] == "50.0% (55.0% to 75.0%)", "none of its own among them"
    assert "- hh: above both baselines from 200 rankings on. Its 30 validation" in page
    by_line = (
        "not above both; by a line through its gains over log2(rankings) it takes about 12,000 of all sources together"
    )
    assert f"- oasst1: {by_line}. Its 30" in page
    assert (
        "- qa: not above both; 2 sizes do not tell how many it takes (with each doubling the gain over the better baseline "
        "changes by -0.5 points, -1.8 to 0.8). Its 30 validation" in page
    )
    assert "3 minutes in 2 commands, side by side or not, on 2 CPU cores" in page


def test_the_evaluations_on_public_files():
    benchmark: dict[str, Any] = {}
    for task, variant, key in SHOWN:
        place = benchmark.setdefault(task, {})
        (place.setdefault(variant, {}) if variant else place)[key] = interval(0.25)
    sources = {name: {"accuracy": 0.6, "ci95": [0.5, 0.7], "num_pairs": num, "length_baseline": 0.5,
                      "accuracy_minus_length_baseline": {"mean": 0.1, "ci95": [0.01, 0.2]}}
               for name, num in (("many", 10), ("few", 9))}  # fmt: skip
    pairs = {"pair_accuracy": 0.6, "ci95": [0.5, 0.7], "num_pairs": 18, "num_tied": 2, "num_prompts": 19,
             "length_baseline": 0.55, "accuracy_minus_length_baseline": {"mean": 0.05, "ci95": [-0.02, 0.125]},
             "per_source": sources, "left": "out",
             "calibration": {"ece": 0.125, "ece_by_chance": 0.09}}  # fmt: skip
    scores = {
        name: {"score": i / 2, "ci95": [0.0, 1.0], "num_outputs": 19, "num_empty": 0} for i, name in enumerate(ORDER)
    }
    found = {
        "models": {"rm": {"tulu1": pairs}}, "agreement": {"tulu1": {
            "labelers": {"agreement": 0.75, "num_pairs": 12, "ci95": [0.5, 1.0]},
            "models": {"rm": {"agreement": 0.625, "ci95": [0.25, 0.875]}},
        }},
        "files": {"tulu1": {"path": "x", "rows": 20, "measured": 19}},
        "outputs": {"models": {"rm": scores}, "order": {"models": {"rm": {"mean_rises": True, "rising": interval(0.5)}}}},
    }  # fmt: skip
    report = {
        "command": "python benchmarks/real_evaluation.py --data DIR", "seed": 0, "hardware": "2 CPU cores",
        "versions": {"torch": "2.13.0"}, "taken": {"tulu1": {"records": 99, "same_reply_twice": 3, "taken": 20}},
        "toxicity_classifier": {"num_train": 4475, "num_held_out": 493, "held_out": {"correlation": 0.796, "auc": 0.909}},
        "rankings": {"tulu1": of_rankings(PREFERRED)}, "seconds": {"benchmark": 600.0, "evaluate_rm": 90.0},
        "benchmark": {"base": benchmark, "sft": benchmark}, "reward_model": numbers(found),
        "output_words": words_of_systems([{"outputs": dict.fromkeys(ORDER, "a b c")}, {"outputs": dict.fromkeys(ORDER, "d")}]),
    }  # fmt: skip
    page = real_evaluation(report)
    assert cells(page, "hellaswag, accuracy_by_average, n = 40")[1:] == ["0.250 (0.150 to 0.350)"] * 2
    assert cells(page, "tulu1 | 19 of 20")[1:] == [
        "19 of 20",
        "18",
        "2",
        "60.0% (50.0% to 70.0%)",
        "55.0%; +5.0 (-2.0 to 12.5)",
        "0.125; 0.090",
        "75.0% (50.0% to 100.0%); 62.5% (25.0% to 87.5%), 12 pairs",
    ]
    assert cells(page, ORDER[2])[1:] == ["1.000 (0.000 to 1.000)", "19", "2"]
    assert cells(page, "tulu1: many")[2] == "10"
    assert "few |" not in page, "nine pairs say nothing of a source"
    assert "rises at 50.0% of the prompts (40.0% to 60.0%; by chance 16.7 %)" in page
    assert "with fewer than 10 pairs, as most of tulu1's, have no row (1)" in page
    assert cells(page, "tulu1: many")[5] == "50.0%; +10.0 (1.0 to 20.0)"
    assert "above the longer answer, its interval too, on: none; below it on: none." in page
    for (low, high), where in (
        ((0.01, 0.1), "on: tulu1; below it on: none."),
        ((-0.2, -0.1), "on: none; below it on: tulu1."),
    ):
        pairs["accuracy_minus_length_baseline"]["ci95"] = [low, high]
        assert where in real_evaluation(report | {"reward_model": numbers(found)})
    assert "20 of 99 of tulu1 (3 with one reply twice left out)" in page
    assert cells(page, "tulu1 | a")[2:] == ["b", "75.0% (60.0% to 90.0%)", "40", "30"]
    assert "trained on 4,475" in page
    assert "correlate with theirs at 0.80, AUC 0.91" in page
    assert "Minutes: benchmark 10, evaluate_rm 2" in page
