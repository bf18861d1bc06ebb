"""What a wrong configuration is answered with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NOISE = (
    "Does not validate against", "Subtypes:", "Errors:", "Problem with given class_path", "Given value type:",
    "Expected a <class 'NoneType'>",
)  # fmt: skip


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


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """``", did you mean 'x'?"`` for the most similar known word, or nothing."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f", did you mean '{prefix}{names[found[0]]}'?" if found else ""


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
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", "; ".join(dict.fromkeys(other)))
    if text.startswith("expected dict"):
        text += f"; give --{key}.NAME VALUE"
    lacking = re.match(r"expected a function.*: the following arguments are required: (\w+)$", text)
    if lacking:
        text = f"needs {lacking[1]}: give --{key}.{lacking[1]} VALUE"
    return f"{key}: {text}" if key else text
