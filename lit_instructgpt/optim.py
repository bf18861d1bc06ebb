"""Schedules, clipping and the one optimizer step that all modules take by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_instructgpt.eight_bit import is_eight_bit, load_any_state, make_eight_bit, repage
from lit_instructgpt.ranks import of_every_process, sum_over_ranks
from lit_instructgpt.sharding import full, local


def default_optimizer(params: Any) -> Optimizer:
    """AdamW without weight decay, betas (0.9, 0.95) as the paper, epsilon 1e-5 as its predecessors."""
    return torch.optim.AdamW(params, lr=1e-5, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0, fused=True)


def cosine_to_fraction(optimizer: Optimizer, num_steps: int, final_fraction: float, num_warmup: int = 0) -> LambdaLR:
    """Cosine from the peak to ``final_fraction`` of it over ``num_steps``, after a linear warm-up.

    The paper: to 10 % of the peak, without warm-up (Appendix C.1, C.2).
    """

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        done = min((step - num_warmup) / max(num_steps - num_warmup, 1), 1.0)
        return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def warmup_from_tenth(iteration: int, num_warmup: int) -> float:
    """PPO's policy rate: from a tenth of the peak to the peak over ``num_warmup`` iterations (Appendix C.4)."""
    return min(0.1 + 0.9 * iteration / num_warmup, 1.0) if num_warmup else 1.0


def build_optimizer(make: Callable[[Any], Optimizer], parameters: Any, *models: nn.Module) -> Optimizer:
    """The optimizer of a stage, which loads the state of AdamW with 8 or 32 bits.

    Args:
        make: parameters or parameter groups -> optimizer.
        parameters: what it is given.
        models: whose embeddings, heads and norms keep 32-bit state; see ``eight_bit``.
    """
    parameters = list(parameters)
    optimizer: Any = make(parameters)
    if is_eight_bit(optimizer):
        optimizer = make_eight_bit(make, parameters, models)
    if is_eight_bit(optimizer) or isinstance(optimizer, torch.optim.AdamW):
        load = optimizer.load_state_dict

        def load_any(state: dict[str, Any]) -> None:
            load(load_any_state(optimizer, state))
            if getattr(optimizer, "is_paged", False):
                repage(optimizer)

        optimizer.load_state_dict = load_any
    return optimizer


def check_trainer(trainer: Trainer, where: str) -> None:
    """Refuses Trainer settings that hand-made steps would ignore, or do not know.

    Raises:
        ValueError: naming the setting of ours that takes their place.
    """
    problems = []
    if trainer.accumulate_grad_batches != 1:
        problems.append(
            f"trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}: batch sizes are global "
            "here; leave it out and set model.init_args.micro_batch_size to save memory (the result is the same)"
        )
    if trainer.precision in ("16-mixed", "16-true"):
        problems.append(
            f"trainer.precision is {trainer.precision}: float16 needs a loss scale, which clipping and the step here do "
            "not know; set bf16-mixed"
        )
    if trainer.precision == "bf16-true":
        rank_zero_warn(
            f"{where}: trainer.precision is bf16-true: weights and optimizer state in bfloat16 lose updates below 1/256 of a "
            "weight; bf16-mixed keeps float32 weights"
        )
    if trainer.gradient_clip_val:
        problems.append(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}: set model.init_args.max_grad_norm instead"
        )
    if problems:
        raise ValueError(f"{where}: " + "; ".join(problems))


def not_finite_here(tensors: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """Names of the tensors that hold an infinity or NaN in what this process has of them."""
    return [name for name, x in tensors if x is not None and not bool(torch.isfinite(local(x)).all())]


def not_finite(tensors: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """The same on any process; all of them must ask."""
    found = not_finite_here(tensors)
    return list(dict.fromkeys(name for part in of_every_process(found) for name in part))


@torch.no_grad()
def why_not_finite(
    module: LightningModule, losses: Callable[[], Iterable[tuple[str, Tensor]]], what: str = "the loss"
) -> str:
    """What is not finite: weights, the loss (or ``what`` else) of some samples, or the gradients alone."""
    if weights := not_finite((name, p) for name, p in module.named_parameters() if p.requires_grad):
        return f"not finite: weights {shortened(weights)}; the step before was too large: lower the learning rate"
    if frozen := not_finite((name, p) for name, p in module.named_parameters() if not p.requires_grad):
        return f"not finite: frozen weights {shortened(frozen)}, which no step changes: the directory they are from is damaged"
    found = list(losses())
    bad = not_finite(found)
    names = {name for part in of_every_process([name for name, _ in found]) for name in part}
    if len(bad) == len(names) > 1:
        return (
            f"not finite: {what} of every sample of the batch ({shortened(bad)}): the weights are at fault, not the data; "
            "lower the learning rate, and resume from a checkpoint before"
        )
    if bad:
        return f"not finite: {what} of {shortened(bad)}; look at these samples, and at the model's outputs for them"
    gradients = not_finite((name, p.grad) for name, p in module.named_parameters())
    return (
        f"not finite: gradients {shortened(gradients)}, of finite losses; samples: {shortened([name for name, _ in found])}; "
        "lower the learning rate, or look at these samples"
    )


def shortened(names: list[str], num: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:num]) + (f" and {len(names) - num} more" if len(names) > num else "")


def clip_and_step(
    module: LightningModule,
    parameters: Iterable[nn.Parameter],
    max_grad_norm: float | None,
    loss: Tensor,
    losses: Callable[[], Iterable[tuple[str, Tensor]]],
) -> Tensor:
    """Clips by global norm if asked, checks that it is finite, takes the step and clears the gradients.

    Args:
        module: with the optimizer.
        parameters: whose gradients are clipped.
        max_grad_norm: None leaves them as they are.
        loss: of the step, on this process; scalar.
        losses: of each sample of the step and where it is from; asked for only to explain a failure, without gradients.

    Returns:
        The gradient norm before clipping, scalar.

    Raises:
        FloatingPointError: loss or norm is not finite, naming weights, gradients and samples; no step has been taken.
    """
    optimizer = module.optimizers()
    assert not isinstance(optimizer, list)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = full(torch.nn.utils.get_total_norm(gradients))
    loss = sum_over_ranks(module, loss.detach())
    if not (torch.isfinite(norm) and torch.isfinite(loss)):
        raise FloatingPointError(
            f"the loss is {loss.item():.4g} and the gradient norm {norm.item():.4g} at optimizer step {module.global_step}: no "
            "step was taken; " + why_not_finite(module, losses)
        )
    if max_grad_norm is not None:
        scale = max_grad_norm / (norm + 1e-6)
        if scale < 1:
            torch._foreach_mul_([local(gradient) for gradient in gradients], scale)
    optimizer.step()
    optimizer.zero_grad()
    return norm
