"""The opening of the page: the results in sentences and the win rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.charts import Bar, bar_chart
from lit_instructgpt.report.numbers import NBSP, clean, decimal, duration, interval, number, percent, percent_range
from lit_instructgpt.report.parts import NOTHING, all_models, as_dict, color_of, figure, join, name_of
from lit_instructgpt.report.timing import total_seconds
from lit_instructgpt.report.verdicts import WIN_RATE, baseline_of, by_reward_model, by_whom

OPENING = (
    "A language model learned to follow instructions the way InstructGPT did: supervised fine-tuning "
    "(SFT) on demonstrations, a reward model fitted to comparisons, then reinforcement learning (PPO) "
    "against that reward model."
)


def hero(report: Mapping[str, Any]) -> Markup:
    """The opening: what was done, the result in sentences and the win rates."""
    preferences, others = _preferences(report)
    sentences = [*others, *_behaviour(report), *_reward_model_sentences(report), *_cost(report)]
    if not preferences and not sentences:
        return NOTHING
    opening = Markup("<p>{}</p>").format(OPENING) if _of_whole_pipeline(report) else NOTHING
    lead = Markup('<p class="lead">{}</p>').format(" ".join(preferences)) if preferences else NOTHING
    summary = Markup("<div>{}{}<p>{}</p></div>").format(opening, lead, " ".join(sentences))
    return Markup('<div class="hero">{}{}</div>').format(summary, _win_charts(report))


def _of_whole_pipeline(report: Mapping[str, Any]) -> bool:
    """Whether the report is of all stages: base, SFT and PPO models beside the figures of a reward model."""
    models = all_models(report)
    measured = number(as_dict(report.get("rm")).get("pair_accuracy")) is not None
    return measured and {"base", "sft"} <= models.keys() and not models.keys().isdisjoint({"ppo", "ppo_ptx"})


def _preferences(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The sentences on the trained models, the last model first, and those on the base model and on who judged."""
    trained: list[str] = []
    base: list[str] = []
    for model, m in all_models(report).items():
        baseline = baseline_of(m)
        rate, ci = number(m.get(f"{WIN_RATE}{baseline}")), interval(m.get("ci95"))
        if rate is None or baseline is None or model == baseline:
            continue
        count = number(m.get("num_prompts"))
        prompts = f"{decimal(count, 0)} held-out prompts" if count else "held-out prompts"
        bounds = f" (95{NBSP}% CI {percent_range(ci)})" if ci else ""
        verdict = ", so the two cannot be told apart" if ci and ci[0] <= 0.5 <= ci[1] else ""
        of = "of" if count else "of the"
        subject = "The base model" if model == "base" else name_of(model)
        (base if model == "base" else trained).append(
            f"{subject} is preferred to {name_of(baseline)}{by_whom(report)} on {percent(rate)} {of} {prompts}{bounds}{verdict}."
        )
    caution = ["A policy trained against this reward model wins by it in any case."]
    return trained[::-1], [*(caution if by_reward_model(report) and (trained or base) else []), *base]


def _behaviour(report: Mapping[str, Any]) -> list[str]:
    models = all_models(report)
    trained = [m for m in models if m not in ("base", "sft")]
    if not trained or "sft" not in models:
        return []
    last = models[trained[-1]]
    verbs = {"follows_instruction": "follows the instruction in", "hallucination": "hallucinates in",
             "satisfies_constraint": "satisfies the stated constraint in"}  # fmt: skip
    parts = [
        f"{verb} {percent(last[key])} of {_judged(last, key)} (SFT: {_of_sft(models['sft'], key)})"
        for key, verb in verbs.items()
        if number(last.get(key)) is not None
    ]
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + "".join(parts[-1:])
    return [f"{name_of(trained[-1])} {listed}."] if parts else []


def _judged(m: Mapping[str, Any], key: str) -> str:
    """The responses behind a mean: those for which the judge gave a number, where the report counts them."""
    count = number(m.get(f"num_{key}"))
    return "responses" if count is None else f"the {decimal(count, 0)} responses where it can be judged"


def _of_sft(sft: Mapping[str, Any], key: str) -> str:
    count = number(sft.get(f"num_{key}"))
    return percent(sft.get(key)) + (f" of {decimal(count, 0)}" if count is not None else "")


def _reward_model_sentences(report: Mapping[str, Any]) -> list[str]:
    rm, agreement = as_dict(report.get("rm")), as_dict(report.get("agreement"))
    if number(rm.get("pair_accuracy")) is None:
        return []
    count = number(rm.get("num_pairs"))
    pairs = f"{decimal(count, 0)} held-out pairs" if count else "the held-out pairs"
    sentence = f"The reward model ranks {percent(rm['pair_accuracy'])} of {pairs} as the labelers did"
    compared = []
    if number(rm.get("length_baseline")) is not None:
        compared.append(f"preferring the longer response gets {percent(rm['length_baseline'])}")
    if number(agreement.get("training")) is not None:
        compared.append(f"two labelers agree on {percent(agreement['training'])}")
    return [sentence + ("; " + " and ".join(compared) if compared else "") + "."]


def _cost(report: Mapping[str, Any]) -> list[str]:
    total = total_seconds(report)
    hardware = report.get("hardware")
    return [f"All of it took {duration(total)}{f' on {clean(hardware)}' if hardware else ''}."] if total else []


def _win_charts(report: Mapping[str, Any]) -> Markup:
    """A chart per baseline."""
    baselines = dict.fromkeys(baseline_of(m) for m in all_models(report).values())
    return join(_win_chart(report, baseline) for baseline in baselines if baseline is not None)


def _win_chart(report: Mapping[str, Any], baseline: str) -> Markup:
    models = all_models(report)
    bars = []
    for model, m in models.items():
        rate = number(m.get(f"{WIN_RATE}{baseline}"))
        if rate is not None and model != baseline:
            bars.append(Bar(name_of(model), rate, percent(rate), color_of(model, [*models]), interval(m.get("ci95"))))
    if not bars:
        return NOTHING
    name = name_of(baseline)
    chart = bar_chart(
        bars, f"Preferred to {name}", "share of held-out prompts", reference=(0.5, f"50{NBSP}%: as good as {name}")
    )
    return figure(f"Preferred to {name}", chart, _who_judged(report) + f"Whiskers: 95{NBSP}% confidence interval.")


def _who_judged(report: Mapping[str, Any]) -> str:
    by = by_whom(report).strip().capitalize()
    caution = "; a policy trained against it wins by it in any case" if by_reward_model(report) else ""
    return f"{by}{caution}. " if by else ""
