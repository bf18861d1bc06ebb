"""Log-probabilities of continuations of a context: what every multiple-choice evaluation is made of.

Which tokens are the continuation's is decided as lm-evaluation-harness decides it (``TemplateLM._encode_pair``), so that
figures compare with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_instructgpt.batch import pad, tokens_per_pass
from lit_instructgpt.hidden import can_pack
from lit_instructgpt.logprobs import target_logprobs, vocabulary_head
from lit_instructgpt.models import inference_mode
from lit_instructgpt.packing import Sharing, no_sharing, passes


@dataclass(frozen=True)
class Continuation:
    """What a model thinks of one continuation.

    Attributes:
        logprob: sum over its tokens, nats.
        num_tokens: of it.
        num_bytes: of it, in UTF-8.
        num_cut: tokens of the context that were cut off at its beginning, because both were too long for the model.
    """

    logprob: float
    num_tokens: int
    num_bytes: int
    num_cut: int

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token, nats."""
        return self.logprob / self.num_tokens


def continuation_logprobs(policy: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
    """Log-probability of every continuation behind its context; neighbours with one context compute it once.

    What is too long for the model loses the beginning of its context. (lm-evaluation-harness keeps one token more of such a
    context: it does not let the model read the continuation's last one.)

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        pairs: context and continuation; the continuation begins with the space between them, if there is one.

    Returns:
        One per pair, in order.

    Raises:
        ValueError: a continuation has no token of its own, or leaves no room for any context.
    """
    limit = getattr(policy.config, "max_position_embeddings", None) or 10**9
    encoder = PairEncoder(tokenizer)
    encoded = [encoder(*pair) for pair in pairs]
    for (_, continuation), (_, ids) in zip(pairs, encoded, strict=True):
        if not 0 < len(ids) < limit:
            raise ValueError(
                f"the continuation {continuation[:40]!r} has {len(ids)} tokens: at least 1 is needed, and at most {limit - 1} "
                f"fit the model's context of {limit} behind one token of context"
            )
    kept = [(context[-(limit - len(ids)) :], ids) for context, ids in encoded]
    device = policy.device
    lengths = torch.tensor([len(context) + len(ids) for context, ids in kept], device=device)
    sharing = _sharing(policy, [context for context, _ in kept], lengths)
    sums = [0.0] * len(pairs)
    with inference_mode(policy):
        for rows in passes(lengths, sharing, tokens_per_pass(device)):
            batch = [kept[i] for i in rows.tolist()]
            input_ids, mask = (x.to(device) for x in pad([context + ids for context, ids in batch], 0))
            start = torch.tensor([len(context) for context, _ in batch], device=device)
            targets = mask & (torch.arange(input_ids.shape[1], device=device) >= start[:, None])
            found = target_logprobs(policy, input_ids, mask, targets, sharing=sharing.take(rows))[0].double()
            for i, part in zip(rows.tolist(), torch.split(found, [len(ids) for _, ids in batch]), strict=True):
                sums[i] = float(part.sum())
    return [
        Continuation(total, len(ids), len(text.encode()), len(whole) - len(context))
        for total, (context, ids), (whole, _), (_, text) in zip(sums, kept, encoded, pairs, strict=True)
    ]


class PairEncoder:
    """Token ids of context and continuation: those of both together, split where those of the context end.

    White space at the end of the context is the continuation's. An empty context is one token: BOS, or EOS where the
    tokenizer has no BOS; a continuation that begins with that token gives it up.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        bos = tokenizer.bos_token_id
        self.prefix = tokenizer.eos_token_id if bos is None else bos
        self.start = [bos] if bos is not None and tokenizer("").input_ids[:1] == [bos] else []
        self._contexts: dict[str, list[int]] = {}

    def __call__(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of the context and of the continuation."""
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if not stripped:
            ids = self._encode(continuation)
            return [self.prefix], ids[1:] if ids[:1] == [self.prefix] else ids
        before = self.context(stripped)
        return before, [*self.start, *self._encode(stripped + continuation)][len(before) :]

    def context(self, text: str) -> list[int]:
        """Ids of a context alone, with BOS if the tokenizer begins texts with it."""
        if text not in self._contexts:
            self._contexts[text] = [*self.start, *self._encode(text)]
        return self._contexts[text]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids


def _sharing(policy: Any, contexts: Sequence[list[int]], lengths: Tensor) -> Sharing:
    """Neighbours whose contexts are equal share them, where the model can and it is less work."""
    if vocabulary_head(policy) is None or not can_pack(policy.base_model):
        return no_sharing(len(contexts), lengths.device)
    new = [i == 0 or contexts[i] != contexts[i - 1] for i in range(len(contexts))]
    num_shared = torch.tensor([len(context) for context in contexts], device=lengths.device)
    owner = torch.tensor(new, device=lengths.device).cumsum(0) - 1
    return Sharing(owner, num_shared).where_less_work(lengths, policy.config.hidden_size)
