"""The table of targets says what was reached, what was not, and what was not measured."""

from typing import Any

from benchmarks.targets import BOUNDS, RECOMMENDED, cell, table
from benchmarks.throughput import CASES


def test_a_value_beside_its_bound():
    assert cell(1.7, 1.7, False) == "1.70 (>= 1.7)"
    assert cell(1.69, 1.7, False) == "**1.690, short of >= 1.7**"
    assert cell(0.85, 0.85, True) == "0.85 (<= 0.85)"
    assert cell(0.86, 0.85, True) == "**0.860, short of <= 0.85**"
    assert cell(1.496, 1.5, False) == "**1.496, short of >= 1.5**", "not 1.50"
    assert cell(None, 2, False) == "not measured (>= 2)"


def test_every_target_has_a_case_that_is_measured():
    assert set(RECOMMENDED) <= set(BOUNDS) <= {case.name for case in CASES}


def test_the_table_takes_each_figure_from_its_place():
    row: dict[str, Any] = {
        "name": "ppo/smollm2-135m/float32/natural", "ratio_to_peer": 1.6, "ratio_to_peer_same_allocator": 1.4,
        "ratio_to_floor": 1.3, "memory_ratio_to_peer": 0.8, "memory_ratio_to_floor": 1.1, "recommended_to_peer": 2.6,
    }  # fmt: skip
    growth = {"rows": [{"stage": "rm", "relative_without_attention": {"128": 1.0, "256": 1.2, "512": 0.9}}]}
    lines = table({"rows": [row]}, {"seconds": {"help": 0.1, "first_step": 13.0}}, growth).splitlines()
    ppo = [line for line in lines if line.startswith("| ppo/smollm2-135m/float32")]
    assert ppo[0].split(" | ")[1:] == [
        "1.60 (>= 1.5)", "**1.400, short of >= 1.5**", "1.30 (>= 1.25)", "0.80 (<= 0.85)", "**1.100, short of <= 1.05** |",
    ]  # fmt: skip
    assert ppo[1].split(" | ")[1:] == ["2.60 (>= 2.5)", "-", "-", "-", "- |"]
    rest = "\n".join(lines)
    assert "`lit-instructgpt --help`, seconds | 0.10 (<= 4)" in rest
    assert "first step of the tiny Llama, seconds | **13.000, short of <= 12**" in rest
    assert "growth of rm: most time for each, to the smallest size | **1.200, short of <= 1.15**" in rest
    assert "growth of sft: most time for each, to the smallest size | not measured" in rest
