"""People who write demonstrations and rank outputs, each with a taste of their own, and noise."""

import random
from dataclasses import dataclass

from miniature.answers import SLIPS, STYLES, embellished, right, slip, styled
from miniature.gold import judge, measure
from miniature.templates import ANSWERS
from miniature.world import Gold


@dataclass(frozen=True)
class Labeler:
    """A labeler: what they weigh beside the truth, how noisily they see it, and how they write.

    Attributes:
        id: Name in the data.
        brevity: Utility lost for every ten words.
        detail: Utility gained for every sentence after the first, up to two.
        politeness: Utility gained by a courteous closing.
        strictness: Utility lost by a broken constraint, beyond what everybody loses.
        truth: Utility lost by a claim that the prompt does not bear out, beyond what everybody loses.
        form: Utility gained by well-formed sentences.
        noise: Standard deviation of the error of perceived utility.
        tie: Perceived utilities closer than this are a tie.
        styles: Shares of plain, detailed, terse and rambling demonstrations.
        slips: Share of demonstrations with a slip.
    """

    id: str
    brevity: float
    detail: float
    politeness: float
    strictness: float
    truth: float
    form: float
    noise: float
    tie: float = 0.2
    styles: tuple[float, float, float, float] = (0.55, 0.2, 0.12, 0.13)
    slips: float = 0.16


EMBELLISH = 0.3
"""Share of the demonstrations of closed-domain tasks that add what the prompt does not say."""

_PLAIN = (0.60, 0.18, 0.11, 0.11)
_TALKER = (0.45, 0.25, 0.05, 0.25)
_BRIEF = (0.55, 0.10, 0.28, 0.07)

TRAINING: tuple[Labeler, ...] = (
    Labeler("labeler-01", 0.2, 0.0, 0.3, 0.5, 0.5, 0.3, 1.41, styles=_PLAIN, slips=0.12),
    Labeler("labeler-02", 0.6, 0.0, 0.0, 0.5, 0.0, 0.0, 1.55, styles=_BRIEF, slips=0.15),
    Labeler("labeler-03", 0.0, 0.4, 0.3, 0.0, 0.5, 0.3, 1.41, styles=_TALKER, slips=0.17),
    Labeler("labeler-04", 0.3, 0.0, 0.6, 0.0, 0.5, 0.0, 1.69, styles=_PLAIN, slips=0.18),
    Labeler("labeler-05", 0.0, 0.2, 0.0, 1.0, 0.0, 0.5, 1.41, styles=_PLAIN, slips=0.12),
    Labeler("labeler-06", 0.5, 0.0, 0.2, 0.3, 0.8, 0.0, 1.55, styles=_BRIEF, slips=0.14),
    Labeler("labeler-07", 0.0, 0.5, 0.5, 0.0, 0.2, 0.2, 1.69, styles=_TALKER, slips=0.20),
    Labeler("labeler-08", 0.3, 0.1, 0.2, 0.3, 0.3, 0.3, 1.27, styles=_PLAIN, slips=0.13),
    Labeler("labeler-09", 0.2, 0.0, 0.0, 0.8, 0.8, 0.0, 1.41, styles=_PLAIN, slips=0.14),
    Labeler("labeler-10", 0.4, 0.0, 0.4, 0.2, 0.0, 0.5, 1.55, styles=_BRIEF, slips=0.16),
    Labeler("labeler-11", 0.0, 0.3, 0.2, 0.4, 0.4, 0.2, 1.41, styles=_PLAIN, slips=0.18),
    Labeler("labeler-12", 0.3, 0.2, 0.1, 0.0, 0.6, 0.4, 1.69, styles=_TALKER, slips=0.19),
    Labeler("labeler-13", 0.1, 0.1, 0.6, 0.6, 0.2, 0.0, 1.41, styles=_PLAIN, slips=0.16),
    Labeler("labeler-14", 0.5, 0.0, 0.0, 0.2, 0.5, 0.5, 1.55, styles=_BRIEF, slips=0.17),
)
"""Labelers whose demonstrations and rankings are training data."""

HELD_OUT: tuple[Labeler, ...] = (
    Labeler("held-out-01", -0.2, 0.6, 0.1, 0.1, 0.9, 0.1, 1.39),
    Labeler("held-out-02", 0.9, -0.3, 0.0, 0.9, 0.6, 0.2, 1.39),
    Labeler("held-out-03", 0.1, 0.3, 0.9, 0.0, 0.9, 0.1, 1.55),
    Labeler("held-out-04", 0.6, -0.2, 0.2, 0.3, 1.0, 0.6, 1.39),
    Labeler("held-out-05", 0.0, 0.2, 0.6, 0.9, 0.3, 0.6, 1.55),
)
"""Labelers of another taste who write no training data and only judge."""


def demonstrate(labeler: Labeler, gold: Gold, rng: random.Random, clean: bool = False) -> str:
    """Write a demonstration the labeler's way; a clean one is right and well-formed."""
    if clean:
        return right(gold, rng, detailed=rng.random() < 0.3)
    if rng.random() < EMBELLISH and "embellish" in ANSWERS[gold["task"]]:
        return embellished(gold, rng)
    if rng.random() < labeler.slips:
        return slip(gold, rng, rng.choices(SLIPS, weights=(5, 3, 2))[0])
    return styled(gold, rng, rng.choices(STYLES, weights=labeler.styles)[0])


def perceive(labeler: Labeler, gold: Gold, response: str) -> float:
    """Return what a response is worth to a labeler, before noise."""
    verdict, f = judge(gold, response), measure(gold, response)
    worth = verdict.utility
    worth -= labeler.brevity * f.num_words / 10
    worth += labeler.detail * max(0, min(f.num_sentences - 1, 2)) * verdict.follows_instruction
    worth += labeler.politeness * (f.closing and verdict.follows_instruction)
    worth -= labeler.strictness * (verdict.satisfies_constraint is False)
    worth -= labeler.truth * (f.foreign > 0)
    return worth + labeler.form * f.good_form


def rank(labeler: Labeler, gold: Gold, responses: list[str], rng: random.Random) -> list[int]:
    """Rank responses, 1 best; outputs that seem about equal share a rank, and ranks are dense."""
    worth = [perceive(labeler, gold, r) + rng.gauss(0.0, 1.0) * labeler.noise for r in responses]
    order = sorted(range(len(worth)), key=lambda i: (-worth[i], i))
    ranking = [0] * len(worth)
    level, head = 0, float("inf")
    for i in order:
        if level == 0 or head - worth[i] > labeler.tie:
            level, head = level + 1, worth[i]
        ranking[i] = level
    return ranking
