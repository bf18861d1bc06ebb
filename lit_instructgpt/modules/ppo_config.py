"""Hyperparameters of PPO-ptx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lit_instructgpt.engines import EngineName
from lit_instructgpt.kl_control import AdaptiveKL
from lit_instructgpt.lora import LoRA


@dataclass
class PPOConfig:
    """Hyperparameters of PPO-ptx; the defaults are the paper's where it states them.

    Attributes:
        kl_coef: beta, the per-token KL penalty.
        adaptive_kl: control kl_coef towards a target KL; the paper keeps it fixed.
        ptx_coef: gamma, the weight of the pretraining gradient; 0 is plain PPO.
        temperature: of sampling, and of all log-probabilities.
        max_new_tokens: a response is cut here if it has not ended.
        gamma: discount.
        gae_lambda: lambda of the advantage estimate (not printed in the paper).
        clip_eps: of the policy ratio.
        value_clip_eps: of the value's change since the rollout.
        vf_coef: weight of the value loss (its network is separate: it scales that gradient alone).
        num_epochs: passes over the episodes of an iteration.
        minibatch_size: episodes per optimizer step, over all devices.
        micro_batch_size: episodes per backward pass; saves memory, does not change the result.
        micro_batch_tokens: tokens per backward pass; as well, or instead.
        rollout_batch_size: responses sampled at once on each device; None: all. Saves the memory of their keys and values; does
            not change the result.
        packing: put several episodes into a row, without padding; changes no result. Architectures where it would are
            told from the others, with a warning.
        gradient_checkpointing: of policy and value model: keep the inputs of the layers alone for the backward pass, which
            takes less memory and computes them again; changes no result.
        torch_compile: compile the layers of policy and value model for the update (torch.compile): a minute at the start, and
            on a GPU faster steps; changes results by their rounding.
        lora: train adapters: policy and reference share one frozen base, value and reward model another (their own, if they
            come from one directory), and memory is that of two models, not four.
        frozen_dtype: of the matrices of reference and reward model. float32: they score as the training computes; bfloat16:
            in it also where the training is in float32; int8, nf4: kept in 8 or 4 bits (bitsandbytes), a quarter or an eighth
            of the memory, which moves scores and KL by their rounding (docs/scale.md). The last two go neither with lora nor with
            fsdp2.
        engine: what samples: own, transformers' generate (the reference, slower) or its continuous_batching.
        sampler_tolerance: in nats; where the log-probabilities that sampling saw agree so well with the training
            forward pass on a few episodes, they serve for all, which saves a pass. 0 never takes them. None: 1e-3 in
            float32 and 0.5 under bf16 autocast, whose rounding makes that of a rare token.
        value_lr: learning rate of the value model; the policy's is the optimizer's own.
        num_warmup_iterations: the policy's rate starts at a tenth and rises over these.
        ema_decay: moving average of the policy's weights, which is what is validated and exported; None: none.
        missing_eos_penalty: subtracted from the score of a response that was cut before its EOS.
        max_grad_norm: clip the gradient's global norm; the paper does not say that it did.
        seed: of sampling, the order of episodes and a new value head; None: that of the run (``--seed_everything``).
    """

    kl_coef: float = 0.02
    adaptive_kl: AdaptiveKL | None = None
    ptx_coef: float = 27.8
    temperature: float = 1.0
    max_new_tokens: int = 256
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    value_clip_eps: float = 0.2
    vf_coef: float = 0.1
    num_epochs: int = 1
    minibatch_size: int = 64
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    rollout_batch_size: int | None = None
    packing: bool = True
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    lora: LoRA | None = None
    frozen_dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"
    engine: EngineName = "own"
    sampler_tolerance: float | None = None
    value_lr: float = 9e-6
    num_warmup_iterations: int = 10
    ema_decay: float | None = 0.992
    missing_eos_penalty: float = 0.0
    max_grad_norm: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"ppo.{name} must be positive, got {getattr(self, name)}"
            for name in (
                "temperature",
                "max_new_tokens",
                "num_epochs",
                "minibatch_size",
                "value_lr",
                "clip_eps",
            )
            if getattr(self, name) <= 0
        ]
        problems += [
            f"ppo.{name} must not be negative, got {getattr(self, name)}"
            for name in ("kl_coef", "ptx_coef", "missing_eos_penalty", "num_warmup_iterations", "sampler_tolerance")
            if (getattr(self, name) or 0) < 0
        ]
        problems += [
            f"ppo.{name} must be null or positive, got {getattr(self, name)}"
            for name in ("micro_batch_size", "micro_batch_tokens", "rollout_batch_size")
            if (getattr(self, name) or 1) < 1
        ]
        problems += [
            f"ppo.{name} must be between 0 and 1, got {getattr(self, name)}"
            for name in ("gamma", "gae_lambda")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.lora is not None and self.frozen_dtype in ("int8", "nf4"):
            problems.append(
                f"ppo.frozen_dtype: {self.frozen_dtype} does not go with ppo.lora, whose frozen base is also that of the models "
                "that are trained: set it to float32 or bfloat16"
            )
        if problems:
            raise ValueError("; ".join(problems))
