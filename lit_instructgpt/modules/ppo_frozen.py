"""In which dtype PPO computes without gradients, and its frozen models."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

from lit_instructgpt.inference import Quantized, freeze_matrices, whole
from lit_instructgpt.scalar_model import ScalarModel
from lit_instructgpt.sharding import is_sharded

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule

ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Nats by which two passes over one sequence may differ in the log-probability of a token, and be the same policy's."""


def arithmetic(module: PPOModule) -> torch.dtype:
    """Of matrix products without gradients."""
    return torch.bfloat16 if module.trainer.precision == "bf16-mixed" else torch.float32


def rounding(module: PPOModule) -> float:
    """See ``ROUNDING``."""
    return ROUNDING[arithmetic(module)]


def freeze_models(module: PPOModule) -> None:
    """Brings reference and reward model into the dtype or the bits in which they score, once.

    Raises:
        ValueError: they have been in another one, and have lost its digits.
    """
    asked = module.ppo.frozen_dtype
    kept: torch.dtype | Quantized = arithmetic(module)
    if asked == "bfloat16":
        kept = torch.bfloat16
    elif asked != "float32":
        kept = asked
    if module.frozen_in not in (None, kept):
        raise ValueError(
            f"the frozen models are in {module.frozen_in} from an earlier run: make a new PPOModule for {kept}"
        )
    if module.frozen_in is None:
        for model in [module.ref] if module.reward_fn is not None else [module.ref, module.reward_model]:
            if not is_sharded(model) and module.ppo.lora is None:  # whose base is shared
                _freeze(model, kept)
    module.frozen_in = kept


def frozen(module: PPOModule, model: Any) -> Any:
    """The reference or reward model as it scores: a sharded one is put together, for as long as the caller keeps it."""
    if not is_sharded(model):
        return model
    assert module.frozen_in is not None
    found = whole(model)
    _freeze(found, module.frozen_in)
    return found


def _freeze(model: Any, kept: torch.dtype | Quantized) -> None:
    freeze_matrices(model.model if isinstance(model, ScalarModel) else model, kept)


def frozen_precision(module: PPOModule) -> Any:
    """Autocast for the passes of reference and reward model, if they are asked for in bfloat16."""
    asked = module.ppo.frozen_dtype == "bfloat16"
    return torch.autocast(module.device.type, torch.bfloat16, cache_enabled=False) if asked else nullcontext()
