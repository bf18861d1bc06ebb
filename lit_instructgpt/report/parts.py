"""Reading the report, whatever is in it, and the markup that all sections share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.numbers import clean
from lit_instructgpt.report.style import COLORS, SPARE_COLORS

NAMES = {"base": "Base", "sft": "SFT", "init": "PPO's start", "rm": "Reward model", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
NOTHING = Markup()
POLICIES = "policies"
"""Kind of what ``evaluate`` writes; its older files have none."""


def join(parts: Any, by: str = "") -> Markup:
    """The parts in one piece of markup."""
    return Markup(by).join(parts)


def as_dict(value: object) -> dict[str, Any]:
    """A mapping with its keys as strings; empty when the value is not one."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def as_list(value: object) -> list[Any]:
    """A sequence as a list; empty when the value is not one."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def all_models(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of each model of the report."""
    return {name: as_dict(metrics) for name, metrics in as_dict(report.get("models")).items()}


def of_policies(result: Mapping[str, Any]) -> bool:
    """Whether a result is one of ``evaluate``."""
    return result.get("kind", POLICIES if "models" in result else None) == POLICIES


def name_of(model: str) -> str:
    """A model's name as shown."""
    return NAMES.get(model, clean(model))


def color_of(model: str, others: Sequence[str]) -> str:
    """A model's color: its own, or a spare one by its place among ``others``."""
    if model in COLORS:
        return COLORS[model]
    unknown = [m for m in others if m not in COLORS]
    return SPARE_COLORS[unknown.index(model) % len(SPARE_COLORS)] if model in unknown else "var(--gray)"


def figure(caption: str, chart: Markup, note: str = "") -> Markup:
    """A chart with a caption."""
    small = Markup(" <small>{}</small>").format(note) if note else NOTHING
    return Markup("<figure><figcaption>{}{}</figcaption>{}</figure>\n").format(caption, small, chart)
