"""What a class, function or type can be configured with."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import yaml


@dataclasses.dataclass
class Group:
    """Names of settings and their types; ``open`` where others are possible (``**kwargs``)."""

    types: dict[str, Any]
    open: bool = False


def settings(target: Any) -> Group:
    """The settings of a class or function: its parameters, and its parents' where it has ``**kwargs``."""
    found: dict[str, Any] = {}
    is_open = False
    for owner in inspect.getmro(target)[:-1] if inspect.isclass(target) else (target,):
        function = owner.__init__ if inspect.isclass(owner) else owner
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # not written in Python
            return Group(found, True)
        try:
            hints = typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # names imported for type checkers alone
            hints = {}
        positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for p in parameters:
            if p.kind not in positional and p.name != "self":
                found.setdefault(p.name, hints.get(p.name, Any))
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
        is_open = True
    return Group(found, is_open)


def alternatives(hint: Any) -> list[Any]:
    """The members of a union, flat; the type itself if it is none."""
    if typing.get_origin(hint) is typing.Annotated:
        return alternatives(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for one in typing.get_args(hint) for member in alternatives(one)]
    return [hint]


def group_of(options: list[Any]) -> Group | None:
    """The settings of a nested group or dataclass among the types."""
    groups = [o if isinstance(o, Group) else settings(o) for o in options if _is_group(o)]
    if not groups:
        return None
    return Group({k: v for one in groups for k, v in one.types.items()}, any(one.open for one in groups))


def _is_group(option: Any) -> bool:
    return isinstance(option, Group) or (inspect.isclass(option) and dataclasses.is_dataclass(option))


def bases_of(options: list[Any]) -> list[type] | None:
    """Classes of which a subclass is named by ``class_path``; None where none can be."""
    calls = [o for o in options if o is Callable or typing.get_origin(o) is collections.abc.Callable]
    returned = [typing.get_args(o)[-1] for o in calls if typing.get_args(o)]
    plain = ("builtins", "datetime", "pathlib", "os")
    found = [
        o for o in [*options, *returned]
        if inspect.isclass(o) and not typing.get_origin(o) and not _is_group(o) and o.__module__ not in plain
        and not issubclass(o, enum.Enum) and o is not Any
    ]  # fmt: skip
    return found if found or calls else None


def pairs(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Name, key and value of a mapping's entries, those merged by ``<<`` included."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "<<":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from pairs(merged)
        else:
            yield str(key.value), key, value


def subclasses(base: type) -> Iterator[type]:
    """All subclasses that are imported, and the class itself."""
    yield base
    children: list[type] = type.__subclasses__(base)
    for child in children:
        yield from subclasses(child)
