"""One seed for all of a run that names none of its own."""

from __future__ import annotations

import os


def seed_of(given: int | None) -> int:
    """``given``; where it is None, what ``--seed_everything`` has set, and 0 without that.

    Lightning's ``seed_everything`` leaves it in the environment, for the processes of a run: asked for once, in constructors.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if given is None else given
