"""Models for passes without gradients: their matrices in the dtype of the arithmetic, and prepacked on a CPU.

Two costs of weights that do not change between uses are paid once here. Autocast computes matrix products in bfloat16 and
casts their float32 weights each time. And on a CPU, oneDNN computes faster with a matrix laid out in its own blocks: twice as
fast for the few rows of a decoding step (docs/performance.md). Everything else, the embeddings and norms among it, stays as it
is, so that outputs are those of the model itself: under autocast to the last bit, in float32 but for the order of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers.pytorch_utils import Conv1D

from lit_instructgpt.compiled import plain
from lit_instructgpt.hidden import can_pack, packing_reason, remember_packing, same_kind
from lit_instructgpt.logprobs import remember_head, same_head, vocabulary_head
from lit_instructgpt.lora import has_adapters, merged
from lit_instructgpt.scalar_model import ScalarModel
from lit_instructgpt.sharding import build, gathered


def arithmetic(model: Any) -> torch.dtype:
    """The dtype in which the model's matrix products are computed here and now: autocast's, or that of its weights."""
    kind = model.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    dtype: torch.dtype = model.dtype
    return dtype


def matrices(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of each plain matrix product; not of a scalar head, which is float32.

    Subclasses of ``nn.Linear`` compute in ways of their own (quantized, or with a bias outside): they stay.
    """
    scalar_head = getattr(model, "score", None)
    for parent in model.modules():
        for name, module in parent.named_children():
            if type(module) in (nn.Linear, Conv1D) and module is not scalar_head:
                yield parent, name, module


class PrepackedLinear(nn.Module):
    """A matrix product of a CPU with the weight in oneDNN's own layout. No gradients.

    Args:
        module: an ``nn.Linear`` or ``Conv1D``.
        dtype: float32 or bfloat16, of weight and arithmetic; inputs are cast to it as autocast would.
        shadow: what ``weight`` shows to those who ask for its dtype.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, shadow: Tensor) -> None:
        super().__init__()
        weight, bias = module.weight.detach(), module.bias  # type: ignore[operator]
        self.dtype, self.bias = dtype, None if bias is None else bias.detach().to(dtype)  # type: ignore[operator]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(
            (weight.T if isinstance(module, Conv1D) else weight).to(dtype).contiguous()
        )
        self.weight = shadow  # no buffer: it neither moves nor is saved

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, "none", [], "")
        return found


Quantized = Literal["int8", "nf4"]
"""What a frozen matrix can be kept in: 8 bits in blocks of 256 entries, or 4 in blocks of 64, each with its scale in float32."""

BITS = {"int8": 8 + 32 / 256, "nf4": 4 + 32 / 64}
"""Of an entry, its share of the block's largest included."""


class QuantizedLinear(nn.Module):
    """A frozen matrix product whose weight is kept in few bits, and is a matrix for the time of the product.

    Args:
        module: an ``nn.Linear`` or ``Conv1D``.
        kind: of the bits; bitsandbytes rounds.
        shadow: what ``weight`` shows to those who ask for its dtype.
    """

    def __init__(self, module: nn.Module, kind: Quantized, shadow: Tensor) -> None:
        super().__init__()
        from bitsandbytes import functional as bits  # three seconds of imports, for those who use it

        weight, bias = module.weight.detach(), module.bias  # type: ignore[operator]
        weight = (weight.T if isinstance(module, Conv1D) else weight).float().contiguous()
        self.bias = None if bias is None else bias.detach()  # type: ignore[operator]
        if kind == "nf4":
            packed, state = bits.quantize_4bit(weight, blocksize=64, quant_type="nf4")
            self.restore: Callable[[], Tensor] = lambda: bits.dequantize_4bit(packed, state)
        else:
            packed, state = bits.quantize_blockwise(weight, blocksize=256)
            self.restore = lambda: bits.dequantize_blockwise(packed, state)
        self.num_bytes = packed.nbytes + state.absmax.nbytes
        self.weight = shadow

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.restore().to(x.dtype), self.bias)  # autocast casts them as it would a matrix


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes this dtype on this machine."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512", "AMX")


@torch.no_grad()
def freeze_matrices(model: Any, kept: torch.dtype | Quantized) -> None:
    """Turns a frozen transformers model, in place, into one whose matrices are kept in a dtype, or in few bits.

    Those of a dtype are computed in it; bfloat16 runs under autocast alone. A vocabulary head that shares its weight with the
    embeddings gets one of its own. Few bits are for the matrices of the layers; the head stays.
    """
    _look_at(model)
    if not isinstance(kept, torch.dtype):
        head = model.get_output_embeddings()
        for parent, name, module in list(matrices(model)):
            if module is not head:
                shadow = torch.empty(module.weight.shape, dtype=module.weight.dtype, device="meta")  # type: ignore[arg-type]
                setattr(parent, name, QuantizedLinear(module, kept, shadow))
        return
    dtype = kept
    if can_prepack(model.device, dtype):
        for parent, name, module in list(matrices(model)):
            shadow = torch.empty(module.weight.shape, dtype=dtype, device="meta")  # type: ignore[arg-type]
            setattr(parent, name, PrepackedLinear(module, dtype, shadow))
        same_head(model, model)
    elif dtype != model.dtype:
        _cast(model, dtype)


def build_policy(load: Callable[[], Any], mesh: DeviceMesh | None) -> Any:
    """A causal language model from disk, in pieces over the processes of a mesh; see ``build``."""

    def find_out(model: Any) -> tuple[str | None, bool]:
        """On the first process, which has the weights."""
        return packing_reason(model.base_model), vocabulary_head(model) is not None

    def remember(model: Any, found: tuple[str | None, bool]) -> None:
        """On every process."""
        remember_packing(model.base_model, found[0])
        remember_head(model, found[1])

    return build(load, mesh, find_out, remember)


def build_scalar_model(load: Callable[[], ScalarModel], mesh: DeviceMesh | None) -> ScalarModel:
    """A reward or value model from disk, in pieces over the processes of a mesh; see ``build``."""

    def find_out(scalar: ScalarModel) -> str | None:
        """On the first process, which has the weights."""
        return packing_reason(scalar.model.base_model)

    def remember(scalar: ScalarModel, reason: str | None) -> None:
        """On every process."""
        remember_packing(scalar.model.base_model, reason)

    found: ScalarModel = build(load, mesh, find_out, remember)
    return found


def whole(model: Any) -> Any:
    """As ``gathered``, and not compiled; what is known of the model is known of it."""
    found = plain(gathered(model))
    if found is not model:
        ours, theirs = (m.model if isinstance(m, ScalarModel) else m for m in (found, model))
        same_kind(ours.base_model, theirs.base_model)
        same_head(ours, theirs)
    return found


@torch.no_grad()
def inference_copy(model: Any, dtype: torch.dtype) -> Any:
    """The model as it is now, for passes without gradients in ``dtype``; all but its matrices is shared with it.

    Of a sharded model it is a whole one.

    Under autocast to bfloat16, or with ``dtype`` the model's own. It is the model itself where nothing would be gained.

    Args:
        model: a transformers model.
        dtype: see ``arithmetic``.
    """
    model = whole(model)
    if has_adapters(model):
        plain = merged(model)
        same_kind(plain.base_model, model.base_model)
        same_head(plain, model)
        model = plain
    prepack = can_prepack(model.device, dtype)
    if not prepack and dtype == model.dtype:
        return model
    _look_at(model)
    found = copy.deepcopy(model, {id(x): x for x in [*model.parameters(), *model.buffers()]})
    if prepack:
        for parent, name, module in list(matrices(found)):
            setattr(parent, name, PrepackedLinear(module, dtype, module.weight.detach()))  # type: ignore[operator]
    else:
        _cast(found, dtype)
    same_kind(found.base_model, model.base_model)
    same_head(found, model)
    return found.eval()


def _cast(model: Any, dtype: torch.dtype) -> None:
    for _, _, module in list(matrices(model)):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))


def _look_at(model: Any) -> None:
    """Tries what is tried in float32 alone, while the model still is."""
    can_pack(model.base_model)
    if model.get_output_embeddings() is not None:
        vocabulary_head(model)
