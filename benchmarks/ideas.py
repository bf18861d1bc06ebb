"""What each idea of docs/performance.md gains alone: the same work before and after, in turns.

    python benchmarks/ideas.py [--model models/smollm2] [--only shared-prompt ...] [--rounds 5]

An idea is two functions with one result (tests/test_ideas.py compares them); a ratio is the median over the rounds of
seconds before by seconds after. Where an idea changes the process, each turn is a process of its own, and its peak
memory counts too. Lengths are drawn from a log-normal, at most 128 tokens to a prompt and 48 to a response.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lit_instructgpt.allocator import forget_kernels, keep_freed_memory

if __name__ == "__main__" and "--child" not in sys.argv:
    forget_kernels()
    keep_freed_memory()

import torch
from torch import Tensor

from lit_instructgpt import hidden
from lit_instructgpt.batch import pad
from lit_instructgpt.functional import token_logprobs
from lit_instructgpt.generation import RoomyLayer, choose, sample
from lit_instructgpt.inference import freeze_matrices, inference_copy
from lit_instructgpt.logprobs import response_logprobs, target_logprobs
from lit_instructgpt.models import load_policy, load_tokenizer
from lit_instructgpt.packing import Sharing, passes
from lit_instructgpt.scalar_model import ScalarModel

Row = dict[str, Any]
Work = Callable[[], Tensor]
NEVER = -7
"""An EOS that is not sampled."""


@dataclass
class Setting:
    """What the ideas compute with.

    Attributes:
        source: the model's directory.
        num: prompts.
        response: tokens of the longest response.
    """

    source: str
    num: int = 8
    response: int = 48

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.source)
        self.policy = load_policy(self.source, self.tokenizer)
        rng = random.Random(0)

        def lengths(most: int) -> list[int]:
            return [max(4, min(most, round(rng.lognormvariate(3.8, 0.7)))) for _ in range(self.num)]

        def words(length: int) -> list[int]:
            return [rng.randrange(20, len(self.tokenizer) - 20) for _ in range(length)]

        self.prompts = [words(n) for n in lengths(128)]
        self.responses = [words(n) for n in lengths(self.response)]
        self.outputs = [[words(n) for n in lengths(self.response)[:4]] for _ in self.prompts]
        self.ids, self.mask = pad([p + r for p, r in zip(self.prompts, self.responses, strict=True)], 0)
        starts = torch.tensor([len(p) for p in self.prompts])
        self.targets = self.mask & (torch.arange(self.ids.shape[1]) >= starts[:, None])

    def reward_model(self) -> ScalarModel:
        """With a random head."""
        return ScalarModel.load(self.source, self.tokenizer, generator=torch.Generator().manual_seed(0))

    def gradient(self, model: Any, loss: Tensor) -> Tensor:
        """Of the loss by the embeddings, which all of the backward pass goes into."""
        model.zero_grad(set_to_none=True)
        loss.backward()
        found = model.get_input_embeddings().weight.grad
        assert found is not None
        return torch.cat([loss.detach()[None], found.flatten()])

    def sampled(self, policy: Any, prompts: list[list[int]], num: int, eos: int = NEVER, samples: int = 1) -> Tensor:
        """Responses of at most ``num`` tokens."""
        ids, mask = pad(prompts, 0, left=True)
        return sample(policy, ids, mask, num, eos, 0, 1.0, torch.Generator().manual_seed(0), samples).ids


# ---------------------------------------------------------------------- ideas: what comes before, and after


def shared_prompt(s: Setting) -> tuple[Work, Work]:
    """Reward model, K = 4 of two prompts, forward and backward: each sequence alone, or prompts once."""
    reward = s.reward_model()
    ids, mask = pad([s.prompts[b] + output for b in range(2) for output in s.outputs[b]], 0)
    owner = torch.arange(2).repeat_interleave(4)
    sharing = Sharing(owner, torch.tensor([len(s.prompts[b]) for b in owner.tolist()]))

    def step(shared: Sharing | None) -> Tensor:
        return s.gradient(reward.model, reward.score(ids, mask, shared).sin().sum())

    return lambda: step(None), lambda: step(sharing)


def packed_rows(s: Setting) -> tuple[Work, Work]:
    """SFT, forward and backward: padded rows, or packed ones."""

    def step(packing: bool) -> Tensor:
        found = target_logprobs(s.policy, s.ids, s.mask, s.targets, packing=packing)[0]
        return s.gradient(s.policy, -found.mean())

    return lambda: step(False), lambda: step(True)


def similar_lengths(s: Setting) -> tuple[Work, Work]:
    """Log-probabilities in padded micro-batches of two: as they come, or of about one length."""
    lengths = s.mask.sum(1)

    def score(groups: list[Tensor]) -> Tensor:
        total = torch.zeros(len(s.ids))
        for rows in groups:
            width = int(lengths[rows].max())
            ids, mask, targets = (x[rows, :width] for x in (s.ids, s.mask, s.targets))
            found = target_logprobs(s.policy, ids, mask, targets, packing=False)[0]
            parts = found.split(targets.sum(1).tolist())
            total[rows] = torch.stack([part.sum() for part in parts])
        return total

    def no_gradient(groups: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return score(groups)

    near = list(passes(lengths, None, None, 2))
    return lambda: no_gradient(list(torch.arange(len(s.ids)).split(2))), lambda: no_gradient(near)


def response_logits(s: Setting) -> tuple[Work, Work]:
    """SFT, forward and backward, padded rows: all positions projected to the vocabulary, or those that count."""

    def everywhere() -> Tensor:
        logits = s.policy(s.ids, attention_mask=s.mask, position_ids=hidden.positions(s.mask), use_cache=False).logits
        found = token_logprobs(logits[:, :-1].flatten(0, 1), s.ids[:, 1:].flatten(), 1.0)
        return s.gradient(s.policy, -found[s.targets[:, 1:].flatten()].mean())

    def counted() -> Tensor:
        return s.gradient(s.policy, -target_logprobs(s.policy, s.ids, s.mask, s.targets, packing=False)[0].mean())

    return everywhere, counted


def room_for_the_response(s: Setting) -> tuple[Work, Work]:
    """Sampling of 32 responses: a cache that grows by concatenation, or one with room."""
    prompts = s.prompts * 4

    def grown(layer: Any, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        layer.keys, layer.values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        return layer.keys, layer.values

    def before() -> Tensor:
        with patch.object(RoomyLayer, "update", grown):
            return s.sampled(s.policy, prompts, s.response)

    return before, lambda: s.sampled(s.policy, prompts, s.response)


def one_prefill(s: Setting) -> tuple[Work, Work]:
    """Four samples of 8 tokens per prompt: each with its own pass over the prompt, or with one for all."""
    repeated = [prompt for prompt in s.prompts for _ in range(4)]
    return lambda: s.sampled(s.policy, repeated, 8), lambda: s.sampled(s.policy, s.prompts, 8, samples=4)


def rows_leave(s: Setting) -> tuple[Work, Work]:
    """Sampling of 32 responses with early ends: finished rows stay, or leave."""
    prompts = s.prompts * 4
    first = s.sampled(s.policy, prompts, s.response)
    eos = int(first[:, s.response // 4 :].flatten().mode().values)  # a token that comes soon, and not at once

    def before() -> Tensor:
        with patch("lit_instructgpt.generation.LEAVE_BELOW", -1):
            return s.sampled(s.policy, prompts, s.response, eos)

    return before, lambda: s.sampled(s.policy, prompts, s.response, eos)


def draw_by_inversion(s: Setting) -> tuple[Work, Work]:
    """One token for each of 16 rows: torch.multinomial, or inversion by blocks. Equal in distribution alone."""
    logits = torch.randn(16, len(s.tokenizer), generator=torch.Generator().manual_seed(0)) * 3
    uniform = torch.rand(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return lambda: torch.multinomial(logits.softmax(-1), 1).squeeze(1), lambda: choose(logits, 1.0, uniform)


def sampler_logprobs(s: Setting) -> tuple[Work, Work]:
    """Old log-probabilities: a pass over all episodes, or a check of two of them."""
    ids, mask = pad(s.prompts, 0, left=True)
    found = sample(s.policy, ids, mask, s.response, NEVER, 0, 1.0, torch.Generator().manual_seed(0))
    assert found.logprobs is not None
    logprobs, ids, mask = found.logprobs, torch.cat([ids, found.ids], 1), torch.cat([mask, found.mask], 1)

    @torch.no_grad()
    def before() -> Tensor:
        return response_logprobs(s.policy, ids, mask, found.mask)[0]

    @torch.no_grad()
    def after() -> Tensor:
        checked = response_logprobs(s.policy, ids[:2], mask[:2], found.mask[:2])[0]
        assert (checked - logprobs[:2]).abs().max() < 1e-3
        return logprobs

    return before, after


def values_from_update(s: Setting) -> tuple[Work, Work]:
    """Values before the update, and the gradient of their loss: two passes, or one."""
    value = s.reward_model()

    def step(passes: int) -> Tensor:
        with torch.set_grad_enabled(passes == 1):
            values = value.values(s.ids, s.mask, s.targets[:, 1:])
        again = values if passes == 1 else value.values(s.ids, s.mask, s.targets[:, 1:])
        returns = values.detach() + s.ids[:, 1:].sin()
        return s.gradient(value.model, (again - returns).square().mean())

    return lambda: step(2), lambda: step(1)


def prepacked(s: Setting) -> tuple[Work, Work]:
    """Sampling in float32: with the policy's own matrices, or with matrices laid out for oneDNN."""

    def run(packed: bool) -> Tensor:
        return s.sampled(inference_copy(s.policy, torch.float32) if packed else s.policy, s.prompts, s.response)

    return lambda: run(False), lambda: run(True)


def cast_once(s: Setting) -> tuple[Work, Work]:
    """Sampling under bf16 autocast: weights cast at every use, or once per rollout, and laid out for oneDNN."""

    def run(cast: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return s.sampled(inference_copy(s.policy, torch.bfloat16) if cast else s.policy, s.prompts, s.response)

    return lambda: run(False), lambda: run(True)


def short_rows_float32(s: Setting) -> tuple[Work, Work]:
    """The same in float32."""

    def step(below: int) -> Tensor:
        with patch.object(hidden, "SHORT", below):
            return s.gradient(s.policy, -target_logprobs(s.policy, s.ids, s.mask, s.targets)[0].mean())

    return lambda: step(0), lambda: step(384)


def short_rows(s: Setting) -> tuple[Work, Work]:
    """SFT under bf16 autocast, forward and backward: the flash kernel, or plain attention for short rows."""

    def step(below: int) -> Tensor:
        with patch.object(hidden, "SHORT", below), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            loss = -target_logprobs(s.policy, s.ids, s.mask, s.targets)[0].mean()
        return s.gradient(s.policy, loss)

    return lambda: step(0), lambda: step(384)


def frozen_bfloat16(s: Setting) -> tuple[Work, Work]:
    """Reference log-probabilities in a float32 run: in float32, or in bfloat16. Equal to its rounding."""
    low = load_policy(s.source, s.tokenizer).eval()
    freeze_matrices(low, torch.bfloat16)

    @torch.no_grad()
    def score(model: Any, lower: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False):
            return target_logprobs(model, s.ids, s.mask, s.targets)[0]

    return lambda: score(s.policy, False), lambda: score(low, True)


def fused_optimizer(s: Setting) -> tuple[Work, Work]:
    """A step of AdamW: one kernel after the other, or the fused one. Its rate is 0, so that nothing moves."""
    for p in s.policy.parameters():
        p.grad = torch.full_like(p, 1e-3)
    first, second = (torch.optim.AdamW(s.policy.parameters(), lr=0.0, fused=fused) for fused in (False, True))

    def step(optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.step()
        return s.policy.get_input_embeddings().weight.detach()[:2]

    return lambda: step(first), lambda: step(second)


IDEAS: dict[str, Callable[[Setting], tuple[Work, Work]]] = {
    "shared-prompt": shared_prompt,
    "packed-rows": packed_rows,
    "similar-lengths": similar_lengths,
    "response-logits": response_logits,
    "room-for-the-response": room_for_the_response,
    "one-prefill": one_prefill,
    "rows-leave": rows_leave,
    "draw-by-inversion": draw_by_inversion,
    "sampler-logprobs": sampler_logprobs,
    "values-from-update": values_from_update,
    "prepacked": prepacked,
    "cast-once": cast_once,
    "short-rows": short_rows,
    "short-rows-float32": short_rows_float32,
    "frozen-bfloat16": frozen_bfloat16,
    "fused-optimizer": fused_optimizer,
}

# ---------------------------------------------------------------------- ideas that change a process


def sft_steps(s: Setting, lower: bool) -> None:
    """Six optimizer steps, lengths changing."""
    optimizer = torch.optim.AdamW(s.policy.parameters(), lr=1e-6, fused=True)
    for i in range(6):
        width = s.ids.shape[1] - i
        with torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False):
            parts = (x[:, :width] for x in (s.ids, s.mask, s.targets))
            loss = -target_logprobs(s.policy, *parts)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def kept_memory(s: Setting, after: bool) -> None:
    """Float32 SFT: freed memory goes back to the system, or stays."""
    if after:
        keep_freed_memory()
    sft_steps(s, False)


def kept_kernels(s: Setting, after: bool) -> None:
    """Log-probabilities in bf16 autocast over many sizes: oneDNN keeps 1,024 compiled kernels, or 64."""
    if after:
        forget_kernels()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        for width in range(8, 136):
            target_logprobs(s.policy, s.ids[:1, :width], s.mask[:1, :width], s.mask[:1, :width])


def one_network_at_a_time(s: Setting, after: bool) -> None:
    """Backward passes of policy and value model: both graphs at once, or one after the other."""
    value = s.reward_model()
    loss = -target_logprobs(s.policy, s.ids, s.mask, s.targets)[0].mean()
    if after:
        loss.backward()
    values = value.values(s.ids, s.mask, s.targets[:, 1:]).square().mean()
    (values if after else loss + values).backward()


PROCESSES: dict[str, Callable[[Setting, bool], None]] = {
    "kept-memory": kept_memory,
    "kept-kernels": kept_kernels,
    "one-network-at-a-time": one_network_at_a_time,
}

# ---------------------------------------------------------------------- measuring


def in_turns(name: str, setting: Setting, rounds: int) -> Row:
    """Median seconds before and after, and the median of the ratios; the first turn does not count."""
    works = IDEAS[name](setting)
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for side, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            for _ in range(20 if name == "draw-by-inversion" else 1):
                work()
            if turn:
                side.append(time.perf_counter() - start)
    return summary(name, IDEAS[name].__doc__ or "", seconds)


def in_processes(name: str, source: str, rounds: int) -> Row:
    """As ``in_turns``, each turn a process of its own; with peak memory."""
    seconds: list[list[float]] = [[], []]
    memory: list[list[float]] = [[], []]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "ONEDNN_PRIMITIVE"))}
    for _ in range(rounds):
        for side in range(2):
            found = json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--model", source, "--child", name, str(side)],
                    check=True, stdout=subprocess.PIPE, env=environment,
                ).stdout.splitlines()[-1]
            )  # fmt: skip
            seconds[side].append(found["seconds"])
            memory[side].append(found["peak_mb"])
    row = summary(name, PROCESSES[name].__doc__ or "", seconds)
    before, after = (round(statistics.median(side)) for side in memory)
    return {**row, "peak_mb_before": before, "peak_mb_after": after}


def child(source: str, name: str, after: bool) -> None:
    """One turn of an idea that changes a process."""
    setting = Setting(source)
    start = time.perf_counter()
    PROCESSES[name](setting, after)
    status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage counts what the parent held, too
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak}))


def summary(name: str, what: str, seconds: list[list[float]]) -> Row:
    """A row of the results."""
    before, after = (statistics.median(side) for side in seconds)
    gain = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    print(f"{name:24s} {before:9.4f} s -> {after:9.4f} s  {gain:6.2f} x", flush=True)
    return {"idea": name, "what": what, "seconds_before": round(before, 4), "seconds_after": round(after, 4),
            "gain": round(gain, 3)}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="ideas", description="Each idea alone, before and after.")
    parser.add_argument("--model", default="models/smollm2", help="made by make smollm2")
    parser.add_argument("--only", nargs="*", choices=[*IDEAS, *PROCESSES], default=[*IDEAS, *PROCESSES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ideas.json"))
    parser.add_argument("--child", nargs=2, metavar=("NAME", "AFTER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.model, args.child[0], args.child[1] == "1")
        return
    setting = Setting(args.model)
    rows = [in_turns(name, setting, args.rounds) for name in args.only if name in IDEAS]
    rows += [in_processes(name, args.model, args.rounds) for name in args.only if name in PROCESSES]
    rounds = args.rounds
    if args.out.is_file():  # --only measures some again, and leaves the others
        old = json.loads(args.out.read_text(encoding="utf-8"))
        kept, rounds = {row["idea"]: row for row in old["rows"]}, min(rounds, old["rounds"])
        merged = kept | {row["idea"]: row for row in rows}
        rows = [merged[name] for name in (*IDEAS, *PROCESSES) if name in merged]
    report = {
        "command": "python benchmarks/ideas.py", "model": Path(args.model).name, "rounds": rounds, "seed": 0,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} threads", "rows": rows,
    }  # fmt: skip
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
