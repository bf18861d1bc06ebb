"""PPO's four models, from disk: whole, in pieces, or as adapters beside frozen bases that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lit_instructgpt.inference import build_policy, build_scalar_model
from lit_instructgpt.lora import add_adapters, sharing_weights
from lit_instructgpt.models import load_policy
from lit_instructgpt.scalar_model import ScalarModel

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule


def load_models(module: PPOModule, mesh: DeviceMesh | None) -> tuple[Any, Any, ScalarModel, ScalarModel | None]:
    """Policy, reference, value model and reward model (None with a ``reward_fn``); the frozen ones are."""

    def scalar(source: str, need_head: bool = False) -> ScalarModel:
        generator = torch.Generator().manual_seed(module.ppo.seed)
        return ScalarModel.load(source, module.tokenizer, generator=generator, need_head=need_head)

    ref = build_policy(lambda: load_policy(module.policy_source, module.tokenizer), mesh)
    reward_source, reward = module.reward_source, None
    if reward_source is not None:
        reward = build_scalar_model(lambda: scalar(reward_source, need_head=True), mesh).eval().requires_grad_(False)
    if module.ppo.lora is None or mesh is not None:
        policy = build_policy(lambda: with_adapters(module, load_policy(module.policy_source, module.tokenizer)), mesh)
        value = build_scalar_model(lambda: with_adapters(module, scalar(module.value_source)), mesh)
    else:
        policy = with_adapters(module, sharing_weights(ref).train())
        if reward is not None and module.value_source == reward_source:
            value = sharing_weights(reward).train()
        else:
            value = scalar(module.value_source)
            if module.value_source == module.policy_source:
                share(value.model.base_model, ref.base_model)
        value = with_adapters(module, value)
    return policy, ref.eval().requires_grad_(False), value, reward


def with_adapters(module: PPOModule, model: Any) -> Any:
    """Adapters to train on a policy or value model, and a head of its own on the latter; as it is without LoRA."""
    if module.ppo.lora is None:
        return model
    if not isinstance(model, ScalarModel):
        add_adapters(model, module.ppo.lora)
        return model
    add_adapters(model.model, module.ppo.lora)
    model.model.score.weight = nn.Parameter(model.model.score.weight.detach().clone())
    return model


def share(model: nn.Module, other: nn.Module) -> None:
    """Gives a model the weights of another of the same kind: the tensors, not their values."""
    theirs = dict(other.named_parameters())
    for name, parameter in list(model.named_parameters()):
        if name in theirs and theirs[name].shape == parameter.shape:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], theirs[name])
