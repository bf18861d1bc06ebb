"""Policies whose samples end: some with EOS, some cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from lit_instructgpt.models import quiet_loading


@pytest.fixture(scope="session")
def stopping_dir(tiny_dir: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``stopping_dir(family)``: as ``tiny_dir``, but EOS is likely. Do not write to it."""
    made: dict[str, str] = {}

    def get(family: str) -> str:
        if family not in made:
            with quiet_loading():
                model = transformers.AutoModelForCausalLM.from_pretrained(tiny_dir(family))
            norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}[family]
            eos = model.get_output_embeddings().weight[tokenizer.eos_token_id]
            with torch.no_grad():
                getattr(model.base_model, norm).bias.add_(3.0 * eos / eos.square().sum())
            path: Path = tmp_path_factory.mktemp(f"stopping_{family}")
            with quiet_loading():
                model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[family] = str(path)
        return made[family]

    return get
