"""What the seeds' measures say about each of the paper's findings. Pure functions: no training, no files.

A figure is a mean over seeds with its 95 % interval by Student's t: seeds are what is repeated here. A claim holds where the
rule in its `rule` does; the rules were written down before seeds 1 to 5 were run, and tried on seed 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.paper.stages import GOLD_RM_PROMPTS, KL_COEFS, LR_FACTORS, PTX_COEFS

Measures = Mapping[str, Any]

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""

RESTORED = 1.02
"""A text loss up to this factor of PPO's start counts as kept."""

NEAR_AGREEMENT = 0.10
"""A reward model's accuracy within this of the labelers' agreement counts as near."""

ABOUT_AS_OFTEN = 0.03
"""Preference rates within this of one another count as about the same."""


class Figure(NamedTuple):
    """A mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float

    def row(self) -> dict[str, Any]:
        """As it is written."""
        return {"mean": round(self.mean, 4), "ci95": [round(self.low, 4), round(self.high, 4)]}


def figure(values: Sequence[float]) -> Figure:
    """Mean of one value per seed, with its interval; no interval (infinite) of a single seed."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Figure(mean, -math.inf, math.inf)
    half = T_95[min(len(x) - 1, max(T_95))] * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Figure(mean, mean - half, mean + half)


class Finding(NamedTuple):
    """A claim as measured: the figures behind it, which of them is quoted with its interval, and whether it holds."""

    figures: dict[str, Figure]
    quoted: str
    holds: bool
    note: str = ""


def _of(seeds: Sequence[Measures], *path: str) -> list[float]:
    """One value per seed, found along a path of keys."""
    found = []
    for row in seeds:
        value: Any = row
        for key in path:
            value = value[key]
        found.append(float(value))
    return found


def _model(seeds: Sequence[Measures], name: str, key: str) -> np.ndarray:
    return np.array(_of(seeds, "models", name, key))


def order_of_models(seeds: Sequence[Measures]) -> Finding:
    """Claim 1."""
    win = "win_rate_vs_sft"
    figures = {
        "base": figure(_model(seeds, "base", win)),
        "prompted base": figure(_of(seeds, "prompted", "prompted", win)),
        "SFT": figure(_model(seeds, "sft", win)),
        "PPO": figure(_model(seeds, "ppo", win)),
        "PPO-ptx": figure(_model(seeds, "ppo_ptx", win)),
    }
    base, prompted, sft, ppo, ptx = figures.values()
    holds = base.high < prompted.low and prompted.high < sft.low and sft.high < min(ppo.low, ptx.low)
    return Finding(figures, "PPO-ptx", holds)


def small_beats_large(seeds: Sequence[Measures]) -> Finding:
    """Claim 2."""
    figures = {
        "PPO-ptx preferred to the larger base model": figure(_of(seeds, "head_to_head", "ppo_ptx/large")),
        "times as many parameters": figure(
            np.array(_of(seeds, "parameters", "large")) / np.array(_of(seeds, "parameters", "ppo_ptx"))
        ),
        "larger base model, preferred to SFT": figure(_model(seeds, "large", "win_rate_vs_sft")),
        "larger base model with prefix, preferred to SFT": figure(
            _of(seeds, "prompted", "prompted_large", "win_rate_vs_sft")
        ),
    }
    quoted = "PPO-ptx preferred to the larger base model"
    return Finding(figures, quoted, figures[quoted].low > 0.5)


def truthful_and_constrained(seeds: Sequence[Measures]) -> Finding:
    """Claim 3."""
    names = {"base": "base", "SFT": "sft", "PPO-ptx": "ppo_ptx"}
    figures = {}
    for key in ("hallucination", "satisfies_constraint"):
        figures |= {
            f"{key.replace('_', ' ')}, {shown}": figure(_model(seeds, name, key)) for shown, name in names.items()
        }
    lies = figure(_model(seeds, "ppo_ptx", "hallucination") - _model(seeds, "sft", "hallucination"))
    kept = figure(_model(seeds, "ppo_ptx", "satisfies_constraint") - _model(seeds, "sft", "satisfies_constraint"))
    below_base = figure(_model(seeds, "ppo_ptx", "hallucination") - _model(seeds, "base", "hallucination"))
    figures |= {"hallucination, PPO-ptx less SFT": lies, "satisfies constraint, PPO-ptx less SFT": kept}
    return Finding(figures, "hallucination, PPO-ptx less SFT", lies.high < 0 and below_base.high < 0 and kept.low > 0)


def held_out_accuracy(seeds: Sequence[Measures]) -> Finding:
    """Claim 4."""
    found = {
        group: np.array(_of(seeds, "rm", "models", "rm", group, "pair_accuracy")) for group in ("training", "held_out")
    }
    agreement = {group: figure(_of(seeds, "agreement", group)) for group in ("training", "held_out")}
    figures = {
        "accuracy, training labelers": figure(found["training"]),
        "accuracy, held-out labelers": figure(found["held_out"]),
        "difference": figure(found["training"] - found["held_out"]),
        "training labelers among themselves": agreement["training"],
        "held-out labelers among themselves": agreement["held_out"],
    }
    near = all(agreement[group].mean - float(found[group].mean()) <= NEAR_AGREEMENT for group in agreement)
    return Finding(figures, "difference", figures["difference"].low > 0 and near)


def pairs_overfit(seeds: Sequence[Measures]) -> Finding:
    """Claim 5."""

    def rise(name: str) -> np.ndarray:
        """Validation loss at the end of the epoch above its least."""
        losses = [row["rm_curves"][name]["val/loss"] for row in seeds]
        return np.array([loss[-1] - min(loss) for loss in losses])

    def last(name: str, key: str) -> np.ndarray:
        """At the end of the epoch."""
        return np.array([row["rm_curves"][name][key][-1] for row in seeds])

    passes = np.array(_of(seeds, "forward_passes", "pairs")) / np.array(_of(seeds, "forward_passes", "kwise"))
    figures = {
        "rise of validation loss within the epoch, pairs": figure(rise("rm_pairs")),
        "rise of validation loss within the epoch, rankings": figure(rise("rm_kwise")),
        "final validation loss, pairs less rankings": figure(
            last("rm_pairs", "val/loss") - last("rm_kwise", "val/loss")
        ),
        "final accuracy, pairs less rankings": figure(
            last("rm_pairs", "val/pair_accuracy") - last("rm_kwise", "val/pair_accuracy")
        ),
        "completions computed, pairs by rankings": figure(passes),
    }
    more = figure(rise("rm_pairs") - rise("rm_kwise"))
    loss = figures["final validation loss, pairs less rankings"]
    accuracy = figures["final accuracy, pairs less rankings"]
    return Finding(
        figures, "final validation loss, pairs less rankings", more.low > 0 and loss.low > 0 and accuracy.high < 0
    )


def score_selects_later(seeds: Sequence[Measures]) -> Finding:
    """Claim 6."""
    least = np.array([1 + int(np.argmin(row["sft_curve"]["val/loss"])) for row in seeds])
    best = np.array([1 + int(np.argmax(row["sft_curve"]["val/rm_score"])) for row in seeds])
    figures = {
        "epoch of least validation loss": figure(least),
        "epoch of best reward-model score": figure(best),
        "win rate of the later over the earlier": figure(_of(seeds, "sft", "best_score", "win_rate_vs_least_loss")),
    }
    quoted = "win rate of the later over the earlier"
    return Finding(figures, quoted, figure(best - least).low > 0 and figures[quoted].low > 0.5)


def alignment_tax(seeds: Sequence[Measures]) -> Finding:
    """Claim 7."""
    start, score = _model(seeds, "init", "text_loss"), _model(seeds, "init", "rm_score")
    gain = _model(seeds, "ppo", "rm_score") - score
    arms = ["ppo", "ppo_ptx", *[f"ptx_{x:g}" for x in PTX_COEFS], *[f"kl_{x:g}" for x in KL_COEFS]]
    figures, kept, earned = {}, {}, {}
    for arm in arms:
        kept[arm] = figure(_model(seeds, arm, "text_loss") / start)
        earned[arm] = figure((_model(seeds, arm, "rm_score") - score) / gain)
        figures[f"{arm}: text loss by its start's"] = kept[arm]
        figures[f"{arm}: share of PPO's gain in score"] = earned[arm]
    taxed = kept["ppo"].low > RESTORED
    restored = [arm for arm in arms if arm.startswith(("ppo_ptx", "ptx_")) and kept[arm].high <= RESTORED]
    best = max((earned[arm].low for arm in restored), default=-math.inf)
    by_kl = [arm for arm in arms if arm.startswith("kl_") and kept[arm].mean <= RESTORED]
    cheaper = all(earned[arm].high < best for arm in by_kl)
    return Finding(figures, "ppo: text loss by its start's", taxed and bool(restored) and cheaper)


def large_rates(seeds: Sequence[Measures]) -> Finding:
    """Claim 8."""
    start = _model(seeds, "init", "utility")
    figures, without, with_text = {}, {}, {}
    for x in (1, *LR_FACTORS):
        arms = ("ppo", "ppo_ptx") if x == 1 else (f"lr_{x}", f"lr_{x}_ptx")
        without[x], with_text[x] = (_model(seeds, arm, "utility") - start for arm in arms)
        figures[f"{x} x the rate, PPO: utility above its start's"] = figure(without[x])
        figures[f"{x} x the rate, PPO-ptx: utility above its start's"] = figure(with_text[x])
    largest = max(LR_FACTORS)
    less = figure(with_text[largest] - without[largest])
    figures[f"{largest} x the rate, PPO-ptx less PPO"] = less
    diverged = figure(without[largest]).high < 0
    return Finding(figures, f"{largest} x the rate, PPO-ptx less PPO", diverged and less.low > 0)


def held_out_preference(seeds: Sequence[Measures]) -> Finding:
    """Claim 9."""
    rates = {group: np.array(_of(seeds, "preferences", group, "rate")) for group in ("training", "held_out")}
    figures = {
        "PPO-ptx preferred to SFT, training labelers": figure(rates["training"]),
        "PPO-ptx preferred to SFT, held-out labelers": figure(rates["held_out"]),
        "difference": figure(rates["held_out"] - rates["training"]),
    }
    difference = figures["difference"]
    same = max(abs(difference.low), abs(difference.high)) <= ABOUT_AS_OFTEN
    return Finding(figures, "difference", same and all(figure(rate).low > 0.5 for rate in rates.values()))


# ------------------------------------------------------------------ over-optimization


def overoptimization_curve(row: Measures, size: int) -> dict[str, np.ndarray]:
    """sqrt(KL) and the gains of gold and proxy score along a run, in units of the gold score's spread at the start."""
    models = row["over"][str(size)]
    start, spread = models["init"], row["best_of"][str(size)][0]["gold_std"]
    steps = [model for name, model in models.items() if name != "init"]
    return {
        "d": np.sqrt(np.maximum([model["kl_to_init"] for model in steps], 0)),
        "gold": np.array([(model["utility"] - start["utility"]) / spread for model in steps]),
        "proxy": np.array([model["rm_score"] - start["rm_score"] for model in steps]),
    }


def fit_rl(d: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    """Alpha and beta of Gao et al.'s `d (alpha - beta log d)`, by least squares."""
    return _fit(np.stack([d, -d * np.log(d)], 1), gold)


def fit_best_of_n(d: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    """Alpha and beta of `d (alpha - beta d)`, by least squares."""
    return _fit(np.stack([d, -(d**2)], 1), gold)


def _fit(design: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    alpha, beta = np.linalg.lstsq(design, gold, rcond=None)[0]
    return float(alpha), float(beta)


def rl_peak(alpha: float, beta: float) -> float:
    """Where `d (alpha - beta log d)` is highest: exp(alpha / beta - 1); infinite where it never falls."""
    return math.exp(min(alpha / beta - 1, 700)) if beta > 0 else math.inf


def overoptimization(seeds: Sequence[Measures]) -> Finding:
    """Claim 10."""
    figures: dict[str, Figure] = {}
    turns, places = {}, {}
    for size in GOLD_RM_PROMPTS:
        curves = [overoptimization_curve(row, size) for row in seeds]
        after = [curve["gold"][-1] - curve["gold"].max() for curve in curves]
        proxy = [curve["proxy"][-1] - curve["proxy"][int(np.argmax(curve["gold"]))] for curve in curves]
        peaks = [rl_peak(*fit_rl(curve["d"][curve["d"] > 0], curve["gold"][curve["d"] > 0])) for curve in curves]
        places[size] = np.array([min(peak, float(curve["d"].max())) for peak, curve in zip(peaks, curves, strict=True)])
        turns[size] = figure(after)
        figures[f"{size} ranked prompts: gold score from its peak to the end"] = turns[size]
        figures[f"{size} ranked prompts: proxy score in the same time"] = figure(proxy)
        figures[f"{size} ranked prompts: sqrt(KL) at the fitted peak"] = figure(places[size])
        figures[f"{size} ranked prompts: gold score at its peak"] = figure([curve["gold"].max() for curve in curves])
    smallest, largest = GOLD_RM_PROMPTS[0], GOLD_RM_PROMPTS[-1]
    moved = figure(places[largest] - places[smallest])
    figures["sqrt(KL) at the peak, most data less least"] = moved
    rises = figures[f"{smallest} ranked prompts: proxy score in the same time"].low > 0
    return Finding(
        figures, "sqrt(KL) at the peak, most data less least", turns[smallest].high < 0 and rises and moved.low > 0
    )


class Claim(NamedTuple):
    """A finding of the paper, how it was stated, and the rule by which it holds here."""

    id: int
    claim: str
    paper: str
    rule: str
    find: Callable[[Sequence[Measures]], Finding]


CLAIMS = (
    Claim(1, "By win rate against SFT: base < prompted base < SFT < PPO and PPO-ptx",
          "1.3B: .13 < .22 < .34 < .52, .52 (chart; against the 175B SFT model)",
          "the four steps' intervals lie apart", order_of_models),
    Claim(2, "A small PPO-ptx policy is preferred to a base model several times larger", "1.3B over 175B",
          "preferred on more than half of the prompts", small_beats_large),
    Claim(3, "Hallucination falls from base and SFT to PPO-ptx; constraint satisfaction rises",
          "closed-domain hallucination .41 (GPT-3) to .21", "both differences to SFT, and that to base, are not 0",
          truthful_and_constrained),
    Claim(4, "The reward model is a few points more accurate on training labelers; both near the labelers' agreement",
          ".724 and .696; labelers agree on .726 (training), .773 (held out)",
          f"the difference is above 0, both within {NEAR_AGREEMENT} of the agreement", held_out_accuracy),
    Claim(5, "Shuffled pairs overfit within an epoch, all pairs of a prompt in one element do not", "so stated (section 3.5)",
          "with pairs the validation loss rises more within the epoch and ends higher, the accuracy ends lower", pairs_overfit),
    Claim(6, "SFT's validation loss is least after about an epoch, the reward-model score later; the later model is better",
          "one epoch of 16; selection by score (section 3.5)",
          "the score's best epoch is later, and its model is preferred", score_selects_later),
    Claim(7, "PPO raises the text loss; ptx restores it, a larger KL coefficient does not or costs much more score",
          "ptx_coef of 20 or more restores, a KL coefficient of 2 does not (Appendix E.6, E.7)",
          f"PPO ends above {RESTORED} of its start's text loss, some ptx_coef below, with more of the score than any kl_coef",
          alignment_tax),
    Claim(8, "Large policy learning rates diverge without ptx, less so with it",
          "above 8.05e-6 all diverged without (Appendix E.9)",
          "at the largest rate PPO ends below its start, PPO-ptx above PPO", large_rates),
    Claim(9, "Held-out labelers prefer PPO-ptx about as often", "about the same rates (section 4.1)",
          f"the rates differ by at most {ABOUT_AS_OFTEN}, both above one half", held_out_preference),
    Claim(10, "Over-optimization: gold score turns while proxy score rises; the peak moves right with more data",
          "Gao et al. (2022), figure 1 and section 3.3",
          "with least data gold falls after its peak while proxy rises; the fitted peak is further out with most data",
          overoptimization),
)  # fmt: skip


def evaluate_claims(seeds: Sequence[Measures]) -> list[dict[str, Any]]:
    """All claims, none left out, as they are written to the results."""
    found = []
    for claim in CLAIMS:
        finding = claim.find(seeds)
        quoted = finding.figures[finding.quoted]
        found.append({
            "id": claim.id, "claim": claim.claim, "paper": claim.paper, "rule": claim.rule,
            "ours": round(quoted.mean, 4), "ours_is": finding.quoted, "ci95": quoted.row()["ci95"],
            "seeds": [row["seed"] for row in seeds], "holds": bool(finding.holds),
            "figures": {name: value.row() for name, value in finding.figures.items()},
        })  # fmt: skip
    return found
