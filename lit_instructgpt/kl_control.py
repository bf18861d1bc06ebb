"""The KL coefficient over training: fixed (the paper) or adaptive (Ziegler et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class AdaptiveKL:
    """Proportional control of the KL coefficient, as lm-human-preferences ``train_policy.py``.

    ``kl_coef *= 1 + clip(KL / target - 1, -0.2, 0.2) * num_episodes / horizon``. InstructGPT describes
    no controller; its coefficient is fixed.

    Attributes:
        target: KL to the reference to hold, in nats per episode.
        horizon: episodes over which the coefficient can change by about a fifth.
    """

    target: float = 6.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        if self.target <= 0 or self.horizon <= 0:
            raise ValueError(f"adaptive_kl: target ({self.target}) and horizon ({self.horizon}) must be positive")

    def next_coef(self, kl_coef: float, kl: float, num_episodes: int) -> float:
        """The coefficient for the next iteration, after ``num_episodes`` with a mean KL of ``kl`` nats."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return kl_coef * (1 + error * num_episodes / self.horizon)
