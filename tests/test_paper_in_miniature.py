"""The rules by which the paper's findings hold, on made-up measures; the order of the jobs; the rankings."""

import argparse
import copy
import json
import math
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from miniature.gold import judge
from miniature.labelers import HELD_OUT, TRAINING
from miniature.webtext import PAGE_HEADS, documents
from safetensors.torch import save_file

from benchmarks.paper import claims, measure
from benchmarks.paper.curves import mean_curve, overoptimization_svg
from benchmarks.paper.jobs import Job, Ledger, run
from benchmarks.paper.measure import curve, forward_passes, head_to_head, parameters, preferences
from benchmarks.paper.prompted import MAX_PREFIX_TOKENS, candidates
from benchmarks.paper.results import claims_table, figures_tables
from benchmarks.paper.stages import (
    ARMS,
    GOLD_RM_PROMPTS,
    MAIN,
    POLICY_LR,
    Seed,
    by_all,
    by_truth,
    first,
    options_of,
    pairs_of,
    rank_whole,
    unseen,
)
from benchmarks.paper_in_miniature import OUT, commit
from benchmarks.paper_in_miniature import SEEDS as PUBLISHED
from benchmarks.paper_in_miniature import main as paper_main

# ------------------------------------------------------------------ jobs


class Book:
    """Jobs that write down when they ran."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path / "done")
        self.did: list[str] = []
        self.at_once, self.most = 0, 0
        self.lock = threading.Lock()

    def job(self, name: str, *needs: str, fails: bool = False, makes: tuple[Path, ...] = ()) -> Job:
        def work() -> None:
            with self.lock:
                self.at_once += 1
                self.most = max(self.most, self.at_once)
            time.sleep(0.02)
            with self.lock:
                self.at_once -= 1
                self.did.append(name)
            if fails:
                raise RuntimeError("no")

        return Job(name, needs, work, makes)


def test_every_job_runs_once_after_its_needs_and_no_more_than_the_lanes_at_once(tmp_path: Path):
    book = Book(tmp_path)
    jobs = [book.job("c", "a", "b"), book.job("a"), book.job("b", "a"), *[book.job(f"x{i}") for i in range(6)]]
    assert run(jobs, book.ledger, 2) == {}
    assert sorted(book.did) == sorted(job.name for job in jobs)
    assert book.did.index("a") < book.did.index("b") < book.did.index("c")
    assert book.most == 2
    assert all(seconds >= 0.02 for seconds in book.ledger.seconds().values())
    assert set(book.ledger.seconds()) == set(book.did)


def test_what_failed_stops_what_needs_it_and_nothing_else_and_is_done_again_later(tmp_path: Path):
    book = Book(tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    (half / "rest").write_text("of a run that was cut off")
    first = [book.job("a", fails=True), book.job("b", "a"), book.job("c", "b"), book.job("d")]
    failed = run(first, book.ledger, 2)
    assert failed == {"a": "RuntimeError: no", "b": "needs a", "c": "needs b"}
    assert sorted(book.did) == ["a", "d"]
    again = [book.job("a", makes=(half,)), book.job("b", "a"), book.job("c", "b"), book.job("d")]
    assert run(again, book.ledger, 2) == {}
    assert sorted(book.did) == ["a", "a", "b", "c", "d"], "what was done is not done again"
    assert not half.exists()


def test_what_was_begun_with_other_sources_is_not_gone_on_with(tmp_path: Path):
    ledger, source = Ledger(tmp_path / "work/done"), tmp_path / "stages.py"
    source.write_text("LR = 1")
    ledger.check_sources([source])
    noted = tmp_path / "work/done/sources.txt"
    noted.chmod(0o400)
    before = noted.stat().st_mtime_ns
    ledger.check_sources([source])
    assert noted.stat().st_mtime_ns == before, "read by several jobs at once, so written once"
    source.write_text("LR = 2")
    with pytest.raises(ValueError, match=r"work was begun with other .*stages\.py: move it away"):
        ledger.check_sources([source])
    assert ledger.seconds() == {}
    (tmp_path / "work/done/sources.txt").unlink()
    (tmp_path / "work/done/1-sft.json").write_text('{"name": "1/sft", "seconds": 1.0}')
    with pytest.raises(ValueError, match="not with which sources"):
        ledger.check_sources([source])


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ([("a", ()), ("a", ())], r"jobs of one name: \['a'\]"),
        ([("a", ("z",))], r"needs that no job meets: \['z'\]"),
        ([("a", ("b",)), ("b", ("a",))], "needs in a circle: a, b"),
    ],
)
def test_jobs_that_cannot_all_be_done_are_refused(tmp_path: Path, needs: list[Any], message: str):
    book = Book(tmp_path)
    with pytest.raises(ValueError, match=message):
        run([book.job(name, *need) for name, need in needs], book.ledger, 2)
    assert book.did == []


def test_the_jobs_of_a_seed_can_all_be_done_and_every_arm_is_measured(tmp_path: Path):
    jobs = Seed(tmp_path, 7, threads=1).jobs()
    done: list[str] = []
    ledger = Ledger(tmp_path / "done")
    assert run([Job(job.name, job.needs, lambda name=job.name: done.append(name)) for job in jobs], ledger, 2) == {}
    assert len(done) == len(jobs)
    last = {job.name: set(job.needs) for job in jobs}
    needed, todo = set(), ["7/measure"]
    while todo:
        name = todo.pop()
        needed.add(name)
        todo += last[name] - needed
    assert needed == set(last), "nothing is trained that is not measured"


# ------------------------------------------------------------------ rankings


def test_pairs_are_all_untied_pairs_each_once():
    elements = [
        {"id": "p", "prompt": "x", "responses": ["a", "b", "c"], "ranking": [2, 1, 2], "labeler": "l"},
        {"id": "q", "prompt": "y", "responses": ["d", "e"], "ranking": [1, 2], "labeler": "l"},
    ]
    found = {(row["id"], *row["responses"], *row["ranking"]) for row in pairs_of(elements, 0)}
    assert found == {("p/0-1", "a", "b", 2, 1), ("p/1-2", "b", "c", 1, 2), ("q/0-1", "d", "e", 1, 2)}
    many = [{**elements[0], "id": f"p{i}"} for i in range(30)]
    order = [row["id"].split("/")[0] for row in pairs_of(many, 0)]
    assert order != sorted(order, key=lambda name: int(name[1:])), "shuffled"
    assert order == [row["id"].split("/")[0] for row in pairs_of(many, 0)]


GOLD = {
    "task": "word", "use_case": "other", "slots": {}, "require": ["red"], "min_required": 1, "closed": False, "scope": [],
    "constraint": None, "list": None, "courteous": False, "max_words": 34,
}  # fmt: skip


def sampled(num: int) -> list[dict[str, Any]]:
    import random

    from miniature.world import sample_task

    rows = []
    for i in range(num):
        task = sample_task(random.Random(i))
        responses = ["The town of Oak is red.", "No.", task.prompt, "You can get red bread there."]
        rows.append({"id": f"p{i}", "prompt": task.prompt, "responses": responses, "gold": task.gold,
                     "use_case": task.gold["use_case"]})  # fmt: skip
    return rows


def test_every_labeler_ranks_the_same_outputs_of_every_prompt():
    rows = by_all(sampled(5), TRAINING, 3)
    assert len(rows) == 5 * len(TRAINING)
    for i in range(5):
        own = [row for row in rows if row["id"].startswith(f"p{i}/")]
        assert {row["labeler"] for row in own} == {labeler.id for labeler in TRAINING}
        assert len({tuple(row["responses"]) for row in own}) == 1


def test_whole_rankings_are_of_all_different_outputs_of_prompts_that_have_enough():
    rows = sampled(3)
    rows[0]["responses"] = [f"Oak {i}." for i in range(9)]
    rows[1]["responses"] = [*[f"Oak {i}." for i in range(8)], "Oak 0."]
    rows[2]["responses"] = [*[f"Oak {i}." for i in range(7)], " "]
    whole = rank_whole([{**row, "user": "u"} for row in rows], 1)
    assert [(row["id"], row["responses"]) for row in whole] == [
        ("p0", rows[0]["responses"]),
        ("p1", rows[1]["responses"][:8]),
    ]
    assert all(len(row["ranking"]) == len(row["responses"]) and min(row["ranking"]) == 1 for row in whole)
    assert {row["labeler"] for row in whole} <= {labeler.id for labeler in TRAINING}


def test_the_truth_ranks_by_utility_and_leaves_out_what_it_cannot_tell_apart():
    rows = sampled(20)
    found = {row["id"]: row for row in by_truth(rows, 0)}
    told_apart = [row for row in rows if len({judge(row["gold"], text).utility for text in row["responses"]}) > 1]
    assert 0 < len(told_apart) <= len(rows)
    assert set(found) == {row["id"] for row in told_apart}
    for row in told_apart:
        worth = {text: judge(row["gold"], text).utility for text in row["responses"]}
        ranked = dict(zip(found[row["id"]]["responses"], found[row["id"]]["ranking"], strict=True))
        for one in ranked:
            for other in ranked:
                assert (ranked[one] < ranked[other]) == (worth[one] > worth[other])
    same = [{**row, "id": f"same/{row['id']}", "responses": [row["responses"][1]] * 4} for row in rows]
    assert by_truth(same, 0) == []


def test_preferences_are_shares_of_prompts_and_a_system_is_as_good_as_itself():
    rows = [{**row, "responses": [row["responses"][0], row["responses"][0]], "systems": ["ppo_ptx", "sft"]}
            for row in sampled(200)]  # fmt: skip
    found = preferences(rows, "ppo_ptx", "sft", 1)
    assert set(found) == {"training", "held_out"}
    for group, labelers in (("training", TRAINING), ("held_out", HELD_OUT)):
        assert set(found[group]["labelers"]) == {who.id for who in labelers}
        assert found[group]["rate"] == pytest.approx(0.5, abs=0.05), "noise alone decides"
        assert found[group]["rate"] == pytest.approx(np.mean(list(found[group]["labelers"].values())))
    better = [{**row, "responses": ["Red.", "red red red red"], "systems": ["ppo_ptx", "sft"]} for row in rows]
    assert preferences(better, "ppo_ptx", "sft", 1)["training"]["rate"] > 0.6
    swapped = [{**row, "systems": ["sft", "ppo_ptx"]} for row in better]
    assert preferences(swapped, "ppo_ptx", "sft", 1)["training"]["rate"] < 0.4
    assert head_to_head(rows, "ppo_ptx", "sft") == 0.5
    assert head_to_head(better, "ppo_ptx", "sft") + head_to_head(swapped, "ppo_ptx", "sft") == pytest.approx(1)


def test_a_curve_has_the_rows_that_have_all_its_metrics(tmp_path: Path):
    lines = [{"step": 1, "train/loss": 3.0}, {"step": 2, "val/loss": 2.0, "val/pair_accuracy": 0.5},
             {"step": 4, "val/loss": 1.0, "val/pair_accuracy": 0.6}]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert curve(tmp_path, "val/loss", "val/pair_accuracy") == {
        "step": [2, 4], "val/loss": [2.0, 1.0], "val/pair_accuracy": [0.5, 0.6],
    }  # fmt: skip


def test_completions_are_computed_once_in_rankings_and_twice_in_every_pair(tmp_path: Path):
    write(tmp_path / "ranked/kwise.train.jsonl", [{"responses": ["a", "b", "c", "d"]}, {"responses": ["a", "b"]}])
    write(tmp_path / "ranked/pairs.train.jsonl", [{"responses": ["a", "b"]}] * 7)  # 4 * 3 / 2 + 1
    assert forward_passes(tmp_path) == {"kwise": 6, "pairs": 14}


def test_parameters_are_the_numbers_of_all_weights(tmp_path: Path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model-1.safetensors")
    save_file({"c": torch.zeros(2, 2, 2)}, tmp_path / "model-2.safetensors")
    assert parameters(tmp_path) == 12 + 5 + 8


def test_best_of_n_takes_the_highest_proxy_score_and_reports_its_gold_score(monkeypatch: Any, tmp_path: Path):
    class Length:
        """Scores by the number of letters, where it was trained on as many prompts."""

        def __init__(self, model: str) -> None:
            assert Path(model) == tmp_path / "gold_rm_60/export"

        def __call__(self, prompts: list[str], texts: list[str]) -> list[float]:
            return [float(len(text)) for text in texts]

    monkeypatch.setattr(measure, "ModelReward", Length)
    monkeypatch.setattr(measure, "BEST_OF", 2)
    monkeypatch.setattr(measure, "judge", lambda gold, text: SimpleNamespace(utility=gold[text]))
    rows = [{"prompt": "p", "responses": ["aaaa", "bb"], "gold": {"aaaa": 1.0, "bb": 3.0}},
            {"prompt": "q", "responses": ["c", "ddd"], "gold": {"c": 2.0, "ddd": 4.0}}]  # fmt: skip
    write(tmp_path / "best_of.jsonl", rows)
    one, two = measure.best_of(tmp_path, 60)
    assert one == {"n": 1, "kl": 0.0, "proxy": 2.5, "gold": 2.5, "gold_std": pytest.approx(np.std([1, 3, 2, 4]))}
    assert (two["n"], two["proxy"], two["gold"]) == (2, 3.5, 2.5), "the longer ones: gold 1 and 4"
    assert two["kl"] == pytest.approx(math.log(2) - 1 / 2)


def test_prefixes_are_headings_alone_and_with_examples_as_far_as_they_fit(make_tokenizer: Callable[..., Any]):
    demonstrations = [{"prompt": f"say {i}", "response": f"{i} it is"} for i in range(8)]
    found = candidates(demonstrations, make_tokenizer(), 3)
    assert {f"{head}\n" for head in PAGE_HEADS} <= set(found)
    assert found == candidates(demonstrations, make_tokenizer(), 3)
    for prefix in found:
        head, *lines = prefix.removesuffix("\n").split("\n")
        assert head in PAGE_HEADS
        assert len(make_tokenizer()(prefix).input_ids) <= MAX_PREFIX_TOKENS
        for number, answer in zip(lines[0::3], lines[1::3], strict=True):
            assert answer == f"{number.removeprefix('say ')} it is"
    assert candidates([{"prompt": "x " * 500, "response": "y"}] * 4, make_tokenizer(), 3) == [
        f"{h}\n" for h in PAGE_HEADS
    ]


def test_other_seeds_do_not_take_the_place_of_what_is_published(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        paper_main(["--seeds", "0"])
    assert "give --out FILE" in capsys.readouterr().err


def test_the_commit_is_known_where_the_sources_are_as_it_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None, "no repository"
    sources = [Path("benchmarks/paper/stages.py"), Path("lit_instructgpt/a/b.py")]
    for file in [*sources, Path("benchmarks/paper/claims.py")]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    Path("benchmarks/paper/claims.py").write_text("2\n")
    assert head.startswith(str(commit())), "the rules train nothing"
    for file in sources:
        file.write_text("2\n")
        assert commit() is None
        file.write_text("1\n")


def test_a_job_during_which_a_source_changed_is_not_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = tmp_path / "stages.py"
    source.write_text("LR = 1")
    did = []

    class TwoJobs:
        def __init__(self, work: Path, seed: int, threads: int) -> None: ...

        def jobs(self) -> list[Job]:
            def edited() -> None:
                did.append("0/b")
                source.write_text("LR = 2")

            return [
                Job("0/a", [], lambda: did.append("0/a")),
                Job("0/b", ["0/a"], edited),
                Job("0/c", ["0/a"], lambda: did.append("0/c")),
            ]

    monkeypatch.setattr("benchmarks.paper_in_miniature.Seed", TwoJobs)
    monkeypatch.setattr("benchmarks.paper_in_miniature.check_sources", lambda ledger: ledger.check_sources([source]))
    arguments = ["--seeds", "0", "--work", str(tmp_path / "w"), "--out", str(tmp_path / "out.json"), "--lanes", "1"]
    with pytest.raises(SystemExit, match=r"0/b: .*was begun with other .*stages\.py"):
        paper_main(arguments)
    assert did == ["0/a", "0/b"], "what comes after it is not begun"
    assert sorted(file.name for file in (tmp_path / "w/done").glob("*.json")) == ["0-a.json"]


def test_a_second_run_of_a_size_has_another_seed_and_the_reward_models_of_a_size_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    ran: dict[str, list[str]] = {}
    monkeypatch.setattr(Seed, "command", lambda self, stage, *words: ran.update({stage: list(words)}))
    seed = Seed(tmp_path, 7, threads=1)
    for name in ("3840", "3840_again"):
        seed.over(name)
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed_everything", type=int)
    one, again = (
        parser.parse_known_args([word.replace(f"over_{name}", "OVER") for word in ran[f"over_{name}"][1:]])
        for name in ("3840", "3840_again")
    )
    assert one[0].seed_everything == 7
    assert again[0].seed_everything not in (7, 8, None)
    assert one[1] == again[1], "and nothing else"


def test_rankings_and_pairs_are_trained_on_with_the_same_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ran: dict[str, list[str]] = {}
    monkeypatch.setattr(Seed, "command", lambda self, stage, *words: ran.update({stage: list(words)}))
    seed = Seed(tmp_path, 7, threads=1)
    for data in ("kwise", "pairs"):
        seed.within_an_epoch(data)
    kwise, pairs = (
        [word.replace(f"rm_{data}", "RM").replace(f"{data}.train", "DATA") for word in ran[f"rm_{data}"]]
        for data in ("kwise", "pairs")
    )
    assert kwise == pairs
    assert "--data.batch_size" in kwise


def test_minutes_are_noted_behind_each_job_and_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen = []

    class TwoJobs:
        def __init__(self, work: Path, seed: int, threads: int) -> None:
            self.spent = work / "done/minutes.txt"

        def jobs(self) -> list[Job]:
            def look() -> None:
                seen.append(float(self.spent.read_text()))
                raise RuntimeError("no more")

            return [Job("0/a", [], lambda: time.sleep(0.7)), Job("0/b", ["0/a"], look)]

    monkeypatch.setattr("benchmarks.paper_in_miniature.Seed", TwoJobs)
    arguments = ["--seeds", "0", "--work", str(tmp_path), "--out", str(tmp_path / "out.json"), "--lanes", "1"]
    with pytest.raises(SystemExit, match=r"0/b: RuntimeError: no more"):
        paper_main(arguments)
    first = float((tmp_path / "done/minutes.txt").read_text())
    assert 0.01 <= seen[0] <= first
    (tmp_path / "done/minutes.txt").write_text("30.5\n")
    with pytest.raises(SystemExit, match="no more"):
        paper_main(arguments)
    assert float((tmp_path / "done/minutes.txt").read_text()) >= 30.5
    assert not (tmp_path / "out.json").exists()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# ------------------------------------------------------------------ figures


def test_a_figure_is_a_mean_with_the_interval_of_students_t():
    values = [0.61, 0.57, 0.64, 0.59, 0.55]
    found = claims.figure(values)
    low, high = scipy.stats.t.interval(0.95, 4, np.mean(values), scipy.stats.sem(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    assert claims.figure([0.5]) == (0.5, -math.inf, math.inf)
    for degrees, quantile in claims.T_95.items():
        assert quantile == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=1e-3)


def test_the_forms_of_gao_et_al_are_recovered_and_peak_where_their_derivative_is_zero():
    d = np.linspace(0.3, 6, 12)
    by_ppo = claims.fit(d, d * (0.9 - 0.5 * np.log(d)), logarithmic=True)
    by_best = claims.fit(d, d * (0.9 - 0.1 * d), logarithmic=False)
    assert by_ppo[:3] == pytest.approx((0.9, 0.5, 0), abs=1e-9)
    assert by_best[:3] == pytest.approx((0.9, 0.1, 0), abs=1e-9)
    assert by_ppo(2.0) == pytest.approx(2 * (0.9 - 0.5 * math.log(2)))
    assert by_ppo.peak(6.0) == pytest.approx(math.exp(0.9 / 0.5 - 1))
    assert by_best.peak(6.0) == pytest.approx(0.9 / 0.2)
    assert by_best.peak(3.0) == 3.0, "behind the end of the curve: the end"


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_fitted_curve_peaks_where_it_is_highest_on_the_run_however_it_bends(logarithmic: bool):
    grid = np.linspace(0, 1.8, 18001)
    for alpha in (-1.0, -0.25, 0.2, 1.0):
        for beta in (-0.5, -0.07, 0.0, 0.3, 2.0):
            form = claims.Form(alpha, beta, 0.0, logarithmic)
            highest = grid[np.argmax([form(x) for x in grid])]
            assert form.peak(1.8) == pytest.approx(highest, abs=2e-4), (alpha, beta)


def test_the_misfit_is_the_root_of_the_mean_square_of_what_the_form_leaves():
    d = np.array([1.0, 2.0, 4.0])
    gold = np.array([1.0, 1.0, 1.0])
    best = min(
        np.sqrt(np.mean((d * (a - b * d) - gold) ** 2)) for a in np.linspace(0, 2, 401) for b in np.linspace(0, 1, 401)
    )
    assert claims.fit(d, gold, logarithmic=False).misfit == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(("worked", "unanswered"), [(-0.1, 0.2), (0.2, -0.1), (0.5, 0.5), (0.0, 1.0)])
def test_worked_and_unanswered_pages_leave_room_for_others(worked: float, unanswered: float):
    said = rf"worked pages \({worked}\) and unanswered pages \({unanswered}\) must be at least 0 and together below 1"
    with pytest.raises(ValueError, match=said):
        next(documents(random.Random(0), 10, worked, unanswered))


# ------------------------------------------------------------------ claims


def policy(win: float, **figures: float) -> dict[str, float]:
    return {"win_rate_vs_sft": win, "utility": 3.5, "hallucination": 0.4, "satisfies_constraint": 0.45, "rm_score": 0.0,
            "text_loss": 1.0, "kl_to_init": 1.0, **figures}  # fmt: skip


def overoptimized(peak: float, size: int) -> dict[str, Any]:
    """Gold score d (1 - beta log d) with its peak where asked, proxy score d, by PPO."""
    beta = 1 / (1 + math.log(peak))
    rows = {"init": {"kl_to_init": 0.0, "utility": 3.0, "rm_score": 0.5}}
    for i in range(1, 11):
        d = 0.5 * i
        rows[f"step_{i}"] = {"kl_to_init": d**2, "utility": 3.0 + 2 * d * (1 - beta * math.log(d)), "rm_score": 0.5 + d}
    return rows


def best_of_n(peak: float) -> list[dict[str, float]]:
    """Gold score d (1 - d / (2 peak)), so that its derivative 1 - d / peak is 0 at the peak; proxy score d."""
    ds = [0.0, 0.44, 0.8, 1.1, 1.36, 1.58, 1.78]
    return [{"kl": d**2, "gold": 3.0 + 2 * d * (1 - d / (2 * peak)), "proxy": d, "gold_std": 2.0} for d in ds]


def measures(seed: int) -> dict[str, Any]:
    """All claims hold; seeds differ by a little noise."""
    e = 0.002 * (seed - 3)
    on_more = {
        "base": {"hallucination": 0.9 + e, "satisfies_constraint": 0.1 + e},
        "ppo": {"win_rate_vs_sft": 0.6 + e},
        "ppo_ptx": {"win_rate_vs_sft": 0.58 + e, "hallucination": 0.2 + e, "satisfies_constraint": 0.5 + e},
    }
    models = {
        "base": policy(0.1 + e),
        "large": policy(0.2 + e, text_loss=0.9 + e),
        "sft": policy(0.49 + e),
        "init": policy(0.46, utility=3.4),
        "ppo": policy(0.48, text_loss=1.2 + e, rm_score=0.7 + e),
        "ppo_ptx": policy(0.48, rm_score=0.65 + e, text_loss=0.98),
        "ptx_0.3": policy(0.57, text_loss=0.99, rm_score=0.6 + e),
        "kl_1": policy(0.5, text_loss=1.1 + e, rm_score=0.5),
        "kl_3": policy(0.47, text_loss=1.0, rm_score=0.05 + e),
        "lr_16": policy(0.1, utility=1.0 + e, text_loss=5 + e), "lr_16_ptx": policy(0.4, utility=3.0 - e),
    }  # fmt: skip
    assert {*ARMS, "base", "large", "sft", "init"} == set(models)
    rm = {"training": {"pair_accuracy": 0.70 + e}, "held_out": {"pair_accuracy": 0.67 + e / 2}}
    agreement = {
        group: {"labelers": {"agreement": 0.75 + e}, "models": {"rm": {"agreement": 0.74 - e}}} for group in rm
    }
    return {
        "seed": seed,
        "models": models,
        "main": {name: {**models[name], **on_more.get(name, {})} for name in MAIN},
        "prompted": {"prompted": policy(0.2 + e), "prompted_large": policy(0.3 + e), "sft": policy(0.5)},
        "head_to_head": {"ppo_ptx/large": 0.8 + e},
        "parameters": {"base": 10, "large": 50, "ppo_ptx": 10},
        "rm": {"models": {"rm": rm}, "agreement": agreement},
        "rm_curves": {
            "rm_kwise": {
                "step": [3, 6, 9],
                "val/loss": [0.65, 0.60, 0.60 + abs(e) / 2],
                "val/pair_accuracy": [0.6, 0.65, 0.66 + e],
            },
            "rm_pairs": {
                "step": [99, 199, 299],
                "val/loss": [0.62, 0.61, 0.70 + e],
                "val/pair_accuracy": [0.6, 0.65, 0.62 + e],
            },
        },
        "forward_passes": {"kwise": 100, "pairs": 550},
        "sft_curve": {
            "val/loss": [2.0, 1.9, 2.1, 2.4, 2.5, 2.6],
            "val/rm_score": [0.0, 0.1, 0.2, 0.15, 0.15, 0.19] if seed == 2 else [0.0, 0.1, 0.2, 0.3, 0.25, 0.25],
        },
        "sft": {"least_loss": policy(0), "best_score": {"win_rate_vs_least_loss": 0.56 + e}},
        "preferences": {"training": {"rate": 0.58 + e}, "held_out": {"rate": 0.575 + e}},
        "over": {
            str(size): overoptimized(peak, size)
            for size, peak in zip(GOLD_RM_PROMPTS, (1.5 + e, 2.0, 3.0 - e), strict=True)
        },
        "best_of": {
            str(size): best_of_n(peak) for size, peak in zip(GOLD_RM_PROMPTS, (0.9 + e, 1.1, 1.5 - e), strict=True)
        },
    }


SEEDS = [measures(seed) for seed in (1, 2, 3, 4, 5)]


def test_too_few_prompts_are_refused():
    rows: list[dict[str, Any]] = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    assert first(rows, 2, "prompts") == rows[:2]
    with pytest.raises(ValueError, match="4 prompts are wanted, there are 3"):
        first(rows, 4, "prompts")


def test_what_the_runs_of_ppo_differ_in():
    config = yaml.safe_load(Path("configs/miniature/ppo.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == POLICY_LR
    kl, no_text = ("--model.ppo.kl_coef", "0.25"), ("--model.ppo.ptx_coef", "0", "--data.text", "null")
    lr = "--model.optimizer.init_args.lr"
    assert options_of(ARMS["ppo_ptx"]) == kl
    assert options_of(ARMS["ppo"]) == (*kl, *no_text)
    assert options_of(ARMS["ptx_0.3"]) == (*kl, "--model.ppo.ptx_coef", "0.3")
    assert options_of(ARMS["kl_1"]) == ("--model.ppo.kl_coef", "1.0", *no_text)
    assert options_of(ARMS["lr_16_ptx"]) == (*kl, lr, "0.008")
    assert options_of(ARMS["lr_16"]) == (*kl, lr, "0.008", *no_text)


def test_all_claims_hold_on_measures_that_were_made_so():
    rows = claims.evaluate_claims(SEEDS)
    assert [row["id"] for row in rows] == list(range(1, 11))
    assert [row["id"] for row in rows if not row["holds"]] == []
    for row in rows:
        assert row["ours_is"] in row["figures"]
        assert row["ci95"][0] <= row["ours"] <= row["ci95"][1]
        assert row["seeds"] == [1, 2, 3, 4, 5]
    assert rows[0]["ours"] == pytest.approx(0.58)
    assert rows[3]["figures"]["difference"]["mean"] == pytest.approx(0.03)
    assert rows[4]["figures"]["completions computed, pairs by rankings"]["mean"] == pytest.approx(5.5)
    assert rows[4]["figures"]["optimizer steps, pairs by rankings"]["mean"] == pytest.approx(30)
    assert rows[5]["figures"]["epoch of best reward-model score"]["mean"] == pytest.approx((4 * 4 + 3) / 5)
    peaks = rows[9]["figures"]
    for way, places in (("PPO", (1.5, 3.0)), ("best of n", (0.9, 1.5))):
        for size, place in zip((GOLD_RM_PROMPTS[0], GOLD_RM_PROMPTS[-1]), places, strict=True):
            name = f"{way}, {size} ranked prompts: sqrt(KL) at the fitted peak"
            assert peaks[name]["mean"] == pytest.approx(place, abs=1e-3)


def change(*path: str, to: Callable[[int], Any]) -> list[dict[str, Any]]:
    """The measures with one figure of every seed replaced."""
    rows = copy.deepcopy(SEEDS)
    for row in rows:
        place: Any = row
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to(row["seed"])
    return rows


@pytest.mark.parametrize(
    ("claim", "path", "to"),
    [
        (1, ("main", "ppo", "win_rate_vs_sft"), lambda s: 0.49 + 0.002 * s),  # intervals overlap
        (1, ("prompted", "prompted", "win_rate_vs_sft"), lambda s: 0.09 + 0.002 * s),
        (2, ("head_to_head", "ppo_ptx/large"), lambda s: 0.45 + 0.02 * s),  # mean above a half, interval not
        (2, ("parameters", "large"), lambda s: 20),  # twice is not several times
        (2, ("models", "large", "text_loss"), lambda s: 0.96 + 0.02 * s),  # not surely the better model of text
        (3, ("main", "ppo_ptx", "satisfies_constraint"), lambda s: 0.43 + 0.01 * s),
        (3, ("main", "ppo_ptx", "hallucination"), lambda s: 0.37 + 0.01 * s),
        (3, ("main", "base", "satisfies_constraint"), lambda s: 0.9),
        (3, ("main", "base", "hallucination"), lambda s: 0.1),
        (4, ("rm", "models", "rm", "held_out", "pair_accuracy"), lambda s: 0.68 + 0.01 * s),
        (4, ("rm", "agreement", "training", "labelers", "agreement"), lambda s: 0.81),
        (4, ("rm", "agreement", "held_out", "labelers", "agreement"), lambda s: 0.6),  # far above is not near either
        (4, ("rm", "models", "rm", "held_out", "pair_accuracy"), lambda s: 0.4),  # more than a few points
        (5, ("rm_curves", "rm_pairs", "val/loss"), lambda s: [0.62, 0.61, 0.60]),
        (
            5,
            ("rm_curves", "rm_pairs", "val/loss"),
            lambda s: [0.71, 0.6985, 0.7585 if s == 4 else 0.7005],
        ),  # .0136 in the mean, of a single seed
        (
            5,
            ("rm_curves", "rm_pairs", "val/loss"),
            lambda s: [0.71, 0.6985, 0.7055 + 0.0001 * s],
        ),  # surely, but by less than .01
        (5, ("rm_curves", "rm_kwise", "val/loss"), lambda s: [0.60, 0.50, 0.55]),  # rankings overfit too
        (5, ("rm_curves", "rm_pairs", "val/pair_accuracy"), lambda s: [0.6, 0.65, 0.63 + 0.01 * s]),
        (6, ("sft_curve", "val/rm_score"), lambda s: [0.1, 0.3, 0.2, 0.1, 0.0, 0.0]),
        (6, ("sft_curve", "val/loss"), lambda s: [2.0, 1.9, 1.8, 2.0, 2.1, 2.2]),  # not early
        (6, ("sft_curve", "val/loss"), lambda s: [2.0, 1.9, 1.9, 1.9, 1.9, 1.905]),  # not overfitted
        (6, ("sft_curve", "val/rm_score"), lambda s: [0.0, 0.3, 0.1, 0.1, 0.31, 0.1]),  # one late peak, and no rise
        (6, ("sft", "best_score", "win_rate_vs_least_loss"), lambda s: 0.48 + 0.01 * s),
        (7, ("models", "ppo", "text_loss"), lambda s: 0.994 + 0.003 * s),  # no tax to begin with
        (7, ("models", "kl_1"), lambda s: policy(0.5, text_loss=0.97, rm_score=0.66)),  # a cheap remedy
        (7, ("models", "kl_1"), lambda s: policy(0.5, text_loss=1.0, rm_score=0.66)),  # restores, if no more than that
        (7, ("models", "kl_1"), lambda s: policy(0.5, text_loss=1.015, rm_score=0.66)),  # but for a twelfth of the rise
        (7, ("models", "kl_1"), lambda s: policy(0.5, text_loss=1.0, rm_score=0.6)),  # for a little of the score
        (7, ("models", "kl_3", "rm_score"), lambda s: 0.66),  # the largest coefficient costs nothing
        (7, ("models", "ppo_ptx", "text_loss"), lambda s: 1.03),  # not restored; other coefficients do not help it
        (8, ("models", "lr_16", "utility"), lambda s: 3.4 + 0.1 * s),
        (8, ("models", "lr_16_ptx", "utility"), lambda s: 1.0),
        (8, ("models", "lr_16", "text_loss"), lambda s: 1.5 + 0.01 * s),  # overfitted to the reward model, not diverged
        (8, ("models", "lr_16_ptx", "text_loss"), lambda s: 3.0 + 0.01 * s),
        (9, ("preferences", "held_out", "rate"), lambda s: 0.54 + 0.001 * s),
        (10, ("over", str(GOLD_RM_PROMPTS[0])), lambda s: overoptimized(3.5, 60)),
        (10, ("over", str(GOLD_RM_PROMPTS[0])), lambda s: overoptimized(20, 60)),  # never turns
        (10, ("best_of", str(GOLD_RM_PROMPTS[0])), lambda s: best_of_n(1.6)),
        (10, ("over", str(GOLD_RM_PROMPTS[1])), lambda s: overoptimized(1.3 + 0.001 * s, 480)),  # further in with more
    ],
)
def test_a_claim_that_does_not_hold_is_reported_as_such(claim: int, path: tuple[str, ...], to: Callable[[int], Any]):
    rows = claims.evaluate_claims(change(*path, to=to))
    assert [row["id"] for row in rows if not row["holds"]] == [claim]


def test_gold_that_rises_to_a_noisy_plateau_has_not_turned():
    rng = np.random.default_rng(0)
    turned = 0
    for _ in range(60):
        d = np.linspace(0.15, 3, 20)
        curves = [{"d": d, "gold": 1 - np.exp(-2 * d) + rng.normal(0, 0.05, 20), "proxy": d} for _ in range(5)]
        falls, rises = claims.fall_after_peak(curves)
        turned += claims.figure(falls).high < 0
        assert min(rises) >= 0
    assert turned <= 6, "about 2.5 % by chance"
    d = np.linspace(0.15, 3, 20)
    falls, rises = claims.fall_after_peak([{"d": d, "gold": d * (2 - d), "proxy": 2 * d}] * 3)
    peak = int(np.argmax(d * (2 - d)))
    assert falls == pytest.approx([3 * (2 - 3) - d[peak] * (2 - d[peak])] * 3)
    assert rises == pytest.approx([2 * (3 - d[peak])] * 3)


def test_one_seed_shows_nothing():
    assert not any(row["holds"] for row in claims.evaluate_claims(SEEDS[:1]))


def test_the_table_has_every_claim_and_says_which_do_not_hold():
    rows = claims.evaluate_claims(change("models", "ppo", "text_loss", to=lambda s: 0.99 + 0.003 * s))
    report = {"claims": rows, "command": "python x.py", "seeds": [1, 2], "minutes": 61.2, "hardware": "2 CPU cores",
              "versions": {"torch": "2.13.0"}, "commit": "0123abc"}  # fmt: skip
    lines = claims_table(report).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:12]] == [str(i) for i in range(1, 11)]
    assert [line.rsplit("|", 2)[1].strip() for line in lines[2:12]] == ["yes"] * 6 + ["no"] + ["yes"] * 3
    assert "9 of 10 hold; `python x.py`, seeds 1, 2, trained at commit 0123abc, 61 minutes on 2 CPU cores" in lines[-1]
    whole = figures_tables(report)
    assert all(f"| {name} |" in whole for row in rows for name in row["figures"])
    assert whole.count("**it does not**") == 1
    assert "| PPO-ptx preferred to the larger base model | 0.8 (" in whole


def test_the_published_claims_are_what_the_rules_of_now_make_of_the_published_measures():
    report = json.loads(OUT.read_text(encoding="utf-8"))
    judged = json.loads(json.dumps(claims.evaluate_claims(report["measures"])))
    if report["seeds"] == list(PUBLISHED):
        assert judged == report["claims"]
        return
    same = [(now, then) for now, then in zip(judged, report["claims"], strict=True) if now["rule"] == then["rule"]]
    assert len(same) >= 8, "an earlier report, by the rules of then, of more arms"
    for now, then in same:
        assert now["figures"].items() <= then["figures"].items()
        assert {**now, "note": "", "figures": {}} == {**then, "note": "", "figures": {}}


def test_measures_are_judged_anew_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    published = json.loads(OUT.read_text(encoding="utf-8"))
    file = tmp_path / "r.json"
    file.write_text(json.dumps({**published, "claims": []}), encoding="utf-8")
    paper_main(["--judge", "--out", str(file)])
    judged = json.loads(file.read_text(encoding="utf-8"))
    assert judged == {**published, "claims": json.loads(json.dumps(claims.evaluate_claims(published["measures"])))}
    assert len(judged["claims"]) == 10
    assert "of 10 hold" in capsys.readouterr().out


def test_steps_stand_in_their_order_however_a_file_has_them():
    row = copy.deepcopy(SEEDS[0])
    size = str(GOLD_RM_PROMPTS[0])
    row["over"][size] = dict(sorted(row["over"][size].items()))
    assert list(row["over"][size])[1:4] == ["step_1", "step_10", "step_2"]
    assert claims.overoptimization_curve(row, GOLD_RM_PROMPTS[0])["d"].tolist() == pytest.approx(
        [0.5 * i for i in range(1, 11)]
    )


def test_of_several_runs_of_a_size_the_means_are_taken_step_by_step():
    row, size = copy.deepcopy(SEEDS[0]), GOLD_RM_PROMPTS[-1]
    one = claims.overoptimization_curve(row, size)
    again = row["over"][f"{size}_again"] = overoptimized(2.0, size)
    other = claims.overoptimization_curve({**row, "over": {str(size): again}}, size)
    found = claims.overoptimization_curve(row, size)
    for key in ("d", "gold", "proxy"):
        assert found[key].tolist() == pytest.approx([(x + y) / 2 for x, y in zip(one[key], other[key], strict=True)])
    assert found["gold"].tolist() != pytest.approx(one["gold"].tolist())


def test_the_drawing_has_the_means_over_seeds():
    found = mean_curve(SEEDS, "best of n", GOLD_RM_PROMPTS[0])
    assert found["d"].tolist() == pytest.approx([0, 0.44, 0.8, 1.1, 1.36, 1.58, 1.78])
    peaks = [0.9 + 0.002 * (seed - 3) for seed in range(1, 6)]
    assert found["gold"][3] == pytest.approx(sum(1.1 * (1 - 1.1 / (2 * peak)) for peak in peaks) / 5)
    drawn = ElementTree.fromstring(overoptimization_svg({"measures": SEEDS}))
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2 * len(GOLD_RM_PROMPTS) * 2, "two ways; gold and proxy of each size"
    for line, way in ((lines[0], "PPO"), (lines[2 * len(GOLD_RM_PROMPTS)], "best of n")):
        x, y = np.array([point.split(",") for point in line.get("points", "").split()], float).T
        curve = mean_curve(SEEDS, way, GOLD_RM_PROMPTS[0])
        assert np.corrcoef(x, curve["d"])[0, 1] == pytest.approx(1, abs=1e-3)
        assert np.corrcoef(y, curve["gold"])[0, 1] == pytest.approx(-1, abs=1e-3), "up is more"


@pytest.mark.parametrize(
    ("loss", "first", "least"),
    [
        ([2.0, 1.9, 2.1, 2.4, 2.5, 2.6], 2, 2),
        ([2.0, 1.909, 1.903, 1.9, 2.5, 2.6], 2, 4),  # a flat trough, whose least is anywhere
        ([2.0, 1.912, 1.9, 1.908, 2.5, 2.6], 3, 3),
    ],
)
def test_the_score_rises_by_its_slope_from_the_first_epoch_as_good_as_the_least(
    loss: list[float], first: int, least: int
):
    seeds = copy.deepcopy(SEEDS)
    for row in seeds:
        row["sft_curve"]["val/loss"] = loss
    (found,) = [row["figures"] for row in claims.evaluate_claims(seeds) if row["id"] == 6]
    scores = [row["sft_curve"]["val/rm_score"][first - 1 :] for row in seeds]
    slopes = [np.polyfit(range(len(score)), score, 1)[0] for score in scores]
    assert found["rise of the score with an epoch, from there on"]["mean"] == pytest.approx(np.mean(slopes), abs=1e-4)
    assert found["epoch whose validation loss is within 0.01 of the least"]["mean"] == first
    assert found["epoch of least validation loss"]["mean"] == least


def test_prompts_that_were_trained_on_are_no_test_prompts(tmp_path: Path):
    for name, texts in (("demonstrations", "ab"), ("prompts_rm", "c"), ("prompts_ppo", "")):
        lines = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.train.jsonl").write_text(lines, encoding="utf-8")
    rows = [{"prompt": text, "id": text} for text in "xaycz"]
    assert [row["id"] for row in unseen(rows, tmp_path)] == ["x", "y", "z"]
