"""Walks configs and options side by side with the types of what they configure."""

from __future__ import annotations

import collections.abc
import contextlib
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_instructgpt.config_messages import nearest
from lit_instructgpt.config_policy import ALLOWED, allows
from lit_instructgpt.config_types import Group, alternatives, bases_of, group_of, pairs, settings, subclasses

SIMPLE = {int: "an integer", float: "a number", bool: "true or false", types.NoneType: "null"}
SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
YAML_FILE = (".yaml", ".yml", ".json")
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class Checker:
    """Walks configs and options side by side with the types of what they configure."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.root = Group({})
        self.source = ""
        self.files: dict[str, yaml.Node | None] = {}
        self.classes: dict[str, Any] = {}

    def problem(self, node: yaml.Node, path: str, text: str) -> None:
        """Notes a problem, with file and line unless it is on the command line."""
        where = f"{self.source}:{node.start_mark.line + 1}: {path}" if self.source else f"--{path}"
        self.problems.append(f"{where}: {text}")

    def options(self, argv: list[str]) -> Iterator[tuple[str, str]]:
        """Name and value ("" without one) of each option."""
        rest = list(argv)
        while rest:
            name, equals, value = rest.pop(0).partition("=")
            if not name.startswith("-"):
                self.problems.append(f"unexpected argument {name!r}: give --NAME VALUE, lists as '[a, b]'")
                continue
            if not equals and rest and not rest[0].startswith("--") and rest[0] not in ("-c", "-h"):
                value = rest.pop(0)
            yield name.lstrip("-"), value

    def read(self, file: str) -> None:
        """Reads a YAML file without building anything from it."""
        path, node = Path(file), None
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError:
            siblings = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
            folder = "" if path.parent == Path() else f"{path.parent}/"
            self.problems.append(f"{file}: no such file{nearest(path.name, siblings, folder)}")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{file}: cannot be read: {error}")
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            self.problems.append(f"{file}:{line}: not valid YAML: {getattr(error, 'problem', None) or error}")
        self.files[file] = node
        if node is not None:
            self.source = file
            self.duplicates(node, "", set())

    def duplicates(self, node: yaml.Node, path: str, seen: set[int]) -> None:
        """Refuses a key that is given twice: YAML keeps the last and says nothing."""
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            return
        seen.add(id(node))
        lines: dict[str, int] = {}
        for entry in node.value:
            key, value = entry if isinstance(node, yaml.MappingNode) else (None, entry)
            inner = path if key is None else _join(path, str(key.value))
            if key is not None and inner in lines:
                self.problem(key, inner, f"given twice, first in line {lines[inner]}")
            elif key is not None:
                lines[inner] = key.start_mark.line + 1
            self.duplicates(value, inner, seen)

    def file(self, file: str, hint: Any, path: str) -> None:
        """Checks a file that was read."""
        outer, self.source = self.source, file
        node = self.files[file]
        if isinstance(node, yaml.MappingNode):
            self.walk(node, hint, path)
        elif node is not None:
            self.problems.append(f"{file}:1: expected settings, one 'key: value' per line")
        self.source = outer

    def walk(self, node: yaml.Node, hint: Any, path: str) -> None:
        """Checks a value against its type."""
        options = alternatives(hint)
        if Any in options or object in options:
            return
        group, bases = group_of(options), bases_of(options)
        if isinstance(node, yaml.ScalarNode):
            named = bases is not None and str not in options and DOTTED.fullmatch(node.value)
            if node.value.endswith(YAML_FILE) and (group is not None or bases is not None):
                file = node.value if not self.source else str(Path(self.source).parent / node.value)
                self.read(file)
                self.file(file, hint, path)
            elif bases is not None and named and node.tag.endswith(":str"):
                self.choose(node, bases, path)
            else:
                self.simple(node, options, path)
        elif isinstance(node, yaml.SequenceNode):
            sequences = [o for o in options if typing.get_origin(o) in SEQUENCES]
            items = tuple(a for o in sequences for a in typing.get_args(o) if a is not ...)
            for i, item in enumerate(node.value if items else []):
                self.walk(item, typing.Union[items], f"{path}[{i}]")  # noqa: UP007
        elif group is not None and "class_path" not in {name for name, _, _ in pairs(node)}:
            self.entries(node, group, path)
        elif bases is not None and group is None:
            self.class_entries(node, bases, path)

    def simple(self, node: yaml.ScalarNode, options: list[Any], path: str) -> None:
        """Checks numbers and booleans; everything else is left to jsonargparse."""
        if node.tag.endswith(":null") or not all(isinstance(o, type) and o in SIMPLE for o in options):
            return
        number = None
        with contextlib.suppress(ValueError):
            number = float(int(node.value, 0)) if node.tag.endswith(":int") else float(node.value)
        fits = bool in options and node.tag.endswith(":bool")
        fits |= number is not None and (float in options or (int in options and number.is_integer()))
        if not fits:
            names = [SIMPLE[o] for o in options]
            self.problem(node, path, f"expected {' or '.join(names)}, got {node.value!r}")

    def entries(self, node: yaml.Node, group: Group, path: str) -> None:
        """Checks the keys of a group, and their values."""
        for name, key, value in pairs(node):
            bare, inner = name.removesuffix("+"), _join(path, name)
            if bare in group.types:
                self.walk(value, group.types[bare], inner)
            elif not group.open and name != "$schema":
                near = _nested(bare, group) or nearest(bare, group.types) or _listed(group.types)
                self.problem(key, inner, f"unknown key{near}")

    def class_entries(self, node: yaml.Node, bases: list[type], path: str) -> None:
        """Checks ``class_path``, ``init_args`` and ``dict_kwargs``."""
        chosen = [value for name, _, value in pairs(node) if name == "class_path"]
        if chosen:
            self.choose(chosen[-1], bases, f"{path}.class_path")
        elif path.endswith("]") or _plain(path) not in self.classes:
            if all(name in CLASS_KEYS for name, _, _ in pairs(node)):
                self.problem(node, path, "needs class_path, the class that its init_args are for")
            self.classes[_plain(path)] = None
        target = self.classes[_plain(path)]
        group = Group({}, True) if target is None else settings(target)
        for name, key, value in pairs(node):
            if name == "init_args":
                self.entries(value, group, f"{path}.init_args")
            elif name in group.types:
                self.problem(key, f"{path}.{name}", f"must stand below init_args: {path}.init_args.{name}")
            elif name not in CLASS_KEYS:
                near = nearest(name, CLASS_KEYS) or _listed(CLASS_KEYS)
                self.problem(key, f"{path}.{name}", f"unknown key{near}")

    def choose(self, node: yaml.Node, bases: list[type], path: str) -> None:
        """Finds the named class and remembers it for later files and options."""
        name = str(node.value)
        known = {c.__name__: c for base in bases for c in subclasses(base) if not c.__name__.startswith("_")}
        found = None
        if "." in name and not allows(name):
            root = name.split(".")[0]
            trusted = name if any(entry.split(".")[0] == root for entry in ALLOWED) else root
            text = f"{name} is not imported: it is outside the allowed packages"
            self.problem(node, path, f"{text}; if you trust it, --allow_import {trusted}")
        elif "." in name:
            try:
                found = _load(name)
            except ImportError as error:
                near = "" if "did you" in str(error) else nearest(name.split(".")[-1], known)
                self.problem(node, path, f"{error}{near}")
        elif known and name not in known:
            self.problem(node, path, f"unknown class {name!r}{nearest(name, known)}")
        self.classes[_plain(path)] = known.get(name, found)

    def option(self, option: str, text: str) -> None:
        """Checks ``--a.b.c VALUE``; ``init_args`` may be left out, as jsonargparse allows."""
        hint: Any = self.root
        path = ""
        outer: list[tuple[str, Group]] = []
        node: yaml.Node = yaml.ScalarNode("tag:yaml.org,2002:str", text)
        for part in option.split("."):
            options, name = alternatives(hint), part.removesuffix("+")
            free = Any in options or dict in [typing.get_origin(o) for o in options]
            if free or name in ("help", "dict_kwargs"):
                return None
            group, bases = group_of(options), bases_of(options)
            if bases is not None and group is None:
                if name == "class_path":
                    return self.choose(node, bases, option) if text else None
                if _plain(path) not in self.classes:
                    return self.problem(node, option, f"of which class? Put --{path} NAME or a --config first")
                target = self.classes[_plain(path)]
                if target is None:
                    return None
                group = Group({"init_args": hint}) if name == "init_args" else settings(target)
            group = group or Group({})
            if name not in group.types:
                prefix = f"--{path}." if path else "--"
                above = [place for place, one in outer if name in one.types]
                near = f", did you mean '--{_join(above[-1], name)}'?" if above else ""
                near = (
                    near or _nested(name, group, prefix) or nearest(name, group.types, prefix) or _listed(group.types)
                )
                return None if group.open else self.problem(node, option, f"unknown option{near}")
            outer.append((path, group))
            hint, path = group.types[name], _join(path, part)
        with contextlib.suppress(yaml.YAMLError):
            node = yaml.compose(text, Loader=yaml.SafeLoader) or node
        return self.walk(node, hint, path) if text else None


def _load(name: str) -> Any:
    """Imports an allowed dotted name.

    Raises:
        ImportError: there is no such module or name, or it cannot be imported.
    """
    parts = name.split(".")
    found: Any = None
    for i, part in enumerate(parts):
        here = ".".join(parts[: i + 1])
        if i and hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(here)
        except ModuleNotFoundError as error:
            if not f"{here}.".startswith(f"{error.name}."):
                raise ImportError(f"{name} cannot be imported: {error}") from None
            modules = pkgutil.iter_modules(getattr(found, "__path__", []))
            classes = [name for name in dir(found) if inspect.isclass(getattr(found, name, None))]
            prefix, names = ".".join([*parts[:i], ""]), [*dir(found), *(module.name for module in modules)]
            near = nearest(part, classes, prefix) or nearest(part, names, prefix) if i else ""
            raise ImportError(f"{name} does not exist{near}") from None
    return found


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _plain(path: str) -> str:
    """A path as one knows a class by: without ``init_args``, ``class_path`` and positions in lists."""
    return re.sub(r"\.init_args|\.class_path$|\[\d+\]|\+", "", path)


def _nested(name: str, group: Group, prefix: str = "") -> str:
    """``", did you mean 'inner.name'?"`` for a key that stands one level too high."""
    inner = {key: group_of(alternatives(hint)) for key, hint in group.types.items()}
    places = [key for key, one in inner.items() if one is not None and name in one.types]
    return f", did you mean '{prefix}{places[0]}.{name}'?" if len(places) == 1 else ""


def _listed(known: Iterable[str]) -> str:
    names = list(known)
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""
