"""One half of a PPO iteration: responses are sampled, and scored by the frozen models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_instructgpt import functional as F
from lit_instructgpt.batch import PromptBatch, Rollout
from lit_instructgpt.engines import ENGINES
from lit_instructgpt.generation import Sampled, exact
from lit_instructgpt.inference import inference_copy, whole
from lit_instructgpt.models import inference_mode
from lit_instructgpt.modules.ppo_frozen import arithmetic, frozen, frozen_precision, rounding
from lit_instructgpt.optim import not_finite_here, shortened, why_not_finite
from lit_instructgpt.ranks import objects_of_all_ranks, of_all_ranks, own_rows, padded, widest

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule


def roll_out(module: PPOModule, prompts: PromptBatch, num_samples: int = 1, shared: bool = False) -> Rollout:
    """Samples ``num_samples`` responses per prompt and scores them; no gradients. What needs values is still empty.

    Args:
        module: PPO's.
        prompts: of this process.
        num_samples: per prompt.
        shared: every process has prompts of its own, and the episodes of all of them are returned, in their global order.
    """
    module.where = prompts.where
    with inference_mode(module.policy, module.ref), module.phase("rollout"):
        own = module.ppo.engine != "continuous_batching"  # which makes a copy of its own
        policy = inference_copy(module.policy, arithmetic(module)) if own else whole(module.policy)
        sampled = sample_responses(module, policy, prompts, num_samples, shared)
        rows = torch.arange(len(prompts), device=module.device).repeat_interleave(num_samples)
        ids = torch.cat([prompts.input_ids[rows], sampled.ids], 1)
        mask = torch.cat([prompts.attention_mask[rows], sampled.mask], 1)
        rollout = Rollout.empty(ids, mask, sampled.mask, rows)
        if sampled.logprobs is not None:
            rollout.logprobs = sampled.logprobs
    with inference_mode(module.policy, module.ref), module.phase("scoring"):
        if sampled.logprobs is None:
            rollout.logprobs = old_logprobs(module, policy, rollout)
        else:
            check_sampler(module, policy, rollout)
        del policy
        score(module, rollout, [prompts.text[i] for i in rows.tolist()])
        return join(module, rollout, num_samples) if shared else rollout


def sample_responses(module: PPOModule, policy: Any, prompts: PromptBatch, num_samples: int, shared: bool) -> Sampled:
    """Responses whose random numbers depend on seed, iteration and place in the global batch alone.

    Raises:
        FloatingPointError: the policy's logits are not finite, naming its weights.
    """
    trainer, num_tokens = module.trainer, module.ppo.max_new_tokens
    world, rank = (trainer.world_size, trainer.global_rank) if shared else (1, 0)
    seed = module.seed * 1_000_003 + module.iteration
    engine: Any = ENGINES[module.ppo.engine]
    if module.ppo.engine == "own":
        num, generator = len(prompts) * world, torch.Generator(module.device).manual_seed(seed)
        shape = (num * num_samples, num_tokens)
        uniform = torch.rand(shape, generator=generator, dtype=exact(module.device), device=module.device)
        uniform = uniform[own_rows(num, num_samples, rank, world, module.device)]
    else:
        generator = torch.Generator(module.device).manual_seed(seed * world + rank)
    at_once = max((module.ppo.rollout_batch_size or len(prompts) * num_samples) // num_samples, 1)
    parts: list[Sampled] = []
    try:
        for first in range(0, len(prompts), at_once):
            some, sampler = slice(first, first + at_once), engine
            if module.ppo.engine == "own":
                sampler = partial(engine, uniform=uniform[first * num_samples : (first + at_once) * num_samples])
            parts.append(
                sampler(
                    policy, prompts.input_ids[some], prompts.attention_mask[some], num_tokens,
                    module.tokenizer.eos_token_id, module.tokenizer.pad_token_id, module.ppo.temperature, generator,
                    num_samples,
                )
            )  # fmt: skip
        return one_below_the_other(parts, module.tokenizer.pad_token_id)
    except FloatingPointError as error:
        weights = shortened(not_finite_here(module.policy.named_parameters())) or "none"  # the others may be elsewhere
        raise FloatingPointError(
            f"{error} (optimizer step {module.global_step}; weights that are not finite: {weights})"
        ) from error


def one_below_the_other(parts: Sequence[Sampled], pad_token_id: int) -> Sampled:
    """Responses that were sampled in turn, as wide as the longest."""
    width = max(part.ids.shape[1] for part in parts)
    logprobs = [None if part.logprobs is None else padded(part.logprobs, width, 0.0) for part in parts]
    return Sampled(
        torch.cat([padded(part.ids, width, pad_token_id) for part in parts]),
        torch.cat([padded(part.mask, width, False) for part in parts]),
        None if logprobs[0] is None else torch.cat([x for x in logprobs if x is not None]),
    )


def join(module: PPOModule, rollout: Rollout, num_samples: int) -> Rollout:
    """The episodes of all processes, in their global order; where their prompts are from, and their texts, likewise."""
    if module.trainer.world_size == 1:
        return rollout
    num_response = widest(module, rollout.response_mask.shape[1])
    num_prompt = widest(module, rollout.input_ids.shape[1] - rollout.response_mask.shape[1])
    cut = rollout.input_ids.shape[1] - rollout.response_mask.shape[1]
    pad_token = module.tokenizer.pad_token_id

    def per_token(x: Tensor, value: Any) -> Tensor:
        left, right = padded(x[:, :cut], num_prompt, value, left=True), padded(x[:, cut:], num_response, value)
        return of_all_ranks(module, torch.cat([left, right], 1), num_samples)

    def per_response(x: Tensor) -> Tensor:
        return of_all_ranks(module, padded(x, num_response, 0), num_samples)

    found = Rollout.empty(
        per_token(rollout.input_ids, pad_token), per_token(rollout.attention_mask, False),
        per_response(rollout.response_mask), torch.arange(0),
    )  # fmt: skip
    found.prompt = torch.arange(len(found) // num_samples, device=module.device).repeat_interleave(num_samples)
    found.logprobs, found.ref_logprobs = per_response(rollout.logprobs), per_response(rollout.ref_logprobs)
    found.scores = of_all_ranks(module, rollout.scores, num_samples)
    module.where = objects_of_all_ranks(module, module.where)
    module.samples = objects_of_all_ranks(module, module.samples, num_samples)
    return found


def old_logprobs(module: PPOModule, policy: Any, rollout: Rollout) -> Tensor:
    """Log-probabilities of the responses in the training forward pass: [B, R]."""
    found = torch.zeros_like(rollout.logprobs)
    for rows, part in module.micro_batches(rollout):
        found[rows, : part.response_mask.shape[1]] = module.logprobs(policy, part)[0]
    return found


def check_sampler(module: PPOModule, policy: Any, rollout: Rollout) -> None:
    """Replaces the log-probabilities that sampling saw where those of the training forward pass are others.

    A few episodes decide: if they agree within ``sampler_tolerance``, those of sampling serve for all.
    """
    tolerance = module.ppo.sampler_tolerance
    if tolerance is None:
        tolerance = rounding(module)
    num = len(rollout)
    few = torch.arange(num, device=module.device)[:: max(num // 8, 1)][: max(min(num // 8, 8), 2)]
    if tolerance == 0:
        few = few[:0]
    for rows in (few, torch.arange(num, device=module.device)):
        part = rollout.take(rows)
        again = old_logprobs(module, policy, part)
        gap = (again - part.logprobs)[part.response_mask].abs().max().item() if len(rows) else math.inf
        if gap <= tolerance:
            break
    else:
        rollout.logprobs = again
    module.metrics.add(sampling__logprob_gap=gap)


def score(module: PPOModule, rollout: Rollout, prompts: Sequence[str]) -> None:
    """Fills in reference log-probabilities and scores, over micro-batches of similar length."""
    parts = list(module.micro_batches(rollout))
    with frozen_precision(module):
        ref = frozen(module, module.ref)
        for rows, part in parts:
            rollout.ref_logprobs[rows, : part.response_mask.shape[1]] = module.logprobs(ref, part)[0]
        del ref
        if module.reward_fn is None:
            reward_model = frozen(module, module.reward_model)
            for rows, part in parts:
                rollout.scores[rows] = reward_model.score(
                    part.input_ids, part.attention_mask, module.sharing(part), module.ppo.packing
                )
    responses = rollout.input_ids[:, -rollout.response_mask.shape[1] :]
    texts = [
        module.trainer.datamodule.format.decode(ids[keep].tolist(), module.tokenizer)  # type: ignore[attr-defined]
        for ids, keep in zip(responses, rollout.response_mask, strict=True)
    ]
    if module.reward_fn is not None:
        scores = list(module.reward_fn(prompts, texts))
        if len(scores) != len(texts):
            raise ValueError(f"the reward gave {len(scores)} scores for {len(texts)} responses")
        rollout.scores[:] = torch.tensor(scores, dtype=torch.float32)
    sums = {
        "the reward": rollout.scores,
        "the response's log-probability under the policy": F.masked_sum(rollout.logprobs, rollout.response_mask, 1),
        "the response's log-probability under the reference model": F.masked_sum(
            rollout.ref_logprobs, rollout.response_mask, 1
        ),
    }
    for name, found in sums.items():
        if not torch.isfinite(found).all():
            row = int((~torch.isfinite(found)).nonzero()[0])
            raise FloatingPointError(
                f"{name} of prompt {prompts[row]!r} ({module.where[int(rollout.prompt[row])]}) is "
                f"{found[row].item()} in iteration {module.iteration}"
            )
    kl = F.masked_sum(F.kl_k1(rollout.logprobs, rollout.ref_logprobs), rollout.response_mask, 1)
    module.samples = [
        {"prompt": prompt, "response": text, "score": round(score, 4), "kl": round(nats, 4)}
        for prompt, text, score, nats in zip(prompts, texts, rollout.scores.tolist(), kl.tolist(), strict=True)
    ]


def check_values(module: PPOModule, rollout: Rollout) -> None:
    """Refuses values that are not finite: whitening would spread those of one episode to all.

    Raises:
        FloatingPointError: naming the weights, or where the prompts of those episodes are from.
    """
    values = rollout.values.masked_fill(~rollout.response_mask, 0.0)
    if not torch.isfinite(values).all():
        where = [module.where[i] for i in rollout.prompt.tolist()]
        raise FloatingPointError(
            f"the values are not finite at optimizer step {module.global_step}: no step was taken; "
            + why_not_finite(module, partial(zip, where, values), "the values")
        )
