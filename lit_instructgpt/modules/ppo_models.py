"""PPO's four models, from disk: whole, in pieces, or as adapters beside frozen bases that they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lit_instructgpt.inference import build_policy, build_scalar_model
from lit_instructgpt.lora import (
    ADAPTER,
    add_adapters,
    add_saved_adapters,
    has_adapters,
    rests_on,
    share,
    sharing_weights,
    with_own_adapters,
)
from lit_instructgpt.models import load_policy
from lit_instructgpt.scalar_model import ScalarModel

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule


def load_models(module: PPOModule, mesh: DeviceMesh | None) -> tuple[Any, Any, ScalarModel, ScalarModel | None]:
    """Policy, reference, value model and reward model (None with a ``reward_fn``); the frozen ones are."""

    def scalar(source: str, need_head: bool = False) -> ScalarModel:
        generator = torch.Generator().manual_seed(module.seed)
        return ScalarModel.load(source, module.tokenizer, generator=generator, need_head=need_head)

    ref = build_policy(lambda: load_policy(module.policy_source, module.tokenizer), mesh)
    reward_source, reward = module.reward_source, None
    one_base = on_one_base(module)

    def adapted(base: Any) -> ScalarModel:
        """The reward model as what it was trained as: adapters beside the policy's start."""
        assert reward_source is not None
        found = scalar(reward_source, need_head=True)
        share(found.model.base_model, base.base_model)
        add_saved_adapters(found.model, Path(reward_source, ADAPTER))
        return found

    def value_model() -> ScalarModel:
        """From disk, with its adapters; what it starts from does not depend on the number of processes."""
        if one_base and module.value_source == reward_source:
            return with_adapters(module, adapted(load_policy(module.policy_source, module.tokenizer)))
        return with_adapters(module, scalar(module.value_source))

    if reward_source is not None:
        if one_base and mesh is None:
            reward = adapted(ref)
        else:
            reward = build_scalar_model(lambda: scalar(reward_source, need_head=True), mesh)
        reward = reward.eval().requires_grad_(False)
    if module.ppo.lora is None or mesh is not None:
        policy = build_policy(lambda: with_adapters(module, load_policy(module.policy_source, module.tokenizer)), mesh)
        value = build_scalar_model(value_model, mesh)
    else:
        policy = with_adapters(module, sharing_weights(ref).train())
        if reward is not None and module.value_source == reward_source:
            value = (with_own_adapters if one_base else sharing_weights)(reward).train()
        else:
            value = scalar(module.value_source)
            if module.value_source == module.policy_source:
                share(value.model.base_model, ref.base_model)
        value = with_adapters(module, value)
    return policy, ref.eval().requires_grad_(False), value, reward


def on_one_base(module: PPOModule) -> bool:
    """Whether the reward model was trained as adapters beside the policy's own start: then all four models have its weights."""
    source = module.reward_source
    return module.ppo.lora is not None and source is not None and rests_on(source, module.frozen_sources["policy"])


def with_adapters(module: PPOModule, model: Any) -> Any:
    """Adapters to train on a policy or value model, and a head of its own on the latter; as it is without LoRA."""
    if module.ppo.lora is None:
        return model
    if not isinstance(model, ScalarModel):
        add_adapters(model, module.ppo.lora)
        return model
    if not has_adapters(model):  # those of the reward model it starts from
        add_adapters(model.model, module.ppo.lora)
    model.model.score.weight = nn.Parameter(model.model.score.weight.detach().clone())
    return model
