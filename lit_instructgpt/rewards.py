"""Rewards on text. A reward is any callable ``(prompts, responses) -> scores``; name it by class path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lit_instructgpt.batch import pad
from lit_instructgpt.formatting import Messages, PromptFormat, read_format
from lit_instructgpt.hidden import can_pack
from lit_instructgpt.models import inference_mode, load_tokenizer
from lit_instructgpt.packing import Sharing, passes
from lit_instructgpt.scalar_model import ScalarModel

SHARED_TOKENS = 4096
"""Tokens of a row in which responses share their prompt: its attention mask has their square."""


WHOLE = 10**9
"""More tokens than any response has."""


class Reward(Protocol):
    """Scores finished responses; higher is better."""

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[float]:
        """One float per response, in order."""
        ...


class ModelReward:
    """A reward model's directory as a reward on text, with its own tokenizer and its own format.

    Args:
        model: directory that the reward model's stage exported (or any sequence-classification model
            with one label).
        format: for a directory that does not say how its prompts were formatted.
        max_response_tokens: longer responses are cut, their EOS kept, and so are those over its context; it says how many.
        batch_size: sequences per forward pass.
        device: where the model runs.
    """

    def __init__(
        self,
        model: str,
        format: PromptFormat | None = None,
        max_response_tokens: int = 1024,
        batch_size: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        self.tokenizer = load_tokenizer(model)
        self.model = ScalarModel.load(model, self.tokenizer, need_head=True).to(device)
        self.model.eval().requires_grad_(False)
        self.format = read_format(model) or format or PromptFormat()
        self.max_response_tokens, self.batch_size, self.device = max_response_tokens, batch_size, device

    def __call__(self, prompts: Sequence[str | Messages], responses: Sequence[str]) -> list[float]:
        """Scores of the formatted prompt and response, EOS appended."""
        context = getattr(self.model.model.config, "max_position_embeddings", None) or WHOLE
        sequences: list[list[int]] = []
        num_prompt: list[int] = []
        num_cut = 0
        for prompt, response in zip(prompts, responses, strict=True):
            tokens = self.format.prompt_ids(prompt, self.tokenizer)
            limit = min(self.max_response_tokens, context - len(tokens))
            if limit < 1:
                raise ValueError(
                    f"a prompt of {len(tokens)} tokens leaves no room in the reward model's context of {context}"
                )
            whole = self.format.response_ids(response, self.tokenizer, WHOLE)
            num_cut += len(whole) > limit
            sequences.append(tokens + (whole if len(whole) <= limit else [*whole[: limit - 1], whole[-1]]))
            num_prompt.append(len(tokens))
        if num_cut:
            rank_zero_info(
                f"reward model: {num_cut} of {len(sequences)} responses are longer than it reads (max_response_tokens "
                f"{self.max_response_tokens}, context {context}): they are scored cut, their EOS kept"
            )
        return self.score_sequences(sequences, num_prompt)

    def score_sequences(self, sequences: Sequence[list[int]], num_prompt: Sequence[int] | None = None) -> list[float]:
        """Scores of prompts with their responses, as token ids of this model's own tokenizer.

        Args:
            sequences: prompt and response of each.
            num_prompt: tokens of each one's prompt; a prompt is then computed once for its responses, where that is less work.
        """
        if not sequences:
            return []
        packable = num_prompt is not None and can_pack(self.model.model.base_model)
        shared = list(num_prompt) if packable and num_prompt is not None else [0] * len(sequences)
        prompts = [tuple(ids[:num]) for ids, num in zip(sequences, shared, strict=True)]
        order = sorted(range(len(sequences)), key=lambda i: prompts[i])
        sharing = self._sharing([prompts[i] for i in order], [len(sequences[i]) for i in order])
        lengths = torch.tensor([len(sequences[i]) for i in order])
        sharing = sharing.where_less_work(lengths, self.model.model.score.in_features)
        scores = [0.0] * len(sequences)
        for rows in passes(lengths, sharing, num_sequences=self.batch_size):
            taken = [order[row] for row in rows.tolist()]
            ids, mask = (x.to(self.device) for x in pad([sequences[i] for i in taken], self.tokenizer.pad_token_id))
            part = sharing.take(rows)
            part = Sharing(part.owner.to(self.device), part.num_prompt.to(self.device))
            for i, score in zip(taken, self.score_ids(ids, mask, part).tolist(), strict=True):
                scores[i] = score
        return scores

    def _sharing(self, prompts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> Sharing:
        """Neighbours of one prompt share it: as many as a pass has, and a row of SHARED_TOKENS."""
        owner: list[int] = []
        tokens = 0
        for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            own = length - len(prompt)
            fits = bool(owner) and i - owner[-1] < self.batch_size and tokens + own <= SHARED_TOKENS
            together = fits and prompt and prompt == prompts[owner[-1]]
            owner.append(owner[-1] if together else i)  # the number of the first of them
            tokens = tokens + own if together else length
        return Sharing(torch.tensor(owner), torch.tensor([len(prompt) for prompt in prompts]))

    def score_ids(self, input_ids: Tensor, attention_mask: Tensor, sharing: Sharing | None = None) -> Tensor:
        """Scores of token ids of this model's own tokenizer: [B, T] -> [B]."""
        with inference_mode(self.model):
            return self.model.score(input_ids, attention_mask, sharing)
