"""From prompts to response texts: what ``predict``, ``evaluate`` and ``chat`` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_instructgpt.batch import PromptBatch
from lit_instructgpt.engines import ENGINES, EngineName
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.inference import arithmetic, inference_copy


@dataclass
class Sampling:
    """How responses are sampled.

    Attributes:
        num_samples: responses per prompt (K).
        max_new_tokens: a response is cut here if it has not ended.
        temperature: 1 is the model's own distribution, 0 its most likely token.
        seed: of the random numbers; None: that of the run (``--seed_everything``) in Lightning's commands, else 0.
        engine: what samples: own, transformers' generate or its continuous_batching.
    """

    num_samples: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    seed: int | None = None
    engine: EngineName = "own"

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.max_new_tokens < 1:
            raise ValueError("sampling: num_samples and max_new_tokens must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature must not be negative, got {self.temperature}")


def sample_ids(policy: Any, tokenizer: Any, batch: PromptBatch, sampling: Sampling, stream: int) -> list[list[int]]:
    """As ``sample_rows``, of a batch of prompts."""
    return sample_rows(policy, tokenizer, batch.input_ids, batch.attention_mask, sampling, stream)


def sample_rows(
    policy: Any, tokenizer: Any, input_ids: Tensor, attention_mask: Tensor, sampling: Sampling, stream: int
) -> list[list[int]]:
    """``num_samples`` responses per left-padded prompt [B, P] as token ids, EOS included where sampled: B * K lists.

    ``stream`` numbers the batch, so that each has random numbers of its own.
    """
    generator = torch.Generator(input_ids.device).manual_seed((sampling.seed or 0) * 1_000_003 + stream)
    if sampling.engine != "continuous_batching":
        policy = inference_copy(policy, arithmetic(policy))
    found = ENGINES[sampling.engine](
        policy, input_ids, attention_mask, sampling.max_new_tokens, tokenizer.eos_token_id,
        tokenizer.pad_token_id, sampling.temperature, generator, sampling.num_samples,
    )  # fmt: skip
    return [row[keep].tolist() for row, keep in zip(found.ids, found.mask, strict=True)]


def sample_texts(
    policy: Any,
    tokenizer: Any,
    prompt_format: PromptFormat,
    batch: PromptBatch,
    sampling: Sampling,
    stream: int,
) -> list[list[str]]:
    """As ``sample_ids``, decoded: B lists of K texts."""
    texts = [prompt_format.decode(ids, tokenizer) for ids in sample_ids(policy, tokenizer, batch, sampling, stream)]
    k = sampling.num_samples
    return [texts[i : i + k] for i in range(0, len(texts), k)]
