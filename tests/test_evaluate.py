"""The report on exported models, against plain transformers models and loops."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import (
    COMPARISONS,
    PROMPTS,
    READING,
    TEXT,
    plain_policy,
    plain_scorer,
    score_of,
    token_nlls,
    whole_ids,
    write,
)

from lit_instructgpt.datamodules.tokenizing import Reading, TokenizedPrompt
from lit_instructgpt.evaluation.compare import evaluate
from lit_instructgpt.evaluation.judging import Judges
from lit_instructgpt.evaluation.policies import Evaluated, Samples
from lit_instructgpt.evaluation.statistics import bootstrap_ci, length_controlled_win_rate
from lit_instructgpt.formatting import SIDECAR, PromptFormat, format_dict, format_for
from lit_instructgpt.records import Prompt
from lit_instructgpt.sampling import Sampling

SAMPLING = Sampling(max_new_tokens=6, seed=2)


class Judge:
    """Remembers what it was asked; longer is better, and an odd number of letters follows the instruction."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[dict[str, Any]], list[str]]] = []

    def __call__(self, records: list[dict[str, Any]], responses: list[str]) -> list[dict[str, Any]]:
        self.calls.append((records, responses))
        return [
            {
                "utility": len(text) // 2,
                "follows_instruction": len(text) % 2,
                "satisfies_constraint": None if record["prompt"] == "I" else 1.0,
                "likert": 4,
            }
            for record, text in zip(records, responses, strict=True)
        ]


@pytest.fixture(scope="module")
def models(make_dir: Callable[..., str]) -> dict[str, str]:
    return {"sft": make_dir("gpt_neox", seed=0), "ppo": make_dir("gpt_neox", seed=5)}


@pytest.fixture(scope="module")
def found(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Judge, Path]:
    """One report with everything in it."""
    path = tmp_path_factory.mktemp("report")
    judge = Judge()
    held_out = [{**COMPARISONS[0], "ranking": [1, 2, 3], "labeler": "new"}]
    report = evaluate(
        models, write(path / "p.jsonl", [{**row, "use_case": "qa"} for row in PROMPTS]), str(path / "new" / "report.json"),
        reward_model=tiny_reward_dir("gpt_neox"), judge=judge, text=write(path / "t.jsonl", TEXT), text_tokens=20,
        comparisons=write(path / "c.jsonl", COMPARISONS), held_out_comparisons=write(path / "h.jsonl", held_out),
        sampling=SAMPLING, reading=READING, num_shown=3, batch_size=3,
    )  # fmt: skip
    return report, judge, path


def samples(directory: str, seed: int) -> Any:
    records = [Prompt(prompt=row["prompt"]) for row in PROMPTS]
    return Evaluated(directory, None, "cpu").sample(records, READING, Sampling(1, 6, 1.0, seed), 3)


def test_the_report_is_what_is_written(found: Any):
    report, _, path = found
    assert json.loads((path / "new" / "report.json").read_text()) == report
    assert report["wins_by"] == "judge"
    assert report["num_prompts"] == report["num_responses"] == len(PROMPTS)
    assert report["seed"] == 2
    assert set(report["models"]) == {"sft", "ppo"}
    for row in report["models"].values():
        assert {
            "win_rate_vs_sft", "ci95", "follows_instruction", "satisfies_constraint", "num_satisfies_constraint", "likert",
            "rm_score", "kl_to_init", "text_loss", "response_tokens", "stop_rate", "num_prompts", "length_histogram",
        } <= set(row)  # fmt: skip
    assert {name: entry["rows"] for name, entry in report["files"].items()} == {
        "prompts": len(PROMPTS),
        "text": len(TEXT),
        "comparisons": len(COMPARISONS),
        "held_out_comparisons": 1,
    }
    assert [report["files"][name]["measured"] for name in ("comparisons", "held_out_comparisons")] == [
        len(COMPARISONS),
        1,
    ]
    assert report["files"]["prompts"]["path"] == str(path / "p.jsonl")
    named = report["directories"]
    assert list(named) == ["models.sft", "models.ppo", "reward_model"]
    assert all(len(entry["sha256"]) == 64 and entry["format"]["template"] == "{prompt}\n" for entry in named.values())
    assert named["models.sft"]["sha256"] != named["models.ppo"]["sha256"]
    assert report["settings"]["baseline"] == report["settings"]["init"] == "sft"
    assert report["settings"]["judge"]["class_path"].endswith(".Judge")
    assert report["settings"]["sampling"]["max_new_tokens"] == SAMPLING.max_new_tokens
    assert {
        "pair_accuracy", "ci95", "pair_accuracy_held_out_labelers", "ci95_held_out_labelers", "num_pairs",
        "length_baseline", "accuracy_minus_length_baseline", "per_source", "calibration",
    } <= set(report["rm"])  # fmt: skip


def resampled(values: list[int]) -> list[float]:
    """Percentiles of the mean, by a loop."""
    rng = np.random.default_rng(7)
    means = [np.mean([values[i] for i in rng.integers(0, len(values), len(values))]) for _ in range(4000)]
    return [float(np.quantile(means, q)) for q in (0.025, 0.975)]


def test_win_rates_are_counted_against_fresh_samples_of_the_baseline(found: Any, models: dict[str, str]):
    report, judge, _ = found
    asked = {tuple(texts) for _, texts in judge.calls}
    opponent = samples(models["sft"], 3).texts
    for name, directory in models.items():
        own = samples(directory, 2).texts
        assert {tuple(own), tuple(opponent)} <= asked
        wins = []
        for mine, other in zip(own, opponent, strict=True):
            first, second = len(mine) // 2, len(other) // 2
            wins.append(1.0 if first > second else 0.0 if first < second else 0.5)
        row = report["models"][name]
        assert row["win_rate_vs_sft"] == pytest.approx(sum(wins) / len(wins))
        assert row["ci95"][0] <= row["win_rate_vs_sft"] <= row["ci95"][1]
        assert row["follows_instruction"] == pytest.approx(sum(len(text) % 2 for text in own) / len(own))
        assert row["likert"] == 4
        assert row["ci95_likert"] == [4, 4]
        low, high = row["ci95_follows_instruction"]
        odd = [len(text) % 2 for text in own]
        assert row["ci95_follows_instruction"] == pytest.approx(resampled(odd), abs=0.126), (
            "a response of eight more or less"
        )
        assert low <= row["follows_instruction"] <= high
        assert row["ci95_response_tokens"][0] <= row["response_tokens"] <= row["ci95_response_tokens"][1]
        assert "ci95_text_loss" not in row
        assert {key for key in row if key.startswith("num_")} == {"num_prompts", "num_satisfies_constraint"}
        assert row["satisfies_constraint"] == 1
        assert row["num_satisfies_constraint"] == len(PROMPTS) - 1, "None does not count"
    assert all(record["use_case"] == "qa" for records, _ in judge.calls for record in records)


def test_kl_to_init_lengths_and_scores_by_bare_forward_passes(
    found: Any, models: dict[str, str], tiny_reward_dir: Callable[[str], str], tokenizer: Any
):
    report, _, _ = found
    policies = {name: plain_policy(directory) for name, directory in models.items()}
    scorer = plain_scorer(tiny_reward_dir("gpt_neox"))
    for name, directory in models.items():
        taken = samples(directory, 2)
        kl, scores = [], []
        for prompt, ids in zip(taken.prompts, taken.ids, strict=True):
            with torch.no_grad():
                own, start = (
                    -token_nlls(policy, prompt.ids + ids)[-len(ids) :].sum()
                    for policy in (policies[name], policies["sft"])
                )
                scores.append(score_of(scorer, prompt.ids + ids).item())  # no EOS where the response was cut
            kl.append((own - start).item())
        row = report["models"][name]
        assert row["kl_to_init"] == pytest.approx(sum(kl) / len(kl), abs=1e-4)
        assert row["rm_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
        assert row["response_tokens"] == pytest.approx(sum(map(len, taken.ids)) / len(taken.ids))
        assert row["stop_rate"] == sum(ids[-1] == tokenizer.eos_token_id for ids in taken.ids) / len(taken.ids)
        assert sum(row["length_histogram"]["counts"]) == len(PROMPTS)
    assert report["models"]["sft"]["kl_to_init"] == pytest.approx(0, abs=1e-5)
    assert report["models"]["ppo"]["kl_to_init"] > 0.1
    assert report["rm_reads"] == "tokens"


def test_text_loss_is_the_mean_over_the_tokens_of_the_blocks(found: Any, models: dict[str, str], tokenizer: Any):
    report, _, _ = found
    stream = [*tokenizer(TEXT[0]["text"]).input_ids, tokenizer.eos_token_id] * len(TEXT)
    blocks = [stream[i : i + 20] for i in range(0, len(stream), 20)]
    for name, directory in models.items():
        model = plain_policy(directory)
        with torch.no_grad():
            expected = torch.cat([token_nlls(model, block) for block in blocks if len(block) > 1]).mean().item()
        assert report["models"][name]["text_loss"] == pytest.approx(expected, abs=1e-5)
        predicted = sum(len(block) - 1 for block in blocks if len(block) > 1)
        num_bytes = sum(len(row["text"].encode()) for row in TEXT)
        per_byte = report["models"][name]["text_loss_per_byte"]
        assert per_byte == pytest.approx(expected * predicted / num_bytes, abs=1e-5)


def test_the_reward_models_accuracy_is_counted_over_untied_pairs(
    found: Any, tiny_reward_dir: Callable[[str], str], tokenizer: Any
):
    report, _, _ = found
    model = plain_scorer(tiny_reward_dir("gpt_neox"))
    right, longer = [], []
    for row in COMPARISONS:
        with torch.no_grad():
            scores = [score_of(model, whole_ids(tokenizer, row["prompt"], text)).item() for text in row["responses"]]
        lengths = [len(text) for text in row["responses"]]
        for i in range(len(scores)):
            for j in range(len(scores)):
                if row["ranking"][i] < row["ranking"][j]:
                    right.append(float(scores[i] > scores[j]))
                    longer.append(0.5 if lengths[i] == lengths[j] else float(lengths[i] > lengths[j]))
    assert report["rm"]["num_pairs"] == len(right)
    assert report["rm"]["pair_accuracy"] == pytest.approx(sum(right) / len(right))
    assert report["rm"]["length_baseline"] == pytest.approx(sum(longer) / len(longer))
    low, high = report["rm"]["ci95"]
    assert low <= report["rm"]["pair_accuracy"] <= high
    with torch.no_grad():
        scores = [score_of(model, whole_ids(tokenizer, "say red", text)).item() for text in COMPARISONS[0]["responses"]]
    held_out = [scores[0] > scores[1], scores[0] > scores[2], scores[1] > scores[2]]
    assert report["rm"]["pair_accuracy_held_out_labelers"] == pytest.approx(sum(held_out) / 3)
    assert sum(b["count"] for b in report["rm"]["calibration"]["bins"]) == len(right)


def test_samples_are_shown_side_by_side(found: Any, models: dict[str, str]):
    report, _, _ = found
    assert len(report["samples"]) == 3
    texts = {name: samples(directory, 2).texts for name, directory in models.items()}
    prompts = [row["prompt"] for row in PROMPTS]
    for shown in report["samples"]:
        i = prompts.index(shown["prompt"])
        assert shown["use_case"] == "qa"
        for name in models:
            assert shown["responses"][name]["text"] == texts[name][i]
            assert shown["responses"][name]["judgement"]["likert"] == 4


def test_a_reward_model_of_another_format_scores_the_text(
    models: dict[str, str], make_dir: Callable[..., str], tokenizer: Any, tmp_path: Path
):
    directory = make_dir("gpt_neox", reward=True)
    stored = {"format": {"template": "<{prompt}>", "response_prefix": "=", "chat_template": False}}
    (Path(directory) / SIDECAR).write_text(json.dumps(stored))
    report = evaluate(
        {"sft": models["sft"]}, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"),
        reward_model=directory, sampling=SAMPLING, reading=READING, batch_size=3,
    )  # fmt: skip
    scorer, taken = plain_scorer(directory), samples(models["sft"], 2)
    with torch.no_grad():
        scores = []
        for prompt, text in zip(taken.prompts, taken.texts, strict=True):
            response = tokenizer(f"={text}").input_ids[:15]  # READING cuts at 16, EOS included
            ids = [*tokenizer(f"<{prompt.text}>").input_ids, *response, tokenizer.eos_token_id]
            scores.append(score_of(scorer, ids).item())
    assert report["models"]["sft"]["rm_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)


def test_without_a_judge_the_reward_model_decides(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], tmp_path: Path
):
    report = evaluate(
        {"a": models["sft"], "b": models["ppo"]}, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"),
        baseline="a", reward_model=tiny_reward_dir("gpt_neox"), sampling=SAMPLING, reading=READING, batch_size=3,
    )  # fmt: skip
    scorer = plain_scorer(tiny_reward_dir("gpt_neox"))

    def scores(taken: Samples) -> list[float]:
        with torch.no_grad():
            rows = zip(taken.prompts, taken.ids, strict=True)
            return [score_of(scorer, prompt.ids + ids).item() for prompt, ids in rows]

    own, other = scores(samples(models["ppo"], 2)), scores(samples(models["sft"], 3))
    assert report["wins_by"] == "reward_model"
    assert report["models"]["b"]["win_rate_vs_a"] == sum(a > b for a, b in zip(own, other, strict=True)) / len(PROMPTS)
    assert report["models"]["b"]["text_loss"] is None
    assert report["models"]["b"]["text_loss_per_byte"] is None
    assert "rm" not in report


def test_another_starting_point_for_the_kl(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], tmp_path: Path
):
    report = evaluate(
        models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), init="ppo",
        reward_model=tiny_reward_dir("gpt_neox"), sampling=SAMPLING, reading=READING,
    )  # fmt: skip
    assert report["models"]["ppo"]["kl_to_init"] == pytest.approx(0, abs=1e-5)
    assert report["models"]["sft"]["kl_to_init"] > 0.1


class FirstLonger:
    """Prefers the longer response; the first one if they are equally long and the prompt is ``favoured``."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []

    def __call__(self, records: list[dict[str, Any]], first: list[str], second: list[str]) -> list[float]:
        self.calls.append((first, second))
        return [1.0 if len(a) >= len(b) else 0.0 for a, b in zip(first, second, strict=True)]


def test_a_pair_judge_is_asked_in_both_orders(models: dict[str, str], tmp_path: Path):
    judge = FirstLonger()
    report = evaluate(
        models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), pair_judge=judge,
        sampling=SAMPLING, reading=READING, batch_size=3,
    )  # fmt: skip
    assert report["wins_by"] == "pair_judge"
    opponent = samples(models["sft"], 3).texts
    for name, directory in models.items():
        own = samples(directory, 2).texts
        assert (own, opponent) in judge.calls
        assert (opponent, own) in judge.calls
        # always the first of two of one length: half a win, once in each order
        wins = [(len(a) > len(b)) + 0.5 * (len(a) == len(b)) for a, b in zip(own, opponent, strict=True)]
        assert report["models"][name]["win_rate_vs_sft"] == pytest.approx(sum(wins) / len(wins))
        assert "utility" not in report["models"][name]


# ------------------------------------------------------------------ who decides, and by what


def answered(*texts: str) -> Samples:
    """Responses to prompts a, b, c, ... that no model wrote."""
    prompts = [TokenizedPrompt([1], name, {"prompt": name}) for name, _ in zip("abcdef", texts, strict=False)]
    return Samples(prompts, [[2]] * len(texts), list(texts), [False] * len(texts), PromptFormat(), {})


class LengthReward:
    """Stands in for a reward model: a thousand for every letter."""

    def __init__(self) -> None:
        self.format, self.tokenizer = PromptFormat(), self

    def get_vocab(self) -> dict[str, int]:
        return {"another": 0}

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [1000.0 * len(text) for text in responses]


def judges(utilities: dict[str, float | None], scorer: Any = None) -> Judges:
    """The judge knows texts by heart; those that are missing have no key ``utility``."""

    def judge(records: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
        return [{"utility": utilities[text]} if text in utilities else {"likert": 7} for text in texts]

    return Judges(judge, scorer=scorer)


def test_the_judge_decides_where_every_response_has_a_utility():
    own, other = answered("x", "yy"), answered("yy", "x")
    by = judges({"x": 2.0, "yy": 1.0}, LengthReward())
    (first, second), wins_by = by.judge_all(["own", "other"], [own, other])
    assert wins_by == "judge"
    assert first == [{"utility": 2.0, "rm_score": 1000.0}, {"utility": 1.0, "rm_score": 2000.0}]
    assert by.wins(own, first, other, second).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("utilities", [{}, {"x": None, "yy": None}])
def test_the_reward_model_decides_where_no_response_has_a_utility(utilities: dict[str, float | None]):
    own, other = answered("x", "yy"), answered("yy", "x")
    by = judges(utilities, LengthReward())
    (first, second), wins_by = by.judge_all(["own", "other"], [own, other])
    assert wins_by == "reward_model"
    assert [row["utility"] for row in first] == [1000.0, 2000.0]
    assert by.wins(own, first, other, second).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scorer", [None, LengthReward()])
@pytest.mark.parametrize("missing", [{}, {"yy": None}])
def test_utilities_and_scores_are_not_mixed(scorer: Any, missing: dict[str, float | None]):
    by = judges({"x": 1.0, **missing}, scorer)
    with pytest.raises(ValueError, match="no `utility` for 2 of 3 responses of b, and gives one for the others"):
        by.judge_all(["a", "b"], [answered("x", "x", "x"), answered("yy", "x", "yy")])
    with pytest.raises(ValueError, match="no `utility` for 3 of 3 responses of b, and gives"):
        by.judge_all(["a", "b"], [answered("x", "x", "x"), answered("yy", "yy", "yy")])


def test_the_report_says_who_decided_and_how_many_were_judged(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], tmp_path: Path
):
    def judge(records: list[dict[str, Any]], texts: list[str]) -> list[dict[str, Any]]:
        return [{"likert": 7 if i == 2 else None, "follows_instruction": i % 2} for i in range(len(texts))]

    report = evaluate(
        models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), judge=judge, sampling=SAMPLING,
        reading=READING, reward_model=tiny_reward_dir("gpt_neox"), batch_size=3,
    )  # fmt: skip
    assert report["wins_by"] == "reward_model"
    for row in report["models"].values():
        assert row["utility"] == row["rm_score"]
        assert (row["likert"], row["num_likert"]) == (7, 1)
        assert row["follows_instruction"] == 0.5
        assert {key for key in row if key.startswith("num_")} == {"num_prompts", "num_likert"}


def test_all_models_are_scored_in_one_way(
    models: dict[str, str], make_dir: Callable[..., str], tiny_reward_dir: Callable[[str], str], tmp_path: Path,
    tokenizer: Any, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """Of two models with the same weights, one with another format: the scores of both are of text with EOS."""
    other = make_dir("gpt_neox", seed=0)
    (Path(other) / SIDECAR).write_text(json.dumps({"format": format_dict(PromptFormat("<{prompt}>"))}))
    report = evaluate(
        {"sft": models["sft"], "other": other}, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"),
        reward_model=tiny_reward_dir("gpt_neox"), sampling=SAMPLING, reading=READING, batch_size=3,
    )  # fmt: skip
    scorer, taken = plain_scorer(tiny_reward_dir("gpt_neox")), samples(models["sft"], 2)
    assert not all(taken.stopped), "some are cut, where the two ways differ"
    with torch.no_grad():
        scores = [
            score_of(scorer, [*prompt.ids, *tokenizer(text).input_ids[:15], tokenizer.eos_token_id]).item()
            for prompt, text in zip(taken.prompts, taken.texts, strict=True)
        ]
    assert report["models"]["sft"]["rm_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert report["rm_reads"] == "text"
    assert "the reward model reads text, each response ended by EOS" in " ".join(capsys.readouterr().out.split())


def test_a_prompt_that_is_listed_several_times_is_one_prompt(models: dict[str, str], tmp_path: Path):
    """Greedily, the same file three times over has the same figures and the same interval."""
    reports, judge = {}, Judge()
    for num in (1, 3):
        rows = [{**row, "id": str(i)} for i, row in enumerate(PROMPTS * num)]
        reports[num] = evaluate(
            models, write(tmp_path / f"{num}.jsonl", rows), str(tmp_path / "r.json"), judge=judge, reading=READING,
            sampling=Sampling(max_new_tokens=6, temperature=0.0), batch_size=4,
        )  # fmt: skip
    once, thrice = (reports[num]["models"]["ppo"] for num in (1, 3))
    assert once["kl_to_init"] is None, "nothing is drawn: its log-ratio is no divergence"
    low, high = once["ci95"]
    assert 0 <= low < high <= 1
    assert thrice["win_rate_vs_sft"] == once["win_rate_vs_sft"]
    assert thrice["ci95"] == pytest.approx(once["ci95"])
    _, own, opponent = ([len(text) for text in texts] for _, texts in judge.calls[-3:])
    wins = np.array(
        [1.0 if a // 2 > b // 2 else 0.0 if a // 2 < b // 2 else 0.5 for a, b in zip(own, opponent, strict=True)]
    )
    longer_by = np.array(own) - np.array(opponent)
    controlled, interval = length_controlled_win_rate(wins, longer_by, [*range(8)] * 3)
    assert thrice["length_controlled_win_rate"] == controlled
    assert thrice["ci95_length_controlled_win_rate"] == interval != length_controlled_win_rate(wins, longer_by)[1]
    assert [reports[num]["num_prompts"] for num in (1, 3)] == [8, 8]
    assert [reports[num]["num_responses"] for num in (1, 3)] == [8, 24]
    assert thrice["num_prompts"] == 8


def test_repetition_and_the_length_controlled_win_rate_are_of_the_samples(found: Any, models: dict[str, str]):
    report, _, _ = found
    for name, directory in models.items():
        taken = samples(directory, 2)
        shares = []
        for ids in taken.ids:
            grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
            shares.append(sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams) if grams else 0.0)
        row = report["models"][name]
        assert row["repetition"] == pytest.approx(sum(shares) / len(shares))
        low, high = row["ci95_length_controlled_win_rate"]
        assert 0 < low <= row["length_controlled_win_rate"] <= high < 1


def test_responses_are_written_for_people_to_rank(models: dict[str, str], tmp_path: Path):
    rows = [{"prompt": row["prompt"], "id": f"p{i}", "use_case": "qa"} for i, row in enumerate(PROMPTS)]
    evaluate(
        models, write(tmp_path / "p.jsonl", rows), str(tmp_path / "r.json"), judge=Judge(), sampling=SAMPLING,
        reading=READING, batch_size=3, responses_out=str(tmp_path / "new" / "responses.jsonl"),
    )  # fmt: skip
    written = [json.loads(line) for line in (tmp_path / "new" / "responses.jsonl").read_text().splitlines()]
    assert [(row["id"], row["prompt"], row["use_case"]) for row in written] == [
        (row["id"], row["prompt"], "qa") for row in rows
    ]
    texts = {name: samples(directory, 2).texts for name, directory in models.items()}
    for i, row in enumerate(written):
        assert {name: row["responses"][row["systems"].index(name)] for name in models} == {
            name: texts[name][i] for name in models
        }
    assert len({tuple(row["systems"]) for row in written}) == 2, "the order says nothing about whose it is"


def test_responses_for_people_do_not_come_with_rankings_of_others(models: dict[str, str], tmp_path: Path):
    """The prompts are lines of rankings: what people said of their responses is not about what the models write."""
    kept = [{"id": f"p{i}", "prompt": row["prompt"], "turns": ["a", "b", "c"]} for i, row in enumerate(PROMPTS)]
    rows = [
        {**row, "responses": ["x", "y"], "ranking": [1, 2], "labeler": "ann", "criterion": "overall", "likert": [7, 1],
         "systems": ["old", "older"]}
        for row in kept
    ]  # fmt: skip
    evaluate(
        models, write(tmp_path / "p.jsonl", rows), str(tmp_path / "r.json"), judge=Judge(), sampling=SAMPLING,
        reading=READING, batch_size=3, responses_out=str(tmp_path / "responses.jsonl"),
    )  # fmt: skip
    written = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in ("id", "prompt", "turns")} for row in written] == kept
    assert all(set(row) == {"id", "prompt", "turns", "responses", "systems"} for row in written)
    assert all(sorted(row["systems"]) == ["ppo", "sft"] for row in written)


@pytest.mark.parametrize(("family", "key"), [("gpt2", "n_positions"), ("gpt_neox", "max_position_embeddings")])
def test_a_reward_model_whose_context_is_too_short_is_refused_before_sampling(
    models: dict[str, str], make_dir: Callable[..., str], tmp_path: Path, tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch, family: str, key: str,
):  # fmt: skip
    """It reads the policies' own tokens: learned positions would end within them, rotary ones go wrong."""

    def never(*args: Any) -> None:
        raise AssertionError("sampled before the check")

    longest = max(len(tokenizer(row["prompt"] + "\n").input_ids) for row in PROMPTS)
    directory = make_dir(family, reward=True, **{key: longest + SAMPLING.max_new_tokens - 1})
    monkeypatch.setattr(Evaluated, "sample", never)
    setting = r"reading\.max_prompt_tokens or sampling\.max_new_tokens \(6\)"
    with pytest.raises(ValueError, match=rf"do not fit the context of \d+ of the reward model: lower {setting}"):
        evaluate(
            models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), reward_model=directory,
            sampling=SAMPLING, reading=READING, format=PromptFormat("{prompt}\n"),
        )  # fmt: skip


def test_with_few_prompts_the_interval_is_not_trusted(
    found: Any, capsys: pytest.CaptureFixture[str], models: Any, tmp_path: Path
):
    for num, said in ((29, True), (30, False)):
        rows = [{"prompt": text} for text in ("abcdefghijklmnopqrstuvwxyzABCD"[:num]) * 2]
        evaluate(
            models, write(tmp_path / f"{num}.jsonl", rows), str(tmp_path / "r.json"), judge=Judge(), sampling=SAMPLING,
            reading=READING,
        )  # fmt: skip
        assert (f"fewer than 30 prompts are too narrow; here are some of {num}" in capsys.readouterr().out) == said


# ------------------------------------------------------------------ the interval


def test_the_bootstrap_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).binomial(1, 0.7, 800).astype(float)
    low, high = bootstrap_ci(values)
    half = 1.96 * values.std() / len(values) ** 0.5
    assert low == pytest.approx(values.mean() - half, abs=0.004)
    assert high == pytest.approx(values.mean() + half, abs=0.004)
    assert bootstrap_ci(values) == [low, high]


def test_pairs_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(2)
    prompts = rng.binomial(1, 0.6, 100).astype(float)
    repeated = np.repeat(prompts, 10)
    groups = np.repeat(np.arange(100), 10).tolist()
    assert bootstrap_ci(repeated, groups) == pytest.approx(bootstrap_ci(prompts))
    low, high = bootstrap_ci(repeated)
    grouped = bootstrap_ci(repeated, groups)
    assert grouped[1] - grouped[0] > 2.5 * (high - low), "as if they were independent, it would be too narrow"


def test_the_interval_of_equal_values_is_a_point():
    assert bootstrap_ci(np.full(20, 0.25)) == [0.25, 0.25]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "base"}, r"baseline 'base' is not among models \(sft, ppo\)"),
        ({"judge": None}, "give --reward_model DIR, --judge CLASS_PATH or --pair_judge CLASS_PATH"),
        ({"pair_judge": lambda records, a, b: [1.0]}, "the pair judge returned 1 preferences for 8 pairs"),
        (
            {"pair_judge": lambda records, a, b: [0.5, 2.0, *[1.0] * 5, None]},
            r"0\.5 \(tie\) for each pair, got 2\.0 for pair 1 \(2 such in all\)",
        ),
        ({"judge": lambda records, texts: [{"utility": 1.0}]}, "the judge returned 1 judgements for 8 responses"),
        ({"judge": lambda records, texts: [{"likert": 1} for _ in texts]}, "the judge gives no `utility`"),
        (
            {"judge": lambda records, texts: [{"utility": 1} if i else {"likert": 1} for i in range(len(texts))]},
            "no `utility` for 1 of 8 responses of sft, 1 of 8 responses of ppo, 1 of 8 responses of sft, sampled a second",
        ),
        (
            {"judge": lambda records, texts: [{"likert": 1} if i else {"utility": 1} for i in range(len(texts))]},
            "no `utility` for 7 of 8 responses of sft.* let it give one for every response, or for none",
        ),
        (
            {"judge": lambda records, texts: [{"utility": None} for _ in texts]},
            "no `utility` and there is no reward model: .* for every response, or give --reward_model DIR",
        ),
        (
            {"judge": lambda records, texts: [{"utility": float("nan")} for _ in texts]},
            r"finite numbers or None, got utility=nan",
        ),
        (
            {"judge": lambda records, texts: [{"utility": 1, "stop_rate": 0.5} for _ in texts]},
            "the judge gives stop_rate, which the report gives itself: call it otherwise",
        ),
        ({"judge": lambda records, texts: [{"utility": 1, "ci95_likert": 2} for _ in texts]}, "gives ci95_likert"),
        ({"judge": lambda records, texts: [{"utility": 1, "num_likert": 2} for _ in texts]}, "gives num_likert"),
        ({"judge": lambda records, texts: [1.0 for _ in texts]}, r"one dict per response, got 1\.0"),
        ({"judge": lambda records, texts: [{"utility": 1, "likert": "good"} for _ in texts]}, "None, got likert='good'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(models: dict[str, str], tmp_path: Path, settings: dict[str, Any], message: str):
    arguments: dict[str, Any] = {"judge": Judge(), "sampling": SAMPLING, "reading": READING, **settings}
    with pytest.raises(ValueError, match=message):
        evaluate(models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), **arguments)
    assert not (tmp_path / "r.json").exists()


def test_options_that_would_be_ignored_are_refused_together(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], tmp_path: Path
):
    with pytest.raises(ValueError, match="give --reward_model DIR, or leave --comparisons out") as caught:
        evaluate(models, "p.jsonl", "r.json", judge=Judge(), comparisons="c.jsonl", sampling=Sampling(num_samples=4))
    assert "sampling.num_samples is 4: evaluate samples one response per prompt" in str(caught.value)
    with pytest.raises(ValueError, match="held_out_comparisons are measured beside comparisons: give --comparisons"):
        evaluate(models, "p.jsonl", "r.json", reward_model=tiny_reward_dir("gpt2"), held_out_comparisons="h.jsonl")


def test_wrong_places_are_named_together_before_anything_is_sampled(
    models: dict[str, str], tiny_reward_dir: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(Evaluated, "__init__", lambda *_: pytest.fail("a model was loaded"))
    asked = {**models, "rm": tiny_reward_dir("gpt2")}
    with pytest.raises(ValueError, match=r"--models\.rm: .* is a reward model") as caught:
        evaluate(
            asked,
            "p.jsonl",
            str(tmp_path),
            judge=Judge(),
            init="./runs/nope",
            reward_model=models["sft"],
            device="none",
        )
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["--models.rm", "--init", "--reward_model", f"{tmp_path} is a directory",
                                                      "device"]  # fmt: skip
    with pytest.raises(ValueError, match=r"judge is called with \(records, responses\).*: give it as --pair_judge"):
        evaluate(models, "p.jsonl", "r.json", judge=lambda records, first, second: [])
    with pytest.raises(
        ValueError, match=r"pair_judge is called with \(records, first, second\), which it does not take"
    ):
        evaluate(models, "p.jsonl", "r.json", pair_judge=Judge())


def test_a_chat_model_of_unknown_format_is_warned_about(
    make_dir: Callable[..., str], make_tokenizer: Callable[..., Any]
):
    plain, chat = make_tokenizer(), make_tokenizer()
    chat.chat_template = "{{ messages[0].content }}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert format_for("runs/x", None, plain) == PromptFormat()
        assert format_for("runs/x", PromptFormat(chat_template=True), chat) == PromptFormat(chat_template=True)
    with pytest.warns(UserWarning, match=r"its tokenizer has a chat template: .*set format\.chat_template to true"):
        assert format_for("runs/x", None, chat) == PromptFormat()


def test_models_answer_the_prompts_that_fit_all_of_them(
    models: dict[str, str], make_dir: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr("lit_instructgpt.evaluation.policies.rank_zero_info", said.append)
    wordy = make_dir("gpt_neox", seed=5)  # its template alone has 17 of the 24 tokens, the line break included
    (Path(wordy) / SIDECAR).write_text(json.dumps({"format": format_dict(PromptFormat("zqzqzqzqzqzqzqzq{prompt}\n"))}))
    texts = ["xqzj", "xqzjvwkp", "vwkp", "kp"]  # 4, 8, 4 and 2 tokens
    judge = Judge()
    report = evaluate(
        {"sft": models["sft"], "ppo": wordy}, write(tmp_path / "p.jsonl", [{"prompt": text} for text in texts]),
        str(tmp_path / "r.json"), judge=judge, sampling=SAMPLING, reading=READING, batch_size=2,
    )  # fmt: skip
    assert [[record["prompt"] for record in records] for records, _ in judge.calls] == [["xqzj", "vwkp", "kp"]] * 3
    assert report["num_prompts"] == 3
    assert said == ["prompts: 1 of 4 have more than 24 tokens for some model and are left out for all"]
    with pytest.raises(ValueError, match=r"1 of 1 have more than 24 tokens for some model: raise reading\.max_prompt"):
        evaluate(
            {"sft": models["sft"], "ppo": wordy}, write(tmp_path / "q.jsonl", [{"prompt": "xqzjvwkp"}]),
            str(tmp_path / "s.json"), judge=judge, sampling=SAMPLING, reading=READING,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": Sampling(max_new_tokens=124)}, r"129 tokens .* of 128 .*sampling\.max_new_tokens \(124\)"),
        ({"text_tokens": 129}, r"129 tokens do not fit the context of 128 .*lower text_tokens \(129\)"),
        (
            {"comparisons": "z" * 123},
            r"129 tokens do not fit the context of 128 of the reward model.*reading\.max_tokens",
        ),
    ],
)
def test_what_does_not_fit_a_context_is_refused(
    models: dict[str, str],
    tiny_reward_dir: Callable[[str], str],
    tmp_path: Path,
    settings: dict[str, Any],
    message: str,
):
    if "comparisons" in settings:  # 4 tokens, the line break, 123, EOS
        row = {"prompt": "xqzj", "responses": [settings["comparisons"], "no"], "ranking": [1, 2]}
        settings = {"comparisons": write(tmp_path / "c.jsonl", [row]), "reading": Reading()}
    with pytest.raises(ValueError, match=message):
        evaluate(
            models, write(tmp_path / "p.jsonl", [{"prompt": "xqzj"}]), str(tmp_path / "r.json"),
            reward_model=tiny_reward_dir("gpt2"), text=write(tmp_path / "t.jsonl", TEXT),
            **{"sampling": SAMPLING, "text_tokens": 20, **settings},
        )  # fmt: skip


@pytest.mark.parametrize("place", ["comparisons", "held_out_comparisons"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**COMPARISONS[0], "ranking": [1, 1, 1]}], r"bad\.jsonl: no untied pair to measure the reward model on"),
        ([{**COMPARISONS[0], "ranking": [1]}], r"bad\.jsonl:1: ranking"),
        ([{**COMPARISONS[0], "prompt": "xq" * 60}], r"omparisons: 1 of 1 prompts have more than 24 tokens"),
    ],
)
def test_comparisons_are_refused_before_a_policy_is_loaded(
    models: dict[str, str],
    tiny_reward_dir: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, Any]],
    message: str,
    place: str,
):
    monkeypatch.setattr("lit_instructgpt.evaluation.compare.Evaluated", None)
    given = {"comparisons": write(tmp_path / "c.jsonl", COMPARISONS), place: write(tmp_path / "bad.jsonl", rows)}
    with pytest.raises(ValueError, match=message):
        evaluate(
            models, write(tmp_path / "p.jsonl", PROMPTS), str(tmp_path / "r.json"), sampling=SAMPLING, reading=READING,
            reward_model=tiny_reward_dir("gpt_neox"), **given,
        )  # fmt: skip
