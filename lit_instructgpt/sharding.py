"""Models cut into pieces over processes (FSDP2), and whole again where that is cheaper.

A sharded model computes in the methods that ``gathers`` marks: inside, its layers are put together one after another. For
many passes without gradients, such as the tokens of a rollout, ``gathered`` puts the whole model together once.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

F = TypeVar("F", bound=Callable[..., Any])

_outlines: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def is_sharded(model: Any) -> bool:
    """Whether a model is in pieces."""
    return isinstance(model, FSDPModule)


def gathers(function: F) -> F:
    """Marks a function of a model, its first argument, that may find it sharded: inside it can be used."""

    @functools.wraps(function)
    def inner(model: Any, *args: Any, **kwargs: Any) -> Any:
        if is_sharded(model):
            return model.compute(function, *args, **kwargs)
        return function(model, *args, **kwargs)

    return inner  # type: ignore[return-value]


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cuts a model into pieces, by the first dimension of every weight: layer by layer, then the rest.

    Args:
        model: with its weights, or on other processes than the first with empty ones of the same shapes.
        mesh: of the processes, one-dimensional.
    """
    _outlines[model] = outline(model)
    for layer in layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)

    def compute(self: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    model.compute = types.MethodType(compute, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "compute")


def layers(model: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer: its longest list of modules."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(([*stack] for stack in stacks), key=len, default=[])


def outline(model: nn.Module) -> nn.Module:
    """The model without its weights: their shapes alone."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    memo |= {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return copy.deepcopy(model, memo)


@torch.no_grad()
def gathered(model: Any, keep: bool = True, device: str | None = None) -> Any:
    """A sharded model as a whole one on this process, for passes without gradients; any other model as it is.

    Every process must call it. Weights are put together one at a time.

    Args:
        model: sharded or not.
        keep: False: this process helps the others, and has None.
        device: of the whole model, that of the pieces by default; ``cpu`` where a device may not hold it.
    """
    if not is_sharded(model):
        return model
    plain = copy.deepcopy(_outlines[model], {id(b): b for b in _outlines[model].buffers()})
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in plain.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, name))
    shapes = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        whole = full(parameter.detach())
        if keep:
            new = nn.Parameter(whole if device is None else whole.to(device), requires_grad=False)
            for module, attribute in places[id(shapes[name])]:
                setattr(module, attribute, new)
    return plain.eval() if keep else None


def full(x: Tensor) -> Tensor:
    """A tensor as a whole; every process must ask for it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: Tensor) -> Tensor:
    """This process's rows of a tensor, or all of it where it is whole; changes to it change the tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def rows_here(x: DTensor) -> tuple[int, int]:
    """First row, and number of rows, of a sharded tensor on this process."""
    mesh, (placement,) = x.device_mesh, x.placements
    if not isinstance(placement, Shard) or placement.dim != 0:
        raise NotImplementedError(f"a tensor is sharded as {placement}: only rows are known here")
    step = -(-x.shape[0] // mesh.size())
    first = min(step * mesh.get_local_rank(), x.shape[0])
    return first, min(step, x.shape[0] - first)


@torch.no_grad()
def fill(target: Tensor, source: Any) -> None:
    """Copies a whole tensor, in memory or on disk, into one that may be sharded.

    Args:
        target: is changed.
        source: a tensor, or anything with ``rows(first, num)``.
    """
    if isinstance(target, DTensor):
        first, num = rows_here(target)
        part = source[first : first + num] if isinstance(source, Tensor) else source.rows(first, num)
        target.to_local().copy_(part)
    else:
        target.copy_(source if isinstance(source, Tensor) else source.rows(0, len(target) if target.ndim else 1))


def like(source: Any, target: Tensor) -> Tensor:
    """A whole tensor, in memory or on disk, sharded as another one of its shape is; whole where that is."""
    found = torch.empty_like(target, dtype=source.dtype)
    fill(found, source)
    return found


def build(
    load: Callable[[], Any],
    mesh: DeviceMesh | None,
    find_out: Callable[[Any], Any],
    remember: Callable[[Any, Any], None],
) -> Any:
    """A model from disk; over several processes the first reads it, and the others receive their pieces.

    No process but the first ever holds a whole one, and the first one at a time.

    Args:
        load: reads the model.
        mesh: of the processes; None: the model stays whole.
        find_out: what only a whole model can tell, in a form that can be sent.
        remember: tells it to the caches of this process.
    """
    if mesh is None:
        return load()
    rank = mesh.get_local_rank()
    model: Any = load() if rank == 0 else None
    group = mesh.get_group()
    told = [outline(model), find_out(model)] if rank == 0 else [None, None]
    torch.distributed.broadcast_object_list(told, src=torch.distributed.get_global_rank(group, 0), group=group)
    if rank != 0:
        model = told[0]
        room(model)
    remember(model, told[1])
    whole = {name: p.detach() for name, p in model.named_parameters()} if rank == 0 else {}
    shard(model, mesh)
    for name, parameter in model.named_parameters():
        piece = whole.pop(name) if rank == 0 else torch.empty(parameter.shape, dtype=parameter.dtype)
        scattered = distribute_tensor(piece.to(mesh.device_type), mesh, [Shard(0)])
        parameter.detach().to_local().copy_(scattered.to_local())
    return model


def room(model: nn.Module) -> None:
    """Gives an outline weights whose values do not matter; memory is taken where it is written."""
    new: dict[int, nn.Parameter] = {}
    for module, name, parameter in list(_own_parameters(model)):
        if id(parameter) not in new:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype)
            new[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        setattr(module, name, new[id(parameter)])


def _own_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield module, name, parameter
