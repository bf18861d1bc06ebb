"""The fault harness's short tier: a few trials of every scenario, for the test suite. The whole: benchmarks/faults.py."""

from collections.abc import Iterator

import pytest

from benchmarks.fault_runs import Server
from benchmarks.fault_scenarios import SCENARIOS, Bench, Outcome, trials_of
from benchmarks.faults import prepare
from lit_instructgpt.checkpoints.directory import MOMENTS

SCALE = 0.02
"""Of the whole number of trials; at least one of each kind."""

FEWEST = {"R1": 12, "R2": len(MOMENTS), "R3": 2, "R4": 1, "R5": 4, "R7": 10, "R8": 2, "R9": 3, "R14": 1}
"""Trials that this comes to."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Uninterrupted runs of all stages, and what they left."""
    with Server() as server:
        yield prepare(server, tmp_path_factory.mktemp("faults") / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "R12"])  # R12 is tests/test_hostile.py
def test_short_tier(bench: Bench, scenario: str):
    outcome = Outcome()
    for trial in trials_of(scenario, SCALE):
        outcome.merge(trial(bench))
    assert outcome.problems == []
    assert (outcome.failures, outcome.differing_bytes) == (0, 0)
    assert outcome.trials >= FEWEST[scenario]


def test_differences_and_failures_are_counted():
    """Otherwise no trial could fail."""
    outcome = Outcome()
    outcome.add(None)
    outcome.add(None, differing=3)
    outcome.add("a problem")
    assert (outcome.trials, outcome.failures, outcome.differing_bytes) == (3, 2, 3)
    assert outcome.problems == ["3 bytes differ", "a problem"]
