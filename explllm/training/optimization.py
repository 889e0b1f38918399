"""AdamW with linear warm-up and cosine decay (paper, Section IV-A)."""

import math
import re
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, SequentialLR

from explllm.core.errors import ConfigError


@dataclass
class OptimizationSettings:
    """Settings of AdamW and its learning rate schedule."""

    learning_rate: float = 5e-4
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices and kernels; biases, norms and scales are not decayed."""
    part_learning_rates: dict[str, float] | None = None
    """Peak learning rates of individual parts, by name (such as vision, projector or language); the others use
    `learning_rate`."""
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
        """Check the ranges, and that the warm-up is set only once."""
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}", remedy="Use a positive number.")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}", remedy="Use at least 0.")
        if low := [rate for rate in (self.part_learning_rates or {}).values() if not rate >= 0]:
            raise ConfigError(f"`part_learning_rates` has {low[0]}", remedy="Use 0 or more.")
        if not all(0 <= beta < 1 for beta in (self.beta1, self.beta2)):
            raise ConfigError(
                f"beta1 and beta2 are {self.beta1} and {self.beta2}", remedy="Use at least 0 and below 1."
            )
        if not self.epsilon > 0:
            raise ConfigError(f"epsilon is {self.epsilon}", remedy="Use a positive number.")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}", remedy="Use at least 0.")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio <= 1:
            raise ConfigError(f"warmup_ratio is {self.warmup_ratio}", remedy="Use a share from 0 to 1.")
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise ConfigError("both `warmup_steps` and `warmup_ratio` are set", remedy="Set only one of them.")


def build_optimizer(
    model: nn.Module, settings: OptimizationSettings, total_steps: int, first_phase: int = 0
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Build the optimizer and its schedule.

    Args:
        model: The model. Its frozen weights are skipped.
        settings: Learning rates, weight decay and warm-up.
        total_steps: Optimizer steps of the whole run, after which the learning rate is 0.
        first_phase: Steps after which the schedule starts again, with a second warm-up; 0 for a single schedule. With
            `warmup_ratio`, each warm-up is a share of its own phase.

    Returns:
        The optimizer, and the schedule, which advances once per optimizer step. There are two parameter groups
        (with and without weight decay) for `learning_rate` and two for each part with its own rate.

    Raises:
        ConfigError: If every weight is frozen, or a part with its own learning rate has no trainable weights.
    """
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not trainable:
        raise ConfigError("every part is frozen", remedy="Set a part's `train` to `lora` or `full`.")
    rates = settings.part_learning_rates or {}
    trained_parts = {name.split(".")[0] for name in trainable}
    if unknown := sorted(rates.keys() - trained_parts):
        raise ConfigError(
            f"`part_learning_rates` names {', '.join(unknown)}, which has no trainable weights",
            remedy=f"Use {', '.join(sorted(trained_parts))}.",
        )
    undecayed = undecayed_names(model)
    groups = []
    for parts, rate in [(trained_parts - rates.keys(), settings.learning_rate), *(({n}, r) for n, r in rates.items())]:
        for decay, chosen in ((settings.weight_decay, False), (0.0, True)):
            weights = [w for n, w in trainable.items() if n.split(".")[0] in parts and (n in undecayed) == chosen]
            groups.append({"params": weights, "weight_decay": decay, "lr": rate})
    optimizer = torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.epsilon
    )
    if 0 < first_phase < total_steps:
        phases: list[LRScheduler] = [
            _cosine_schedule(optimizer, warmup_steps(settings, steps), steps)
            for steps in (first_phase, total_steps - first_phase)
        ]
        return optimizer, SequentialLR(optimizer, phases, [first_phase])
    warmup = warmup_steps(settings, total_steps)
    if warmup >= total_steps > 0:
        warnings.warn(
            f"the warm-up of {warmup} steps is at least as long as the whole run of {total_steps}: "
            f"the learning rate never reaches {settings.learning_rate}",
            stacklevel=2,
        )
    return optimizer, _cosine_schedule(optimizer, warmup, total_steps)


def _cosine_schedule(optimizer: torch.optim.Optimizer, warmup: int, total_steps: int) -> LambdaLR:
    """Return the same schedule as transformers' `get_cosine_schedule_with_warmup`.

    Importing that function would take 2 s, because it also imports peft.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(1, total_steps - warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))

    return LambdaLR(optimizer, factor)


def warmup_steps(settings: OptimizationSettings, total_steps: int) -> int:
    """Return the number of warm-up steps; a ratio is rounded up, as in transformers' Trainer."""
    if settings.warmup_ratio is not None:
        return math.ceil(settings.warmup_ratio * total_steps)
    return settings.warmup_steps or 0


def undecayed_names(model: nn.Module) -> set[str]:
    """Return the names of biases and of the weights of norms and scales, which weight decay must not shrink.

    They are found by name and by their module's class, because a tensor may have a different number of dimensions under
    sharding strategies.
    """
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if "bias" in name or re.search("Norm|LayerScale|Dora", type(module).__name__)
    }
