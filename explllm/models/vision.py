"""From pixels to image tokens: any Hugging Face vision encoder, stochastic depth, projector, action unit head.

Shape legend:
    B batch, H and W image height and width, N image tokens, C width of the encoder, D width of the language model or
    of a unit in the head, U action units (24), K labels
"""

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from explllm.core.action_units import FEAFA
from explllm.core.errors import ConfigError

Pooling = Literal["none", "2x2"]
"""Pooling of image tokens: none, or the mean of each square of four."""

_INITIAL_BIAS = -2.0
"""Initial bias of the head before the sigmoid, which maps it to 0.12: most units are inactive on most faces."""


class VisionShape(NamedTuple):
    """The output of a vision encoder for one image."""

    tokens: int
    """Number of image tokens N."""
    width: int
    """Number of features C per token."""
    unused: frozenset[str]
    """Names of parameters that do not affect the features (pooling heads, mask tokens). They are never trained."""
    earlier_widths: tuple[int, ...]
    """Number of features per token in each block before the selected one; empty unless requested."""


def vision_tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the vision configuration of a two-tower model such as CLIP or SigLIP; return others unchanged."""
    part = getattr(config, "vision_config", None)
    return config if part is None else part


def image_features(
    encoder: nn.Module, pixel_values: torch.Tensor, layer: int = -1, pooling: Pooling = "none"
) -> torch.Tensor:
    """Encode images as token features, without class and register tokens.

    Args:
        encoder: A Hugging Face vision model. Position embeddings are interpolated if the image size differs from the
            encoder's.
        pixel_values: (B, 3, H, W).
        layer: -1 for the last hidden state, which for DINOv2 follows the final layer norm (paper, Section III-C-1: 256
            patch tokens at 224 pixels); otherwise an index of the hidden states, such as -2 (LLaVA).
        pooling: ``2x2`` averages each square of four tokens.

    Returns:
        (B, N, C).
    """
    return block_features(encoder, pixel_values, layer, pooling)[-1]


def block_features(
    encoder: nn.Module,
    pixel_values: torch.Tensor,
    layer: int = -1,
    pooling: Pooling = "none",
    with_earlier: bool = False,
) -> list[torch.Tensor]:
    """Encode images as token features of one block and, if requested, of all blocks before it.

    Args:
        encoder: As for `image_features`.
        pixel_values: (B, 3, H, W).
        layer: As for `image_features`.
        pooling: As for `image_features`; it applies to the selected block only.
        with_earlier: Also return the blocks before the selected one. Larger feature maps of convolutional encoders are
            average-pooled to the selected block's height and width.

    Returns:
        Features (B, N_l, C_l) in the order of the blocks; the last entry is the result of `image_features`.
    """
    options: dict[str, bool] = {}
    size = getattr(encoder.config, "image_size", None)
    supported = inspect.signature(encoder.forward).parameters
    if "interpolate_pos_encoding" in supported and size not in (pixel_values.shape[-1], list(pixel_values.shape[-2:])):
        options["interpolate_pos_encoding"] = True
    if layer != -1 or with_earlier:
        options["output_hidden_states"] = True
    output = encoder(pixel_values=pixel_values, **options)
    features: torch.Tensor = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    # The first hidden state is the input of the first block.
    earlier = list(output.hidden_states[1:layer]) if with_earlier else []
    patch = getattr(encoder.config, "patch_size", None)
    if features.ndim == 4:  # convolutional encoders return a feature map (B, C, H', W')
        grid = features.shape[-2:]
        maps = [*(functional.adaptive_avg_pool2d(one, (grid[0], grid[1])) for one in earlier), features]
        blocks = [one.flatten(2).transpose(1, 2) for one in maps]
    elif patch is None:
        grid = torch.Size((math.isqrt(features.shape[1]),) * 2)
        blocks = [*earlier, features]
    else:
        height, width = (patch, patch) if isinstance(patch, int) else patch
        grid = torch.Size((pixel_values.shape[-2] // height, pixel_values.shape[-1] // width))
        blocks = [one[:, -grid.numel() :] for one in (*earlier, features)]  # class and register tokens come first
    if pooling == "2x2":
        last = blocks[-1].transpose(1, 2).unflatten(2, grid)
        blocks[-1] = functional.avg_pool2d(last, 2, ceil_mode=True).flatten(2).transpose(1, 2)
    return blocks


def mirror_grid(features: torch.Tensor) -> torch.Tensor:
    """Mirror the features (B, N, C) of square images from left to right.

    Raises:
        ConfigError: If the tokens do not form a square grid.
    """
    return _square_grid(features).flip(2).flatten(1, 2)


def pool_grid(features: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Pool the features (B, N, C) of square images as `image_features` does."""
    if pooling == "none":
        return features
    grid = _square_grid(features).permute(0, 3, 1, 2)
    return functional.avg_pool2d(grid, 2, ceil_mode=True).flatten(2).transpose(1, 2)


def _square_grid(features: torch.Tensor) -> torch.Tensor:
    side = math.isqrt(features.shape[1])
    if side**2 != features.shape[1]:
        raise ConfigError(
            f"average_flipped requires a square grid of image tokens, got {features.shape[1]} tokens",
            remedy="Set average_flipped to false, or choose another encoder.",
        )
    return features.unflatten(1, (side, side))


def vision_shape(
    config: PreTrainedConfig,
    image_size: int,
    layer: int = -1,
    pooling: Pooling = "none",
    with_earlier: bool = False,
) -> VisionShape:
    """Run an encoder on the meta device, without weights, to find the shape of its features.

    DINOv2-L takes about a second, and several parts of a model need its shape, so the process keeps each result.

    Args:
        config: The encoder's configuration.
        image_size: Height and width in pixels.
        layer: As for `image_features`.
        pooling: As for `image_features`.
        with_earlier: As for `block_features`.

    Returns:
        Number of tokens, their width, the unused parameters, and the widths of earlier blocks.

    Raises:
        ConfigError: If the encoder cannot process an image of this size, or has no such layer.
    """
    config = copy.deepcopy(config)  # building the encoder sets its data type
    config.dtype = torch.float32
    key = (type(config), config.to_json_string(use_diff=False), image_size, layer, pooling, with_earlier)
    if key not in _shapes:
        _shapes[key] = _find_shape(config, image_size, layer, pooling, with_earlier)
    return _shapes[key]


_shapes: dict[tuple[object, ...], VisionShape] = {}


def _find_shape(
    config: PreTrainedConfig, image_size: int, layer: int, pooling: Pooling, with_earlier: bool
) -> VisionShape:
    try:
        with torch.device("meta"):
            encoder: PreTrainedModel = AutoModel.from_config(config)
            pixels = torch.zeros(1, 3, image_size, image_size)
            *earlier, features = block_features(encoder, pixels, layer, pooling, with_earlier)
        features.sum().backward()
    except (IndexError, TypeError, AttributeError) as error:
        if layer == -1 and not with_earlier:
            raise _size_error(config, image_size, error) from error
        raise ConfigError(
            f"the encoder {config.model_type} has no hidden state {layer}", remedy="Set another vision_feature_layer."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise _size_error(config, image_size, error) from error
    unused = frozenset(name for name, weight in encoder.named_parameters() if weight.grad is None)
    return VisionShape(features.shape[1], features.shape[2], unused, tuple(block.shape[2] for block in earlier))


def _size_error(config: PreTrainedConfig, image_size: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"the encoder {config.model_type} does not accept images of {image_size} pixels: {str(error).splitlines()[0]}",
        remedy="Set another image size, or another encoder.",
    )


class Projector(nn.Sequential):
    """Linear layers with GELU between them (paper, Section III-C-1: two layers), in float32.

    ExpLLM uses it to map image features to the language model; FEALLM uses `explllm.models.feallm.FEALLMProjector`.
    """

    reads_earlier_blocks = False
    """Whether `forward` needs the features of the encoder's earlier blocks."""

    def __init__(self, width_in: int, width_out: int, layers: int = 2) -> None:
        """Create the layers.

        Args:
            width_in: Width C of the encoder's features.
            width_out: Width D of the language model's embeddings, also used between the layers.
            layers: Number of linear layers.
        """
        modules: list[nn.Module] = [nn.Linear(width_in, width_out)]
        for _ in range(layers - 1):
            modules += [nn.GELU(), nn.Linear(width_out, width_out)]
        super().__init__(*modules)

    def forward(  # pyrefly: ignore[bad-override]
        self, features: torch.Tensor, earlier: Sequence[torch.Tensor] = (), pixels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map features to embeddings of the language model.

        Args:
            features: (B, N, C).
            earlier: Features of earlier blocks; not used.
            pixels: (B, 3, H, W); not used.

        Returns:
            (B, N, D).
        """
        return super().forward(features.to(next(self.parameters()).dtype))


class UnitHead(nn.Module):
    """Attention over the image tokens with one learned query per unit, then one intensity per unit.

    A mean over all tokens would lose the position, which distinguishes a left brow from a right one.
    """

    def __init__(self, tokens: int, width_in: int, width: int, units: int = len(FEAFA)) -> None:
        """Create the head.

        Args:
            tokens: Number of image tokens N.
            width_in: Width C of the image tokens.
            width: Width D of each unit's features.
            units: Number of action units U.
        """
        super().__init__()
        scale = width**-0.5
        self.norm = nn.LayerNorm(width_in)
        self.key, self.value = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.query = nn.Parameter(torch.randn(units, width) * scale)
        # A learned attention bias for each unit and image token, which does not depend on the features.
        self.place = nn.Parameter(torch.zeros(units, tokens))
        self.mix = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.weight = nn.Parameter(torch.randn(units, width) * scale)
        self.bias = nn.Parameter(torch.full((units,), _INITIAL_BIAS))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, N, C) of any float type to intensities (B, U) in [0, 1], float32."""
        features = self.norm(features.to(self.bias.dtype))
        attention = (self.key(features) @ self.query.T).transpose(1, 2) + self.place  # (B, U, N)
        attended = attention.softmax(-1) @ self.value(features)  # (B, U, D)
        attended = attended + self.mix(attended)
        return ((attended * self.weight).sum(-1) + self.bias).sigmoid()


class ExpressionHead(nn.Module):
    """Classifies the mean of the image tokens, for an auxiliary loss in training."""

    def __init__(self, width: int, labels: int) -> None:
        """Create the layers for tokens of width D and K labels."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.label = nn.Linear(width, labels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map image tokens (B, N, D) of any float type to logits (B, K), float32."""
        return self.label(self.norm(tokens.to(self.label.weight.dtype).mean(1))).float()


class ActionUnitTokens(nn.Module):
    """Estimates the action units of a face and presents each of them to the language model as a token.

    Each token is the sum of a unit embedding and an intensity embedding, which is interpolated between `LEVELS`
    embeddings. The language model finds a unit by its position and reads its intensity; with image tokens alone, it
    would have to learn to locate each unit and to estimate its intensity. Only the auxiliary loss trains the estimates,
    so they remain intensities. These tokens are our addition: the paper has only image tokens.
    """

    mirror: torch.Tensor
    count = len(FEAFA)
    """Number of tokens."""
    LEVELS = 11
    """Number of intensity embeddings, for the intensities 0, 0.1, ..., 1."""

    def __init__(self, tokens: int, width_in: int, width: int, width_out: int) -> None:
        """Create the head and the embeddings.

        Args:
            tokens: Number of the encoder's image tokens N.
            width_in: Width C of the encoder's features.
            width: Width of each unit's features in the head.
            width_out: Width D of the language model's embeddings.
        """
        super().__init__()
        self.head = UnitHead(tokens, width_in, width, self.count)
        self.unit = nn.Parameter(torch.randn(self.count, width_out) * width_out**-0.5)
        self.level = nn.Parameter(torch.randn(self.LEVELS, width_out) * width_out**-0.5)
        self.register_buffer("mirror", torch.tensor([unit.mirror for unit in FEAFA]), persistent=False)

    def forward(
        self, features: torch.Tensor, mirrored: torch.Tensor | None = None, measured: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimate action units and create their tokens.

        Args:
            features: (B, N, C).
            mirrored: Features of the mirror images; if given, the estimates are averaged over both.
            measured: (B, U) intensities that replace the estimates in the tokens; NaN keeps the estimate.

        Returns:
            Estimated intensities (B, U) in [0, 1] and tokens (B, U, D), both float32.
        """
        intensities = self.head(features)
        if mirrored is not None:
            intensities = (intensities + self.head(mirrored)[:, self.mirror]) / 2
        shown = intensities.detach()
        if measured is not None:
            shown = torch.where(measured.isnan(), shown, measured.to(shown.dtype))
        position = shown * (self.LEVELS - 1)
        steps = torch.arange(self.LEVELS, device=position.device)
        weights = (1 - (position.unsqueeze(-1) - steps).abs()).clamp(min=0)  # (B, U, LEVELS): linear interpolation
        return intensities, self.unit + weights @ self.level


class BatchDropPath(nn.Module):
    """Stochastic depth as in DINOv2's training: drops the residuals of some samples and scales up those of the others.

    Like DINOv2, it keeps at least one sample, so it has no effect with one sample per micro-batch, as in the authors'
    scripts, which set a rate of 0.4.
    """

    def __init__(self, rate: float) -> None:
        """Set the share of samples to drop, in [0, 1)."""
        super().__init__()
        self.rate = rate

    def forward(self, residual: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to (B, ...); the identity in evaluation mode."""
        samples = len(residual)
        active = max(int(samples * (1 - self.rate)), 1)
        if not self.training or active == samples:
            return residual
        factors = residual.new_zeros(samples)
        factors[torch.randperm(samples, device=residual.device)[:active]] = samples / active
        return residual * factors.view(-1, *[1] * (residual.ndim - 1))


def add_drop_path(encoder: nn.Module, rate: float) -> None:
    """Replace the stochastic depth in every block of an encoder with `BatchDropPath`, in place.

    Args:
        encoder: A Hugging Face vision model whose blocks have a module ``drop_path``, such as DINOv2.
        rate: Share of samples for which each residual branch is dropped.

    Raises:
        ConfigError: If the encoder has no such blocks, or the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"the drop path rate is {rate}", remedy="Set a rate of at least 0 and below 1.")
    blocks = [module for module in encoder.modules() if hasattr(module, "drop_path")]
    if not blocks:
        raise ConfigError(
            f"{type(encoder).__name__} has no blocks with stochastic depth", remedy="Set vision_drop_path to 0."
        )
    for block in blocks:
        block.drop_path = BatchDropPath(rate).train(block.training)
