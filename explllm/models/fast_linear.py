"""Faster linear layers for inference: LoRA is merged, and oneDNN replaces MKL where it is faster.

A decoding step of a small model spends most of its time in the output layer, whose weights are copied to the layout of
oneDNN's kernels once. Without this copy, MKL and oneDNN rearrange all weights in each call with more than one row.
"""

import functools
import platform
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeGuard, cast

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear
from torch.utils.weak import WeakTensorKeyDictionary

from explllm.models.lora import is_lora_layer, merged_weight
from explllm.models.parts import list_modules

_LARGE = 150_000
"""Minimum number of weights in a layer for oneDNN to be faster: a call to oneDNN has a higher fixed cost."""

_FEW_ROWS = 8
"""Number of rows for which the layout of packed weights is chosen; it is a good layout for more rows, too."""


@contextmanager
def fast_linear(model: nn.Module, merge: bool = True, output: nn.Module | None = None) -> Iterator[None]:
    """Use faster linear layers without gradients inside the context; the model's own weights do not change.

    Only layers that compute in float32 are replaced: in bfloat16, rounding would lose most of a merged update.

    Args:
        model: A model, with or without LoRA.
        merge: Merge LoRA. This copies each adapted weight, which pays off over the many passes that generate a text.
        output: The output layer of the language model. If oneDNN is used, a copy of its weights is kept for later
            calls (33 MB for a vocabulary of 32,000 and a width of 256, 524 MB for a 7B model), which pays off if a text
            is generated. The copy is updated when the context is entered.
    """
    replaced: list[nn.Module] = []
    try:
        for layer in list_modules(model):
            lora = layer if merge and is_lora_layer(layer) and not layer.disable_adapters else None
            base = layer if lora is None else lora.get_base_layer()
            # Check the size first: for a small face, checking all layers takes as long as computing one.
            large = type(base) is nn.Linear and base.weight.numel() >= _LARGE
            onednn = large and base.weight.device.type == "cpu" and prefers_onednn()
            if (lora is None and not onednn) or not _is_float32(base) or base.weight.is_meta:
                continue
            # A layer with its own `forward` has accelerate hooks, or has already been replaced.
            if "forward" in {*layer.__dict__, *base.__dict__} or torch.is_autocast_enabled(base.weight.device.type):
                continue
            weight = base.weight if lora is None else merged_weight(lora)
            multiply: Callable[..., torch.Tensor] = _onednn_linear if onednn else linear
            if onednn and layer is output and lora is None and not weight.is_inference():
                _pack(weight)
                multiply = _packed_linear
            # The replacement is a single assignment, so another thread uses either the old or the new computation; the
            # two are equivalent.
            layer.forward = partial(multiply, weight=weight, bias=base.bias)
            replaced.append(layer)
        yield
    finally:
        for layer in replaced:
            layer.__dict__.pop("forward", None)


def _is_float32(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear and not isinstance(layer.weight, DTensor) and layer.weight.dtype == torch.float32


@functools.cache
def prefers_onednn() -> bool:
    """Return whether oneDNN multiplies float32 matrices faster than MKL, PyTorch's default, on this processor.

    MKL is slow on AMD processors. On an EPYC with AVX-512, oneDNN took 0.5 to 0.9 times as long as MKL for the shapes
    of a small language model.
    """
    cpus = Path("/proc/cpuinfo")
    name = cpus.read_text()[:1000] if cpus.is_file() else platform.processor()
    available = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    return "AuthenticAMD" in name and available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute ``states @ weight.T + bias``, with oneDNN where it is faster; gradients are not supported.

    Args:
        states: (N, I) inputs.
        weight: (O, I) weights.
        bias: (O,), or None.

    Returns:
        (N, O).
    """
    if states.device.type == "cpu" and states.dtype == torch.float32 and prefers_onednn():
        return _onednn_linear(states, weight, bias)
    return linear(states, weight, bias)


_packed_weights: MutableMapping[torch.Tensor, tuple[float, torch.Tensor]] = WeakTensorKeyDictionary()
"""Copies of weights in oneDNN's layout, with the sums of the weights, which show whether a copy is outdated."""


def _pack(weight: torch.Tensor) -> None:
    """Copy weights (O, I) to oneDNN's layout, unless there is a copy already."""
    # The version of a tensor would not count changes of `weight.data`.
    total = float(weight.detach().sum())
    if weight not in _packed_weights or _packed_weights[weight][0] != total:
        with torch.inference_mode(False), torch.no_grad():
            copy = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _FEW_ROWS)
        _packed_weights[weight] = total, copy


def _packed_linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # Look the copy up here: as an argument, it would be part of the layer, which could no longer be copied or saved.
    _, copy = _packed_weights.get(weight, (0.0, weight))
    return _onednn_linear(states, weight, bias, copy)


def _onednn_linear(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, packed: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute a linear layer with the oneDNN operator that PyTorch's compiler uses; it does not support gradients."""
    if torch.is_autocast_enabled("cpu"):  # enabled after the layer was replaced
        return linear(states, weight, bias)
    stored = weight if packed is None else packed
    return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(states, stored, bias, "none", [], ""))
