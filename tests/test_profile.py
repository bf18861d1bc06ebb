"""The profile of a few steps: shares by hand, and a real run of each length."""

import json
from pathlib import Path
from typing import Any

import pytest
from stages import demos, fit, sgd

from lit_instructgpt.callbacks import Profile
from lit_instructgpt.callbacks.profile import shares
from lit_instructgpt.modules import SFT


def test_shares_by_hand():
    events = [
        ("aten::mm", 3.0), ("aten::addmm", 1.0), ("aten::_scaled_dot_product_flash_attention_for_cpu", 0.5),
        ("aten::mul", 0.25), ("aten::_fused_adamw_", 1.0), ("enumerate(DataLoader)#ResumableLoader.__next__", 0.75),
        ("aten::searchsorted", 0.5), ("aten::_softmax", 0.5), ("aten::cumsum", 0.5),
    ]  # fmt: skip
    found = shares(events, 10.0)
    assert {kind: row["seconds"] for kind, row in found.items()} == {
        "matrix products": 4.0, "attention": 1.0, "optimizer": 1.0, "data": 0.75, "sampling": 1.0,
        "other tensor work": 0.25, "outside of torch": 2.0,
    }  # fmt: skip
    assert next(iter(found)) == "matrix products", "largest first"
    assert sum(row["share"] for row in found.values()) == pytest.approx(1)
    assert found["data"]["share"] == 0.075


def test_steps_of_a_run_are_profiled_once(tiny_dir: Any, tmp_path: Path):
    fit(SFT(tiny_dir("gpt2"), optimizer=sgd(0.1)), demos(tmp_path), tmp_path, Profile(skip=2, steps=1), max_epochs=6)
    folder = tmp_path / "profile"
    found = json.loads((folder / "shares.json").read_text())
    assert found["steps"] == 1
    rounding = 5e-5 * (len(found["kinds"]) + 1)  # every figure is written with four decimals
    assert sum(row["seconds"] for row in found["kinds"].values()) == pytest.approx(found["seconds"], abs=rounding)
    assert found["kinds"]["matrix products"]["seconds"] > 0
    assert len(list(folder.glob("*.pt.trace.json"))) == 1


@pytest.mark.parametrize("skip", [1, 5])
def test_a_run_that_is_too_short_says_so(tiny_dir: Any, tmp_path: Path, skip: int):
    with pytest.warns(UserWarning, match=rf"ended after 2 steps, {skip + 3} are needed: nothing is written"):
        fit(SFT(tiny_dir("gpt2"), optimizer=sgd(0.1)), demos(tmp_path), tmp_path, Profile(skip, 3), max_epochs=2)
    assert not (tmp_path / "profile").exists()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"skip \(-1\) must not be negative"):
        Profile(skip=-1)
