"""Prompts for PPO, with the pretraining text of PPO-ptx in a loader of its own; and for sampling."""

from __future__ import annotations

from typing import Any

from lit_instructgpt.datamodules.loading import GlobalBatches, ResumableLoader, repeated, sequential_loader
from lit_instructgpt.datamodules.provenance import NamedData
from lit_instructgpt.datamodules.tokenizing import (
    Collator,
    Demo,
    Reading,
    Source,
    TokenizedPrompt,
    longest,
    pack_text,
    tokenize_prompts,
)
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.records import Prompt, Text
from lit_instructgpt.run_seed import seed_of


class PromptDataModule(NamedData):
    """Prompts ``{prompt}``; one epoch is ``num_episodes`` episodes, visiting every prompt equally often.

    An episode is a prompt with one response.

    Args:
        train: prompts to sample episodes from.
        valid: held-out prompts for the metrics under ``val/``.
        predict: prompts for ``lit-instructgpt predict``.
        text: pretraining text of PPO-ptx.
        num_episodes: of the whole run (``trainer.max_epochs: 1``); the paper's is 256,000 over 31,000 prompts.
        batch_size: episodes per iteration, over all devices; the paper's is 512.
        samples_per_prompt: responses sampled for each prompt of an iteration; the paper's is 1.
        text_per_episode: blocks of text per episode; the paper's is 8.
        text_tokens: length of a block of text.
        valid_batch_size: prompts per validation or prediction batch.
        format: how prompts become tokens.
        reading: how records are read, and length limits.
        seed: of the order of the data; None: that of the run (``--seed_everything``).
    """

    def __init__(
        self,
        train: Source | None = None,
        valid: Source | None = None,
        predict: Source | None = None,
        text: Source | None = None,
        num_episodes: int = 256_000,
        batch_size: int = 512,
        samples_per_prompt: int = 1,
        text_per_episode: int = 8,
        text_tokens: int = 1024,
        valid_batch_size: int = 64,
        format: PromptFormat | None = None,
        reading: Reading | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if num_episodes % batch_size:
            near = max(round(num_episodes / batch_size), 1) * batch_size
            raise ValueError(
                f"data.num_episodes ({num_episodes}) must be a multiple of data.batch_size ({batch_size}): "
                f"take {near}, or another batch size"
            )
        self.train, self.valid, self.predict, self.text = train, valid, predict, text
        if samples_per_prompt < 1 or batch_size % samples_per_prompt:
            raise ValueError(
                f"data.batch_size ({batch_size}) counts episodes and must be a multiple of data.samples_per_prompt "
                f"({samples_per_prompt}), which must be positive"
            )
        self.num_episodes, self.batch_size, self.samples_per_prompt = num_episodes, batch_size, samples_per_prompt
        self.text_per_episode, self.text_tokens = text_per_episode, text_tokens
        self.valid_batch_size = valid_batch_size
        self.format, self.reading, self.seed = format or PromptFormat(), reading or Reading(), seed_of(seed)
        self.train_items: list[TokenizedPrompt] = []
        self.valid_items: list[TokenizedPrompt] = []
        self.predict_items: list[TokenizedPrompt] = []
        self.text_items: list[Demo] = []

    def sources(self) -> list[Source]:
        """The data that shape the model, for its card."""
        return [s for s in (self.train, self.text) if s is not None]

    def setup(self, stage: str) -> None:
        """Reads, validates and tokenizes, before any model is loaded."""
        assert self.trainer is not None
        self.tokenizer: Any = getattr(self.trainer.lightning_module, "tokenizer")  # noqa: B009
        self.collator = Collator(self.tokenizer.pad_token_id)
        if stage == "fit":
            if self.train is None:
                raise ValueError("data.train is missing: give the prompts to sample episodes from")
            self.train_items = self._prompts(self.train)
            if self.text is not None:
                self.text_items = pack_text(self.reading.read(self.text, Text), self.tokenizer, self.text_tokens)
        if stage == "predict":
            if self.predict is None:
                raise ValueError("data.predict is missing: give the prompts to sample responses for")
            self.predict_items = self._prompts(self.predict)
        self.valid_items = [] if self.valid is None else self._prompts(self.valid)

    def _prompts(self, source: Source) -> list[TokenizedPrompt]:
        return tokenize_prompts(self.reading.read(source, Prompt), self.tokenizer, self.format, self.reading)

    def longest(self) -> dict[str, int]:
        """Tokens of the longest sequence that each setting allows, of the data read."""
        return {f"data.text_tokens ({self.text_tokens})": longest(self.text_items)}

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt of the data read."""
        return longest([*self.train_items, *self.valid_items, *self.predict_items])

    def _repeated(self, items: list[Any], per_iteration: int, collate: Any, seed: int) -> ResumableLoader:
        trainer = self.trainer
        assert trainer is not None
        order = repeated(len(items), self.num_episodes // self.batch_size * per_iteration, seed)
        batches = GlobalBatches(lambda epoch: order, per_iteration, trainer.global_rank, trainer.world_size)
        return ResumableLoader(items, batches, collate)

    def train_dataloader(self) -> dict[str, ResumableLoader]:
        """``prompts``: ``PromptBatch`` of an iteration; ``text``: its ``DemoBatch`` for the ptx term."""
        num_prompts, num_text = self.batch_size // self.samples_per_prompt, self.batch_size * self.text_per_episode
        loaders = {"prompts": self._repeated(self.train_items, num_prompts, self.collator.prompts, self.seed)}
        if self.text_items:
            loaders["text"] = self._repeated(self.text_items, num_text, self.collator.text, self.seed + 1)
        return loaders

    def val_dataloader(self) -> Any:
        """Batches of ``PromptBatch``; none without validation data."""
        if not self.valid_items:
            return []
        return sequential_loader(self.valid_items, self.valid_batch_size, self.collator.prompts)

    def test_dataloader(self) -> Any:
        """The validation data (``lit-instructgpt test`` names another file by ``--data.valid``)."""
        return self.val_dataloader()

    def predict_dataloader(self) -> Any:
        """Batches of ``PromptBatch``."""
        return sequential_loader(self.predict_items, self.valid_batch_size, self.collator.prompts)
