"""The reward model against brute force over pairs and plain transformers models."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import (
    COMPARISONS,
    DEMOS,
    adamw,
    assert_same,
    comparisons,
    fit,
    ids_of,
    moved,
    plain_scorer,
    score_of,
    sgd,
    trainer,
    weights,
    whole_ids,
    write,
)
from torch import Tensor

from lit_instructgpt.callbacks import ExportHF
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.hidden import can_pack
from lit_instructgpt.modules import RankingRM


def started(path: str, **settings: Any) -> RankingRM:
    """A module with its model loaded."""
    module = RankingRM(path, **{"optimizer": sgd(0.0), **settings})
    module.configure_model()
    return module


def plain_scores(model: Any, tokenizer: Any, row: dict[str, Any]) -> list[Tensor]:
    """One bare forward pass per completion."""
    return [score_of(model, whole_ids(tokenizer, row["prompt"], text)) for text in row["responses"]]


def brute_force_loss(scores: list[list[Tensor]], rows: list[dict[str, Any]], soft_ties: bool = False) -> Tensor:
    """Mean over prompts of the mean over pairs: -log sigmoid(better - worse), by loops."""
    prompts = []
    for found, row in zip(scores, rows, strict=True):
        pairs = []
        for i, j in itertools.combinations(range(len(found)), 2):
            first, second = row["ranking"][i], row["ranking"][j]
            better, worse = (i, j) if first < second else (j, i)
            if first != second:
                pairs.append(torch.log(1 + torch.exp(found[worse] - found[better])))
            elif soft_ties:
                gap = found[i] - found[j]
                pairs.append(0.5 * torch.log(1 + torch.exp(gap)) + 0.5 * torch.log(1 + torch.exp(-gap)))
        if pairs:
            prompts.append(torch.stack(pairs).mean())
    return torch.stack(prompts).mean()


@pytest.mark.parametrize("soft_ties", [False, True])
def test_loss_is_brute_force_over_pairs_with_unequal_k(
    family: str, tiny_dir: Any, tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path, soft_ties: bool
):
    model = plain_scorer(tiny_reward_dir(family))
    with torch.no_grad():
        scores = [plain_scores(model, tokenizer, row) for row in COMPARISONS]
        expected = brute_force_loss(scores, COMPARISONS, soft_ties).item()
    module = RankingRM(tiny_reward_dir(family), optimizer=sgd(0.0), soft_ties=soft_ties)
    _, record = fit(module, comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS)), tmp_path)
    assert record.logged[0]["train/loss"] == pytest.approx(expected, abs=1e-5)
    assert record.validated[0]["val/loss"] == pytest.approx(expected, abs=1e-5)
    mean = torch.stack([score for row in scores for score in row]).mean().item()
    assert record.validated[0]["val/score"] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_pitfall_20_k_completions_are_computed_once_and_not_once_per_pair(
    tiny_dir: Any, tokenizer: Any, tmp_path: Path, packing: bool
):
    rows = [{"prompt": "say it", "responses": [f"word {i}" for i in range(9)], "ranking": list(range(1, 10))}]
    sequences = [whole_ids(tokenizer, "say it", text) for text in rows[0]["responses"]]
    num_prompt = len(whole_ids(tokenizer, "say it", "")) - 1  # EOS
    module = started(tiny_dir("gpt_neox"), packing=packing)
    can_pack(module.reward_model.model.base_model)
    seen = []
    module.reward_model.model.gpt_neox.register_forward_hook(
        lambda _, args, kwargs, output: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    fit(module, comparisons(tmp_path, rows, batch_size=1), tmp_path)
    responses = sum(len(ids) - num_prompt for ids in sequences)
    assert seen == [(1, num_prompt + responses) if packing else (9, max(map(len, sequences)))], "and not 36"


def test_packing_changes_neither_loss_nor_gradient(family: str, tiny_dir: Any, tmp_path: Path):
    found = []
    for packing in (False, True):
        module = RankingRM(tiny_dir(family), optimizer=sgd(0.1), packing=packing)
        _, record = fit(module, comparisons(tmp_path), tmp_path)
        found.append(
            (record.logged[0]["train/loss"], record.logged[0]["train/grad_norm"], weights(module.reward_model))
        )
    assert found[1][:2] == pytest.approx(found[0][:2], rel=1e-5)
    assert_same(found[1][2], found[0][2], 1e-6)


def test_the_order_of_the_completions_does_not_matter(tiny_dir: Any, tmp_path: Path):
    found = []
    for order in (slice(None), slice(None, None, -1)):
        rows = [{**row, "responses": row["responses"][order], "ranking": row["ranking"][order]} for row in COMPARISONS]
        module = RankingRM(tiny_dir("gpt2"), optimizer=sgd(0.1))
        _, record = fit(module, comparisons(tmp_path, rows), tmp_path)
        found.append((record.logged[0]["train/loss"], weights(module.reward_model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert_same(found[0][1], found[1][1], 1e-6)


def test_one_step_is_gradient_descent_on_the_mean_over_prompts(tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path):
    model = plain_scorer(tiny_reward_dir("llama"))
    before = weights(model)
    brute_force_loss([plain_scores(model, tokenizer, row) for row in COMPARISONS], COMPARISONS).backward()
    expected = {f"model.{n}": before[n] - 0.1 * p.grad for n, p in model.named_parameters()}
    module = RankingRM(tiny_reward_dir("llama"), optimizer=sgd(0.1))
    fit(module, comparisons(tmp_path), tmp_path)
    assert_same(weights(module.reward_model), expected, 1e-6)
    assert moved(expected, {f"model.{n}": x for n, x in before.items()}) > 1e-3


@pytest.mark.parametrize("split", [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"micro_batch_tokens": 40}])
def test_pitfall_11_the_micro_batch_split_does_not_change_the_update(
    tiny_dir: Any, tmp_path: Path, split: dict[str, int]
):
    tied = {"prompt": "I", "responses": ["go", "run"], "ranking": [1, 1]}  # counts in no divisor
    found = []
    for settings in ({}, split):
        module = RankingRM(tiny_dir("gpt2"), optimizer=sgd(0.1), **settings)
        data = comparisons(tmp_path, [*COMPARISONS, tied], batch_size=5, keep_all_tied=True)
        _, record = fit(module, data, tmp_path, max_epochs=2)
        found.append((weights(module.reward_model), record.logged[-1]["train/loss"]))
    assert_same(found[1][0], found[0][0], 1e-6)
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)


def test_tied_pairs_do_not_move_the_scores_unless_soft(tiny_dir: Any, tmp_path: Path):
    tied = [{"prompt": "I", "responses": ["go", "run far", "run"], "ranking": [1, 1, 1]}]
    steps = {}
    for soft_ties in (False, True):
        module = started(tiny_dir("gpt2"), optimizer=sgd(0.1), soft_ties=soft_ties)
        before = weights(module.reward_model)
        fit(module, comparisons(tmp_path, tied, batch_size=1, keep_all_tied=True), tmp_path)
        steps[soft_ties] = moved(weights(module.reward_model), before)
    assert steps[False] == 0
    assert steps[True] > 1e-4


def test_the_new_head_is_drawn_from_the_seed_alone(tiny_dir: Any):
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(heads))
        heads.append(started(tiny_dir("gpt2"), seed=seed).reward_model.model.score.weight.detach().clone())
    torch.testing.assert_close(heads[0], heads[1], atol=0, rtol=0)
    assert (heads[0] - heads[2]).abs().max() > 1e-2


# ------------------------------------------------------------------ validation


@pytest.mark.parametrize("valid_batch_size", [1, 3, 64])
def test_validation_means_do_not_depend_on_the_batch_size(
    tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path, valid_batch_size: int
):
    model = plain_scorer(tiny_reward_dir("gpt2"))
    with torch.no_grad():
        scores = [plain_scores(model, tokenizer, row) for row in COMPARISONS]
        loss = brute_force_loss(scores, COMPARISONS).item()
    data = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS), valid_batch_size=valid_batch_size)
    found = trainer(tmp_path).validate(RankingRM(tiny_reward_dir("gpt2")), datamodule=data, verbose=False)[0]
    every = [score.item() for row in scores for score in row]
    assert len(every) == 12, "of 3, 4, 2 and 3 completions: a mean over prompts would be another"
    assert found["val/score"] == pytest.approx(sum(every) / 12, abs=1e-5)
    assert found["val/loss"] == pytest.approx(loss, abs=1e-5)


def test_accuracy_overall_per_source_and_per_labeler(tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path):
    model = plain_scorer(tiny_reward_dir("gpt2"))
    hits: dict[str, list[float]] = {}
    longer = []
    for row in COMPARISONS:
        with torch.no_grad():
            scores = [s.item() for s in plain_scores(model, tokenizer, row)]
        lengths = [len(ids_of(tokenizer, row["prompt"], text)[1]) for text in row["responses"]]
        for i, j in itertools.permutations(range(len(scores)), 2):
            if row["ranking"][i] < row["ranking"][j]:
                longer.append((math.copysign(1, lengths[i] - lengths[j]) + 1) / 2 if lengths[i] != lengths[j] else 0.5)
                for name in ("", f"/source/{row.get('source', 'data')}", f"/labeler/{row['labeler']}"):
                    hits.setdefault(f"val/pair_accuracy{name}", []).append(float(scores[i] > scores[j]))
    expected = {name: sum(found) / len(found) for name, found in hits.items()}
    data = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS), valid_batch_size=3)
    found = trainer(tmp_path).validate(RankingRM(tiny_reward_dir("gpt2")), datamodule=data, verbose=False)[0]
    assert {k: v for k, v in found.items() if k.startswith("val/pair_accuracy")} == pytest.approx(expected)
    assert len(set(expected.values())) > 1
    assert found["val/num_pairs"] == len(longer) == 11
    assert found["val/length_baseline"] == pytest.approx(sum(longer) / len(longer))
    assert 0 <= found["val/calibration_error"] <= 1
    tested = trainer(tmp_path).test(RankingRM(tiny_reward_dir("gpt2")), datamodule=data, verbose=False)[0]
    assert tested == pytest.approx(found)


def test_overfits_one_batch(tiny_dir: Any, tmp_path: Path):
    data = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS))
    module = RankingRM(tiny_dir("gpt_neox"), optimizer=adamw(0.02))
    _, record = fit(module, data, tmp_path, max_epochs=25)
    assert record.logged[-1]["train/loss"] < 0.02 < 0.2 < record.logged[0]["train/loss"]
    assert record.logged[-1]["train/pair_accuracy"] == 1
    assert record.validated[-1]["val/pair_accuracy"] == 1


def test_pitfall_02_and_35_dropout_of_the_source_is_off_and_the_mode_is_train(make_dir: Any, tmp_path: Path):
    path = make_dir("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    losses, modes = [], []

    class Watch(RankingRM):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            modes.append(self.reward_model.training)
            super().training_step(batch, batch_idx)

    for seed in (0, 1):
        torch.manual_seed(seed)
        data = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS))
        _, record = fit(Watch(path, optimizer=sgd(0.0)), data, tmp_path, max_epochs=2)
        losses += [step["train/loss"] for step in record.logged] + [record.validated[-1]["val/loss"]]
    assert modes == [True] * 4
    assert max(losses) - min(losses) < 1e-6


# ------------------------------------------------------------------ export


def test_pitfall_19_demonstrations_average_0_in_the_exported_directory(
    family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path
):
    data = comparisons(tmp_path, demonstrations=write(tmp_path / "demos.jsonl", DEMOS), valid_batch_size=4)
    module = RankingRM(tiny_dir(family), optimizer=adamw(0.02))
    fit(module, data, tmp_path, ExportHF(), max_epochs=3)
    model = plain_scorer(tmp_path / "export")
    with torch.no_grad():
        whole = [whole_ids(tokenizer, row["prompt"], row["response"]) for row in DEMOS]
        scores = torch.stack([score_of(model, ids) for ids in whole])
    bias = model.config.score_bias
    assert (bias == 0) == (family != "llama"), "only Llama's final norm cannot hold a bias"
    assert scores.std() > 0.1
    assert scores.mean().item() + bias == pytest.approx(0, abs=1e-5)


def test_pitfall_18_exported_scores_equal_those_of_the_trained_model(
    family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path
):
    data = comparisons(tmp_path, demonstrations=write(tmp_path / "demos.jsonl", DEMOS))
    module = RankingRM(tiny_dir(family), optimizer=adamw(0.02))
    fit(module, data, tmp_path, ExportHF(), max_epochs=2)
    model = plain_scorer(tmp_path / "export")
    for row in COMPARISONS:
        ids = whole_ids(tokenizer, row["prompt"], row["responses"][0])
        tokens = torch.tensor([ids])
        with torch.no_grad():
            own = module.reward_model.eval().score(tokens, torch.ones_like(tokens).bool()).item()
            assert model(tokens).logits.item() + model.config.score_bias == pytest.approx(own, abs=1e-5)


def test_the_shift_does_not_change_any_difference(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    found = []
    for demonstrations in (None, write(tmp_path / "demos.jsonl", DEMOS)):
        torch.manual_seed(0)
        module = RankingRM(tiny_dir("gpt_neox"), optimizer=adamw(0.02))
        data = comparisons(tmp_path, demonstrations=demonstrations)
        if demonstrations is None:
            with pytest.warns(UserWarning, match=r"data\.demonstrations is not set: .* keep an arbitrary origin"):
                fit(module, data, tmp_path, ExportHF(dirname="plain"))
        else:
            fit(module, data, tmp_path, ExportHF(dirname="shifted"))
        model = plain_scorer(tmp_path / ("shifted" if demonstrations else "plain"))
        with torch.no_grad():
            found.append(torch.stack(plain_scores(model, tokenizer, COMPARISONS[1])))
    shift = found[1] - found[0]
    assert shift.abs().min() > 1e-3
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), atol=1e-5, rtol=0)


def test_the_sidecar_holds_a_probe_that_the_directory_reproduces(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    data = comparisons(tmp_path, demonstrations=write(tmp_path / "demos.jsonl", DEMOS))
    fit(RankingRM(tiny_dir("gpt2"), optimizer=adamw(0.02)), data, tmp_path, ExportHF())
    probe = json.loads((tmp_path / "export" / "lit_instructgpt.json").read_text())["probe"]
    assert probe["input_ids"] == whole_ids(tokenizer, COMPARISONS[0]["prompt"], COMPARISONS[0]["responses"][0])
    with torch.no_grad():
        score = score_of(plain_scorer(tmp_path / "export"), probe["input_ids"]).item()
    assert score == pytest.approx(probe["score"], abs=1e-4)
    assert "AutoModelForSequenceClassification" in (tmp_path / "export" / "README.md").read_text()


def test_export_by_the_best_accuracy_is_centred_too(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    data = comparisons(
        tmp_path, valid=write(tmp_path / "v.jsonl", COMPARISONS), demonstrations=write(tmp_path / "d.jsonl", DEMOS)
    )
    module = RankingRM(tiny_dir("gpt_neox"), optimizer=adamw(0.05))
    _, record = fit(module, data, tmp_path, ExportHF(monitor="val/pair_accuracy"), max_epochs=4)
    for name in ("export", "export_last"):
        model = plain_scorer(tmp_path / name)
        with torch.no_grad():
            whole = [whole_ids(tokenizer, row["prompt"], row["response"]) for row in DEMOS]
            assert torch.stack([score_of(model, ids) for ids in whole]).mean().item() == pytest.approx(0, abs=1e-5)
    sidecar = json.loads((tmp_path / "export" / "lit_instructgpt.json").read_text())
    best = max(validated["val/pair_accuracy"] for validated in record.validated)
    assert sidecar["metrics"]["val/pair_accuracy"] == pytest.approx(best)


# ------------------------------------------------------------------ refusals


def test_sequences_longer_than_the_context_are_refused(family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    room = 128 - len(ids_of(tokenizer, "one", "")[0]) - 1  # for the response; its EOS takes one
    for length, fits in ((room, True), (room + 1, False)):
        rows = [{"prompt": "one", "responses": ["z" * length, "no"], "ranking": [1, 2]}]
        data, module = comparisons(tmp_path, rows, reading=Reading()), RankingRM(tiny_dir(family), optimizer=sgd(0.1))
        if fits:
            assert fit(module, data, tmp_path)[0].global_step == 1
        else:
            with pytest.raises(
                ValueError, match=r"129 tokens do not fit the context of 128 .*reading\.max_tokens \(2048"
            ):
                fit(module, data, tmp_path)
            valid = comparisons(tmp_path, valid=write(tmp_path / "v.jsonl", rows), reading=Reading())
            with pytest.raises(ValueError, match=r"129 tokens do not fit the context of 128"):
                trainer(tmp_path).validate(module, datamodule=valid)


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [
        ("accumulate_grad_batches", 2, "micro_batch_size"),
        ("gradient_clip_val", 1.0, "max_grad_norm"),
        ("precision", "16-true", "bf16-mixed"),
    ],
)
def test_pitfall_37_trainer_flags_that_would_be_ignored_are_refused(
    tiny_dir: Any, tmp_path: Path, flag: str, value: float, remedy: str
):
    with pytest.raises(ValueError, match=f"RankingRM: trainer.{flag} is {value}.*{remedy}"):
        fit(RankingRM(tiny_dir("gpt2")), comparisons(tmp_path), tmp_path, **{flag: value})


def test_pitfall_13_a_gradient_that_is_not_finite_stops_before_the_step(tiny_dir: Any, tmp_path: Path):
    module = started(tiny_dir("gpt2"), optimizer=sgd(0.1))
    with torch.no_grad():
        module.reward_model.model.score.weight[0, 0] = float("nan")
    before = module.reward_model.model.transformer.wte.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="at optimizer step 0: no step was taken"):
        fit(module, comparisons(tmp_path), tmp_path)
    assert_same({"wte": module.reward_model.model.transformer.wte.weight.detach()}, {"wte": before})
