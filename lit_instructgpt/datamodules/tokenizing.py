"""From records to token ids, with the length rules of the paper (Appendix C) applied and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_instructgpt.batch import ComparisonBatch, DemoBatch, PromptBatch, pad
from lit_instructgpt.formatting import PromptFormat, prompt_text
from lit_instructgpt.records import Comparison, Demonstration, Prompt, Text, read_records
from lit_instructgpt.records_shapes import SHAPE_FIELDS, fields_of

Source = str | list[str]
"""One file, saved dataset directory or ``hf://owner/name``, or several of them."""

R = TypeVar("R", Demonstration, Comparison, Prompt, Text)


@dataclass
class Reading:
    """How records are read, and which are too long.

    The defaults are the paper's: prompts over 1k tokens are filtered out, responses cut at 1k, context 2k.

    Attributes:
        max_prompt_tokens: records with longer prompts are left out, and counted.
        max_response_tokens: responses are cut to this, their EOS included.
        max_tokens: context; responses are cut further where prompt and response exceed it.
        split: take only records whose ``split`` field equals this; of every source, validation data too.
        column_mapping: our field name -> the data's column name, for the kinds of record that have the field.
        skip_bad_records: go on past bad records, writing them to ``rejects``; without it they stop the run.
        rejects: JSONL file for the bad records of all sources of the run; an earlier run's are replaced.
    """

    max_prompt_tokens: int = 1024
    max_response_tokens: int = 1024
    max_tokens: int = 2048
    split: str | None = None
    column_mapping: dict[str, str] | None = None
    skip_bad_records: bool = False
    rejects: str | None = None

    def __post_init__(self) -> None:
        if min(self.max_prompt_tokens, self.max_response_tokens) < 1:
            raise ValueError("reading: max_prompt_tokens and max_response_tokens must be at least 1")
        if self.max_prompt_tokens >= self.max_tokens:
            raise ValueError(
                f"reading: max_prompt_tokens ({self.max_prompt_tokens}) leaves no room for a response in "
                f"max_tokens ({self.max_tokens}): lower the first or raise the second"
            )
        known = list(dict.fromkeys(name for kind in SHAPE_FIELDS for name in fields_of(kind)))
        wrong = [name for name in self.column_mapping or {} if name not in known]
        if wrong:
            raise ValueError(
                f"reading.column_mapping: {', '.join(map(repr, wrong))}: no kind of record has this field; "
                f"the fields are: {', '.join(known)}"
            )
        self._rejects_begun = False

    def response_limit(self, num_prompt_tokens: int) -> int:
        """How many tokens a response may have behind a prompt of this length."""
        return min(self.max_response_tokens, self.max_tokens - num_prompt_tokens)

    def shortened(self) -> str:
        """The settings that make sequences shorter, for messages: together, as a prompt must leave room for a response."""
        return (
            f"reading.max_tokens ({self.max_tokens}), and reading.max_prompt_tokens ({self.max_prompt_tokens}) below it"
        )

    def read(self, source: Source, kind: type[R], keep_all_tied: bool = False, say_unused: bool = True) -> list[R]:
        """The records of all sources, after saying what was read, left out and ignored.

        Args:
            source: of the records.
            kind: of record.
            keep_all_tied: rankings in which all responses tie, too.
            say_unused: name the fields without a meaning here; False where the caller has a use for some.

        Raises:
            ValueError: there are none.
        """
        mapping = self.column_mapping or {}
        known = fields_of(kind.kind)
        records, report = read_records(
            source,
            kind,
            column_mapping={ours: theirs for ours, theirs in mapping.items() if ours in known},
            skip_bad_records=self.skip_bad_records,
            rejects_path=self.rejects,
            keep_all_tied=keep_all_tied,
            split=self.split,
            append_rejects=self._rejects_begun,
        )
        self._rejects_begun = True
        if not say_unused:
            report.ignored_fields.clear()
        said = f"{source if isinstance(source, str) else ', '.join(source)}: {report.summary()}"
        if not records:
            remedy = "correct reading.split" if report.other_split else "give data with records, or leave it out"
            raise ValueError(f"no {kind.kind} to use in {said} Remedy: {remedy}")
        unused = [ours for ours in mapping if ours not in known]
        if unused:
            said += f" Of column_mapping not used: {', '.join(unused)} (no field of a {kind.kind})."
        rank_zero_info(said)
        return records


@dataclass
class Demo:
    """A demonstration's token ids; text where ``num_prompt`` is 0."""

    ids: list[int]
    num_prompt: int
    is_text: bool = False
    where: str = ""


@dataclass
class Ranking:
    """A comparison's token ids: [K] sequences that share their prompt."""

    ids: list[list[int]]
    num_prompt: int
    ranking: list[int]
    source: str
    labeler: str
    where: str = ""


@dataclass
class TokenizedPrompt:
    """A prompt's token ids, its text and its record."""

    ids: list[int]
    text: str
    record: dict[str, Any] = field(default_factory=dict)
    where: str = ""


def _say_too_long(what: str, num: int, total: int, limit: int) -> None:
    if num:
        rank_zero_info(f"{what}: {num} of {total} prompts have more than {limit} tokens and are left out")
    if num and num == total:
        raise ValueError(f"{what}: every prompt has more than {limit} tokens: raise reading.max_prompt_tokens")


def num_prompt_tokens(
    records: Sequence[Prompt] | Sequence[Comparison], tokenizer: Any, prompt_format: PromptFormat
) -> list[int]:
    """Tokens of each prompt."""
    return [len(prompt_format.prompt_ids(_plain(record.prompt), tokenizer)) for record in records]


def tokenize_demos(
    records: Sequence[Demonstration], tokenizer: Any, prompt_format: PromptFormat, reading: Reading
) -> list[Demo]:
    """Prompt and response ids, EOS as the last; prompts over the limit are left out and counted."""
    demos = []
    for record in records:
        prompt = prompt_format.prompt_ids(_plain(record.prompt), tokenizer)
        if len(prompt) <= reading.max_prompt_tokens:
            response = prompt_format.response_ids(record.response, tokenizer, reading.response_limit(len(prompt)))
            demos.append(Demo(prompt + response, len(prompt), where=record.where))
    _say_too_long("demonstrations", len(records) - len(demos), len(records), reading.max_prompt_tokens)
    return demos


def tokenize_comparisons(
    records: Sequence[Comparison], tokenizer: Any, prompt_format: PromptFormat, reading: Reading
) -> list[Ranking]:
    """K sequences per record, each the prompt and one response with its EOS."""
    rankings = []
    for record in records:
        prompt = prompt_format.prompt_ids(_plain(record.prompt), tokenizer)
        if len(prompt) <= reading.max_prompt_tokens:
            limit = reading.response_limit(len(prompt))
            ids = [prompt + prompt_format.response_ids(r, tokenizer, limit) for r in record.responses]
            rankings.append(
                Ranking(
                    ids,
                    len(prompt),
                    list(record.ranking),
                    record.source or "data",
                    record.labeler or "unknown",
                    record.where,
                )
            )
    _say_too_long("comparisons", len(records) - len(rankings), len(records), reading.max_prompt_tokens)
    return rankings


def tokenize_prompts(
    records: Sequence[Prompt], tokenizer: Any, prompt_format: PromptFormat, reading: Reading
) -> list[TokenizedPrompt]:
    """Prompt ids, with the record beside them for whoever judges the responses."""
    prompts = []
    for record in records:
        prompt = _plain(record.prompt)
        ids = prompt_format.prompt_ids(prompt, tokenizer)
        if len(ids) <= reading.max_prompt_tokens:
            whole = record.model_dump(exclude_none=True)
            whole.update(whole.pop("extra", {}))
            prompts.append(TokenizedPrompt(ids, prompt_text(prompt), whole, record.where))
    _say_too_long("prompts", len(records) - len(prompts), len(records), reading.max_prompt_tokens)
    return prompts


def longest(items: Sequence[Demo | Ranking | TokenizedPrompt]) -> int:
    """Tokens of the longest sequence; 0 where there are none."""
    return max(
        (len(ids) for item in items for ids in (item.ids if isinstance(item, Ranking) else [item.ids])), default=0
    )


def _plain(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def pack_text(records: Sequence[Text], tokenizer: Any, num_tokens: int) -> list[Demo]:
    """Documents joined by EOS and cut into blocks of ``num_tokens``; the last block may be shorter.

    Raises:
        ValueError: no block has two tokens, so there is nothing to predict.
    """
    stream: list[int] = []
    for record in records:
        stream += [*tokenizer(record.text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    blocks = [stream[i : i + num_tokens] for i in range(0, len(stream), num_tokens)]
    demos = [
        Demo(block, 0, is_text=True, where=f"text, tokens from {i * num_tokens:,}")
        for i, block in enumerate(blocks)
        if len(block) > 1
    ]
    if not demos:
        raise ValueError(
            f"text: {len(stream)} tokens in blocks of text_tokens ({num_tokens}) leave no token to predict: "
            "set text_tokens to 2 or more, or give longer text"
        )
    return demos


@dataclass
class Collator:
    """Lists of tokenized items -> padded batches; one pad id for all."""

    pad_token_id: int

    def demos(self, items: list[Demo]) -> DemoBatch:
        """Right-padded; rows sorted by length, so that micro-batches have little padding."""
        return self._pad(sorted(items, key=lambda item: len(item.ids)))

    def _pad(self, items: list[Demo]) -> DemoBatch:
        ids, mask = pad([item.ids for item in items], self.pad_token_id)
        column = torch.arange(ids.shape[1])
        start = torch.tensor([max(item.num_prompt, 1) for item in items])
        return DemoBatch(
            ids, mask, mask & (column >= start[:, None]), torch.tensor([i.is_text for i in items]),
            [item.where for item in items],
        )  # fmt: skip

    def text(self, items: list[Demo]) -> DemoBatch:
        """As ``demos``, in the order given: parts of a batch are the same on any number of processes."""
        return self._pad(items)

    def comparisons(self, items: list[Ranking]) -> ComparisonBatch:
        """Right-padded in K and T; prompts sorted by their longest sequence."""
        items = sorted(items, key=lambda item: max(map(len, item.ids)))
        num_k = max(len(item.ids) for item in items)
        rows = [ids for item in items for ids in [*item.ids, *[[]] * (num_k - len(item.ids))]]
        flat, mask = pad(rows, self.pad_token_id)
        shape = (len(items), num_k, flat.shape[1])
        completion = torch.tensor([[k < len(item.ids) for k in range(num_k)] for item in items])
        ranking, _ = pad([item.ranking for item in items], 0, width=num_k)
        num_prompt = torch.tensor([item.num_prompt for item in items])
        length = (mask.view(shape).sum(-1) - num_prompt[:, None]) * completion
        return ComparisonBatch(
            flat.view(shape), mask.view(shape), completion, ranking, length,
            [item.source for item in items], [item.labeler for item in items], [item.where for item in items],
        )  # fmt: skip

    def prompts(self, items: list[TokenizedPrompt]) -> PromptBatch:
        """Left-padded, in the order given."""
        ids, mask = pad([item.ids for item in items], self.pad_token_id, left=True)
        return PromptBatch(
            ids, mask, [item.text for item in items], [item.record for item in items], [item.where for item in items]
        )
