"""From a record's prompt and response to token ids: the one formatter of all stages.

The reward model must see what the policy wrote in exactly the form it was trained on, so the format
travels with every exported directory (``lit_instructgpt.json``) and the stages compare theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

SIDECAR = "lit_instructgpt.json"
"""File in an exported directory: prompt format, stage, data hashes, versions, metrics."""

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class PromptFormat:
    """How a prompt and a response become tokens.

    Attributes:
        template: text around a plain prompt; must hold ``{prompt}`` once.
        response_prefix: put before every response, for instance a space after "Assistant:".
        chat_template: render the prompt (a message list, or plain text as one user message) through the
            model's own chat template instead of ``template``.
    """

    template: str = "{prompt}\n"
    response_prefix: str = ""
    chat_template: bool = False

    def __post_init__(self) -> None:
        if self.template.count("{prompt}") != 1:
            raise ValueError(f"format.template must hold {{prompt}} exactly once, got {self.template!r}")

    def prompt_ids(self, prompt: str | Messages, tokenizer: Any) -> list[int]:
        """Token ids of the prompt, with the tokenizer's BOS if it uses one.

        Special tokens that the prompt spells out, an EOS for example, are ordinary text; those of a template
        are special.

        Raises:
            ValueError: a message list without ``chat_template``, or a model without a chat template.
        """
        if self.chat_template:
            if tokenizer.chat_template is None:
                raise ValueError(
                    "format.chat_template is true, but the model has no chat template: set it to false "
                    "and give format.template, or use a model whose tokenizer has one"
                )
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

            def render(contents: Sequence[str]) -> str:
                turns = [{**message, "content": text} for message, text in zip(messages, contents, strict=True)]
                text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
                return text

            return _encode([message["content"] for message in messages], render, tokenizer, _special_tokens(tokenizer))
        if not isinstance(prompt, str):
            raise ValueError("the data holds conversations (messages): set format.chat_template: true")
        bos = tokenizer("").input_ids[:1]
        start = bos if bos and bos[0] == tokenizer.bos_token_id and bos[0] != tokenizer.eos_token_id else []
        ids = _encode(
            [prompt], lambda text: self.template.replace("{prompt}", text[0]), tokenizer, _special_tokens(tokenizer)
        )
        return [*start, *ids]

    def response_ids(self, response: str, tokenizer: Any, max_tokens: int) -> list[int]:
        """Token ids of the response: cut to ``max_tokens`` with EOS as the last, always, and once.

        An EOS that the response spells out is left out; its other special tokens are ordinary text.
        """
        ordinary = [token for token in _special_tokens(tokenizer) if token != tokenizer.eos_token]
        ids = _encode([response], lambda text: self.response_prefix + text[0], tokenizer, ordinary)
        ids = [token for token in ids if token != tokenizer.eos_token_id]
        return [*ids[: max_tokens - 1], tokenizer.eos_token_id]

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        """Text of sampled response ids, without special tokens and without ``response_prefix``."""
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text.removeprefix(self.response_prefix)


def _special_tokens(tokenizer: Any) -> list[str]:
    """Longest first, since one may begin another."""
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted(tokens, key=len, reverse=True)


def _encode(
    texts: Sequence[str], render: Callable[[Sequence[str]], str], tokenizer: Any, ordinary: Sequence[str]
) -> list[int]:
    """Token ids of what is rendered from texts of data, in which the ``ordinary`` special tokens are not special.

    They are marked in the texts before rendering and encoded apart; a text without one is encoded in one piece.
    """
    found = [token for token in ordinary if any(token in text for text in texts)]
    mark = next(chr(code) for code in range(0xE000, 0xF900) if not any(chr(code) in text for text in texts))
    for i, token in enumerate(found):
        texts = [text.replace(token, f"{mark}{i}{mark}") for text in texts]
    ids: list[int] = []
    for i, part in enumerate(re.split(f"{mark}(\\d+){mark}", render(texts))):
        spelt = i % 2 == 1
        text = found[int(part)] if spelt else part
        ids += tokenizer(text, add_special_tokens=False, split_special_tokens=spelt).input_ids
    return ids


def prompt_text(prompt: str | Messages) -> str:
    """A prompt as a person reads it: plain text, or "role: content" lines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def read_sidecar(path: str | Path) -> dict[str, Any]:
    """Contents of ``lit_instructgpt.json`` in a model directory; {} where there is none (a foreign model)."""
    file = Path(path) / SIDECAR
    if not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def check_format(source: Any, given: PromptFormat) -> None:
    """Refuses a format other than the one a directory was trained with.

    Raises:
        ValueError: naming both.
    """
    stored = read_format(source) if isinstance(source, str) else None
    if stored is not None and stored != given:
        raise ValueError(f"{source} was trained with {stored}, the data come with {given}: set data.format to it")


def read_format(path: str | Path) -> PromptFormat | None:
    """The format a directory was trained with; None for a model that was not written by this package."""
    stored = read_sidecar(path).get("format")
    return PromptFormat(**stored) if stored else None


def format_for(path: str | Path, given: PromptFormat | None, tokenizer: Any) -> PromptFormat:
    """How a directory's prompts are formatted: as it says, else as is asked for, else each as it is.

    Says so where a chat model's own template is left out that way.
    """
    stored = read_format(path)
    if stored is None and given is None and getattr(tokenizer, "chat_template", None):
        rank_zero_warn(
            f"{path} does not say how its prompts were formatted, and its tokenizer has a chat template: prompts are given "
            f"as {PromptFormat().template!r}; for the template set format.chat_template to true"
        )
    return stored or given or PromptFormat()


def format_dict(prompt_format: PromptFormat) -> dict[str, Any]:
    """JSON form of a format, the inverse of what ``read_format`` reads."""
    return asdict(prompt_format)
