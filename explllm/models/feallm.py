"""FEALLM's path from an image to the language model: local clues of the face, and a projector that reads all blocks.

FEALLM's authors released a figure and an abstract, but no code and no sizes. The architecture follows the figure:

    16 crops ─ conv block each ─ self-attention (F_attn) ─┬─ linear ──────────▶ F'_local, 16 tokens
                                                          └─ flatten, linear ─▶ F_local, 1 token ──▶ language model

    encoder ─▶ F_L and F_s = [F_1 .. F_{L-1}]
        cross-attention, Q = F_L, K = V = F_s        no residual
        cross-attention, K = V = F'_local            residual
        self-attention                               residual
        MLP ─────────────────────────────────────────────────▶ N image tokens ──▶ language model

The figure does not specify the following, which are our choices: the boxes of the crops, all widths, the layers of a
conv block, the layer norms before attention, the residual connection of the aggregator's self-attention, the region and
block embeddings, and the concatenation of F_s along the tokens.

Shape legend: B images, N tokens of the encoder, C its width, L its blocks, R regions, D width of local clues, H width
of the language model; in (B, 3, H, W), H and W are the height and width of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional

from explllm.core.errors import ConfigError

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
"""16 overlapping boxes (left, top, right, bottom) as fractions of an upright face crop's width and height."""


@dataclass
class FEALLMSettings:
    """Sizes of FEALLM's own modules. The authors released no sizes: the boxes and all numbers are our choices."""

    regions: list[list[float]] = field(default_factory=lambda: [list(box) for box in FACE_REGIONS.values()])
    """Crops of the local clue aggregator: left, top, right and bottom as fractions of the image's width and height; by
    default `FACE_REGIONS`."""
    crop_size: int = 56
    """Width and height that each crop is resized to, in pixels."""
    local_width: int = 256
    """Width D of a local clue."""
    local_heads: int = 4
    """Number of self-attention heads over the local clues; `local_width` must be a multiple of 4 times this number."""
    heads: int = 8
    """Number of heads in each attention layer of the projector; it must divide the width of the encoder's features."""

    def __post_init__(self) -> None:
        """Check the boxes and sizes."""
        for number, box in enumerate(self.regions):
            if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ConfigError(
                    f"region {number} is {list(box)}",
                    remedy="Set left, top, right and bottom as shares from 0 to 1, with left < right and top < bottom.",
                )
        if not self.regions or self.crop_size < 8:
            raise ConfigError(
                f"there are {len(self.regions)} regions, and crop_size is {self.crop_size}",
                remedy="Set at least one region and a crop_size of at least 8.",
            )
        if min(self.local_heads, self.heads) < 1:
            raise ConfigError(
                f"local_heads and heads are {self.local_heads} and {self.heads}", remedy="Use at least 1 of each."
            )
        if self.local_width < 1 or self.local_width % (4 * self.local_heads):
            raise ConfigError(
                f"local_width is {self.local_width}, not a multiple of 4 x {self.local_heads} heads",
                remedy="Set a multiple of 4 times the number of heads.",
            )


class Attention(nn.Module):
    """Multi-head attention with one linear layer each for queries, keys, values and output."""

    def __init__(self, width: int, heads: int) -> None:
        """Create the layers; `heads` must divide `width`."""
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        # Start with equal query and key weights, so that a token attends most to tokens that resemble it. With
        # independent weights, all tokens would start as nearly the same mean of the context, because the first
        # attention layer has no residual connection.
        self.key.load_state_dict(self.query.state_dict())

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Attend from queries (B, N, C) to a context (B, M, C); return (B, N, C)."""
        projected = (self.query(queries), self.key(context), self.value(context))
        query, key, value = (states.unflatten(-1, (self.heads, -1)).transpose(1, 2) for states in projected)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class LocalClueAggregator(nn.Module):
    """Encodes each crop of the face as one vector, and applies self-attention across the crops.

    Args:
        settings: Regions and sizes.
        token_width: Width of F'_local: the width of the encoder's features.
        language_width: Width of F_local: the width of the language model's embeddings.
    """

    def __init__(self, settings: FEALLMSettings, token_width: int, language_width: int) -> None:
        super().__init__()
        width = settings.local_width
        self.regions, self.crop_size = tuple(settings.regions), settings.crop_size
        self.blocks = nn.ModuleList(_conv_block(width) for _ in self.regions)
        self.region_embedding = nn.Parameter(torch.zeros(len(self.regions), width))
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, settings.local_heads)
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
        attended = local + self.attention(local, local)  # F_attn
        return self.tokens(attended), self.summary(attended.flatten(1)).unsqueeze(1)


class MultiPerspectiveProjector(nn.Module):
    """Maps the encoder's features to image tokens, from the perspectives of its earlier blocks and of the local clues.

    Args:
        width: C, the width of the encoder's last block.
        block_widths: Widths of the earlier blocks F_1 .. F_{L-1}; a linear layer converts blocks of other widths to C.
        language_width: H, the width of the language model's embeddings.
        heads: Number of attention heads; it must divide `width`.
    """

    def __init__(self, width: int, block_widths: Sequence[int], language_width: int, heads: int = 8) -> None:
        super().__init__()
        self.resize = nn.ModuleList(
            nn.Identity() if block == width else nn.Linear(block, width) for block in block_widths
        )
        self.block_norms = nn.ModuleList(nn.LayerNorm(width) for _ in block_widths)
        self.block_embedding = nn.Parameter(torch.zeros(len(block_widths), width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.blocks_attention = Attention(width, heads)
        self.local_attention = Attention(width, heads)
        self.self_attention = Attention(width, heads)
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
        # No residual: the tokens are mixtures of the earlier blocks; the last block only provides the queries.
        tokens = self.blocks_attention(self.norms[0](last), blocks)
        tokens = tokens + self.local_attention(self.norms[2](tokens), self.norms[1](local))
        normed = self.norms[3](tokens)
        tokens = tokens + self.self_attention(normed, normed)
        return self.mlp(self.norms[4](tokens))


class FEALLMProjector(nn.Module):
    """The local clue aggregator and the multi-perspective projector, in float32.

    It has the same interface as `explllm.models.vision.Projector`, which ExpLLM uses instead.
    """

    reads_earlier_blocks = True
    """Whether `forward` needs the features of the encoder's earlier blocks."""
    extra_tokens = 1
    """Number of tokens in addition to the encoder's image tokens: F_local."""

    def __init__(self, width_in: int, earlier_widths: Sequence[int], width_out: int, settings: FEALLMSettings) -> None:
        """Create both modules.

        Args:
            width_in: Width C of the encoder's features.
            earlier_widths: Widths of the earlier blocks.
            width_out: Width H of the language model's embeddings.
            settings: Regions and sizes.

        Raises:
            ConfigError: If the number of heads does not divide the encoder's width.
        """
        super().__init__()
        if width_in % settings.heads:
            raise ConfigError(
                f"{settings.heads} attention heads do not divide the feature width {width_in}",
                remedy="Set `network.feallm.heads` to a divisor of the width.",
            )
        self.local_clues = LocalClueAggregator(settings, width_in, width_out)
        self.perspectives = MultiPerspectiveProjector(width_in, earlier_widths, width_out, settings.heads)

    def forward(self, features: torch.Tensor, earlier: Sequence[torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """Map features and the image to embeddings of the language model.

        Args:
            features: F_L (B, N, C).
            earlier: F_1 .. F_{L-1}, each (B, N_l, C_l).
            pixels: (B, 3, H, W), the encoder's input.

        Returns:
            (B, N + 1, H): the image tokens, and F_local after them.
        """
        dtype = self.local_clues.region_embedding.dtype
        local, summary = self.local_clues(pixels.to(dtype))
        tokens = self.perspectives(features.to(dtype), [block.to(dtype) for block in earlier], local)
        return torch.cat([tokens, summary.to(tokens.dtype)], dim=1)


def _conv_block(width: int) -> nn.Sequential:
    """Three strided convolutions and one linear layer: (B, 3, S, S) to (B, width)."""
    widths = (3, width // 4, width // 2, width)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
    # A mean over the whole crop would lose the position of a clue in the crop.
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, width))
