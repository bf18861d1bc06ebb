"""How the benchmark of two processes tells a difference from noise."""

import pytest

from benchmarks.two_processes import FIGURES, compare


def test_difference_and_noise_by_hand():
    # one: 1, 2, 3 (mean 2, variance 1); two: 2, 2, 5 (mean 3, variance 3). The difference's standard error is
    # sqrt((1 + 3) / 3) = 1.1547; Student's t for 95 % and four degrees of freedom is 2.776.
    values = {"one process": (1, 2, 3), "two processes": (2, 2, 5)}
    seeds = {
        str(seed): {name: dict.fromkeys(FIGURES, float(rows[seed])) for name, rows in values.items()}
        for seed in range(3)
    }
    found = compare(seeds)["kl_to_init"]
    assert found == pytest.approx({"one": 2.0, "two": 3.0, "difference": 1.0, "noise": 3.2055}, abs=1e-3)
