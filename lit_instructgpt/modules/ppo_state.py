"""What PPO adds to a checkpoint, and how it goes on from one, in the middle of an iteration too."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lit_instructgpt.batch import Rollout
from lit_instructgpt.lora import without_frozen
from lit_instructgpt.modules.frozen import check_same
from lit_instructgpt.modules.ppo_metrics import Metrics
from lit_instructgpt.ranks import of_every_process
from lit_instructgpt.sharding import fill

if TYPE_CHECKING:
    from lit_instructgpt.modules.ppo import PPOModule

FROZEN = ("ref.", "reward_model.")
"""Prefixes of weights that no checkpoint holds: it names their directories, and the hash of what was in them."""


@dataclass
class Iteration:
    """An iteration that has begun: its episodes, and how many of its optimizer steps have been taken."""

    rollout: Rollout
    num_updates: int = 0


def collect(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """Leaves the frozen models out of a checkpoint, and adds what else shapes the future."""
    state = checkpoint["state_dict"]
    for name in [n for n in state if n.startswith(FROZEN)]:
        del state[name]
    if module.ppo.lora is not None:
        without_frozen(module, state)
    checkpoint["ppo"] = {
        "kl_coef": module.kl_coef,
        "iteration": module.iteration,
        "frozen": module.frozen_sources,
        "current": None,
    }
    if module.current is not None:
        rollout = module.current.rollout
        checkpoint["ppo"]["current"] = {
            "rollout": {f.name: getattr(rollout, f.name) for f in fields(rollout)},
            "num_updates": module.current.num_updates,
            "metrics": of_every_process({"total": dict(module.metrics.total), "weight": dict(module.metrics.weight)}),
            "where": module.where,
            "samples": module.samples,
            "seconds": dict(module.seconds),
        }
    if module.ema is not None:
        checkpoint["ema"] = module.ema.average


def restore(module: PPOModule, checkpoint: dict[str, Any]) -> None:
    """The opposite of ``collect``.

    Raises:
        ValueError: the checkpoint has a moving average and this run has none, or the other way round; or it was trained
            beside other frozen models.
    """
    if ("ema" in checkpoint) != (module.ema is not None):
        had, now = ("a", "null") if "ema" in checkpoint else ("no", f"{module.ppo.ema_decay}")
        raise ValueError(
            f"the checkpoint holds {had} moving average of the weights, but ppo.ema_decay is {now}: set it as in "
            "the run that is resumed, or start a new run from an exported directory"
        )
    state = checkpoint["ppo"]
    check_same(state["frozen"], module.frozen_sources)
    module.kl_coef, module.iteration = state["kl_coef"], state["iteration"]
    if module.ema is not None:
        for name, average in module.ema.average.items():
            fill(average, checkpoint["ema"][name])
    if (current := state["current"]) is not None:
        rollout = Rollout(**{name: x.to(module.device) for name, x in current["rollout"].items()})
        module.current = Iteration(rollout, current["num_updates"])
        module.metrics = Metrics.of_process(current["metrics"], module.global_rank, module.trainer.world_size)
        module.samples, module.where, module.seconds = current["samples"], current["where"], current["seconds"]
