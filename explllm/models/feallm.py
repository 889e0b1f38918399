"""The two modules that FEALLM adds: local clues of the face, and a projector that reads all of the encoder's blocks.

FEALLM's authors released a figure and an abstract, no code and no sizes. The wiring follows the figure:

    16 crops ─ conv block each ─ self-attention (F_attn) ─┬─ linear ──────────▶ F'_local, 16 tokens
                                                          └─ flatten, linear ─▶ F_local, 1 token ──▶ language model

    encoder ─▶ F_L and F_s = [F_1 .. F_{L-1}]
        cross-attention, Q = F_L, K = V = F_s        no residual
        cross-attention, K = V = F'_local            residual
        self-attention                               residual
        MLP ─────────────────────────────────────────────────▶ N image tokens ──▶ language model

Ours, because the figure does not give them: the boxes of the crops, all widths, the layer norms before attention, the
region and block embeddings, and the concatenation of F_s along the tokens.

Shape legend: B images, N tokens of the encoder, C its width, L its blocks, R regions, D width of local clues, H width
of the language model.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional

Region = tuple[float, float, float, float]

FACE_REGIONS: Mapping[str, Region] = MappingProxyType(
    {
        "forehead": (0.10, 0.00, 0.90, 0.35),
        "brows": (0.05, 0.15, 0.95, 0.45),
        "viewer-left brow": (0.05, 0.15, 0.55, 0.45),
        "viewer-right brow": (0.45, 0.15, 0.95, 0.45),
        "eyes": (0.05, 0.25, 0.95, 0.55),
        "viewer-left eye": (0.05, 0.25, 0.55, 0.55),
        "viewer-right eye": (0.45, 0.25, 0.95, 0.55),
        "upper face": (0.00, 0.05, 1.00, 0.65),
        "nose": (0.25, 0.30, 0.75, 0.75),
        "viewer-left cheek": (0.00, 0.40, 0.50, 0.85),
        "viewer-right cheek": (0.50, 0.40, 1.00, 0.85),
        "viewer-left mouth corner": (0.10, 0.55, 0.55, 0.90),
        "viewer-right mouth corner": (0.45, 0.55, 0.90, 0.90),
        "mouth": (0.20, 0.55, 0.80, 0.90),
        "mouth and chin": (0.15, 0.60, 0.85, 1.00),
        "lower face": (0.00, 0.45, 1.00, 1.00),
    }
)
"""16 overlapping boxes (left, top, right, bottom) as shares of an upright face crop's width and height."""


class LocalClueAggregator(nn.Module):
    """Encodes crops of the face, one vector each, and lets them attend to each other.

    Args:
        width: D, the width of a local clue.
        token_width: Width of F'_local, that of the encoder's features.
        language_width: Width of F_local, that of the language model's embeddings.
        regions: The boxes to crop; see `FACE_REGIONS`.
        crop_size: Height and width that each crop is resized to, in pixels.
        heads: Attention heads; they must divide `width`.
    """

    def __init__(
        self,
        width: int,
        token_width: int,
        language_width: int,
        regions: Sequence[Region] = tuple(FACE_REGIONS.values()),
        crop_size: int = 56,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.regions, self.crop_size = tuple(tuple(region) for region in regions), crop_size
        self.blocks = nn.ModuleList(_conv_block(width) for _ in self.regions)
        self.region_embedding = nn.Parameter(torch.zeros(len(self.regions), width))
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.tokens = nn.Linear(width, token_width)
        self.summary = nn.Linear(len(self.regions) * width, language_width)

    def crop(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Cut the regions out of images: (B, 3, H, W) to R tensors (B, 3, crop_size, crop_size)."""
        height, width = pixel_values.shape[-2:]
        crops = []
        for left, top, right, bottom in self.regions:
            rows = slice(round(top * height), max(round(bottom * height), round(top * height) + 1))
            columns = slice(round(left * width), max(round(right * width), round(left * width) + 1))
            crop = pixel_values[:, :, rows, columns]
            crops.append(
                functional.interpolate(crop, (self.crop_size, self.crop_size), mode="bilinear", antialias=True)
            )
        return crops

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the local clues as tokens for the projector and as one token for the language model.

        Args:
            pixel_values: (B, 3, H, W), the encoder's input.

        Returns:
            F'_local (B, R, C) and F_local (B, 1, H).
        """
        clues = [block(crop) for block, crop in zip(self.blocks, self.crop(pixel_values), strict=True)]
        local = self.norm(torch.stack(clues, dim=1) + self.region_embedding)  # (B, R, D)
        attended, _ = self.attention(local, local, local, need_weights=False)  # F_attn
        return self.tokens(attended), self.summary(attended.flatten(1)).unsqueeze(1)


class MultiPerspectiveProjector(nn.Module):
    """Maps the encoder's features to image tokens, from the perspectives of its earlier blocks and of the local clues.

    Args:
        width: C, the width of the encoder's last block.
        block_widths: The widths of the earlier blocks F_1 .. F_{L-1}; those other than `width` get a linear layer.
        language_width: H, the width of the language model's embeddings.
        heads: Attention heads; they must divide `width`.
    """

    def __init__(self, width: int, block_widths: Sequence[int], language_width: int, heads: int = 8) -> None:
        super().__init__()
        self.resize = nn.ModuleList(
            nn.Identity() if block == width else nn.Linear(block, width) for block in block_widths
        )
        self.block_norms = nn.ModuleList(nn.LayerNorm(width) for _ in block_widths)
        self.block_embedding = nn.Parameter(torch.zeros(len(block_widths), width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.blocks_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.local_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width))

    def concatenate(self, earlier: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return F_s: the earlier blocks' tokens (B, N_l, C_l) in one sequence (B, sum of N_l, C)."""
        parts = zip(earlier, self.resize, self.block_norms, self.block_embedding, strict=True)
        return torch.cat([norm(resize(features)) + embedding for features, resize, norm, embedding in parts], dim=1)

    def forward(self, last: torch.Tensor, earlier: Sequence[torch.Tensor], local: torch.Tensor) -> torch.Tensor:
        """Project features to embeddings of the language model.

        Args:
            last: F_L (B, N, C).
            earlier: F_1 .. F_{L-1}, each (B, N_l, C_l).
            local: F'_local (B, R, C).

        Returns:
            (B, N, H).
        """
        blocks = self.concatenate(earlier)
        # No residual: the tokens are made of the earlier blocks, the last one only asks.
        tokens, _ = self.blocks_attention(self.norms[0](last), blocks, blocks, need_weights=False)
        clues = self.norms[1](local)
        tokens = tokens + self.local_attention(self.norms[2](tokens), clues, clues, need_weights=False)[0]
        normed = self.norms[3](tokens)
        tokens = tokens + self.self_attention(normed, normed, normed, need_weights=False)[0]
        return self.mlp(self.norms[4](tokens))


def _conv_block(width: int) -> nn.Sequential:
    """Two strided convolutions and a mean over the crop: (B, 3, S, S) to (B, width)."""
    return nn.Sequential(
        nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
        nn.GroupNorm(1, width // 2),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        nn.GroupNorm(1, width),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
