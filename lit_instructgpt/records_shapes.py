"""Other people's record shapes (TRL's), turned into this package's own.

TRL writes ``completion`` for ``response``, ``chosen`` and ``rejected`` for a
ranking of two, and conversations as lists of messages (TRL documentation,
"Dataset formats and types"). Each function returns plain fields; the models in
``records`` check their types afterwards.
"""

import difflib
import re
from collections.abc import Container, Iterable
from typing import Any

from lit_instructgpt.records_lines import LineProblem, field_name, shown

COMMON_FIELDS = ("id", "user", "split", "source", "labeler")
SHAPE_FIELDS = {
    "demonstration": ("prompt", "response", "completion", "messages"),
    "comparison": ("prompt", "responses", "ranking", "chosen", "rejected"),
    "prompt": ("prompt", "messages"),
    "text": ("text",),
}
_TURN = "\n\nAssistant:"


def fields_of(kind: str) -> tuple[str, ...]:
    """Return every field that is read of a kind of record, those of other tools' shapes included."""
    return (*SHAPE_FIELDS[kind], *COMMON_FIELDS)


def normalise(row: dict[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split one row into the fields of a record of this kind and the rest.

    A null value counts as absent. When a row holds two shapes at once, the
    package's own field names win and the others are left in the rest.

    Args:
        row: One parsed JSON object.
        kind: ``demonstration``, ``comparison``, ``prompt`` or ``text``.

    Returns:
        The fields in this package's shape, and the keys that were not used.

    Raises:
        LineProblem: A required field is missing, or a conversation has the wrong shape.
    """
    given = {key: value for key, value in row.items() if value is not None}
    shape, used = _SHAPES[kind](given)
    for name in COMMON_FIELDS:
        if name in given:
            shape[name] = given[name]
    rest = {key: value for key, value in row.items() if key not in used and key not in COMMON_FIELDS}
    return shape, rest


def written_name(field: str, row: Container[str]) -> str:
    """Return the name a record's field has in the row it was read from.

    Args:
        field: Name in the record, with any index: ``responses[0]``.
        row: The keys of the row; ``chosen``, for example, if it has that shape.
    """
    head = re.split(r"[.\[]", field, maxsplit=1)[0]
    if "chosen" in row and "responses" not in row:
        own = {"responses[0]": "chosen", "responses[1]": "rejected"}
        return own.get(field, "chosen" if head == "prompt" and "prompt" not in row else field)
    if head == "response" and "response" not in row:
        return "completion" if "completion" in row else "messages"
    if head == "prompt" and "messages" in row and "response" not in row and "completion" not in row:
        return field.replace("prompt", "messages", 1)
    return field


def detect_kind(rows: Iterable[dict[str, Any]]) -> str:
    """Return the kind of record a file holds, judged by the keys of its rows.

    A mixed file is the most demanding kind found (comparison, demonstration,
    prompt, text), so that its deficient rows are reported and not misread.

    Raises:
        ValueError: No row has the keys of any kind.
    """
    rows = list(rows)
    keys = set().union(*rows) if rows else set()
    if keys & {"responses", "ranking"} or {"chosen", "rejected"} <= keys:
        return "comparison"
    if keys & {"response", "completion"} or any(_ends_in_reply(row) for row in rows):
        return "demonstration"
    if keys & {"prompt", "messages"}:
        return "prompt"
    if "text" in keys:
        return "text"
    known = "prompt, response, responses and ranking, chosen and rejected, messages, text"
    found = ", ".join(field_name(key) for key in sorted(keys)[:20]) or "none"
    raise ValueError(f"cannot tell what it holds: keys found: {found}; keys known: {known}")


def _ends_in_reply(row: dict[str, Any]) -> bool:
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _missing(given: dict[str, Any], kind: str, field: str, also: str = "") -> LineProblem:
    known = fields_of(kind)
    close = {
        name: match[0]
        for name in given
        if name not in known and (match := difflib.get_close_matches(name, SHAPE_FIELDS[kind], 1, 0.75))
    }
    hints = [f"{field_name(name)}: unknown; did you mean {match}?" for name, match in close.items()]
    if not hints:
        names = ", ".join(field_name(name) for name in list(given)[:12]) or "none"
        hints = [f"fields found: {names}" + (f"; also read: {also}" if also else "")]
    return LineProblem(field, f"missing ({'; '.join(hints)})")


def _demonstration(given: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    for name in ("response", "completion"):
        if "prompt" in given and name in given:
            response = _reply(given[name], name) if name == "completion" else given[name]
            return {"prompt": given["prompt"], "response": response}, {"prompt", name}
    if "messages" in given and "response" not in given and "completion" not in given:
        messages = _conversation(given["messages"], "messages", 2)
        return {"prompt": messages[:-1], "response": _reply(messages[-1:], "messages")}, {"messages"}
    field = "response" if "prompt" in given else "prompt"
    raise _missing(given, "demonstration", field, "prompt and completion, or messages")


def _comparison(given: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    if "chosen" in given and "rejected" in given and not ("responses" in given and "ranking" in given):
        prompt, chosen, rejected = _pair(given)
        shape = {"prompt": prompt, "responses": [chosen, rejected], "ranking": [1, 2]}
        return shape, {"prompt", "chosen", "rejected"}
    pair = "chosen" in given or "rejected" in given
    own = () if pair and not ("responses" in given or "ranking" in given) else ("responses", "ranking")
    for name in ("prompt", *own) if own else ("chosen", "rejected"):
        if name not in given:
            raise _missing(given, "comparison", name, "prompt, chosen and rejected")
    return {name: given[name] for name in ("prompt", *own)}, {"prompt", *own}


def _prompt(given: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    if "prompt" in given:
        return {"prompt": given["prompt"]}, {"prompt"}
    if "messages" in given:
        return {"prompt": _conversation(given["messages"], "messages", 1)}, {"messages"}
    raise _missing(given, "prompt", "prompt", "messages")


def _text(given: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    if "text" not in given:
        raise _missing(given, "text", "text")
    return {"text": given["text"]}, {"text"}


_SHAPES = {"demonstration": _demonstration, "comparison": _comparison, "prompt": _prompt, "text": _text}


def _conversation(value: object, field: str, at_least: int) -> list[Any]:
    if not isinstance(value, list):
        raise LineProblem(field, f"must be a list of messages, found {shown(value)}")
    if len(value) < at_least:
        raise LineProblem(field, f"needs at least {at_least} message(s), found {len(value)}")
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise LineProblem(f"{field}[{index}]", "must be an object with role and content")
    return value


def _reply(value: object, field: str) -> object:
    """Return the text of a response given as a string or as one assistant message."""
    if not isinstance(value, list):
        return value
    messages = _conversation(value, field, 1)
    if len(messages) > 1:
        raise LineProblem(field, f"must be one assistant message after the prompt, found {len(messages)}")
    if messages[0]["role"] != "assistant":
        raise LineProblem(field, f"the last message must be the assistant's, found {shown(messages[0]['role'])}")
    return messages[0]["content"]


def _pair(given: dict[str, Any]) -> tuple[object, object, object]:
    """Return prompt, chosen and rejected; the prompt may be inside the other two."""
    chosen, rejected, prompt = given["chosen"], given["rejected"], given.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list) and max(len(chosen), len(rejected)) > 1:
        chosen = _conversation(chosen, "chosen", 2)
        rejected = _conversation(rejected, "rejected", 2)
        before = chosen[:-1]
        if before != rejected[:-1]:
            raise LineProblem("rejected", "chosen and rejected must be equal up to their last message")
        if isinstance(prompt, str) and before[-1]["content"] != prompt:
            raise LineProblem("prompt", "differs from the message before the last one of chosen")
        if isinstance(prompt, list) and before != prompt:
            raise LineProblem("prompt", "differs from the messages before the last one of chosen")
        prompt, chosen, rejected = before, chosen[-1:], rejected[-1:]
    elif prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        start, found, chosen = chosen.rpartition(_TURN)
        other, _, rejected = rejected.rpartition(_TURN)
        if not found or start != other:
            raise _missing(given, "comparison", "prompt", "whole dialogues with one shared beginning")
        prompt = start + found
        chosen, rejected = chosen.removeprefix(" "), rejected.removeprefix(" ")
    elif prompt is None:
        raise _missing(given, "comparison", "prompt", "conversations with one shared beginning")
    return prompt, _reply(chosen, "chosen"), _reply(rejected, "rejected")
