"""Supervised fine-tuning against plain transformers models."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import (
    DEMOS,
    PROMPTS,
    READING,
    TEXT,
    adamw,
    assert_same,
    demos,
    fit,
    ids_of,
    moved,
    plain_policy,
    plain_scorer,
    prompts,
    response_nll,
    score_of,
    sgd,
    token_nlls,
    trainer,
    weights,
    whole_ids,
    write,
)

from lit_instructgpt.callbacks import ExportHF, WriteSamples
from lit_instructgpt.datamodules import DemoDataModule
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.formatting import SIDECAR
from lit_instructgpt.models import FreshModel
from lit_instructgpt.modules import SFT
from lit_instructgpt.sampling import Sampling


def test_loss_is_the_mean_over_response_tokens_of_a_plain_forward(
    family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path
):
    with torch.no_grad():
        expected = response_nll(plain_policy(tiny_dir(family)), tokenizer, DEMOS).item()
    module = SFT(tiny_dir(family), optimizer=sgd(0.0), dropout=0.0)
    _, record = fit(module, demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS)), tmp_path)
    assert record.logged[0]["train/loss"] == pytest.approx(expected, abs=1e-5)
    assert record.validated[-1]["val/loss"] == pytest.approx(expected, abs=1e-5)


def test_validation_loss_weighs_tokens_and_not_batches(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    with torch.no_grad():
        expected = response_nll(plain_policy(tiny_dir("gpt2")), tokenizer, DEMOS).item()
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS), valid_batch_size=4)
    found = trainer(tmp_path).validate(SFT(tiny_dir("gpt2")), datamodule=data, verbose=False)
    assert found[0]["val/loss"] == pytest.approx(expected, abs=1e-5)
    found = trainer(tmp_path).test(SFT(tiny_dir("gpt2")), datamodule=data, verbose=False)
    assert found[0]["val/loss"] == pytest.approx(expected, abs=1e-5)


def test_train_on_prompt_counts_every_token_but_the_first(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    model = plain_policy(tiny_dir("gpt_neox"))
    with torch.no_grad():
        whole = [whole_ids(tokenizer, row["prompt"], row["response"]) for row in DEMOS]
        expected = torch.cat([token_nlls(model, ids) for ids in whole]).mean().item()
    module = SFT(tiny_dir("gpt_neox"), optimizer=sgd(0.0), dropout=0.0, train_on_prompt=True)
    _, record = fit(module, demos(tmp_path), tmp_path)
    assert record.logged[0]["train/loss"] == pytest.approx(expected, abs=1e-5)


def test_one_step_is_gradient_descent_on_the_mean_loss(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    model = plain_policy(tiny_dir("llama"))
    before = weights(model)
    response_nll(model, tokenizer, DEMOS).backward()
    expected = {name: before[name] - 0.1 * p.grad for name, p in model.named_parameters()}
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    module = SFT(tiny_dir("llama"), optimizer=sgd(0.1), dropout=0.0)
    _, record = fit(module, demos(tmp_path), tmp_path)
    assert_same(weights(module.policy), expected, 1e-6)
    assert moved(expected, before) > 1e-3
    assert record.logged[0]["train/grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(
    "split", [{"micro_batch_size": 1}, {"micro_batch_size": 4}, {"micro_batch_tokens": 20}, {"packing": False}]
)
def test_pitfall_11_the_micro_batch_split_does_not_change_the_update(
    tiny_dir: Any, tmp_path: Path, split: dict[str, Any]
):
    found = []
    for settings in ({}, split):
        module = SFT(tiny_dir("gpt2"), optimizer=sgd(0.1), dropout=0.0, **settings)
        _, record = fit(module, demos(tmp_path), tmp_path, max_epochs=2)
        found.append((weights(module.policy), record.logged[-1]["train/loss"]))
    assert_same(found[1][0], found[0][0], 1e-6)
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)


def test_max_grad_norm_scales_the_step(tiny_dir: Any, tmp_path: Path):
    steps = []
    for clip in (None, 0.01):
        module = SFT(tiny_dir("gpt2"), optimizer=sgd(1.0), dropout=0.0, max_grad_norm=clip)
        module.configure_model()
        before = weights(module.policy)
        fit(module, demos(tmp_path), tmp_path)
        delta = [(after - before[name]).flatten() for name, after in weights(module.policy).items()]
        steps.append(torch.cat(delta).norm().item())
    assert steps[0] > 0.1
    assert steps[1] == pytest.approx(0.01, rel=1e-3)


def test_pitfall_35_dropout_is_on_in_training_and_off_in_validation(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    with torch.no_grad():
        clean = response_nll(plain_policy(tiny_dir("gpt_neox")), tokenizer, DEMOS).item()
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS))
    module = SFT(tiny_dir("gpt_neox"), optimizer=sgd(0.0), dropout=0.3)
    _, record = fit(module, data, tmp_path, max_epochs=3, num_sanity_val_steps=1)
    losses = [step["train/loss"] for step in record.logged]
    assert all(abs(loss - clean) > 1e-3 for loss in losses)
    assert len({round(loss, 5) for loss in losses}) == 3, "another mask every step"
    for validated in record.validated:
        assert validated["val/loss"] == pytest.approx(clean, abs=1e-5)


def test_pitfall_35_training_goes_on_in_train_mode_after_a_validation_within_the_epoch(tiny_dir: Any, tmp_path: Path):
    modes = []

    class Watch(SFT):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            modes.append(all(m.training for m in self.policy.modules()))
            super().training_step(batch, batch_idx)

    data = demos(tmp_path, batch_size=2, valid=write(tmp_path / "valid.jsonl", DEMOS))
    fit(Watch(tiny_dir("gpt2"), optimizer=sgd(0.0)), data, tmp_path, val_check_interval=1)
    assert modes == [True, True, True]


def test_pitfall_36_a_bf16_directory_is_trained_in_float32(make_dir: Any, tmp_path: Path):
    module = SFT(make_dir("gpt2", dtype=torch.bfloat16), optimizer=sgd(1e-5), dropout=0.0)
    module.configure_model()
    before = weights(module.policy)
    fit(module, demos(tmp_path), tmp_path)
    assert {p.dtype for p in module.policy.parameters()} == {torch.float32}
    assert 0 < moved(weights(module.policy), before) < 1e-3, "a step that bfloat16 would round away"


def test_the_rate_follows_the_cosine_to_a_tenth(tiny_dir: Any, tmp_path: Path):
    module = SFT(tiny_dir("gpt2"), optimizer=sgd(0.01), dropout=0.0)
    run, record = fit(module, demos(tmp_path, batch_size=3), tmp_path, max_epochs=2)
    assert run.global_step == 4
    lrs = [lr for (lr,) in record.lrs]
    assert lrs == pytest.approx([0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * i / 4))) for i in range(4)])
    assert (lrs[0], lrs[2]) == pytest.approx((0.01, 0.0055))
    optimizer: Any = run.optimizers[0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_warmup_rises_linearly_to_the_peak(tiny_dir: Any, tmp_path: Path):
    module = SFT(tiny_dir("gpt2"), optimizer=sgd(0.01), dropout=0.0, num_warmup_steps=3, final_lr_fraction=0.0)
    _, record = fit(module, demos(tmp_path, batch_size=1), tmp_path)
    assert [lr for (lr,) in record.lrs] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.0075, 0.0025])


def test_text_alone_is_the_pretraining_stage(tmp_path: Path):
    text = write(tmp_path / "text.jsonl", TEXT)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    fresh = FreshModel({"model_type": "gpt_neox", **sizes}, [text], vocab_size=270)
    data = DemoDataModule(text=text, valid_text=text, text_tokens=16, batch_size=8, reading=READING)
    module = SFT(fresh, optimizer=adamw(0.01), dropout=0.0)
    _, record = fit(module, data, tmp_path, ExportHF(), max_epochs=3)
    stream = [*module.tokenizer(TEXT[0]["text"]).input_ids, module.tokenizer.eos_token_id] * len(TEXT)
    blocks = [stream[i : i + 16] for i in range(0, len(stream), 16)]
    exported = plain_policy(tmp_path / "export")
    with torch.no_grad():
        expected = torch.cat([token_nlls(exported, b) for b in blocks if len(b) > 1]).mean().item()
    assert record.validated[-1]["val/text_loss"] == pytest.approx(expected, abs=1e-4)
    assert record.logged[-1]["train/loss"] < record.logged[0]["train/loss"] - 0.5
    assert "val/loss" not in record.validated[-1]


def test_text_fraction_mixes_text_among_all_demonstrations(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    data = demos(tmp_path, text=write(tmp_path / "text.jsonl", TEXT), text_fraction=0.25, text_tokens=12, batch_size=4)
    _, record = fit(SFT(tiny_dir("gpt2"), optimizer=sgd(0.0)), data, tmp_path, max_epochs=2)
    assert len(record.batches) == 4
    for epoch in (record.batches[:2], record.batches[2:]):
        is_text = torch.cat([batch.is_text for batch in epoch]).tolist()
        assert (is_text.count(True), is_text.count(False)) == (2, 6)  # 2 / 8 = 0.25
        seen = [
            ids[mask].tolist()
            for batch in epoch
            for ids, mask, text in zip(batch.input_ids, batch.attention_mask, batch.is_text, strict=True)
            if not text
        ]
        assert sorted(seen) == sorted(whole_ids(tokenizer, r["prompt"], r["response"]) for r in DEMOS)


def test_validation_tells_demonstrations_and_text_apart(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    model = plain_policy(tiny_dir("gpt2"))
    data = demos(
        tmp_path, valid=write(tmp_path / "v.jsonl", DEMOS), valid_text=write(tmp_path / "t.jsonl", TEXT[:1]),
        text_tokens=1000,
    )  # fmt: skip
    found = trainer(tmp_path).validate(SFT(tiny_dir("gpt2")), datamodule=data, verbose=False)[0]
    with torch.no_grad():
        text = [*tokenizer(TEXT[0]["text"]).input_ids, tokenizer.eos_token_id]
        assert found["val/text_loss"] == pytest.approx(token_nlls(model, text).mean().item(), abs=1e-5)
        assert found["val/loss"] == pytest.approx(response_nll(model, tokenizer, DEMOS).item(), abs=1e-5)


def test_overfits_one_batch_and_learns_to_stop(tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    module = SFT(
        tiny_dir("gpt_neox"), optimizer=adamw(0.02), dropout=0.0, max_grad_norm=1.0,
        sampling=Sampling(1, max_new_tokens=12, temperature=0),
    )  # fmt: skip
    _, record = fit(module, demos(tmp_path), tmp_path, max_epochs=100)
    assert record.logged[-1]["train/loss"] < 0.05 < 2 < record.logged[0]["train/loss"]
    path = tmp_path / "answers.jsonl"
    data = prompts(tmp_path, predict=write(tmp_path / "ask.jsonl", [{"prompt": row["prompt"]} for row in DEMOS]))
    trainer(tmp_path, WriteSamples(str(path))).predict(module, datamodule=data)
    answers = {row["prompt"]: row["responses"] for row in map(json.loads, path.read_text().splitlines())}
    assert answers == {row["prompt"]: [row["response"]] for row in DEMOS}, "pitfall 22: they end where they should"


def test_pitfall_22_eos_is_a_target_even_where_the_model_came_with_pad_as_eos(
    make_dir: Any, make_tokenizer: Any, tmp_path: Path
):
    tokenizer = make_tokenizer()
    path = make_dir("gpt2", tokenizer=tokenizer)
    same = make_tokenizer(pad_token=tokenizer.eos_token)
    same.save_pretrained(path)
    module = SFT(path, optimizer=sgd(0.0), dropout=0.0)
    _, record = fit(module, demos(tmp_path), tmp_path)
    batch = record.batches[0]
    eos = module.tokenizer.eos_token_id
    assert module.tokenizer.pad_token_id != eos
    assert ((batch.input_ids == eos) & batch.response_mask).sum(1).tolist() == [1] * len(DEMOS)


# ------------------------------------------------------------------ selection by the reward model's score


def greedy(model: Any, ids: list[int], eos: int, num: int) -> list[int]:
    """The most likely response, one whole forward per token."""
    response: list[int] = []
    while len(response) < num and response[-1:] != [eos]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids + response])).logits[0, -1]
        response.append(int(logits.argmax()))
    return response


def test_rm_score_is_the_mean_score_of_sampled_responses(
    tiny_dir: Any, tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path
):
    policy, scorer = plain_policy(tiny_dir("gpt_neox")), plain_scorer(tiny_reward_dir("gpt_neox"))
    scores, stopped = [], []
    for row in DEMOS:
        prompt, _ = ids_of(tokenizer, row["prompt"], row["response"])
        response = greedy(policy, prompt, tokenizer.eos_token_id, 6)
        stopped.append(response[-1] == tokenizer.eos_token_id)
        with torch.no_grad():
            scores.append(score_of(scorer, prompt + response).item())
    module = SFT(
        tiny_dir("gpt_neox"), reward_model=tiny_reward_dir("gpt_neox"),
        sampling=Sampling(1, max_new_tokens=6, temperature=0),
    )  # fmt: skip
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS), valid_batch_size=4)
    found = trainer(tmp_path).validate(module, datamodule=data, verbose=False)[0]
    assert found["val/rm_score"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert found["val/stop_rate"] == pytest.approx(sum(stopped) / len(stopped))


def test_rm_score_is_the_mean_over_several_samples_of_each_prompt(
    tiny_dir: Any, tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path
):
    """Against the expected score of a response of one token, by the policy's probabilities."""
    policy, scorer = plain_policy(tiny_dir("gpt_neox")), plain_scorer(tiny_reward_dir("gpt_neox"))
    means, variances, ends = [], [], []
    for row in DEMOS:
        prompt, _ = ids_of(tokenizer, row["prompt"], row["response"])
        with torch.no_grad():
            p = policy(input_ids=torch.tensor([prompt])).logits[0, -1].double().softmax(0)
            scores = torch.stack([score_of(scorer, [*prompt, token]) for token in range(len(p))]).double()
        means.append(float(p @ scores))
        variances.append(float(p @ scores**2) - means[-1] ** 2)
        ends.append(float(p[tokenizer.eos_token_id]))
    num = 400
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS), valid_batch_size=4)
    found = []
    for num_samples in (1, num):
        module = SFT(tiny_dir("gpt_neox"), reward_model=tiny_reward_dir("gpt_neox"), sampling=Sampling(num_samples, 1))
        found.append(trainer(tmp_path).validate(module, datamodule=data, verbose=False)[0])
    expected, error = sum(means) / len(means), math.sqrt(sum(variances) / num) / len(means)
    assert abs(found[1]["val/rm_score"] - expected) < 3 * error
    assert abs(found[0]["val/rm_score"] - expected) > 3 * error  # a single sample does not come so near
    assert found[1]["val/stop_rate"] == pytest.approx(sum(ends) / len(ends), abs=3 * math.sqrt(0.25 / num / len(DEMOS)))


def test_pitfall_17_a_reward_model_of_another_format_is_refused(tiny_dir: Any, make_dir: Any, tmp_path: Path):
    directory = make_dir("gpt_neox", reward=True)
    stored = {"format": {"template": "<{prompt}>", "response_prefix": "=", "chat_template": False}}
    (Path(directory) / SIDECAR).write_text(json.dumps(stored))
    module = SFT(tiny_dir("gpt_neox"), reward_model=directory, sampling=Sampling(1, max_new_tokens=2))
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS))
    with pytest.raises(ValueError, match=r"was trained with .*<{prompt}>.*set data.format to it"):
        trainer(tmp_path).validate(module, datamodule=data, verbose=False)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_export_keeps_the_weights_with_the_best_rm_score(
    tiny_dir: Any, tiny_reward_dir: Any, tmp_path: Path, mode: str
):
    module = SFT(
        tiny_dir("gpt2"), optimizer=adamw(0.03), dropout=0.0, final_lr_fraction=1.0,
        reward_model=tiny_reward_dir("gpt2"), sampling=Sampling(1, max_new_tokens=6, temperature=0),
    )  # fmt: skip
    seen = []

    class Watch(ExportHF):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(weights(pl_module.policy))
            super().on_validation_end(trainer, pl_module)

    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS))
    _, record = fit(module, data, tmp_path, Watch(monitor="val/rm_score", mode=mode), max_epochs=5)
    scores = [validated["val/rm_score"] for validated in record.validated]
    best = scores.index(max(scores) if mode == "max" else min(scores))
    assert best < len(scores) - 1, "the last is not the best, or nothing is shown"
    assert_same(weights(plain_policy(tmp_path / "export")), seen[best])
    assert_same(weights(plain_policy(tmp_path / "export_last")), seen[-1])


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_metric_that_is_nan_is_no_best(tiny_dir: Any, tmp_path: Path, mode: str):
    values = iter([float("nan"), 2.0, float("nan"), 2.0])

    class Given(SFT):
        def on_validation_epoch_end(self) -> None:
            self.log("val/given", next(values))

    export = ExportHF(monitor="val/given", mode=mode)
    data = demos(tmp_path, valid=write(tmp_path / "v.jsonl", DEMOS))
    with pytest.warns(UserWarning, match=r"val/given is nan at step [13]: nothing is exported for it"):
        fit(Given(tiny_dir("gpt2"), optimizer=sgd(0.01)), data, tmp_path, export, max_epochs=4)
    assert export.best == 2
    assert json.loads((tmp_path / "export" / "lit_instructgpt.json").read_text())["steps"] == 2


def test_export_names_the_metrics_if_the_monitored_one_is_not_there(tiny_dir: Any, tmp_path: Path):
    data = demos(tmp_path, valid=write(tmp_path / "valid.jsonl", DEMOS))
    with pytest.raises(ValueError, match=r"no metric 'val/rm_scor' to monitor; there are: .*val/loss"):
        fit(SFT(tiny_dir("gpt2")), data, tmp_path, ExportHF(monitor="val/rm_scor"))


# ------------------------------------------------------------------ predict, export, refusals


def predict(path: str, tmp_path: Path, out: Path, seed: int = 0) -> list[dict[str, Any]]:
    rows = [{**row, "id": f"p{i}", "user": "u", "topic": i} for i, row in enumerate(PROMPTS)]
    module = SFT(path, sampling=Sampling(3, max_new_tokens=5, seed=seed))
    data = prompts(tmp_path, predict=write(tmp_path / "ask.jsonl", rows), valid_batch_size=3)
    trainer(tmp_path, WriteSamples(str(out))).predict(module, datamodule=data)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_predict_writes_k_responses_per_prompt_ready_to_be_ranked(tiny_dir: Any, tmp_path: Path):
    rows = predict(tiny_dir("gpt2"), tmp_path, tmp_path / "new" / "a.jsonl")
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in PROMPTS]
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(len(PROMPTS))]
    assert [row["topic"] for row in rows] == list(range(len(PROMPTS))), "what else the line held is passed on"
    assert all(len(row["responses"]) == 3 for row in rows)
    assert sum(len(set(row["responses"])) for row in rows) > 2 * len(rows), "samples differ"
    again = predict(tiny_dir("gpt2"), tmp_path, tmp_path / "b.jsonl")
    assert [row["responses"] for row in again] == [row["responses"] for row in rows]
    other = predict(tiny_dir("gpt2"), tmp_path, tmp_path / "c.jsonl", seed=1)
    assert [row["responses"] for row in other] != [row["responses"] for row in rows]


def test_predict_refuses_to_overwrite(tiny_dir: Any, tmp_path: Path):
    out = tmp_path / "a.jsonl"
    out.write_text("mine\n")
    with pytest.raises(FileExistsError, match=r"a\.jsonl exists already"):
        predict(tiny_dir("gpt2"), tmp_path, out)
    assert out.read_text() == "mine\n"


def test_exported_logits_equal_those_of_the_trained_model(family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    module = SFT(tiny_dir(family), optimizer=adamw(0.01), dropout=0.2)
    module.configure_model()
    before = weights(module.policy)
    fit(module, demos(tmp_path), tmp_path, ExportHF(), max_epochs=2)
    ids = torch.tensor([tokenizer("the quick fox").input_ids])
    exported = plain_policy(tmp_path / "export")
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, module.policy.eval()(ids).logits, atol=1e-5, rtol=0)
    assert moved(weights(exported), before) > 1e-3
    assert exported.generation_config.eos_token_id == tokenizer.eos_token_id
    card = (tmp_path / "export" / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert str(tmp_path) not in card
    sidecar = json.loads((tmp_path / "export" / "lit_instructgpt.json").read_text())
    assert sidecar["format"]["template"] == "{prompt}\n"
    assert sidecar["steps"] == 2
    assert [len(digest) for digest in sidecar["data"].values()] == [64]


@pytest.mark.parametrize(
    ("flag", "value", "remedy"),
    [("accumulate_grad_batches", 2, "micro_batch_size"), ("gradient_clip_val", 1.0, "max_grad_norm")],
)
def test_pitfall_37_trainer_flags_that_would_be_ignored_are_refused(
    tiny_dir: Any, tmp_path: Path, flag: str, value: float, remedy: str
):
    with pytest.raises(ValueError, match=f"SFT: trainer.{flag} is {value}.*{remedy}"):
        fit(SFT(tiny_dir("gpt2")), demos(tmp_path), tmp_path, **{flag: value})


def test_pitfall_13_a_gradient_that_is_not_finite_stops_before_the_step(tiny_dir: Any, tmp_path: Path):
    module = SFT(tiny_dir("gpt2"), optimizer=sgd(0.1), dropout=0.0)
    module.configure_model()
    with torch.no_grad():
        module.policy.transformer.ln_f.weight[0] = float("inf")
    before = weights(module.policy)
    with pytest.raises(FloatingPointError, match="at optimizer step 0: no step was taken"):
        fit(module, demos(tmp_path), tmp_path)
    assert_same(weights(module.policy), before)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_must_be_a_probability(tiny_dir: Any, dropout: float):
    with pytest.raises(ValueError, match=rf"model\.dropout must be at least 0 and below 1, got {dropout}"):
        SFT(tiny_dir("gpt2"), dropout=dropout)


def test_every_epoch_has_another_order_and_draws_other_text(tiny_dir: Any, tmp_path: Path):
    text = write(
        tmp_path / "text.jsonl", [{"text": f"{word} fox jumps over the dog."} for word in ("The", "A", "One", "No")]
    )
    data = demos(tmp_path, text=text, text_fraction=0.25, text_tokens=10, batch_size=8)
    _, record = fit(SFT(tiny_dir("gpt2"), optimizer=sgd(0.0)), data, tmp_path, max_epochs=4)
    data = demos(tmp_path, batch_size=1)
    _, single = fit(SFT(tiny_dir("gpt2"), optimizer=sgd(0.0)), data, tmp_path, max_epochs=3)
    drawn = [tuple(sorted(map(tuple, batch.input_ids[batch.is_text].tolist()))) for batch in record.batches]
    assert len(set(drawn)) > 1
    orders = [[b.input_ids[0].tolist() for b in single.batches[i : i + 6]] for i in (0, 6, 12)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert orders[0] != orders[1] != orders[2] != orders[0]


# ------------------------------------------------------------------ the context


def test_sequences_longer_than_the_context_are_refused(family: str, tiny_dir: Any, tokenizer: Any, tmp_path: Path):
    room = 128 - len(ids_of(tokenizer, "one", "")[0]) - 1  # for the response; its EOS takes one
    for length, fits in ((room, True), (room + 1, False)):
        rows = [{"prompt": "one", "response": "z" * length}]
        data, module = demos(tmp_path, rows, reading=Reading()), SFT(tiny_dir(family), optimizer=sgd(0.1))
        if fits:
            assert fit(module, data, tmp_path)[0].global_step == 1
        else:
            with pytest.raises(
                ValueError, match=r"129 tokens do not fit the context of 128 .*reading\.max_tokens \(2048"
            ):
                fit(module, data, tmp_path)


def test_text_longer_than_the_context_is_refused(tiny_dir: Any, tmp_path: Path):
    data = demos(tmp_path, text=write(tmp_path / "t.jsonl", TEXT), text_fraction=0.1, text_tokens=129)
    with pytest.raises(ValueError, match=r"129 tokens do not fit the context of 128 .*lower data\.text_tokens \(129\)"):
        fit(SFT(tiny_dir("gpt2")), data, tmp_path)


def test_samples_that_could_go_beyond_the_context_are_refused(
    tiny_dir: Any, tiny_reward_dir: Any, tokenizer: Any, tmp_path: Path
):
    room = 128 - max(len(ids_of(tokenizer, row["prompt"], "")[0]) for row in PROMPTS)
    for length in (room, room + 1):
        data = prompts(tmp_path, predict=write(tmp_path / "q.jsonl", PROMPTS))
        module = SFT(tiny_dir("gpt2"), sampling=Sampling(1, length))
        if length == room:
            assert trainer(tmp_path).predict(module, datamodule=data)
        else:
            with pytest.raises(
                ValueError, match=rf"129 tokens do not fit .*model\.sampling\.max_new_tokens \({length}\)"
            ):
                trainer(tmp_path).predict(module, datamodule=data)
    data = demos(tmp_path, valid=write(tmp_path / "v.jsonl", DEMOS))
    module = SFT(tiny_dir("gpt2"), reward_model=tiny_reward_dir("gpt2"), sampling=Sampling(1, 128))
    with pytest.raises(ValueError, match=r"do not fit .*model\.sampling\.max_new_tokens \(128\)"):
        fit(module, data, tmp_path)


def test_bf16_autocast_is_plain_transformers_under_autocast(tiny_dir: Any, tmp_path: Path):
    """Loss of the first step; attention kernels and rows round differently."""
    module = SFT(tiny_dir("llama"), optimizer=sgd(0.1), dropout=0.0)
    _, record = fit(module, demos(tmp_path), tmp_path, precision="bf16-mixed")
    policy, (total, num) = plain_policy(tiny_dir("llama")), (0.0, 0)
    batch = record.batches[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for ids, mask, response in zip(batch.input_ids, batch.attention_mask, batch.response_mask, strict=True):
            logits = policy(ids[mask][None]).logits[0].float()
            found = logits.log_softmax(-1)[:-1].gather(1, ids[mask][1:, None]).squeeze(1)
            total, num = total - float(found[response[mask][1:]].sum()), num + int(response.sum())
    assert record.logged[0]["train/loss"] == pytest.approx(total / num, abs=5e-3)


def test_bf16_weights_are_said_to_lose_updates(tiny_dir: Any, tmp_path: Path):
    module = SFT(tiny_dir("llama"), optimizer=sgd(0.1), dropout=0.0)
    with pytest.warns(UserWarning, match="bf16-true: weights and optimizer state in bfloat16 lose updates"):
        _, record = fit(module, demos(tmp_path), tmp_path, precision="bf16-true")
    exact = SFT(tiny_dir("llama"), optimizer=sgd(0.1), dropout=0.0)
    _, expected = fit(exact, demos(tmp_path), tmp_path)
    assert record.logged[0]["train/loss"] == pytest.approx(expected.logged[0]["train/loss"], rel=0.01)
