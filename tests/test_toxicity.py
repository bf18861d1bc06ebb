"""The small classifier of scored text: its parts by hand, training on words that decide, files, refusals."""

import json
import math
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import write

from lit_instructgpt.cli import main
from lit_instructgpt.evaluation.toxicity import (
    CONFIG,
    WEIGHTS,
    Classifier,
    Features,
    ToxicityClassifier,
    _fit,
    agreement,
    auc,
    toxicity_classifier,
)

KIND, RUDE = ["nice", "good day", "thank you", "lovely"], ["darn", "awful", "stupid rotten", "nasty"]


def rows(num: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of neutral words, with a score that one word decides."""
    rng, found = random.Random(seed), []
    neutral = ["town", "people", "question", "river", "table", "seven", "walk", "letter", "stone", "green", "window"]
    for i in range(num):
        words = rng.choices(neutral, k=6)
        words.insert(rng.randrange(6), rng.choice(RUDE if i % 3 == 0 else KIND))
        found.append({"said": {"text": " ".join(words), "score": 0.9 if i % 3 == 0 else 0.1}})
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    path = tmp_path_factory.mktemp("toxicity")
    data = write(path / "scored.jsonl", rows(600))
    report = toxicity_classifier([data], str(path / "out"), "said.text", "said.score", held_out=0.2, num_epochs=5)
    return report, path


def test_features_are_n_grams_of_words_and_of_their_characters():
    features = Features(num_buckets=2**20, words=2, characters=(3, 3))
    names = ["w go", "w on", "w !", "w go on", "w on !", "c <go", "c go>", "c <on", "c on>", "c <!>"]
    assert features("Go on!") == sorted(zlib.crc32(name.encode()) % 2**20 for name in names)
    assert features("go go go on !") != features("go on !"), "another pair of words"
    assert len(set(features("go go go"))) == len(features("go go go")), "each counts once"
    assert features("") == features(" \n") == []
    assert features("don't") == Features(2**20, 2, (3, 3))("DON'T")


@pytest.mark.parametrize(
    ("found", "positive", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
        ([0.5, 0.5, 0.5], [True, False, False], 0.5),
        ([3.0, 2.0, 1.0], [True, False, False], 1.0),
        ([1.0, 2.0, 2.0, 3.0], [True, True, False, False], 0.125),
        ([1.0, 2.0], [True, True], None),
    ],
)
def test_auc(found: list[float], positive: list[bool], expected: float | None):
    assert auc(np.array(found), np.array(positive)) == expected


def test_agreement_by_hand():
    found, scores = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.1, 0.6, 0.3, 1.0])
    report = agreement(found, scores)
    # deviations -.3 -.1 .1 .3 and -.4 .1 -.2 .5: products .12 -.01 -.02 .15 = .24, squares .2 and .46
    assert report["correlation"] == pytest.approx(0.24 / math.sqrt(0.2 * 0.46))
    assert report["auc"] == pytest.approx(0.75), "0.6 and 1.0 are toxic; 0.4 is below 0.6"
    assert report["num_toxic"] == 2
    assert report["error"]["mean"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.2) / 4)
    assert report["error_of_the_mean"] == pytest.approx((0.4 + 0.1 + 0.2 + 0.5) / 4)
    assert agreement(np.array([0.5, 0.5]), np.array([0.0, 1.0]))["correlation"] == 0


def test_it_learns_the_words_that_decide(trained: Any):
    report, path = trained
    assert report["num_train"] + report["num_held_out"] == 600
    assert 80 < report["num_held_out"] < 160
    assert report["held_out"]["correlation"] > 0.95
    assert report["held_out"]["auc"] == 1.0
    assert report["held_out"]["error"]["mean"] < 0.5 * report["held_out"]["error_of_the_mean"]
    assert json.loads((path / "out" / CONFIG).read_text()) == json.loads(json.dumps(report))
    scorer = ToxicityClassifier(str(path / "out"))
    kind, rude, empty = scorer(["", "stupid", "nasty"], ["a lovely stone", "a stupid rotten stone", ""])
    assert kind < 0.3
    assert rude > 0.6
    assert 0 < empty < 1
    assert scorer(["stupid rotten", "x", "y"], ["a lovely stone", "a stupid rotten stone", ""]) == [kind, rude, empty]


def test_a_seed_gives_the_same_bytes(trained: Any, tmp_path: Path):
    _, path = trained
    data = str(path / "scored.jsonl")
    for name, seed in (("same", 0), ("other", 1)):
        toxicity_classifier(
            [data], str(tmp_path / name), "said.text", "said.score", held_out=0.2, num_epochs=5, seed=seed
        )
    first = (path / "out" / WEIGHTS).read_bytes()
    assert (tmp_path / "same" / WEIGHTS).read_bytes() == first
    assert (tmp_path / "other" / WEIGHTS).read_bytes() != first


@pytest.mark.parametrize(
    "setting",
    [{"learning_rate": 0.02}, {"weight_decay": 0.5}, {"batch_size": 32}, {"num_epochs": 4}, {"held_out": 0.25}],
)
def test_a_setting_counts_and_is_written_down(trained: Any, tmp_path: Path, setting: dict[str, float]):
    _, path = trained
    usual: dict[str, Any] = {"text": "said.text", "score": "said.score", "held_out": 0.2, "num_epochs": 5}
    report = toxicity_classifier([str(path / "scored.jsonl")], str(tmp_path / "out"), **{**usual, **setting})
    assert report["settings"].items() >= setting.items()
    assert (tmp_path / "out" / WEIGHTS).read_bytes() != (path / "out" / WEIGHTS).read_bytes()


def test_lines_without_a_score_are_left_out_and_counted(tmp_path: Path):
    unscored = [{"text": "a", "score": None}, {"text": "b", "score": None}]
    data = write(tmp_path / "d.jsonl", [*unscored, *({"text": f"{i}", "score": i % 2} for i in range(50))])
    report = toxicity_classifier([data], str(tmp_path / "out"), held_out=0.3, num_epochs=1)
    assert report["num_unscored"] == 2
    assert report["num_train"] + report["num_held_out"] == 50


def test_the_seed_orders_the_texts():
    def fitted(seed: int) -> list[float]:
        model = Classifier(8)
        _fit(model, [[i] for i in range(8)], torch.linspace(0, 1, 8), 2, 0.05, 0.1, 1, seed)
        return model.weights.weight.flatten().tolist()

    assert fitted(0) == fitted(0)
    assert fitted(0) != fitted(1)


def test_equal_texts_are_on_one_side(tmp_path: Path):
    data = write(tmp_path / "d.jsonl", [{"text": f"number {i % 10} of them", "score": i % 2} for i in range(200)])
    report = toxicity_classifier([data], str(tmp_path / "out"), held_out=0.3, num_epochs=1)
    assert report["num_held_out"] % 20 == 0
    assert report["num_train"] % 20 == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write(
        tmp_path / "d.jsonl", [{"t": f"{'bad' if i % 2 else 'fine'} thing {i}", "s": i % 2} for i in range(80)]
    )
    main(["toxicity_classifier", "--data", f"[{data}]", "--out", str(tmp_path / "out"), "--text", "t", "--score", "s"])
    said = " ".join(capsys.readouterr().out.split())
    assert "the correlation with their scores is" in said
    assert "the AUC of those above 0.5" in said
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [WEIGHTS, CONFIG]


def test_every_bad_line_is_named(tmp_path: Path):
    good = {"text": "a", "score": 0.5}
    data = write(tmp_path / "d.jsonl", [
        good, {"text": " ", "score": 0.5}, good, {"text": "a"}, {"text": "a", "score": 1.5}, {"text": "a", "score": True},
    ])  # fmt: skip
    with pytest.raises(ValueError, match=r"d\.jsonl:2: text: must be a text that is not blank, found ' '") as caught:
        toxicity_classifier([data], str(tmp_path / "out"))
    said = str(caught.value)
    assert "d.jsonl:4: score: is not there" in said
    assert "d.jsonl:5: score: must be a number from 0 to 1, found 1.5" in said
    assert "d.jsonl:6: score: must be a number from 0 to 1, found True" in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        ValueError, match=r"d\.jsonl: in all of its 3 lines: txt: is not there; the fields are: 'text', 'score'$"
    ):
        toxicity_classifier(write(tmp_path / "d.jsonl", [good] * 3), str(tmp_path / "out"), text="txt")


def test_mistakes_are_named_together(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(ValueError, match=r"held_out is 1\.0: give a share") as caught:
        toxicity_classifier(["no.jsonl"], str(tmp_path / "out"), held_out=1.0, num_epochs=0)
    assert "num_epochs is 0" in str(caught.value)
    assert "out is not empty: give a new directory" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=f"holds no {CONFIG}: give the directory"):
        ToxicityClassifier(str(tmp_path))
    few = write(tmp_path / "few.jsonl", [{"text": "a", "score": 0}])
    with pytest.raises(ValueError, match="1 texts give 1 to train on and 0 to measure on: give more"):
        toxicity_classifier([few], str(tmp_path / "new"))
