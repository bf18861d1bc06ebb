"""SFT, reward model and PPO-ptx with SmolLM2-135M on real human records, on a CPU.

    python benchmarks/real_data.py --data ../shared/data

``--data`` is a bundle (folders comparisons, demonstrations, prompts, text) or one folder with
demonstrations, comparisons, prompts and text (.jsonl or .jsonl.gz). A part of it is selected by a written
rule, the stages run as the public command ``lit-instructgpt fit`` with ``configs/smollm2``, and every figure
goes to one JSON file. A stage whose export is in ``--work`` already is not run again, so an interrupted
run goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.baselines import BagOfWords, Pair, choose_l2, half_step

Row = dict[str, Any]

SYSTEM = "You are helpful."
"""Before every plain prompt, in place of SmolLM2's longer default: 12 tokens less for each sequence."""

CRITERIA = (None, "quality", "overall")
"""Where workers judged several things apart, the one that means overall quality ..."""

MORE_CRITERIA = {"data2text_emnlp17": ("naturalness",)}
"""... and others that are taken too, because the records are few."""

BUNDLE = {
    "comparisons": ["data2text_emnlp17", "data2text_rankme", "hh_helpful", "oasst1", "qa_feedback"],
    "demonstrations": ["data2text_e2e", "data2text_sf", "dolly_1k"],
    "prompts": ["data2text_e2e"],
    "text": ["gutenberg", "wikipedia"],
}
"""The files of a bundle that are used."""

FLAT_SOURCES = {
    "emnlp17": "data2text_emnlp17",
    "rankme": "data2text_rankme",
    "hh": "hh_helpful",
    "qa-feedback": "qa_feedback",
}
"""First part of the records' ``source`` -> the name of the bundle's file it comes from."""


@dataclass(frozen=True)
class Size:
    """How much is selected.

    Attributes:
        rankings: name of the source -> the numbers of training and validation rankings; ``other`` for sources
            without an entry.
        demonstrations: for SFT, and to validate it.
        prompts: held-out prompts on which the policy is measured.
        documents: of pretraining text.
        episodes: of PPO.
        max_demonstration_chars: longer demonstrations (prompt and response) are not taken.
    """

    rankings: dict[str, tuple[int, int]]
    demonstrations: tuple[int, int]
    prompts: int
    documents: int
    episodes: int
    max_demonstration_chars: int = 320


ALL = 10**9
FULL = Size(
    {"data2text_emnlp17": (ALL, ALL), "data2text_rankme": (ALL, ALL), "hh_helpful": (1200, 400), "oasst1": (100, ALL),
     "qa_feedback": (ALL, ALL), "other": (200, 50)},
    (900, 48), 40, 100, 320,
)  # fmt: skip
SMALL = Size({"other": (16, 8)}, (16, 8), 8, 8, 32)

MAX_NEW_TOKENS = 64
"""Of PPO's responses: the references have about 30."""

NOTES = [
    "Validation rankings, and prompts, are of the data's own split valid; no reward model saw them in training.",
    "The settings of SFT, reward model and PPO are those of configs/smollm2; none was tuned on these figures.",
    "How much is selected was changed after figures on validation rankings had been seen: several times after both "
    "baselines had been measured, and once, to the present numbers, after a first reward model (1,124 rankings, 288 "
    "demonstrations) had been above both on data2text_emnlp17 alone. The validation rankings of data2text_emnlp17, "
    "data2text_rankme and hh_helpful stayed the same ones. qa_feedback (K = 4) was added before any reward model had "
    "been measured on it, without its passages, which are longer than the prompts' limit.",
    "A response cut at its limit costs PPO missing_eos_penalty; the scores here are without it, of the text with EOS.",
    "Seconds are wall time and contain waiting for whatever else the machine did (load_average, at the end).",
    "Intervals are 95 % bootstrap intervals over prompts: pairs of one prompt are drawn together.",
]

# ---------------------------------------------------------------------- selection


def read(path: Path) -> list[Row]:
    """Read JSON lines, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def find(data: Path, kind: str) -> list[tuple[str | None, Path]]:
    """(source, file) of a kind of record; the source is None in a flat folder, where the records name it.

    Raises:
        SystemExit: there is none.
    """
    bundle = (data / kind).is_dir()
    names = [f"{kind}/{name}" for name in BUNDLE[kind]] if bundle else [kind]
    files = [(name, data / f"{name}{end}") for name in names for end in (".jsonl.gz", ".jsonl")]
    found = [(Path(name).name if bundle else None, path) for name, path in files if path.is_file()]
    if not found:
        raise SystemExit(f"real_data: {data} has no {' nor '.join(f'{name}.jsonl[.gz]' for name in names)}")
    return found


def to_messages(prompt: str, kind: str) -> list[dict[str, str]]:
    r"""A prompt as messages for the chat template: the system line, then the turns.

    ``dialog`` is ``\n\nHuman: ...\n\nAssistant: ...\n\nHuman: ...\n\nAssistant:``; anything else is one user
    message.

    Raises:
        ValueError: a dialog that does not begin with Human or does not end with an open Assistant turn, or
            has two turns of one speaker in a row, or an empty one.
    """
    messages = [{"role": "system", "content": SYSTEM}]
    if kind != "dialog":
        return [*messages, {"role": "user", "content": prompt}]
    parts = [part for part in f"\n\n{prompt.strip()}".replace("\n\nHuman:", "\0user\1").replace(
        "\n\nAssistant:", "\0assistant\1").split("\0") if part]  # fmt: skip
    if "\1" not in parts[0]:
        raise ValueError("the dialog does not begin with Human:")
    turns = [(role, content.strip()) for role, content in (part.split("\1") for part in parts)]
    roles = [role for role, _ in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError("the turns of the dialog do not alternate from Human to an open Assistant")
    if turns[-1][1] or not all(content for _, content in turns[:-1]):
        raise ValueError("the dialog has an empty turn, or one behind its end")
    return messages + [{"role": role, "content": content} for role, content in turns[:-1]]


def num_chars(row: Row) -> int:
    """Length of a record: the prompt and all its replies."""
    return len(row["prompt"]) + sum(map(len, row.get("responses", []))) + len(row.get("response", ""))


def select_comparisons(rows: Sequence[Row], source: str, num: tuple[int, int]) -> tuple[dict[str, list[Row]], Row]:
    """The shortest usable rankings of a source, by split, and what was left out.

    Usable: criterion quality, overall or none (data2text_emnlp17: naturalness too), no flag, not one big tie, no
    reply given twice, and a dialog that alternates. A question that is given without its long passages
    (short_prompt) is taken without them. The shortest are taken, by characters of prompt and replies,
    then by id: nothing is drawn by chance.
    """
    counts = {"records": len(rows), "other_criterion": 0, "flagged": 0, "all_tied": 0, "same_reply_twice": 0,
              "bad_dialog": 0}  # fmt: skip
    usable = []
    for row in rows:
        try:
            messages = to_messages(row.get("short_prompt", row["prompt"]), row.get("format", "plain"))
        except ValueError:
            counts["bad_dialog"] += 1
            continue
        if row.get("criterion") not in (*CRITERIA, *MORE_CRITERIA.get(source, ())):
            counts["other_criterion"] += 1
        elif row.get("flag"):
            counts["flagged"] += 1
        elif len(set(row["ranking"])) == 1:
            counts["all_tied"] += 1
        elif len(set(row["responses"])) < len(row["responses"]):
            counts["same_reply_twice"] += 1
        else:
            usable.append((num_chars(row), row["id"], {
                "id": row["id"], "source": source, "split": row["split"], "prompt": messages,
                "responses": row["responses"], "ranking": row["ranking"],
            }))  # fmt: skip
    usable.sort(key=lambda item: item[:2])
    taken = {
        split: [(chars, row) for chars, _, row in usable if row["split"] == split][:limit]
        for split, limit in zip(("train", "valid"), num, strict=True)
    }
    for split, rows_ in taken.items():
        counts[split] = len(rows_)
        counts[f"{split}_pairs"] = sum(len(pairs(row)) for _, row in rows_)
        counts[f"{split}_prompts"] = len({prompt_key(row) for _, row in rows_})
        counts[f"{split}_longest_chars"] = max((chars for chars, _ in rows_), default=0)
    return {split: [row for _, row in rows_] for split, rows_ in taken.items()}, counts


def drawn(rows: Sequence[Row], num: int, seed: int) -> list[Row]:
    """``num`` rows by chance, in the order of the seed alone."""
    rows = sorted(rows, key=lambda row: str(row.get("id", row.get("text"))))
    random.Random(seed).shuffle(rows)
    return rows[:num]


def converted(row: Row, source: str | None) -> Row:
    """A demonstration or prompt with messages."""
    kept = {key: row[key] for key in ("id", "split", "response") if key in row}
    return {
        **kept,
        "source": source or row.get("source"),
        "prompt": to_messages(row["prompt"], row.get("format", "plain")),
    }


def select(data: Path, out: Path, size: Size, seed: int) -> Row:
    """Write the records that are used to ``out``; returns the counts and the rules."""
    report: Row = {"rules": {
        "comparisons": " ".join((select_comparisons.__doc__ or "").split("Usable:")[1].split()),
        "demonstrations": f"by chance among those of at most {size.max_demonstration_chars} characters, equally "
                          "many of every file",
        "prompts": "all of split train for PPO; held-out ones by chance from split valid",
        "text": f"{size.documents} documents by chance",
        "prompt": f"messages for the chat template, with the system line {SYSTEM!r}",
    }, "comparisons": {}}  # fmt: skip
    comparisons: dict[str, list[Row]] = {"train": [], "valid": []}
    by_source: dict[str, list[Row]] = {}
    for name, path in find(data, "comparisons"):
        for row in read(path):
            first = str(row.get("source", "data")).split("/")[0]
            by_source.setdefault(name or FLAT_SOURCES.get(first, first), []).append(row)
    for source, rows in by_source.items():
        taken, counts = select_comparisons(rows, source, size.rankings.get(source, size.rankings["other"]))
        report["comparisons"][source] = counts
        for split in comparisons:
            comparisons[split] += taken[split]
    for split, rows in comparisons.items():
        write(out / f"comparisons.{split}.jsonl", rows)

    files = find(data, "demonstrations")
    for split, num in zip(("train", "valid"), size.demonstrations, strict=True):
        demos = []
        for name, path in files:
            fitting = [row for row in read(path) if row["split"] == split and not row.get("flag")
                       and num_chars(row) <= size.max_demonstration_chars]  # fmt: skip
            demos += [converted(row, name) for row in drawn(fitting, num // len(files), seed)]
        write(out / f"demonstrations.{split}.jsonl", demos)
        report[f"demonstrations_{split}"] = len(demos)

    prompts = [converted(row, name) for name, path in find(data, "prompts") for row in read(path)]
    held_out = drawn([row for row in prompts if row["split"] == "valid"], size.prompts, seed)
    train = [row for row in prompts if row["split"] == "train"]
    write(out / "prompts.train.jsonl", train)
    write(out / "prompts.valid.jsonl", held_out)
    report |= {"prompts_train": len(train), "prompts_valid": len(held_out)}

    documents = [row for _, path in find(data, "text") for row in read(path)]
    text = [{"text": row["text"]} for row in drawn(documents, size.documents, seed)]
    write(out / "text.jsonl", text)
    report |= {"text_documents": len(text), "episodes": size.episodes}
    return report


# ---------------------------------------------------------------------- stages


class Stages:
    """The stages of one run, each the public command with the shipped configs and the overrides of this run."""

    def __init__(self, work: Path, model: Path, seed: int, precision: str) -> None:
        self.work, self.model, self.seed, self.precision = work, model, seed, precision
        self.commands: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.trained = False

    def fit(self, stage: str, *overrides: str) -> Path:
        """Train a stage unless its export is there, from the same command and data; returns the export."""
        export, record = self.work / stage / "export", self.work / f"{stage}.json"
        args = ["fit", "--config", f"configs/smollm2/{stage}.yaml", "--config", "configs/smollm2/cpu.yaml",
                "--trainer.precision", self.precision, "--seed_everything", str(self.seed),
                "--run_dir", str(self.work / stage), *overrides]  # fmt: skip
        command = f"lit-instructgpt {' '.join(args)}"
        if self.trained or not self._done(export, record, command):
            self._make_room(self.work / stage)
            print(f"\n== {stage}: {command}", flush=True)
            start = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "lit_instructgpt", *args], check=False)
            if done.returncode:
                raise SystemExit(f"{stage} ended with exit code {done.returncode}")
            seconds = round(time.perf_counter() - start, 1)
            record.write_text(json.dumps({"command": command, "seconds": seconds}) + "\n")
            self.trained = True  # what follows starts from another model now
        stored = json.loads(record.read_text())
        self.commands[stage], self.seconds[stage] = stored["command"], stored["seconds"]
        return export

    def _done(self, export: Path, record: Path, command: str) -> bool:
        """Whether the export is there, made by this command from the data as they are now."""
        from lit_instructgpt.formatting import read_sidecar
        from lit_instructgpt.hashes import hash_of

        if not (export.is_dir() and record.is_file()) or json.loads(record.read_text())["command"] != command:
            return False
        return all(hash_of(path) == digest for path, digest in read_sidecar(export)["data"].items())

    def _make_room(self, directory: Path) -> None:
        number = 1
        while directory.exists():
            earlier = directory.with_name(f"{directory.name}.{number}")
            if not earlier.exists():
                directory.rename(earlier)
                print(f"{directory} holds another or an interrupted run: moved to {earlier}")
            number += 1

    def sft(self) -> Path:
        """Supervised fine-tuning of the model."""
        return self.fit(
            "sft", "--model.init_args.model", str(self.model),
            "--data.init_args.train", str(self.work / "data/demonstrations.train.jsonl"),
            "--data.init_args.valid", str(self.work / "data/demonstrations.valid.jsonl"),
        )  # fmt: skip

    def rm(self) -> Path:
        """The reward model, from the SFT model, on the rankings of all sources together."""
        return self.fit(
            "rm", "--model.init_args.model", str(self.work / "sft/export"),
            "--data.init_args.train", str(self.work / "data/comparisons.train.jsonl"),
            "--data.init_args.valid", "null",
            "--data.init_args.demonstrations", str(self.work / "data/demonstrations.valid.jsonl"),
        )  # fmt: skip

    def ppo(self, episodes: int) -> Path:
        """PPO-ptx of the SFT model against the reward model."""
        return self.fit(
            "ppo", "--model.init_args.policy", str(self.work / "sft/export"),
            "--model.init_args.reward_model", str(self.work / "rm/export"),
            "--model.init_args.ppo.seed", str(self.seed), "--model.init_args.ppo.max_new_tokens", str(MAX_NEW_TOKENS),
            "--data.init_args.num_episodes", str(episodes),
            "--data.init_args.train", str(self.work / "data/prompts.train.jsonl"),
            "--data.init_args.text", str(self.work / "data/text.jsonl"),
        )  # fmt: skip


# ---------------------------------------------------------------------- figures


def prompt_key(row: Row) -> str:
    """What makes a prompt the same prompt."""
    return json.dumps(row["prompt"])


def pairs(row: Row) -> list[tuple[int, int]]:
    """(index of the preferred reply, of the other one) for every untied pair of a ranking."""
    rank = row["ranking"]
    return [(i, j) for i in range(len(rank)) for j in range(len(rank)) if rank[i] < rank[j]]


def bag_of_words(train: Sequence[Row]) -> BagOfWords:
    """The baseline, trained on every untied pair of the rankings, its penalty chosen among them."""
    found = [(row, i, j) for row in train for i, j in pairs(row)]
    replies: list[Pair] = [(row["responses"][i], row["responses"][j]) for row, i, j in found]
    return BagOfWords(choose_l2(replies, [prompt_key(row) for row, _, _ in found])).fit(replies)


def accuracies(valid: Sequence[Row], margins: dict[str, Callable[[Row, int, int], float]]) -> Row:
    """Pair accuracy and 95 % interval (over prompts) of each method, and of the differences from ``rm``."""
    import numpy as np

    from lit_instructgpt.evaluation.statistics import bootstrap_ci

    groups = [prompt_key(row) for row in valid for _ in pairs(row)]
    number = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    index = [number[key] for key in groups]
    right = {
        name: np.array([half_step(margin(row, i, j)) for row in valid for i, j in pairs(row)])
        for name, margin in margins.items()
    }
    report: Row = {"num_rankings": len(valid), "num_pairs": len(index), "num_prompts": len(number)}
    for name, values in right.items():
        report[name] = {"accuracy": round(float(values.mean()), 4), "ci95": _rounded(bootstrap_ci(values, index))}
    for name, values in right.items():
        if name != "rm":
            report[name]["rm_minus_this"] = round(float((right["rm"] - values).mean()), 4)
            report[name]["ci95_of_difference"] = _rounded(bootstrap_ci(right["rm"] - values, index))
    report["rm_above_both"] = all(report["rm"]["accuracy"] > report[n]["accuracy"] for n in right if n != "rm")
    return report


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def measure_reward_model(scorer: Any, data: Path) -> Row:
    """Per source: the reward model, the longer reply, and the bag of words."""
    train, valid = (read(data / f"comparisons.{split}.jsonl") for split in ("train", "valid"))
    replies = [(row, k) for row in valid for k in range(len(row["responses"]))]
    scores = scorer([row["prompt"] for row, _ in replies], [row["responses"][k] for row, k in replies])
    found = {(row["id"], row["source"], k): score for (row, k), score in zip(replies, scores, strict=True)}

    def score(row: Row, k: int) -> float:
        return found[row["id"], row["source"], k]

    report: Row = {}
    for source in sorted({row["source"] for row in valid}):
        words = bag_of_words([row for row in train if row["source"] == source])
        margins: dict[str, Callable[[Row, int, int], float]] = {
            "rm": lambda row, i, j: score(row, i) - score(row, j),
            "length_baseline": lambda row, i, j: len(row["responses"][i]) - len(row["responses"][j]),
            "bag_of_words_baseline": lambda row, i, j, words=words: words.margin(
                row["responses"][i], row["responses"][j]
            ),
        }
        report[source] = accuracies([row for row in valid if row["source"] == source], margins)
        report[source]["bag_of_words_baseline"] |= {"l2": words.l2, "num_words": len(words.vocabulary)}
    return report


def measure_policy(export: Path, start: Path, scorer: Any, data: Path, seed: int) -> Row:
    """Score, KL to the start, length and samples of a policy on the held-out prompts."""
    import numpy as np

    from lit_instructgpt.datamodules.tokenizing import Reading
    from lit_instructgpt.evaluation.policies import Evaluated
    from lit_instructgpt.evaluation.statistics import bootstrap_ci
    from lit_instructgpt.records import Prompt
    from lit_instructgpt.sampling import Sampling

    reading = Reading()
    records = reading.read(str(data / "prompts.valid.jsonl"), Prompt)
    policy, reference = Evaluated(str(export), None, "cpu"), Evaluated(str(start), None, "cpu")
    samples = policy.sample(records, reading, Sampling(max_new_tokens=MAX_NEW_TOKENS, seed=seed + 1000), 16)
    kl = policy.kl(reference, samples, 16, 1.0)
    scores = scorer([record["prompt"] for record in samples.records], samples.texts)

    def mean(values: Sequence[float]) -> Row:
        return {"mean": round(float(np.mean(values)), 4), "ci95": _rounded(bootstrap_ci(np.array(values)))}

    return {
        "num_prompts": len(records),
        "score": mean(scores),
        "kl_to_start_nats": mean(kl),
        "response_tokens": mean([len(ids) for ids in samples.ids]),
        "stop_rate": round(float(np.mean(samples.stopped)), 4),
        "per_prompt_scores": _rounded(scores),
        "samples": [
            {
                "prompt": record["prompt"][-1]["content"],
                "response": text,
                "score": round(score, 3),
                "kl": round(nats, 3),
            }
            for record, text, score, nats in list(zip(samples.records, samples.texts, scores, kl, strict=True))[:8]
        ],
    }


class Figures:
    """The figures of the trained models, in the precision of the training; each part is kept beside its model."""

    def __init__(self, work: Path, seed: int, precision: str) -> None:
        self.work, self.seed, self.precision = work, seed, precision
        self._scorer: Any = None

    def scorer(self) -> Any:
        """The reward model; loaded once."""
        from lit_instructgpt.rewards import ModelReward

        if self._scorer is None:
            self._scorer = ModelReward(str(self.work / "rm/export"), max_response_tokens=256, batch_size=16)
        return self._scorer

    def reward_model(self) -> Row:
        """Accuracies per source."""
        data = self.work / "data"
        rankings = [data / f"comparisons.{split}.jsonl" for split in ("train", "valid")]
        return self._kept(self.work / "rm/figures.json", rankings, lambda: measure_reward_model(self.scorer(), data))

    def ppo(self) -> Row:
        """The policy before and after PPO, on the same prompts with the same random numbers."""
        import numpy as np

        from lit_instructgpt.evaluation.statistics import bootstrap_ci

        before, after = (
            self._policy(self.work / file, self.work / stage / "export")
            for stage, file in (("sft", "rm/figures_sft.json"), ("ppo", "ppo/figures.json"))
        )
        gain = np.array(after.pop("per_prompt_scores")) - np.array(before.pop("per_prompt_scores"))
        gained = {"mean": round(float(gain.mean()), 4), "ci95": _rounded(bootstrap_ci(gain))}
        return {"before": before, "after": after, "score_gain": gained}

    def _policy(self, file: Path, export: Path) -> Row:
        data, start = self.work / "data", self.work / "sft/export"
        return self._kept(
            file, [data / "prompts.valid.jsonl"], lambda: measure_policy(export, start, self.scorer(), data, self.seed)
        )

    def _kept(self, path: Path, inputs: Sequence[Path], compute: Callable[[], Row]) -> Row:
        """From its file, if it was computed from the same data before."""
        import torch

        from lit_instructgpt.hashes import hash_of

        hashes = [hash_of(str(file)) for file in inputs]
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8"))["inputs"] != hashes:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed"):
                figures = compute()
            figures["seconds"] = round(time.perf_counter() - start, 1)
            path.write_text(json.dumps({"inputs": hashes, "figures": figures}), encoding="utf-8")
        stored: Row = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return stored


def versions() -> Row:
    """What the figures were made with."""
    import lightning
    import torch
    import transformers

    import lit_instructgpt

    return {"lit-instructgpt": lit_instructgpt.__version__, "torch": torch.__version__,
            "transformers": transformers.__version__, "lightning": lightning.__version__,
            "python": platform.python_version()}  # fmt: skip


def hardware() -> str:
    """Processor and threads, in words."""
    import torch

    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} thread(s) used"


def main(argv: list[str] | None = None) -> None:
    """Select, train, measure, write."""
    parser = argparse.ArgumentParser(prog="real_data", description="SFT, RM and PPO-ptx on real human records.")
    parser.add_argument("--data", type=Path, required=True, help="a bundle, or a folder with the four files")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_data.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/real_data"), help="selection and runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few records: does it run at all")
    parser.add_argument(
        "--precision", default="bf16-mixed", help="trainer.precision; 32-true where the CPU has no bf16"
    )
    parser.add_argument("--until", choices=("sft", "rm", "end"), default="end", help="stop behind it")
    args = parser.parse_args(argv)
    if not (args.model / "config.json").is_file():
        raise SystemExit(f"real_data: no model in {args.model}: run make smollm2 first, or give --model DIR")
    size = SMALL if args.small else FULL
    selection = select(args.data, args.work / "data", size, args.seed)
    stages = Stages(args.work, args.model, args.seed, args.precision)
    figures = Figures(args.work, args.seed, args.precision)
    stages.sft()
    if args.until == "sft":
        return
    stages.rm()
    if args.until == "rm":
        return
    reward_model = figures.reward_model()
    stages.seconds["rm_figures"] = reward_model.pop("seconds")
    show(reward_model)
    stages.ppo(size.episodes)
    ppo = figures.ppo()
    stages.seconds["ppo_figures"] = round(ppo["before"].pop("seconds") + ppo["after"].pop("seconds"), 1)
    shown = f"python benchmarks/real_data.py --data {os.path.relpath(args.data)}{' --small' if args.small else ''}"
    origin = args.model / "smollm2_origin.json"
    report = {
        "title": "SmolLM2-135M-Instruct: SFT, reward model and PPO-ptx on real human records",
        "command": shown,
        "seed": args.seed,
        "model": json.loads(origin.read_text(encoding="utf-8")) if origin.is_file() else args.model.name,
        "versions": versions(),
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[1], 1),
        "precision": f"{args.precision}, in training and in these figures",
        "notes": NOTES,
        "sources_with_rm_above_both": [s for s, row in reward_model.items() if row["rm_above_both"]],
        "reward_model": reward_model,
        "ppo": ppo,
        "selection": selection,
        "stages": stages.commands,
        "seconds": {**stages.seconds, "total": round(sum(stages.seconds.values()), 1)},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"PPO: score {ppo['before']['score']} -> {ppo['after']['score']}; written to {args.out}")


def show(reward_model: Row) -> None:
    """Print the accuracies."""
    for source, row in reward_model.items():
        print(f"{source:>20}: RM {row['rm']['accuracy']:.3f} {row['rm']['ci95']}, "
              f"length {row['length_baseline']['accuracy']:.3f}, "
              f"bag of words {row['bag_of_words_baseline']['accuracy']:.3f}, {row['num_pairs']} pairs", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
