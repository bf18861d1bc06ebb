"""Reward models beside people, against plain transformers models and loops over all pairs."""

import json
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from documents import documented
from stages import READING, plain_scorer, score_of, whole_ids, write
from transformers import AutoModelForSequenceClassification

from lit_instructgpt.cli import main
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.evaluation import reward_models, system_outputs
from lit_instructgpt.evaluation.agreement import labeler_agreement, model_agreement, shared_pairs
from lit_instructgpt.evaluation.evaluate_rm import evaluate_rm
from lit_instructgpt.evaluation.reward_models import (
    Measurable,
    calibration,
    measurable,
    pair_report,
    read_comparisons,
    reward_model_report,
    score_comparisons,
    untied_pairs,
)
from lit_instructgpt.evaluation.statistics import bootstrap_ci
from lit_instructgpt.formatting import SIDECAR, PromptFormat, format_dict
from lit_instructgpt.models import quiet_loading
from lit_instructgpt.records import Comparison, read_records
from lit_instructgpt.rewards import ModelReward

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
Row = dict[str, Any]

RED, ONE = ["red", "dog", "red fox"], ["a", "list of three", "it is", "no"]
VALID: list[Row] = [
    {"prompt": "say red", "responses": RED, "ranking": [2, 3, 1], "labeler": "ann", "source": "web"},
    {"prompt": "say red", "responses": RED[::-1], "ranking": [1, 2, 1], "labeler": "bob", "source": "web"},
    {"prompt": "say red", "responses": RED, "ranking": [1, 2, 3], "labeler": "cat", "criterion": "style"},
    {"prompt": "one", "responses": ONE, "ranking": [1, 3, 2, 3], "labeler": "bob"},
    {"prompt": "one", "responses": ONE, "ranking": [2, 1, 3, 4], "labeler": "ann"},
    {"prompt": "one", "responses": ONE, "ranking": [4, 1, 3, 2], "labeler": "cat"},
    {"prompt": "one", "responses": ONE, "ranking": [1, 2, 3, 4]},
    {"prompt": "say hello", "responses": ["hello", "quick"], "ranking": [1, 2], "labeler": "ann", "source": "api"},
    {"prompt": "say hello", "responses": ["hello", "quick"], "ranking": [1, 1], "labeler": "bob", "source": "api"},
    {"prompt": "stop", "responses": ["yes", "no", "no, it is long"], "ranking": [3, 1, 1], "labeler": "bob"},
]
NEW: list[Row] = [
    {"prompt": "stop", "responses": ["yes", "no"], "ranking": [1, 2]},
    {"prompt": "go", "responses": ["one, two", "a"], "ranking": [2, 1]},
]
OUTPUTS: list[Row] = [
    {"prompt": "say red", "outputs": {"v1": "dog", "v2": "red", "v3": "red fox"}, "reference": "red"},
    {"prompt": "say red", "outputs": {"v1": "fox", "v2": "quick", "v3": "red, red"}},
    {"prompt": "one", "outputs": {"v1": "", "v2": "list", "v3": "one"}},
    {"prompt": "hello", "outputs": {"v3": "hello, town", "v2": "no", "v1": None, "old": " "}},
]
SYSTEMS = ["v1", "v2", "v3"]


@pytest.fixture(scope="module")
def models(make_dir: Callable[..., str], tiny_reward_dir: Callable[[str], str]) -> dict[str, str]:
    """The second is of another family; both have the same tokenizer."""
    return {"first": tiny_reward_dir("gpt_neox"), "second": make_dir("llama", reward=True, seed=4)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("files")
    rows = {"valid": VALID, "new": NEW, "outputs": OUTPUTS}
    return {name: write(path / f"{name}.jsonl", of_name) for name, of_name in rows.items()}


@pytest.fixture(scope="module")
def report(models: dict[str, str], files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Row:
    """One report with everything in it."""
    out = tmp_path_factory.mktemp("report") / "new" / "report.json"
    found = evaluate_rm(
        models, str(out), {"valid": files["valid"], "new": files["new"]}, files["outputs"], "v1, v2,v3", READING,
        batch_size=5, seed=3,
    )  # fmt: skip
    assert json.loads(out.read_text()) == found
    return found


@pytest.fixture(scope="module")
def score(models: dict[str, str], tokenizer: Any) -> Callable[[str, str, str], float]:
    """``score(model, prompt, response)``, by plain transformers on the bare sequence."""
    scorers = {name: plain_scorer(path) for name, path in models.items()}

    def of(model: str, prompt: str, response: str) -> float:
        with torch.no_grad():
            return score_of(scorers[model], whole_ids(tokenizer, prompt, response)).item()

    return of


def step(margin: float) -> float:
    return 1.0 if margin > 0 else 0.0 if margin < 0 else 0.5


def numbered(prompts: list[str]) -> list[int]:
    return [list(dict.fromkeys(prompts)).index(prompt) for prompt in prompts]


def better_and_worse(row: Row) -> Iterator[tuple[str, str]]:
    for i, first in enumerate(row["responses"]):
        for j, second in enumerate(row["responses"]):
            if row["ranking"][i] < row["ranking"][j]:
                yield first, second


# ------------------------------------------------------------------ pair accuracy


def counted(
    rows: list[Row], score: Callable[[str, str, str], float], model: str
) -> tuple[list[float], list[float], list[str]]:
    """Of every untied pair: whether the model is right, whether the longer is better, and the prompt."""
    right, longer, prompts = [], [], []
    for row in rows:
        for better, worse in better_and_worse(row):
            right.append(step(score(model, row["prompt"], better) - score(model, row["prompt"], worse)))
            longer.append(step(len(better) - len(worse)))
            prompts.append(row["prompt"])
    return right, longer, prompts


@pytest.mark.parametrize("model", ["first", "second"])
@pytest.mark.parametrize("name", ["valid", "new"])
def test_pair_accuracy_is_counted_over_untied_pairs(
    report: Row, score: Callable[[str, str, str], float], model: str, name: str
):
    rows = {"valid": VALID, "new": NEW}[name]
    found = report["models"][model][name]
    right, longer, prompts = counted(rows, score, model)
    assert found["pair_accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["length_baseline"] == pytest.approx(sum(longer) / len(longer))
    gain = found["accuracy_minus_length_baseline"]
    assert gain["mean"] == pytest.approx((sum(right) - sum(longer)) / len(right))
    assert gain["ci95"] == pytest.approx(bootstrap_ci(np.array(right) - np.array(longer), numbered(prompts), seed=3))
    assert found["num_pairs"] == len(right)
    assert found["num_prompts"] == len(set(prompts))
    assert found["num_tied"] == sum(math.comb(len(row["responses"]), 2) for row in rows) - len(right)
    assert found["ci95"] == pytest.approx(bootstrap_ci(np.array(right), numbered(prompts), seed=3))


@pytest.mark.parametrize(
    ("part", "groups"),
    [
        ("per_source", {"web": [0, 1], "api": [7, 8], "data": [2, 3, 4, 5, 6, 9]}),
        ("per_labeler", {"ann": [0, 4, 7], "bob": [1, 3, 8, 9], "cat": [2, 5], "unknown": [6]}),
        ("per_k", {"2": [7, 8], "3": [0, 1, 2, 9], "4": [3, 4, 5, 6]}),
    ],
)
def test_pair_accuracy_by_source_labeler_and_number_of_responses(
    report: Row, score: Callable[[str, str, str], float], part: str, groups: dict[str, list[int]]
):
    found = report["models"]["first"]["valid"][part]
    assert set(found) == set(groups)
    for name, rows in groups.items():
        right, longer, prompts = counted([VALID[i] for i in rows], score, "first")
        entry = found[name]
        assert entry["accuracy"] == pytest.approx(sum(right) / len(right))
        assert entry["length_baseline"] == pytest.approx(sum(longer) / len(longer))
        assert (entry["num_pairs"], entry["num_prompts"]) == (len(right), len(set(prompts)))
        assert entry["ci95"][0] <= entry["accuracy"] <= entry["ci95"][1]


def made(scores: list[list[float]], rows: list[Row]) -> Any:
    records = [Comparison(**row) for row in rows]
    return untied_pairs(records, scores, "here")


def test_pairs_by_hand():
    rows = [
        {"prompt": "p", "responses": ["a", "bb", "cc"], "ranking": [5, 1, 1]},
        {"prompt": "p", "responses": ["a", "bb"], "ranking": [1, 2], "labeler": "ann"},
        {"prompt": "q", "responses": ["x", "y"], "ranking": [2, 1]},
    ]
    pairs = made([[0.0, 3.0, -1.0], [0.5, 0.5], [1.0, 2.0]], rows)
    assert pairs.margin.tolist() == [3.0, -1.0, 0.0, 1.0]
    assert pairs.longer.tolist() == [1.0, 1.0, 0.0, 0.5]
    assert pairs.prompt.tolist() == [0, 0, 0, 1]
    assert pairs.num_tied == 1
    whole = pair_report(pairs)
    assert whole["pair_accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert whole["ci95"] == [0.5, 1.0], "prompts: 1.5 of 3 and 1 of 1"
    assert whole["per_labeler"]["ann"]["accuracy"] == 0.5


def test_the_longer_response_is_longer_beyond_what_the_model_reads(models: dict[str, str]):
    """All are cut to the same three tokens: the model scores them alike, and the longer one is still the better one."""
    rows = [{"prompt": f"say {i}", "responses": ["abc" * (9 - i), "abc" * 20], "ranking": [2, 1]} for i in range(4)]
    scorer, reading = ModelReward(models["first"]), Reading(max_response_tokens=3)
    records = [Comparison(**row) for row in rows]
    found = pair_report(untied_pairs(records, score_comparisons(scorer, records, reading, "here"), "here"))
    assert found["length_baseline"] == 1.0
    assert found["pair_accuracy"] == 0.5
    assert found["accuracy_minus_length_baseline"]["mean"] == -0.5


def test_all_rankings_of_a_prompt_are_resampled_together():
    """Fifty prompts, each ranked by ten people of one mind: as wide as fifty pairs, not as five hundred."""
    right = np.random.default_rng(1).random(50) < 0.6
    rows = [{"prompt": f"{i}", "responses": ["a", "b"], "ranking": [1, 2]} for i in range(50) for _ in range(10)]
    whole = pair_report(made([[1.0, 0.0] if right[i // 10] else [0.0, 1.0] for i in range(500)], rows))
    assert whole["ci95"] == pytest.approx(bootstrap_ci(right.astype(float)), abs=1e-9)


def test_the_gap_that_a_calibrated_model_shows_by_chance():
    """Of one bin it is the mean absolute deviation of a binomial share; of drawn pairs what such a model has on average."""
    num, chance = 30, 0.8
    margins = np.full(num, math.log(chance / (1 - chance)))
    told = sum(
        math.comb(num, k) * chance**k * (1 - chance) ** (num - k) * abs(k / num - chance) for k in range(num + 1)
    )
    assert calibration(margins)["ece_by_chance"] == pytest.approx(told, rel=0.15)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(100):
        size = np.abs(rng.normal(0, 1, 134))
        right = rng.random(134) < 1 / (1 + np.exp(-size))
        found = calibration(np.where(right, size, -size))
        drawn.append((found["ece"], found["ece_by_chance"]))
    assert np.mean(drawn, axis=0)[0] == pytest.approx(np.mean(drawn, axis=0)[1], rel=0.05)


def test_calibration_by_hand():
    """Confidences 0.5, 0.6, 0.6, 0.9, 0.98 and 0.98: right, right, wrong, right, right and wrong."""
    margins = [0.0, math.log(1.5), -math.log(1.5), math.log(9), math.log(49), -math.log(49)]
    found = calibration(np.array(margins))
    assert [(pytest.approx(b["confidence"]), b["accuracy"], b["count"]) for b in found["bins"]] == [
        (0.5, 0.5, 1), (0.6, 0.5, 2), (0.9, 1.0, 1), (0.98, 0.5, 2),
    ]  # fmt: skip
    assert found["ece"] == pytest.approx((0 + 2 * 0.1 + 0.1 + 2 * 0.48) / 6)
    assert calibration(np.array([800.0, 800.0]))["ece_by_chance"] == 0
    assert calibration(np.array([800.0, 800.0]))["bins"] == [{"confidence": 1.0, "accuracy": 1.0, "count": 2}]


def test_calibration_counts_every_pair(report: Row):
    for name in ("first", "second"):
        found = report["models"][name]["valid"]
        assert sum(b["count"] for b in found["calibration"]["bins"]) == found["num_pairs"]


def test_models_are_compared_on_the_same_pairs(report: Row, score: Callable[[str, str, str], float]):
    assert report["differences"]["against"] == "first"
    assert set(report["differences"]["models"]) == {"second"}
    found = report["differences"]["models"]["second"]["valid"]
    first, _, prompts = counted(VALID, score, "first")
    second, _, _ = counted(VALID, score, "second")
    gain = np.array(second) - np.array(first)
    assert gain.any()
    assert found["accuracy_difference"] == pytest.approx(gain.mean())
    assert found["num_pairs"] == len(gain)
    assert found["ci95"] == pytest.approx(bootstrap_ci(gain, numbered(prompts), seed=3))


# ------------------------------------------------------------------ agreement


def test_agreement_with_labelers_is_counted_on_pairs_that_two_ranked(
    report: Row, score: Callable[[str, str, str], float]
):
    agreed: list[bool] = []
    by_model: dict[str, list[float]] = {"first": [], "second": []}
    tied = 0
    for one, other in combinations(VALID, 2):
        if one["prompt"] != other["prompt"] or set(one["responses"]) != set(other["responses"]):
            continue
        if "labeler" not in one or "labeler" not in other or one.get("criterion") != other.get("criterion"):
            continue
        first, second = (dict(zip(row["responses"], row["ranking"], strict=True)) for row in (one, other))
        for a, b in combinations(first, 2):
            if first[a] == first[b] or second[a] == second[b]:
                tied += 1
                continue
            agreed.append((first[a] < first[b]) == (second[a] < second[b]))
            for model, shares in by_model.items():
                prefers = score(model, one["prompt"], a) > score(model, one["prompt"], b)
                shares.append(((prefers == (first[a] < first[b])) + (prefers == (second[a] < second[b]))) / 2)
    found = report["agreement"]["valid"]
    people = found["labelers"]
    assert people["agreement"] == pytest.approx(sum(agreed) / len(agreed))
    assert (people["num_pairs"], people["num_tied"], people["num_prompts"]) == (len(agreed), tied, 2)
    assert (people["num_rankings"], people["num_without_labeler"]) == (2 + 3 + 2, 1)
    for model, shares in by_model.items():
        assert found["models"][model]["agreement"] == pytest.approx(sum(shares) / len(shares))
        low, high = found["models"][model]["ci95"]
        assert low <= found["models"][model]["agreement"] <= high
    assert "new" not in report["agreement"], "nobody ranked the same"


def test_agreement_by_hand():
    """ann and bob agree on two of three pairs, cat and dan on one of one; the model is right on all of ann's."""
    texts = ["a", "b", "c"]
    records = [
        Comparison(prompt="p", responses=texts, ranking=[1, 2, 3], labeler="ann"),
        Comparison(prompt="p", responses=["c", "a", "b"], ranking=[5, 3, 1], labeler="bob"),
        Comparison(prompt="q", responses=["x", "x", "y"], ranking=[1, 1, 2], labeler="cat"),
        Comparison(prompt="q", responses=["y", "x"], ranking=[2, 1], labeler="dan"),
        Comparison(prompt="q", responses=["y", "x"], ranking=[1, 2], labeler="dan"),
        Comparison(prompt="q", responses=["y", "z"], ranking=[1, 2], labeler="eve"),
    ]
    pairs = shared_pairs(records)
    people = labeler_agreement(pairs)
    assert people is not None
    assert people["num_pairs"] == 3 + 2, "dan is not compared with dan"
    assert people["agreement"] == pytest.approx((2 + 1) / 5)
    scores = [{"a": 3.0, "b": 2.0, "c": 1.0}] * 2 + [{"x": 0.0, "y": 0.0, "z": 0.0}] * 4
    assert model_agreement(pairs, scores)["agreement"] == pytest.approx((1 + 1 + 0.5 + 0.5 + 0.5) / 5)
    assert people["ci95"] == [0.5, pytest.approx(2 / 3)]


def test_pairs_that_all_tie_have_no_agreement():
    rows = [Comparison(prompt="p", responses=["a", "b"], ranking=r, labeler=f"{r}") for r in ([1, 1], [1, 2])]
    pairs = shared_pairs(rows)
    people = labeler_agreement(pairs)
    assert people is not None
    assert (people["agreement"], people["ci95"], people["num_tied"]) == (None, None, 1)
    assert model_agreement(pairs, [{"a": 0.0, "b": 1.0}] * 2) == {"agreement": None, "ci95": None}


# ------------------------------------------------------------------ outputs of systems


def test_mean_scores_of_systems(report: Row, score: Callable[[str, str, str], float]):
    for model in ("first", "second"):
        found = report["outputs"]["models"][model]
        assert set(found) == {*SYSTEMS, "old"}
        for system, entry in found.items():
            rows = [row for row in OUTPUTS if row["outputs"].get(system) is not None]
            scores = [score(model, row["prompt"], row["outputs"][system]) for row in rows]
            assert entry["score"] == pytest.approx(np.mean(scores), abs=1e-5)
            assert entry["num_outputs"] == len(rows)
            assert entry["ci95"][0] - 1e-9 <= entry["score"] <= entry["ci95"][1] + 1e-9
        assert (found["v1"]["num_empty"], found["v3"]["num_empty"], found["old"]["num_empty"]) == (1, 0, 1)


def test_the_order_of_systems(report: Row, score: Callable[[str, str, str], float]):
    assert report["outputs"]["order"]["systems"] == SYSTEMS
    for model in ("first", "second"):
        found = report["outputs"]["order"]["models"][model]
        scores = np.array([[score(model, row["prompt"], row["outputs"][s]) for s in SYSTEMS] for row in OUTPUTS[:3]])
        gains = np.diff(scores)
        assert (found["num_prompts"], found["num_left_out"]) == (2, 1)
        assert found["mean_rises"] == all(gains.mean(0) > 0)
        assert list(found["differences"]) == ["v1 to v2", "v2 to v3"]
        for i, difference in enumerate(found["differences"].values()):
            assert difference["mean"] == pytest.approx(gains[:, i].mean(), abs=1e-5)
            assert difference["ci95"] == pytest.approx(bootstrap_ci(gains[:, i], [0, 0, 1], seed=3), abs=1e-5)
        rising = np.array([row[0] < row[1] < row[2] for row in scores], dtype=float)
        assert found["rising"]["mean"] == pytest.approx(rising.mean())
        assert found["rising"]["ci95"] == bootstrap_ci(rising, [0, 0, 1], seed=3)
        rho = [scipy.stats.spearmanr(row, range(3)).statistic for row in scores]
        assert found["spearman"]["mean"] == pytest.approx(np.mean(rho))


def test_a_rise_is_seen_and_its_reverse_is_not():
    scores = [{"a": 0.0, "b": 1.0, "c": 3.0}, {"a": 0.0, "b": 2.0, "c": 1.0}]
    up = system_outputs.order_report(scores, [0, 1], ["a", "b", "c"])
    assert up["mean_rises"]
    assert {step: gain["mean"] for step, gain in up["differences"].items()} == {"a to b": 1.5, "b to c": 0.5}
    assert (up["rising"]["mean"], up["spearman"]["mean"]) == (0.5, pytest.approx((1 + 0.5) / 2))
    assert up["differences"]["b to c"]["ci95"] == [-1.0, 2.0]
    down = system_outputs.order_report(scores, [0, 1], ["c", "b", "a"])
    assert not down["mean_rises"]
    assert (down["rising"]["mean"], down["spearman"]["mean"]) == (0.0, pytest.approx(-0.75))


# ------------------------------------------------------------------ any model, any file


def test_what_the_report_says_of_itself(report: Row, files: dict[str, str]):
    assert report["kind"] == "reward_models"
    assert report["seed"] == 3
    assert {name: (entry["path"], entry["rows"]) for name, entry in report["files"].items()} == {
        name: (path, len(rows)) for (name, path), rows in zip(files.items(), (VALID, NEW, OUTPUTS), strict=True)
    }
    assert all(len(entry["sha256"]) == 64 for entry in report["files"].values())
    assert {"lit-instructgpt", "torch", "transformers"} <= set(report["versions"])


def test_every_key_is_documented(report: Row):
    model, agreement = report["models"]["first"]["valid"], report["agreement"]["valid"]
    keys = {*report, *model, *agreement["labelers"], *report["outputs"], *report["outputs"]["order"]["models"]["first"]}
    keys |= set(report["differences"]["models"]["second"]["valid"])
    assert documented("Reward models") == keys
    entries = [*model["per_source"].values(), *model["per_labeler"].values(), *model["per_k"].values()]
    named = {"accuracy", "ci95", "num_pairs", "num_prompts", "length_baseline", "accuracy_minus_length_baseline"}
    assert all(set(e) == named for e in entries)
    assert set(report["outputs"]["models"]["first"]["v1"]) == {
        "score",
        "ci95",
        "num_outputs",
        "num_prompts",
        "num_empty",
    }


def test_any_sequence_classifier_is_measured(
    make_tokenizer: Callable[..., Any], make_dir: Callable[..., str], files: dict[str, str], tmp_path: Path
):
    """A directory that this package did not write: its pad token is EOS, and it knows no format of ours."""
    tokenizer = make_tokenizer(pad_token="<|endoftext|>")
    path = make_dir("gpt2", reward=True, tokenizer=tokenizer, seed=9)
    report = evaluate_rm({"rm": path}, str(tmp_path / "r.json"), {"new": files["new"]}, reading=READING)
    scorer = plain_scorer(path)
    right = []
    for row in NEW:
        for better, worse in better_and_worse(row):
            with torch.no_grad():
                a, b = (score_of(scorer, whole_ids(tokenizer, row["prompt"], text)).item() for text in (better, worse))
            right.append(step(a - b))
    assert report["models"]["rm"]["new"]["pair_accuracy"] == pytest.approx(sum(right) / len(right))
    assert report["differences"] is None
    assert report["outputs"] is None


def test_prompts_too_long_for_one_model_are_left_out_for_all(
    models: dict[str, str], make_dir: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(reward_models, "rank_zero_info", said.append)
    wordy = make_dir("gpt_neox", reward=True, seed=5)  # its template alone has 17 of the 24 tokens
    (Path(wordy) / SIDECAR).write_text(json.dumps({"format": format_dict(PromptFormat("zqzqzqzqzqzqzqzq{prompt}\n"))}))
    prompts = ["xqzj", "xqzjvwkp", "kp"]  # 4, 8 and 2 tokens
    comparisons = write(tmp_path / "c.jsonl", [{**NEW[0], "prompt": prompt} for prompt in prompts])
    outputs = write(tmp_path / "o.jsonl", [{**OUTPUTS[0], "prompt": prompt} for prompt in prompts])
    both = {"first": models["first"], "wordy": wordy}
    report = evaluate_rm(both, str(tmp_path / "r.json"), {"c": comparisons}, outputs, reading=READING)
    assert [report["models"][name]["c"]["num_pairs"] for name in both] == [2, 2]
    assert [report["outputs"]["models"][name]["v1"]["num_outputs"] for name in both] == [2, 2]
    assert report["files"]["c"]["rows"] == 3
    assert [report["files"][name]["measured"] for name in ("c", "outputs")] == [2, 2]
    left_out = "1 of 3 prompts have more than 24 tokens for some model and are left out for all"
    assert said == [f"comparisons.c: {left_out}", f"outputs: {left_out}"]
    long = write(tmp_path / "long.jsonl", [{**NEW[0], "prompt": prompts[1]}])
    with pytest.raises(ValueError, match=r"comparisons\.c: 1 of 1 .*: raise reading\.max_prompt_tokens"):
        evaluate_rm(both, str(tmp_path / "s.json"), {"c": long}, reading=READING)


def fitting_of(scorer: ModelReward, files: dict[str, str], name: str) -> Measurable:
    return measurable(read_comparisons(READING, {name: files[name]})[name], scorer, READING)


def test_each_text_is_scored_once(models: dict[str, str], files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    scorer = ModelReward(models["first"])
    asked: list[tuple[int, ...]] = []
    plain = scorer.score_sequences
    monkeypatch.setattr(scorer, "score_sequences", lambda ids, num: asked.extend(map(tuple, ids)) or plain(ids, num))
    report = reward_model_report(scorer, READING, fitting_of(scorer, files, "valid"))
    assert len(asked) == len(set(asked)) == len(RED) + len(ONE) + 2 + 3
    assert set(report) == {
        "pair_accuracy", "ci95", "num_pairs", "length_baseline", "accuracy_minus_length_baseline", "calibration", "per_source",
    }  # fmt: skip


def test_held_out_labelers_beside_the_others(
    models: dict[str, str], files: dict[str, str], score: Callable[[str, str, str], float], tokenizer: Any
):
    scorer = ModelReward(models["first"])
    found = reward_model_report(scorer, READING, fitting_of(scorer, files, "valid"), fitting_of(scorer, files, "new"))
    right, _, _ = counted(NEW, score, "first")
    assert found["pair_accuracy_held_out_labelers"] == pytest.approx(sum(right) / len(right))
    assert found["ci95_held_out_labelers"] == pytest.approx(bootstrap_ci(np.array(right)))
    right, _, _ = counted(VALID, score, "first")
    assert found["pair_accuracy"] == pytest.approx(sum(right) / len(right))


def test_the_command(models: dict[str, str], files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "r.json"
    main([
        "evaluate_rm", "--models.first", models["first"], "--models.my-2nd", models["second"], "--comparisons.a", files["valid"],
        "--comparisons.both", f"[{files['new']}, {files['valid']}]", "--outputs", files["outputs"], "--order", "v1,v2,v3",
        "--reading.max_tokens", "64", "--reading.max_prompt_tokens", "24", "--out", str(out),
    ])  # fmt: skip
    report = json.loads(out.read_text())
    assert set(report["models"]) == {"first", "my-2nd"}
    pairs = {name: report["models"]["first"][name]["num_pairs"] for name in ("a", "both")}
    assert pairs["both"] == pairs["a"] + 2
    assert len(report["files"]["both"]["sha256"]) == 2
    printed = capsys.readouterr().out
    for words in (
        "Reward models beside people",
        "minus that of first",
        "Agreement with a labeler",
        "along the order",
        "too narrow",
    ):
        assert words in printed


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"models": {}, "order": ["a"]}, ["give --models.NAME DIR", "give --comparisons.NAME FILE or --outputs FILE",
                                          "order is of the systems of outputs", "order has only a: give at least two"]),
        ({"outputs": "o.jsonl", "order": "a,b,a"}, ["order names a system twice (a, b, a)"]),
        ({"outputs": "o.jsonl", "comparisons": {"outputs": "c.jsonl"}}, ["comparisons.outputs: the file of outputs has this"]),
    ],
)  # fmt: skip
def test_options_that_contradict_are_refused_together(settings: Row, messages: list[str]):
    with pytest.raises(ValueError, match=r"give|call") as caught:
        evaluate_rm(**{"models": {"rm": "dir"}, "out": "r.json", **settings})
    assert len(str(caught.value).splitlines()) == len(messages)
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize(
    ("rows", "order", "messages"),
    [
        ([{"prompt": "p"}], None, ["o.jsonl:1: outputs: missing; give {"]),
        ([{"prompt": "p", "outputs": ["a"]}], None, ["o.jsonl:1: outputs: must be an object with a text, found list of 1"]),
        ([{"prompt": "p", "outputs": {"v1": None}}], None, ["outputs: must be an object with a text, found dict of 1"]),
        ([{"prompt": "p", "outputs": {"v1": 3, "v2": "x"}}, {"prompt": "q", "outputs": {"v1": "x", "v2": ["y"]}}], None,
         ["o.jsonl:1: outputs.v1: must be text or null, found 3", "o.jsonl:2: outputs.v2: must be text or null, found list"]),
        (OUTPUTS, "v1,v4", ["order: no outputs of v4 in", "the systems are: v1, v2, v3, old"]),
        (OUTPUTS, "v1,old", ["order: no prompt has outputs of all of v1, old: leave some out of the order"]),
        ([{"prompt": "p", "outputs": {"v1": None}}] * 25, None, ["... and 5 more"]),
    ],
)  # fmt: skip
def test_wrong_outputs_are_named_with_their_lines(
    models: dict[str, str], tmp_path: Path, rows: list[Row], order: str | None, messages: list[str]
):
    source = write(tmp_path / "o.jsonl", rows)
    with pytest.raises(ValueError, match="outputs") as caught:
        evaluate_rm({"rm": models["first"]}, str(tmp_path / "r.json"), outputs=source, order=order, reading=READING)
    assert all(message in str(caught.value) for message in messages), str(caught.value)
    assert not (tmp_path / "r.json").exists()


def test_what_is_wrong_with_all_files_is_said_at_once(models: dict[str, str], tmp_path: Path):
    bad = write(tmp_path / "bad.jsonl", [{**NEW[0], "ranking": [1]}])
    outputs = write(tmp_path / "o.jsonl", [{"prompt": "p"}])
    with pytest.raises(ValueError, match="bad") as caught:
        evaluate_rm({"rm": models["first"]}, "r.json", {"a": bad, "b": str(tmp_path / "none.jsonl")}, outputs)
    for message in ("bad.jsonl:1: ranking: needs one rank", "none.jsonl: no such file", "o.jsonl:1: outputs: missing"):
        assert message in str(caught.value)


def test_only_ties_give_no_accuracy(models: dict[str, str], tmp_path: Path):
    tied = write(tmp_path / "tied.jsonl", [{**NEW[0], "ranking": [1, 1]}])
    with pytest.raises(ValueError, match=r"tied\.jsonl .*: no untied pair"):
        evaluate_rm({"rm": models["first"]}, str(tmp_path / "r.json"), {"a": tied}, reading=READING)


def test_what_does_not_fit_the_context_is_refused(models: dict[str, str], tmp_path: Path):
    long = "z" * 130
    comparisons = write(tmp_path / "c.jsonl", [{**NEW[0], "responses": [long, "no"]}])
    outputs = write(tmp_path / "o.jsonl", [{"prompt": "p", "outputs": {"v1": long}}])
    for settings in ({"comparisons": {"c": comparisons}}, {"outputs": outputs}):
        with pytest.raises(
            ValueError, match=r"of 128 of the reward model, for the .*|of 128 of the reward model, for .*c\.jsonl"
        ):
            evaluate_rm({"rm": models["first"]}, str(tmp_path / "r.json"), **settings)


def test_scores_that_are_no_numbers_are_refused(make_dir: Callable[..., str], files: dict[str, str], tmp_path: Path):
    path = make_dir("gpt_neox", reward=True)
    with quiet_loading():
        model = AutoModelForSequenceClassification.from_pretrained(path)
        with torch.no_grad():
            model.score.weight[0, 0] = math.nan
        model.save_pretrained(path)
    with pytest.raises(ValueError, match=r"new\.jsonl .*: the reward model gives NaN or infinity for 4 of 4 sequences"):
        evaluate_rm({"rm": path}, str(tmp_path / "r.json"), {"new": files["new"]}, reading=READING)


# ------------------------------------------------------------------ rankings by people


def test_agreement_between_people_and_with_length_on_shared_data():
    """The crowd workers of RankME, and a score that is the length of the text: every number by a loop over lines."""
    path = SHARED / "comparisons" / "data2text_rankme.jsonl.gz"
    if not path.is_file():
        pytest.skip("needs comparisons/data2text_rankme.jsonl.gz of the shared data beside the repository")
    records, _ = read_records(path, Comparison, keep_all_tied=True)
    agreed, with_length = [], []
    for one, other in combinations(records, 2):
        same = one.prompt == other.prompt and one.extra["criterion"] == other.extra["criterion"]
        if not same or one.labeler == other.labeler or set(one.responses) != set(other.responses):
            continue
        first, second = (dict(zip(row.responses, row.ranking, strict=True)) for row in (one, other))
        for a, b in combinations(first, 2):
            if first[a] != first[b] and second[a] != second[b]:
                signs = [first[a] < first[b], second[a] < second[b]]
                agreed.append(signs[0] == signs[1])
                with_length.append(np.mean([step((len(a) - len(b)) * (1 if sign else -1)) for sign in signs]))
    pairs = shared_pairs(records)
    people = labeler_agreement(pairs)
    assert people is not None
    assert (people["num_pairs"], people["agreement"]) == (len(agreed), pytest.approx(np.mean(agreed)))
    scores = [{text: float(len(text)) for text in record.responses} for record in records]
    found = model_agreement(pairs, scores)
    assert found["agreement"] == pytest.approx(np.mean(with_length))
    assert found["ci95"][0] < found["agreement"] < found["ci95"][1]
