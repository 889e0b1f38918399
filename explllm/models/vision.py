"""Any Hugging Face vision encoder as a source of image tokens."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from explllm.core.errors import ConfigError


class VisionShape(NamedTuple):
    """What an encoder makes of one image."""

    tokens: int
    """Image tokens."""
    width: int
    """Features of each token."""
    unused: frozenset[str]
    """Names of parameters that have no part in the features (pooling heads, mask tokens): they never train."""


def vision_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the vision tower's own configuration where a name stands for a two-tower model such as CLIP or SigLIP."""
    part = getattr(config, "vision_config", None)
    return config if part is None else part


def image_features(encoder: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Encode images as token features: the last hidden state without class and register tokens.

    For DINOv2 that is after the final layer norm (paper, Section III-C-1: 256 patch tokens at 224 pixels).

    Args:
        encoder: A Hugging Face vision model.
        pixel_values: (B, 3, H, W).

    Returns:
        (B, N, C).
    """
    features: torch.Tensor = encoder(pixel_values=pixel_values).last_hidden_state
    if features.ndim == 4:  # convolutional encoders: (B, C, H', W')
        return features.flatten(2).transpose(1, 2)
    patch = getattr(encoder.config, "patch_size", None)
    if patch is None:
        return features
    down, across = (patch, patch) if isinstance(patch, int) else patch
    patches = (pixel_values.shape[-2] // down) * (pixel_values.shape[-1] // across)
    return features[:, -patches:]  # class and register tokens come first


def vision_shape(config: PreTrainedConfig, image_size: int) -> VisionShape:
    """Find out by one pass on the meta device, which needs no weights, what an encoder makes of one image.

    Args:
        config: The encoder's configuration.
        image_size: Height and width in pixels.

    Returns:
        Tokens, width, and the parameters that the features do not depend on.

    Raises:
        ConfigError: If the encoder does not take an image of that size.
    """
    try:
        with torch.device("meta"):
            encoder: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
            features = image_features(encoder, torch.zeros(1, 3, image_size, image_size))
        features.sum().backward()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"the encoder {config.model_type} takes no images of {image_size} pixels: {str(error).splitlines()[0]}",
            remedy="Set another image size, or another encoder.",
        ) from error
    unused = frozenset(name for name, weight in encoder.named_parameters() if weight.grad is None)
    return VisionShape(features.shape[1], features.shape[2], unused)
