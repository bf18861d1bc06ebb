"""What a reference in few bits moves: ``python benchmarks/quantized.py``.

A model samples responses to prompts, and its frozen self scores them with matrices of float32, bfloat16, 8 and 4 bits. The KL
of the responses should be 0 at the start of PPO; what it is instead is the rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from lit_instructgpt.generation import sample
from lit_instructgpt.inference import QuantizedLinear, freeze_matrices, matrices
from lit_instructgpt.logprobs import response_logprobs
from lit_instructgpt.models import load_policy, load_tokenizer

PROMPTS = (
    "Write a short letter to a friend about the weather.", "Explain why the sky is blue.", "List three uses of a brick.",
    "What should I cook tonight with eggs and rice?", "Give me a title for a story about a lost dog.",
    "How do I learn to swim as an adult?", "Describe the sea to someone who has never seen it.",
    "What is the difference between a crow and a raven?",
)  # fmt: skip
KINDS: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": "int8", "nf4": "nf4"}


def measure(model: Path, per_prompt: int, num_tokens: int) -> list[dict[str, Any]]:
    """One row for each kind."""
    tokenizer = load_tokenizer(str(model))
    policy = load_policy(str(model), tokenizer).eval().requires_grad_(False)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    width = max(map(len, ids))
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], dtype=torch.bool)
    left = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids])
    drawn = sample(
        policy, left, mask, num_tokens, tokenizer.eos_token_id, tokenizer.pad_token_id,
        generator=torch.Generator().manual_seed(0), num_samples=per_prompt,
    )  # fmt: skip
    whole = torch.cat([left.repeat_interleave(per_prompt, 0), drawn.ids], 1)
    seen = torch.cat([mask.repeat_interleave(per_prompt, 0), drawn.mask], 1)

    def score(frozen: Any, lower: bool) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False):
            return response_logprobs(frozen, whole, seen, drawn.mask)[0]

    exact = score(policy, False)
    rows = []
    for name, kept in KINDS.items():
        frozen = load_policy(str(model), tokenizer).eval().requires_grad_(False)
        lower = kept is torch.bfloat16
        before = sum(module.weight.numel() for _, _, module in matrices(frozen))
        freeze_matrices(frozen, kept)
        few = [module for module in frozen.modules() if isinstance(module, QuantizedLinear)]
        num_bytes = sum(m.num_bytes for m in few) if few else before * (2 if lower else 4)
        found = score(frozen, lower)
        gap = (exact - found)[drawn.mask]
        rows.append({
            "kind": name, "matrices_mb": round(num_bytes / 2**20, 1), "kl_per_token": float(gap.mean()),
            "kl_per_response": float((exact - found).sum(1).mean()), "largest_gap": float(gap.abs().max()),
            "tokens": int(drawn.mask.sum()),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def table(report: dict[str, Any]) -> str:
    """For docs/scale.md."""
    lines = [
        "| `frozen_dtype` | matrices, MB | KL at the start, nats a token | nats a response | largest gap of a token |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        figures = (f"{row['kl_per_token']:.4f}", f"{row['kl_per_response']:.3f}", f"{row['largest_gap']:.2g}")
        lines.append(f"| {row['kind']} | {row['matrices_mb']:,.0f} | {' | '.join(figures)} |")
    about = (
        f"`{report['command']}`, {report['rows'][0]['tokens']:,} tokens, seed 0; {report['hardware']}, torch "
        f"{report['versions']['torch']}. In 8 and 4 bits the vocabulary head, which shares its weight with the embeddings, stays "
        "float32 and is not counted."
    )
    return "\n".join([*lines, "", about])


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(prog="quantized", description="What a reference in few bits moves.")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"), help="made by make smollm2")
    parser.add_argument("--per_prompt", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="of a response, at most")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantized.json"))
    args = parser.parse_args(argv)
    report = {
        "command": "python benchmarks/quantized.py", "model": args.model.name,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "rows": measure(args.model, args.per_prompt, args.tokens),
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
