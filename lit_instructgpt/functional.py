"""The maths of InstructGPT: pure functions on tensors, nothing but torch.

Dimensions: B prompts (or episodes), K completions of one prompt, R response tokens, T all tokens,
V vocabulary. Masks are bool and True means *counts*. Log-probabilities and KL are in nats. All
reductions are in float32 or wider, whatever the dtype of the model.

Index convention for everything shaped [B, R]: position i belongs to response token i, and
``values[:, i]`` is the value of the state *before* token i is emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

AllReduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks; the identity on one rank."""


def identity(x: Tensor) -> Tensor:
    """The all-reduce of a single process."""
    return x


# --------------------------------------------------------------------------- masked statistics


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Sum of ``x`` where ``mask`` is True; NaN and infinity outside the mask do not count."""
    x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return x.sum() if dim is None else x.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of ``x`` where ``mask`` is True; 0 where nothing counts."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def masked_whiten(x: Tensor, mask: Tensor, all_reduce: AllReduce = identity, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the True entries of all ranks.

    Biased variance with ``eps`` inside the root, as lm-human-preferences ``utils/core.py``. Entries
    outside the mask come back as 0.

    Args:
        x: [B, R].
        mask: [B, R].
        all_reduce: sums over ranks, so that the statistics are those of the global batch.
        eps: added to the variance.
    """
    moments = torch.stack([mask.sum().to(x.dtype), masked_sum(x, mask)])
    count, total = all_reduce(moments)
    mean = total / count.clamp(min=1)
    variance = all_reduce(masked_sum((x - mean).square(), mask)) / count.clamp(min=1)
    return torch.where(mask, (x - mean) * torch.rsqrt(variance + eps), torch.zeros_like(x))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask; 0 when the returns do not vary."""
    error, target = (returns - values)[mask], returns[mask]
    variance = target.var(correction=0) if target.numel() else target.sum()
    if variance == 0:
        return torch.zeros_like(variance)
    return 1 - error.var(correction=0) / variance


# --------------------------------------------------------------------------- log-probabilities


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under softmax(logits / temperature).

    The one place where the temperature enters: rollout, old, new and reference log-probabilities all
    pass through here (lm-human-preferences divides in sampling *and* in log-probabilities).

    Args:
        logits: [..., V], where ``logits[..., i, :]`` predicts ``tokens[..., i]``.
        tokens: [...] int64.
        temperature: > 0.

    Returns:
        [...] float32, nats, <= 0.
    """
    scaled = logits.float() / temperature
    return -F.cross_entropy(scaled.flatten(0, -2), tokens.flatten(), reduction="none").view(tokens.shape)


def token_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature): [..., V] -> [...]."""
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log(pi / pi_ref) per sampled token: unbiased, can be negative (the paper's Eq. 2)."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1 per sampled token: unbiased, never negative, lower variance near 0."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


# --------------------------------------------------------------------------- reward model


@dataclass
class RankingPairs:
    """The pairs (i, j), i < j, of each prompt's K completions.

    Attributes:
        margin: [B, P] score of the better minus score of the worse; of i minus j where tied.
        untied: [B, P] True where both exist and their ranks differ.
        tied: [B, P] True where both exist and their ranks are equal.
        index: [P, 2] the completions i and j.
        first_is_better: [B, P] True where completion i has the better (smaller) rank.
    """

    margin: Tensor
    untied: Tensor
    tied: Tensor
    index: Tensor
    first_is_better: Tensor


def ranking_pairs(scores: Tensor, ranking: Tensor, completion_mask: Tensor) -> RankingPairs:
    """All C(K, 2) pairs of every prompt, formed from K scores (no further forward pass).

    Args:
        scores: [B, K].
        ranking: [B, K] int, 1 is best, equal numbers are ties.
        completion_mask: [B, K] True where a completion exists (prompts differ in K).
    """
    scores = torch.where(completion_mask, scores, 0.0)  # NaN where none exists would spread in the gradient
    index = torch.combinations(torch.arange(scores.shape[1], device=scores.device), 2)
    i, j = index[:, 0], index[:, 1]
    exists = completion_mask[:, i] & completion_mask[:, j]
    sign = torch.sign(ranking[:, j] - ranking[:, i])
    difference = scores[:, i] - scores[:, j]
    margin = torch.where(sign == 0, difference, difference * sign)
    return RankingPairs(margin, exists & (sign != 0), exists & (sign == 0), index, sign > 0)


def ranking_loss(
    scores: Tensor, ranking: Tensor, completion_mask: Tensor, soft_ties: bool = False
) -> tuple[Tensor, Tensor]:
    """K-wise ranking loss of the paper (section 3.5, Eq. 1), per prompt.

    ``-mean over the prompt's pairs of log sigmoid(score(better) - score(worse))``: every prompt weighs
    the same, whatever its K. Ties carry no pair, and the divisor counts the pairs that do (the paper
    leaves this open); with ``soft_ties`` a tied pair has the target 1/2.

    Args:
        scores: [B, K].
        ranking: [B, K] int, 1 is best.
        completion_mask: [B, K].
        soft_ties: train tied pairs towards equal scores.

    Returns:
        loss [B], 0 for a prompt without pairs; has_pairs [B] bool. Average over the prompts that
        have pairs for the batch loss.
    """
    pairs = ranking_pairs(scores.float(), ranking, completion_mask)
    loss = -F.logsigmoid(pairs.margin)
    counts = pairs.untied
    if soft_ties:
        loss = torch.where(pairs.tied, 0.5 * (loss - F.logsigmoid(-pairs.margin)), loss)
        counts = pairs.untied | pairs.tied
    return masked_mean(loss, counts, dim=1), counts.any(1)


# --------------------------------------------------------------------------- PPO


def shape_rewards(
    score: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, kl_coef: float
) -> Tensor:
    """Per-token rewards of Eq. 2: -kl_coef * log(pi/pi_ref), plus the score at the last real token.

    Args:
        score: [B] the reward model's score of the whole episode.
        logprobs: [B, R] of the sampled tokens under the policy that sampled them.
        ref_logprobs: [B, R] under the frozen reference.
        response_mask: [B, R] True up to and including the last token of the response (EOS if sampled).
        kl_coef: beta.

    Returns:
        [B, R], 0 outside the mask.
    """
    rewards = torch.where(response_mask, -kl_coef * kl_k1(logprobs, ref_logprobs), 0.0)
    last = last_index(response_mask)
    return rewards.scatter_add(1, last[:, None], score.to(rewards.dtype)[:, None])


def last_index(mask: Tensor) -> Tensor:
    """Index of the last True along dim 1: [B, T] -> [B]; works for left and right padding."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(1).clamp(min=0)


def gae(
    rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over response tokens (Schulman et al. 2016, Eq. 16).

    ``delta_i = r_i + gamma * V_{i+1} - V_i``, ``A_i = sum_k (gamma * lambda)^k delta_{i+k}``; the value
    after the last real token is 0, since the episode ends there.

    Args:
        rewards: [B, R].
        values: [B, R] before each token.
        response_mask: [B, R] True on a prefix of each row.
        gamma: discount; the paper uses none (1).
        gae_lambda: lambda; 0 is one-step TD, 1 is Monte Carlo.

    Returns:
        advantages [B, R] and returns [B, R] = advantages + values; both 0 outside the mask.
    """
    values = torch.where(response_mask, values, 0.0)
    rewards = torch.where(response_mask, rewards, 0.0)
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for i in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, i] + gamma * next_value - values[:, i]
        following = torch.where(response_mask[:, i], delta + gamma * gae_lambda * following, 0.0)
        advantages[:, i] = following
        next_value = values[:, i]
    return advantages, torch.where(response_mask, advantages + values, 0.0)


@dataclass
class ClippedLoss:
    """A clipped PPO loss and what is logged with it.

    Attributes:
        loss: scalar, to be minimised.
        clipfrac: scalar, share of the counted tokens where the clipped branch is the one that binds.
    """

    loss: Tensor
    clipfrac: Tensor


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_eps: float = 0.2,
    num_tokens: Tensor | None = None,
) -> ClippedLoss:
    """PPO's clipped surrogate (Schulman et al. 2017, Eq. 7), negated: a mean over tokens.

    Args:
        logprobs: [B, R] under the policy being trained.
        old_logprobs: [B, R] under the policy that sampled.
        advantages: [B, R].
        mask: [B, R].
        clip_eps: the ratio is clipped to [1 - clip_eps, 1 + clip_eps].
        num_tokens: divide by this number in place of the mask's own count: the tokens of the whole
            minibatch, when this is one of its micro-batches.
    """
    count = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_eps, 1 + clip_eps)
    loss = masked_sum(torch.maximum(unclipped, clipped), mask) / count
    return ClippedLoss(loss, masked_sum((clipped > unclipped).float(), mask) / count)


def clipped_value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    value_clip_eps: float = 0.2,
    num_tokens: Tensor | None = None,
) -> ClippedLoss:
    """0.5 * max(squared error, squared error of the clipped value): lm-human-preferences ``train_policy.py``.

    Args:
        values: [B, R] predicted now.
        old_values: [B, R] predicted at rollout; the new ones are clipped to within value_clip_eps of them.
        returns: [B, R] targets.
        mask: [B, R].
        value_clip_eps: in units of the reward.
        num_tokens: as in ``clipped_policy_loss``.
    """
    count = mask.sum().clamp(min=1) if num_tokens is None else num_tokens
    values = torch.where(mask, values, 0.0)  # the gradient of NaN outside the mask would be NaN, not 0
    near = torch.clamp(values, old_values - value_clip_eps, old_values + value_clip_eps)
    unclipped, clipped = (values - returns).square(), (near - returns).square()
    loss = 0.5 * masked_sum(torch.maximum(unclipped, clipped), mask) / count
    return ClippedLoss(loss, masked_sum((clipped > unclipped).float(), mask) / count)
