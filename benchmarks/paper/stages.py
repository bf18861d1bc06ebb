"""What is trained and measured with one seed, as jobs. Every model is trained and judged by the public command.

The demo's stages come first (`configs/miniature`). Sweeps are the same configs with the options below; nothing else differs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from miniature.demo import Demo, read
from miniature.generate import write
from miniature.gold import judge
from miniature.labelers import HELD_OUT, TRAINING, Labeler, rank
from miniature.rank import choose, compare, comparison, said

from benchmarks.paper.jobs import Job

Row = dict[str, Any]

NO_TEXT = ("--model.ppo.ptx_coef", "0", "--data.text", "null")
POLICY_LR = 0.0005
"""Of configs/miniature/ppo.yaml."""

KL_COEF = 0.25
"""Of all runs but those of the sweep. On seeds 1 and 3 PPO-ptx satisfied .01 and .03 more of the constraints so than with the
demo's 0.08, at the same win rate."""

PTX_COEFS = (0.3,)
KL_COEFS = (1.0, 3.0)
LR_FACTORS = (16,)

ARMS: dict[str, dict[str, float]] = {
    "ppo_ptx": {},
    "ppo": {"ptx_coef": 0},
    **{f"ptx_{coef:g}": {"ptx_coef": coef} for coef in PTX_COEFS},
    **{f"kl_{coef:g}": {"ptx_coef": 0, "kl_coef": coef} for coef in KL_COEFS},
    **{f"lr_{x}_ptx": {"lr": POLICY_LR * x} for x in LR_FACTORS},
    **{f"lr_{x}": {"ptx_coef": 0, "lr": POLICY_LR * x} for x in LR_FACTORS},
}
"""PPO runs -> what differs from configs/miniature/ppo.yaml, beside `KL_COEF`."""


def options_of(arm: dict[str, float]) -> tuple[str, ...]:
    """Of the command."""
    found = ["--model.ppo.kl_coef", str(arm.get("kl_coef", KL_COEF))]
    if "lr" in arm:
        found += ["--model.optimizer.init_args.lr", str(arm["lr"])]
    if arm.get("ptx_coef") == 0:
        found += NO_TEXT
    elif "ptx_coef" in arm:
        found += ["--model.ppo.ptx_coef", str(arm["ptx_coef"])]
    return tuple(found)


LARGE = (
    "--model.model.config.hidden_size", "192", "--model.model.config.num_hidden_layers", "6",
    "--model.model.config.intermediate_size", "768", "--model.optimizer.init_args.lr", "0.002",
)  # fmt: skip
"""The larger pretrained model; counted in parameters by `claims`."""

BASE_EPOCHS, LARGE_EPOCHS = 2, 3
"""Of the pretrained models: what a prefix calls up comes with the second. With as many as the smaller one the larger one predicts
text no better, and would be a weak opponent; with one more it predicts it .04 nats better (seeds 17 to 21)."""

SFT_EPOCHS = 16
"""The paper's (section 3.5); the SFT model is the epoch of the highest reward-model score, as there."""

INIT_EPOCHS = 16
"""Of PPO's start, with text among the demonstrations: as many as of the SFT model (the paper's 2 leave so small a model behind
it), and its last: the paper selects none. A score known to .1 has selected the 3rd to the 12th of 12, which satisfied .55 to .70
of the constraints."""

RM_EPOCHS = 3
"""Of the reward model that selects and rewards; the demo's 2 leave it a point of accuracy behind."""

ONCE_AN_EPOCH = ("--trainer.val_check_interval", "1.0")
"""Validation of the reward models whose course nothing is read from, for time."""

GOLD_RM_PROMPTS = (60, 480, 3840)
"""Ranked prompts that the reward models of the over-optimization study learn from."""

OVER_RUNS = {"60": 60, "480": 480, "3840": 3840, "3840_again": 3840}
"""Runs of that study -> the ranked prompts behind it. With most data, where the gold score turns last and most gently, its peak
is known worst: three runs against one reward model had theirs at sqrt(KL) of .69, .91 and 1.25 (seed 18). So there are two."""

AGAIN = 500
"""Added to the seed of a second run; not what the evaluations add, whose samples would be drawn by the same numbers."""

BEST_OF = 64
BEST_OF_PROMPTS = 200
OVER_PROMPTS = 500
"""Of the main comparison's, on which gold and proxy are followed: of 300 a gain is known to .05 of the gold score's spread, a
quarter of what there is to gain, and the fitted peaks are as noisy."""
OVER_LR, OVER_EVERY = 0.0005, 2
"""Of the runs without a KL penalty, whose weights are kept after every second iteration. At half this rate many end before
gold has turned, where the reward model has learned from the most prompts."""

RANKINGS = 5
"""Times as many ranked prompts as the demo has: then they are to demonstrations as the paper's 33k to 13k."""

PAIR_PROMPTS = 200
"""Prompts of the comparison of shuffled pairs with whole rankings, which ranks all of their outputs (K up to 9, 8 at least): few
enough that a model of this size, fine-tuned on demonstrations, can learn them by heart."""

MIN_WHOLE = 8
"""Different outputs that a prompt of that comparison has at least."""

PAIR_BATCH, PAIR_WARMUP = 4, 6
"""Elements of a step of that comparison, rankings or pairs: half of configs/miniature/rm.yaml's, so that the one pass over so few
rankings has some 60 steps; and those in which the rate rises."""

PAIR_VALIDATION = 0.2
"""The part of that comparison's epoch between two validations."""

NUM_BY_ALL = 250
"""Validation prompts that every labeler ranks."""

WEB_WORDS, WORKED_PAGES, UNANSWERED_PAGES = 600_000, 0.25, 0.35
"""Words and marks of the pretraining text; shares of its pages that show, under a heading, a task done well, what a prefix can
call up, and that are requests which nobody answers: what a prompt without prefix looks like. With as many of these as of the
others, how often a pretrained model answers such a prompt all the same differs much from seed to seed. The text is longer than
the demo's by what these pages are more: with fewer others, reward models learn less."""


MAIN = ("base", "sft", "init", "ppo", "ppo_ptx")
"""Models of the main comparison, on more prompts than the sweeps: differences of a few percent are to be seen."""

NUM_MAIN = 1500
"""Prompts of customers that no stage has seen, in words that none has: those for PPO, then those for the reward model. The
worlds of seeds 27 to 31 have so many."""

NUM_PROMPTED = 750
"""Of them, those on which the prompted models are compared: they differ far more from seed to seed than that is known by."""

TRAINED_ON = ("demonstrations", "prompts_rm", "prompts_ppo")
"""Files of prompts whose training split some stage sees."""

SCORE_SAMPLES = 6
"""Responses to each validation prompt by whose reward-model score an epoch is selected."""


EXPORT = "lit_instructgpt.callbacks.ExportHF"


def first(rows: list[Row], num: int, what: str) -> list[Row]:
    """The first so many.

    Raises:
        ValueError: there are fewer.
    """
    if len(rows) < num:
        raise ValueError(f"{num} {what} are wanted, there are {len(rows)}")
    return rows[:num]


def unseen(rows: list[Row], folder: Path) -> list[Row]:
    """Those whose prompt stands in no training file of the folder: customers of so small a world may write the same thing."""
    seen = {row["prompt"] for name in TRAINED_ON for row in read(folder / f"{name}.train.jsonl")}
    return [row for row in rows if row["prompt"] not in seen]


class Seed:
    """The stages of one seed.

    Args:
        work: directory of all seeds.
        seed: of everything.
        threads: of each command.
    """

    def __init__(self, work: Path, seed: int, threads: int) -> None:
        self.seed, self.threads = seed, threads
        self.out = work / f"seed-{seed}"
        self.demo = Demo(self.out, seed)

    # ------------------------------------------------------------------ commands

    def command(self, stage: str, *args: str, module: str = "lit_instructgpt") -> None:
        """Run a command; its output goes to a file.

        Raises:
            RuntimeError: it failed.
        """
        log = self.out / "logs" / f"{stage}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": "data", "OMP_NUM_THREADS": str(self.threads)}
        with log.open("w", encoding="utf-8") as file:
            line = [sys.executable, "-m", module, *args]
            code = subprocess.run(line, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            raise RuntimeError(f"exit code {code}: {log}")

    def fit(self, stage: str, configs: Sequence[str], *options: str, overlay: Row | None = None) -> None:
        """Train a stage from shipped configs, options and an overlay."""
        extra: list[str] = []
        if overlay is not None:
            file = self.out / "configs" / f"{stage}-overlay.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
            extra = ["--config", str(file)]
        files = [arg for name in configs for arg in ("--config", str(self.demo.config(name)))]
        place = ["--run_dir", str(self.out / stage), "--seed_everything", str(self.seed)]
        self.command(stage, "fit", *files, *extra, *place, *options)

    def evaluate(self, stage: str, models: dict[str, str], **changes: Any) -> None:
        """Judge exported models by the world's truth, the labelers' reward model beside it."""
        config = yaml.safe_load(self.demo.config("evaluate").read_text(encoding="utf-8"))
        for key in ("comparisons", "held_out_comparisons"):
            del config[key]
        config |= {"models": models, "out": str(self.out / f"{stage}.json"), **changes}
        config["sampling"]["seed"] += self.seed
        file = self.out / "configs" / f"{stage}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.command(stage, "evaluate", "--config", str(file), "--allow_import", "miniature")

    def export(self, stage: str) -> str:
        """Directory of a stage's model."""
        return str(self.out / stage / "export")

    # ------------------------------------------------------------------ stages of the demo

    def data(self) -> None:
        """Customers, tasks and text; prepared."""
        out = str(self.out)
        self.command("generate", "--out", f"{out}/collected", "--seed", str(self.seed), "--rankings", str(RANKINGS),
                     "--web-words", str(WEB_WORDS), "--worked-pages", str(WORKED_PAGES),
                     "--unanswered-pages", str(UNANSWERED_PAGES), module="miniature.generate")  # fmt: skip
        inputs = [f"{out}/collected/raw/{name}.jsonl" for name in ("demonstrations", "prompts_rm", "prompts_ppo")]
        self.command("prepare", "prepare", "--config", str(self.demo.config("prepare")), "--inputs", json.dumps(inputs),
                     "--seed", str(self.seed))  # fmt: skip
        for split in ("train", "valid"):
            os.replace(f"{out}/collected/raw/text.{split}.jsonl", f"{out}/data/text.{split}.jsonl")
        rows = []
        for kind in ("ppo", "rm"):
            file = self.out / f"data/prompts_{kind}.test.jsonl"
            write(file, unseen(read(file), self.out / "data"))
            rows += read(file)
        write(self.main_prompts, first(rows, NUM_MAIN, "prompts of the main comparison"))

    @property
    def main_prompts(self) -> Path:
        """Of the main comparison."""
        return self.out / "data/prompts_main.test.jsonl"

    def samples(self) -> None:
        """Nine outputs per prompt of a first SFT model, that of the demo: the reward model that selects comes from them."""
        (self.out / "samples.jsonl").unlink(missing_ok=True)
        self.command("predict", "predict", "--config", str(self.demo.config("predict")), "--seed_everything",
                     str(self.seed), "--run_dir", str(self.out / "predict"),
                     "--model.model", self.export("first_sft"))  # fmt: skip

    def sampled(self) -> list[Row]:
        """The prompts with their outputs, and the split of each."""
        valid = {row["id"] for row in read(self.out / "data/prompts_rm.valid.jsonl")}
        rows = read(self.out / "samples.jsonl")
        return [{**row, "split": "valid" if row["id"] in valid else "train"} for row in rows]

    def ranked(self) -> None:
        """The labelers' rankings: as K-wise elements, as shuffled pairs; of validation prompts by all labelers; by the truth."""
        rows = self.sampled()
        elements, _, agreement = compare(rows, self.seed)
        splits = {row["id"]: row["split"] for row in rows}
        folder = self.out / "ranked"
        train = [row for row in elements if splits[row["id"]] == "train"]
        write(folder / "comparisons.train.jsonl", train)
        write(folder / "comparisons.valid.jsonl", [row for row in elements if splits[row["id"]] == "valid"])
        whole = rank_whole([row for row in rows if row["split"] == "train"], self.seed)
        whole = first(whole, PAIR_PROMPTS, f"prompts with at least {MIN_WHOLE} different outputs")
        write(folder / "kwise.train.jsonl", whole)
        write(folder / "pairs.train.jsonl", pairs_of(whole, self.seed))
        valid = [row for row in rows if row["split"] == "valid"][:NUM_BY_ALL]
        for name, labelers in (("training", TRAINING), ("held_out", HELD_OUT)):
            write(folder / f"all_{name}.valid.jsonl", by_all(valid, labelers, self.seed))
        gold = by_truth(rows, self.seed)
        for size in GOLD_RM_PROMPTS:
            own = [row for row in gold if splits[row["id"]] == "train"]
            write(folder / f"gold_{size}.train.jsonl", first(own, size, "prompts ranked by the truth"))
        write(folder / "gold.valid.jsonl", [row for row in gold if splits[row["id"]] == "valid"])
        (folder / "agreement.json").write_text(json.dumps(agreement) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------ what goes beyond it

    def sft(self) -> None:
        """SFT for the paper's 16 epochs; kept are the epoch of highest reward-model score and that of least loss."""
        least = {"monitor": "val/loss", "mode": "min", "dirname": "least_loss"}
        best = {"monitor": "val/rm_score"}
        sampling = {"max_new_tokens": 48, "num_samples": SCORE_SAMPLES}
        callbacks = [{"class_path": EXPORT, "init_args": kept} for kept in (best, least)]
        self.fit("sft", ("sft",), overlay={
            "trainer": {"max_epochs": SFT_EPOCHS, "callbacks": callbacks},
            "model": {"init_args": {"reward_model": self.export("rm"), "sampling": sampling}},
        })  # fmt: skip

    def init(self) -> None:
        """PPO's start: the same with text among the demonstrations; the last epoch, so none is validated."""
        callbacks = [{"class_path": EXPORT}]
        trainer = {"max_epochs": INIT_EPOCHS, "limit_val_batches": 0, "num_sanity_val_steps": 0, "callbacks": callbacks}
        self.fit("init", ("sft", "init"), overlay={"trainer": trainer})

    def within_an_epoch(self, data: str) -> None:
        """A reward model, validated along its only epoch, on whole rankings or on shuffled pairs, with the same options.

        A step takes as many elements of either: a completion is part of one update, or of one for each of its pairs, and pairs
        have some thirty times the steps.
        """
        folder = self.out / "ranked"
        self.fit(
            f"rm_{data}", ("rm",), "--model.model", self.export("first_sft"), "--data.train", str(folder / f"{data}.train.jsonl"),
            "--data.valid", str(folder / "comparisons.valid.jsonl"), "--trainer.max_epochs", "1",
            "--trainer.val_check_interval", str(PAIR_VALIDATION),
            "--data.batch_size", str(PAIR_BATCH), "--model.num_warmup_steps", str(PAIR_WARMUP),
        )  # fmt: skip

    def gold_rm(self, size: int) -> None:
        """A reward model that learns from the truth's own rankings of some prompts."""
        folder = self.out / "ranked"
        self.fit(
            f"gold_rm_{size}", ("rm",), "--model.model", self.export("first_sft"),
            "--data.train", str(folder / f"gold_{size}.train.jsonl"),
            "--data.valid", str(folder / "gold.valid.jsonl"), *ONCE_AN_EPOCH,
        )  # fmt: skip

    def over(self, name: str) -> None:
        """PPO against such a reward model without KL penalty or text, its weights kept along the way."""
        overlay = {
            "trainer": {
                "val_check_interval": OVER_EVERY,
                "limit_val_batches": 1,
                "callbacks": [
                    {"class_path": EXPORT, "init_args": {"every": 1}},
                ],
            },
            "model": {"init_args": {"reward_model": self.export(f"gold_rm_{OVER_RUNS[name]}")}},
        }
        seed = self.seed + AGAIN * name.endswith("_again")
        options = (
            "--seed_everything",
            str(seed),
            *NO_TEXT,
            "--model.ppo.kl_coef",
            "0",
            "--model.optimizer.init_args.lr",
            str(OVER_LR),
        )
        self.fit(f"over_{name}", ("ppo",), *options, overlay=overlay)

    def evaluate_over(self, name: str) -> None:
        """Proxy and gold score, and KL, along that run."""
        kept = sorted((self.out / f"over_{name}/export_at").iterdir(), key=lambda path: int(path.name))
        models = {"init": self.export("init")} | {f"step_{path.name}": str(path) for path in kept}
        rows = first(read(self.main_prompts), OVER_PROMPTS, "prompts of the over-optimization study")
        prompts = self.out / f"data/prompts_over_{name}.test.jsonl"
        write(prompts, rows)
        self.evaluate(
            f"evaluate_over_{name}", models, baseline="init", init="init", text=None,
            reward_model=self.export(f"gold_rm_{OVER_RUNS[name]}"), prompts=str(prompts),
        )  # fmt: skip

    def best_of(self) -> None:
        """Samples of PPO's start for best-of-n."""
        rows = read(self.out / "data/prompts_ppo.test.jsonl")[:BEST_OF_PROMPTS]
        write(self.out / "data/prompts_best_of.jsonl", rows)
        samples = self.out / "best_of.jsonl"
        samples.unlink(missing_ok=True)
        writer = {"class_path": "lit_instructgpt.callbacks.WriteSamples", "init_args": {"path": str(samples)}}
        overlay = {
            "trainer": {"callbacks": [writer]},
            "model": {"init_args": {"model": self.export("init"), "sampling": {"num_samples": BEST_OF}}},
            "data": {"init_args": {"predict": [str(self.out / "data/prompts_best_of.jsonl")], "valid_batch_size": 16}},
        }
        file = self.out / "configs/best_of.yaml"
        file.write_text(yaml.safe_dump(overlay), encoding="utf-8")
        self.command("best_of", "predict", "--config", str(self.demo.config("predict")), "--config", str(file),
                     "--seed_everything", str(self.seed), "--run_dir", str(self.out / "best_of"))  # fmt: skip

    def module(self, name: str) -> Callable[[], None]:
        """Work that is a module of this package: `python -m benchmarks.paper.NAME DIR SEED`."""
        return lambda: self.command(name, str(self.out), str(self.seed), module=f"benchmarks.paper.{name}")

    def evaluate_all(self) -> None:
        """All policies beside the SFT model, on prompts of customers that no stage has seen."""
        stages = ("base", "large", "sft", "init", *ARMS)
        models = {name: self.export(name) for name in stages}
        self.evaluate("evaluate_all", models, responses_out=str(self.out / "responses.jsonl"))

    def evaluate_main(self) -> None:
        """The models that the paper compares first."""
        models = {name: self.export(name) for name in MAIN}
        self.evaluate("evaluate_main", models, prompts=str(self.main_prompts), text=None)

    def evaluate_prompted(self) -> None:
        """The prompted pretrained models on the same prompts: their prefix makes every prompt longer."""
        models = {name: self.export(name) for name in ("sft", "prompted", "prompted_large")}
        reading = {"max_prompt_tokens": 207, "max_response_tokens": 48, "max_tokens": 256}
        prompts = self.out / "data/prompts_prompted.test.jsonl"
        write(prompts, first(read(self.main_prompts), NUM_PROMPTED, "prompts of the prompted models' evaluation"))
        self.evaluate("evaluate_prompted", models, reading=reading, init="sft", text=None, prompts=str(prompts))

    def evaluate_sft(self) -> None:
        """Both selections of the long SFT run against one another."""
        models = {"least_loss": str(self.out / "sft/least_loss"), "best_score": self.export("sft")}
        self.evaluate(
            "evaluate_sft", models, baseline="least_loss", init="least_loss", text=None, prompts=str(self.main_prompts)
        )

    def evaluate_rm(self) -> None:
        """Pair accuracy on the rankings of all training and of all held-out labelers."""
        folder = self.out / "ranked"
        comparisons = [
            arg for name in ("training", "held_out")
            for arg in (f"--comparisons.{name}", str(folder / f"all_{name}.valid.jsonl"))
        ]  # fmt: skip
        self.command("evaluate_rm", "evaluate_rm", "--models.rm", self.export("rm"), *comparisons,
                     "--reading.max_prompt_tokens", "96", "--out", str(self.out / "evaluate_rm.json"))  # fmt: skip

    # ------------------------------------------------------------------ their order

    def jobs(self) -> list[Job]:
        """All of them."""
        from_first = ("--model.model", self.export("first_sft"))
        found = [
            self.job("data", (), self.data, "collected", "data"),
            self.trained("base", ("data",), ("base",), "--trainer.max_epochs", str(BASE_EPOCHS)),
            self.trained("large", ("data",), ("base",), *LARGE, "--trainer.max_epochs", str(LARGE_EPOCHS)),
            self.trained("first_sft", ("base",), ("sft",)),
            self.job("samples", ("first_sft",), self.samples, "predict"),
            self.job("ranked", ("samples",), self.ranked),
            self.trained(
                "rm", ("ranked",), ("rm",), *from_first, *ONCE_AN_EPOCH, "--trainer.max_epochs", str(RM_EPOCHS)
            ),
            self.job("sft", ("rm",), self.sft, "sft"),
            self.job("init", ("base",), self.init, "init"),
            *[self.trained(name, ("init",), ("ppo",), *options_of(arm)) for name, arm in ARMS.items()],
            self.job("rm_pairs", ("ranked",), lambda: self.within_an_epoch("pairs"), "rm_pairs"),
            self.job("rm_kwise", ("ranked",), lambda: self.within_an_epoch("kwise"), "rm_kwise"),
            self.job("best_of", ("init",), self.best_of, "best_of"),
            self.job("prompted", ("base", "large", "rm"), self.module("prompted"), "prompted", "prompted_large"),
        ]
        for size in GOLD_RM_PROMPTS:
            made = f"gold_rm_{size}"
            found.append(self.job(made, ("ranked",), lambda size=size: self.gold_rm(size), made))
        for name, size in OVER_RUNS.items():
            made = f"over_{name}"
            found += [
                self.job(made, ("init", f"gold_rm_{size}"), lambda name=name: self.over(name), made),
                self.job(f"evaluate_{made}", (made,), lambda name=name: self.evaluate_over(name)),
            ]
        found += [
            self.job("evaluate_all", ("large", "sft", *ARMS), self.evaluate_all),
            self.job("evaluate_main", MAIN, self.evaluate_main),
            self.job("evaluate_prompted", ("prompted", "sft"), self.evaluate_prompted),
            self.job("evaluate_sft", ("sft",), self.evaluate_sft),
            self.job("evaluate_rm", ("rm",), self.evaluate_rm),
        ]
        measured = [f"evaluate_{name}" for name in ("all", "main", "prompted", "sft", "rm")]
        measured += [f"evaluate_over_{name}" for name in OVER_RUNS]
        found.append(self.job("measure", ("best_of", "rm_pairs", "rm_kwise", *measured), self.module("measure")))
        return found

    def job(self, name: str, needs: Sequence[str], work: Callable[[], None], *makes: str) -> Job:
        """A job of this seed."""
        prefix = f"{self.seed}/"
        return Job(prefix + name, [prefix + need for need in needs], work, [self.out / made for made in makes])

    def trained(self, name: str, needs: Sequence[str], configs: Sequence[str], *options: str) -> Job:
        """A job that trains a stage."""
        return self.job(name, needs, lambda: self.fit(name, configs, *options), name)


# ------------------------------------------------------------------ rankings


def rank_whole(rows: Sequence[Row], seed: int) -> list[Row]:
    """All different outputs of each prompt ranked by a training labeler; prompts with fewer than `MIN_WHOLE` are left out."""
    found = []
    for row in rows:
        responses = said(row["responses"])
        if len(responses) >= MIN_WHOLE:
            rng = random.Random(f"{seed}/{row['id']}/whole")
            found.append(comparison(row, responses, rng.choice(TRAINING), rng))
    return found


def pairs_of(elements: Sequence[Row], seed: int) -> list[Row]:
    """Every untied pair of every ranking as an element of its own, shuffled: what the paper found to overfit."""
    found = []
    for row in elements:
        k = len(row["responses"])
        for i in range(k):
            for j in range(i + 1, k):
                if row["ranking"][i] != row["ranking"][j]:
                    better = row["ranking"][i] < row["ranking"][j]
                    pair = {
                        "responses": [row["responses"][i], row["responses"][j]],
                        "ranking": [1, 2] if better else [2, 1],
                    }
                    found.append({**row, **pair, "id": f"{row['id']}/{i}-{j}"})
    random.Random(f"{seed}/pairs").shuffle(found)
    return found


def by_all(rows: Sequence[Row], labelers: Sequence[Labeler], seed: int) -> list[Row]:
    """Every prompt ranked by every labeler; the outputs are those that `compare` has ranked."""
    found = []
    for row in rows:
        responses = choose(row["responses"], random.Random(f"{seed}/{row['id']}"))
        for labeler in labelers if len(responses) > 1 else ():
            rng = random.Random(f"{seed}/{row['id']}/{labeler.id}")
            ranking = rank(labeler, row["gold"], responses, rng)
            found.append({"id": f"{row['id']}/{labeler.id}", "prompt": row["prompt"], "responses": responses,
                          "ranking": ranking, "labeler": labeler.id, "source": row["use_case"]})  # fmt: skip
    return found


def by_truth(rows: Sequence[Row], seed: int) -> list[Row]:
    """Every prompt ranked by the truth's own utility, in random order of prompts; equal utilities are ties."""
    found = []
    for row in rows:
        responses = choose(row["responses"], random.Random(f"{seed}/{row['id']}"))
        worth = [judge(row["gold"], text).utility for text in responses]
        if len(set(worth)) > 1:
            levels = sorted(set(worth), reverse=True)
            found.append({"id": row["id"], "prompt": row["prompt"], "responses": responses,
                          "ranking": [levels.index(value) + 1 for value in worth], "labeler": "truth"})  # fmt: skip
    random.Random(f"{seed}/truth").shuffle(found)
    return found
