"""``lit-instructgpt report``: several results on one page."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import Page

from lit_instructgpt.cli import main
from lit_instructgpt.report.command import merge, report
from lit_instructgpt.report.results import Value, figures

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
        "accuracy": 0.5, "ci95": [0.4, 0.6], "n": 10, "loss": 1.5, "ci95_loss": [1, 2],
        "score": {"mean": 0.25, "ci95": [0.2, 0.3]}, "flag": True, "list": [1, 2], "text": "x", "none": None,
        "deep": {"er": {"value": 7}},
    }  # fmt: skip
    assert dict(figures(content)) == {
        ("accuracy",): Value(0.5, (0.4, 0.6)), ("loss",): Value(1.5, (1, 2)),
        ("score",): Value(0.25, (0.2, 0.3)), ("deep", "er", "value"): Value(7, None),
    }  # fmt: skip


def test_several_results_come_on_one_page_and_into_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = {**POLICIES, "models": {**POLICIES["models"], "ppo": {"win_rate_vs_sft": 0.6, "num_prompts": 9}}}
    files = [
        write(tmp_path / "a/evaluation.json", POLICIES), write(tmp_path / "b/evaluation.json", other),
        write(tmp_path / "tasks.json", BENCHMARK),
    ]  # fmt: skip
    out = tmp_path / "new" / "page.html"
    main(["report", "--out", str(out), "--results", json.dumps(files), "--title", "Both"])
    assert "3 results, 0 runs" in capsys.readouterr().out
    page = Page(out.read_text(encoding="utf-8"))
    for text in (
        "Both",
        "ppo (b/evaluation)",
        "71",
        "hellaswag: none: accuracy",
        "0.430",
        "0.390 to 0.470",
        "Good day.",
    ):
        assert text in page.words, text
    merged = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(merged["models"]) == {"sft", "ppo", "ppo (b/evaluation)"}, "what is the same comes once"
    assert merged["results"] == {"tasks": BENCHMARK}
    assert merged["samples"][1]["responses"] == {"sft": {"text": "Hello."}, "ppo (b/evaluation)": {"text": "Good day."}}
    assert merged["seed"] == 3


def test_results_of_an_older_evaluate_have_no_kind():
    assert merge({"x": {"models": POLICIES["models"]}})["models"] == POLICIES["models"]


def test_whatever_is_wrong_is_said_at_once(tmp_path: Path):
    good = write(tmp_path / "page.json", POLICIES)
    files = [
        str(tmp_path / "missing.json"), write(tmp_path / "list.json", [1]), write(tmp_path / "flat.json", {"models": {"a": 1}}),
        good,
    ]  # fmt: skip
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"missing\.json: cannot be read: No such file") as caught:
        report(str(tmp_path / "page.html"), [*files, str(tmp_path / "broken.json")], {"sft": str(tmp_path / "no")})
    for said in (
        f"--runs.sft: {tmp_path}/no is no directory",
        "list.json: not a result of evaluate, rankings, evaluate_rm, benchmark or lm_eval",
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
