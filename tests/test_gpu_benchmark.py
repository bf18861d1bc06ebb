"""The GPU benchmark: its operation count by hand, its refusal, and its rehearsal on the CPU."""

import json
import math
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_checks
from benchmarks.gpu import SIZES, judged, main, model_flops
from benchmarks.gpu_checks import furthest, table


def test_operations_by_hand():
    # d 4, one layer, 2 heads of which 1 is of keys and values, MLP of width 8: weights 2 * 16 + 2 * 4 * 2 + 3 * 4 * 8
    # = 144. Sequences of 2 and 3 tokens: 2 * 144 * 5 = 1,440; pairs 3 + 6 = 9: 4 * 4 * 9 = 144; 2 targets of 10 tokens:
    # 2 * 4 * 10 * 2 = 160. Forward and backward: three times 1,744.
    shape = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 8}  # fmt: skip
    assert model_flops(shape, 10, [2, 3], 2) == 3 * 1744
    assert model_flops({**shape, "num_hidden_layers": 2}, 0, [2, 3], 2) == 3 * 2 * 1584


def test_the_sizes_are_what_they_are_called():
    """Weights of the layers and embeddings of 49,152 tokens, by the same count at 6 operations each."""
    for name, total in (("135m", 0.135e9), ("1.3b", 1.3e9), ("2.7b", 2.7e9)):
        weights = model_flops(SIZES[name], 0, [1], 0) / 6 + 49152 * SIZES[name]["hidden_size"]
        assert weights == pytest.approx(total, rel=0.1)


def test_goals_are_judged_in_their_direction():
    assert judged({"what": "sft", "model": "1.3b", "mfu": 0.49})["reached"] is False
    assert judged({"what": "sft", "model": "1.3b", "mfu": 0.5})["reached"] is True
    assert judged({"what": "ppo", "model": "1.3b", "rollout_share": 0.6})["reached"] is False
    assert judged({"what": "ppo", "model": "1.3b", "rollout_share": 0.4}) == {
        "what": "ppo", "model": "1.3b", "rollout_share": 0.4, "goal": "rollout_share <= 0.5", "reached": True,
    }  # fmt: skip
    assert "reached" not in judged({"what": "sft", "model": "135m", "mfu": 0.9})
    assert "reached" not in judged(
        {"what": "rollout", "model": "1.3b", "engine": "generate", "of_bandwidth_floor": 0.9}
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_what_to_do():
    with pytest.raises(SystemExit, match="no CUDA device here; --rehearse"):
        main([])


@pytest.mark.slow
def test_the_rehearsal_measures_everything(tmp_path: Path):
    main(["--rehearse", "--work", str(tmp_path)])
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["rehearsal"] is True
    rows = report["rows"]
    assert [row["what"] for row in rows] == ["matmul", "sft", "rm", "rollout", "rollout", "rollout", "ppo"]
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert len(numbers) >= 15
    assert all(math.isfinite(value) and value > 0 for value in numbers)
    assert set(rows[-1]["phases"]) == {"rollout", "scoring", "update"}
    assert not any("reached" in row for row in rows), "nothing is judged"


@pytest.mark.slow
def test_the_checks_run_on_the_cpu_and_name_what_is_not_measured(tmp_path: Path):
    main(
        [
            "--checks",
            "FSDP2 on one device, sft",
            "--work",
            str(tmp_path / "work"),
            "--out",
            str(tmp_path / "checks.json"),
        ]
    )
    report = json.loads((tmp_path / "checks.json").read_text())
    row = next(row for row in report["rows"] if row["check"] == "FSDP2 on one device, sft")
    assert row["cpu"]["holds"] is True
    if not torch.cuda.is_available():
        assert row["cuda"] == "not measured"
        assert list(report["measured_on"]) == ["cpu"]
    assert "| FSDP2 on one device, sft | first difference 0, largest difference 0, holds |" in table(report)


def test_a_difference_is_seen():
    rows = [{"step": 0, "train/loss": 4.0}, {"step": 1, "train/loss": 2.0}]
    other = [{"step": 0, "train/loss": 4.0}, {"step": 1, "train/loss": 2.5}]
    assert furthest(rows, rows) == 0
    assert furthest(other, rows) == pytest.approx(0.25)


def test_rows_of_another_machine_stay_and_an_interrupted_run_leaves_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    out, calls = tmp_path / "checks.json", []

    class Interrupted(BaseException):
        pass

    def check(on: object, name: str) -> dict[str, object]:
        calls.append(name)
        if name == "third":
            raise Interrupted
        if name == "second":
            raise ValueError("broken")
        return {"gap": 0.5, "holds": True}

    names = ("first", "second", "third")
    monkeypatch.setattr(gpu_checks, "Checks", lambda device, folder: None)
    monkeypatch.setattr(gpu_checks, "checks", lambda: {n: (lambda on, n=n: check(on, n), False) for n in names})
    there = {"check": "first", "cpu": "not measured", "cuda": {"gap": 0.25, "holds": True}}
    out.write_text(json.dumps({"measured_on": {"cuda": "a GPU"}, "rows": [there]}))
    with pytest.raises(Interrupted):
        gpu_checks.measure(["cpu"], tmp_path, out)
    report = json.loads(out.read_text())
    first, second, third = report["rows"]
    assert calls == list(names)
    assert first["cuda"] == there["cuda"]
    assert (first["cpu"]["gap"], first["cpu"]["holds"]) == (0.5, True)
    assert second["cpu"]["holds"] is False
    assert second["cpu"]["error"] == "ValueError: broken"
    assert third == {"check": "third", "cpu": "not measured", "cuda": "not measured"}
    assert report["measured_on"]["cuda"] == "a GPU"
    text = table(report)
    assert "| first | gap 0.5, holds | gap 0.25, holds |" in text
    assert "| second | **does not hold** | not measured |" in text
    assert "GPU: a GPU" in text
