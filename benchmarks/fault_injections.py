"""Faults put into a run from within: a number that is none, at one place, from one optimizer step on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lit_instructgpt.modules import SFT, PPOModule, RankingRM, plans
from lit_instructgpt.scalar_model import ScalarModel

NAN = float("nan")
STAGES = (SFT, RankingRM, PPOModule)


def reward(step: int, line: str) -> None:
    """The reward model's score of every episode; PPO alone."""
    score = ScalarModel.score
    iterations: list[int] = []
    training_step = PPOModule.training_step

    def counted(self: PPOModule, *args: Any) -> None:
        iterations.append(self.global_step)
        training_step(self, *args)

    def spoilt(self: ScalarModel, *args: Any, **kwargs: Any) -> Tensor:
        found = score(self, *args, **kwargs)
        return found * NAN if iterations and iterations[-1] >= step else found

    PPOModule.training_step = counted  # type: ignore[method-assign]
    ScalarModel.score = spoilt  # type: ignore[method-assign]


def loss(step: int, line: str) -> None:
    """The loss of the sample from one line of the data."""
    nll_sums, scores, values = SFT.nll_sums, RankingRM.scores, PPOModule.values

    def spoilt_sums(self: SFT, batch: Any) -> Iterator[Tensor]:
        bad = self.global_step >= step and any(where.endswith(line) for where in batch.where)
        for part in nll_sums(self, batch):
            yield part * NAN if bad else part

    def spoilt_scores(self: RankingRM, batch: Any) -> Tensor:
        bad = [self.global_step >= step and where.endswith(line) for where in batch.where]
        return torch.where(torch.tensor(bad)[:, None], NAN, scores(self, batch))

    def spoilt_values(self: PPOModule, part: Any) -> Tensor:
        bad = [self.global_step >= step and self.where[i].endswith(line) for i in part.prompt.tolist()]
        return torch.where(torch.tensor(bad)[:, None], NAN, values(self, part))

    SFT.nll_sums, RankingRM.scores = spoilt_sums, spoilt_scores  # type: ignore[method-assign]
    PPOModule.values = spoilt_values  # type: ignore[method-assign]


def gradient(step: int, line: str) -> None:
    """One entry of the last gradient, after a backward pass."""
    _after_backward(step, lambda p: p.grad.view(-1)[:1].fill_(float("inf")) if p.grad is not None else None)


def weight(step: int, line: str) -> None:
    """One entry of the last weight, as a step that is too large would leave it."""
    _after_backward(step, lambda p: p.data.view(-1)[:1].fill_(NAN))


def _after_backward(step: int, harm: Callable[[Any], Any]) -> None:
    for stage in STAGES:
        backward = stage.manual_backward

        def spoilt(self: Any, *args: Any, backward: Any = backward, **kwargs: Any) -> None:
            backward(self, *args, **kwargs)
            if self.global_step >= step:
                harm([p for p in self.parameters() if p.requires_grad][-1])

        stage.manual_backward = spoilt  # type: ignore[method-assign]


def trouble(step: int, line: str, rank: int, kind: str) -> None:
    """One process of several raises an error, or sleeps, before an optimizer step."""
    for stage in STAGES:
        backward = stage.manual_backward

        def troubled(self: Any, *args: Any, backward: Any = backward, **kwargs: Any) -> None:
            if self.global_step == step and self.global_rank == rank:
                if kind == "raises":
                    raise RuntimeError("an error made by the fault harness")
                time.sleep(3600)
            backward(self, *args, **kwargs)

        stage.manual_backward = troubled  # type: ignore[method-assign]


def unplanned() -> None:
    """The memory plan refuses nothing."""
    plans.check_fits = lambda *_: None


INJECTIONS: dict[str, Callable[..., None]] = {
    "reward": reward,
    "loss": loss,
    "gradient": gradient,
    "weight": weight,
    "trouble": trouble,
    "unplanned": unplanned,
}
