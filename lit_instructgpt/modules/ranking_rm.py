"""The reward model, trained on rankings of K outputs (paper, section 3.5 and C.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lit_instructgpt.batch import ComparisonBatch, tokens_per_pass
from lit_instructgpt.compiled import compile_layers
from lit_instructgpt.formatting import check_format
from lit_instructgpt.functional import ranking_loss
from lit_instructgpt.hidden import can_pack
from lit_instructgpt.inference import build_scalar_model
from lit_instructgpt.lora import ADAPTER, LoRA, add_adapters, merged, save_adapter, trained
from lit_instructgpt.metrics import PairAccuracy, PairCalibration
from lit_instructgpt.models import check_context, checkpoint_activations, inference_mode, load_tokenizer
from lit_instructgpt.modules.frozen import Sources, check_same, describe, name_frozen
from lit_instructgpt.modules.plans import announce, plan_rm
from lit_instructgpt.modules.steps import num_optimizer_steps
from lit_instructgpt.optim import (
    build_optimizer,
    check_trainer,
    clip_and_step,
    cosine_to_fraction,
    default_optimizer,
)
from lit_instructgpt.packing import Sharing, check_micro_batches, no_sharing, passes
from lit_instructgpt.ranks import in_step, sum_over_ranks
from lit_instructgpt.run_seed import seed_of
from lit_instructgpt.scalar_model import ScalarModel
from lit_instructgpt.sharding import gathered
from lit_instructgpt.strategy import mesh_of


class RankingRM(LightningModule):
    """Scores so that better-ranked outputs score higher: all pairs of a prompt from K scores.

    Args:
        model: directory of the SFT model (or a reward model to continue); its unembedding is replaced by a
            scalar head.
        optimizer: its learning rate is the peak of the cosine.
        final_lr_fraction: the cosine ends at this fraction of the peak; the paper's is 0.1.
        num_warmup_steps: linear warm-up; the paper has none.
        soft_ties: train tied outputs towards equal scores; the paper drops ties.
        micro_batch_size: prompts per backward pass, to save memory; does not change the result.
        micro_batch_tokens: tokens per backward pass, as they are computed: a shared prompt counts once; as well, or instead.
        max_grad_norm: clip the gradient's global norm; the paper does not say that it did.
        seed: of the new head; None: that of the run (``--seed_everything``).
        packing: compute a prompt once for all its completions, and put several units into a row; changes no
            result. Architectures where it would are told from the others, with a warning.
        gradient_checkpointing: keep the inputs of the layers alone for the backward pass: less memory, one forward pass
            more; changes no result.
        torch_compile: compile the layers (torch.compile): a minute at the start, and on a GPU faster steps; changes results by
            their rounding.
        lora: train adapters and the head beside a frozen model; the export has them merged, and apart in ``adapter/``.
    """

    def __init__(
        self,
        model: str,
        optimizer: OptimizerCallable = default_optimizer,
        final_lr_fraction: float = 0.1,
        num_warmup_steps: int = 0,
        soft_ties: bool = False,
        micro_batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        max_grad_norm: float | None = None,
        seed: int | None = None,
        packing: bool = True,
        gradient_checkpointing: bool = False,
        torch_compile: bool = False,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.source, self.optimizer = model, optimizer
        self.final_lr_fraction, self.num_warmup_steps = final_lr_fraction, num_warmup_steps
        self.soft_ties, self.max_grad_norm = soft_ties, max_grad_norm
        check_micro_batches(micro_batch_size, micro_batch_tokens)
        self.micro_batch_size, self.micro_batch_tokens = micro_batch_size, micro_batch_tokens
        self.seed, self.packing = seed_of(seed), packing
        self.gradient_checkpointing, self.torch_compile = gradient_checkpointing, torch_compile
        self.lora = lora
        self.frozen_sources: Sources = {} if lora is None else {"model": describe(model)}
        self.strict_loading = lora is None  # the frozen weights are not in checkpoints
        self.tokenizer = load_tokenizer(model)
        self.reward_model: ScalarModel | None = None
        self.calibration = PairCalibration()

    def configure_model(self) -> None:
        """Loads the transformer and puts the scalar head on it; once."""
        if self.reward_model is None:
            announce(self, plan_rm)
            self.reward_model = build_scalar_model(self.load, mesh_of(self._trainer))
            if self.gradient_checkpointing:
                checkpoint_activations(self.reward_model.model)
            if self.torch_compile:
                compile_layers(self.reward_model.model)

    def load(self) -> ScalarModel:
        """The reward model, with adapters if asked."""
        generator = torch.Generator().manual_seed(self.seed)
        found = ScalarModel.load(self.source, self.tokenizer, generator=generator)
        if self.lora is not None:
            add_adapters(found.model, self.lora)
            found.model.score.requires_grad_(True)
        return found

    def configure_optimizers(self) -> Any:
        """The optimizer with its cosine schedule."""
        optimizer = build_optimizer(self.optimizer, trained(self), self)
        steps = num_optimizer_steps(self.trainer)
        return [optimizer], [cosine_to_fraction(optimizer, steps, self.final_lr_fraction, self.num_warmup_steps)]

    def configure_callbacks(self) -> list[Callback]:
        """Refuses Trainer settings that would be ignored: later, Lightning refuses them without a remedy."""
        check_trainer(self.trainer, "RankingRM")
        return []

    def on_fit_start(self) -> None:
        """Refuses data that are longer than the model's context, or in another format than its own."""
        assert self.reward_model is not None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        check_format(self.source, data.format)
        check_context(self.reward_model.model.config, f"the model ({self.source})", data.longest())

    on_validation_start = on_test_start = on_fit_start

    def on_train_epoch_start(self) -> None:
        """Train mode for gradient checkpointing (all dropout of the model is off); no gradients of an interrupted fit."""
        assert self.reward_model is not None
        self.zero_grad()
        self.reward_model.train()

    def scores(self, batch: ComparisonBatch) -> Tensor:
        """The score of every completion that exists: [B, K] float32, 0 elsewhere.

        The completions of a prompt share it wherever that is less work; rows hold as many units as fit.
        """
        assert self.reward_model is not None
        prompt, number = batch.completion_mask.nonzero(as_tuple=True)
        ids, mask = batch.input_ids[prompt, number], batch.attention_mask[prompt, number]
        lengths, sharing = mask.sum(1), self.sharing(batch)
        scores = torch.zeros_like(batch.completion_mask, dtype=torch.float32)
        for take, counts in in_step(self, passes(lengths, sharing, tokens_per_pass(self.device))):
            width = int(lengths[take].max())
            found = self.reward_model.score(ids[take, :width], mask[take, :width], sharing.take(take), self.packing)
            scores = scores.index_put((prompt[take], number[take]), found) if counts else scores + 0 * found.sum()
        return scores

    def sharing(self, batch: ComparisonBatch) -> Sharing:
        """Which of the completions that exist have their prompt in common in a pass."""
        assert self.reward_model is not None
        prompt, number = batch.completion_mask.nonzero(as_tuple=True)
        if not (self.packing and can_pack(self.reward_model.model.base_model)):
            return no_sharing(len(prompt), prompt.device)
        num_prompt = batch.attention_mask[:, 0].sum(-1) - batch.response_length[:, 0]
        lengths = batch.attention_mask[prompt, number].sum(1)
        return Sharing(prompt, num_prompt[prompt]).where_less_work(lengths, self.reward_model.model.score.in_features)

    def num_tokens(self, batch: ComparisonBatch) -> Tensor:
        """Tokens that each prompt's completions take in a pass: [B]."""
        prompt, number = batch.completion_mask.nonzero(as_tuple=True)
        sharing = self.sharing(batch)
        again = torch.where(sharing.first(), 0, sharing.num_prompt)  # a shared prompt counts once
        tokens = batch.attention_mask[prompt, number].sum(1) - again
        return torch.zeros(len(batch), dtype=torch.int64, device=prompt.device).index_add_(0, prompt, tokens)

    def losses(self, batch: ComparisonBatch) -> Iterator[tuple[str, Tensor]]:
        """Where each ranking is from, and its loss."""
        for i, counts in in_step(self, range(len(batch))):
            one = batch.take(slice(i, i + 1))
            loss = ranking_loss(self.scores(one), one.ranking, one.completion_mask, self.soft_ties)[0].sum()
            if counts:
                yield batch.where[i], loss

    def training_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        """One optimizer step on one global batch of prompts."""
        _, counted = ranking_loss(batch.ranking.float(), batch.ranking, batch.completion_mask, self.soft_ties)
        num_prompts = sum_over_ranks(self, counted.sum()).float().clamp(min=1) / self.trainer.world_size
        loss = torch.zeros((), device=self.device, dtype=torch.float32)
        accuracy = PairAccuracy().to(self.device)
        micro_batches = passes(self.num_tokens(batch), None, self.micro_batch_tokens, self.micro_batch_size)
        for rows, counts in in_step(self, micro_batches):
            micro_batch = batch.take(rows)
            scores = self.scores(micro_batch)
            losses, _ = ranking_loss(scores, micro_batch.ranking, micro_batch.completion_mask, self.soft_ties)
            part = losses.sum() / num_prompts if counts else 0 * losses.sum()
            self.manual_backward(part)
            loss += part.detach()
            if counts:
                accuracy.update(scores.detach(), micro_batch)
        grad_norm = clip_and_step(self, trained(self), self.max_grad_norm, loss, partial(self.losses, batch))
        schedule = self.lr_schedulers()
        assert schedule is not None
        schedule.step()  # type: ignore[union-attr]
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("train/pair_accuracy", accuracy.compute()["pair_accuracy"].float(), prog_bar=True)
        self.log("train/grad_norm", grad_norm)

    def on_validation_epoch_start(self) -> None:
        """A fresh accuracy with the groups of the validation data."""
        self.accuracy = PairAccuracy(self.trainer.datamodule.groups(), shared=False).to(self.device)  # type: ignore[attr-defined]

    def validation_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        """Adds to the loss, the accuracies and the calibration."""
        scores = self.scores(batch)
        losses, counted = ranking_loss(scores, batch.ranking, batch.completion_mask, self.soft_ties)
        if num := int(counted.sum()):
            self.log("val/loss", losses.sum() / num, batch_size=num, prog_bar=True, sync_dist=True)
        found = scores[batch.completion_mask]
        self.log("val/score", found.mean(), batch_size=len(found), sync_dist=True)
        self.accuracy.update(scores, batch)
        self.calibration.update(scores, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs pair accuracy overall, per source and per labeler, the length baseline and the calibration."""
        for name, value in self.accuracy.compute().items():
            self.log(f"val/{name}", value.float(), prog_bar=name == "pair_accuracy")
        self.log("val/calibration_error", self.calibration.compute())
        self.calibration.reset()

    def test_step(self, batch: ComparisonBatch, batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    @torch.no_grad()
    def center_on_demonstrations(self) -> float | None:
        """Shifts all scores so that the labelers' demonstrations average 0 (section 3.5); the loss is unmoved.

        Returns:
            The mean before the shift, or None where the data module has no demonstrations.
        """
        assert self.reward_model is not None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not data.demo_items:
            rank_zero_warn(
                "data.demonstrations is not set: the reward model's scores keep an arbitrary origin "
                "(the paper shifts them so that demonstrations average 0)"
            )
            return None
        scores = []
        with inference_mode(self.reward_model):
            for batch in data.demo_dataloader():
                ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device)
                scores.append(self.reward_model.score(ids, mask, packing=self.packing))
        mean = torch.cat(scores).double().mean().item()
        self.reward_model.shift(-mean)
        rank_zero_info(
            f"reward model: shifted by {-mean:.4f}, so that {sum(map(len, scores))} demonstrations average 0"
        )
        return mean

    def export(self, path: Path | None) -> None:
        """Centres the scores, then writes reward model and tokenizer as a Hugging Face directory.

        Without a path it helps the process that writes.
        """
        assert self.reward_model is not None
        self.center_on_demonstrations()
        whole = gathered(self.reward_model, path is not None, "cpu")
        if path is not None:
            ScalarModel(merged(whole.model)).save(path)
            if self.lora is not None:
                save_adapter(whole.model, path / ADAPTER, self.frozen_sources["model"], ("score",))
            self.tokenizer.save_pretrained(path)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With adapters: leaves the frozen weights out, and names them."""
        name_frozen(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses other frozen weights."""
        check_same(checkpoint.get("frozen", {}), self.frozen_sources)

    @torch.no_grad()
    def probe(self) -> dict[str, Any]:
        """A sequence and its score: whoever loads the directory must find the same (within 1e-4)."""
        assert self.reward_model is not None
        ids = self.trainer.datamodule.train_items[0].ids[0]  # type: ignore[attr-defined]
        tokens = torch.tensor([ids], device=self.device)
        with inference_mode(self.reward_model):
            score = self.reward_model.score(tokens, torch.ones_like(tokens, dtype=torch.bool), packing=self.packing)
        return {"input_ids": ids, "score": score.item()}
