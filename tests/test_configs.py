"""Every shipped config parses through the real command, and the small ones train."""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_instructgpt import cli
from lit_instructgpt.checkpoints.directory import checkpoints, verify
from lit_instructgpt.config_check import allow_imports

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
STAGES = [CONFIGS / f"{stage}.yaml" for stage in ("sft", "rm", "ppo")]
LIGHTNING_KEYS = {"seed_everything", "run_dir", "ckpt_path", "trainer", "model", "data"}
AXES = {
    "hardware": ("trainer.",),
    "optim": ("model.init_args.optimizer.class_path",),
    "paper": ("trainer.max_epochs", "trainer.val_check_interval", "model.init_args.", "data.init_args."),
}
"""The only keys that an overlay of a directory may hold."""

PAPER_CHAINS = [
    ["sft", "paper/sft"],
    ["sft", "paper/sft", "paper/sft_175B"],
    ["sft", "paper/ppo_init"],
    ["sft", "paper/ppo_init", "paper/ppo_init_6B"],
    ["sft", "paper/ppo_init", "paper/ppo_init_175B"],
    ["rm", "paper/rm"],
    ["ppo", "paper/ppo_ptx"],
    ["ppo", "paper/ppo_ptx", "paper/ppo_ptx_175B"],
    ["ppo", "paper/ppo_ptx", "paper/ppo"],
    ["ppo", "paper/ppo_ptx", "paper/ppo_ptx_175B", "paper/ppo"],
]


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def is_tool(path: Path) -> bool:
    return not set(load(path)) <= LIGHTNING_KEYS


def is_complete(path: Path) -> bool:
    """Whether a config names its module, and so stands alone."""
    return not is_tool(path) and "class_path" in load(path).get("model", {})


ALL = sorted(CONFIGS.rglob("*.yaml"))
COMPLETE = [path for path in ALL if is_complete(path)]
TOOLS = [path for path in ALL if is_tool(path)]
OVERLAYS = [path for path in ALL if not is_complete(path) and not is_tool(path)]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where a user stands who runs the commands of the README."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["lit-instructgpt"])
    allow_imports([])
    yield
    allow_imports([])


def resolved(verb: str, *options: str) -> dict[str, Any]:
    """What the command would run with, all defaults included; nothing is built."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        cli.main([verb, *options, "--print_config"])
    assert ended.value.code in (0, None)
    content: dict[str, Any] = yaml.safe_load(out.getvalue())
    return content


def lightning(*paths: Path) -> dict[str, Any]:
    """The configs laid over one another, resolved by the verb they are for."""
    verb = "predict" if load(paths[0])["data"]["init_args"].get("predict") else "fit"
    return resolved(verb, *(part for path in paths for part in ("--config", str(path))))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all values that are not mappings."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def holds(content: Any, path: Path) -> None:
    """Every value of the file arrived in the resolved config."""
    for name, value in leaves(load(path)):
        found = content
        for part in name.split("."):
            found = found[part]
        if not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
            assert found == value, name


def test_every_config_is_of_a_known_sort() -> None:
    assert set(ALL) == {*COMPLETE, *TOOLS, *OVERLAYS}
    assert set(STAGES) <= set(COMPLETE)
    assert {path.parent.name for path in TOOLS} <= {"miniature"}
    paper = {f"paper/{path.stem}" for path in CONFIGS.glob("paper/*.yaml")}
    assert paper == {name for chain in PAPER_CHAINS for name in chain[1:]}


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_complete_config(path: Path) -> None:
    holds(lightning(path), path)


@pytest.mark.parametrize("chain", PAPER_CHAINS, ids=lambda chain: chain[-1])
def test_paper(chain: list[str]) -> None:
    files = [CONFIGS / f"{name}.yaml" for name in chain]
    holds(lightning(*files), files[-1])


@pytest.mark.parametrize("base", STAGES, ids=lambda path: path.stem)
@pytest.mark.parametrize("directory", ["hardware", "optim"])
def test_overlay_on_every_stage(directory: str, base: Path) -> None:
    overlays = sorted((CONFIGS / directory).glob("*.yaml"))
    assert overlays
    for overlay in overlays:
        content = lightning(base, overlay)
        holds(content, overlay)
        given, kept = (one["model"]["init_args"]["optimizer"]["init_args"] for one in (load(base), content))
        given = {
            k: v for k, v in given.items() if k != "fused" or "fused" in kept
        }  # bitsandbytes' are, and have no such key
        assert given.items() <= kept.items(), "an overlay must not lose the learning rate"
        assert "lr" in given


@pytest.mark.parametrize(
    "path",
    [path for path in OVERLAYS if path.parent.name not in AXES],
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_overlay_beside_its_base(path: Path) -> None:
    """An overlay in a directory of its own lies over some complete config there."""
    bases = [base for base in COMPLETE if base.parent == path.parent and base.stem in ("sft", "rm", "ppo")]
    assert bases
    fitting = 0
    for base in bases:
        with contextlib.suppress(SystemExit, AssertionError):
            holds(lightning(base, path), path)
            fitting += 1
    assert fitting


@pytest.mark.parametrize("directory", AXES)
def test_overlay_touches_only_its_axis(directory: str) -> None:
    for path in (CONFIGS / directory).glob("*.yaml"):
        for name, _ in leaves(load(path)):
            assert name.startswith(AXES[directory]), f"{path.name}: {name}"


def test_paper_overlays_name_no_data_and_no_model() -> None:
    for path in CONFIGS.glob("paper/*.yaml"):
        for name, value in leaves(load(path)):
            assert not (isinstance(value, str) and "/" in value), f"{path.name}: {name}"


def test_every_paper_value_has_its_source() -> None:
    """A section of the paper, or the word guess, behind every value."""
    for path in CONFIGS.glob("paper/*.yaml"):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if not key.startswith("#") and value.split("#")[0].strip() not in ("", "null"):
                comment = line.partition("#")[2].strip()
                assert comment.startswith(("guess:", "C", "3.5")), f"{path.name}: {key.strip()}"


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_tool_config(path: Path) -> None:
    if "models" in load(path):
        content = resolved("evaluate", "--config", str(path), "--allow_import", "miniature")
    else:
        content = resolved("prepare", "--config", str(path), "--inputs", "[a.jsonl]")
    for name, value in load(path).items():
        assert isinstance(value, dict) or content[name] == value, name


@pytest.mark.slow
def test_example_stages_in_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` with sft.yaml, rm.yaml and ppo.yaml as they are, then `evaluate`."""
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        # Lightning's and torch's own; the command shows them, they are no errors
        warnings.simplefilter("ignore")
        for stage in ("sft", "rm", "ppo"):
            cli.main(["fit", "--config", f"configs/{stage}.yaml", "--run_dir", f"runs/{stage}"])
        evaluate = [
            "evaluate", "--models.sft", "runs/sft/export", "--models.ppo", "runs/ppo/export",
            "--prompts", "data/example/prompts.valid.jsonl", "--reward_model", "runs/rm/export",
            "--text", "data/example/text.jsonl", "--text_tokens", "64",
            "--comparisons", "data/example/comparisons.valid.jsonl", "--out", "runs/evaluation.json",
            "--sampling.max_new_tokens", "32",
        ]  # fmt: skip
        cli.main(evaluate)
    for stage in ("sft", "rm", "ppo"):
        for name in ("config.yaml", "export/model.safetensors", "export/lit_instructgpt.json", "metrics.jsonl"):
            assert (tmp_path / "runs" / stage / name).is_file(), f"{stage}/{name}"
        assert verify(checkpoints(tmp_path / "runs" / stage / "checkpoints")[0])
    report = json.loads((tmp_path / "runs/evaluation.json").read_text())
    assert set(report["models"]) == {"sft", "ppo"}
    assert report["num_prompts"] == 10
    assert report["wins_by"] == "reward_model"
