"""What PPO logs (docs/metrics.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_instructgpt import functional as F
from lit_instructgpt.batch import Rollout


@dataclass
class Metrics:
    """Means over an iteration, weighted by what was counted."""

    total: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    weight: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @classmethod
    def of_process(cls, saved: Sequence[dict[str, dict[str, float]]], rank: int, world_size: int) -> Metrics:
        """Goes on from the sums of all processes before: with its own, or with all of them on the first of another number."""
        found = cls()
        for number, sums in enumerate(saved):
            mine = number == rank if len(saved) == world_size else rank == 0
            for name in sums["total"]:
                found.total[name] += sums["total"][name] * mine
                found.weight[name] += sums["weight"][name] * mine
        return found

    def add(self, weight: float = 1.0, **values: Tensor | float) -> None:
        """Adds values; ``__`` in a name stands for ``/``."""
        for name, value in values.items():
            self.total[name.replace("__", "/")] += float(value) * weight
            self.weight[name.replace("__", "/")] += weight

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda x: x) -> dict[str, float]:
        """Name -> weighted mean, over all processes if ``reduce`` sums over them."""
        sums = torch.tensor([[self.total[name], self.weight[name]] for name in self.total], dtype=torch.float64)
        return {name: float(total / weight) for name, (total, weight) in zip(self.total, reduce(sums), strict=True)}

    @torch.no_grad()
    def add_policy(
        self, part: Rollout, entropy: Tensor, logprobs: Tensor, num_tokens: float, loss: F.ClippedLoss
    ) -> None:
        """Adds what the policy's update shows, weighted by the micro-batch's share of the minibatch's tokens."""
        mask = part.response_mask
        share = float(mask.sum()) / num_tokens
        log_ratio = torch.where(mask, logprobs - part.logprobs, 0.0)
        self.add(
            share, loss__policy=loss.loss / share, policy__clipfrac=loss.clipfrac / share,
            policy__ratio=F.masked_mean(log_ratio.exp(), mask),
            policy__approx_kl=F.masked_mean(F.kl_k3(part.logprobs, logprobs), mask),
            policy__entropy=F.masked_mean(entropy, mask),
        )  # fmt: skip

    @torch.no_grad()
    def add_value(self, part: Rollout, num_tokens: float, loss: F.ClippedLoss) -> None:
        """Adds what the value model's update shows, weighted likewise."""
        share = float(part.response_mask.sum()) / num_tokens
        self.add(share, loss__value=loss.loss / share, value__clipfrac=loss.clipfrac / share)


def rollout_stats(rollout: Rollout, kl_coef: float, stopped: Tensor) -> dict[str, float]:
    """Means over the episodes of a rollout.

    Args:
        rollout: with scores and log-probabilities.
        kl_coef: beta in force.
        stopped: [B] True where the response ended with EOS.
    """
    mask = rollout.response_mask
    kl = F.kl_k1(rollout.logprobs, rollout.ref_logprobs)
    episode_kl = F.masked_sum(kl, mask, 1).mean()
    return {
        "objective/score": rollout.scores.mean().item(),
        "objective/kl": episode_kl.item(),
        "objective/kl_k3": F.masked_sum(F.kl_k3(rollout.logprobs, rollout.ref_logprobs), mask, 1).mean().item(),
        "objective/non_score_reward": -kl_coef * episode_kl.item(),
        "objective/rlhf_reward": (rollout.scores.mean() - kl_coef * episode_kl).item(),
        "objective/entropy": -F.masked_sum(rollout.logprobs, mask, 1).mean().item(),
        "response/length": mask.sum(1).float().mean().item(),
        "response/stop_rate": stopped.float().mean().item(),
    }
