"""``lit-instructgpt report``: several results on one page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import Page

from lit_instructgpt.cli import main
from lit_instructgpt.report.command import merge, report
from lit_instructgpt.report.results import Value, figures, harness_figures

POLICIES = {
    "kind": "policies",
    "models": {
        "sft": {"win_rate_vs_sft": 0.5, "ci95": [0.45, 0.55], "rm_score": 0.1, "num_prompts": 80},
        "ppo": {"win_rate_vs_sft": 0.71, "ci95": [0.66, 0.76], "rm_score": 0.9, "num_prompts": 80},
    },
    "samples": [{"prompt": "Hi", "responses": {"sft": {"text": "Hello."}, "ppo": {"text": "Good day."}}}],
    "seed": 3,
}
BENCHMARK = {
    "kind": "benchmark",
    "models": {
        "sft": {"hellaswag": {"none": {"accuracy": 0.41, "ci95": [0.37, 0.45], "n": 500}}},
        "ppo": {"hellaswag": {"none": {"accuracy": 0.43, "ci95": [0.39, 0.47], "n": 500}}},
    },
    "seed": 0,
}


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_every_figure_is_found_with_its_own_interval():
    content = {
        "accuracy": 0.5, "ci95": [0.4, 0.6], "n": 10, "num_pairs": 9, "loss": 1.5, "ci95_loss": [1, 2],
        "score": {"mean": 0.25, "ci95": [0.2, 0.3]}, "flag": True, "list": [1, 2], "text": "x", "none": None,
        "deep": {"er": {"value": 7}},
    }  # fmt: skip
    assert dict(figures(content)) == {
        ("accuracy",): Value(0.5, (0.4, 0.6), 10), ("loss",): Value(1.5, (1, 2), 10), ("num_pairs",): Value(9, None),
        ("score",): Value(0.25, (0.2, 0.3)), ("deep", "er", "value"): Value(7, None),
    }  # fmt: skip


def tables(page: str) -> list[str]:
    """The text of each table, one space between cells."""
    found = re.findall(r"<table>.*?</table>", page, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", table).split()) for table in found]


def best_cells(page: str) -> list[str]:
    return re.findall(r'<td class="best">([^<]*)', page)


def test_several_results_come_on_one_page_and_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = {
        **POLICIES,
        "models": {
            "old": {"win_rate_vs_old": 0.5, "rm_score": 7.25, "num_prompts": 9},
            "ppo": {"win_rate_vs_old": 0.6, "rm_score": 5.25, "num_prompts": 9},
        },
        "samples": [{"prompt": "Bye", "responses": {"ppo": {"text": "So long."}}}],
        "num_prompts": 9, "wins_by": "pair_judge", "seed": 4, "versions": {"torch": "1.2.3"},
        "rm": {"pair_accuracy": 0.617, "num_pairs": 41},
    }  # fmt: skip
    files = [
        write(tmp_path / "a/evaluation.json", POLICIES), write(tmp_path / "b/evaluation.json", other),
        write(tmp_path / "tasks.json", BENCHMARK),
    ]  # fmt: skip
    out = tmp_path / "new" / "page.html"
    main(["report", "--out", str(out), "--results", json.dumps(files), "--title", "Both"])
    assert "3 results, 0 runs" in capsys.readouterr().out
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    for text in (
        "Both", "hellaswag: none: accuracy", "0.430", "0.390 to 0.470", "Good day.", "So long.",
        "PPO is preferred to SFT on 71 % of 80 held-out prompts", "PPO is preferred to old by the pair judge on 60 % of 9",
        "The reward model ranks 62 % of 41 held-out pairs", "Seed3", "Seed4", "torch 1.2.3",
        "Preferred to SFT Whiskers", "Preferred to old By the pair judge. Whiskers",
    ):  # fmt: skip
        assert text in page.words, text
    of_a, of_b, *_ = tables(html)
    assert "Policies: evaluation" in page.words
    assert "Policies: b/evaluation" in page.words
    assert "0.90" in of_a
    assert "7.25" not in of_a
    assert "Preferred to old" in of_b
    assert "Preferred to SFT" not in of_b
    # of a: win rate, score; of b: win rate, score
    assert best_cells(html) == ["71.0\u00a0%", "0.90", "60.0\u00a0%", "7.25"]
    merged = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert merged == {
        "models": {}, "samples": [], "title": "Both",
        "results": {"evaluation": POLICIES, "b/evaluation": other, "tasks": BENCHMARK},
    }  # fmt: skip


def test_a_lone_result_of_evaluate_stands_as_it_was_written():
    assert merge({"x": POLICIES, "y": BENCHMARK}) == {**POLICIES, "results": {"y": BENCHMARK}}


def test_a_report_is_a_result_too(tmp_path: Path):
    """Nothing of it is lost on a further report's page."""
    both = report(str(tmp_path / "both.html"), [
        write(tmp_path / "a.json", POLICIES), write(tmp_path / "b.json", BENCHMARK),
    ])  # fmt: skip
    again = report(str(tmp_path / "again.html"), [str(tmp_path / "both.json")])
    assert again["results"] == {"both": both}
    words = Page((tmp_path / "again.html").read_text(encoding="utf-8")).words
    assert "PPO is preferred to SFT on 71 %" in words
    assert "hellaswag: none: accuracy" in words


def test_files_of_the_same_name_are_told_apart(tmp_path: Path):
    files = [write(tmp_path / place / "x/tasks.json", BENCHMARK) for place in ("a", "b", "c")]
    assert list(report(str(tmp_path / "page.html"), files)["results"]) == ["tasks", "x/tasks", "c/x/tasks"]
    link = tmp_path / "d.json"
    link.symlink_to(files[0])
    with pytest.raises(ValueError, match=r"d\.json is named twice in results"):
        report(str(tmp_path / "page.html"), [files[0], str(link)])


def test_what_no_report_wrote_is_not_overwritten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    result = write(tmp_path / "x.json", BENCHMARK)
    other = write(tmp_path / "other.json", POLICIES)
    monkeypatch.chdir(tmp_path)
    for out in (str(tmp_path / "x.html"), "x.html"):
        for named, why in (
            (result, "by this report's own JSON"),
            ("x.json", "by this"),
            (other, "and no report wrote it"),
        ):
            with pytest.raises(ValueError, match=rf"x\.json would be overwritten,? {why}.*: give another out"):
                report(out, [named])
    assert json.loads(Path(result).read_text()) == BENCHMARK
    report("page.html", "x.json")
    report("page.html", "other.json")
    assert json.loads(Path("page.json").read_text())["seed"] == POLICIES["seed"], "a report takes the place of a report"


def test_a_directory_without_training_curves_is_refused_and_the_run_above_it_named(tmp_path: Path):
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "sft")) as log:
        log.add_scalar("train/loss", 1.0, 1)
    (tmp_path / "sft/export").mkdir()
    (tmp_path / "empty").mkdir()
    report(str(tmp_path / "page.html"), runs={"sft": str(tmp_path / "sft")})
    with pytest.raises(
        ValueError, match=r"--runs\.a: .*export holds no training curves .*: give .*sft\n--runs\.b: .*logger"
    ):
        report(str(tmp_path / "page.html"), runs={"a": str(tmp_path / "sft/export"), "b": str(tmp_path / "empty")})


def test_the_page_says_of_what_and_how_and_on_how_many_items(tmp_path: Path):
    found = {
        **BENCHMARK,
        "models": {"sft": {"hellaswag": {"accuracy_by_sum": {"mean": 0.5, "ci95": [0.25, 0.75], "n": 12}}}},
        "directories": {"models.sft": {"path": "runs/my/sft/export", "sha256": "ab"}},
        "files": {"hellaswag": {"path": "data/my/hellaswag.jsonl", "sha256": "cd", "n": 12}},
        "settings": {"limit": 12, "styles": ["none", "biased"], "scorer": None, "sampling": {"temperature": 0}},
    }
    report(str(tmp_path / "page.html"), [write(tmp_path / "b.json", found)])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    words = Page(html).words
    assert "0.250 to 0.750, n = 12" in words
    assert "Intervals of fewer than 30 items are too narrow; here are some of 12." in words
    for name, value in (("directories: models.sft", "runs/my/sft/export"), ("files: hellaswag", "data/my/hellaswag.jsonl"),
                        ("limit", "12"), ("styles", "none, biased"), ("sampling: temperature", "0")):  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in html
    assert "<dt>scorer</dt>" not in html


REWARD_MODELS = {
    "kind": "reward_models",
    "models": {
        "rm": {
            "valid": {
                "pair_accuracy": 0.68, "ci95": [0.63, 0.72], "num_pairs": 400, "num_prompts": 400, "length_baseline": 0.61,
                "calibration": {"ece": 0.05, "bins": [{"confidence": 0.6, "accuracy": 0.55, "count": 400}]},
            }
        }
    },
    "agreement": {"valid": {"labelers": {"agreement": 0.74, "ci95": [0.7, 0.78], "num_prompts": 29}}},
}  # fmt: skip


def test_a_reward_model_stands_beside_length_and_labelers_with_its_calibration(tmp_path: Path):
    report(str(tmp_path / "page.html"), [write(tmp_path / "rm.json", REWARD_MODELS)])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    words = Page(html).words
    bars, calibration = [
        svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "<rect" in svg or "circle" in svg
    ]
    assert re.findall(r'class="l"[^>]*>([^<]*)', bars) == ["Reward model", "Longer response", "Labelers agree"]
    assert bars.count('class="whisker"') == 2
    assert "Calibration: Reward model, valid" in words
    assert "Expected calibration error 5.0" in words
    assert "here are some of 29" in words, "the labelers' agreement is of few prompts"
    assert "circle" in calibration


def test_a_result_of_evaluate_rm_without_numbers_has_no_chart(tmp_path: Path):
    found = {
        "kind": "reward_models",
        "models": {"a": {}, "b": {"valid": {}, "new": {"pair_accuracy": 0.7, "num_pairs": 9}}},
    }
    report(str(tmp_path / "page.html"), [write(tmp_path / "rm.json", found)])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("Longer response") == 0
    assert "9 pairs." in Page(html).words


def test_how_often_people_preferred_each_system_to_each_other_is_a_table(tmp_path: Path):
    entry = {"win_rate": 0.75, "ci95": [0.6, 0.9], "num_rankings": 40, "num_prompts": 29}
    other = {"win_rate": 0.25, "ci95": [0.1, 0.4], "num_rankings": 40, "num_prompts": 29}
    found = {"kind": "rankings", "systems": {}, "matrix": {"a": {"b": entry, "c": None}, "b": {"a": other}, "c": {}}}
    report(str(tmp_path / "page.html"), [write(tmp_path / "r.json", found)])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    (table,) = tables(html)
    assert table == (
        "Preferred to (95 % interval) a b c b 0.250 0.100 to 0.400, n = 29 \u2013 \u2013 "
        "a \u2013 0.750 0.600 to 0.900, n = 29 \u2013"
    )
    assert "here are some of 29" in Page(html).words


def test_only_shares_of_all_systems_are_bars(tmp_path: Path):
    """A bar is drawn between 0 and 1: a rating, or a difference below 0 for one system, would be cut there."""
    systems = {
        name: {"preferred": {"mean": share, "ci95": [share - 0.1, share + 0.1]},
               "toxicity": {"mean": relative, "ci95": [relative - 0.1, relative + 0.1]}, "n": 40}
        for name, share, relative in (("a", 0.75, 0.2), ("b", 0.25, -0.6))
    }  # fmt: skip
    report(str(tmp_path / "page.html"), [write(tmp_path / "r.json", {"kind": "rankings", "systems": systems})])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "-0.600" in Page(html).words.replace("\u2212", "-")
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert [label for label in labels if "preferred" in label]
    assert not [label for label in labels if "toxicity" in label]


def test_every_mean_of_evaluate_has_its_interval_on_the_page(tmp_path: Path):
    models = {"sft": {**POLICIES["models"]["sft"], "ci95_rm_score": [-0.125, 0.375]}}
    report(str(tmp_path / "page.html"), [write(tmp_path / "p.json", {**POLICIES, "models": models})])
    (table, *_) = tables((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert re.search(r"0\.10* .?0\.1\d* to 0\.3\d*", table)


def test_the_reward_models_score_is_not_shown_twice(tmp_path: Path):
    models = {name: {**row, "utility": row["rm_score"]} for name, row in POLICIES["models"].items()}
    for judge, shown in (("reward_model", False), ("judge", True)):
        place = write(tmp_path / f"{judge}.json", {**POLICIES, "models": models, "wins_by": judge})
        report(str(tmp_path / "page.html"), [place])
        (table, *_) = tables((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert ("utility" in table) is shown


HARNESS = {
    "kind": "lm_eval",
    "model": "runs/my/ppo/export",
    "results": {
        "arc_easy": {
            "name": "arc_easy", "alias": "arc_easy", "sample_len": 1234,
            "acc,none": 0.55, "acc_stderr,none": 0.05, "acc_norm,none": 0.625, "acc_norm_stderr,none": "N/A",
        },
        "gsm8k": {
            "name": "gsm8k", "alias": "gsm8k", "sample_len": 100,
            "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.02,
            "exact_match,flexible-extract": 0.375, "exact_match_stderr,flexible-extract": 0.03,
        },
        "wikitext": {"alias": "wikitext", "word_perplexity,none": 21.5, "word_perplexity_stderr,none": "N/A"},
    },
    "group_subtasks": {"arc_easy": [], "gsm8k": [], "wikitext": []},
    "configs": {"arc_easy": {"task": "arc_easy", "num_fewshot": 7}},
    "versions": {"arc_easy": 1.0, "gsm8k": 3.0, "wikitext": 2.0},
    "n-shot": {"arc_easy": 0, "gsm8k": 5, "wikitext": 0},
    "higher_is_better": {"arc_easy": {"acc": True, "acc_norm": True}},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 1234}},
    "config": {"model": "hf", "batch_size": 8, "limit": 1234.0},
    "date": 1764000000.5,
}  # fmt: skip
"""In the form of lm-evaluation-harness 0.4.13."""


def test_the_harness_figures_have_intervals_of_196_standard_errors():
    found = harness_figures(HARNESS)
    figures_of_model, errors = found["runs/my/ppo/export"], found["standard error"]
    assert {key: value.value for key, value in figures_of_model.items()} == {
        ("arc_easy", "acc"): 0.55, ("arc_easy", "acc_norm"): 0.625, ("gsm8k", "exact_match", "strict-match"): 0.25,
        ("gsm8k", "exact_match", "flexible-extract"): 0.375, ("wikitext", "word_perplexity"): 21.5,
    }  # fmt: skip
    assert figures_of_model["arc_easy", "acc"].ci95 == pytest.approx((0.452, 0.648))
    assert figures_of_model["gsm8k", "exact_match", "flexible-extract"].ci95 == pytest.approx((0.3162, 0.4338))
    assert figures_of_model["arc_easy", "acc_norm"].ci95 is None
    assert {key: value.value for key, value in errors.items()} == {
        ("arc_easy", "acc"): 0.05, ("gsm8k", "exact_match", "strict-match"): 0.02,
        ("gsm8k", "exact_match", "flexible-extract"): 0.03,
    }  # fmt: skip
    plain = {"model": "m", "results": {"t": {"acc": 0.5, "acc_stderr": 0.1}}}
    assert harness_figures(plain)["m"]["t", "acc"].ci95 == pytest.approx((0.304, 0.696))
    assert list(harness_figures({"model": "m", "results": {"t": {"acc,none": 0.5}}})) == ["m"]


def test_a_result_of_lm_eval_is_on_the_page(tmp_path: Path):
    out = tmp_path / "page.html"
    merged = report(str(out), [write(tmp_path / "harness.json", HARNESS)])
    assert merged["results"] == {"harness": HARNESS}
    html = out.read_text(encoding="utf-8")
    (table,) = tables(html)
    for text in (
        "runs/my/ppo/export standard error", "arc easy: acc 0.550 0.452 to 0.648 0.050", "arc easy: acc norm 0.625 \u2013",
        "gsm8k: exact match: strict-match 0.250 0.211 to 0.289 0.020", "wikitext: word perplexity 21.500 \u2013",
    ):  # fmt: skip
        assert text in table, text
    assert "1,234" not in table
    assert "Intervals: 1.96 standard errors of lm-evaluation-harness to either side." in Page(html).words


def test_models_of_several_files_of_lm_eval_stand_side_by_side_if_they_did_the_same(tmp_path: Path):
    other = {**HARNESS, "model": "runs/my/sft/export", "date": 1764000001.5}
    fewer = {**HARNESS, "model": "runs/my/base", "n-shot": {"arc_easy": 1, "gsm8k": 5, "wikitext": 0}}
    bare = {**HARNESS, "versions": dict(reversed(HARNESS["versions"].items()))}
    chat = {**other, "apply_chat_template": True}
    files = [
        write(tmp_path / f"{name}.json", row)
        for name, row in (("a", bare), ("b", fewer), ("c", other), ("d", HARNESS), ("e", chat))
    ]
    report(str(tmp_path / "page.html"), files)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    heads = [table.split(" arc easy")[0] for table in tables(html)]
    assert heads == [
        "Figure (95 % interval) runs/my/ppo/export runs/my/sft/export",
        "Figure (95 % interval) runs/my/base standard error",
        "Figure (95 % interval) runs/my/ppo/export standard error",
        "Figure (95 % interval) runs/my/sft/export standard error",
    ]
    assert re.findall(r"<h3>(.*?) <small>", html) == ["a, c", "b", "d", "e"]


def test_results_of_an_older_evaluate_have_no_kind():
    assert merge({"x": {"models": POLICIES["models"]}})["models"] == POLICIES["models"]


def test_whatever_is_wrong_is_said_at_once(tmp_path: Path):
    good = write(tmp_path / "page.json", POLICIES)
    files = [
        str(tmp_path / "missing.json"), write(tmp_path / "list.json", [1]), write(tmp_path / "flat.json", {"models": {"a": 1}}),
        write(tmp_path / "word.json", {"models": "all"}), write(tmp_path / "tasks.json", {"kind": "lm_eval", "models": {}}),
        write(tmp_path / "task.json", {"kind": "lm_eval", "results": {"arc_easy": 0.5}}), good,
    ]  # fmt: skip
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"missing\.json: cannot be read: No such file") as caught:
        report(str(tmp_path / "page.html"), [*files, str(tmp_path / "broken.json")], {"sft": str(tmp_path / "no")})
    for said in (
        f"--runs.sft: {tmp_path}/no is no directory",
        "list.json: not a result of evaluate, rankings, evaluate_rm, benchmark or lm_eval: it has no `models` or `systems`",
        "word.json: not a result of",
        "tasks.json: not a result of evaluate, rankings, evaluate_rm, benchmark or lm_eval: it has no `results`",
        "task.json: results must be task -> figures",
        "flat.json: models must be name -> figures",
        "page.json would be overwritten by this report's own JSON",
        "broken.json: no JSON",
    ):
        assert said in str(caught.value), said
    assert json.loads(Path(good).read_text()) == POLICIES, "nothing is written"
    with pytest.raises(ValueError, match=r"nothing to report: give --results FILE\.json"):
        report(str(tmp_path / "x.html"))
    with pytest.raises(ValueError, match=r"x\.txt must end with \.html"):
        report(str(tmp_path / "x.txt"), [good])
