"""Demonstrations for SFT, text for pretraining, or the two mixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lit_instructgpt.datamodules.loading import GlobalBatches, ResumableLoader, mixed, sequential_loader
from lit_instructgpt.datamodules.provenance import NamedData
from lit_instructgpt.datamodules.tokenizing import Collator, Demo, Reading, Source, longest, pack_text, tokenize_demos
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.records import Demonstration, Text
from lit_instructgpt.run_seed import seed_of


class DemoDataModule(NamedData):
    """Demonstrations ``{prompt, response}`` and text ``{text}``.

    With ``text`` alone it is the pretraining stage; with both and ``text_fraction: 0.1`` the paper's RL
    initialisation. The tokenizer is that of the model being trained.

    Args:
        train: demonstrations to train on.
        valid: demonstrations for ``val/loss``.
        text: pretraining text.
        valid_text: text for ``val/text_loss``.
        text_fraction: share of the training sequences that are text, 0 <= f < 1 (ignored without ``train``).
        text_tokens: length of a block of text.
        batch_size: sequences per optimizer step, over all devices.
        valid_batch_size: sequences per validation batch.
        format: how prompts become tokens.
        reading: how records are read, and length limits.
        seed: of the order of the data; None: that of the run (``--seed_everything``).
    """

    def __init__(
        self,
        train: Source | None = None,
        valid: Source | None = None,
        text: Source | None = None,
        valid_text: Source | None = None,
        text_fraction: float = 0.0,
        text_tokens: int = 1024,
        batch_size: int = 32,
        valid_batch_size: int = 32,
        format: PromptFormat | None = None,
        reading: Reading | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if train is None and text is None:
            raise ValueError("data: give `train` (demonstrations), `text` (pretraining), or both")
        if not 0 <= text_fraction < 1:
            raise ValueError(f"data.text_fraction must be at least 0 and below 1, got {text_fraction}")
        if text_fraction > 0 and text is None:
            raise ValueError(f"data.text_fraction is {text_fraction} but there is no data.text to mix in")
        if train is not None and text is not None and text_fraction == 0:
            raise ValueError("data.text is given but data.text_fraction is 0: set the share of text, or leave text out")
        self.train, self.valid, self.text, self.valid_text = train, valid, text, valid_text
        self.text_fraction, self.text_tokens = text_fraction, text_tokens
        self.batch_size, self.valid_batch_size = batch_size, valid_batch_size
        self.format, self.reading, self.seed = format or PromptFormat(), reading or Reading(), seed_of(seed)
        self.train_items: list[Demo] = []
        self.valid_items: list[Demo] = []

    def sources(self) -> list[Source]:
        """The data that shape the model, for its card."""
        return [s for s in (self.train, self.text) if s is not None]

    def setup(self, stage: str) -> None:
        """Reads, validates and tokenizes, before any model is loaded."""
        assert self.trainer is not None
        self.tokenizer: Any = getattr(self.trainer.lightning_module, "tokenizer")  # noqa: B009
        self.collator = Collator(self.tokenizer.pad_token_id)
        if stage == "fit":
            self.train_items = self._demos(self.train) + self._text(self.text)
            self.num_demos = sum(not item.is_text for item in self.train_items)
        self.valid_items = self._demos(self.valid) + self._text(self.valid_text)

    def _demos(self, source: Source | None) -> list[Demo]:
        if source is None:
            return []
        records = self.reading.read(source, Demonstration)
        return tokenize_demos(records, self.tokenizer, self.format, self.reading)

    def _text(self, source: Source | None) -> list[Demo]:
        return [] if source is None else pack_text(self.reading.read(source, Text), self.tokenizer, self.text_tokens)

    def longest(self) -> dict[str, int]:
        """Tokens of the longest sequence that each setting allows, of the data read."""
        items = [*self.train_items, *self.valid_items]
        return {
            f"data.reading.max_tokens ({self.reading.max_tokens})": longest([i for i in items if not i.is_text]),
            f"data.text_tokens ({self.text_tokens})": longest([i for i in items if i.is_text]),
        }

    def longest_prompt(self) -> int:
        """Tokens of the longest prompt of the validation data."""
        return max((item.num_prompt for item in self.valid_items), default=0)

    def order(self) -> Callable[[int], list[int]]:
        """Epoch -> numbers of its training items, text among them in its share."""
        num_text = len(self.train_items) - self.num_demos
        if self.num_demos:
            return partial(mixed, self.num_demos, num_text, self.text_fraction, self.seed)
        return partial(mixed, num_text, 0, 0.0, self.seed)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of ``DemoBatch``, another order each epoch."""
        trainer = self.trainer
        assert trainer is not None
        batches = GlobalBatches(self.order(), self.batch_size, trainer.global_rank, trainer.world_size)
        return ResumableLoader(self.train_items, batches, self.collator.demos)

    def val_dataloader(self) -> Any:
        """Batches of ``DemoBatch``; none without validation data."""
        if not self.valid_items:
            return []
        return sequential_loader(self.valid_items, self.valid_batch_size, self.collator.demos)

    def test_dataloader(self) -> Any:
        """The validation data (``lit-instructgpt test`` names another file by ``--data.valid``)."""
        return self.val_dataloader()
