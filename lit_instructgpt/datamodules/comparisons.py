"""Rankings for the reward model: the K completions of a prompt stay one element."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from lit_instructgpt.datamodules.loading import GlobalBatches, ResumableLoader, sequential_loader, shuffled
from lit_instructgpt.datamodules.provenance import NamedData
from lit_instructgpt.datamodules.tokenizing import (
    Collator,
    Demo,
    Ranking,
    Reading,
    Source,
    longest,
    tokenize_comparisons,
    tokenize_demos,
)
from lit_instructgpt.formatting import PromptFormat
from lit_instructgpt.records import Comparison, Demonstration
from lit_instructgpt.run_seed import seed_of


class ComparisonDataModule(NamedData):
    """Comparisons ``{prompt, responses[K], ranking[K]}``, K from 2 to any number.

    Args:
        train: rankings to train on.
        valid: rankings for ``val/pair_accuracy``.
        demonstrations: labelers' demonstrations; the reward model's bias makes them average 0.
        batch_size: prompts (not pairs) per optimizer step, over all devices; the paper's is 64.
        valid_batch_size: prompts per validation batch.
        keep_all_tied: keep rankings that are one big tie (for the module's ``soft_ties``).
        format: how prompts become tokens.
        reading: how records are read, and length limits.
        seed: of the order of the data; None: that of the run (``--seed_everything``).
    """

    def __init__(
        self,
        train: Source | None = None,
        valid: Source | None = None,
        demonstrations: Source | None = None,
        batch_size: int = 64,
        valid_batch_size: int = 64,
        keep_all_tied: bool = False,
        format: PromptFormat | None = None,
        reading: Reading | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.valid, self.demonstrations = train, valid, demonstrations
        self.batch_size, self.valid_batch_size, self.keep_all_tied = (
            batch_size,
            valid_batch_size,
            keep_all_tied,
        )
        self.format, self.reading, self.seed = format or PromptFormat(), reading or Reading(), seed_of(seed)
        self.train_items: list[Ranking] = []
        self.valid_items: list[Ranking] = []
        self.demo_items: list[Demo] = []

    def sources(self) -> list[Source]:
        """The data that shape the model, for its card."""
        return [s for s in (self.train, self.demonstrations) if s is not None]

    def setup(self, stage: str) -> None:
        """Reads, validates and tokenizes, before any model is loaded."""
        assert self.trainer is not None
        self.tokenizer: Any = getattr(self.trainer.lightning_module, "tokenizer")  # noqa: B009
        self.collator = Collator(self.tokenizer.pad_token_id)
        if stage == "fit":
            if self.train is None:
                raise ValueError("data.train is missing: give the rankings to train on")
            self.train_items = self._rankings(self.train)
        self.valid_items = [] if self.valid is None else self._rankings(self.valid)
        self.demo_items = []
        if self.demonstrations is not None:
            records = self.reading.read(self.demonstrations, Demonstration)
            self.demo_items = tokenize_demos(records, self.tokenizer, self.format, self.reading)

    def _rankings(self, source: Source) -> list[Ranking]:
        records = self.reading.read(source, Comparison, self.keep_all_tied)
        return tokenize_comparisons(records, self.tokenizer, self.format, self.reading)

    def longest(self) -> dict[str, int]:
        """Tokens of the longest sequence that each setting allows, of the data read."""
        num_tokens = max(longest(self.train_items), longest(self.valid_items), longest(self.demo_items))
        return {f"data.reading.max_tokens ({self.reading.max_tokens})": num_tokens}

    def groups(self) -> list[str]:
        """Names for separate validation metrics: ``source/...`` and ``labeler/...``, sorted."""
        return sorted(
            {f"source/{item.source}" for item in self.valid_items}
            | {f"labeler/{item.labeler}" for item in self.valid_items}
        )

    def train_dataloader(self) -> ResumableLoader:
        """Batches of ``ComparisonBatch``, another order each epoch."""
        trainer = self.trainer
        assert trainer is not None
        batches = GlobalBatches(
            partial(shuffled, len(self.train_items), self.seed),
            self.batch_size,
            trainer.global_rank,
            trainer.world_size,
        )
        return ResumableLoader(self.train_items, batches, self.collator.comparisons)

    def val_dataloader(self) -> Any:
        """Batches of ``ComparisonBatch``; none without validation data."""
        if not self.valid_items:
            return []
        return sequential_loader(self.valid_items, self.valid_batch_size, self.collator.comparisons)

    def test_dataloader(self) -> Any:
        """The validation data (``lit-instructgpt test`` names another file by ``--data.valid``)."""
        return self.val_dataloader()

    def demo_dataloader(self) -> DataLoader[Any]:
        """Batches of ``DemoBatch`` over which the reward model's mean is set to 0."""
        return sequential_loader(self.demo_items, self.valid_batch_size, self.collator.demos)
