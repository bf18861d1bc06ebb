"""Policies and scalar models, always in an explicit dtype, with positions built from the mask.

A policy is an ``AutoModelForCausalLM``, a reward or value model an
``AutoModelForSequenceClassification`` with one label. Both stay plain ``transformers`` models on
disk, so that anyone can load them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as hf_logging

from lit_instructgpt.functional import last_index
from lit_instructgpt.records import RecordError, Text, read_records
from lit_instructgpt.shared_prompt import SharedRows, share_prompt

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
    """The ``transformers`` config of a directory or hub id."""
    check_source(source)
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


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
            _set_special_tokens(config, tokenizer)
            model = AutoModelForCausalLM.from_config(_without_dropout(config), dtype=dtype)
        else:
            check_source(source)
            config = _without_dropout(AutoConfig.from_pretrained(source, trust_remote_code=False))
            if any("SequenceClassification" in name for name in config.architectures or []):
                raise ValueError(
                    f"{source} is a reward model ({', '.join(config.architectures)}), which predicts no tokens: give the "
                    "directory of a policy (SFT or PPOModule)"
                )
            model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, trust_remote_code=False)
        _fit_embeddings(model, tokenizer)
    _set_special_tokens(model.config, tokenizer)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    return model.train()


def _set_special_tokens(config: Any, tokenizer: Any) -> None:
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id


def _fit_embeddings(model: Any, tokenizer: Any) -> None:
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def _without_dropout(config: Any) -> Any:
    """Every dropout probability of the config set to 0: in RM and PPO dropout would be noise in the ratio."""
    for name, value in list(config.to_dict().items()):
        if ("dropout" in name or name.endswith("_pdrop")) and isinstance(value, (int, float)):
            setattr(config, name, 0.0)
    return config


def add_residual_dropout(model: nn.Module, probability: float) -> int:
    """The paper's residual dropout: on what each attention and MLP block adds to the residual stream.

    One rule for every family (Llama has no such setting): a hook on the blocks' outputs, active in
    train mode alone. Not saved with the model.

    Returns:
        How many blocks drop.

    Raises:
        ValueError: not every layer has one attention and one MLP block by a known name.
    """
    names = {"self_attn", "attn", "attention", "mlp", "feed_forward", "ffn", "fc", "fc2"}
    stacks = [
        [[block for name, block in layer.named_children() if name in names] for layer in layers]
        for layers in model.modules()
        if isinstance(layers, nn.ModuleList)
    ]
    found = [blocks for layers in stacks if any(layers) for blocks in layers]
    if not found or any(len(blocks) != 2 for blocks in found):
        raise ValueError(
            f"residual dropout: {type(model).__name__} does not show one attention and one MLP block in each layer; "
            "set model.dropout: 0"
        )
    blocks = [block for layer in found for block in layer]

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (F.dropout(output[0], probability, module.training), *output[1:])
        return F.dropout(output, probability, module.training)

    for block in blocks:
        block.register_forward_hook(drop)
    return len(blocks)


def positions(attention_mask: Tensor) -> Tensor:
    """Position ids counted from the first real token: [B, T] -> [B, T]; equal for both paddings."""
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def next_token_logits(model: Any, input_ids: Tensor, attention_mask: Tensor, keep: int) -> Tensor:
    """Logits that predict the last ``keep`` tokens: [B, T] -> [B, keep, V].

    Only those are projected to the vocabulary.
    """
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        use_cache=False,
        logits_to_keep=keep + 1,
    )
    return output.logits[:, :-1]


class ScalarModel(nn.Module):
    """Reward or value model: the transformer with its unembedding replaced by a scalar head (section 3.5).

    ``model`` is the family's ``AutoModelForSequenceClassification`` with one label. The head runs in
    float32 whatever the autocast. ``model.config.score_bias`` is added to what the head returns; see
    ``shift``.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if not isinstance(getattr(model, "score", None), nn.Linear):
            raise ValueError(f"{type(model).__name__} has no linear `score` head: use a decoder family")
        if not hasattr(model.config, "score_bias"):
            model.config.score_bias = 0.0

    @classmethod
    def load(
        cls,
        source: str,
        tokenizer: Any,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        need_head: bool = False,
    ) -> ScalarModel:
        """Loads a reward model, or starts one from a causal language model's directory.

        A new head is drawn from N(0, 1/(d+1)) with the d of the hidden size (lm-human-preferences
        ``model.py``), from ``generator``.

        Raises:
            ValueError: a classifier with several labels.
        """
        check_source(source)
        with quiet_loading():
            config = _without_dropout(AutoConfig.from_pretrained(source, trust_remote_code=False))
            trained = any("SequenceClassification" in name for name in config.architectures or [])
            if need_head and not trained:
                raise ValueError(
                    f"{source} is no reward model ({', '.join(config.architectures or ['unknown'])}): its score head would be "
                    "random; give a directory that RankingRM exported"
                )
            if trained and config.num_labels != 1:
                raise ValueError(
                    f"{source} is a classifier with {config.num_labels} labels: a reward model has one score; give the "
                    "directory of a reward model, or of a causal language model to start one from"
                )
            config.num_labels = 1
            model = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=False
            )
            _fit_embeddings(model, tokenizer)
        _set_special_tokens(model.config, tokenizer)
        model.config.use_cache = False
        scalar = cls(model.train())
        if not trained:
            with torch.no_grad():
                model.score.weight.normal_(0.0, (model.score.in_features + 1) ** -0.5, generator=generator)
        return scalar

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The scalar at every position: [B, T] -> [B, T] float32."""
        transformer = getattr(self.model, self.model.base_model_prefix)
        hidden = transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            use_cache=False,
        ).last_hidden_state
        return self.head(hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """The scalar head, in float32: [..., d] -> [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            score = F.linear(hidden.float(), self.model.score.weight.float())
        return score.squeeze(-1) + float(self.model.config.score_bias)

    def score(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The scalar at the last real token, found by mask and never by token id: [B, T] -> [B]."""
        scalars = self(input_ids, attention_mask)
        return scalars.gather(1, last_index(attention_mask)[:, None]).squeeze(1)

    def score_shared(self, rows: SharedRows) -> Tensor:
        """The scalar at the last token of each completion, the prompt computed once: [B, S] -> [B, K]."""
        transformer = getattr(self.model, self.model.base_model_prefix)
        mask = rows.attends()
        if self.model.config._attn_implementation == "eager":
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min).to(self.model.dtype)
        hidden = transformer(
            input_ids=rows.input_ids, attention_mask=mask, position_ids=rows.position_ids, use_cache=False
        ).last_hidden_state
        return self.head(hidden.gather(1, rows.last[..., None].expand(-1, -1, hidden.shape[-1])))

    @torch.no_grad()
    def why_not_shared(self) -> str | None:
        """Why this architecture's scores would differ if the completions of a prompt shared a row; None: they agree.

        Told by its config, and tried on four tokens with two completions.
        """
        config = self.model.config
        if config._attn_implementation not in ("sdpa", "eager"):
            return f"attention {config._attn_implementation!r} takes no mask of its own"
        local = {"sliding_attention", "chunked_attention"} & set(getattr(config, "layer_types", None) or [])
        windows = ("sliding_window", "window_size", "attention_types", "attention_chunk_size")
        if local or any(getattr(config, name, None) for name in windows):
            return "it has windows of attention, and counts them in columns"
        device = self.model.score.weight.device
        ids = torch.arange(1, 19, device=device).view(1, 2, 9) % config.vocab_size
        ids[:, 1, :4] = ids[:, 0, :4]
        mask = torch.arange(9, device=device) < torch.tensor([[[7], [9]]], device=device)
        with torch.autocast(device.type, enabled=False):
            apart = self.score(ids[0], mask[0])
            try:
                together = self.score_shared(share_prompt(ids, mask, torch.tensor([4], device=device)))[0]
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                return f"its attention takes no mask of its own ({str(error).splitlines()[0]})"
        difference = float((together - apart).abs().max())
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.05
        return f"scores differ by {difference:.2g}" if difference > tolerance else None

    def values(self, input_ids: Tensor, attention_mask: Tensor, num_response: int) -> Tensor:
        """Values before each of the last ``num_response`` tokens: [B, T] -> [B, R]."""
        return self(input_ids, attention_mask)[:, -num_response - 1 : -1]

    @torch.no_grad()
    def shift(self, constant: float) -> None:
        """Adds a constant to every score, kept with the weights.

        Where the final norm has a bias (GPT-2, GPT-NeoX, ...) it is moved along the head's direction, so
        that plain ``transformers`` returns the shifted score. Where it has none (RMSNorm: Llama, ...) no
        weight of the family can hold a constant: it goes to ``config.score_bias``, to be added to the
        logits by whoever loads the directory without this package.
        """
        weight = self.model.score.weight[0]
        norm = final_norm_bias(self.model)
        if norm is None:
            self.model.config.score_bias = float(self.model.config.score_bias) + constant
        else:
            direction = weight.double() / weight.double().square().sum()
            norm += (constant * direction).to(norm.dtype)

    def save(self, path: str | Path) -> None:
        """Writes the Hugging Face directory (safetensors)."""
        with quiet_loading():
            self.model.save_pretrained(path)


def final_norm_bias(model: Any) -> Tensor | None:
    """Bias of the transformer's final norm, or None where the family has none."""
    transformer = getattr(model, model.base_model_prefix)
    for name in ("final_layer_norm", "ln_f", "norm", "final_layernorm", "norm_f"):
        norm = getattr(transformer, name, None)
        if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
            return norm.bias
    return None
