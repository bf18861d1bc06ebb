"""What an evaluation is given, looked at before anything is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instructgpt.evaluation.inputs import devices, outs, policies, reward_models, takes


def test_every_directory_of_another_kind_is_named_with_its_option_and_the_remedy(
    make_dir: Callable[..., str], tmp_path: Path
):
    policy, reward = make_dir("gpt_neox"), make_dir("gpt_neox", reward=True)
    assert policies({"models.a": policy}) == []
    assert reward_models({"reward_model": reward}) == []
    nothing = str(tmp_path / "none/export")
    wrong = policies({"models.a": policy, "models.b": reward, "init": nothing})
    assert [line.split(": ")[0] for line in wrong] == ["--models.b", "--init"]
    assert "is a reward model (GPTNeoXForSequenceClassification)" in wrong[0]
    assert "no model directory" in wrong[1]
    (found,) = reward_models({"models.rm": policy})
    assert found.startswith("--models.rm: ")
    assert "is no reward model (GPTNeoXForCausalLM)" in found


def test_files_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert outs(None, str(tmp_path / "new/folder/a.json"), str(tmp_path / "file")) == []
    directory, below = outs(str(tmp_path), str(tmp_path / "file/a.json"))
    assert directory == f"{tmp_path} is a directory: give the file to write, for instance {tmp_path}/result.json"
    assert "file is a file, not a directory" in below


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch):
    assert devices("cpu") == []
    assert devices("gpu0") == ["device: 'gpu0' is none; give cpu or cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (said,) = devices("cuda")
    assert said.startswith("device: cuda: ")
    assert said.endswith("give --device cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices("cuda") == devices("cuda:1") == []
    assert devices("cuda:2") == ["device: cuda:2: there are 2; give cuda:0 to cuda:1"]


def test_how_many_arguments_a_callable_takes():
    class Pair:
        def __call__(self, records: Any, first: Any, second: Any) -> None: ...

    assert (takes(Pair(), 2), takes(Pair(), 3)) == (False, True)
    assert takes(lambda *args: None, 2)
    assert takes(lambda records, responses, more=1: None, 2)
    assert takes(dict.fromkeys, 2), "whatever cannot be told passes"
