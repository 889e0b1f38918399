"""A small convolutional face encoder that is trained from scratch.

Shape legend:
    B batch, H and W image height and width, C channels
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention


class ConvEncoderConfig(PreTrainedConfig):
    """Configuration of `ConvEncoder`."""

    model_type = "explllm_conv"

    num_channels: int = 3
    """Input channels: 3, or 1 to average the image's three channels (grayscale)."""
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    """Channels after each block. Each block halves height and width; see `pool_last`."""
    depths: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    """Number of convolutions in each block; all but the block's first have a residual connection."""
    pool_last: bool = True
    """Whether the last block halves height and width too."""
    dropout: float = 0.0
    """Probability that a whole channel of a block's output is zeroed in training."""


class ConvNorm(nn.Sequential):
    """A 3x3 convolution with batch normalization."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:  # pyrefly: ignore[bad-override-param-name]
        """Map (B, C, H, W) to (B, C', H, W)."""
        conv, norm = self
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        features = conv(features)
        if norm.training or torch.is_grad_enabled() or features.dtype != norm.weight.dtype:
            return cast(torch.Tensor, norm(features))
        # In inference, the normalization is a scale and a bias per channel, applied in place to avoid a second feature
        # map.
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        return torch.addcmul(bias.view(-1, 1, 1), features, scale.view(-1, 1, 1), out=features)


class ConvBlock(nn.Module):
    """Convolutions with batch normalization and ReLU, then max pooling by 2 (unless `pool` is false) and dropout."""

    def __init__(self, channels_in: int, channels: int, depth: int, dropout: float, pool: bool = True) -> None:
        super().__init__()
        self.stem = ConvNorm(channels_in, channels)
        self.residual = nn.ModuleList(ConvNorm(channels, channels) for _ in range(depth - 1))
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W) to (B, C', H/2, W/2), or to (B, C', H, W) without pooling."""
        features = self.stem(features)
        for layer in self.residual:
            features = features.relu_()
            features = layer(features).add_(features)
        # Max pooling and ReLU commute. After pooling, ReLU has only a quarter of the positions to process.
        return self.dropout(self.pool(features).relu_())


class ConvEncoder(PreTrainedModel):
    """Blocks of 3x3 convolutions; the last feature map is the sequence of image tokens."""

    config_class = ConvEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvEncoderConfig) -> None:
        super().__init__(config)
        widths = [config.num_channels, *config.hidden_sizes]
        self.blocks = nn.Sequential(
            *(
                ConvBlock(before, after, depth, config.dropout, config.pool_last or number < len(config.depths))
                for number, (before, after, depth) in enumerate(
                    zip(widths[:-1], widths[1:], config.depths, strict=True), start=1
                )
            )
        )
        # In the channels-last format, convolutions on a CPU take about half the time.
        self.blocks.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # He initialization for convolutions; PyTorch's default for the other layers.
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool = False, **_: Any
    ) -> BaseModelOutputWithNoAttention:
        """Encode images.

        Args:
            pixel_values: (B, 3, H, W). If H or W is not a multiple of 2 ** (number of blocks that pool), pooling
                drops the last row or column of a feature map.
            output_hidden_states: Also return the input and the output of every block.

        Returns:
            ``last_hidden_state`` (B, C, H', W'), and ``hidden_states`` if requested.
        """
        if self.config.num_channels == 1:
            pixel_values = pixel_values.mean(dim=1, keepdim=True)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if not output_hidden_states:
            return BaseModelOutputWithNoAttention(last_hidden_state=self.blocks(pixel_values))
        states = [pixel_values]
        for block in self.blocks:
            states.append(block(states[-1]))
        return BaseModelOutputWithNoAttention(last_hidden_state=states[-1], hidden_states=tuple(states))


AutoConfig.register(ConvEncoderConfig.model_type, ConvEncoderConfig, exist_ok=True)
AutoModel.register(ConvEncoderConfig, ConvEncoder, exist_ok=True)
