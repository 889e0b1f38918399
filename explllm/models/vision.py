"""From pixels to image tokens: any Hugging Face vision encoder, its stochastic depth, and the projector.

Shape legend:
    B batch, H and W image height and width, N image tokens, C width of the encoder, D width of the language model
"""

import inspect
import math
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from explllm.core.errors import ConfigError

Pooling = Literal["none", "2x2"]
"""Pooling of image tokens: none, or the mean of each square of four."""


class VisionShape(NamedTuple):
    """The output of a vision encoder for one image."""

    tokens: int
    """Number of image tokens N."""
    width: int
    """Features C of each token."""
    unused: frozenset[str]
    """Names of parameters that do not affect the features (pooling heads, mask tokens). They never train."""


def vision_tower_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the vision configuration of a two-tower model such as CLIP or SigLIP, and any other unchanged."""
    part = getattr(config, "vision_config", None)
    return config if part is None else part


def image_features(
    encoder: nn.Module, pixel_values: torch.Tensor, layer: int = -1, pooling: Pooling = "none"
) -> torch.Tensor:
    """Encode images as token features, without class and register tokens.

    Args:
        encoder: A Hugging Face vision model. Position embeddings are interpolated if its size differs from the image's.
        pixel_values: (B, 3, H, W).
        layer: -1 for the last hidden state, which for DINOv2 follows the final layer norm (paper, Section III-C-1: 256
            patch tokens at 224 pixels); otherwise an index of the hidden states, such as -2 (LLaVA).
        pooling: ``2x2`` averages each square of four tokens.

    Returns:
        (B, N, C).
    """
    options: dict[str, bool] = {}
    size = getattr(encoder.config, "image_size", None)
    supported = inspect.signature(encoder.forward).parameters
    if "interpolate_pos_encoding" in supported and size not in (pixel_values.shape[-1], list(pixel_values.shape[-2:])):
        options["interpolate_pos_encoding"] = True
    if layer != -1:
        options["output_hidden_states"] = True
    output = encoder(pixel_values=pixel_values, **options)
    features: torch.Tensor = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    patch = getattr(encoder.config, "patch_size", None)
    if features.ndim == 4:  # convolutional encoders return a feature map (B, C, H', W')
        grid = features.shape[-2:]
        features = features.flatten(2).transpose(1, 2)
    elif patch is None:
        grid = torch.Size((math.isqrt(features.shape[1]),) * 2)
    else:
        height, width = (patch, patch) if isinstance(patch, int) else patch
        grid = torch.Size((pixel_values.shape[-2] // height, pixel_values.shape[-1] // width))
        features = features[:, -grid.numel() :]  # class and register tokens come first
    if pooling == "2x2":
        maps = features.transpose(1, 2).unflatten(2, grid)
        features = functional.avg_pool2d(maps, 2, ceil_mode=True).flatten(2).transpose(1, 2)
    return features


def vision_shape(config: PreTrainedConfig, image_size: int, layer: int = -1, pooling: Pooling = "none") -> VisionShape:
    """Run an encoder on the meta device, without weights, to find the shape of its features.

    Args:
        config: The encoder's configuration.
        image_size: Height and width in pixels.
        layer: As for `image_features`.
        pooling: As for `image_features`.

    Returns:
        Number of tokens, their width, and the unused parameters.

    Raises:
        ConfigError: If the encoder cannot process an image of this size, or has no such layer.
    """
    try:
        with torch.device("meta"):
            encoder: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
            features = image_features(encoder, torch.zeros(1, 3, image_size, image_size), layer, pooling)
        features.sum().backward()
    except (IndexError, TypeError, AttributeError) as error:
        if layer == -1:
            raise _size_error(config, image_size, error) from error
        raise ConfigError(
            f"the encoder {config.model_type} has no hidden state {layer}", remedy="Set another vision_feature_layer."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise _size_error(config, image_size, error) from error
    unused = frozenset(name for name, weight in encoder.named_parameters() if weight.grad is None)
    return VisionShape(features.shape[1], features.shape[2], unused)


def _size_error(config: PreTrainedConfig, image_size: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"the encoder {config.model_type} takes no images of {image_size} pixels: {str(error).splitlines()[0]}",
        remedy="Set another image size, or another encoder.",
    )


class Projector(nn.Sequential):
    """Linear layers with GELU between them (paper, Section III-C-1: two layers), in float32."""

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

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, D)."""
        return super().forward(features.to(next(self.parameters()).dtype))


class BatchDropPath(nn.Module):
    """Stochastic depth as in DINOv2's training: drops the residual of some samples and scales up the others.

    DINOv2 keeps at least one sample, and so does this module. It has no effect with one sample per micro-batch, as in
    the authors' scripts, which set a rate of 0.4.
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
    """Replace the stochastic depth in every block of an encoder, in place.

    Args:
        encoder: A Hugging Face vision model whose blocks have a module ``drop_path``, such as DINOv2.
        rate: Share of samples whose residual a block drops.

    Raises:
        ConfigError: If the encoder has no such blocks, or the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise ConfigError(f"a drop path rate of {rate}", remedy="Set a rate of at least 0 and below 1.")
    blocks = [module for module in encoder.modules() if hasattr(module, "drop_path")]
    if not blocks:
        raise ConfigError(
            f"{type(encoder).__name__} has no blocks with stochastic depth", remedy="Set vision_drop_path to 0."
        )
    for block in blocks:
        block.drop_path = BatchDropPath(rate).train(block.training)
