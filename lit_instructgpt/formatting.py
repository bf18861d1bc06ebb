"""From a record's prompt and response to token ids: the one formatter of all stages.

The reward model must see what the policy wrote in exactly the form it was trained on, so the format
travels with every exported directory (``lit_instructgpt.json``) and the stages compare theirs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
        """Token ids of the prompt, with the tokenizer's BOS if it uses one, never an EOS.

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
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return list(tokenizer(text, add_special_tokens=False).input_ids)
        if not isinstance(prompt, str):
            raise ValueError("the data holds conversations (messages): set format.chat_template: true")
        bos = tokenizer("").input_ids[:1]
        start = bos if bos and bos[0] == tokenizer.bos_token_id and bos[0] != tokenizer.eos_token_id else []
        text = self.template.replace("{prompt}", prompt)
        return [*start, *tokenizer(text, add_special_tokens=False).input_ids]

    def response_ids(self, response: str, tokenizer: Any, max_tokens: int) -> list[int]:
        """Token ids of the response: cut to ``max_tokens`` with EOS as the last, always, and once."""
        ids = tokenizer(self.response_prefix + response, add_special_tokens=False).input_ids
        ids = [token for token in ids if token != tokenizer.eos_token_id]  # a text may spell it out
        return [*ids[: max_tokens - 1], tokenizer.eos_token_id]

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        """Text of sampled response ids, without special tokens and without ``response_prefix``."""
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text.removeprefix(self.response_prefix)


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


def read_format(path: str | Path) -> PromptFormat | None:
    """The format a directory was trained with; None for a model that was not written by this package."""
    stored = read_sidecar(path).get("format")
    return PromptFormat(**stored) if stored else None


def format_dict(prompt_format: PromptFormat) -> dict[str, Any]:
    """JSON form of a format, the inverse of what ``read_format`` reads."""
    return asdict(prompt_format)
