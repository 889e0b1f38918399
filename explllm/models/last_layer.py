"""Compute the last layer of a language model only at the positions whose output is needed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel


@contextmanager
def last_mlp_at_end(language: PreTrainedModel, count: int) -> Iterator[None]:
    """Inside the context, compute the last layer's MLP only at the last positions; do not use outputs at the others.

    The last layer's attention needs the keys and values of all positions, but its MLP does not. The MLP is about 2/3
    of a layer's work, so in a model of L layers this saves up to 2/(3 L) of a prefill. Other threads are not affected.

    Args:
        language: A language model. If its last layer has no dense ``mlp``, nothing changes.
        count: Number of positions at the end, at least 1.
    """
    layers = getattr(language.base_model, "layers", None)
    mlp = getattr(layers[-1], "mlp", None) if isinstance(layers, nn.ModuleList) and len(layers) else None
    if mlp is None or hasattr(mlp, "experts"):
        yield
        return
    thread, hidden = threading.get_ident(), 0

    def shorten(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        nonlocal hidden
        if threading.get_ident() != thread or inputs[0].ndim != 3:
            return None
        hidden = max(inputs[0].shape[1] - count, 0)
        return inputs[0][:, hidden:], *inputs[1:]

    def extend(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        if threading.get_ident() != thread or inputs[0].ndim != 3:
            return None
        return functional.pad(output, (0, 0, hidden, 0))

    handles = mlp.register_forward_pre_hook(shorten), mlp.register_forward_hook(extend)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
