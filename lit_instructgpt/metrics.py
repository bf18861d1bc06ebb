"""Reward-model metrics over pairs, as torchmetrics (so they are right on any number of ranks)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_calibration_error

from lit_instructgpt.batch import ComparisonBatch
from lit_instructgpt.functional import ranking_pairs


class PairAccuracy(Metric):
    """Share of untied pairs whose better completion scores higher, overall and per group.

    An equal score counts half. Beside it the length baseline: the share in which the completion of more
    tokens, as the model reads them, is the better one, equal lengths counting half. Groups are fixed at construction, so that
    ranks agree.

    Args:
        groups: names such as ``source/x`` and ``labeler/y``.
        shared: every process has pairs of its own; False where all have the same ones.
    """

    full_state_update = False

    def __init__(self, groups: Sequence[str] = (), shared: bool = True) -> None:
        super().__init__(sync_on_compute=shared)
        self.index = {name: i for i, name in enumerate(["all", *groups])}
        for name in ("correct", "longer", "total"):
            self.add_state(name, torch.zeros(len(self.index), dtype=torch.float64), dist_reduce_fx="sum")
        self.correct: Tensor
        self.longer: Tensor
        self.total: Tensor

    def update(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Adds the pairs of a batch; scores [B, K]."""
        pairs = ranking_pairs(scores, batch.ranking, batch.completion_mask)
        lengths = ranking_pairs(batch.response_length.float(), batch.ranking, batch.completion_mask)
        correct = (half_step(pairs.margin) * pairs.untied).sum(1).double()
        longer = (half_step(lengths.margin) * pairs.untied).sum(1).double()
        total = pairs.untied.sum(1).double()
        for row, (source, labeler) in enumerate(zip(batch.source, batch.labeler, strict=True)):
            for name in ("all", f"source/{source}", f"labeler/{labeler}"):
                if (i := self.index.get(name)) is not None:
                    self.correct[i] += correct[row]
                    self.longer[i] += longer[row]
                    self.total[i] += total[row]

    def compute(self) -> dict[str, Tensor]:
        """``pair_accuracy``, ``length_baseline``, ``num_pairs`` and ``pair_accuracy/<group>``."""
        rate = self.correct / self.total.clamp(min=1)
        metrics = {
            "pair_accuracy": rate[0],
            "length_baseline": self.longer[0] / self.total[0].clamp(min=1),
            "num_pairs": self.total[0],
        }
        metrics |= {f"pair_accuracy/{name}": rate[i] for name, i in self.index.items() if i and self.total[i]}
        return metrics


def half_step(margin: Tensor) -> Tensor:
    """1 where positive, 0 where negative, 1/2 at 0."""
    return (margin.sign() + 1) / 2


class PairCalibration(Metric):
    """Expected calibration error of sigmoid(score difference) as the probability of the labeler's choice.

    Ten equal bins of the confidence, the l1 norm (torchmetrics' ``binary_calibration_error``). Of the pairs of validation,
    which every process has.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.add_state("margins", [], dist_reduce_fx="cat")
        self.margins: list[Tensor]

    def update(self, scores: Tensor, batch: ComparisonBatch) -> None:
        """Adds the pairs of a batch; scores [B, K]."""
        pairs = ranking_pairs(scores, batch.ranking, batch.completion_mask)
        self.margins.append(pairs.margin[pairs.untied])

    def compute(self) -> Tensor:
        """The error, 0 to 1; 0 without pairs."""
        margins = torch.cat(self.margins) if isinstance(self.margins, list) else self.margins
        if margins.numel() == 0:
            return torch.zeros(())
        # A pair has no first element: present every other pair the other way round.
        flip = torch.arange(margins.numel(), device=margins.device) % 2 == 1
        return binary_calibration_error(torch.where(flip, -margins, margins).sigmoid(), (~flip).long(), n_bins=10)
