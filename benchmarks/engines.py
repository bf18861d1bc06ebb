"""How fast the engines sample, side by side: the same prompts, the same number of tokens.

    python benchmarks/engines.py [--model models/smollm2]

Prompts of natural lengths, responses that do not end before their limit, float32 and bf16 autocast; medians of rounds
in which the engines take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lit_instructgpt.allocator import forget_kernels, keep_freed_memory

forget_kernels()
keep_freed_memory()

import torch  # noqa: E402

from lit_instructgpt.batch import pad  # noqa: E402
from lit_instructgpt.engines import ENGINES  # noqa: E402
from lit_instructgpt.inference import arithmetic, inference_copy  # noqa: E402
from lit_instructgpt.models import load_policy, load_tokenizer  # noqa: E402


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="engines", description="Tokens per second of every sampling engine.")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=1, help="responses per prompt")
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engines.json"))
    args = parser.parse_args(argv)
    tokenizer = load_tokenizer(str(args.model))
    policy = load_policy(str(args.model), tokenizer).eval()
    rng = random.Random(0)
    lengths = [max(8, min(127, round(rng.lognormvariate(3.8, 0.7)))) for _ in range(args.batch)]
    prompts = [[rng.randrange(100, len(tokenizer) - 100) for _ in range(length)] for length in lengths]
    ids, mask = pad(prompts, tokenizer.pad_token_id, left=True)
    num_tokens = args.batch * args.samples * args.response
    rows: list[dict[str, Any]] = []
    for dtype in ("float32", "bf16-autocast"):
        found: dict[str, list[float]] = {name: [] for name in ENGINES}
        for turn in range(args.rounds + 1):  # the first does not count
            for name, engine in ENGINES.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype != "float32", cache_enabled=False):
                    model = inference_copy(policy, arithmetic(policy)) if name == "own" else policy
                    sampled = engine(
                        model, ids, mask, args.response, len(tokenizer) + 1, tokenizer.pad_token_id,
                        generator=torch.Generator().manual_seed(turn), num_samples=args.samples,
                    )  # fmt: skip
                assert sampled.ids.shape == (args.batch * args.samples, args.response)
                if turn:
                    found[name].append(num_tokens / (time.perf_counter() - start))
        for name, rates in found.items():
            rate = statistics.median(rates)
            slower = statistics.median(own / other for own, other in zip(found["own"], rates, strict=True))
            row = {"tokens_per_second": round(rate, 1), "own_is_faster_by": round(slower, 2)}
            rows.append({"engine": name, "dtype": dtype, **row})
            print(f"{dtype:15s} {name:20s} {rate:8.1f} tokens/s", flush=True)
    report = {
        "command": "python benchmarks/engines.py", "model": args.model.name, "prompts": args.batch,
        "samples_per_prompt": args.samples, "response_tokens": args.response, "rounds": args.rounds, "seed": 0,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} threads", "rows": rows,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
