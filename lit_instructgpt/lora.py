"""Low-rank adapters (peft): few weights are trained beside a base that is frozen, and that several models can share.

An adapter is in the model itself: every pass of training computes with it, a copy for sampling and every export has it merged
into its weights (``merged``), and a model without one, PPO's reference, can have the same base.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lit_instructgpt.run_seed import seed_of
from lit_instructgpt.sharding import layers

ADAPTER = "adapter"
"""Directory of an adapter within an export."""

BASE = "base.json"
"""In it: where the frozen weights came from, and their hash."""


@dataclass
class LoRA:
    """Adapters on the linear layers of a transformer's blocks.

    Attributes:
        rank: of their product.
        alpha: the product is scaled by alpha / rank.
        targets: last names of the layers that get one; None: all linear layers of the blocks.
        seed: of their start, which changes nothing of the model; None: that of the run (``--seed_everything``).
    """

    rank: int = 16
    alpha: float = 32.0
    targets: list[str] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"lora: rank and alpha must be positive, got {self.rank} and {self.alpha}")


def linear_names(model: nn.Module) -> list[str]:
    """Last names of the linear layers of a transformer's blocks."""
    found = {
        name.rpartition(".")[2]
        for layer in layers(model)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return sorted(found)


def add_adapters(model: Any, lora: LoRA) -> None:
    """Freezes a transformers model and gives it adapters to train; its outputs stay as they are.

    Raises:
        ValueError: no layer has a name of ``targets``.
    """
    known = linear_names(model)
    targets = lora.targets or known
    unknown = sorted(set(targets) - set(known))
    if unknown:
        raise ValueError(f"lora.targets: {', '.join(unknown)}: {type(model).__name__} has {', '.join(known)}")
    from peft import LoraConfig, inject_adapter_in_model  # a second of imports, for those who use it

    model.requires_grad_(False)
    turned = any(isinstance(module, Conv1D) for module in model.modules())  # as GPT-2 stores its matrices
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=0.0, fan_in_fan_out=turned
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(lora.seed))
        inject_adapter_in_model(config, model)


def adapters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Parent, name and layer of everything that has an adapter."""
    for parent in model.modules():
        for name, module in parent.named_children():
            if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
                yield parent, name, module


def has_adapters(model: nn.Module) -> bool:
    """Whether there are any."""
    return next(adapters(model), None) is not None


@torch.no_grad()
def merged(model: Any) -> Any:
    """A plain model whose weights have the adapters in them; all other weights are shared. Itself without adapters."""
    if not has_adapters(model):
        return model
    found = sharing_weights(model)
    for parent, name, layer in list(adapters(found)):
        base = layer.get_base_layer()
        base.weight = nn.Parameter(base.weight + layer.get_delta_weight("default"), requires_grad=False)
        setattr(parent, name, base)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        found.__dict__.pop(attribute, None)
    return found.eval()


def sharing_weights(model: Any) -> Any:
    """A copy of a model whose weights are the same tensors."""
    return copy.deepcopy(model, {id(x): x for x in [*model.parameters(), *model.buffers()]})


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def save_adapter(model: Any, path: Path, base: dict[str, str], also: tuple[str, ...] = ()) -> None:
    """Writes the adapters as peft reads them: ``PeftModel.from_pretrained(BASE, path)``.

    Args:
        model: with adapters.
        path: a new directory.
        base: source of the frozen weights, and its sha256.
        also: modules beside the adapters that were trained: the head of a reward model.
    """
    from peft import LoraConfig

    path.mkdir(parents=True)
    found = list(adapters(model))
    first, names = found[0][2], sorted({name for _, name, _ in found})
    kind = "SEQ_CLS" if also else "CAUSAL_LM"
    config = LoraConfig(
        r=first.r["default"], lora_alpha=first.lora_alpha["default"], target_modules=names, lora_dropout=0.0, task_type=kind,
        fan_in_fan_out=first.fan_in_fan_out, base_model_name_or_path=base["source"], modules_to_save=list(also) or None,
        inference_mode=True,
    )  # fmt: skip
    config.save_pretrained(str(path))
    (path / BASE).write_text(json.dumps(base) + "\n", encoding="utf-8")
    kept = {
        _name_on_disk(name): p.detach().to("cpu").contiguous()
        for name, p in model.named_parameters()
        if ".lora_" in name or name.split(".")[0] in also
    }
    save_file(kept, path / "adapter_model.safetensors")


def _name_on_disk(name: str) -> str:
    return f"base_model.model.{name.replace('.default.', '.')}"


def rests_on(source: str, base: dict[str, str]) -> bool:
    """Whether an export is adapters beside these frozen weights; its ``adapter/`` says so."""
    file = Path(source, ADAPTER, BASE)
    return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["sha256"] == base["sha256"]


@torch.no_grad()
def add_saved_adapters(model: Any, path: Path) -> None:
    """Freezes a model and gives it the adapters that ``save_adapter`` wrote."""
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    add_adapters(model, LoRA(rank=config["r"], alpha=config["lora_alpha"], targets=config["target_modules"]))
    saved = load_file(path / "adapter_model.safetensors")
    for name, p in model.named_parameters():
        if ".lora_" in name:
            p.copy_(saved[_name_on_disk(name)])


def share(model: nn.Module, other: nn.Module) -> None:
    """Gives a model the weights of another of the same kind: the tensors, not their values."""
    theirs = dict(other.named_parameters())
    for name, parameter in list(model.named_parameters()):
        if name in theirs and theirs[name].shape == parameter.shape:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], theirs[name])


def with_own_adapters(model: Any) -> Any:
    """A copy that shares the frozen weights, and has adapters of its own to train, of the same values."""
    found = sharing_weights(model)
    for _, _, layer in list(adapters(found)):
        for pair in (layer.lora_A, layer.lora_B):
            for part in pair.values():
                part.weight = nn.Parameter(part.weight.detach().clone())
    return found


def without_frozen(model: nn.Module, state: dict[str, Any]) -> None:
    """Takes the weights that are not trained out of a state dict."""
    for name in [name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad]:
        state.pop(name, None)
