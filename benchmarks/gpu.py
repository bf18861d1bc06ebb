"""Speed and memory on one GPU, against what the device can do.

    python benchmarks/gpu.py [--models 135m 1.3b 2.7b] [--what matmul sft rm rollout ppo]
    python benchmarks/gpu.py --rehearse
    python benchmarks/gpu.py --checks

Llama models with random weights, made here: no hub, no downloads. SFT, reward model and PPO run as the public command;
their model-FLOPs utilisation is against a measured matrix product, sampling against the measured memory bandwidth.
``--rehearse`` runs everything with a tiny model on the CPU and judges nothing. ``--checks`` is gpu_checks.py: what must hold on
a GPU as on a CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
from lightning.pytorch import LightningModule, Trainer

from benchmarks import gpu_checks
from benchmarks.step_times import StepTimes
from benchmarks.throughput import Case, make_reward_model, ours, prepare, run

Row = dict[str, Any]

SIZES: dict[str, Row] = {
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3},
    "1.3b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 32},
    "2.7b": {"hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 32},
    "rehearsal": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip

GOALS = {("sft", "1.3b"): ("mfu", 0.5, 1), ("rollout", "1.3b"): ("of_bandwidth_floor", 0.6, 1),
         ("ppo", "1.3b"): ("rollout_share", 0.5, -1)}  # fmt: skip
"""(what, model) -> the figure, its goal, and whether more (1) or less (-1) is better."""


class GpuSteps(StepTimes):
    """Notes when steps end, work on the device included, and the device's peak memory."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: adds the peak."""
        super().on_train_end(trainer, pl_module)
        found = json.loads(Path(self.out).read_text())
        found["device_peak_mb"] = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
        Path(self.out).write_text(json.dumps(found))


def model_flops(shape: Row, vocabulary: int, lengths: list[int], num_targets: int) -> float:
    """Floating-point operations of a training step: forward and backward pass, three times the forward.

    2 for every weight of the layers and token; 2 d for every pair of a token and one it attends to, twice (scores
    and values); 2 d V for every target. Embeddings cost nothing, and padding and recomputation do not count.

    Args:
        shape: of the model.
        vocabulary: its tokens; 0 for a reward model.
        lengths: tokens of every sequence.
        num_targets: positions that are projected to the vocabulary.
    """
    d, layers = shape["hidden_size"], shape["num_hidden_layers"]
    heads = shape["num_attention_heads"]
    kv = d * shape.get("num_key_value_heads", heads) // heads
    weights = layers * (2 * d * d + 2 * d * kv + 3 * d * shape["intermediate_size"])
    pairs = sum(n * (n + 1) / 2 for n in lengths)
    return 3 * (2 * weights * sum(lengths) + 4 * d * layers * pairs + 2 * d * vocabulary * num_targets)


def make_model(size: str, vocabulary: int, work: Path) -> Path:
    """A model with random weights and a tokenizer of whole words; once."""
    from lit_instructgpt.models import FreshModel, load_tokenizer

    out = work / size
    if (out / "config.json").exists():
        return out
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(150)]
    text = work / "text.jsonl"
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("".join(json.dumps({"text": " ".join(rng.choices(words, k=50))}) + "\n" for _ in range(400)))
    tokenizer = load_tokenizer(FreshModel({"model_type": "llama"}, [str(text)], vocab_size=512))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SIZES[size], vocab_size=vocabulary, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def seconds_of(function: Callable[[], Any], device: str, repeats: int) -> float:
    """Seconds of a call, the best of a few."""
    best = float("inf")
    for _ in range(repeats + 1):  # the first compiles
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def ceilings(device: str, small: bool) -> Row:
    """What the device can do: operations of a bf16 matrix product, bytes of a copy, each per second."""
    n, size = (256, 1 << 20) if small else (8192, 1 << 30)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "what": "matmul",
        "tflops": 2 * n**3 / seconds_of(lambda: a @ b, device, 10) / 1e12,
        "gb_per_second": 2 * size / seconds_of(lambda: target.copy_(source), device, 10) / 1e9,
    }


def case_of(what: str, small: bool) -> Case:
    """Sizes of a step; uniform lengths, bf16 autocast."""
    if small:
        return Case(what, "rehearsal", "bf16-autocast", "uniform", batch=4, micro=2, steps=2, prompt=16, response=8)
    if what == "ppo":
        return Case(what, "", "bf16-autocast", "uniform", batch=64, micro=16, steps=3, prompt=128, response=128)
    batch, micro = (64, 16) if what == "sft" else (16, 4)
    return Case(what, "", "bf16-autocast", "uniform", batch=batch, micro=micro, steps=5, prompt=512, response=128)


def trained(what: str, size: str, model: Path, work: Path, device: str, ceiling: Row, vocabulary: int) -> Row:
    """A stage by the public command: utilisation (SFT, reward model) or phases (PPO), and peak memory."""
    case, place = case_of(what, device == "cpu"), work / "runs" / what / size
    prepare(case, model, [], place)
    if what == "ppo":
        make_reward_model(model, place / "reward_model")
    out = (place / "steps.json").resolve()
    command = ours(case, model, place, out)
    config = json.loads((place / "config.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu" if device == "cpu" else "gpu", "logger": False}
    config["trainer"]["callbacks"][0]["class_path"] = "benchmarks.gpu.GpuSteps"
    (place / "config.yaml").write_text(json.dumps(config))
    out.unlink(missing_ok=True)
    result = run(command, out, {})
    if result is None:
        raise SystemExit(f"gpu: {what} of {size} failed; its output is above")
    steps = result["step_seconds"][case.warmup :]
    seconds = sum(steps) / len(steps)
    row: Row = {"what": what, "model": size, "seconds_per_step": seconds, "device_peak_mb": result["device_peak_mb"]}
    if what == "ppo":
        phases = result["phases"][case.warmup :]
        mean = {name: sum(phase[name] for phase in phases) / len(phases) for name in phases[0]}
        return row | {"phases": mean, "episodes_per_second": case.batch / seconds,
                      "rollout_share": mean["rollout"] / sum(mean.values())}  # fmt: skip
    ids = [json.loads(line) for line in (place / "ids.jsonl").read_text().splitlines()][-case.batch :]
    lengths = [len(r["prompt"]) + len(y) for r in ids for y in (r["responses"] if what == "rm" else [r["response"]])]
    targets = sum(len(r["response"]) for r in ids) if what == "sft" else 0
    flops = model_flops(SIZES[size], vocabulary if what == "sft" else 0, lengths, targets)
    return row | {"tokens_per_second": sum(lengths) / seconds, "tflops": flops / seconds / 1e12,
                  "mfu": flops / seconds / 1e12 / ceiling["tflops"]}  # fmt: skip


def rollouts(size: str, model: Path, device: str, ceiling: Row) -> list[Row]:
    """Tokens per second of every engine, against the floor: all weights and the cache read once for every token."""
    from lit_instructgpt.engines import ENGINES
    from lit_instructgpt.inference import inference_copy
    from lit_instructgpt.models import load_policy, load_tokenizer

    batch, prompt, response = (2, 8, 4) if device == "cpu" else (64, 128, 128)
    tokenizer = load_tokenizer(str(model))
    policy = load_policy(str(model), tokenizer).eval().to(device)
    low = inference_copy(policy, torch.bfloat16)
    whole = load_policy(str(model), tokenizer, dtype=torch.bfloat16).eval().to(device)
    ids = torch.randint(2, 400, (batch, prompt), device=device)
    shape = SIZES[size]
    heads = shape["num_attention_heads"]
    per_token = 4 * shape["num_hidden_layers"] * shape["hidden_size"] * shape.get("num_key_value_heads", heads) // heads
    read = 2 * sum(p.numel() for p in policy.parameters()) + batch * per_token * (prompt + response / 2)
    floor = batch / (read / (ceiling["gb_per_second"] * 1e9))
    rows = []
    for name, engine in ENGINES.items():
        own = name == "own"
        autocast = torch.autocast(device, torch.bfloat16, cache_enabled=False) if own else nullcontext()

        def draw(name: Any = name, engine: Any = engine, own: bool = own) -> None:
            """One batch of responses that never end."""
            engine(low if own else whole, ids, torch.ones_like(ids, dtype=torch.bool), response, len(tokenizer) + 10**6,
                   tokenizer.pad_token_id, generator=torch.Generator(device).manual_seed(0))  # fmt: skip

        with autocast:
            rate = batch * response / seconds_of(draw, device, 2)
        rows.append({"what": "rollout", "model": size, "engine": name, "tokens_per_second": rate,
                     "floor_tokens_per_second": floor, "of_bandwidth_floor": rate / floor})  # fmt: skip
    return rows


def judged(row: Row) -> Row:
    """The row with its goal and whether it is reached, if it has one."""
    goal = GOALS.get((row["what"], row.get("model", "")))
    if goal is None or row.get("engine", "own") != "own":
        return row
    name, value, sign = goal
    return row | {"goal": f"{name} {'>=' if sign > 0 else '<='} {value}", "reached": sign * row[name] >= sign * value}


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="gpu", description="Speed and memory on one GPU.")
    parser.add_argument("--models", nargs="*", default=["135m", "1.3b"], choices=[s for s in SIZES if s != "rehearsal"])
    kinds = ("sft", "rm", "rollout", "ppo")
    parser.add_argument("--what", nargs="*", default=list(kinds), choices=kinds)
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="models and runs")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu.json; in rehearsal WORK/gpu.json")
    parser.add_argument("--rehearse", action="store_true", help="everything, tiny and on the CPU")
    parser.add_argument("--checks", nargs="?", const="", help="checks alone, all or those whose name begins so")
    parser.add_argument("--jobs", type=int, default=1, help="with --checks: kinds of checks at a time")
    args = parser.parse_args(argv)
    if args.checks is not None:
        devices = [*(["cuda"] if torch.cuda.is_available() else []), "cpu"]
        out = args.out or Path("benchmarks/results/gpu_checks.json")
        gpu_checks.measure(devices, args.work.resolve(), out, args.checks, args.jobs)
        return
    if not args.rehearse and not torch.cuda.is_available():
        raise SystemExit("gpu: there is no CUDA device here; --rehearse runs everything with a tiny model on the CPU")
    device = "cpu" if args.rehearse else "cuda"
    vocabulary = 1024 if args.rehearse else 49152
    out = args.out or (args.work / "gpu.json" if args.rehearse else Path("benchmarks/results/gpu.json"))
    ceiling = ceilings(device, args.rehearse)
    rows = [ceiling]
    report: Row = {
        "command": "python benchmarks/gpu.py" + (" --rehearse" if args.rehearse else ""),
        "rehearsal": args.rehearse,
        "device": "CPU" if args.rehearse else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "python": platform.python_version()},
        "seed": 0,
    }  # fmt: skip
    for size in ["rehearsal"] if args.rehearse else args.models:
        model = make_model(size, vocabulary, args.work)
        for what in args.what:
            if what == "rollout":
                found = rollouts(size, model, device, ceiling)
            else:
                found = [trained(what, size, model, args.work, device, ceiling, vocabulary)]
            rows += found if args.rehearse else [judged(row) for row in found]
            for row in rows[-len(found) :]:
                print(json.dumps(row), flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
