"""AdamW with linear warm-up and cosine decay (paper, Section IV-A)."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_cosine_schedule_with_warmup

from explllm.core.errors import ConfigError


@dataclass
class OptimizationSettings:
    """Settings of AdamW and its learning rate schedule."""

    learning_rate: float = 5e-4
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices and kernels; biases and norms are not decayed."""
    warmup_steps: int | None = None
    """Optimizer steps of linear warm-up from 0."""
    warmup_ratio: float | None = None
    """Warm-up as a share of all optimizer steps. Set `warmup_steps`, `warmup_ratio` or neither (no warm-up)."""
    beta1: float = 0.9
    """Decay rate of the running mean of gradients."""
    beta2: float = 0.999
    """Decay rate of the running mean of squared gradients."""
    epsilon: float = 1e-8
    """Constant added to the denominator for numerical stability."""

    def __post_init__(self) -> None:
        """Check that the warm-up is set only once."""
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ConfigError("both `warmup_steps` and `warmup_ratio` are set", remedy="Set only one of them.")


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: OptimizationSettings, total_steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimizer and its schedule.

    Args:
        parameters: All weights; frozen ones are skipped.
        settings: Learning rate, weight decay and warm-up.
        total_steps: Optimizer steps of the whole run, after which the learning rate is 0.

    Returns:
        The optimizer, and the schedule, which advances once per optimizer step.

    Raises:
        ConfigError: If every weight is frozen.
    """
    trainable = [weight for weight in parameters if weight.requires_grad]
    if not trainable:
        raise ConfigError("every part is frozen", remedy="Set a part's `train` to `lora` or `full`.")
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in trainable if w.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [w for w in trainable if w.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
    )
    warmup = warmup_steps(settings, total_steps)
    if warmup >= total_steps > 0:
        warnings.warn(
            f"the warm-up of {warmup} steps is as long as the whole run of {total_steps}: "
            f"the learning rate never reaches {settings.learning_rate}",
            stacklevel=2,
        )
    return optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, total_steps)


def warmup_steps(settings: OptimizationSettings, total_steps: int) -> int:
    """Return the number of warm-up steps; a ratio is rounded up, as in transformers' Trainer."""
    if settings.warmup_ratio is not None:
        return math.ceil(settings.warmup_ratio * total_steps)
    return settings.warmup_steps or 0
