"""Stochastic depth in the vision encoder, as DINOv2's own training has it."""

import torch
from torch import nn

from explllm.core.errors import ConfigError


class BatchDropPath(nn.Module):
    """Leaves out a residual for a share of the samples in a micro-batch, and scales up the others (in training only).

    DINOv2 keeps at least one sample, so that with one sample in a micro-batch nothing is ever left out: the authors'
    scripts set 0.4 and train with micro-batches of 1, where it does nothing.
    """

    def __init__(self, share: float) -> None:
        """Keep the share of samples to leave out, in [0, 1)."""
        super().__init__()
        self.share = share

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to (B, ...)."""
        samples = len(residual)
        kept = max(int(samples * (1 - self.share)), 1)
        if not self.training or kept == samples:
            return residual
        factors = residual.new_zeros(samples)
        factors[torch.randperm(samples, device=residual.device)[:kept]] = samples / kept
        return residual * factors.view(-1, *[1] * (residual.ndim - 1))


def add_drop_path(encoder: nn.Module, share: float) -> None:
    """Put stochastic depth in every block of an encoder, in place.

    Args:
        encoder: A Hugging Face vision model whose blocks have a module ``drop_path``, such as DINOv2.
        share: Share of samples whose residual a block leaves out.

    Raises:
        ConfigError: If the encoder has no such blocks, or the share is out of range.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"a drop path of {share}", remedy="Give a share of at least 0 and below 1.")
    blocks = [module for module in encoder.modules() if hasattr(module, "drop_path")]
    if not blocks:
        raise ConfigError(
            f"{type(encoder).__name__} has no blocks with stochastic depth", remedy="Set vision_drop_path to 0."
        )
    for block in blocks:
        block.drop_path = BatchDropPath(share).train(block.training)
