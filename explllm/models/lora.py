"""LoRA (Hu et al. 2021) and its variants DoRA and rsLoRA for a part of the model, using peft."""

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn

from explllm.core.errors import ConfigError

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


@dataclass
class LoraSettings:
    """Low-rank adaptation of a part's linear layers. The defaults are the paper's (Section IV-A)."""

    r: int = 8
    """Rank of the update."""
    alpha: int = 16
    """Scale: the update is multiplied by alpha / r."""
    use_rslora: bool = False
    """Multiply the update by alpha / sqrt(r) instead (rsLoRA, Kalajdzievski 2023), for high ranks."""
    use_dora: bool = False
    """Train the magnitude of each output's weight vector separately from its direction (DoRA, Liu et al. 2024)."""
    dropout: float = 0.05
    """Dropout probability on the update's input."""
    targets: str = r".*\.(query|value|q_proj|v_proj)"
    """Regular expression that a layer's full name must match. The default matches separate query and value projections
    under their usual names in transformers."""

    def __post_init__(self) -> None:
        """Check the rank, the dropout and the pattern."""
        if self.r < 1:
            raise ConfigError(f"the LoRA rank r is {self.r}", remedy="Use at least 1, or train the part `frozen`.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"the LoRA dropout is {self.dropout}", remedy="Use a probability of at least 0 and below 1."
            )
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(
                f"the LoRA targets {self.targets!r} are not a regular expression: {error}",
                remedy="Use a pattern that matches full names of layers.",
            ) from error


class FastDropout(nn.Dropout):
    """Dropout that draws four decisions from each random number on a CPU, where PyTorch's dropout took 5% of a step."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """In training, zero elements with probability `p`, rounded to 1/65536, and scale up the others."""
        if not self.training or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        count = input.numel()
        numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = (numbers[:count] >= min(round(self.p * 2**16), 2**16 - 1) - 2**15).view(input.shape)
        return input * kept.to(input.dtype).div_(1 - self.p)


def add_lora(part: nn.Module, settings: LoraSettings) -> None:
    """Add LoRA to the matching layers of a part, in place, and freeze its other weights.

    The LoRA weights are float32 even on a bfloat16 base, because bfloat16 would round away Adam's small updates.

    Args:
        part: A Hugging Face model.
        settings: Rank, scale, dropout and target layers.

    Raises:
        ConfigError: If no layer matches.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if not any(re.fullmatch(settings.targets, name) for name, _ in part.named_modules()):
        raise ConfigError(
            f"no layer of {type(part).__name__} matches the LoRA targets {settings.targets!r}",
            remedy="Set `targets` to a pattern for its layers' names, or train without LoRA (`full` or `frozen`).",
        )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
    )
    inject_adapter_in_model(config, part)
    for layer in part.modules():
        if is_lora_layer(layer) and settings.dropout:
            for name, dropout in layer.lora_dropout.items():
                layer.lora_dropout[name] = FastDropout(settings.dropout).train(dropout.training)
    for name, weight in part.named_parameters():
        if is_lora(name):
            weight.data = weight.data.to(torch.float32)


def is_lora(name: str) -> bool:
    """Return whether a weight's name denotes a LoRA factor or a DoRA magnitude."""
    return "lora_" in name


def is_lora_layer(layer: nn.Module) -> "TypeGuard[LoraLayer]":
    """Return whether a layer has LoRA, without importing peft. Models without LoRA then load faster."""
    return hasattr(layer, "lora_A")


def plain_state_dict(part: nn.Module, merge: bool) -> dict[str, torch.Tensor]:
    """Return a part's weights under the names they have without LoRA.

    Args:
        part: A Hugging Face model, with or without LoRA.
        merge: Merge LoRA into the base weights W: W + s B A, where s is alpha / r, or alpha / sqrt(r) for rsLoRA; for
            DoRA, scale the result to its magnitudes. Merged weights are float32: bfloat16 would round most of the
            update away. If false, LoRA is left out.

    Returns:
        Weights and buffers by name.
    """
    state = {name.replace(".base_layer.", "."): value for name, value in part.state_dict().items() if not is_lora(name)}
    for name, layer in part.named_modules():
        if merge and is_lora_layer(layer):
            state[f"{name}.weight"] = merged_weight(layer)
    return state


def merged_weight(layer: "LoraLayer") -> torch.Tensor:
    """Return the weight of a layer with LoRA merged, in float32."""
    adapted: Any = layer  # peft types its layers as plain modules
    weight: torch.Tensor = adapted.get_base_layer().weight.detach().float()
    for adapter in adapted.active_adapters:
        weight = weight + adapted.get_delta_weight(adapter).detach().float()
        if adapter in adapted.lora_magnitude_vector:
            magnitude = adapted.lora_magnitude_vector[adapter].weight.detach().float()
            weight = weight * (magnitude / weight.norm(dim=1)).unsqueeze(1)
    return weight


@torch.no_grad()
def reset_magnitudes(part: nn.Module, prefix: str, loaded: Container[str]) -> None:
    """Set DoRA's magnitudes to the norms of the current base weights, as in a new adapter.

    Args:
        part: A Hugging Face model, with or without LoRA.
        prefix: The part's name, the first component of the names in `loaded`.
        loaded: Names of the loaded weights; magnitudes among them are not changed.
    """
    for name, layer in part.named_modules():
        adapted: Any = layer
        for adapter, magnitude in getattr(adapted, "lora_magnitude_vector", {}).items():
            if f"{prefix}.{name}.lora_magnitude_vector.{adapter}.weight" not in loaded:
                from peft.utils.integrations import dequantize_module_weight

                magnitude.weight.copy_(dequantize_module_weight(adapted.get_base_layer()).float().norm(dim=1))
