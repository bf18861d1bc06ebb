"""PPO with a per-token KL penalty and the pretraining mix: PPO-ptx (paper, section 3.5 and C.4).

Read ``training_step`` first: it is the whole algorithm. Every formula is one call into ``functional``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lit_instructgpt import functional as F
from lit_instructgpt.batch import DemoBatch, PromptBatch, Rollout, tokens_per_pass
from lit_instructgpt.compiled import compile_layers
from lit_instructgpt.ema import WeightEMA
from lit_instructgpt.hidden import can_pack
from lit_instructgpt.inference import Quantized
from lit_instructgpt.logprobs import response_logprobs, target_logprobs
from lit_instructgpt.lora import ADAPTER, merged, save_adapter, trained
from lit_instructgpt.models import checkpoint_activations, inference_mode, load_tokenizer, quiet_loading
from lit_instructgpt.modules.frozen import describe
from lit_instructgpt.modules.plans import announce, plan_ppo
from lit_instructgpt.modules.ppo_config import PPOConfig
from lit_instructgpt.modules.ppo_frozen import freeze_models, rounding
from lit_instructgpt.modules.ppo_metrics import Metrics, rollout_stats
from lit_instructgpt.modules.ppo_models import load_models
from lit_instructgpt.modules.ppo_rollout import check_values, roll_out
from lit_instructgpt.modules.ppo_state import Iteration, collect, restore
from lit_instructgpt.optim import (
    build_optimizer,
    check_trainer,
    clip_and_step,
    default_optimizer,
    warmup_from_tenth,
)
from lit_instructgpt.packing import Sharing, passes
from lit_instructgpt.ranks import in_step, own_rows, sum_over_ranks
from lit_instructgpt.run_seed import begun_with, seed_of
from lit_instructgpt.selfcheck import check_before_training, check_first_rollout, check_lengths
from lit_instructgpt.sharding import gathered
from lit_instructgpt.strategy import mesh_of


class PPOModule(LightningModule):
    """Trains a policy against a reward, with a KL penalty to the model it started from.

    Args:
        policy: directory the policy starts from, and its KL reference: the paper's SFT run with 10 %
            pretraining text, or any other.
        reward_model: directory of the reward model.
        reward_fn: in its place, a callable ``(prompts, responses) -> scores`` on text.
        value_model: directory the value model starts from; the reward model's by default, the policy's
            with a ``reward_fn``.
        optimizer: its learning rate is the policy's.
        ppo: everything else.
    """

    def __init__(
        self,
        policy: str,
        reward_model: str | None = None,
        reward_fn: Callable[[Sequence[str], Sequence[str]], Sequence[float]] | None = None,
        value_model: str | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        ppo: PPOConfig | None = None,
    ) -> None:
        super().__init__()
        if (reward_model is None) == (reward_fn is None):
            raise ValueError("model: give reward_model (a directory) or reward_fn (a class path), and not both")
        self.automatic_optimization = False
        self.strict_loading = False  # the frozen models are not in checkpoints
        self.policy_source, self.reward_source, self.reward_fn = policy, reward_model, reward_fn
        self.value_source = value_model or reward_model or policy
        self.optimizer, self.ppo = optimizer, ppo or PPOConfig()
        self.seed = seed_of(self.ppo.seed)
        self.tokenizer = load_tokenizer(policy)
        self.kl_coef = self.ppo.kl_coef
        self.iteration = 0
        self.samples: list[dict[str, Any]] = []
        self.policy: Any = None
        self.ema: WeightEMA | None = None
        self.seconds: dict[str, float] = {}
        self.metrics = Metrics()
        self.samples_per_prompt = 1
        self.frozen_in: torch.dtype | Quantized | None = None
        self.frozen_sources: dict[str, dict[str, str]] = {}
        self.current: Iteration | None = None
        self.where: list[str] = []
        self.loss = torch.zeros(())

    # ------------------------------------------------------------------ the algorithm

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """One iteration: sample and score episodes, estimate advantages, update policy and value model."""
        prompts: PromptBatch = batch["prompts"]
        text: DemoBatch | None = batch.get("text")
        if self.current is None:
            self.metrics = Metrics()
            self.current = Iteration(roll_out(self, prompts, self.samples_per_prompt, shared=True))
            if self.iteration == 0:
                check_first_rollout(self, self.current.rollout, rounding(self))
            self.may_save()
        rollout = self.current.rollout
        minibatches = self.minibatches(len(rollout))
        if self.current.num_updates == 0:
            self.evaluate_states(rollout, minibatches[0])
            self.estimate_advantages(rollout)
        self.update(self.current, minibatches, text)
        kl = self.log_rollout(rollout)
        if self.ppo.adaptive_kl is not None:
            self.kl_coef = self.ppo.adaptive_kl.next_coef(self.kl_coef, kl, len(rollout))
        self.iteration += 1
        self.current = None

    def minibatches(self, num_episodes: int) -> list[Tensor]:
        """Rows of each optimizer step in turn: every epoch shuffles the prompts, whose episodes stay together."""
        size, per_prompt = self.ppo.minibatch_size, self.samples_per_prompt
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.iteration)
        found: list[Tensor] = []
        for _ in range(self.ppo.num_epochs):
            prompts = torch.randperm(num_episodes // per_prompt, generator=generator).to(self.device)
            order = (prompts[:, None] * per_prompt + torch.arange(per_prompt, device=self.device)).flatten()
            found += torch.split(order, size)
        return found

    def own_share(self, rows: Tensor) -> Tensor:
        """Those of the rows of a global batch that are computed in this process; the responses to a prompt together."""
        group, trainer = self.samples_per_prompt, self.trainer
        return rows[own_rows(len(rows) // group, group, trainer.global_rank, trainer.world_size, rows.device)]

    def evaluate_states(self, rollout: Rollout, first: Tensor) -> None:
        """Fills in the values. Those of the first minibatch come from the forward pass of its update.

        That update starts from the weights that the values are of: one pass serves as both.
        """
        others = torch.ones(len(rollout), dtype=torch.bool, device=self.device)
        others[first] = False
        if others.any():
            rest = self.own_share(others.nonzero()[:, 0])
            with inference_mode(self.value_model), self.phase("scoring"):
                for (rows, part), counts in in_step(self, self.micro_batches(rollout.take(rest))):
                    values = self.values(part)
                    if counts:
                        rollout.values[rest[rows], : part.response_mask.shape[1]] = values
        with self.phase("update"):
            own = self.own_share(first)
            minibatch = rollout.take(own)
            self.backward_value(minibatch, first=True)
            rollout.values[own] = minibatch.values
            rollout.values = sum_over_ranks(self, rollout.values)  # each process has filled in its own

    def estimate_returns(self, rollout: Rollout) -> Tensor:
        """Fills in rewards (Eq. 2, first term) and returns; advantages, not whitened: [B, R]."""
        mask, ppo = rollout.response_mask, self.ppo
        scores = rollout.scores - ppo.missing_eos_penalty * (~self.stopped(rollout)).float()
        rollout.rewards = F.shape_rewards(scores, rollout.logprobs, rollout.ref_logprobs, mask, self.kl_coef)
        advantages, rollout.returns = F.gae(rollout.rewards, rollout.values, mask, ppo.gamma, ppo.gae_lambda)
        return advantages

    def estimate_advantages(self, rollout: Rollout) -> None:
        """Fills in rewards, returns, and advantages, whitened over all episodes."""
        check_values(self, rollout)
        advantages = self.estimate_returns(rollout)
        rollout.advantages = F.masked_whiten(advantages, rollout.response_mask)

    def update(self, current: Iteration, minibatches: Sequence[Tensor], text: DemoBatch | None) -> None:
        """One optimizer step for each minibatch: PPO gradient plus ptx_coef times ptx gradient."""
        num_minibatches = len(minibatches) // self.ppo.num_epochs
        for i in range(current.num_updates, len(minibatches)):
            if i > 0:
                self.may_save()
            with self.phase("update"):
                minibatch = current.rollout.take(self.own_share(minibatches[i]))
                self.backward_policy(minibatch)
                if i > 0:  # ``evaluate_states`` had the first one's
                    self.backward_value(minibatch)
            if text is not None:
                num_text, turn = len(text) // num_minibatches, i % num_minibatches
                with self.phase("ptx"):
                    self.backward_ptx(text.take(slice(turn * num_text, (turn + 1) * num_text)))
            with self.phase("update"):
                norm = clip_and_step(
                    self,
                    self.trainable_parameters(),
                    self.ppo.max_grad_norm,
                    self.loss,
                    partial(self.losses, minibatch),
                )
                self.loss = torch.zeros((), device=self.device)
                if self.ema is not None:
                    self.ema.update(self.policy)
            self.metrics.add(policy__grad_norm=norm)
            current.num_updates += 1
        schedule = self.lr_schedulers()
        assert schedule is not None
        schedule.step()  # type: ignore[union-attr]

    def losses(self, minibatch: Rollout) -> Iterator[tuple[str, Tensor]]:
        """Where the prompt of each episode is from, and the sum of its two losses."""
        for i, counts in in_step(self, range(len(minibatch))):
            part = minibatch.take(slice(i, i + 1)).trim()
            policy = F.clipped_policy_loss(
                self.logprobs(self.policy, part)[0],
                part.logprobs,
                part.advantages,
                part.response_mask,
                self.ppo.clip_eps,
            )
            value = F.clipped_value_loss(
                self.values(part), part.values, part.returns, part.response_mask, self.ppo.value_clip_eps
            )
            if counts:
                yield self.where[int(part.prompt)], policy.loss + value.loss

    def backward_policy(self, minibatch: Rollout) -> None:
        """Gradient of the clipped policy loss, a mean over the minibatch's response tokens."""
        num_tokens = self.num_tokens(minibatch.response_mask)
        for (_, part), counts in in_step(self, self.micro_batches(minibatch)):
            with torch.set_grad_enabled(True):
                logprobs, entropy = self.logprobs(self.policy, part, with_entropy=True)
                loss = F.clipped_policy_loss(
                    logprobs, part.logprobs, part.advantages, part.response_mask, self.ppo.clip_eps, num_tokens
                )
                self.add_gradient(loss.loss, 1.0 if counts else 0.0)
            if counts:
                self.metrics.add_policy(part, entropy, logprobs, float(num_tokens), loss)

    def backward_value(self, minibatch: Rollout, first: bool = False) -> None:
        """Gradient of the clipped value loss, a mean over the minibatch's response tokens.

        With ``first`` the values of this very pass become those of the episodes, and the returns follow from them.
        """
        num_tokens = self.num_tokens(minibatch.response_mask)
        for (rows, part), counts in in_step(self, self.micro_batches(minibatch)):
            with torch.set_grad_enabled(True):
                values = self.values(part)
                if first:
                    part.values = minibatch.values[rows, : values.shape[1]] = values.detach()
                    self.estimate_returns(part)
                loss = F.clipped_value_loss(
                    values, part.values, part.returns, part.response_mask, self.ppo.value_clip_eps, num_tokens
                )
                self.add_gradient(loss.loss, self.ppo.vf_coef if counts else 0.0)
            if counts:
                self.metrics.add_value(part, float(num_tokens), loss)

    def backward_ptx(self, text: DemoBatch) -> None:
        """Gradient of Eq. 2's second term: ptx_coef times the mean negative log-likelihood per token of text."""
        num_tokens = self.num_tokens(text.response_mask)
        for rows, counts in in_step(self, passes(text.attention_mask.sum(1), None, *self.limits())):
            part = text.take(rows)
            logprobs, _ = target_logprobs(
                self.policy, part.input_ids, part.attention_mask, part.response_mask, packing=self.ppo.packing
            )
            nll = -logprobs.sum() / num_tokens
            self.add_gradient(nll, self.ppo.ptx_coef if counts else 0.0)
            if counts:
                share = float(part.response_mask.sum() / num_tokens)
                self.metrics.add(share, loss__ptx=nll.detach() / share)

    # ------------------------------------------------------------------ pieces of it

    def add_gradient(self, loss: Tensor, weight: float) -> None:
        """Of a part of the objective, to those before it."""
        part = weight * loss
        self.manual_backward(part)
        self.loss = self.loss + part.detach()

    def num_tokens(self, mask: Tensor) -> Tensor:
        """Marked tokens of all ranks, per rank: gradients are averaged over ranks."""
        return sum_over_ranks(self, mask.sum()).float() / self.trainer.world_size

    def logprobs(self, model: Any, part: Rollout, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens at the one temperature, and entropies if asked: [B, R] each."""
        return response_logprobs(
            model, part.input_ids, part.attention_mask, part.response_mask, self.ppo.temperature, with_entropy,
            self.sharing(part), self.ppo.packing,
        )  # fmt: skip

    def values(self, part: Rollout) -> Tensor:
        """Values before each response token: [B, R]."""
        return self.value_model.values(
            part.input_ids, part.attention_mask, part.response_mask, self.sharing(part), self.ppo.packing
        )

    def sharing(self, part: Rollout) -> Sharing | None:
        """Which episodes have their prompt in common, where that is less work; None with one sample per prompt."""
        if self.samples_per_prompt == 1 or not (self.ppo.packing and can_pack(self.policy.base_model)):
            return None
        lengths, num_response = part.attention_mask.sum(1), part.response_mask.sum(1)
        return Sharing(part.prompt, lengths - num_response).where_less_work(lengths, self.policy.config.hidden_size)

    def micro_batches(self, rollout: Rollout) -> Iterator[tuple[Tensor, Rollout]]:
        """Row indices and episodes of about one length, cut to their own padding; those of a prompt stay together."""
        shared = self.sharing(rollout)
        num_shared = torch.zeros_like(rollout.prompt) if shared is None else shared.num_prompt
        for rows in passes(rollout.attention_mask.sum(1), Sharing(rollout.prompt, num_shared), *self.limits()):
            yield rows, rollout.take(rows).trim()

    def limits(self) -> tuple[int | None, int | None]:
        """Tokens and sequences of a pass, as asked for; without a limit, as many tokens as keep the device busy."""
        asked = self.ppo.micro_batch_tokens, self.ppo.micro_batch_size
        if asked == (None, None):
            return tokens_per_pass(self.device), None
        return asked

    def stopped(self, rollout: Rollout) -> Tensor:
        """[B] True where the response ended with EOS."""
        responses = rollout.input_ids[:, -rollout.response_mask.shape[1] :]
        return ((responses == self.tokenizer.eos_token_id) & rollout.response_mask).any(1)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Of policy and value model."""
        return [*trained(self.policy), *trained(self.value_model)]

    def may_save(self) -> None:
        """Within an iteration, which can take minutes: a run that was told to stop saves, and does, here."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "between"):
                callback.between(self.trainer)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a phase of the iteration and shows it in the progress bar."""
        start = time.perf_counter()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "show_phase"):
                callback.show_phase(name)
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    # ------------------------------------------------------------------ metrics (docs/metrics.md)

    def log_rollout(self, rollout: Rollout) -> float:
        """Logs the iteration; returns the mean KL per episode, in nats."""
        mask = rollout.response_mask
        stats = rollout_stats(rollout, self.kl_coef, self.stopped(rollout))
        stats["objective/kl_coef"] = self.kl_coef
        stats["value/explained_variance"] = float(F.explained_variance(rollout.values, rollout.returns, mask))
        stats |= self.metrics.means(partial(sum_over_ranks, self))
        stats |= {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        tokens = float(mask.sum())
        stats["throughput/rollout_tokens_per_second"] = tokens / self.seconds["rollout"]
        stats["throughput/episodes_per_second"] = len(rollout) / sum(self.seconds.values())
        self.seconds = {}
        shown = ("objective/score", "objective/kl")
        self.log_dict({k: v for k, v in stats.items() if k not in shown}, sync_dist=True)
        self.log_dict({k: stats[k] for k in shown}, prog_bar=True, sync_dist=True)
        return stats["objective/kl"]

    # ------------------------------------------------------------------ Lightning

    def configure_model(self) -> None:
        """Loads policy, reference, value and reward model; once."""
        if self.policy is not None:
            return
        sources = {"policy": self.policy_source, "reward_model": self.reward_source}
        if self.ppo.lora is not None:  # its base is frozen too
            sources["value_model"] = self.value_source
        self.frozen_sources = {name: describe(source) for name, source in sources.items() if source is not None}
        announce(self, plan_ppo)
        self.policy, self.ref, self.value_model, reward_model = load_models(self, mesh_of(self._trainer))
        if reward_model is not None:
            self.reward_model = reward_model
        if self.ppo.gradient_checkpointing:
            checkpoint_activations(self.policy)
            checkpoint_activations(self.value_model.model)
        if self.ppo.torch_compile:
            compile_layers(self.policy)
            compile_layers(self.value_model.model)
        if self.ppo.ema_decay is not None:
            self.ema = WeightEMA(self.policy, self.ppo.ema_decay)

    def configure_optimizers(self) -> Any:
        """One optimizer with two parameter groups, policy and value, so that ``global_step`` counts updates."""
        groups = [
            {"params": trained(self.policy)},
            {"params": trained(self.value_model), "lr": self.ppo.value_lr},
        ]
        optimizer = build_optimizer(self.optimizer, groups, self.policy, self.value_model)
        num = self.ppo.num_warmup_iterations
        return [optimizer], [LambdaLR(optimizer, [lambda i: warmup_from_tenth(i, num), lambda i: 1.0])]

    def configure_callbacks(self) -> list[Callback]:
        """Refuses Trainer settings that would be ignored: later, Lightning refuses them without a remedy."""
        check_trainer(self.trainer, "PPOModule")
        return []

    def on_fit_start(self) -> None:
        """Refuses a wrong set-up, naming every cause."""
        if self.ema is not None:
            self.ema.average = {name: x.to(self.device) for name, x in self.ema.average.items()}
        self.samples_per_prompt = self.trainer.datamodule.samples_per_prompt  # type: ignore[attr-defined]
        check_before_training(self)
        freeze_models(self)

    def on_validation_start(self) -> None:
        """Refuses what does not fit the contexts of the models: validation alone has no other check."""
        check_lengths(self)
        freeze_models(self)

    on_test_start = on_validation_start

    def on_train_epoch_start(self) -> None:
        """Train mode (dropout is off everywhere), the frozen models in eval mode; no gradients of an interrupted fit."""
        self.zero_grad()
        self.loss = torch.zeros((), device=self.device)
        self.policy.train()
        self.value_model.train()
        self.ref.eval()

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Score and KL of the policy to be exported, on held-out prompts, with random numbers of their own."""
        iteration, self.iteration = self.iteration, -1 - batch_idx
        with self.exported_weights():
            rollout = roll_out(self, batch)
        self.iteration = iteration
        self.seconds = {}
        found = rollout_stats(rollout, self.kl_coef, self.stopped(rollout))
        stats = {f"val/{name}": value for name, value in found.items()}
        self.log_dict(stats, batch_size=len(batch), sync_dist=True)

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """As validation."""
        self.validation_step(batch, batch_idx)

    @contextmanager
    def exported_weights(self) -> Iterator[None]:
        """Inside, the policy has the weights that are exported: the moving average, if there is one."""
        if self.ema is None:
            yield
        else:
            with self.ema.swapped_in(self.policy):
                yield

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The seed, and see ``collect``."""
        checkpoint["seeds"] = {"model.ppo.seed": self.seed}
        collect(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the seed, and see ``restore``."""
        seeds = begun_with(self._trainer, checkpoint.get("seeds", {}), {"model.ppo.seed": self.seed})
        self.seed = seeds["model.ppo.seed"]
        restore(self, checkpoint)

    def export(self, path: Path | None) -> None:
        """Writes the policy (its moving average, if there is one) as a Hugging Face directory.

        Without a path it helps the process that writes.
        """
        with self.exported_weights():
            policy = gathered(self.policy, path is not None, "cpu")
            if path is not None:
                with quiet_loading(), inference_mode(policy):
                    merged(policy).save_pretrained(path)
                if self.ppo.lora is not None:
                    save_adapter(policy, path / ADAPTER, self.frozen_sources["policy"])
                self.tokenizer.save_pretrained(path)
