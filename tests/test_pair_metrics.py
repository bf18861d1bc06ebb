"""Pair accuracy, length baseline and calibration against loops over pairs."""

import math

import pytest
import torch

from lit_instructgpt.batch import ComparisonBatch
from lit_instructgpt.metrics import PairAccuracy, PairCalibration, half_step

SCORES = [[0.3, -1.2, 2.0], [1.5, 1.5, math.nan], [0.1, 0.2, 0.3], [4.0, 2.0, 3.0]]
RANKING = [[2, 3, 1], [1, 2, 0], [1, 1, 1], [3, 1, 1]]
EXISTS = [[True] * 3, [True, True, False], [True] * 3, [True] * 3]
LENGTHS = [[3, 3, 5], [4, 9, 0], [1, 2, 3], [2, 8, 2]]
SOURCE, LABELER = ["web", "web", "app", "app"], ["ann", "bob", "ann", "bob"]


def batch(rows: slice = slice(None)) -> tuple[torch.Tensor, ComparisonBatch]:
    ids = torch.zeros(4, 3, 2, dtype=torch.int64)
    whole = ComparisonBatch(
        ids,
        ids.bool(),
        torch.tensor(EXISTS),
        torch.tensor(RANKING),
        torch.tensor(LENGTHS),
        SOURCE,
        LABELER,
        [""] * len(SOURCE),
    )
    return torch.tensor(SCORES)[rows], whole.take(rows)


def brute_force(values: list[list[float]], rows: list[int]) -> tuple[float, int]:
    hits, total = 0.0, 0
    for row in rows:
        for i in range(3):
            for j in range(3):
                if EXISTS[row][i] and EXISTS[row][j] and RANKING[row][i] < RANKING[row][j]:
                    a, b = values[row][i], values[row][j]
                    hits += 1.0 if a > b else 0.5 if a == b else 0.0
                    total += 1
    return hits / total, total


@pytest.mark.parametrize("parts", [[slice(0, 4)], [slice(0, 1), slice(1, 3), slice(3, 4)]])
def test_pair_accuracy_is_the_share_over_all_pairs(parts: list[slice]):
    groups = ["source/web", "source/app", "labeler/ann", "labeler/bob", "labeler/never"]
    metric = PairAccuracy(groups)
    for rows in parts:
        metric.update(*batch(rows))
    found = {name: value.item() for name, value in metric.compute().items()}
    accuracy, total = brute_force(SCORES, [0, 1, 2, 3])
    expected = {
        "pair_accuracy": accuracy,
        "length_baseline": brute_force(LENGTHS, [0, 1, 2, 3])[0],
        "num_pairs": total,
        "pair_accuracy/source/web": brute_force(SCORES, [0, 1])[0],
        "pair_accuracy/source/app": brute_force(SCORES, [2, 3])[0],
        "pair_accuracy/labeler/ann": brute_force(SCORES, [0, 2])[0],
        "pair_accuracy/labeler/bob": brute_force(SCORES, [1, 3])[0],
    }
    assert found == pytest.approx(expected, abs=1e-9)
    assert total == 6


def test_numbers_of_the_example_by_hand():
    metric = PairAccuracy()
    metric.update(*batch(slice(0, 2)))
    found = metric.compute()
    # the first prompt has all 3 pairs right; the second's one pair has equal scores
    assert found["pair_accuracy"].item() == pytest.approx(3.5 / 4)
    # longer is better: 5 over 3 twice, 3 and 3 equal; 4 under 9
    assert found["length_baseline"].item() == pytest.approx(2.5 / 4)


def test_no_pairs():
    metric = PairAccuracy(["source/app"])
    metric.update(*batch(slice(2, 3)))
    found = metric.compute()
    assert set(found) == {"pair_accuracy", "length_baseline", "num_pairs"}
    assert all(value.item() == 0 for value in found.values())


def test_reset_starts_again():
    metric = PairAccuracy()
    metric.update(*batch())
    metric.reset()
    metric.update(*batch(slice(1, 2)))
    assert metric.compute()["num_pairs"].item() == 1


def test_half_step():
    assert half_step(torch.tensor([-2.0, 0.0, 0.1])).tolist() == [0, 0.5, 1]


def calibration(margins: list[float]) -> float:
    """Feeds pairs whose better completion leads by these margins."""
    metric = PairCalibration()
    for margin in margins:
        ids = torch.zeros(1, 2, 2, dtype=torch.int64)
        one = ComparisonBatch(
            ids, ids.bool(), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1, 2]]), ids[..., 0], ["s"], ["l"], [""]
        )
        metric.update(torch.tensor([[margin, 0.0]]), one)
    return metric.compute().item()


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_calibration_by_hand():
    # Confidence in the labeler's choice .75, .25, .75, .75. Every other pair is turned round, so the
    # predictions are .75 (true), .75 (false), .75 (true), .25 (false).
    # Bin of .75: three with mean .75 and 2/3 true; bin of .25: one with .25 and 0 true.
    found = calibration([logit(0.75), logit(0.25), logit(0.75), logit(0.75)])
    assert found == pytest.approx(0.75 * abs(2 / 3 - 0.75) + 0.25 * 0.25, abs=1e-5)


def test_calibration_of_certainty_that_is_right_or_wrong():
    assert calibration([40.0] * 6) == pytest.approx(0, abs=1e-5)
    assert calibration([-40.0] * 6) == pytest.approx(1, abs=1e-5)
    assert calibration([0.0] * 6) == pytest.approx(0, abs=1e-5)


def test_calibration_without_pairs_is_zero_and_ties_do_not_count():
    metric = PairCalibration()
    metric.update(*batch(slice(2, 3)))
    assert metric.compute().item() == 0
    metric = PairCalibration()
    metric.update(*batch(slice(3, 4)))
    # rank 3 scores 4, ranks 1 score 2 and 3: margins -2 and -1, the second turned round
    first, second = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))
    assert metric.compute().item() == pytest.approx((abs(1 - first) + abs(0 - second)) / 2, abs=1e-5)
