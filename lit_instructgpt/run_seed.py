"""One seed for all of a run that names none of its own; a resumed run keeps those it was begun with."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn


def seed_of(given: int | None) -> int:
    """``given``; where it is None, what ``--seed_everything`` has set, and 0 without that.

    Lightning's ``seed_everything`` leaves it in the environment (``PL_GLOBAL_SEED``), for the processes of a run.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if given is None else given


def begun_with(trainer: Trainer | None, then: Mapping[str, int], now: Mapping[str, int]) -> Mapping[str, int]:
    """The seeds that a run goes on with: those of its checkpoint. Other orders would mean nothing from a place in the middle.

    Args:
        trainer: of the run; where it does not fit, the seeds are those given.
        then: key -> seed, of the checkpoint; empty: of a version that did not keep them.
        now: key -> seed, as asked for.
    """
    if trainer is None or trainer.state.fn != "fit":
        return now
    if not then:
        rank_zero_warn(f"the checkpoint holds no seeds: the run goes on with {_list(now)}, as if begun with them")
        return now
    if differing := {key: seed for key, seed in now.items() if then.get(key, seed) != seed}:
        rank_zero_warn(
            f"the run goes on with the seeds it was begun with: {_list(then)}; {_list(differing)} would be another run: start it "
            "in a directory of its own, without --ckpt_path"
        )
    return {**now, **then}


def _list(seeds: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {seed}" for key, seed in seeds.items())
