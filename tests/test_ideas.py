"""The benchmark of single ideas compares like with like: before and after have one result."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.ideas import IDEAS, PROCESSES, Setting, main

LOOSE = {"frozen-bfloat16": 0.05, "short-rows": 0.05}
"""Those that round otherwise."""


@pytest.fixture(scope="module")
def setting(tiny_dir: Callable[[str], str]) -> Setting:
    return Setting(tiny_dir("llama"), num=6, response=12)


@pytest.mark.parametrize("name", [name for name in IDEAS if name != "draw-by-inversion"])
def test_before_and_after_are_the_same_work(name: str, setting: Setting):
    before, after = IDEAS[name](setting)
    torch.testing.assert_close(after(), before(), atol=LOOSE.get(name, 1e-5), rtol=LOOSE.get(name, 1e-4))


def test_what_is_written(tiny_dir: Callable[[str], str], tmp_path: Path):
    out = tmp_path / "ideas.json"
    main(
        [
            "--model",
            tiny_dir("llama"),
            "--only",
            "packed-rows",
            "one-network-at-a-time",
            "--rounds",
            "1",
            "--out",
            str(out),
        ]
    )
    packed, one = json.loads(out.read_text())["rows"]
    assert packed["idea"] == "packed-rows"
    assert one["idea"] in PROCESSES
    assert packed["gain"] > 0
    assert one["peak_mb_before"] > 100
    main(["--model", tiny_dir("llama"), "--only", "fused-optimizer", "--rounds", "1", "--out", str(out)])
    assert [row["idea"] for row in json.loads(out.read_text())["rows"]] == [
        "packed-rows", "fused-optimizer", "one-network-at-a-time",
    ], "those measured before are kept"  # fmt: skip
