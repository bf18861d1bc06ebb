"""The filters of the paper's data preparation (paper section 3.2, appendix A.2).

Long shared prefixes, at most so many prompts per user, a split by user, and
personal data of obvious form out of the training split.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lit_instructgpt.records import BaseRecord, Comparison, Demonstration, Message, Prompt, Sourced, Text

Side = str
SIDES = ("train", "valid", "test")
_TEXT_FIELDS = ("prompt", "response", "completion", "responses", "chosen", "rejected", "messages", "text")


def prompt_text(record: BaseRecord) -> str:
    """Return the prompt as one string; messages are joined by blank lines."""
    if isinstance(record, Text):
        return record.text
    assert isinstance(record, Demonstration | Comparison | Prompt)
    if isinstance(record.prompt, str):
        return record.prompt
    return "\n\n".join(message.content for message in record.prompt)


def prefix_key(record: BaseRecord, common_prefix: int) -> tuple[object, ...]:
    """Return what two records share exactly when they count as the same prompt.

    Prompts are the same when they are equal, or when both have at least
    ``common_prefix`` characters and begin with the same ones. A leading system
    message is compared whole, so that one shared by every prompt does no harm.
    Comparisons are the same only if their ``labeler`` is the same too, so several
    people's rankings of one prompt are kept. Texts must be equal.

    Args:
        record: Any record.
        common_prefix: Length in characters; 0 leaves only exact equality.
    """
    system, text = "", prompt_text(record)
    if isinstance(record, Demonstration | Comparison | Prompt) and isinstance(record.prompt, list):
        first: Message = record.prompt[0]
        if first.role == "system":
            system = first.content
            text = text.removeprefix(system).removeprefix("\n\n")
    if common_prefix and not isinstance(record, Text) and len(text) >= common_prefix:
        text = text[:common_prefix]
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return system, digest, record.labeler if isinstance(record, Comparison) else None


Rows = list[Sourced[BaseRecord]]


def drop_shared_prefixes(rows: Rows, common_prefix: int) -> tuple[Rows, dict[str, int]]:
    """Keep the first row of each set that shares a prefix; linear in the rows.

    Comparisons of one prompt that rank other responses are kept: pairs of one prompt are not copies.

    Returns:
        The rows kept, and how many were dropped as ``exact_duplicate`` (the whole
        prompt, and of a comparison the responses, are equal to a kept one's) and as ``common_prefix`` (the rest).
    """
    firsts: dict[tuple[object, ...], Sourced[BaseRecord]] = {}
    ranked: defaultdict[tuple[object, ...], set[frozenset[str]]] = defaultdict(set)
    kept = []
    dropped = {"exact_duplicate": 0, "common_prefix": 0}
    for row in rows:
        key = prefix_key(row.record, common_prefix)
        first = firsts.setdefault(key, row)
        same = prompt_text(first.record) == prompt_text(row.record)
        responses = frozenset(row.record.responses if isinstance(row.record, Comparison) else [])
        if first is row or (same and responses not in ranked[key]):
            ranked[key].add(responses)
            kept.append(row)
        else:
            dropped["exact_duplicate" if same else "common_prefix"] += 1
    return kept, dropped


def cap_users(rows: Rows, max_prompts_per_user: int) -> tuple[Rows, int]:
    """Keep the rows of each user's first ``max_prompts_per_user`` different prompts.

    Rows without a user are not capped. Returns the rows kept and the number dropped.
    """
    prompts: defaultdict[str, set[str]] = defaultdict(set)
    kept = []
    for row in rows:
        if row.record.user is not None:
            seen, text = prompts[row.record.user], prompt_text(row.record)
            if text not in seen and len(seen) >= max_prompts_per_user:
                continue
            seen.add(text)
        kept.append(row)
    return kept, len(rows) - len(kept)


def side_of(record: BaseRecord, valid_fraction: float, test_fraction: float, seed: int) -> Side:
    """Return ``train``, ``valid`` or ``test``, from a hash of the seed and the user.

    It depends on nothing else, so one user is on one side in every file and every
    run with the same seed and fractions. A record without a user goes by its prompt.
    """
    key = f"prompt\0{prompt_text(record)}" if record.user is None else f"user\0{record.user}"
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    if place < test_fraction:
        return "test"
    return "valid" if place < test_fraction + valid_fraction else "train"


_PII = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "card": re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"),
    "ssn": re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    "ipv4": re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d)"),
    "phone": re.compile(
        r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}"
        r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})"
        r"(?![\w-]|\.\d)"
    ),
}


def find_pii(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, kind) of what looks like personal data, without overlaps.

    Kinds: ``email``, ``iban`` and ``card`` (with valid check digits), ``ssn`` (US),
    ``ipv4`` and ``phone``. A filter for obvious patterns: names, addresses and
    unusual spellings pass, and some harmless numbers are caught.
    """
    found: list[tuple[int, int, str]] = []
    for kind, pattern in _PII.items():
        for match in pattern.finditer(text):
            if kind in _CHECKS and not _CHECKS[kind](match[0]):
                continue
            if all(match.end() <= start or match.start() >= end for start, end, _ in found):
                found.append((match.start(), match.end(), kind))
    return sorted(found)


def mask_pii(text: str) -> str:
    """Return the text with each find replaced by its kind, ``[EMAIL]`` for example."""
    for start, end, kind in reversed(find_pii(text)):
        text = f"{text[:start]}[{kind.upper()}]{text[end:]}"
    return text


def record_pii(value: dict[str, Any]) -> list[str]:
    """Return the kinds found in the fields a model reads (not ids, names or extra fields)."""
    texts = [text for name in _TEXT_FIELDS for text in _strings(value.get(name))]
    return [kind for text in texts for _, _, kind in find_pii(text)]


def mask_record(value: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with the fields a model reads masked."""
    return {name: _masked(item) if name in _TEXT_FIELDS else item for name, item in value.items()}


def _strings(value: object) -> Sequence[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _strings(value.get("content"))
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_pii(value)
    if isinstance(value, dict):
        return {name: _masked(item) if name == "content" else item for name, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _luhn(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    compact = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def _phone(text: str) -> bool:
    return 7 <= sum(char.isdigit() for char in text) <= 15


_CHECKS = {"card": _luhn, "iban": _iban, "phone": _phone}
