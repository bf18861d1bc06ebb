"""How fast the stages train, beside TRL and beside the shortest loops with the same work.

    python benchmarks/throughput.py [--data DIR] [--only sft/tiny-llama/float32/natural ...] [--rounds 3]

Every side is a process of its own on the same records, tokenized by our data modules; ours is the public command
``lit-instructgpt fit``. The sides take turns (ours, TRL, loop, ours, ...), the first steps of each run do not count,
and a row is the median over the rounds. TRL lives in virtual environments of its own below ``--work``: the current
release for SFT and reward model, 1.12 for PPO, the last that had it; it runs as it comes, and once more with the
allocator settings that ours makes itself, which the loop has in any case. LitGPT trains SmolLM2, from an environment of
its own too. PPO in float32 has a side with our recommended settings. With ``--data`` (a folder with
``comparisons/hh_harmless.jsonl.gz``) the natural lengths are those of human records, else drawn from a log-normal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Row = dict[str, Any]
PEERS = Path(__file__).resolve().parent / "peers"
LITGPT = "litgpt==0.5.13"
TRL = {"sft": "trl==1.16.0", "rm": "trl==1.16.0", "ppo": "trl==1.12.0"}
FORMAT = {"template": "{prompt}", "response_prefix": " ", "chat_template": False}
PRECISION = {"float32": "32-true", "bf16-autocast": "bf16-mixed", "bf16": "bf16-true"}
MAIN = ("float32", "bf16-autocast")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        stage: sft, rm or ppo.
        model: smollm2-135m, tiny-llama or tiny-gpt2.
        dtype: float32 (weights and arithmetic), bf16-autocast (float32 weights), or bf16 (weights and optimizer too).
        shape: natural, uniform, or long-prompt.
        batch: records (for ppo: episodes) to a step.
        micro: records to a forward pass, on every side; see ``pairs``.
        steps: counted.
        warmup: steps before them.
        num_completions: K, of the reward model.
        prompt: most tokens of a prompt.
        response: most tokens of a response.
        pairs: to a forward pass of TRL's reward trainer, where those of ``micro`` records take more memory than there is.
    """

    stage: str
    model: str
    dtype: str
    shape: str = "natural"
    batch: int = 8
    micro: int = 8
    steps: int = 6
    warmup: int = 2
    num_completions: int = 4
    prompt: int = 128
    response: int = 64
    pairs: int | None = None

    @property
    def name(self) -> str:
        """What ``--only`` takes."""
        ranked = f"-k{self.num_completions}" if self.stage == "rm" else ""
        return f"{self.stage}{ranked}/{self.model}/{self.dtype}/{self.shape}"


KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}
"""What ours sets itself (allocator.py): environment of the loop, and of TRL's second turn."""
SIDES = ("trl", "trl-allocator", "litgpt", "loop", "recommended")
"""Beside ours."""

CASES = [
    *[Case("sft", "tiny-llama", d, steps=20) for d in PRECISION],
    *[Case("sft", "tiny-llama", d, "uniform", steps=16) for d in MAIN],
    *[Case("sft", "tiny-llama", d, "long-prompt", steps=16, prompt=480, response=16) for d in MAIN],
    *[Case("sft", "tiny-gpt2", d, steps=20) for d in MAIN],
    *[Case("sft", "smollm2-135m", d, steps=4, warmup=1) for d in PRECISION],
    *[Case("rm", "tiny-llama", d, batch=4, micro=4, steps=20) for d in MAIN],
    Case("rm", "tiny-gpt2", "float32", batch=4, micro=4, steps=20),
    *[Case("rm", "smollm2-135m", d, batch=2, micro=2, steps=3, warmup=1) for d in MAIN],
    Case("rm", "smollm2-135m", "float32", "long-prompt", batch=1, micro=1, steps=1, warmup=1, num_completions=9,
         prompt=512, pairs=6),
    *[Case("ppo", "tiny-llama", d, batch=32, steps=4, response=48) for d in MAIN],
    *[Case("ppo", "smollm2-135m", d, batch=16, steps=2, warmup=1, response=48) for d in MAIN],
]  # fmt: skip

# ---------------------------------------------------------------------- models and records


def tiny_model(family: str, text: Path, out: Path) -> None:
    """A model of 4 layers and width 256 with a tokenizer of 8,192 tokens trained on the text."""
    import torch
    import transformers

    from lit_instructgpt.models import FreshModel, load_policy, load_tokenizer

    shape: Row = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
                  "num_attention_heads": 4, "max_position_embeddings": 4096, "tie_word_embeddings": True}  # fmt: skip
    if family == "gpt2":
        shape = {"model_type": "gpt2", "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024}
    fresh = FreshModel(config=shape, text=[str(text)], vocab_size=8192)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(fresh)
    tokenizer.add_special_tokens({"unk_token": tokenizer.pad_token})
    transformers.utils.logging.disable_progress_bar()
    load_policy(fresh, tokenizer).save_pretrained(out)
    tokenizer.save_pretrained(out)


def human_records(data: Path) -> list[Row]:
    """Prompt and replies of people's comparisons."""
    from benchmarks.real.selection import read

    return [{"prompt": row["prompt"], "responses": row["responses"]} for row in
            read(data / "comparisons/hh_harmless.jsonl.gz")]  # fmt: skip


def single_tokens(tokenizer: Any) -> list[str]:
    """Words that are one token behind a space."""
    words = [token[1:] for token in tokenizer.get_vocab() if token.startswith("Ġ") and token[1:].isascii()]
    return sorted(w for w in words if w.isalpha() and w.islower() and len(tokenizer(f" {w}").input_ids) == 1)


def records(case: Case, tokenizer: Any, human: list[Row], num: int) -> list[Row]:
    """Prompts with K responses, cut to the case's lengths."""
    rng = random.Random(0)
    if case.shape == "natural" and human:

        def cut(text: str, start: int, stop: int) -> str:
            return str(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids[start:stop])).strip()

        found = []
        for i in range(num + num // 4):  # more than are used: some grow when they are tokenized again
            row, more = human[i % len(human)], human[(i + 1) % len(human)]
            replies = (row["responses"] + more["responses"])[: case.num_completions]
            while len(replies) < case.num_completions:
                replies.append(human[rng.randrange(len(human))]["responses"][0])
            found.append({"prompt": cut(row["prompt"], -case.prompt, 10**6),
                          "responses": [cut(reply, 0, case.response - 1) or "no" for reply in replies]})  # fmt: skip
        return found
    words = single_tokens(tokenizer)

    def text(length: int) -> str:
        return " ".join(rng.choice(words) for _ in range(length))

    def length(most: int) -> int:
        if case.shape != "natural":
            return most - 1
        return max(min(round(rng.lognormvariate(3.8, 0.7)), most - 1), 4)

    return [{"prompt": text(length(case.prompt)),
             "responses": [text(length(case.response) - 1) for _ in range(case.num_completions)]}
            for _ in range(2 * num + 8)]  # fmt: skip  # more than are used: a first word may be several tokens


def prepare(case: Case, model: Path, human: list[Row], work: Path) -> None:
    """Writes what ours reads (train.jsonl) and, in the order of its steps, what the others read (ids.jsonl)."""
    from lit_instructgpt.datamodules.loading import repeated, shuffled
    from lit_instructgpt.datamodules.tokenizing import Reading, tokenize_comparisons, tokenize_demos, tokenize_prompts
    from lit_instructgpt.formatting import PromptFormat
    from lit_instructgpt.models import load_tokenizer
    from lit_instructgpt.records import Comparison, Demonstration, Prompt

    tokenizer, prompt_format = load_tokenizer(str(model)), PromptFormat(**FORMAT)
    num = case.batch * (case.warmup + case.steps)
    rows = records(case, tokenizer, human, num)
    wide = Reading(4096, 4096, 8192)  # records are measured before they are chosen
    ranking = list(range(1, case.num_completions + 1))
    kept: list[tuple[Row, Row]] = []  # what ours reads, what the others read
    for row in rows:
        prompt, replies = row["prompt"], row["responses"]
        if case.stage == "sft":
            demos = tokenize_demos([Demonstration(prompt=prompt, response=replies[0])], tokenizer, prompt_format, wide)
            ids, start = demos[0].ids, demos[0].num_prompt
            own: Row = {"prompt": prompt, "response": replies[0]}
            other: Row = {"prompt": ids[:start], "response": [*ids[start:-1][: case.response - 1], ids[-1]]}
        elif case.stage == "rm":
            ranked = tokenize_comparisons(
                [Comparison(prompt=prompt, responses=replies, ranking=ranking)], tokenizer, prompt_format, wide)  # fmt: skip
            start = ranked[0].num_prompt
            own = {"prompt": prompt, "responses": replies, "ranking": ranking}
            responses = [[*ids[start:-1][: case.response - 1], ids[-1]] for ids in ranked[0].ids]
            other = {"prompt": ranked[0].ids[0][:start], "responses": responses, "ranking": ranking}
        else:
            own, other = {"prompt": prompt}, {"prompt": tokenize_prompts(
                [Prompt(prompt=prompt)], tokenizer, prompt_format, wide)[0].ids}  # fmt: skip
        if len(other["prompt"]) <= case.prompt and len(kept) < num:
            kept.append((own, other))
    if len(kept) < num:
        raise SystemExit(f"{case.name}: only {len(kept)} of {num} records fit; give more data")
    order = repeated(num, num, 0) if case.stage == "ppo" else shuffled(num, 0, 0)
    work.mkdir(parents=True, exist_ok=True)
    (work / "train.jsonl").write_text("".join(json.dumps(own) + "\n" for own, _ in kept), encoding="utf-8")
    (work / "ids.jsonl").write_text("".join(json.dumps(kept[i][1]) + "\n" for i in order), encoding="utf-8")


# ---------------------------------------------------------------------- sides


def sides(case: Case) -> list[str]:
    """Who takes part besides ours: LitGPT knows SmolLM2 and no reward model; only PPO has recommended settings."""
    here = {"trl", "trl-allocator", "loop"}
    here |= {"litgpt"} if (case.stage, case.model) == ("sft", "smollm2-135m") else set()
    here |= {"recommended"} if (case.stage, case.dtype) == ("ppo", "float32") else set()
    return [side for side in SIDES if side in here]


def ours(case: Case, model: Path, work: Path, out: Path, recommended: bool = False) -> list[str]:
    """Writes the config and returns the command; ``recommended``: bf16 autocast, frozen models too, a token budget."""
    optimizer: Row = {"class_path": "torch.optim.AdamW",
                      "init_args": {"lr": 1e-6 if case.stage == "ppo" else 1e-5, "weight_decay": 0.0, "fused": True}}  # fmt: skip
    data: Row = {"train": str(work / "train.jsonl"), "format": FORMAT, "batch_size": case.batch,
                 "reading": {"max_prompt_tokens": case.prompt, "max_response_tokens": case.response,
                             "max_tokens": case.prompt + case.response}}  # fmt: skip
    module: Row = {"optimizer": optimizer}
    name, data_name = {"sft": ("SFT", "DemoDataModule"), "rm": ("RankingRM", "ComparisonDataModule"),
                       "ppo": ("PPOModule", "PromptDataModule")}[case.stage]  # fmt: skip
    if case.stage == "ppo":
        data["num_episodes"] = case.batch * (case.warmup + case.steps)
        module |= {"policy": str(model), "reward_model": str(work / "reward_model"),
                   "ppo": {"ptx_coef": 0.0, "max_new_tokens": case.response, "minibatch_size": case.batch,
                           "micro_batch_size": case.micro, "value_lr": 1e-6, "ema_decay": None,
                           "max_grad_norm": 1.0}}  # fmt: skip
        if recommended:
            module["ppo"] |= {"micro_batch_size": None, "micro_batch_tokens": 4096, "frozen_dtype": "bfloat16"}
    else:
        module |= {"model": str(model), "micro_batch_size": case.micro, "max_grad_norm": 1.0}
    if case.stage == "sft":
        module["dropout"] = 0.0
    callback = {"class_path": "benchmarks.step_times.StepTimes", "init_args": {"out": str(out)}}
    config = {
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1,
                    "precision": "bf16-mixed" if recommended else PRECISION[case.dtype],
                    "log_every_n_steps": 1, "enable_checkpointing": False, "callbacks": [callback]},
        "model": {"class_path": name, "init_args": module},
        "data": {"class_path": data_name, "init_args": data},
    }  # fmt: skip
    written = work / ("recommended.yaml" if recommended else "config.yaml")
    written.write_text(json.dumps(config, indent=1))
    return [sys.executable, "-m", "lit_instructgpt", "fit", "--config", str(written), "--run_dir",
            str(out.with_suffix("")), "--allow_import", "benchmarks"]  # fmt: skip


def peer(case: Case, python: Path | str, script: str, model: Path, work: Path, out: Path) -> list[str]:
    """The command of another side."""
    extra = ["--stage", case.stage] if script == "loop" else []
    extra += ["--pairs", str(case.pairs)] if case.pairs and script == "trl_rm" else []
    return [str(python), str(PEERS / f"{script}.py"), *extra, "--model", str(model), "--ids", str(work / "ids.jsonl"),
            "--out", str(out), "--dtype", case.dtype, "--batch", str(case.batch), "--micro", str(case.micro),
            "--steps", str(case.warmup + case.steps), "--response", str(case.response),
            "--threads", os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))]  # fmt: skip


def environment(requirement: str, work: Path) -> Path:
    """A virtual environment with TRL and this torch; made once."""
    folder = (work / requirement.replace("==", "-")).resolve()
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        import torch

        print(f"setting up {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"torch=={torch.__version__.split('+')[0]}", requirement], check=True)
        (folder / "ready").touch()
    return python


def run(command: list[str], out: Path, more: dict[str, str]) -> Row | None:
    """Runs one side with ``more`` in its environment; None (with the end of its output shown) if it failed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_suffix(".log")
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1", **more},
        ).returncode  # fmt: skip
    if code or not out.is_file():
        print(f"FAILED ({code}): {' '.join(command)}\n{log.read_text(encoding='utf-8')[-1500:]}", flush=True)
        return None
    found: Row = json.loads(out.read_text(encoding="utf-8"))
    return found


def amount(case: Case, ids: list[Row], step: int) -> float:
    """Work of a step: tokens (SFT), pairs (reward model) or episodes (PPO)."""
    batch = ids[step * case.batch : (step + 1) * case.batch]
    if case.stage == "sft":
        return sum(len(r["prompt"]) + len(r["response"]) for r in batch)
    if case.stage == "rm":
        return sum(len(r["responses"]) * (len(r["responses"]) - 1) / 2 for r in batch)
    return len(batch)


UNITS = {"sft": "tokens/s", "rm": "pairs/s", "ppo": "episodes/s"}


def command(side: str, case: Case, model: Path, place: Path, work: Path, out: Path) -> list[str]:
    """Of a side."""
    if side in ("ours", "recommended"):
        return ours(case, model, place, out, side == "recommended")
    if side == "loop":
        return peer(case, sys.executable, "loop", model, place, out)
    if side == "litgpt":
        return peer(case, environment(LITGPT, work), "litgpt_sft", model, place, out)
    return peer(case, environment(TRL[case.stage], work), f"trl_{case.stage}", model, place, out)


def compare(case: Case, model: Path, human: list[Row], work: Path, rounds: int, others: list[str]) -> Row:
    """All sides of a case in turn; the row of the table."""
    place = work / case.name
    prepare(case, model, human, place)
    if case.stage == "ppo":
        make_reward_model(model, place / "reward_model")
    ids = [json.loads(line) for line in (place / "ids.jsonl").read_text(encoding="utf-8").splitlines()]
    work_done = sum(amount(case, ids, case.warmup + s) for s in range(case.steps))
    found: dict[str, list[Row]] = {"ours": [], **{name: [] for name in others}}
    for turn in range(rounds):
        for side in found:
            out = (place / f"{side}-{turn}.json").resolve()
            out.unlink(missing_ok=True)
            shutil.rmtree(out.with_suffix(""), ignore_errors=True)  # of an earlier comparison
            more = KEEP_FREED_MEMORY if side in ("trl-allocator", "loop") else {}
            result = run(command(side, case, model, place, work, out), out, more)
            if result is not None:
                result["rate"] = work_done / sum(result["step_seconds"][case.warmup :][: case.steps])
                found[side].append(result)
                print(f"{case.name:45s} {side:13s} {result['rate']:10.2f} {UNITS[case.stage]} "
                      f"{result['peak_mb']:7.0f} MB  loss {result['losses'][:1]}", flush=True)  # fmt: skip
    return summary(case, found, rounds)


def summary(case: Case, found: dict[str, list[Row]], rounds: int) -> Row:
    """Medians over the rounds, and medians of the ratios within a round."""

    def median(side: str, key: str) -> float | None:
        return round(statistics.median(r[key] for r in found[side]), 3) if found.get(side) else None

    def ratio(side: str, key: str = "rate", of: str = "ours") -> float | None:
        both = list(zip(found.get(of, []), found.get(side, []), strict=False))
        return round(statistics.median(a[key] / b[key] for a, b in both), 3) if both else None

    return {
        **asdict(case), "name": case.name, "unit": UNITS[case.stage], "rounds": rounds, "peer": TRL[case.stage],
        "rate": {side: median(side, "rate") for side in found},
        "peak_mb": {side: median(side, "peak_mb") for side in found},
        "ratio_to_peer": ratio("trl"), "ratio_to_peer_same_allocator": ratio("trl-allocator"),
        "ratio_to_litgpt": ratio("litgpt"), "ratio_to_floor": ratio("loop"),
        "recommended_to_peer": ratio("trl", of="recommended"), "memory_ratio_to_peer": ratio("trl", "peak_mb"),
        "memory_ratio_to_floor": ratio("loop", "peak_mb"),
        "phases": {side: phases(found[side], case.warmup) for side in found},
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }  # fmt: skip


def phases(results: list[Row], warmup: int) -> Row:
    """Median seconds of each phase of an iteration, warm-up left out."""
    steps = [step for result in results for step in result["phases"][warmup:]]
    return {name: round(statistics.median(step[name] for step in steps), 3) for name in (steps[0] if steps else {})}


def make_reward_model(model: Path, out: Path) -> None:
    """A reward model with a random head, once."""
    if not (out / "config.json").exists():
        from lit_instructgpt.models import load_tokenizer
        from lit_instructgpt.scalar_model import ScalarModel

        tokenizer = load_tokenizer(str(model))
        ScalarModel.load(str(model), tokenizer).save(out)
        tokenizer.save_pretrained(out)


COLUMNS = {
    "ratio_to_peer": "to TRL", "ratio_to_peer_same_allocator": "to TRL, same allocator", "ratio_to_litgpt": "to LitGPT",
    "ratio_to_floor": "to loop", "memory_ratio_to_peer": "memory to TRL", "memory_ratio_to_floor": "memory to loop",
}  # fmt: skip


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| case | ours | TRL | loop | {' | '.join(COLUMNS.values())} | peak MB |",
        "|---" * (5 + len(COLUMNS)) + "|",
    ]
    for row in rows:
        rate = {
            side: "-" if value is None else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
            for side, value in row["rate"].items()
        }
        first = [row["name"], f"{rate.get('ours', '-')} {row['unit']}", rate.get("trl", "-"), rate.get("loop", "-")]
        ratios = ["-" if row.get(key) is None else f"{row[key]:.2f}" for key in COLUMNS]
        lines.append(f"| {' | '.join([*first, *ratios, peak(row, 'ours')])} |")
        if row.get("recommended_to_peer") is not None:
            first = [f"{row['name']}, recommended settings", f"{rate['recommended']} {row['unit']}", first[2], "-"]
            ratios = [f"{row['recommended_to_peer']:.2f}", *["-"] * (len(COLUMNS) - 1)]
            lines.append(f"| {' | '.join([*first, *ratios, peak(row, 'recommended')])} |")
    return "\n".join(lines)


def peak(row: Row, side: str) -> str:
    """Peak memory of a side, MB."""
    found = row["peak_mb"].get(side)
    return "-" if found is None else f"{found:,.0f}"


def phase_table(rows: list[Row]) -> str:
    """Seconds of the phases of an iteration, of the sides that time them, as Markdown; empty without any."""
    timed = [(row, side, found) for row in rows for side, found in row.get("phases", {}).items() if found]
    names = list(dict.fromkeys(name for _, _, found in timed for name in found))
    lines = [f"| seconds of an iteration | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for row, side, found in timed:
        cells = [f"{found[name]:.2f}" if name in found else "-" for name in names]
        lines.append(f"| {row['name']}, {side} | {' | '.join(cells)} |")
    return "\n".join(lines) if timed else ""


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="throughput", description="Speed beside TRL and beside the shortest loops.")
    parser.add_argument("--data", type=Path, help="folder with comparisons/hh_harmless.jsonl.gz")
    parser.add_argument("--smollm2", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--only", nargs="*", help="names of cases, or beginnings of names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=SIDES, help="beside ours")
    parser.add_argument("--work", type=Path, default=Path("runs/throughput"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/throughput.json"))
    args = parser.parse_args(argv)
    cases = [c for c in CASES if not args.only or any(c.name.startswith(start) for start in args.only)]
    if not cases:
        raise SystemExit(f"throughput: no such case; there are: {', '.join(c.name for c in CASES)}")
    human = human_records(args.data) if args.data else []
    args.work.mkdir(parents=True, exist_ok=True)
    models = {"smollm2-135m": args.smollm2}
    for family in ("llama", "gpt2"):
        models[f"tiny-{family}"] = folder = args.work / f"tiny-{family}"
        if not (folder / "config.json").exists():
            text = args.work / "text.jsonl"
            source = [r["prompt"] + t for r in human for t in r["responses"]] or default_text()
            text.write_text("".join(json.dumps({"text": t}) + "\n" for t in source), encoding="utf-8")
            tiny_model(family, text, folder)
    import torch

    done: dict[str, Row] = {}
    if args.out.is_file():
        done = {row["name"]: row for row in json.loads(args.out.read_text(encoding="utf-8"))["rows"]}
    for case in cases:
        if not (models[case.model] / "config.json").exists():
            print(f"{case.name}: no model in {models[case.model]}: run make smollm2, or give --smollm2 DIR")
            continue
        others = [side for side in sides(case) if side in args.sides]
        row = compare(case, models[case.model], human, args.work, args.rounds, others)
        done[row["name"]] = row
        ordered = in_order(done)
        report = {
            "command": "python benchmarks/throughput.py" + (" --data DIR" if args.data else ""),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "natural_lengths": "human records (hh_harmless)" if args.data else "log-normal",
            "rows": ordered,
        }
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(in_order(done)))


def in_order(done: dict[str, Row]) -> list[Row]:
    """The rows in the order of the cases."""
    return [done[case.name] for case in CASES if case.name in done]


def default_text() -> list[str]:
    """Text to train the tiny tokenizers on where no data are given: the project's own documents."""
    root = Path(__file__).resolve().parent.parent
    parts = [part for path in sorted([*root.glob("*.md"), *root.glob("docs/*.md")])
             for part in path.read_text(encoding="utf-8").split("\n\n")]  # fmt: skip
    return [part for part in parts if part.strip()]


if __name__ == "__main__":
    main()
