"""Responses of several models in a file, for people to rank."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_instructgpt.evaluation.policies import Samples
from lit_instructgpt.evaluation.ranked import CRITERION

OF_RESPONSES = ("response", "responses", "systems", "ranking", "labeler", CRITERION)
"""What a line of demonstrations or of rankings says of its responses; any list of one entry for each does too."""


def write_responses(found: dict[str, Samples], path: str, seed: int) -> None:
    """One line per prompt: its record, the models' responses in random order, and whose they are.

    What the prompt's line says of responses that it came with is left out: it would pass for what people say of these.
    """
    rows = []
    for i, record in enumerate(next(iter(found.values())).records):
        names = list(found)
        random.Random(f"{seed}/{i}").shuffle(names)
        rows.append(
            {**without_responses(record), "responses": [found[name].texts[i] for name in names], "systems": names}
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def without_responses(record: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's line without what is of responses that it came with."""
    had = record.get("responses")
    num = len(had) if isinstance(had, list) else None
    return {
        key: value
        for key, value in record.items()
        if key not in OF_RESPONSES and (key == "prompt" or not isinstance(value, list) or len(value) != num)
    }
