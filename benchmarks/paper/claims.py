"""What the seeds' measures say about each of the paper's findings. Pure functions: no training, no files.

A figure is a mean over seeds with its 95 % interval by Student's t: seeds are what is repeated here. Differences are taken
seed by seed. A claim holds where the rule in its `rule` does, and every quantity of a rule is among its figures; the rules were
written down before seeds 1 to 5 were run, and tried on seed 0.
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

SEVERAL = 3
"""Times as many parameters: what "several times larger" asks at least."""

RESTORED = 1.02
"""A text loss up to this factor of PPO's start counts as kept."""

COLLAPSED = 2.0
"""A text loss above this factor of PPO's start: the policy has not overfitted the reward model but lost the language."""

A_FEW_POINTS = 0.06
"""A reward model's accuracies on two groups of labelers differ by at most this."""

NEAR_AGREEMENT = 0.05
"""How often a reward model and how often a labeler agrees with a labeler: near if they differ by at most this."""

EARLY = 1 / 3
"""SFT's validation loss is least within this part of its epochs."""

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
    larger = figures["times as many parameters"].mean >= SEVERAL
    return Finding(figures, quoted, figures[quoted].low > 0.5 and larger)


def truthful_and_constrained(seeds: Sequence[Measures]) -> Finding:
    """Claim 3."""
    names = {"base": "base", "SFT": "sft", "PPO-ptx": "ppo_ptx"}
    figures = {}
    for key in ("hallucination", "satisfies_constraint"):
        figures |= {
            f"{key.replace('_', ' ')}, {shown}": figure(_model(seeds, name, key)) for shown, name in names.items()
        }
    holds = True
    for key, sign in (("hallucination", -1), ("satisfies_constraint", 1)):
        for shown, name in (("SFT", "sft"), ("base", "base")):
            change = figure(_model(seeds, "ppo_ptx", key) - _model(seeds, name, key))
            figures[f"{key.replace('_', ' ')}, PPO-ptx less {shown}"] = change
            holds = holds and (change.high < 0 if sign < 0 else change.low > 0)
    return Finding(figures, "hallucination, PPO-ptx less SFT", holds)


def held_out_accuracy(seeds: Sequence[Measures]) -> Finding:
    """Claim 4. Agreement is on the same pairs for labelers and reward model."""
    groups = {"training": "training labelers", "held_out": "held-out labelers"}
    found = {group: np.array(_of(seeds, "rm", "models", "rm", group, "pair_accuracy")) for group in groups}
    figures = {f"accuracy, {shown}": figure(found[group]) for group, shown in groups.items()}
    difference = figures["difference"] = figure(found["training"] - found["held_out"])
    near = True
    for group, shown in groups.items():
        among = np.array(_of(seeds, "rm", "agreement", group, "labelers", "agreement"))
        model = np.array(_of(seeds, "rm", "agreement", group, "models", "rm", "agreement"))
        figures[f"{shown} with one another"] = figure(among)
        figures[f"reward model with {shown}, the same pairs"] = figure(model)
        apart = figures[f"reward model less {shown}"] = figure(model - among)
        near = near and max(abs(apart.low), abs(apart.high)) <= NEAR_AGREEMENT
    return Finding(figures, "difference", difference.low > 0 and difference.high <= A_FEW_POINTS and near)


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
        "rise, pairs less rankings": figure(rise("rm_pairs") - rise("rm_kwise")),
        "final validation loss, pairs less rankings": figure(
            last("rm_pairs", "val/loss") - last("rm_kwise", "val/loss")
        ),
        "final accuracy, pairs less rankings": figure(
            last("rm_pairs", "val/pair_accuracy") - last("rm_kwise", "val/pair_accuracy")
        ),
        "completions computed, pairs by rankings": figure(passes),
    }
    more, loss, accuracy = list(figures.values())[2:5]
    holds = more.low > 0 and loss.low > 0 and accuracy.high < 0
    return Finding(figures, "final validation loss, pairs less rankings", holds)


def score_selects_later(seeds: Sequence[Measures]) -> Finding:
    """Claim 6."""
    least = np.array([1 + int(np.argmin(row["sft_curve"]["val/loss"])) for row in seeds])
    best = np.array([1 + int(np.argmax(row["sft_curve"]["val/rm_score"])) for row in seeds])
    epochs = np.array([len(row["sft_curve"]["val/loss"]) for row in seeds])
    figures = {
        "epoch of least validation loss": figure(least),
        "epoch of best reward-model score": figure(best),
        "epochs later": figure(best - least),
        "validation loss at the end by its least": figure(
            [row["sft_curve"]["val/loss"][-1] / min(row["sft_curve"]["val/loss"]) for row in seeds]
        ),
        "win rate of the later over the earlier": figure(_of(seeds, "sft", "best_score", "win_rate_vs_least_loss")),
    }
    quoted = "win rate of the later over the earlier"
    early = figure(least / epochs).high <= EARLY
    return Finding(figures, quoted, early and figures["epochs later"].low > 0 and figures[quoted].low > 0.5)


def alignment_tax(seeds: Sequence[Measures]) -> Finding:
    """Claim 7. The arm with text is that of the config, chosen before; each KL coefficient is compared with it."""
    start, score = _model(seeds, "init", "text_loss"), _model(seeds, "init", "rm_score")
    gain = _model(seeds, "ppo", "rm_score") - score
    kl_arms = [f"kl_{x:g}" for x in KL_COEFS]
    figures, kept, earned = {}, {}, {}
    for arm in ["ppo", "ppo_ptx", *[f"ptx_{x:g}" for x in PTX_COEFS], *kl_arms]:
        kept[arm] = _model(seeds, arm, "text_loss") / start
        earned[arm] = (_model(seeds, arm, "rm_score") - score) / gain
        figures[f"{arm}: text loss by its start's"] = figure(kept[arm])
        figures[f"{arm}: share of PPO's gain in score"] = figure(earned[arm])
    beaten = True
    for arm in kl_arms:
        loss = figures[f"text loss, {arm} less ppo_ptx"] = figure(kept[arm] - kept["ppo_ptx"])
        share = figures[f"share of the gain, ppo_ptx less {arm}"] = figure(earned["ppo_ptx"] - earned[arm])
        beaten = beaten and (loss.low > 0 or share.low > 0)
    costly = figures[f"share of the gain, ppo_ptx less {kl_arms[-1]}"].low > 0
    taxed = figures["ppo: text loss by its start's"].low > RESTORED
    restored = figures["ppo_ptx: text loss by its start's"].high <= RESTORED
    return Finding(figures, "ppo: text loss by its start's", taxed and restored and beaten and costly)


def large_rates(seeds: Sequence[Measures]) -> Finding:
    """Claim 8."""
    start, text = _model(seeds, "init", "utility"), _model(seeds, "init", "text_loss")
    figures, ended = {}, {}
    for x in (1, *LR_FACTORS):
        for shown, arm in (
            ("PPO", "ppo" if x == 1 else f"lr_{x}"),
            ("PPO-ptx", "ppo_ptx" if x == 1 else f"lr_{x}_ptx"),
        ):
            ended[x, shown] = _model(seeds, arm, "utility") - start
            figures[f"{x} x the rate, {shown}: utility above its start's"] = figure(ended[x, shown])
            figures[f"{x} x the rate, {shown}: text loss by its start's"] = figure(
                _model(seeds, arm, "text_loss") / text
            )
    largest = max(LR_FACTORS)
    quoted = f"{largest} x the rate, utility, PPO-ptx less PPO"
    figures[quoted] = figure(ended[largest, "PPO-ptx"] - ended[largest, "PPO"])
    diverged = (
        figures[f"{largest} x the rate, PPO: utility above its start's"].high < 0
        and figures[f"{largest} x the rate, PPO: text loss by its start's"].low > COLLAPSED
    )
    spared = figures[f"{largest} x the rate, PPO-ptx: text loss by its start's"].high < COLLAPSED
    return Finding(figures, quoted, diverged and spared and figures[quoted].low > 0)


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


def best_of_n_curve(row: Measures, size: int) -> dict[str, np.ndarray]:
    """sqrt(KL) and the gains of gold score, in units of its spread, and proxy score over a single sample's, for n above 1."""
    one, *more = row["best_of"][str(size)]
    return {
        "d": np.sqrt([point["kl"] for point in more]),
        "gold": np.array([(point["gold"] - one["gold"]) / one["gold_std"] for point in more]),
        "proxy": np.array([point["proxy"] - one["proxy"] for point in more]),
    }


def best_of_n_peak(alpha: float, beta: float) -> float:
    """Where `d (alpha - beta d)` is highest: alpha / (2 beta); infinite where it never falls."""
    return alpha / (2 * beta) if beta > 0 else math.inf


def fall_after_peak(curves: Sequence[Mapping[str, np.ndarray]]) -> tuple[list[float], list[float]]:
    """From the peak of gold score to the end, what gold and proxy score change by, one value per seed.

    Where the peak is, the other seeds say: the highest of a curve's own noisy points would lie above its end in any case.
    """
    length = min(len(curve["gold"]) for curve in curves)
    gold = np.array([curve["gold"][:length] for curve in curves])
    falls, rises = [], []
    for i, curve in enumerate(curves):
        others = np.delete(gold, i, axis=0) if len(curves) > 1 else gold
        peak = int(np.argmax(others.mean(0)))
        falls.append(float(curve["gold"][length - 1] - curve["gold"][peak]))
        rises.append(float(curve["proxy"][length - 1] - curve["proxy"][peak]))
    return falls, rises


def overoptimization(seeds: Sequence[Measures]) -> Finding:
    """Claim 10."""
    figures: dict[str, Figure] = {}
    places: dict[tuple[str, int], np.ndarray] = {}
    turns = True
    smallest, largest = GOLD_RM_PROMPTS[0], GOLD_RM_PROMPTS[-1]
    ways = (
        ("PPO", overoptimization_curve, lambda d, gold: rl_peak(*fit_rl(d, gold))),
        ("best of n", best_of_n_curve, lambda d, gold: best_of_n_peak(*fit_best_of_n(d, gold))),
    )
    for way, curve_of, peak_of in ways:
        for size in GOLD_RM_PROMPTS:
            curves = [curve_of(row, size) for row in seeds]
            kept = [(curve["d"][curve["d"] > 0], curve["gold"][curve["d"] > 0], curve["d"].max()) for curve in curves]
            places[way, size] = np.array([min(max(peak_of(d, gold), 0.0), end) for d, gold, end in kept])
            falls, rises = map(figure, fall_after_peak(curves))
            name = f"{way}, {size} ranked prompts"
            figures[f"{name}: gold score from its peak to the end"] = falls
            figures[f"{name}: proxy score in the same time"] = rises
            figures[f"{name}: sqrt(KL) at the fitted peak"] = figure(places[way, size])
            if size == smallest:
                turns = turns and falls.high < 0 and rises.low > 0
        figures[f"{way}: sqrt(KL) at the peak, most data less least"] = figure(
            places[way, largest] - places[way, smallest]
        )
    moved = all(figures[f"{way}: sqrt(KL) at the peak, most data less least"].low > 0 for way, _, _ in ways)
    return Finding(figures, "PPO: sqrt(KL) at the peak, most data less least", turns and moved)


class Claim(NamedTuple):
    """A finding of the paper, how it was stated, the rule by which it holds here, and what was tried where it does not."""

    id: int
    claim: str
    paper: str
    rule: str
    find: Callable[[Sequence[Measures]], Finding]
    tried: str = ""


CLAIMS = (
    Claim(1, "By win rate against SFT: base < prompted base < SFT < PPO and PPO-ptx",
          "1.3B: .13 < .22 < .34 < .52, .52 (chart; against the 175B SFT model)",
          "the four steps' intervals lie apart", order_of_models),
    Claim(2, "A small PPO-ptx policy is preferred to a base model several times larger", "1.3B over 175B",
          f"preferred on more than half of the prompts, the other at least {SEVERAL} times as large", small_beats_large),
    Claim(3, "Hallucination falls from base and SFT to PPO-ptx; constraint satisfaction rises",
          "closed-domain hallucination .41 (GPT-3) to .21",
          "hallucination is below both SFT's and base's, constraint satisfaction above both", truthful_and_constrained),
    Claim(4, "The reward model is a few points more accurate on training labelers; both near the labelers' agreement",
          ".724 and .696; labelers agree on .726 (training), .773 (held out)",
          f"the difference is above 0 and at most {A_FEW_POINTS}; on the same pairs the reward model agrees with a labeler as "
          f"often as labelers do with one another, within {NEAR_AGREEMENT}", held_out_accuracy,
          "Tried on seed 0: three times the rankings, labelers whose tastes differ up to three times as much, held-out labelers "
          "who like long answers. Labelers of this world differ in noise more than in taste, so a "
          "scorer with the training labelers' mean taste predicts the held-out ones, who are less noisy, as well."),
    Claim(5, "Shuffled pairs overfit within an epoch, all pairs of a prompt in one element do not", "so stated (section 3.5)",
          "with pairs the validation loss rises more within the epoch and ends higher, the accuracy ends lower", pairs_overfit,
          "Tried on seed 0: pairs eight a step as the rankings are, so that they take more than ten times the steps (they end at "
          "the same loss, more accurate). A model of a million parameters, trained from scratch, does not learn completions by "
          "heart in the five visits that pairs make."),
    Claim(6, "SFT's validation loss is least early, the reward-model score is highest later; the later model is better",
          "after one epoch of 16; selection by score (section 3.5)",
          "the loss is least in the first third, the score's best epoch is later, and its model is preferred",
          score_selects_later),
    Claim(7, "PPO raises the text loss; ptx restores it, a larger KL coefficient does not or costs much more score",
          "ptx_coef of 20 or more restores, a KL coefficient of 2 does not (Appendix E.6, E.7)",
          f"PPO ends above {RESTORED} of its start's text loss, PPO-ptx below; every kl_coef has a higher text loss than PPO-ptx "
          "or less of the score, the largest less of the score", alignment_tax),
    Claim(8, "Large policy learning rates diverge without ptx, less so with it",
          "above 8.05e-6 all diverged without (Appendix E.9)",
          f"at the largest rate PPO's utility ends below its start's and its text loss above {COLLAPSED:g} times its start's; "
          "PPO-ptx's text loss does not, and its utility is higher", large_rates),
    Claim(9, "Held-out labelers prefer PPO-ptx about as often", "about the same rates (section 4.1)",
          f"the rates differ by at most {ABOUT_AS_OFTEN}, both above one half", held_out_preference),
    Claim(10, "Over-optimization: gold score turns while proxy score rises; the peak moves right with more data",
          "Gao et al. (2022), figure 1 and section 3.3",
          "with least data gold falls after its peak (found on the other seeds) while proxy rises, the fitted peak is further "
          "out with most data, by PPO and by best of n", overoptimization),
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
            "note": "" if finding.holds else claim.tried,
        })  # fmt: skip
    return found
