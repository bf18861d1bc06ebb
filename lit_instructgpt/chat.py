"""``lit-instructgpt chat``: talk to an exported policy in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console

from lit_instructgpt.batch import PromptBatch, pad
from lit_instructgpt.formatting import Messages, PromptFormat, read_format
from lit_instructgpt.models import load_policy, load_tokenizer
from lit_instructgpt.rewards import ModelReward
from lit_instructgpt.sampling import Sampling, sample_texts


def chat(
    model: str,
    reward_model: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    format: PromptFormat | None = None,
    read: Callable[[str], str] = input,
) -> None:
    """Type a prompt, read the answer. /new forgets the conversation, /quit (or Ctrl-D) leaves.

    A model trained with a chat template keeps the conversation; any other sees each prompt alone.

    Args:
        model: directory of an exported policy.
        reward_model: directory of a reward model; shows the score of every answer.
        max_new_tokens: answers are cut here.
        temperature: 1 is the model's own distribution, 0 its most likely words.
        seed: of the random numbers.
        format: for a model that does not say how its prompts were formatted.
        read: where prompts come from.
    """
    console = Console()
    tokenizer = load_tokenizer(model)
    policy = load_policy(model, tokenizer).eval()
    scorer = ModelReward(reward_model) if reward_model else None
    prompt_format = read_format(model) or format or PromptFormat(chat_template=tokenizer.chat_template is not None)
    console.print(f"[bold]{model}[/bold]  (/new forgets the conversation, /quit leaves)")
    messages: Messages = []
    turn = 0
    while True:
        try:
            line = read("> ").strip()
        except (EOFError, KeyboardInterrupt):
            line = "/quit"
        if line == "/quit":
            return
        if line == "/new":
            messages = []
            continue
        if not line:
            continue
        messages = [*messages, {"role": "user", "content": line}] if prompt_format.chat_template else []
        prompt = messages if prompt_format.chat_template else line
        ids, mask = pad([prompt_format.prompt_ids(prompt, tokenizer)], tokenizer.pad_token_id, left=True)
        batch = PromptBatch(ids, mask, [line], [{}], [""])
        sampling = Sampling(1, max_new_tokens, temperature, seed)
        with torch.no_grad():
            answer = sample_texts(policy, tokenizer, prompt_format, batch, sampling, turn)[0][0]
        console.print(answer, markup=False, highlight=False)
        if scorer is not None:
            console.print(f"[dim]score {scorer([prompt], [answer])[0]:.3f}[/dim]")
        messages = [*messages, {"role": "assistant", "content": answer}] if prompt_format.chat_template else []
        turn += 1
