"""What the numbers of a model mean, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lit_instructgpt.report.parts import name_of


class Metric(NamedTuple):
    """How a number of a model is shown; ``better`` is 1 for higher, -1 for lower, 0 for neither."""

    name: str
    unit: str
    better: int
    meaning: str


WIN_RATE = "win_rate_vs_"
"""Begins the key of a win rate; the baseline's name follows."""


def baseline_of(keys: Iterable[str]) -> str | None:
    """The model that win rates are against; None where there are none."""
    return next((key.removeprefix(WIN_RATE) for key in keys if key.startswith(WIN_RATE)), None)


JUDGES = {"pair_judge": "the pair judge", "judge": "the judge", "reward_model": "the reward model"}
"""How those are called who decide wins (``wins_by``)."""


def by_whom(report: Mapping[str, Any]) -> str:
    """`` by the ...``, whoever decided the wins; empty where the report does not say."""
    judge = JUDGES.get(str(report.get("wins_by")))
    return f" by {judge}" if judge else ""


def by_reward_model(report: Mapping[str, Any]) -> bool:
    """Whether the reward model decided the wins."""
    return report.get("wins_by") == "reward_model"


def win_rate_metric(baseline: str, by: str) -> Metric:
    """What a win rate means; ``by`` says who decided."""
    name = name_of(baseline)
    return Metric(
        f"Preferred to {name}",
        "%",
        1,
        f"Share of held-out prompts on which the model's response is preferred to that of {name}{by}. "
        f"At 50 % the model is as good as {name}.",
    )


METRICS = {
    "length_controlled_win_rate": Metric(
        "The same at equal lengths", "%", 1, "The win rate that is left when the difference in length is accounted for."
    ),
    "follows_instruction": Metric(
        "Follows the instruction", "%", 1, "Share of responses that attempt the task the prompt asks for."
    ),
    "hallucination": Metric(
        "Hallucinates",
        "%",
        -1,
        "Share of responses that state what the prompt does not support, where that can be judged.",
    ),
    "satisfies_constraint": Metric(
        "Satisfies the constraint",
        "%",
        1,
        "Share of responses that obey the prompt's explicit constraint, where it has one.",
    ),
    "likert": Metric("Overall quality (1 to 7)", "", 1, "Mean rating of the responses from 1 (worst) to 7 (best)."),
    "rm_score": Metric(
        "Reward model score",
        "",
        1,
        "Mean score by the reward model. Of a policy trained against it, it can rise while the responses get worse.",
    ),
    "kl_to_init": Metric(
        "KL from init (nats)",
        "",
        0,
        "How far a model is from the one that --init names, the baseline without it: mean KL divergence per response.",
    ),
    "text_loss": Metric(
        "Loss on text (nats per token)",
        "",
        0,
        "Cross-entropy on held-out pretraining text. A rise is the alignment tax that ptx is to lower. Between models of "
        "different tokenizers the next row is the one to compare.",
    ),
    "text_loss_per_byte": Metric(
        "Loss on text (nats per byte)", "", -1, "The same by bytes of the text, whatever the tokenizer."
    ),
    "response_tokens": Metric("Response length (tokens)", "", 0, "Mean number of tokens in a response."),
    "stop_rate": Metric("Ends by itself", "%", 1, "Share of responses that end with the end-of-text token in time."),
    "repetition": Metric(
        "Repeats itself", "%", -1, "Share of a response's token 4-grams that it had before, mean over the responses."
    ),
    "num_prompts": Metric("Held-out prompts", "", 0, "Number of held-out prompts behind the numbers of the model."),
}
VERDICTS = {
    "follows_instruction": ("misses the instruction", "follows the instruction"),
    "hallucination": ("no hallucination", "hallucinates"),
    "satisfies_constraint": ("breaks the constraint", "satisfies the constraint"),
}
