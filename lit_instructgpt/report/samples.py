"""Held-out prompts with the responses of every model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lit_instructgpt.report.numbers import DASH, clean, decimal, number
from lit_instructgpt.report.parts import NOTHING, as_dict, as_list, color_of, join, name_of
from lit_instructgpt.report.verdicts import METRICS, VERDICTS

OPEN_SAMPLES = 8


def sample_cards(report: Mapping[str, Any]) -> Markup:
    """Prompts with the models' responses side by side."""
    cards = [_sample(s) for s in map(as_dict, as_list(report.get("samples"))) if s]
    if not cards:
        return NOTHING
    note = Markup(
        '<p class="note">Held-out prompts. The number is the score by the reward model, the highest in bold.</p>'
    )
    rest = Markup("<details><summary>{} more</summary>{}</details>").format(
        f"{len(cards) - OPEN_SAMPLES:,}", join(cards[OPEN_SAMPLES:])
    )
    return note + join(cards[:OPEN_SAMPLES]) + (rest if len(cards) > OPEN_SAMPLES else NOTHING)


def _sample(sample: Mapping[str, Any]) -> Markup:
    chip = (
        Markup('<span class="chip">{}</span>').format(clean(sample["use_case"]).replace("_", " "))
        if sample.get("use_case")
        else NOTHING
    )
    responses = {name: as_dict(r) for name, r in as_dict(sample.get("responses")).items()}
    scores = [v for r in responses.values() if (v := number(r.get("score"))) is not None]
    top = max(scores) if len(scores) > 1 else None
    answers = []
    for model, r in responses.items():
        score = number(r.get("score"))
        css = "top" if score is not None and score == top else "score"
        badges = join(_badge(k, v) for k, v in as_dict(r.get("judgement")).items())
        answers.append(
            Markup(
                '<div class="answer" style="border-color:{}"><div class="who">{}<span class="{}" '
                'title="reward model score">{}</span></div><div class="text">{}</div>'
                '<div class="badges">{}</div></div>\n'
            ).format(
                color_of(model, [*responses]),
                name_of(model),
                css,
                decimal(score, 2),
                clean(r.get("text") or "(empty)"),
                badges,
            )
        )
    return Markup(
        '<article class="card">{}<div class="prompt">{}</div><div class="answers">{}</div></article>\n'
    ).format(chip, clean(sample.get("prompt") or ""), join(answers))


def _badge(key: str, value: object) -> Markup:
    x, label = number(value), clean(key).replace("_", " ")
    if x is None:
        return Markup('<span title="not judged">{} {}</span>').format(DASH, label)
    if key not in VERDICTS or x not in (0.0, 1.0):
        return Markup("<span>{} {}</span>").format(label, f"{x:g}")
    good = (x == 1.0) == (METRICS[key].better > 0)
    css, sign = ("good", "\u2713") if good else ("bad", "\u2717")
    return Markup('<span class="{}">{} {}</span>').format(css, sign, VERDICTS[key][x == 1.0])
