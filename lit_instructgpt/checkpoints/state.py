"""A training state as tensors and JSON, and back: nothing is pickled.

The state is what Lightning collects: nested dicts, lists and tuples of tensors, numbers, strings and None. Tensors go
to ``tensors-00000.safetensors``, everything else to ``state.json``, where ``{"$tensor": NAME}`` stands for a tensor.
Two names for one tensor (tied weights) are stored once and read back as one.

A tensor that is sharded over processes is in the files of all of them, each with its rows, and ``{"$rows": NAME}`` stands for
it: it can be read at any number of processes, whole or by rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_instructgpt.checkpoints.directory import CheckpointError
from lit_instructgpt.sharding import local

STATE = "state.json"
TENSOR, ROWS, TUPLE, ITEMS = "$tensor", "$rows", "$tuple", "$items"
MARKS = (TENSOR, ROWS, TUPLE, ITEMS)
"""Keys of the JSON that stand for what JSON has not: tensors, tuples, and dicts whose keys are not all strings."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""As safetensors calls them."""


def tensors_file(rank: int) -> str:
    """Name of the file with a process's tensors."""
    return f"tensors-{rank:05d}.safetensors"


@dataclass
class Stored:
    """A tensor in the files of a checkpoint.

    Attributes:
        shape: of the whole tensor.
        dtype: of it.
        parts: file, name in it, and first row, by rows.
    """

    shape: torch.Size
    dtype: torch.dtype
    parts: list[tuple[Path, str, int]]

    def rows(self, first: int, num: int) -> Tensor:
        """Some rows, read from the files that have them; all of a tensor without dimensions."""
        if not self.shape:
            return self.whole()
        found = []
        for file, name, start in self.parts:
            with safe_open(file, framework="pt") as stored:
                part = stored.get_slice(name)
                low, high = max(first - start, 0), min(first + num - start, part.get_shape()[0])
                if low < high:
                    found.append(part[low:high])
        return torch.cat(found) if found else torch.empty(0, *self.shape[1:], dtype=self.dtype)

    def part(self, number: int) -> Tensor:
        """What one process has stored of it."""
        file, name, _ = self.parts[number]
        with safe_open(file, framework="pt") as stored:
            tensor: Tensor = stored.get_tensor(name)
            return tensor

    def whole(self) -> Tensor:
        """All of it."""
        return self.part(0) if len(self.parts) == 1 else self.rows(0, self.shape[0])


@dataclass
class PerProcess:
    """A tensor of which every process has rows of its own, as many as they may be."""

    rows: Tensor


def split(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """What goes to JSON, and this process's tensors by name, on the CPU; of sharded ones its rows.

    Raises:
        TypeError: naming a value that is neither a tensor nor plain data.
    """
    tensors: dict[str, Tensor] = {}
    stored: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()

    def store(value: Tensor, path: str) -> str:
        """The name under which a tensor is stored, its own or that of the same one before."""
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        name = stored.setdefault(key, path) if value.numel() else path
        if name not in tensors:
            found = value.detach().to("cpu").contiguous()
            storage = found.untyped_storage().data_ptr()
            tensors[name] = found.clone() if storage in storages else found  # a file holds no views of one another
            storages.add(storage)
        return name

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, DTensor):
            return {ROWS: store(local(value.detach()), path), "shape": list(value.shape)}
        if isinstance(value, PerProcess):
            tensors[path] = value.rows.detach().to("cpu").contiguous()
            return {ROWS: path}
        if isinstance(value, Tensor):
            return {TENSOR: store(value, path)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, tuple):
            return {TUPLE: [walk(item, f"{path}/{i}") for i, item in enumerate(value)]}
        if isinstance(value, list):
            return [walk(item, f"{path}/{i}") for i, item in enumerate(value)]
        if isinstance(value, Mapping):
            items = [(key, walk(item, f"{path}/{key}" if path else f"{key}")) for key, item in value.items()]
            if all(isinstance(key, str) and key not in MARKS for key in value):
                return dict(items)
            return {ITEMS: [[walk(key, path), item] for key, item in items]}
        raise TypeError(
            f"the state holds a {type(value).__name__} at {path}: checkpoints hold tensors, numbers, strings, lists, tuples "
            "and dicts, and nothing that would have to be unpickled"
        )

    return walk(state, ""), tensors


def join(rest: Any, tensors: Mapping[str, Any]) -> Any:
    """The state from its two parts."""
    if isinstance(rest, list):
        return [join(item, tensors) for item in rest]
    if not isinstance(rest, dict):
        return rest
    if TENSOR in rest or ROWS in rest:
        return tensors[rest[TENSOR] if TENSOR in rest else rest[ROWS]]
    if TUPLE in rest:
        return tuple(join(item, tensors) for item in rest[TUPLE])
    if ITEMS in rest:
        return {join(key, tensors): join(item, tensors) for key, item in rest[ITEMS]}
    return {key: join(item, tensors) for key, item in rest.items()}


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Of all tensors."""
    return sum(x.numel() * x.element_size() for x in tensors.values())


def sharded_names(rest: Any) -> set[str]:
    """Names of the tensors of which every process stores its rows."""
    if isinstance(rest, dict):
        return {rest[ROWS]} if ROWS in rest else set().union(*map(sharded_names, rest.values()))
    return set().union(*map(sharded_names, rest)) if isinstance(rest, list) else set()


def write_state(rest: Any, tensors: dict[str, Tensor], directory: Path, rank: int = 0) -> None:
    """Writes both parts to a directory; processes other than the first write the rows of sharded tensors alone."""
    if rank == 0:
        (directory / STATE).write_text(json.dumps(rest, indent=1) + "\n", encoding="utf-8")
        save_file(tensors, directory / tensors_file(0))
        return
    names = sharded_names(rest)
    save_file({name: x for name, x in tensors.items() if name in names}, directory / tensors_file(rank))


def read_state(directory: Path, by_rows: Collection[str] = ()) -> Any:
    """The state of a directory whose manifest has been verified.

    Args:
        directory: of a checkpoint.
        by_rows: its parts whose tensors are not read but returned as ``Stored``.

    Raises:
        CheckpointError: the files are no state.
    """
    try:
        rest = json.loads((directory / STATE).read_text(encoding="utf-8"))
        stored = find_tensors(directory)
        state = join({name: part for name, part in rest.items() if name in by_rows}, stored)
        others = {name: part for name, part in rest.items() if name not in by_rows}
        read: dict[str, Tensor] = _Read(stored)
        return join(others, read) | state
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: no training state ({type(error).__name__}: {error})") from error


def find_tensors(directory: Path) -> dict[str, Stored]:
    """Where each tensor of a checkpoint is."""
    found: dict[str, Stored] = {}
    for file in sorted(directory.glob("tensors-*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                part = stored.get_slice(name)
                shape, dtype = torch.Size(part.get_shape()), DTYPES[part.get_dtype()]
                if name not in found:
                    found[name] = Stored(shape, dtype, [(file, name, 0)])
                    continue
                before = found[name]
                before.parts.append((file, name, before.shape[0]))
                before.shape = torch.Size((before.shape[0] + shape[0], *shape[1:]))
    return found


class _Read(dict[str, Tensor]):
    """Tensors, read when they are asked for."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        super().__init__()
        self.stored = stored

    def __missing__(self, name: str) -> Tensor:
        self[name] = self.stored[name].whole()
        return self[name]


def generator_states() -> dict[str, Any]:
    """States of the global random number generators of this process: Python, NumPy, PyTorch, CUDA."""
    import random

    import numpy as np

    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = numpy_state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype("int64")), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """The opposite of ``generator_states``; those of devices that are not here are left out."""
    import random

    import numpy as np

    random.setstate(states["python"])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():
        for device, state in list(enumerate(states["cuda"]))[: torch.cuda.device_count()]:
            torch.cuda.set_rng_state(state, device)
