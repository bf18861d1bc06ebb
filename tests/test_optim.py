"""Schedules, the refused Trainer settings, and the one step that all modules take."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lit_instructgpt.optim import (
    build_optimizer,
    check_trainer,
    clip_and_step,
    cosine_to_fraction,
    default_optimizer,
    shortened,
    warmup_from_tenth,
)


def rates(num_steps: int, final: float, warmup: int, take: int) -> list[float]:
    """Learning rates of the first steps, at a peak of 2."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_to_fraction(optimizer, num_steps, final, warmup)
    found = []
    for _ in range(take):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_at_start_middle_and_end():
    found = rates(8, 0.1, 0, 12)
    assert found[0] == pytest.approx(2.0)
    assert found[2] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert found[4] == pytest.approx(2 * 0.55)
    assert found[8] == pytest.approx(0.2)
    assert found[9:] == pytest.approx([0.2] * 3)
    assert found[:9] == sorted(found[:9], reverse=True)


def test_cosine_after_warm_up():
    found = rates(11, 0.0, 3, 12)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[7] == pytest.approx(1.0)
    assert found[11] == pytest.approx(0.0, abs=1e-12)


def test_cosine_of_no_steps_does_not_divide_by_zero():
    assert rates(0, 0.1, 0, 2) == pytest.approx([2.0, 0.2])


@pytest.mark.parametrize(
    ("iteration", "num_warmup", "factor"),
    [(0, 10, 0.1), (5, 10, 0.55), (10, 10, 1.0), (400, 10, 1.0), (0, 0, 1.0), (7, 0, 1.0), (1, 2, 0.55)],
)
def test_warmup_from_a_tenth(iteration: int, num_warmup: int, factor: float):
    assert warmup_from_tenth(iteration, num_warmup) == pytest.approx(factor)


def test_default_optimizer():
    optimizer = default_optimizer([nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.95), 1e-5, 0.0)
    assert type(optimizer) is torch.optim.AdamW


def quiet_trainer(**kwargs: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        ({"accumulate_grad_batches": 4}, ["micro_batch_size"]),
        ({"gradient_clip_val": 1.0}, ["max_grad_norm"]),
        ({"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}, ["micro_batch_size", "max_grad_norm"]),
    ],
)
def test_pitfall_37_trainer_settings_that_would_be_ignored_are_refused(settings: dict, remedies: list[str]):
    with pytest.raises(ValueError, match="Here: ") as caught:
        check_trainer(quiet_trainer(**settings), "Here")
    for name, value in settings.items():
        assert f"trainer.{name} is {value}" in str(caught.value)
    assert all(f"model.init_args.{remedy}" in str(caught.value) for remedy in remedies)


def test_pitfall_37_other_trainers_pass():
    check_trainer(quiet_trainer(), "Here")


class Steps(LightningModule):
    """Takes one step with the gradient (3, 4) times each batch, at a learning rate of 1."""

    def __init__(self, max_grad_norm: float | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.max_grad_norm = max_grad_norm
        self.weight = nn.Parameter(torch.tensor([10.0, 20.0]))
        self.unused = nn.Parameter(torch.ones(1))
        self.bad_loss = 2.0
        self.norms: list[float] = []
        self.seen: list[list[float]] = []

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def losses(self) -> list[tuple[str, Tensor]]:
        return [("data:1", torch.tensor(1.0)), ("data:2", torch.tensor(self.bad_loss))]

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.weight.grad = batch * torch.tensor([3.0, 4.0])
        self.norms.append(
            clip_and_step(self, self.parameters(), self.max_grad_norm, torch.tensor(self.bad_loss), self.losses).item()
        )
        assert self.weight.grad is None or not self.weight.grad.any()
        self.seen.append(self.weight.tolist())


class Batches:
    """A loader of these batches."""

    def __init__(self, *scales: float) -> None:
        self.scales = scales

    def __len__(self) -> int:
        return len(self.scales)

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor(scale) for scale in self.scales)


@pytest.mark.parametrize(
    ("max_grad_norm", "expected"),
    [(None, [[7.0, 16.0], [1.0, 8.0]]), (100.0, [[7.0, 16.0], [1.0, 8.0]]), (1.0, [[9.4, 19.2], [8.8, 18.4]])],
)
def test_step_and_clipping_by_hand(max_grad_norm: float | None, expected: list[list[float]]):
    module, trainer = Steps(max_grad_norm), quiet_trainer()
    trainer.fit(module, Batches(1.0, 2.0))
    assert module.norms == pytest.approx([5.0, 10.0])
    torch.testing.assert_close(torch.tensor(module.seen), torch.tensor(expected), atol=1e-5, rtol=0)
    assert module.unused.item() == 1
    assert trainer.global_step == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_pitfall_13_a_gradient_that_is_not_finite_stops_before_the_step(bad: float, max_grad_norm: float | None):
    module = Steps(max_grad_norm)
    with pytest.raises(FloatingPointError, match="at optimizer step 1: no step was taken"):
        quiet_trainer().fit(module, Batches(1.0, bad))
    assert module.weight.tolist() == module.seen[0]
    assert len(module.seen) == 1
    assert module.weight.isfinite().all()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda m: setattr(m, "bad_loss", math.nan), r"not finite: the loss of data:2; look at these samples"),
        (lambda m: None, r"not finite: gradients weight, of finite losses; samples: data:1, data:2;"),
        (lambda m: m.unused.data.fill_(math.inf), r"not finite: weights unused; the step before was too large"),
        (
            lambda m: m.unused.requires_grad_(False).fill_(math.inf),
            r"not finite: frozen weights unused, which no step changes: the directory they are from is damaged",
        ),
    ],
)
def test_r7_what_is_not_finite_is_named(harm: Any, says: str):
    module = Steps(None)
    harm(module)
    with pytest.raises(FloatingPointError, match=f"gradient norm nan at optimizer step 0: no step was taken; {says}"):
        quiet_trainer().fit(module, Batches(math.nan))


def test_r7_every_sample_counts_once_however_often_it_is_in_the_batch():
    """Several responses to a prompt have one place in the data."""

    class Twice(Steps):
        def losses(self) -> list[tuple[str, Tensor]]:
            return 2 * [("data:1", torch.tensor(math.nan)), ("data:2", torch.tensor(math.nan))]

    said = r"not finite: the loss of every sample of the batch \(data:1, data:2\): the weights are at fault"
    with pytest.raises(FloatingPointError, match=said):
        quiet_trainer().fit(Twice(None), Batches(math.nan))


def test_a_long_list_of_names_is_shortened():
    assert shortened([f"w{i}" for i in range(10)], 3) == "w0, w1, w2 and 7 more"
    assert shortened(["a", "b"], 3) == "a, b"


def test_embeddings_keep_32_bit_states():
    bnb = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(nn.Embedding(80, 80), nn.Linear(80, 80, bias=False))
    optimizer = build_optimizer(lambda p: bnb.optim.AdamW8bit(p, lr=1e-3), model.parameters(), model)
    optimizer.check_overrides()
    bits = [optimizer.get_config(0, i, optimizer.param_groups[0])["optim_bits"] for i in range(2)]
    assert bits == [32, 8]


def test_a_loss_that_is_not_finite_stops_before_the_step_though_its_gradient_is():
    module = Steps(None)
    module.bad_loss = math.nan
    with pytest.raises(FloatingPointError, match=r"the loss is nan and the gradient norm 5 at .*the loss of data:2"):
        quiet_trainer().fit(module, Batches(1.0))
    assert module.weight.tolist() == [10.0, 20.0]
