"""Training states as tensors and JSON."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lit_instructgpt.checkpoints.directory import CheckpointError
from lit_instructgpt.checkpoints.state import (
    STATE,
    generator_states,
    num_bytes,
    read_state,
    restore_generators,
    split,
    tensors_file,
    write_state,
)


def through_disk(state: Any, path: Path) -> Any:
    write_state(*split(state), path)
    return read_state(path)


def assert_equal(found: Any, expected: Any) -> None:
    """Same types, same values, NaN equal to itself, tensors of the same bits."""
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        same = found.contiguous().view(-1).view(torch.uint8), expected.contiguous().view(-1).view(torch.uint8)
        assert torch.equal(*same)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == expected


STATES: dict[str, Any] = {
    "numbers": {"a": 1, "b": 0.1, "c": -0.0, "d": math.inf, "e": math.nan, "f": None, "g": True, "h": 2**70, "i": 5e-324},
    "text": {"": "", "a/b": "x", "ü": "\U0001F600 \n\x00", "$": "$tensor"},
    "nested": {"a": [1, (2, [3, ()]), {}], "b": {"c": {"d": []}}},
    "keys that are no strings": {"state": {0: {"step": torch.tensor(3.0)}, 12: {(1, "x"): 2.5}}},
    "keys that look like marks": {"a": {"$tensor": "b"}, "b": {"$tuple": [1], "$items": 2}},
    "dtypes": {
        str(dtype): torch.tensor([0, 1, 3]).to(dtype)
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8,
                      torch.bool)
    },
    "shapes": {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "turned": torch.arange(6.0).view(2, 3).T},
    "bits": {"nan": torch.tensor([math.nan, -math.nan, -0.0, 1e-45])},
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_state_comes_back_as_it_was(tmp_path: Path, name: str):
    assert_equal(through_disk(STATES[name], tmp_path), STATES[name])


def test_nothing_on_disk_is_a_pickle(tmp_path: Path):
    through_disk(STATES, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [STATE, tensors_file(0)]
    json.loads((tmp_path / STATE).read_text())
    with safe_open(tmp_path / tensors_file(0), framework="pt") as stored:
        assert "shapes/scalar" in stored.keys()  # noqa: SIM118


def test_tied_weights_are_stored_once_and_read_back_as_one(tmp_path: Path):
    weight = torch.randn(100, 10)
    rest, tensors = split({"in": weight, "out": weight, "other": torch.zeros(100, 10)})
    assert num_bytes(tensors) == 2 * 4000
    write_state(rest, tensors, tmp_path)
    found = read_state(tmp_path)
    assert found["in"] is found["out"]
    assert torch.equal(found["in"], weight)


def test_views_of_one_another_are_stored_apart(tmp_path: Path):
    whole = torch.arange(10.0)
    found = through_disk(
        {"whole": whole, "head": whole[:3], "tail": whole[3:], "column": whole.view(5, 2)[:, 1]}, tmp_path
    )
    assert found["head"].tolist() == [0, 1, 2]
    assert found["tail"].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert found["column"].tolist() == [1, 3, 5, 7, 9]


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [(Opaque(), "a Opaque at callbacks/x/1"), ({1, 2}, "a set at callbacks/x/1"), (b"x", "a bytes at callbacks/x/1")],
)
def test_what_would_have_to_be_unpickled_is_refused_by_name(value: Any, message: str):
    with pytest.raises(TypeError, match=f"the state holds {message}: checkpoints hold tensors, numbers"):
        split({"callbacks": {"x": [0, value]}})


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / STATE).unlink(),
        lambda p: (p / STATE).write_text("{"),
        lambda p: (p / STATE).write_text('{"a": {"$tensor": "none of the file"}}'),
        lambda p: (p / STATE).write_text("[" * 100_000),
        lambda p: (p / tensors_file(0)).write_bytes(b"\xff" * 64),
        lambda p: (p / tensors_file(0)).write_bytes(b""),
        lambda p: (p / tensors_file(0)).unlink(),
    ],
)
def test_files_that_are_no_state_are_refused(tmp_path: Path, harm: Any):
    write_state(*split({"a": torch.ones(3)}), tmp_path)
    harm(tmp_path)
    with pytest.raises(CheckpointError, match="no training state"):
        read_state(tmp_path)


def test_the_random_numbers_go_on_where_they_were(tmp_path: Path):
    def draw() -> tuple[Any, ...]:
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(3).tolist()

    before = generator_states()
    try:
        draw()
        state = through_disk(generator_states(), tmp_path)
        expected = draw()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        assert draw() != expected
        restore_generators(state)
        assert draw() == expected
    finally:
        restore_generators(before)
