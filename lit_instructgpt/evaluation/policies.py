"""Exported policies as ``evaluate`` measures them: samples, KL and loss on text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.datamodules.tokenizing import (
    Collator,
    Reading,
    TokenizedPrompt,
    longest,
    num_prompt_tokens,
    pack_text,
    tokenize_prompts,
)
from lit_instructgpt.formatting import PromptFormat, format_for, read_format
from lit_instructgpt.functional import kl_k1, masked_sum
from lit_instructgpt.logprobs import response_logprobs, target_logprobs
from lit_instructgpt.models import check_context, inference_mode, load_policy, load_tokenizer, read_config
from lit_instructgpt.records import Prompt, Text
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.sampling import Sampling, sample_ids


def prompts_for_all(
    directories: Sequence[str],
    records: Sequence[Prompt],
    text: Sequence[Text],
    prompt_format: PromptFormat | None,
    reading: Reading,
    sampling: Sampling,
    text_tokens: int,
) -> list[Prompt]:
    """The prompts that are short enough for every model, so that all answer the same ones; says how many are not.

    Raises:
        ValueError: none is, or a model's context is too short for prompts and responses, or for blocks of text.
    """
    lengths = []
    for directory in directories:
        tokenizer = load_tokenizer(directory)
        lengths.append(num_prompt_tokens(records, tokenizer, format_for(directory, prompt_format, tokenizer)))
    limit = reading.max_prompt_tokens
    fits = [max(of_all) <= limit for of_all in zip(*lengths, strict=True)]
    left_out = f"prompts: {fits.count(False)} of {len(fits)} have more than {limit} tokens for some model"
    if not any(fits):
        raise ValueError(f"{left_out}: raise reading.max_prompt_tokens")
    if not all(fits):
        rank_zero_info(f"{left_out} and are left out for all")
    for directory, of_one in zip(directories, lengths, strict=True):
        longest_prompt = max(num for num, kept in zip(of_one, fits, strict=True) if kept)
        setting = (
            f"sampling.max_new_tokens ({sampling.max_new_tokens}) or reading.max_prompt_tokens "
            f"(the longest has {longest_prompt})"
        )
        needs = {setting: longest_prompt + sampling.max_new_tokens}
        if text:
            needs[f"text_tokens ({text_tokens})"] = longest(pack_text(text, load_tokenizer(directory), text_tokens))
        check_context(read_config(directory), f"the model {directory}", needs)
    return [record for record, kept in zip(records, fits, strict=True) if kept]


def check_scorer(
    scorer: ModelReward,
    directories: Sequence[str],
    records: Sequence[Prompt],
    prompt_format: PromptFormat | None,
    sampling: Sampling,
) -> None:
    """Refuses, before any is sampled, responses that do not fit the context of the reward model.

    It reads the tokens of policies with its own vocabulary and format; of others it reads text, and says what it cuts.

    Raises:
        ValueError: a prompt leaves no room for a response, or the tokens that it would read could be too many.
    """
    vocabulary = scorer.tokenizer.get_vocab()
    alike = all(
        (read_format(directory) or prompt_format or PromptFormat()) == scorer.format
        and load_tokenizer(directory).get_vocab() == vocabulary
        for directory in directories
    )
    prompt = max(num_prompt_tokens(records, scorer.tokenizer, scorer.format))
    response = sampling.max_new_tokens if alike else 1
    setting = "reading.max_prompt_tokens" + (
        f" or sampling.max_new_tokens ({sampling.max_new_tokens})" if alike else ""
    )
    needs = {f"{setting} (the longest prompt has {prompt})": prompt + response}
    check_context(scorer.model.model.config, "the reward model", needs)


@dataclass
class Samples:
    """One response per prompt, as ids and text, with what made ids of text."""

    prompts: list[TokenizedPrompt]
    ids: list[list[int]]
    texts: list[str]
    stopped: list[bool]
    format: PromptFormat
    vocabulary: dict[str, int]
    kl: list[float] | None = None
    text_loss: float | None = None
    text_loss_per_byte: float | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The prompts' records."""
        return [prompt.record for prompt in self.prompts]


def reads_ids(scorer: ModelReward, answers: Sequence[Samples]) -> bool:
    """Whether a reward model can read the sampled ids of all alike: they have its format and its vocabulary."""
    vocabulary = scorer.tokenizer.get_vocab()
    return all(samples.format == scorer.format and samples.vocabulary == vocabulary for samples in answers)


def rm_scores(scorer: ModelReward, answers: Sequence[Samples]) -> list[list[float]]:
    """The reward model's scores of every response: of the very ids if it reads those of all alike, else of all texts.

    From text a response that was cut at its limit gets the EOS that it did not reach: with two ways in one comparison, a model
    could win by it.
    """
    if reads_ids(scorer, answers):
        return [
            scorer.score_sequences([p.ids + ids for p, ids in zip(samples.prompts, samples.ids, strict=True)])
            for samples in answers
        ]
    return [scorer([record["prompt"] for record in samples.records], samples.texts) for samples in answers]


class Evaluated:
    """An exported policy with its tokenizer and format."""

    def __init__(self, directory: str, prompt_format: PromptFormat | None, device: str) -> None:
        self.directory = directory
        self.tokenizer = load_tokenizer(directory)
        self.policy = load_policy(directory, self.tokenizer).eval().to(device)
        self.format = read_format(directory) or prompt_format or PromptFormat()
        self.device = device

    def sample(self, records: Sequence[Prompt], reading: Reading, sampling: Sampling, batch_size: int) -> Samples:
        """One response per prompt; batches hold prompts of similar length."""
        prompts = tokenize_prompts(records, self.tokenizer, self.format, reading)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        collator = Collator(self.tokenizer.pad_token_id)
        ids: list[list[int]] = [[] for _ in prompts]
        for stream, begin in enumerate(range(0, len(order), batch_size)):
            rows = order[begin : begin + batch_size]
            batch = self._to_device(collator.prompts([prompts[i] for i in rows]))
            for i, response in zip(rows, sample_ids(self.policy, self.tokenizer, batch, sampling, stream), strict=True):
                ids[i] = response
        texts = [self.format.decode(response, self.tokenizer) for response in ids]
        stopped = [response[-1:] == [self.tokenizer.eos_token_id] for response in ids]
        return Samples(prompts, ids, texts, stopped, self.format, self.tokenizer.get_vocab())

    def kl(self, reference: Evaluated, samples: Samples, batch_size: int, temperature: float) -> list[float]:
        """log(model / reference) of each sampled response, summed over its tokens, in nats.

        Its mean is the divergence of the distributions that samples are drawn from, those at the temperature. Nothing for
        another tokenizer, and at temperature 0, where nothing is drawn.
        """
        if temperature == 0 or reference.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            return []
        both = [len(prompt.ids) + len(ids) for prompt, ids in zip(samples.prompts, samples.ids, strict=True)]
        name = f"the model that kl_to_init is measured against ({reference.directory})"
        setting = "sampling.max_new_tokens or reading.max_prompt_tokens"
        check_context(reference.policy.config, name, {setting: max(both, default=0)})
        totals = []
        for begin in range(0, len(samples.ids), batch_size):
            rows = range(begin, min(begin + batch_size, len(samples.ids)))
            prompt, prompt_mask = pad([samples.prompts[i].ids for i in rows], self.tokenizer.pad_token_id, left=True)
            response, mask = (
                x.to(self.device) for x in pad([samples.ids[i] for i in rows], self.tokenizer.pad_token_id)
            )
            ids = torch.cat([prompt.to(self.device), response], 1)
            attention = torch.cat([prompt_mask.to(self.device), mask], 1)
            with inference_mode(self.policy, reference.policy):
                own, other = (
                    response_logprobs(policy, ids, attention, mask, temperature)[0]
                    for policy in (self.policy, reference.policy)
                )
            totals += masked_sum(kl_k1(own, other), mask, 1).tolist()
        return totals

    def text_loss(self, text: Sequence[Text], num_tokens: int, batch_size: int) -> tuple[float, float]:
        """Mean negative log-likelihood of held-out text, in nats per token and in nats per byte of the text.

        The first token of a block has nothing before it and is not predicted; the bytes are those of the whole text.
        """
        blocks = pack_text(text, self.tokenizer, num_tokens)
        total, count = 0.0, 0
        for begin in range(0, len(blocks), batch_size):
            ids, mask = (x.to(self.device) for x in pad([b.ids for b in blocks[begin : begin + batch_size]], 0))
            targets = mask & (torch.arange(ids.shape[1], device=ids.device) > 0)
            with inference_mode(self.policy):
                total -= float(target_logprobs(self.policy, ids, mask, targets)[0].sum())
            count += int(targets.sum())
        return total / count, total / sum(len(record.text.encode()) for record in text)

    def _to_device(self, batch: PromptBatch) -> PromptBatch:
        batch.input_ids, batch.attention_mask = (
            batch.input_ids.to(self.device),
            batch.attention_mask.to(self.device),
        )
        return batch
