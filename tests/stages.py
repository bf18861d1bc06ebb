"""Whole stages on toy data in seconds: files, a bare Trainer, and a callback that writes down what happened."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from lit_instructgpt.datamodules import ComparisonDataModule, DemoDataModule, PromptDataModule
from lit_instructgpt.datamodules.tokenizing import Reading
from lit_instructgpt.models import quiet_loading
from lit_instructgpt.modules import PPOConfig

READING = Reading(max_prompt_tokens=24, max_response_tokens=16, max_tokens=64)
DEMOS = [
    {"prompt": "say red", "response": "red fox"},
    {"prompt": "one", "response": "a"},
    {"prompt": "say hello", "response": "hello, town"},
    {"prompt": "name two", "response": "one, two"},
    {"prompt": "what do bees make?", "response": "honey"},
    {"prompt": "stop", "response": "no"},
]
COMPARISONS = [
    {"prompt": "say red", "responses": ["red", "dog", "red fox"], "ranking": [2, 3, 1], "labeler": "ann"},
    {"prompt": "one", "responses": ["a", "list of three", "it is", "no"], "ranking": [1, 3, 2, 3], "labeler": "bob"},
    {"prompt": "say hello", "responses": ["hello", "quick"], "ranking": [1, 2], "labeler": "ann", "source": "api"},
    {"prompt": "stop", "responses": ["yes", "no", "no, it is long"], "ranking": [3, 1, 1], "labeler": "bob"},
]
PROMPTS = [
    {"prompt": text} for text in ("a", "say red", "what do bees make?", "stop now", "hello", "one, two", "I", "dog")
]
TEXT = [{"text": "The quick brown fox jumps over the lazy dog. Is it long? No, it is short."}] * 4
LONGER = {
    "sft": ["--trainer.max_epochs", "7"],
    "rm": ["--trainer.max_epochs", "7"],
    "ppo": [],
}
"""For runs of benchmarks/fault_runs.py: more than 20 steps."""


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sgd(lr: float) -> Callable[..., Any]:
    """Plain gradient descent: the weights show the gradient."""
    return partial(torch.optim.SGD, lr=lr)


def adamw(lr: float) -> Callable[..., Any]:
    return partial(torch.optim.AdamW, lr=lr, weight_decay=0.0)


def trainer(path: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    """No logger, no bars; checkpoints only where a callback writes them."""
    return Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "logger": False, "default_root_dir": path, "max_epochs": 1,
            "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
            "num_sanity_val_steps": 0, "use_distributed_sampler": False, "callbacks": list(callbacks),
            "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
            **settings,
        }
    )  # fmt: skip


def demos(path: Path, rows: list[dict[str, Any]] = DEMOS, **settings: Any) -> DemoDataModule:
    return DemoDataModule(train=write(path / "demos.jsonl", rows), **{"batch_size": 6, "reading": READING, **settings})


def comparisons(path: Path, rows: list[dict[str, Any]] = COMPARISONS, **settings: Any) -> ComparisonDataModule:
    return ComparisonDataModule(
        train=write(path / "comparisons.jsonl", rows), **{"batch_size": 4, "reading": READING, **settings}
    )


def prompts(path: Path, rows: list[dict[str, Any]] = PROMPTS, **settings: Any) -> PromptDataModule:
    return PromptDataModule(
        train=write(path / "prompts.jsonl", rows),
        **{
            "batch_size": 8,
            "num_episodes": 8,
            "text_per_episode": 1,
            "text_tokens": 12,
            "reading": READING,
            **settings,
        },
    )


def ppo(**settings: Any) -> PPOConfig:
    """Plain PPO, one update per iteration, unless told otherwise."""
    plain: dict[str, Any] = {
        "ptx_coef": 0.0, "max_new_tokens": 6, "minibatch_size": 8, "value_lr": 0.01,
        "num_warmup_iterations": 0, "ema_decay": None,
    }  # fmt: skip
    return PPOConfig(**{**plain, **settings})


class Record(Callback):
    """What was logged, the learning rates and the batches, per training step; validation metrics per validation."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.lrs: list[list[float]] = []
        self.batches: list[Any] = []
        self.validated: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        optimizer: Any = pl_module.optimizers()
        self.lrs.append([group["lr"] for group in optimizer.param_groups])
        self.batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("val/")})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def fit(
    module: LightningModule, data: LightningDataModule, path: Path, *callbacks: Callback, **settings: Any
) -> tuple[Trainer, Record]:
    """Trains from the start; ``ckpt_path`` resumes."""
    record = Record()
    ckpt_path = settings.pop("ckpt_path", None)
    run = trainer(path, record, *callbacks, **settings)
    run.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return run, record


def weights(model: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def moved(after: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    return max((after[name] - before[name]).abs().max().item() for name in before)


# ------------------------------------------------------------------ independent of the package


def plain_policy(path: str | Path) -> Any:
    """The model as anyone loads it."""
    with quiet_loading():
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def plain_scorer(path: str | Path) -> Any:
    with quiet_loading():
        return transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()


def ids_of(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Prompt and response ids under the default format: a line break between, EOS at the end."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    return encode(prompt + "\n"), [*encode(response), tokenizer.eos_token_id]


def whole_ids(tokenizer: Any, prompt: str, response: str) -> list[int]:
    """The sequence of prompt and response."""
    first, second = ids_of(tokenizer, prompt, response)
    return first + second


def token_nlls(model: Any, ids: list[int], temperature: float = 1.0) -> Tensor:
    """-log p of every token but the first, by one forward pass of the bare sequence."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    logprobs = torch.log_softmax(logits / temperature, -1)
    return torch.stack([-logprobs[i, token] for i, token in enumerate(ids[1:])])


def response_nll(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> Tensor:
    """Mean over all response tokens of all rows."""
    parts = []
    for row in rows:
        prompt, response = ids_of(tokenizer, row["prompt"], row["response"])
        parts.append(token_nlls(model, prompt + response)[len(prompt) - 1 :])
    return torch.cat(parts).mean()


def score_of(model: Any, ids: list[int]) -> Tensor:
    """The logit of the bare sequence, its last token being the last real one."""
    hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state
    return model.score(hidden[0, -1])[0]
