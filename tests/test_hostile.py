"""R12: files and configs that try to run code. Each is refused, and the canary is never created."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from stages import DEMOS, write

from lit_instructgpt.checkpoints.directory import begin, seal
from lit_instructgpt.checkpoints.state import STATE, tensors_file
from lit_instructgpt.cli import main

READING = {"max_prompt_tokens": 24, "max_response_tokens": 16, "max_tokens": 64}


class Touch:
    """Unpickled, it creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Must never exist."""
    return tmp_path / "canary"


def config(tmp_path: Path, model: str, **model_args: Any) -> dict[str, Any]:
    return {
        "trainer": {
            "accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False,
            "num_sanity_val_steps": 0, "log_every_n_steps": 1,
        },
        "model": {"class_path": "SFT", "init_args": {"model": model, "dropout": 0.0, **model_args}},
        "data": {
            "class_path": "DemoDataModule",
            "init_args": {"train": write(tmp_path / "demos.jsonl", DEMOS), "batch_size": 6, "reading": READING},
        },
    }  # fmt: skip


def refused(tmp_path: Path, text: str | dict[str, Any], canary: Path, *more: str) -> str:
    """Runs ``fit``, which must end with an error; what it said."""
    path = tmp_path / "config.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    with pytest.raises((SystemExit, Exception)) as caught:
        main(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run"), *more])
    if isinstance(caught.value, SystemExit):
        assert caught.value.code not in (None, 0)
    assert not canary.exists(), "code has run"
    return str(caught.value)


# ------------------------------------------------------------------ configs


CLASSES = {
    "a shell command": "class_path: os.system",
    "a process": "class_path: subprocess.Popen\ninit_args: {args: [touch, CANARY]}",
    "exec": "class_path: builtins.exec",
    "an absent module": "class_path: no_such_module.Thing",
    "a module of the working directory": "class_path: evil.Thing",
    "torch.load": "class_path: torch.load\ninit_args: {f: CANARY}",
    "pickle": "class_path: pickle.load",
    "a way up": "class_path: lit_instructgpt.cli.os.system",
    "Lightning's way": "class_path: lightning.pytorch.cli.instantiate_class",
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("place", ["model", "callback", "optimizer"])
def test_class_paths(
    name: str, place: str, tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n\nclass Thing: pass\n")
    spec = yaml.safe_load(CLASSES[name].replace("CANARY", str(canary)))
    plain = config(tmp_path, tiny_dir("gpt2"))
    if place == "model":
        plain["model"] = spec
    elif place == "callback":
        plain["trainer"]["callbacks"] = [spec]
    else:
        plain["model"]["init_args"]["optimizer"] = spec
    refused(tmp_path, plain, canary)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
YAMLS = {
    "a tag that calls": "model: !!python/object/apply:os.system ['touch CANARY']\n",
    "a tag that makes": "model: !!python/object/new:subprocess.Popen [['touch', 'CANARY']]\n",
    "a tag that imports": "model: !!python/module:evil\n",
    "a bomb": BOMB,
    "depth": "model: " + "[" * 20_000,
    "bytes": "\x00\x01\x02",
    "another file's path": "model: ../../../../etc/passwd\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(name: str, tmp_path: Path, canary: Path):
    refused(tmp_path, YAMLS[name].replace("CANARY", str(canary)), canary)


# ------------------------------------------------------------------ models


def model_dir(tiny_dir: Callable[[str], str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir("gpt2"), tmp_path / "model"))


def as_pickle(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    with open(folder / "pytorch_model.bin", "wb") as file:
        pickle.dump(Touch(canary), file)


def as_torch_file(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Touch(canary)}, folder / "pytorch_model.bin")


def pickle_under_a_safe_name(folder: Path, canary: Path) -> None:
    with open(folder / "model.safetensors", "wb") as file:
        pickle.dump(Touch(canary), file)


def own_code(folder: Path, canary: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings |= {
        "model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
    }  # fmt: skip
    path.write_text(json.dumps(settings))


def own_tokenizer(folder: Path, canary: Path) -> None:
    (folder / "tokenization_evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_evil.T", None]}})
    )


def header(text: bytes, length: int | None = None) -> Callable[[Path, Path], None]:
    def write_it(folder: Path, _: Path) -> None:
        size = len(text) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + text + b"\x00" * 64)

    return write_it


ENTRY = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
MODELS: dict[str, Callable[[Path, Path], None]] = {
    "a pickle": as_pickle,
    "a pickle of torch": as_torch_file,
    "a pickle under a safe name": pickle_under_a_safe_name,
    "code of its own": own_code,
    "a tokenizer of its own": own_tokenizer,
    "a header of 2 EB": header(b"{}", 1 << 61),
    "a header that is no JSON": header(b"\xff\xfe\xfd"),
    "a header too deep": header(b"[" * 1_000_000),
    "overlapping tensors": header(ENTRY + b', "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}'),
    "a tensor beyond the end": header(b'{"a": {"dtype": "F32", "shape": [99], "data_offsets": [0, 396]}}'),
    "negative offsets": header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}'),
    "an unknown dtype": header(b'{"a": {"dtype": "EVIL", "shape": [2], "data_offsets": [0, 8]}}'),
    "a name twice": header(ENTRY + b', "a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}'),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    folder = model_dir(tiny_dir, tmp_path)
    MODELS[name](folder, canary)
    refused(tmp_path, config(tmp_path, str(folder)), canary)


@pytest.mark.filterwarnings("ignore")
def test_a_chat_template_runs_in_a_sandbox(tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    folder = model_dir(tiny_dir, tmp_path)
    touch = f"touch {canary}"
    template = "{{ cycler.__init__.__globals__.os.system('" + touch + "') }}{{ messages[0]['content'] }}"
    (folder / "chat_template.jinja").write_text(template)
    plain = config(tmp_path, str(folder))
    plain["data"]["init_args"]["format"] = {"chat_template": True}
    refused(tmp_path, plain, canary)


# ------------------------------------------------------------------ checkpoints


def pickled(path: Path, canary: Path) -> None:
    with open(path, "wb") as file:
        pickle.dump(Touch(canary), file)


def zipped(path: Path, canary: Path) -> None:
    torch.save({"state_dict": Touch(canary), "pytorch-lightning_version": "2.6.6"}, path)


def instantiator(path: Path, canary: Path) -> None:
    """CVE-2026-58659: an import path among the hyperparameters."""
    torch.save(
        {
            "state_dict": {}, "pytorch-lightning_version": "2.6.6", "epoch": 0, "global_step": 0, "loops": {},
            "hyper_parameters": {"_instantiator": "os.system", "command": f"touch {canary}"},
            "hparams_name": "kwargs", "hparams_type": "os.system",
        },
        path,
    )  # fmt: skip


def not_a_zip(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Touch(canary)))
        file.writestr("archive/version", "3")
        file.writestr("../canary", "x")


@pytest.mark.parametrize("make", [pickled, zipped, instantiator, not_a_zip])
def test_files_of_lightning(make: Any, tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    path = tmp_path / "last.ckpt"
    make(path, canary)
    refused(tmp_path, config(tmp_path, tiny_dir("gpt2")), canary, "--ckpt_path", str(path))


def sealed(folder: Path, fill: Callable[[Path], None]) -> Path:
    """A checkpoint directory whose manifest is right, whatever is in it."""
    path = folder / "step-00000001"
    partial = begin(path)
    (partial / STATE).write_text(json.dumps({"global_step": 1, "pytorch-lightning_version": "2.6.6"}))
    save_file({"a": torch.ones(2)}, partial / tensors_file(0))
    fill(partial)
    seal(partial, path, {})
    return path


def state(text: str) -> Callable[[Path, Path], Callable[[Path], None]]:
    return lambda folder, canary: (
        lambda partial: (partial / STATE).write_text(text.replace("CANARY", str(canary))) and None
    )


DIRECTORIES: dict[str, Callable[[Path, Path], Callable[[Path], None]]] = {
    "a pickle beside": lambda folder, canary: lambda p: pickled(p / ".metadata", canary),
    "a pickle for tensors": lambda folder, canary: lambda p: pickled(p / tensors_file(0), canary),
    "a pickle for the state": lambda folder, canary: lambda p: pickled(p / STATE, canary),
    "Lightning's metadata": lambda folder, canary: lambda p: torch.save(Touch(canary), p / "meta.pt"),
    "a tensor elsewhere": state('{"state_dict": {"a": {"$tensor": "../../../etc/passwd"}}, "global_step": 1}'),
    "a deep state": state("[" * 200_000),
    "no state": state("[1, 2, 3]"),
    "an import path": state('{"hyper_parameters": {"_instantiator": "os.system"}, "hparams_type": "os.system"}'),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_checkpoint_directories(name: str, tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    path = sealed(tmp_path / "checkpoints", DIRECTORIES[name](tmp_path, canary))
    refused(tmp_path, config(tmp_path, tiny_dir("gpt2")), canary, "--ckpt_path", str(path))


# ------------------------------------------------------------------ data


def test_a_dataset_with_a_script(tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "dataset.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    plain = config(tmp_path, tiny_dir("gpt2"))
    plain["data"]["init_args"]["train"] = str(folder)
    refused(tmp_path, plain, canary)


@pytest.mark.parametrize("dirname", ["../outside", "/tmp/outside", "..", ""])
def test_an_export_stays_in_its_run(dirname: str, tiny_dir: Callable[[str], str], tmp_path: Path, canary: Path):
    plain = config(tmp_path, tiny_dir("gpt2"))
    plain["trainer"]["callbacks"] = [
        {"class_path": "lit_instructgpt.callbacks.ExportHF", "init_args": {"dirname": dirname}}
    ]
    refused(tmp_path, plain, canary)
    assert not (tmp_path / "outside").exists()


def test_the_canary_can_be_created(canary: Path):
    """The tests above can fail."""
    pickle.loads(pickle.dumps(Touch(canary)))
    assert canary.exists()
