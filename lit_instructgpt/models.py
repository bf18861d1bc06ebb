"""Loading policies and tokenizers, always in an explicit dtype, with all dropout off unless asked for.

A policy is an ``AutoModelForCausalLM`` and stays one on disk, so that anyone can load it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from lit_instructgpt.records import RecordError, Text, read_records

EOS, PAD = "<|endoftext|>", "<|pad|>"


@dataclass
class FreshModel:
    """A small model from scratch, with a byte-level BPE tokenizer trained on the text.

    Attributes:
        config: keyword arguments of the family's ``transformers`` config, ``model_type`` among them,
            e.g. ``{model_type: gpt_neox, hidden_size: 128, num_hidden_layers: 4}``.
        text: files of ``{"text": ...}`` to train the tokenizer on, read as data are.
        vocab_size: tokens of the tokenizer, the two special ones included.
    """

    config: dict[str, Any]
    text: list[str]
    vocab_size: int = 1200

    def __post_init__(self) -> None:
        if "model_type" not in self.config:
            raise ValueError("model.config needs model_type, for instance gpt_neox, gpt2 or llama")


ModelSource = str | FreshModel
"""A directory or hub id, or the description of a fresh model."""


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' progress bars and its note that a head is newly initialised."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def check_source(source: str) -> None:
    """Refuses a path that is not there before transformers takes it for a hub id.

    Raises:
        FileNotFoundError: ``source`` looks like a path and no such directory exists.
    """
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") != 1 or source.endswith("/")
    parent = source.split("/", maxsplit=1)[0]
    if os.path.isdir(source) and not os.path.isfile(os.path.join(source, "config.json")):
        raise FileNotFoundError(f"{source} holds no config.json: give the directory that a stage exported")
    if not os.path.isdir(source) and (looks_like_path or os.path.isdir(parent)):
        raise FileNotFoundError(f"no model directory {source}: run the stage that exports it, or correct the path")


def read_config(source: str) -> Any:
    """The ``transformers`` config of a directory or hub id.

    Raises:
        FileNotFoundError: see ``check_source``.
        ValueError: the model reads more than text.
    """
    check_source(source)
    if os.path.isdir(source) and not any(name.endswith(".safetensors") for name in os.listdir(source)):
        raise ValueError(
            f"{source} holds no .safetensors: other weights (pytorch_model.bin) are pickles, which can run code; load them where "
            "you trust them, with transformers, and save_pretrained"
        )
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.get_text_config() is not config:
        raise ValueError(
            f"{source} is a {config.model_type} model, with a text model inside: only text is trained here; save that model "
            f"({config.get_text_config().model_type}) in a directory of its own and give that"
        )
    return config


def beyond_context(config: Any, name: str, needs: Mapping[str, int]) -> list[str]:
    """What does not fit a model's context, one message each: learned positions end there, rotary ones go wrong.

    Args:
        config: of the model; a family that states no context has none.
        name: what the message calls the model.
        needs: the setting to lower -> tokens of the longest sequence that it allows.
    """
    context = getattr(config, "max_position_embeddings", None)
    return [
        f"sequences of {longest} tokens do not fit the context of {context} of {name}: lower {setting}"
        for setting, longest in needs.items()
        if context is not None and longest > context
    ]


def check_context(config: Any, name: str, needs: Mapping[str, int]) -> None:
    """Refuses sequences that do not fit a model's context; see ``beyond_context``.

    Raises:
        ValueError: naming the settings, the model and its context.
    """
    problems = beyond_context(config, name, needs)
    if problems:
        raise ValueError("; ".join(problems))


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a model, with a pad token that is never EOS.

    Where pad is missing or equals EOS (which would hide EOS from anything that masks by token id), the
    unknown token serves if it is another one, else ``<|pad|>`` is added.

    Raises:
        ValueError: the tokenizer has no EOS token, so responses could not end.
    """
    if isinstance(source, FreshModel):
        return train_tokenizer(source)
    check_source(source)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no EOS token: responses could never end; set eos_token")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id):
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def train_tokenizer(fresh: FreshModel) -> Any:
    """Byte-level BPE on the ``text`` of the files; deterministic for the same files.

    Raises:
        ValueError: bad lines, or no text.
        FileNotFoundError: a file is not there.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    try:
        records, _ = read_records(fresh.text, Text)
    except RecordError as error:
        first = error.report.bad[0].lines()[0]
        raise ValueError(f"model.text: {first}; {error.report.summary()} Correct the file") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.text: {error}") from error
    except ValueError as error:
        raise ValueError(f"model.text: {error}") from error
    if not records:
        raise ValueError(
            f"model.text: {', '.join(fresh.text) or 'no file'}: no text to train the tokenizer on; give some"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=fresh.vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((record.text for record in records), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def load_policy(source: ModelSource, tokenizer: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model in training dtype, all its dropout off, ready to train.

    ``from_pretrained`` would take the file's dtype and return eval mode; both are explicit here.
    """
    with quiet_loading():
        if isinstance(source, FreshModel):
            kwargs = dict(source.config)
            config = AutoConfig.for_model(kwargs.pop("model_type"), vocab_size=len(tokenizer), **kwargs)
            set_special_tokens(config, tokenizer)
            with torch.device("cpu"):  # one seed, one start: on whatever device it is to be trained
                model = AutoModelForCausalLM.from_config(without_dropout(config), dtype=dtype)
            model = model.to(torch.get_default_device())
        else:
            config = without_dropout(read_config(source))
            if problem := policy_problem(source, config):
                raise ValueError(problem)
            model = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True
            )
        fit_embeddings(model, tokenizer)
    set_special_tokens(model.config, tokenizer)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    return model.train()


def policy_problem(source: str, config: Any) -> str:
    """Why a directory holds no policy, told by its config; empty where it does."""
    if not any("SequenceClassification" in name for name in config.architectures or []):
        return ""
    return (
        f"{source} is a reward model ({', '.join(config.architectures)}), which predicts no tokens: give the directory of a "
        "policy (SFT or PPOModule)"
    )


def set_special_tokens(config: Any, tokenizer: Any) -> None:
    """The tokenizer's ids in the model's config."""
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id


def fit_embeddings(model: Any, tokenizer: Any) -> None:
    """Grows the embeddings if the tokenizer has more tokens."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def without_dropout(config: Any) -> Any:
    """Every dropout probability of the config set to 0: in RM and PPO dropout would be noise in the ratio."""
    for name, value in list(config.to_dict().items()):
        if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, (int, float)):
            setattr(config, name, 0.0)
    return config


def checkpoint_activations(model: Any) -> None:
    """Keeps the inputs of the layers alone for the backward pass, which computes the rest again.

    Raises:
        ValueError: the family cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"gradient_checkpointing: {type(model).__name__} does not support it; set it to false")
    if hasattr(model, "activation_checkpointing_enable"):  # its newer name
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


@contextlib.contextmanager
def inference_mode(*models: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every submodule's own mode and checkpointing restored after."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    checkpointing = [
        module
        for model in models
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False) is True
    ]
    for model in models:
        model.eval()
    for module in checkpointing:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        with torch.no_grad():
            yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, training in modes:
            module.training = training
