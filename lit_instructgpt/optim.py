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
    """The optimizer of a stage; bitsandbytes' keep 32-bit state for the embeddings of ``models``.

    8-bit state is unstable there (bitsandbytes#11). Small tensors, the norms among them, stay in 32 bits by
    bitsandbytes' own rule.

    Args:
        make: parameters or parameter groups -> optimizer.
        parameters: what it is given.
        models: whose embeddings to except.
    """
    optimizer = make(parameters)
    if type(optimizer).__module__.startswith("bitsandbytes"):
        import bitsandbytes as bnb

        manager = bnb.optim.GlobalOptimManager.get_instance()
        for model in models:
            for module in model.modules():
                if isinstance(module, nn.Embedding):
                    manager.register_module_override(module, "weight", {"optim_bits": 32})
    return optimizer


def check_trainer(trainer: Trainer, where: str, micro_batch_tokens: int | None = None) -> None:
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
    if micro_batch_tokens is not None and trainer.world_size > 1:
        problems.append(
            f"micro_batch_tokens is {micro_batch_tokens} on {trainer.world_size} devices, which would take different numbers "
            "of backward passes and wait for one another: set micro_batch_size instead"
        )
    if trainer.gradient_clip_val:
        problems.append(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}: set model.init_args.max_grad_norm instead"
        )
    if problems:
        raise ValueError(f"{where}: " + "; ".join(problems))


def sum_over_ranks(module: LightningModule, x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, elementwise; the tensor itself on one."""
    if module.trainer.world_size == 1:
        return x
    gathered = module.all_gather(x)
    assert isinstance(gathered, Tensor)
    return gathered.sum(0)


def clip_and_step(module: LightningModule, parameters: Iterable[nn.Parameter], max_grad_norm: float | None) -> Tensor:
    """Clips by global norm if asked, checks that it is finite, takes the step and clears the gradients.

    Returns:
        The gradient norm before clipping, scalar.

    Raises:
        FloatingPointError: the norm is not finite; no step has been taken.
    """
    optimizer = module.optimizers()
    assert not isinstance(optimizer, list)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not torch.isfinite(norm):
        raise FloatingPointError(
            f"the gradient norm is {norm.item()} at optimizer step {module.global_step}: no step was taken; "
            "lower the learning rate, or look at the last batch's data"
        )
    if max_grad_norm is not None:
        scale = max_grad_norm / (norm + 1e-6)
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
    optimizer.step()
    optimizer.zero_grad()
    return norm
