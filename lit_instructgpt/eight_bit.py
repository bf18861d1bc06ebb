"""AdamW with 8-bit state (bitsandbytes): what stays in 32 bits, on pieces of weights, and from and to any other state.

bitsandbytes keeps both moments as bytes, in blocks of 256 entries of a tensor laid end to end, each block with its own scale.
Sharded weights have their blocks in each process's rows, so that at another number of processes, or in plain AdamW, the
moments are computed from them and, where 8 bits are asked for again, rounded anew: by at most ``ROUNDING`` of the largest
entry of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_instructgpt.checkpoints.state import PerProcess, Stored
from lit_instructgpt.sharding import like, local, rows_here

BLOCK = 256
ROUNDING = 0.02
"""Of the largest entry of a block, by which an entry of the first moment may be off after it was rounded to 8 bits."""

MOMENTS = {"exp_avg": "1", "exp_avg_sq": "2"}
"""AdamW's names -> bitsandbytes' numbers."""


def is_eight_bit(optimizer: Optimizer) -> bool:
    """Whether it is one of bitsandbytes'."""
    return any(kind.__module__.startswith("bitsandbytes") for kind in type(optimizer).__mro__)


def kept_in_32_bits(models: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Embeddings, heads and everything with one dimension: in 8 bits they are unstable (bitsandbytes#11), and norms small."""
    for model in models:
        yield from (p for p in model.parameters() if p.ndim < 2)
        for module in model.modules():
            find_head: Any = getattr(module, "get_output_embeddings", lambda: None)
            head = find_head()
            for kept in (module if isinstance(module, nn.Embedding) else None, head, getattr(module, "score", None)):
                if isinstance(kept, nn.Module) and isinstance(getattr(kept, "weight", None), Tensor):
                    yield kept.weight  # type: ignore[misc]


def make_eight_bit(make: Callable[[Any], Optimizer], parameters: Any, models: Iterable[nn.Module]) -> Any:
    """The optimizer, on this process's rows of sharded weights.

    Args:
        make: parameters or groups of them -> optimizer.
        parameters: what it is given.
        models: with what is to be kept in 32 bits.
    """
    groups = list(parameters)
    if not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    kept = {id(p) for p in kept_in_32_bits(models)}
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    own_groups = []
    for group in groups:
        own = []
        for p in group["params"]:
            pairs.append((nn.Parameter(local(p.detach())) if isinstance(p, DTensor) else p, p))
            own.append(pairs[-1][0])
        own_groups.append({**group, "params": own})
    optimizer: Any = make(own_groups)
    if getattr(optimizer, "is_paged", False) and any(own is not p for own, p in pairs):
        raise NotImplementedError(
            f"{type(optimizer).__name__} does not go with fsdp2, whose pieces are small: take bitsandbytes.optim.AdamW8bit"
        )
    exact = {id(own) for own, p in pairs if id(p) in kept}
    get_config = optimizer.get_config

    def with_exceptions(group_number: int, number: int, group: dict[str, Any]) -> Any:
        config, own = get_config(group_number, number, group), group["params"][number]
        whole = optimizer.sharded.get(id(own))
        small = whole is not None and smallest_piece(whole) < config["min_8bit_size"]  # so on every process, or on none
        return {**config, "optim_bits": 32} if id(own) in exact or small else config

    optimizer.get_config = with_exceptions
    optimizer.sharded = {id(own): p for own, p in pairs if own is not p}
    if optimizer.sharded:

        def take_gradients(*_: Any) -> None:
            for own, p in pairs:
                own.grad = None if p.grad is None or not own.numel() else local(p.grad)

        def forget_gradients(*_: Any) -> None:
            for own, p in pairs:
                own.grad = p.grad = None

        optimizer.register_step_pre_hook(take_gradients)
        optimizer.register_step_post_hook(forget_gradients)
    optimizer.register_step_pre_hook(make_state)
    return optimizer


def make_state(optimizer: Any, *_: Any) -> None:
    """Makes the state of all parameters at once, before the first update.

    Made one by one between the updates' large temporary copies, it would lie scattered among them, and what they free could
    not be used again: on a CPU that took as much memory as the state itself.
    """
    optimizer.check_overrides()
    for number, group in enumerate(optimizer.param_groups):
        for index, p in enumerate(group["params"]):
            if p.grad is not None and not optimizer.state[p]:
                optimizer.init_state(group, p, number, index)


def smallest_piece(x: DTensor) -> int:
    """Entries of the smallest piece of a sharded tensor that has any."""
    num_rows, num_devices = x.shape[0], x.device_mesh.size()
    height = -(-num_rows // num_devices)
    last = num_rows - height * (-(-num_rows // height) - 1)
    return last * (x.numel() // num_rows)


def repage(optimizer: Any) -> None:
    """Puts state that was read from a checkpoint back into pages that the CPU can take: loading makes plain tensors of it."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            entry = optimizer.state.get(p, {})
            for name in ("state1", "state2"):
                if name in entry:
                    page = optimizer.get_state_buffer(p, dtype=entry[name].dtype)
                    entry[name] = page.copy_(entry[name])


def eight_bit_state(optimizer: Any) -> dict[str, Any]:
    """Its state for a checkpoint: by rows where the weights are sharded."""
    found: dict[str, Any] = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in found["state"].items():
        whole = optimizer.sharded.get(id(parameters[number]))
        entry = flat(entry)
        if whole is not None:
            for name in list(entry):
                if name.startswith("state"):
                    entry[name] = DTensor.from_local(
                        entry[name], whole.device_mesh, whole.placements, run_check=False, shape=whole.shape,
                        stride=whole.stride(),
                    )  # fmt: skip
                elif name.startswith("absmax"):
                    entry[name] = PerProcess(entry[name])
        found["state"][number] = entry
    return found


def flat(entry: dict[str, Any]) -> dict[str, Any]:
    """A parameter's state without the dict in which bitsandbytes hides some of it."""
    hidden = [name for name, value in entry.items() if isinstance(value, dict)]
    return {k: v for k, v in entry.items() if k not in hidden} | {
        k: v for name in hidden for k, v in entry[name].items()
    }


def load_any_state(optimizer: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """The state of AdamW or of 8-bit AdamW, sharded or not, as this optimizer loads it.

    Args:
        optimizer: that will load it.
        saved: tensors in memory or ``Stored``.
    """
    state = {}
    tables: dict[tuple[Any, ...], Tensor] = {}  # what bytes stand for is one tensor for all parameters, here too
    numbered = [(g, i, p) for g, group in enumerate(optimizer.param_groups) for i, p in enumerate(group["params"])]
    for number, entry in saved["state"].items():
        if is_eight_bit(optimizer) and not numbered[int(number)][2].numel():
            continue  # this process has no row of it, and no state
        entry = flat(entry)
        for name in [name for name in entry if name.startswith("qmap")]:
            table = entry[name]
            if isinstance(table, Stored):
                entry[name] = tables.setdefault(tuple(table.parts), table.whole())
        state[number] = _entry(optimizer, *numbered[int(number)], entry)
    return {**saved, "state": state}


def _entry(optimizer: Any, group: int, number: int, p: Any, entry: dict[str, Any]) -> dict[str, Any]:
    whole = getattr(optimizer, "sharded", {}).get(id(p), p)
    first, num = rows_here(whole) if isinstance(whole, DTensor) else (0, whole.shape[0] if whole.ndim else 1)
    if not is_eight_bit(optimizer) and "state1" not in entry:
        return {name: like_parameter(x, whole) for name, x in entry.items()}
    if not is_eight_bit(optimizer):
        rows = {name: moment(entry, name, first, num) for name in MOMENTS}
        if isinstance(whole, DTensor):
            rows = {
                name: DTensor.from_local(
                    x, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
                )
                for name, x in rows.items()
            }
        return {"step": torch.tensor(float(entry["step"]), dtype=torch.float32), **rows}
    if "state1" in entry and _same_rows(entry["state1"], first, num):
        part = next((i for i, x in enumerate(_parts(entry["state1"])) if x[0] == first), 0)
        return {name: _part(x, part) if isinstance(x, Tensor | Stored) else x for name, x in entry.items()}
    optimizer.check_overrides()
    optimizer.state.pop(p, None)
    optimizer.init_state(optimizer.param_groups[group], p, group, number)
    found: dict[str, Any] = optimizer.state.pop(p)
    found["step"] = int(entry["step"])
    for name, n in MOMENTS.items():
        values = moment(entry, name, first, num)
        if found[f"state{n}"].dtype == torch.uint8:
            code = found[f"qmap{n}"]
            found[f"state{n}"], found[f"absmax{n}"] = quantize(values, code)
        else:
            found[f"state{n}"] = values
    return found


def like_parameter(x: Any, parameter: Tensor) -> Any:
    """Saved state of a parameter, sharded as it is if it has its shape."""
    if not isinstance(x, Tensor | Stored):
        return x
    if x.shape == parameter.shape and isinstance(parameter, DTensor):
        return like(x, parameter)
    return x.whole() if isinstance(x, Stored) else x


def quantize(x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes of a tensor, and the scale of each block."""
    from bitsandbytes.functional import quantize_blockwise

    if not x.numel():
        return torch.zeros(x.shape, dtype=torch.uint8), torch.zeros(0)
    found, about = quantize_blockwise(x.contiguous(), code=code, blocksize=BLOCK)
    return found, about.absmax


def dequantize(x: Tensor, absmax: Tensor, code: Tensor) -> Tensor:
    """The opposite of ``quantize``."""
    from bitsandbytes.functional import dequantize_blockwise

    if not x.numel():
        return torch.zeros(x.shape)
    return dequantize_blockwise(x.contiguous(), absmax=absmax, code=code, blocksize=BLOCK)


def moment(entry: dict[str, Any], name: str, first: int, num: int) -> Tensor:
    """Rows of AdamW's ``exp_avg`` or ``exp_avg_sq``, from any saved state: float32."""
    if name in entry:
        return _rows(entry[name], first, num)
    n = MOMENTS[name]
    stored = entry[f"state{n}"]
    if stored.dtype != torch.uint8:
        return _rows(stored, first, num)
    code = _rows(entry[f"qmap{n}"], 0, BLOCK)
    found = []
    for part, (start, height) in enumerate(_parts(stored)):
        low, high = max(first, start), min(first + num, start + height)
        if low < high:
            values = dequantize(_part(stored, part), _part(entry[f"absmax{n}"], part), code)
            found.append(values[low - start : high - start])
    return torch.cat(found) if found else torch.zeros(0, *stored.shape[1:])


def _rows(x: Tensor | Stored, first: int, num: int) -> Tensor:
    if isinstance(x, Stored):
        return x.rows(first, num)
    return x[first : first + num] if x.ndim else x


def _parts(x: Tensor | Stored) -> list[tuple[int, int]]:
    """First row and number of rows of each process's part."""
    if isinstance(x, Tensor):
        return [(0, x.shape[0])]
    starts = [start for _, _, start in x.parts] + [x.shape[0]]
    return [(starts[i], starts[i + 1] - starts[i]) for i in range(len(x.parts))]


def _part(x: Tensor | Stored, number: int) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return x.part(number) if len(x.parts) > 1 else x.whole()


def _same_rows(x: Tensor | Stored, first: int, num: int) -> bool:
    return (first, num) in _parts(x)
