"""The benchmark gives every side the same token ids, step by step."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.throughput import CASES, FORMAT, Case, amount, phase_table, prepare, sides, summary, table
from lit_instructgpt.datamodules import ComparisonDataModule, DemoDataModule, PromptDataModule
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.models import load_tokenizer

HUMAN = [
    {"prompt": f"say {word} or not", "responses": [f"{word} it is {word}", f"no {word} at all then"]}
    for word in ("one", "go", "run", "fast", "late", "never", "home", "sleep", "two", "three", "tea", "oh")
]


def loader(case: Case, directory: str, folder: Path) -> Any:
    """Our batches of the case."""
    kwargs: dict[str, Any] = {
        "train": str(folder / "train.jsonl"), "format": PromptFormat(**FORMAT), "batch_size": case.batch,
        "reading": Reading(case.prompt, case.response, case.prompt + case.response),
    }  # fmt: skip
    if case.stage == "ppo":
        kwargs["num_episodes"] = case.batch * (case.steps + 2)
    data = {"sft": DemoDataModule, "rm": ComparisonDataModule, "ppo": PromptDataModule}[case.stage](**kwargs)
    module = SimpleNamespace(tokenizer=load_tokenizer(directory))
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1)
    data.setup("fit")
    batches = data.train_dataloader()
    return batches["prompts"] if case.stage == "ppo" else batches


def sequences(batch: Any) -> list[list[int]]:
    """The unpadded rows of a batch, sorted."""
    ids, mask = batch.input_ids.flatten(0, -2), batch.attention_mask.flatten(0, -2)
    return sorted(row[kept].tolist() for row, kept in zip(ids, mask, strict=True) if kept.any())


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_every_side_takes_the_same_ids_in_the_same_steps(stage: str, tiny_dir: Any, tmp_path: Path):
    case = Case(stage, "tiny-gpt2", "float32", batch=2, steps=2, num_completions=4, prompt=40, response=12)
    prepare(case, Path(tiny_dir("gpt2")), HUMAN, tmp_path)
    ids = [json.loads(line) for line in (tmp_path / "ids.jsonl").read_text().splitlines()]
    assert len(ids) == 8
    for step, batch in enumerate(loader(case, tiny_dir("gpt2"), tmp_path)):
        expected = []
        for record in ids[2 * step : 2 * step + 2]:
            responses = record.get("responses", [record.get("response", [])])
            expected += [record["prompt"] + response for response in responses]
        assert sequences(batch) == sorted(expected)


def test_responses_are_cut_and_prompts_too_long_are_left_out(tiny_dir: Any, tmp_path: Path):
    case = Case("sft", "tiny-gpt2", "float32", batch=1, steps=2, num_completions=2, prompt=40, response=12)
    human = [{**HUMAN[0], "responses": ["a long answer that has far more than twelve tokens"] * 2}, *HUMAN]
    prepare(case, Path(tiny_dir("gpt2")), human, tmp_path)
    eos = load_tokenizer(tiny_dir("gpt2")).eos_token_id
    for line in (tmp_path / "ids.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert len(record["prompt"]) <= 40
        assert len(record["response"]) <= 12
        assert record["response"][-1] == eos


def test_amounts_by_hand():
    ids = [{"prompt": [1, 2], "response": [3], "responses": [[3], [4], [5]]}] * 3
    assert amount(Case("sft", "m", "float32", batch=2), ids, 0) == 6
    assert amount(Case("rm", "m", "float32", batch=2), ids, 0) == 6, "three pairs each"
    assert amount(Case("ppo", "m", "float32", batch=2), ids, 0) == 2


def test_the_names_of_the_cases_are_their_own():
    assert len({case.name for case in CASES}) == len(CASES)
    assert torch.tensor([case.batch % case.micro for case in CASES]).sum() == 0


def test_the_table_says_what_was_not_measured():
    row = {"name": "sft/m", "unit": "tokens/s", "rate": {"ours": 1234.5, "trl": None}, "ratio_to_peer": None,
           "ratio_to_floor": 0.961, "memory_ratio_to_peer": None, "peak_mb": {"ours": 1234.4, "trl": None}}  # fmt: skip
    head, _, line = table([row]).splitlines()
    assert line == "| sft/m | 1,234.5 tokens/s | - | - | - | - | - | 0.96 | - | - | 1,234 |"
    assert head.count("|") == line.count("|")


def test_phases_are_shown_where_they_are_timed():
    rows = [
        {"name": "ppo/m", "phases": {"ours": {"rollout": 5.34, "update": 21.0}, "trl": {"rollout": 9.6}, "loop": {}}},
        {"name": "sft/m", "phases": {"ours": {}}},
    ]  # fmt: skip
    assert phase_table(rows).splitlines() == [
        "| seconds of an iteration | rollout | update |", "|---|---|---|",
        "| ppo/m, ours | 5.34 | 21.00 |", "| ppo/m, trl | 9.60 | - |",
    ]  # fmt: skip
    assert phase_table(rows[1:]) == ""


def test_a_summary_by_hand():
    """Ratios are taken within a round, and the median is theirs."""
    found = {
        "ours": [{"rate": 4.0, "peak_mb": 100.0, "phases": []}, {"rate": 6.0, "peak_mb": 110.0, "phases": []},
                 {"rate": 5.0, "peak_mb": 120.0, "phases": []}],
        "trl": [{"rate": 1.0, "peak_mb": 200.0, "phases": []}, {"rate": 3.0, "peak_mb": 200.0, "phases": []},
                {"rate": 2.0, "peak_mb": 200.0, "phases": []}],
    }  # fmt: skip
    row = summary(Case("sft", "tiny-llama", "float32"), found, 3)
    assert row["rate"] == {"ours": 5.0, "trl": 2.0}
    assert row["ratio_to_peer"] == 2.5, "of 4, 2 and 2.5"
    assert row["memory_ratio_to_peer"] == 0.55
    assert row["ratio_to_floor"] is None


def test_who_takes_part():
    assert sides(Case("sft", "tiny-llama", "float32")) == ["trl", "trl-allocator", "loop"]
    assert "litgpt" in sides(Case("sft", "smollm2-135m", "bf16-autocast"))
    assert "recommended" in sides(Case("ppo", "smollm2-135m", "float32"))
    assert "recommended" not in sides(Case("ppo", "smollm2-135m", "bf16-autocast"))
