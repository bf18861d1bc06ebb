"""Supervised fine-tuning, and pretraining where the data are text alone (paper, section 3.5 and C.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lit_instructgpt.batch import DemoBatch, PromptBatch, pad, tokens_per_pass
from lit_instructgpt.compiled import compile_layers
from lit_instructgpt.dropout import add_residual_dropout, dropout_keys, key_of, next_keys
from lit_instructgpt.formatting import check_format
from lit_instructgpt.inference import build_policy
from lit_instructgpt.logprobs import target_logprobs
from lit_instructgpt.lora import ADAPTER, LoRA, add_adapters, merged, save_adapter, trained
from lit_instructgpt.models import (
    ModelSource,
    check_context,
    checkpoint_activations,
    inference_mode,
    load_policy,
    load_tokenizer,
    quiet_loading,
    read_config,
)
from lit_instructgpt.modules.frozen import Sources, check_same, describe, name_frozen
from lit_instructgpt.modules.plans import announce, plan_sft
from lit_instructgpt.modules.steps import num_optimizer_steps
from lit_instructgpt.optim import (
    build_optimizer,
    check_trainer,
    clip_and_step,
    cosine_to_fraction,
    default_optimizer,
)
from lit_instructgpt.packing import check_micro_batches, passes
from lit_instructgpt.ranks import in_step, sum_over_ranks
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.run_seed import begun_with, seed_of
from lit_instructgpt.sampling import Sampling, sample_rows, sample_texts
from lit_instructgpt.sharding import gathered
from lit_instructgpt.strategy import mesh_of


class SFT(LightningModule):
    """Maximum likelihood of the responses, given their prompts.

    The loss is the mean over the batch's target tokens, whatever the micro-batches.

    Args:
        model: a causal language model (directory or hub id), or a fresh one.
        optimizer: its learning rate is the peak of the cosine.
        dropout: residual dropout; the paper's is 0.2.
        train_on_prompt: count the prompt's tokens in the loss too.
        final_lr_fraction: the cosine ends at this fraction of the peak; the paper's is 0.1.
        num_warmup_steps: linear warm-up; the paper has none.
        micro_batch_size: sequences per backward pass, to save memory; does not change the result.
        micro_batch_tokens: tokens per backward pass; as well, or instead.
        max_grad_norm: clip the gradient's global norm; the paper does not say that it did.
        reward_model: a reward model's directory; logs ``val/rm_score``, its mean over ``sampling.num_samples`` responses to each
            validation prompt, by which the paper selected its checkpoint.
        sampling: how responses are sampled, for ``val/rm_score`` and ``predict``.
        seed: of the dropout; None: that of the run (``--seed_everything``).
        packing: put several sequences into a row, without padding; changes no result. Architectures where it would
            are told from the others, with a warning.
        gradient_checkpointing: keep the inputs of the layers alone for the backward pass: less memory, one forward pass
            more; changes no result.
        torch_compile: compile the layers (torch.compile): a minute at the start, and on a GPU faster steps; changes results by
            their rounding.
        lora: train adapters beside a frozen model; the export has them merged, and apart in ``adapter/``.
    """

    def __init__(
        self,
        model: ModelSource,
        optimizer: OptimizerCallable = default_optimizer,
        dropout: float = 0.2,
        train_on_prompt: bool = False,
        final_lr_fraction: float = 0.1,
        num_warmup_steps: int = 0,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        max_grad_norm: float | None = None,
        reward_model: str | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
        packing: bool = True,
        gradient_checkpointing: bool = False,
        torch_compile: bool = False,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {dropout}")
        self.automatic_optimization = False
        self.source, self.optimizer, self.dropout = model, optimizer, dropout
        self.train_on_prompt, self.final_lr_fraction = train_on_prompt, final_lr_fraction
        self.num_warmup_steps, self.max_grad_norm, self.reward_model = num_warmup_steps, max_grad_norm, reward_model
        check_micro_batches(micro_batch_size, micro_batch_tokens)
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.seed, self.packing = seed_of(seed), packing
        sampling = sampling or Sampling()
        self.sampling = replace(sampling, seed=seed_of(sampling.seed))
        self.gradient_checkpointing, self.torch_compile = gradient_checkpointing, torch_compile
        self.lora = lora
        self.frozen_sources: Sources = {}
        if lora is not None:
            if not isinstance(model, str):
                raise ValueError("model.lora needs a model that was trained: give model.model a directory or hub id")
            self.strict_loading = False  # the frozen weights are not in checkpoints
            self.frozen_sources = {"model": describe(model)}
        self.tokenizer = load_tokenizer(model)
        self.policy: Any = None

    def configure_model(self) -> None:
        """Loads the policy; once."""
        if self.policy is None:
            announce(self, plan_sft)
            self.policy = build_policy(self.load, mesh_of(self._trainer))
            if self.dropout:
                add_residual_dropout(self.policy, self.dropout)
            if self.gradient_checkpointing:
                checkpoint_activations(self.policy)
            if self.torch_compile:
                compile_layers(self.policy)

    def load(self) -> Any:
        """The policy, with adapters if asked."""
        policy = load_policy(self.source, self.tokenizer)
        if self.lora is not None:
            add_adapters(policy, self.lora)
        return policy

    def configure_optimizers(self) -> Any:
        """The optimizer with its cosine schedule."""
        optimizer = build_optimizer(self.optimizer, trained(self.policy), self.policy)
        steps = num_optimizer_steps(self.trainer)
        return [optimizer], [cosine_to_fraction(optimizer, steps, self.final_lr_fraction, self.num_warmup_steps)]

    def configure_callbacks(self) -> list[Callback]:
        """Refuses Trainer settings that would be ignored: later, Lightning refuses them without a remedy."""
        check_trainer(self.trainer, "SFT")
        return []

    def on_fit_start(self) -> None:
        """Refuses data, and samples of ``val/rm_score``, that are longer than the model's context."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self._check_context(data.longest())
        if self.reward_model is not None:
            self._check_context(self._sampled(data))
            check_context(
                read_config(self.reward_model), f"the reward model ({self.reward_model})", self._sampled(data)
            )

    on_validation_start = on_test_start = on_fit_start

    def on_predict_start(self) -> None:
        """Refuses prompts whose responses could go beyond the model's context, or in another format than its own."""
        check_format(self.source, self.trainer.datamodule.format)  # type: ignore[attr-defined]
        self._check_context(self._sampled(self.trainer.datamodule))  # type: ignore[attr-defined]

    def _check_context(self, needs: dict[str, int]) -> None:
        name = f"the model ({self.source})" if isinstance(self.source, str) else "the model"
        check_context(self.policy.config, name, needs)

    def _sampled(self, data: Any) -> dict[str, int]:
        """Tokens of the longest prompt with the longest response that may be sampled for it; 0 without prompts."""
        prompt, response = data.longest_prompt(), self.sampling.max_new_tokens
        setting = (
            f"model.sampling.max_new_tokens ({response}) or data.reading.max_prompt_tokens (the longest has {prompt})"
        )
        return {setting: prompt + response} if prompt else {}

    def on_train_epoch_start(self) -> None:
        """Train mode, so that the dropout is on: ``from_pretrained`` and validation leave eval mode.

        An interrupted fit may have left gradients behind.
        """
        self.zero_grad()
        self.policy.train()

    def targets(self, batch: DemoBatch) -> Tensor:
        """[B, T] True on the tokens that count in the loss."""
        if not self.train_on_prompt:
            return batch.response_mask
        later = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device) > 0
        return batch.attention_mask & later

    def nll_sums(self, batch: DemoBatch) -> Iterator[Tensor]:
        """Summed negative log-likelihood, nats, of the targets of each pass; rows of about one length go together."""
        targets, lengths = self.targets(batch), batch.attention_mask.sum(1)
        micro_batches = passes(lengths, None, self.micro_batch_tokens, self.micro_batch_size)
        most = tokens_per_pass(targets.device)
        groups = [rows[part] for rows in micro_batches for part in passes(lengths[rows], num_tokens=most)]
        with dropout_keys():
            for rows, counts in in_step(self, groups):
                width = int(lengths[rows].max())
                next_keys([key_of(self.seed, self.global_step, batch.where[i]) for i in rows.tolist()])
                ids, mask, wanted = (x[rows, :width] for x in (batch.input_ids, batch.attention_mask, targets))
                nll = -target_logprobs(self.policy, ids, mask, wanted, packing=self.packing)[0].sum()
                yield nll if counts else 0 * nll

    def losses(self, batch: DemoBatch) -> Iterator[tuple[str, Tensor]]:
        """Where each sample is from, and its loss."""
        for i, counts in in_step(self, range(len(batch))):
            loss = torch.stack(list(self.nll_sums(batch.take(slice(i, i + 1))))).sum()
            if counts:
                yield batch.where[i], loss

    def training_step(self, batch: DemoBatch, batch_idx: int) -> None:
        """One optimizer step on one global batch."""
        num_targets = self.targets(batch).sum()
        per_rank = sum_over_ranks(self, num_targets).float() / self.trainer.world_size
        loss = torch.zeros((), device=self.device, dtype=torch.float32)
        for part in self.nll_sums(batch):
            self.manual_backward(part / per_rank)
            loss += part.detach() / per_rank
        grad_norm = clip_and_step(self, trained(self.policy), self.max_grad_norm, loss, partial(self.losses, batch))
        schedule = self.lr_schedulers()
        assert schedule is not None
        schedule.step()  # type: ignore[union-attr]
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/grad_norm", grad_norm)

    def validation_step(self, batch: DemoBatch, batch_idx: int) -> None:
        """Loss per target token, of demonstrations and of text apart."""
        for name, rows in (("val/loss", ~batch.is_text), ("val/text_loss", batch.is_text)):
            if rows.any():
                part = batch.take(rows.nonzero().squeeze(1))
                num = int(self.targets(part).sum())
                self.log(
                    name,
                    torch.stack(list(self.nll_sums(part))).sum() / num,
                    batch_size=num,
                    prog_bar=True,
                    sync_dist=True,
                )
        if self.reward_model is not None and not batch.is_text.all():
            self._log_rm_score(batch.take((~batch.is_text).nonzero().squeeze(1)), batch_idx)

    def test_step(self, batch: DemoBatch, batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    def _log_rm_score(self, batch: DemoBatch, batch_idx: int) -> None:
        """Mean score, and share that ended, of responses sampled as ``predict`` samples, by its settings."""
        assert self.reward_model is not None
        if not hasattr(self, "_scorer"):
            self._scorer = ModelReward(self.reward_model, device=self.device)
            own = self.trainer.datamodule.format  # type: ignore[attr-defined]
            if self._scorer.format != own:
                raise ValueError(
                    f"model.reward_model ({self.reward_model}) was trained with {self._scorer.format}, the demonstrations "
                    f"come with {own}: set data.format to it"
                )
            if self._scorer.tokenizer.get_vocab() != self.tokenizer.get_vocab():
                raise ValueError(
                    f"model.reward_model ({self.reward_model}) has another tokenizer than the model being trained: "
                    "give a reward model that was trained from it"
                )
        prompts = [
            ids[mask & ~response].tolist()
            for ids, mask, response in zip(batch.input_ids, batch.attention_mask, batch.response_mask, strict=True)
        ]
        ids, mask = (x.to(self.device) for x in pad(prompts, self.tokenizer.pad_token_id, left=True))
        responses = sample_rows(self.policy, self.tokenizer, ids, mask, self.sampling, batch_idx)
        own = [prompts[i // self.sampling.num_samples] for i in range(len(responses))]
        sequences = [prompt + response for prompt, response in zip(own, responses, strict=True)]
        scores = self._scorer.score_sequences(sequences, [len(prompt) for prompt in own])
        stopped = mean(self.tokenizer.eos_token_id in response for response in responses)
        self.log("val/rm_score", mean(scores), batch_size=len(prompts), prog_bar=True, sync_dist=True)
        self.log("val/stop_rate", stopped, batch_size=len(prompts), sync_dist=True)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        """K sampled responses per prompt, in the form of the ranking data (without a ranking)."""
        prompt_format = self.trainer.datamodule.format  # type: ignore[attr-defined]
        texts = sample_texts(
            self.policy,
            self.tokenizer,
            prompt_format,
            batch,
            self.sampling,
            batch_idx,
        )
        return [
            {**record, "prompt": record["prompt"], "responses": responses}
            for record, responses in zip(batch.record, texts, strict=True)
        ]

    def export(self, path: Path | None) -> None:
        """Writes the policy and tokenizer as a Hugging Face directory; without a path, helps the process that does."""
        policy = gathered(self.policy, path is not None, "cpu")
        if path is not None:
            with quiet_loading(), inference_mode(policy):
                merged(policy).save_pretrained(path)
            if self.lora is not None:
                save_adapter(policy, path / ADAPTER, self.frozen_sources["model"])
            self.tokenizer.save_pretrained(path)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The seeds; with adapters: leaves the frozen weights out, and names them."""
        checkpoint["seeds"] = self.seeds()
        name_frozen(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the seeds, and refuses other frozen weights."""
        seeds = begun_with(self._trainer, checkpoint.get("seeds", {}), self.seeds())
        self.seed, self.sampling = seeds["model.seed"], replace(self.sampling, seed=seeds["model.sampling.seed"])
        check_same(checkpoint.get("frozen", {}), self.frozen_sources)

    def seeds(self) -> dict[str, int]:
        """Key -> seed, of whatever is drawn during a run."""
        assert self.sampling.seed is not None
        return {"model.seed": self.seed, "model.sampling.seed": self.sampling.seed}
