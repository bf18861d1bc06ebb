"""The seed of whatever names none of its own."""

from __future__ import annotations

import os


def seed_of(given: int | None) -> int:
    """``given``; where it is None, what ``--seed_everything`` (Lightning's ``seed_everything``) has set, and 0 without that."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if given is None else given
