"""Engines that sample, behind one call: ours, transformers' ``generate`` as the reference, and its continuous batching.

All sample purely, at one temperature, and return ``Sampled``. Ours is the default: it computes a prompt once for all of its
samples, and its log-probabilities save a scoring pass. docs/performance.md compares them.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from lit_instructgpt.batch import pad
from lit_instructgpt.generation import Sampled, sample
from lit_instructgpt.models import inference_mode

EngineName = Literal["own", "generate", "continuous_batching"]

PAGE = 16
"""Tokens of a block of the paged cache on a CPU, where its number of blocks is counted out."""


class Engine(Protocol):
    """Samples ``num_samples`` responses per prompt; arguments and result are those of ``sample``."""

    def __call__(
        self,
        policy: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        eos_token_id: int,
        pad_token_id: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        num_samples: int = 1,
    ) -> Sampled:
        """The responses, those of one prompt together."""
        ...


def generate(
    policy: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    num_samples: int = 1,
) -> Sampled:
    """``transformers``' own ``generate``; the global random numbers are as they were afterwards."""
    config = _config(max_new_tokens, eos_token_id, pad_token_id, temperature)
    devices = [input_ids.device] if input_ids.device.type == "cuda" else []
    with inference_mode(policy), torch.random.fork_rng(devices):
        torch.manual_seed(_seed(generator))
        found = policy.generate(
            input_ids.repeat_interleave(num_samples, 0),
            attention_mask=attention_mask.repeat_interleave(num_samples, 0),
            generation_config=config,
        )
    return _ended([row.tolist() for row in found[:, input_ids.shape[1] :]], eos_token_id, pad_token_id, found.device)


def continuous_batching(
    policy: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    num_samples: int = 1,
) -> Sampled:
    """``transformers``' continuous batching: a finished response makes room at once.

    It computes in a thread that knows nothing of autocast: under autocast a copy of the policy in its dtype samples, norms and
    all. That is further from the training forward pass than the other engines are, and no log-probabilities tell how far.

    Raises:
        RuntimeError: a request failed.
    """
    kind = input_ids.device.type
    if torch.is_autocast_enabled(kind):
        policy = copy.deepcopy(policy).to(torch.get_autocast_dtype(kind))
    prompts = [ids[mask].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
    prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    sizes: dict[str, Any] = {}
    if kind == "cpu":
        blocks = -(-(max(map(len, prompts)) + max_new_tokens) // PAGE) + 1
        sizes = {"num_blocks": blocks * len(prompts), "page_size": PAGE, "max_batch_tokens": 1024}
    devices = [input_ids.device] if kind == "cuda" else []
    seed = _seed(generator)
    with inference_mode(policy), torch.random.fork_rng(devices):
        found = policy.generate_batch(
            prompts,
            generation_config=_config(max_new_tokens, eos_token_id, pad_token_id, temperature),
            continuous_batching_config=ContinuousBatchingConfig(seed=seed % 2**31, **sizes),
            warmup=False,
        )
    outputs = sorted(found.values(), key=lambda output: int(output.request_id.rsplit("_", 1)[-1]))
    wrong = [output.error for output in outputs if output.error] or ([] if len(outputs) == len(prompts) else ["lost"])
    if wrong:
        raise RuntimeError(f"continuous batching: {len(wrong)} of {len(prompts)} requests failed: {wrong[0]}")
    return _ended([output.generated_tokens for output in outputs], eos_token_id, pad_token_id, input_ids.device)


ENGINES: dict[EngineName, Engine] = {
    "own": sample,
    "generate": generate,
    "continuous_batching": continuous_batching,
}


def _config(max_new_tokens: int, eos_token_id: int, pad_token_id: int, temperature: float) -> GenerationConfig:
    pure = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=eos_token_id, pad_token_id=pad_token_id,
        **(pure if temperature > 0 else {"do_sample": False}),
    )  # fmt: skip


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (1,), generator=generator, device=device))


def _ended(rows: list[list[int]], eos_token_id: int, pad_token_id: int, device: torch.device) -> Sampled:
    """Responses up to EOS, without log-probabilities."""
    cut = [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in rows]
    ids, mask = pad(cut, pad_token_id)
    return Sampled(ids.to(device), mask.to(device), None)
