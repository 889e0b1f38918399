"""LoRA in a part of the model, by peft."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from explllm.core.errors import ConfigError


@dataclass
class LoraSettings:
    """Low-rank adaptation of a part's linear layers; the defaults are the paper's (Section IV-A)."""

    r: int = 8
    """Rank of the update."""
    alpha: int = 16
    """The update is scaled by alpha / r."""
    dropout: float = 0.05
    """Dropout on the update's input, a probability."""
    targets: str = r".*\.(query|value|q_proj|v_proj)"
    """Regular expression that a layer's full name must match. The default finds query and value under all of
    transformers' spellings."""


def add_lora(part: nn.Module, settings: LoraSettings) -> None:
    """Put LoRA beside the matching layers of a part, in place, and freeze all else in it.

    The new weights are float32 whatever the part's own type (see DESIGN: float32 LoRA on a bfloat16 base).

    Args:
        part: A Hugging Face model.
        settings: Rank, scaling, dropout and target layers.

    Raises:
        ConfigError: If no layer matches.
    """
    if not any(re.fullmatch(settings.targets, name) for name, _ in part.named_modules()):
        raise ConfigError(
            f"no layer of {type(part).__name__} matches the LoRA targets {settings.targets!r}",
            remedy="Set `targets` to a pattern that fits its layers' names, or train the part `full` or `frozen`.",
        )
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=settings.targets
    )
    inject_adapter_in_model(config, part)
    for name, weight in part.named_parameters():
        if is_lora(name):
            weight.data = weight.data.to(torch.float32)


def is_lora(name: str) -> bool:
    """Tell whether a weight's name is that of a LoRA factor."""
    return ".lora_A." in name or ".lora_B." in name


def plain_state_dict(part: nn.Module, merge: bool) -> dict[str, torch.Tensor]:
    """Return a part's weights under the names that they have without LoRA.

    Args:
        part: A Hugging Face model, with or without LoRA.
        merge: Fold LoRA into the layers it stands beside: W + (alpha / r) B A, computed and kept in float32, as the
            update would be lost in bfloat16's rounding; else leave it out.

    Returns:
        Weights and buffers by name.
    """
    state = {
        name.replace(".base_layer.", "."): value for name, value in part.state_dict().items() if not is_lora(f".{name}")
    }
    for name, layer in part.named_modules():
        if merge and isinstance(layer, LoraLayer):
            wrapped: Any = layer  # peft types its layers as plain modules
            weight: torch.Tensor = wrapped.get_base_layer().weight.detach().float()
            for adapter in wrapped.active_adapters:
                weight = weight + wrapped.get_delta_weight(adapter).detach().float()
            state[f"{name}.weight"] = weight
    return state
