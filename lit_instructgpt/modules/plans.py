"""The memory plan of each stage: which models it holds, and what comes in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import Optimizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from lit_instructgpt.batch import tokens_per_pass
from lit_instructgpt.eight_bit import is_eight_bit
from lit_instructgpt.inference import BITS, can_prepack
from lit_instructgpt.lora import LoRA, linear_names, rests_on
from lit_instructgpt.memory_plan import (
    LIBRARIES,
    LOADING,
    Plan,
    activation_bytes,
    available_bytes,
    cache_bytes,
    check_fits,
    count_weights,
    largest_batch,
    logit_bytes,
    resident_bytes,
    without_storage,
)
from lit_instructgpt.models import FreshModel, ModelSource, read_config
from lit_instructgpt.sharding import layers
from lit_instructgpt.strategy import mesh_of

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule
    from lit_instructgpt.modules.ranking_rm import RankingRM
    from lit_instructgpt.modules.sft import SFT


def config_of(source: ModelSource, tokenizer: Any) -> Any:
    """The config of a model that is not loaded."""
    if isinstance(source, FreshModel):
        kwargs = dict(source.config)
        return AutoConfig.for_model(kwargs.pop("model_type"), vocab_size=len(tokenizer), **kwargs)
    return read_config(source)


def has_eight_bits(make: Callable[[Any], Optimizer]) -> bool:
    """Whether the optimizer's state is kept in 8 bits."""
    return is_eight_bit(make([nn.Parameter(torch.zeros(4096))]))


def state_bytes(make: Callable[[Any], Optimizer]) -> float:
    """Bytes of optimizer state per weight."""
    weight = nn.Parameter(torch.zeros(4096))
    optimizer = make([weight])
    if is_eight_bit(optimizer):
        return 2 * (1 + 4 / 256)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kept = [x for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor) and x.shape == weight.shape]
    return float(sum(x.element_size() for x in kept))


@dataclass(frozen=True)
class Change:
    """What could be set otherwise.

    Attributes:
        eight_bit: the optimizer's state in 8 bits.
        checkpointing: of activations.
        shards: devices that share the models; None: as the run has it.
        lora: adapters in place of all weights.
    """

    eight_bit: bool = False
    checkpointing: bool = False
    shards: int | None = None
    lora: LoRA | None = None


WORKSPACE = 4.5
"""Float32 copies of the largest matrix that bitsandbytes makes on a CPU while it updates one with 8-bit state (measured)."""

FRAGMENTS = 0.25
"""Of the gradients, on a CPU with checkpointing: what a layer that is computed again frees lies in pieces between gradients that
stay (measured at 30 and 415 million parameters)."""

AS_IT_IS = Change()
ADVICE = {
    "--config configs/optim/adamw8bit.yaml": Change(eight_bit=True),
    "gradient_checkpointing: true": Change(checkpointing=True),
    "8-bit AdamW and gradient checkpointing": Change(eight_bit=True, checkpointing=True),
    "lora: {rank: 16}": Change(lora=LoRA()),
    "--config configs/hardware/fsdp.yaml on 2 devices": Change(shards=2),
    "--config configs/hardware/fsdp.yaml on 8 devices": Change(shards=8),
    "8-bit AdamW, gradient checkpointing and fsdp.yaml on 8 devices": Change(True, True, 8),
}
"""What takes less memory, in the words of a user."""


class Sizes:
    """What the parts of a plan are made of.

    Args:
        module: of any stage, attached to its trainer.
        change: of its settings.
        checkpointing: of activations, by its settings.
    """

    def __init__(self, module: Any, change: Change, checkpointing: bool) -> None:
        self.checkpointing = checkpointing or change.checkpointing
        self.trainer, self.device, self.change = module.trainer, module.trainer.strategy.root_device, change
        mesh = mesh_of(self.trainer)
        self.shards = change.shards or (1 if mesh is None else mesh.size())
        self.half = self.trainer.precision == "bf16-mixed"
        self.entry = 2 if self.trainer.precision == "bf16-true" else 4
        self.autocast = torch.bfloat16 if self.half else None
        cpu = self.device.type == "cpu"
        self.plan = Plan(base=resident_bytes() + LIBRARIES if cpu else 0, reuses=not cpu)

    def weights(self, config: Any, auto: Any) -> int:
        """Entries of a model."""
        return count_weights(without_storage(config, auto)[0])

    def adapters(self, config: Any, auto: Any, lora: LoRA) -> int:
        """Entries of its adapters."""
        model, _ = without_storage(config, auto)
        targets = set(lora.targets or linear_names(model))
        linear = (m for layer in layers(model) for n, m in layer.named_modules() if n.rpartition(".")[2] in targets)
        return sum(lora.rank * sum(module.weight.shape) for module in linear)

    def frozen(self, config: Any, auto: Any, num: int, entry: int, kept: str) -> float:
        """Bytes of the weights of a frozen model, of which matrices may be in few bits."""
        if self.shards > 1:
            return 4 * num / self.shards
        if kept not in BITS:
            return entry * num
        model, _ = without_storage(config, auto)
        linear = (m for layer in layers(model) for m in layer.modules() if isinstance(m, nn.Linear | Conv1D))
        matrices = sum(m.weight.numel() for m in linear)
        return 4 * (num - matrices) + BITS[kept] / 8 * matrices

    def largest(self, config: Any, auto: Any) -> int:
        """Entries of the largest matrix in its layers."""
        model, _ = without_storage(config, auto)
        return max((p.numel() for layer in layers(model) for p in layer.parameters()), default=0)

    def trained(self, name: str, num: int, make: Callable[[Any], Optimizer], frozen: int = 0, largest: int = 0) -> None:
        """Weights, gradients and optimizer state of a model that is trained, and the weights beside them that are not.

        Args:
            name: of the model.
            num: entries that are trained.
            make: the optimizer.
            frozen: entries that are not.
            largest: entries of the largest matrix that is trained.
        """
        self.plan.add(name, "weights", self.entry * (num + frozen) / self.shards)
        state = 2.03 if self.change.eight_bit else state_bytes(make) * self.entry / 4
        self.plan.add(name, "optimizer", state * num / self.shards)
        if self.device.type == "cpu" and largest and (self.change.eight_bit or has_eight_bits(make)):
            self.plan.add(name, "workspace", WORKSPACE * 4 * largest / self.shards, "update")
        gradients = self.entry * num / self.shards
        self.plan.add(name, "gradients", gradients, "update")
        if self.device.type == "cpu" and self.checkpointing:
            self.plan.add(name, "fragments", FRAGMENTS * gradients, "update")

    def in_pieces(self, name: str, config: Any, auto: Any, num: int) -> None:
        """Of a model that devices share: the whole while it is loaded, and what is put together for a pass.

        That is everything outside of the layers with its gradient, the layer at work with its gradient, and the next.
        """
        if self.shards == 1:
            return
        if self.device.type == "cpu":  # elsewhere it is in the memory of the machine
            self.plan.add(name, "whole", 4 * num, LOADING)
        model, _ = without_storage(config, auto)
        entries = [count_weights(layer) for layer in layers(model)]
        together = 2 * (num - sum(entries)) + 3 * max(entries, default=0)
        self.plan.add(name, "gathered", self.entry * together, "update")

    def passing(self, name: str, config: Any, num_tokens: int, width: int, num_logits: int, num: int) -> None:
        """One forward and backward pass."""
        kept = self.activations(config, num_tokens, width)
        self.plan.add(name, "activations", kept, "update")
        if num_logits:
            self.plan.add(name, "logits", logit_bytes(config, num_logits), "update")
        if self.half:
            self.plan.add(name, "copy", self.cast(config if num_logits else None, num), "update")

    def activations(self, config: Any, num_tokens: int, width: int) -> int:
        """Bytes that a pass keeps for its backward pass."""
        return activation_bytes(config, num_tokens, width, self.autocast, self.checkpointing, self.device.type)

    def cast(self, config: Any, num: int) -> int:
        """Bytes of matrices that autocast keeps cast until a pass is over, beside those that are among its activations.

        On a CPU the two were measured to lie beside one another; elsewhere the vocabulary's alone is beside them.

        Args:
            config: of a model with a vocabulary head, or None.
            num: entries of its weights.
        """
        if self.device.type == "cpu":
            return 2 * num
        return 0 if config is None else 2 * config.vocab_size * config.hidden_size


def pass_tokens(device: torch.device, total: int, longest: int, tokens: int | None, sequences: int | None) -> int:
    """Tokens of the largest pass of a batch."""
    limit = min(x for x in (tokens, tokens_per_pass(device)) if x is not None)
    if sequences is not None:
        limit = min(limit, sequences * longest)
    return min(max(limit, longest), total)


def plan_sft(module: SFT, change: Change = AS_IT_IS) -> Plan:
    """Of supervised fine-tuning."""
    sizes = Sizes(module, change, module.gradient_checkpointing)
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    config = config_of(module.source, module.tokenizer)
    num = sizes.weights(config, AutoModelForCausalLM)
    lora = change.lora or module.lora
    if lora is None:
        sizes.trained("policy", num, module.optimizer, largest=sizes.largest(config, AutoModelForCausalLM))
    else:
        sizes.trained("policy", sizes.adapters(config, AutoModelForCausalLM, lora), module.optimizer, num)
    sizes.in_pieces("policy", config, AutoModelForCausalLM, num)
    items = [data.train_items[i] for i in data.order()(0)]  # text in its share of an epoch
    lengths = [len(item.ids) for item in items]
    share = sum(len(item.ids) - item.num_prompt for item in items) / max(sum(lengths), 1)
    total = largest_batch(lengths, data.batch_size // module.trainer.world_size)
    tokens = pass_tokens(sizes.device, total, max(lengths), module.micro_batch_tokens, module.micro_batch_size)
    sizes.passing("policy", config, tokens, max(lengths), int(share * tokens), num)
    return sizes.plan


def plan_rm(module: RankingRM, change: Change = AS_IT_IS) -> Plan:
    """Of the reward model."""
    sizes = Sizes(module, change, module.gradient_checkpointing)
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    config = config_of(module.source, module.tokenizer)
    num = sizes.weights(config, AutoModel)
    lora = change.lora or module.lora
    if lora is None:
        sizes.trained("reward_model", num, module.optimizer, largest=sizes.largest(config, AutoModel))
    else:
        sizes.trained("reward_model", sizes.adapters(config, AutoModel, lora), module.optimizer, num)
    sizes.in_pieces("reward_model", config, AutoModel, num)
    units = [item.num_prompt + sum(len(ids) - item.num_prompt for ids in item.ids) for item in data.train_items]
    total = largest_batch(units, data.batch_size // module.trainer.world_size)
    if module.micro_batch_size is not None:
        total = min(total, module.micro_batch_size * max(units))
    if module.micro_batch_tokens is not None:
        total = min(total, max(module.micro_batch_tokens, max(units)))
    sizes.passing("reward_model", config, total, max(units), 0, num)
    return sizes.plan


def plan_ppo(module: PPOModule, change: Change = AS_IT_IS) -> Plan:
    """Of PPO: the models are all there; rollout, scoring and update come in turn."""
    data, ppo = module.trainer.datamodule, module.ppo  # type: ignore[attr-defined]
    sizes = Sizes(module, change, ppo.gradient_checkpointing)
    config = config_of(module.policy_source, module.tokenizer)
    value = config_of(module.value_source, module.tokenizer)
    num, num_value = sizes.weights(config, AutoModelForCausalLM), sizes.weights(value, AutoModel)
    lora = change.lora or ppo.lora
    if lora is None:
        larger = (config, AutoModelForCausalLM) if num >= num_value else (value, AutoModel)
        sizes.trained("policy", num, module.optimizer, largest=sizes.largest(*larger))  # one matrix after the other
        sizes.trained("value_model", num_value, module.optimizer)
    else:
        whole = sizes.shards == 1  # pieces share no base
        shared = module.value_source in (module.policy_source, module.reward_source)
        own = 0 if whole and shared else num_value
        num_adapters = sizes.adapters(config, AutoModelForCausalLM, lora)
        sizes.trained("policy", num_adapters, module.optimizer, 0 if whole else num)
        sizes.trained("value_model", sizes.adapters(value, AutoModel, lora), module.optimizer, own)
        sizes.plan.add("policy", "copy", 4 * num, "rollout")  # the weights with the adapters in them
    sizes.in_pieces(
        "policy" if num >= num_value else "value_model",
        *((config, AutoModelForCausalLM, num) if num >= num_value else (value, AutoModel, num_value)),
    )  # one after the other: the larger counts
    frozen = 4 if lora is not None else 2 if ppo.frozen_dtype == "bfloat16" or sizes.half else 4
    sizes.plan.add("ref", "weights", sizes.frozen(config, AutoModelForCausalLM, num, frozen, ppo.frozen_dtype))
    entries = 0
    if module.reward_source is not None:
        reward = config_of(module.reward_source, module.tokenizer)
        entries = sizes.weights(reward, AutoModel)
        if lora is not None and sizes.shards == 1 and rests_on(module.reward_source, module.frozen_sources["policy"]):
            entries = 0  # they are adapters beside the policy's base
        kept = sizes.frozen(reward, AutoModel, entries, frozen, ppo.frozen_dtype)
        sizes.plan.add("reward_model", "weights", kept)
    if ppo.ema_decay is not None:
        averaged = num if lora is None else num_adapters
        sizes.plan.add("policy", "moving average", 4 * averaged / sizes.shards)
    copied = 2 if sizes.half else 4
    if sizes.shards > 1:  # put together in float32, and copied in the dtype of sampling
        sizes.plan.add("policy", "gathered", 4 * num, "rollout")
        sizes.plan.add("run", "gathered", 4 * max(num, entries), "scoring")  # reference and reward model in turn
    if sizes.half or can_prepack(sizes.device, torch.float32):
        sizes.plan.add("policy", "copy", copied * num, "rollout")
    episodes = min(data.batch_size // module.trainer.world_size, ppo.rollout_batch_size or data.batch_size)
    longest = max(len(item.ids) for item in data.train_items) + ppo.max_new_tokens
    sizes.plan.add("policy", "cache", cache_bytes(config, episodes, longest, copied), "rollout")
    tokens = ppo.micro_batch_tokens or (tokens_per_pass(sizes.device) if ppo.micro_batch_size is None else 1 << 40)
    total = ppo.minibatch_size // module.trainer.world_size * longest
    tokens = min(total, max(tokens, longest), (ppo.micro_batch_size or 1 << 40) * longest)
    responses = int(tokens * ppo.max_new_tokens / longest)
    most = max(
        sizes.activations(config, tokens, longest) + logit_bytes(config, responses),
        sizes.activations(value, tokens, longest),
    )
    if data.text_items:
        text = max(len(item.ids) for item in data.text_items)
        most = max(
            most,
            sizes.activations(config, max(tokens, text), text) + logit_bytes(config, max(tokens, text)),
        )
    sizes.plan.add("run", "activations", most, "update")
    if sizes.half:
        sizes.plan.add("run", "copy", sizes.cast(config, max(num, num_value)), "update")
    return sizes.plan


def announce(module: Any, make: Callable[[Any, Change], Plan]) -> None:
    """Prints the plan of a training run before anything is loaded, and refuses one that does not fit.

    Raises:
        MemoryError: with the figures, and what would fit.
    """
    trainer = module._trainer
    if trainer is None or trainer.state.fn != "fit":
        return
    try:
        plan = make(module, AS_IT_IS)
    except Exception as error:  # of a family that does not run without storage: no reason not to train it
        rank_zero_warn(f"no memory plan for {type(module).__name__}: {type(error).__name__}: {error}")
        return
    rank_zero_info(plan.table())
    device = trainer.strategy.root_device
    own = resident_bytes() if device.type == "cpu" else 0
    beside = trainer.num_devices if device.type == "cpu" else 1  # processes that share the machine's memory
    fresh = isinstance(getattr(module, "source", None), FreshModel)
    options = (
        (words, replace(make(module, change), base=plan.base))
        for words, change in ADVICE.items()
        if not (fresh and change.lora) and not (device.type == "cpu" and change.shards)
    )
    check_fits(plan, available_bytes(device) // beside + own, options)
