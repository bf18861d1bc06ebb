"""The start-up benchmark runs the public commands and notes the first step's end."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.startup import FirstStep, seconds_to_first_step


def test_the_first_step_alone_is_noted(tmp_path: Path):
    callback = FirstStep(str(tmp_path / "first.json"))
    nothing: Any = None
    callback.on_train_batch_end(nothing, nothing, None, None, 0)
    first = (tmp_path / "first.json").read_text()
    callback.on_train_batch_end(nothing, nothing, None, None, 1)
    assert (tmp_path / "first.json").read_text() == first


@pytest.mark.slow
def test_a_run_is_timed(make_dir: Any, tmp_path: Path):
    model = Path(make_dir("llama", max_position_embeddings=256))
    seconds = seconds_to_first_step(model, tmp_path)
    assert 0.5 < seconds < 120
    assert seconds_to_first_step(model, tmp_path) > 0.5, "and again in the same place"
