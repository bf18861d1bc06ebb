"""Tiny models and data, built in memory: no network.

Weights are far from their usual small start, so that a wrong position, mask or pad id shows in the output.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lit_instructgpt.models import quiet_loading

EOS, PAD = "<|endoftext|>", "<|pad|>"
LINES = [
    "Question: what do bees make? Answer: bees make honey.",
    "The quick brown fox jumps over the lazy dog.",
    "Say hello to the people of the town, then say goodbye.",
    "A list: one, two, three. Is it long? No, it is short.",
]
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gpt_neox": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 128,
    },
    "llama": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 32, "max_position_embeddings": 128,
    },
}  # fmt: skip


def byte_tokenizer(lines: list[str], **special: str | None) -> Any:
    """Byte-level BPE of 256 bytes and a few merges; id 0 is EOS and id 1 PAD, unless told otherwise."""
    special = {"eos_token": EOS, "pad_token": PAD, **special}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=list(dict.fromkeys(token for token in special.values() if token)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in special.items() if token},
    )


def stir(model: Any, seed: int) -> Any:
    """Moves every weight, biases and norms included, by N(0, 0.2²)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def build(auto: Any, family: str, tokenizer: Any, seed: int, **settings: Any) -> Any:
    """A model of the family in memory; settings go to its config."""
    config = transformers.AutoConfig.for_model(
        family,
        **{
            **SIZES[family],
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            **settings,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stir(auto.from_config(config), seed)


def save(model: Any, tokenizer: Any, path: Path) -> str:
    with quiet_loading():
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def no_seed_of_a_run() -> Iterator[None]:
    """What `seed_everything` leaves in the environment is not the next test's, nor that of fixtures which outlive one."""
    forget_seed()
    yield
    forget_seed()


def forget_seed() -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture(params=list(SIZES))
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """``make_tokenizer(pad_token=None, unk_token="<unk>", bos_token="<s>")``: a tokenizer of its own."""
    return lambda **special: byte_tokenizer(LINES, **special)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level tokenizer whose pad token is not its EOS. Do not change it."""
    return byte_tokenizer(LINES)


@pytest.fixture(scope="session")
def make_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[..., str]:
    """``make_dir(family, reward=False, tokenizer=None, seed=0, dtype=None, **config)``: a new model directory."""

    def make(
        family: str,
        reward: bool = False,
        tokenizer: Any = tokenizer,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        **config: Any,
    ) -> str:
        auto = transformers.AutoModelForSequenceClassification if reward else transformers.AutoModelForCausalLM
        model = build(auto, family, tokenizer, seed, **({"num_labels": 1} if reward else {}), **config)
        return save(model.to(dtype) if dtype else model, tokenizer, tmp_path_factory.mktemp(family))

    return make


@pytest.fixture(scope="session")
def tiny_dir(make_dir: Callable[..., str]) -> Callable[[str], str]:
    """``tiny_dir(family)``: directory of a tiny causal language model and tokenizer. Shared: do not write to it."""
    made: dict[str, str] = {}

    def get(family: str) -> str:
        if family not in made:
            made[family] = make_dir(family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def tiny_reward_dir(make_dir: Callable[..., str]) -> Callable[[str], str]:
    """``tiny_reward_dir(family)``: directory of a tiny reward model and tokenizer. Shared: do not write to it."""
    made: dict[str, str] = {}

    def get(family: str) -> str:
        if family not in made:
            made[family] = make_dir(family, reward=True, seed=1)
        return made[family]

    return get


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[..., str]:
    """``write_jsonl(path, rows)``: one JSON object per line; returns the path as a string."""

    def write(path: Path | str, rows: list[dict[str, Any]]) -> str:
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write
