"""lm-evaluation-harness on an exported directory, offline; and our log-probabilities beside its own."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks_by_hand import phrase, plain_logprobs
from stages import plain_policy, write

from lit_instructgpt.cli import main
from lit_instructgpt.evaluation.choices import PairEncoder, continuation_logprobs
from lit_instructgpt.evaluation.lm_eval import harness
from lit_instructgpt.models import load_policy, load_tokenizer

Dirs = Callable[[str], str]
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed (the extra lm-eval)"
)
foreign_warnings = pytest.mark.filterwarnings("ignore")
"""Those of the harness and of what it imports are not ours."""

MANY_QUESTIONS = [
    {"asked": f"Question: {phrase(i, 4)}? Answer:", "answers": [phrase(i + k, 2 + k) for k in range(3)], "right": i % 3}
    for i in range(40)
]
QUESTIONS = MANY_QUESTIONS[:8]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A directory with a task of three choices, its data beside it."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    settings = {
        "task": "three_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": write(tmp_path / "questions.jsonl", QUESTIONS)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{asked}}",
        "doc_to_choice": "{{answers}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / "three_choices.yaml").write_text(yaml.safe_dump(settings))
    return folder


@needs_lm_eval
@foreign_warnings
def test_a_local_task_offline(
    task: Path, tiny_dir: Dirs, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    directory, out = tiny_dir("gpt_neox"), tmp_path / "new" / "report.json"
    main([
        "lm_eval", "--model", directory, "--tasks", "three_choices", "--include_path", str(task), "--out", str(out),
        "--limit", "6", "--num_fewshot", "0", "--batch_size", "4",
    ])  # fmt: skip
    model = plain_policy(directory)
    right = []
    for row in QUESTIONS[:6]:
        sums, _ = plain_logprobs(model, tokenizer, row["asked"], [f" {answer}" for answer in row["answers"]])
        right.append(float(sums.index(max(sums)) == row["right"]))
    report = json.loads(out.read_text())
    assert report["results"]["three_choices"]["acc,none"] == pytest.approx(sum(right) / 6, abs=1e-6)
    assert report["kind"] == "lm_eval"
    assert report["model"] == directory
    assert "three_choices" in capsys.readouterr().out


@needs_lm_eval
@foreign_warnings
def test_what_is_asked_stands_in_the_chat_template(
    task: Path, tiny_dir: Dirs, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    directory = shutil.copytree(tiny_dir("gpt_neox"), tmp_path / "chat")
    (directory / "chat_template.jinja").write_text(
        "{% for m in messages %}say {{ m.content }}{% endfor %} hello", "utf-8"
    )
    model = plain_policy(tiny_dir("gpt_neox"))
    chosen: dict[str, list[int]] = {"plain": [], "chat": []}
    for row in MANY_QUESTIONS:  # behind a template the harness puts no space before an answer
        for name, context, before in (("plain", row["asked"], " "), ("chat", f"say {row['asked']} hello", "")):
            sums, _ = plain_logprobs(model, tokenizer, context, [f"{before}{answer}" for answer in row["answers"]])
            chosen[name].append(sums.index(max(sums)))
    assert chosen["plain"] != chosen["chat"], "the questions tell the two apart"
    write(
        tmp_path / "questions.jsonl",
        [row | {"right": k} for row, k in zip(MANY_QUESTIONS, chosen["chat"], strict=True)],
    )
    found = harness(
        str(directory), "three_choices", str(tmp_path / "r.json"), str(task), num_fewshot=0, apply_chat_template=True
    )
    assert found["results"]["three_choices"]["acc,none"] == 1.0
    assert found["apply_chat_template"] is True


@needs_lm_eval
@foreign_warnings
def test_continuations_agree_with_the_harness(tiny_dir: Dirs):
    """Token for token and nat for nat, with contexts that are empty, end with spaces and are too long."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    pairs = [
        *[(row["asked"], f" {answer}") for row in QUESTIONS for answer in row["answers"]],
        ("", phrase(1, 5)), ("say hello ", "to the town"), ("say\n\n", "hello"),
    ]  # fmt: skip
    directory = tiny_dir("llama")
    tokenizer = load_tokenizer(directory)
    theirs = HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=5)
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    expected = [logprob for logprob, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
    encode = PairEncoder(tokenizer)
    for context, continuation in pairs:
        if context:
            assert encode(context, continuation) == tuple(map(list, theirs._encode_pair(context, continuation)))
    found = continuation_logprobs(load_policy(directory, tokenizer), tokenizer, pairs)
    assert [one.logprob for one in found] == pytest.approx(expected, rel=2e-6)


def test_without_it_the_extra_is_named(tiny_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'lit-instructgpt\[lm-eval\]'"):
        harness(tiny_dir("gpt2"), "hellaswag", str(tmp_path / "r.json"))


def test_what_cannot_be_measured_or_written_is_said_at_once(
    tiny_reward_dir: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"--model: .*reward model") as caught:
        harness(tiny_reward_dir("gpt2"), "hellaswag", str(tmp_path), device="gpu3")
    assert f"{tmp_path} is a directory: give the file to write" in str(caught.value)
    assert "device: 'gpu3' is none" in str(caught.value)


@needs_lm_eval
@foreign_warnings
@pytest.mark.parametrize(("settings", "message"), [
    ({"tasks": " , "}, r"tasks: ' , ' names none"),
    ({"tasks": "three_choices,no_such_task"}, r"tasks: no_such_task: unknown to lm-evaluation-harness"),
    ({"include_path": "nowhere"}, r"include_path: nowhere is no directory"),
    ({"apply_chat_template": True}, r"apply_chat_template: the tokenizer of .* has no chat template; leave it out"),
    ({"model": "./nowhere"}, r"no model directory \./nowhere"),
])  # fmt: skip
def test_mistakes_are_named(task: Path, tiny_dir: Dirs, tmp_path: Path, settings: dict[str, Any], message: str):
    arguments: dict[str, Any] = {
        "model": tiny_dir("gpt2"), "tasks": "three_choices", "include_path": str(task), **settings
    }  # fmt: skip
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        harness(out=str(tmp_path / "r.json"), **arguments)
    assert not (tmp_path / "r.json").exists()
