"""Reward and value models: a transformer with a scalar head in place of its unembedding.

Each is an ``AutoModelForSequenceClassification`` with one label and stays one on disk, so that anyone can load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from lit_instructgpt.functional import last_index
from lit_instructgpt.hidden import hidden_states
from lit_instructgpt.lora import has_adapters
from lit_instructgpt.models import fit_embeddings, quiet_loading, read_config, set_special_tokens, without_dropout
from lit_instructgpt.packing import Sharing
from lit_instructgpt.sharding import fill, full, gathers


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
        with quiet_loading():
            config = without_dropout(read_config(source))
            trained = has_head(config)
            if (need_head or trained) and (problem := reward_model_problem(source, config)):
                raise ValueError(problem)
            config.num_labels = 1
            model = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True
            )
            fit_embeddings(model, tokenizer)
        set_special_tokens(model.config, tokenizer)
        model.config.use_cache = False
        scalar = cls(model.train())
        if not trained:
            draw_head(model.score, generator)
        return scalar

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, sharing: Sharing | None = None, packing: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As ``hidden_states``."""
        transformer = getattr(self.model, self.model.base_model_prefix)
        return hidden_states(transformer, input_ids, attention_mask, sharing, packing)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The scalar at every position: [B, T] -> [B, T] float32."""
        states, place = self.states(input_ids, attention_mask)
        return self.head(states[place])

    def head(self, hidden: Tensor) -> Tensor:
        """The scalar head, in float32: [..., d] -> [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            score = F.linear(hidden.float(), self.model.score.weight.float())
        return score.squeeze(-1) + float(self.model.config.score_bias)

    @gathers
    def score(
        self, input_ids: Tensor, attention_mask: Tensor, sharing: Sharing | None = None, packing: bool = True
    ) -> Tensor:
        """The scalar at the last real token, found by mask and never by token id: [B, T] -> [B] float32."""
        states, place = self.states(input_ids, attention_mask, sharing, packing)
        last = place.gather(1, last_index(attention_mask)[:, None]).squeeze(1)
        return self.head(states[last])

    @gathers
    def values(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        sharing: Sharing | None = None,
        packing: bool = True,
    ) -> Tensor:
        """Values before each token of the responses, which are the last R columns: [B, T] -> [B, R] float32.

        0 outside ``response_mask`` [B, R].
        """
        states, place = self.states(input_ids, attention_mask, sharing, packing)
        before = place[:, -response_mask.shape[1] - 1 : -1][response_mask]
        zeros = torch.zeros(response_mask.shape, device=states.device)
        return zeros.masked_scatter(response_mask, self.head(states[before]))

    @torch.no_grad()
    def shift(self, constant: float) -> None:
        """Adds a constant to every score, kept with the weights.

        Where the final norm has a bias (GPT-2, GPT-NeoX, ...) it is moved along the head's direction, so
        that plain ``transformers`` returns the shifted score. Where it has none (RMSNorm: Llama, ...) no
        weight of the family can hold a constant: it goes to ``config.score_bias``, to be added to the
        logits by whoever loads the directory without this package.
        """
        weight = full(self.model.score.weight.detach())[0]
        norm = None if has_adapters(self.model) else final_norm_bias(self.model)  # which stays as the base has it
        if norm is None:
            self.model.config.score_bias = float(self.model.config.score_bias) + constant
        else:
            direction = weight.double() / weight.double().square().sum()
            fill(norm, full(norm.detach()) + (constant * direction).to(norm.dtype))

    def save(self, path: str | Path) -> None:
        """Writes the Hugging Face directory (safetensors)."""
        with quiet_loading():
            self.model.save_pretrained(path)


def has_head(config: Any) -> bool:
    """Whether a config is of a classifier, as reward models are."""
    return any("SequenceClassification" in name for name in config.architectures or [])


def reward_model_problem(source: str, config: Any) -> str:
    """Why a directory holds no trained reward model, told by its config; empty where it does."""
    if not has_head(config):
        return (
            f"{source} is no reward model ({', '.join(config.architectures or ['unknown'])}): its score head would be random; "
            "give a directory that RankingRM exported"
        )
    if config.num_labels != 1:
        return (
            f"{source} is a classifier with {config.num_labels} labels: a reward model has one score; give the directory of a "
            "reward model, or of a causal language model to start one from"
        )
    return ""


@torch.no_grad()
def draw_head(head: nn.Linear, generator: torch.Generator | None) -> None:
    """A new head from N(0, 1/(d+1)), wherever its weight is: the same numbers on every device, a CPU generator's."""
    drawn = torch.empty(head.weight.shape, dtype=head.weight.dtype, device="cpu")
    drawn.normal_(0.0, (head.in_features + 1) ** -0.5, generator=generator)
    head.weight.copy_(drawn)


def final_norm_bias(model: Any) -> Tensor | None:
    """Bias of the transformer's final norm, or None where the family has none."""
    transformer = getattr(model, model.base_model_prefix)
    for name in ("final_layer_norm", "ln_f", "norm", "final_layernorm", "norm_f"):
        norm = getattr(transformer, name, None)
        if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
            return norm.bias
    return None
