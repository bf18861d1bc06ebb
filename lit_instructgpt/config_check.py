"""Checks a configuration before anything is built from it, and says all that is wrong, with file and line.

jsonargparse has the last word on types and values; here unknown keys and foreign classes are refused with
the nearest known name, before a foreign class is imported.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import enum
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

ALLOWED = (
    "lit_instructgpt", "lightning", "torchmetrics", "torch.optim", "torch.nn", "torch.distributed.fsdp",
    "torch.bfloat16", "torch.float16", "torch.float32", "bitsandbytes.optim",
    "transformers.optimization", "transformers.Adafactor",
)  # fmt: skip
"""What a configuration may name: nothing here loads pickles, compiles code or runs commands."""

DENIED = ("*", "lightning.fabric.utilities", "lightning.pytorch.cli", "lightning.pytorch.utilities")
"""Refused; the longest entry that matches a name decides."""

SETTINGS = {"seed_everything": Any, "run_dir": str, "ckpt_path": Any, "weights_only": Any, "verbose": Any,
            "return_predictions": Any}  # fmt: skip
OPTIONS = {"config", "c", "help", "h", "print_config", "print_shtab"}
SIMPLE = {int: "an integer", float: "a number", bool: "true or false", types.NoneType: "null"}
SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
YAML_FILE = (".yaml", ".yml", ".json")
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
_policy: dict[str, bool] = {}


class ConfigError(ValueError):
    """Everything that is wrong with a configuration.

    Args:
        problems: one line each.
        remedy: what helps in general.
    """

    def __init__(self, problems: list[str], remedy: str = "") -> None:
        self.problems = list(dict.fromkeys(problems))
        lines = self.problems
        if len(lines) > 1:
            lines = [f"{len(lines)} problems", *(f"  {line}" for line in lines)]
        super().__init__("\n".join([*lines, remedy] if remedy else lines))


def allow_imports(extra: list[str]) -> None:
    """Lets configurations name only ``ALLOWED`` and ``extra``; replaces what an earlier call allowed.

    Raises:
        ConfigError: a name in ``extra`` is not a dotted name, or is jsonargparse.
    """
    bad = [name for name in extra if not DOTTED.fullmatch(name) or name.split(".")[0] == "jsonargparse"]
    if bad:
        raise ConfigError([f"--allow_import: {name!r} is not a package that can be allowed" for name in bad])
    defaults = dict.fromkeys(DENIED, False) | dict.fromkeys(ALLOWED, True)
    before = [name for name, allowed in _policy.items() if allowed and not _allows(defaults, name)]
    _policy.clear()
    _policy.update(defaults | dict.fromkeys(extra, True))
    jsonargparse.set_parsing_settings(
        import_path_denylist=[*DENIED, *before],
        import_path_allowlist=[*ALLOWED, *extra],
        instantiate_subclass_spec_in_any=False,
    )


def _allows(policy: dict[str, bool], name: str) -> bool:
    parts = name.split(".")
    entries = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((policy[entry] for entry in entries if entry in policy), False)


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """``", did you mean 'x'?"`` for the most similar known word, or nothing."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f", did you mean '{prefix}{names[found[0]]}'?" if found else ""


def check_lightning(argv: list[str]) -> None:
    """Checks the configs and options behind ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ConfigError: with every problem that was found.
    """

    def root() -> Group:
        from lightning.pytorch import LightningDataModule, LightningModule, Trainer

        for name in ("modules", "datamodules", "callbacks"):  # makes their short names known
            importlib.import_module(f"lit_instructgpt.{name}")
        groups = {"trainer": settings(Trainer), "model": LightningModule, "data": LightningDataModule}
        return Group(groups | SETTINGS)

    _check(argv, root)


def check_tool(argv: list[str], function: Callable[..., Any]) -> None:
    """Checks the options and configs of a command that is a plain function.

    Raises:
        ConfigError: with every problem that was found.
    """
    _check(argv, lambda: settings(function))


def _check(argv: list[str], root: Callable[[], Group]) -> None:
    if not _policy:
        allow_imports([])
    checker = Checker()
    given = list(checker.options(argv))
    for option, value in given:
        if option in ("config", "c"):
            checker.read(value)
    if not checker.problems:
        checker.root = root()
        for option, value in given:
            if option in ("config", "c"):
                checker.file(value, checker.root, "")
            elif option not in OPTIONS:
                checker.source = ""
                checker.option(option, value)
    if checker.problems:
        raise ConfigError(checker.problems)


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
                self.problem(key, inner, f"unknown key{nearest(bare, group.types) or _listed(group.types)}")

    def class_entries(self, node: yaml.Node, bases: list[type], path: str) -> None:
        """Checks ``class_path``, ``init_args`` and ``dict_kwargs``."""
        chosen = [value for name, _, value in pairs(node) if name == "class_path"]
        if chosen:
            self.choose(chosen[-1], bases, f"{path}.class_path")
        elif path.endswith("]") or _plain(path) not in self.classes:
            self.problem(node, path, "needs class_path, the class that its init_args are for")
            return
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
        if "." in name and not _allows(_policy, name):
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
                near = nearest(name, group.types, prefix) or _listed(group.types)
                return None if group.open else self.problem(node, option, f"unknown option{near}")
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


def _listed(known: Iterable[str]) -> str:
    names = list(known)
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 20 else ""


NOISE = (
    "Does not validate against", "Subtypes:", "Errors:", "Problem with given class_path", "Given value type:",
    "Expected a <class 'NoneType'>",
)  # fmt: skip


def readable(message: str) -> str:
    """One or two lines of what jsonargparse says in many: the key, what is wrong, the value."""
    if not any(mark in message for mark in ("Parser key", *NOISE)):
        return message
    stack: list[tuple[int, str]] = []
    leaves: dict[str, list[str]] = {}
    value = ""
    for line in message.splitlines():
        text = line.lstrip(" -")
        indent = len(line) - len(text)
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if match := re.match(r'Parser key "(.*?)": ?(.*)', text):
            stack.append((indent, match[1]))
            text = match[2]
        if text.startswith("Given value: "):
            given = text.removeprefix("Given value: ")
            value = value or re.sub(r"NestedArg\(key=.*, val='?(.*?)'?\)$", r"\1", given)
        elif text and not text.startswith(NOISE):
            leaves.setdefault(".".join(key for _, key in stack), []).append(text.rstrip(":"))
    if not leaves:
        return message
    key = max(leaves, key=lambda one: one.count(".") + bool(one))
    found = [re.sub(r"^Type .* expects", "expected", text) for text in leaves[key]]
    found = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text) for text in found]
    other = [text for text in found if not text.startswith("Expected a")]
    if not other:
        value = next((text.partition("Got value: ")[2] for text in found if "Got value: " in text), value)
        names = (re.sub(r"Expected an? |\. Got value: .*", "", text) for text in found)
        other = [f"expected {' or '.join(dict.fromkeys(names))}, got {value[:80]!r}"]
    text = "; ".join(dict.fromkeys(other))
    return f"{key}: {text}" if key else text
