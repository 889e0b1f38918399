"""From the encoder's features to the language model's embeddings."""

import torch
from torch import nn


class Projector(nn.Sequential):
    """Linear layers with GELU between them (paper, Section III-C-1: two layers), kept in float32."""

    def __init__(self, width_in: int, width_out: int, layers: int = 2) -> None:
        """Build the layers.

        Args:
            width_in: Width of the encoder's features.
            width_out: Width of the language model's embeddings, of the hidden layers too.
            layers: Number of linear layers.
        """
        modules: list[nn.Module] = [nn.Linear(width_in, width_out)]
        for _ in range(layers - 1):
            modules += [nn.GELU(), nn.Linear(width_out, width_out)]
        super().__init__(*modules)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, H)."""
        return super().forward(features.to(next(self.parameters()).dtype))
