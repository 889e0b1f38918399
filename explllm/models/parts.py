"""How each part of a model is trained, and which weights the model's folder and checkpoints must contain."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from explllm.core.errors import CheckpointError
from explllm.models.configuration import Train
from explllm.models.lora import is_lora

Model = TypeVar("Model", bound="MultiPartModel")
Value = TypeVar("Value")


class Part(NamedTuple):
    """One part of a model, such as the vision encoder."""

    module: nn.Module
    train: Train
    """How the part is trained: ``frozen``, ``lora`` or ``full``."""
    base: str | None
    """Hugging Face name or folder of its base weights; None if the model's weights file contains all of its weights."""


class MultiPartModel(nn.Module):
    """A model of named parts, each of which is frozen, trained with LoRA or trained in full."""

    entry_points: ClassVar[tuple[str, ...]] = ()
    """Methods besides `forward` that compute with the model's weights; see `explllm.training.strategies.shard`."""

    def parts(self) -> Mapping[Any, Part]:
        """Return the parts by name. Each name is the attribute that holds the module."""
        raise TypeError(f"{type(self).__name__} must define parts()")

    def unused_weights(self, part: str) -> frozenset[str]:
        """Return the names of a part's parameters that do not affect its output; they are never trained."""
        return frozenset()

    def freeze(self, convert: bool = True) -> None:
        """Set `requires_grad` of every parameter according to the `train` field of its part.

        Args:
            convert: Convert trainable weights to float32.
        """
        for name, (module, train, _) in self.parts().items():
            unused = self.unused_weights(name) if train != "frozen" else frozenset()
            for key, weight in module.named_parameters():
                used = key not in unused and f"{key.partition('.lora_')[0]}.weight" not in unused
                weight.requires_grad_(used and (train == "full" or (train == "lora" and is_lora(key))))
                if weight.requires_grad and convert:
                    weight.data = weight.data.to(torch.float32)

    def trainable_counts(self) -> dict[Any, int]:
        """Return the number of trainable weights in each part."""
        return {
            name: sum(weight.numel() for weight in part.module.parameters() if weight.requires_grad)
            for name, part in self.parts().items()
        }

    def train(self: Model, mode: bool = True) -> Model:
        """Switch dropout and batch statistics on or off. Frozen parts stay in evaluation mode."""
        super().train(mode)
        for module, train, _ in self.parts().values():
            if train == "frozen":
                module.eval()
        return self

    def weights_to_save(self, parts: Mapping[Any, Part] | None = None) -> dict[str, torch.Tensor]:
        """Return the weights that no base contains: LoRA, parts trained in full, and parts without a base.

        Args:
            parts: Parts to use instead of `parts()`, for a folder saved with a different base or training mode.

        Returns:
            Weights and buffers by name; of tied weights, only the first.
        """
        weights: dict[str, torch.Tensor] = {}
        visited: set[int] = set()
        for name, (module, train, base) in (parts or self.parts()).items():
            for key, value in module.state_dict(prefix=f"{name}.", keep_vars=True).items():
                needed = base is None or train == "full" or (train == "lora" and is_lora(key))
                if needed and id(value) not in visited:
                    weights[key] = value.detach()
                visited.add(id(value))
        return weights

    def parts_with_own_base(self, names: Iterable[str]) -> set[str]:
        """Return the names of frozen or LoRA-trained parts whose base weights are among the saved weights.

        An earlier stage trained these base weights, so they differ from those that `Part.base` names.

        Args:
            names: Names of the saved weights.
        """
        saved = {name.partition(".")[0] for name in names if not is_lora(name)}
        return {name for name, part in self.parts().items() if part.base and part.train != "full" and name in saved}

    def check_state_dict(self, weights: Mapping[str, torch.Tensor], where: str) -> None:
        """Check that weights contain everything in `weights_to_save`, and nothing that does not fit the model.

        Args:
            weights: Weights and buffers by name.
            where: The file of the weights, for the error message.

        Raises:
            CheckpointError: If a weight is missing, unexpected, or of another shape. The message names the first.
        """
        current = self.state_dict()
        shapes = {name: tuple(value.shape) for name, value in current.items()}
        problems = {
            "missing": [name for name in self.weights_to_save() if name not in weights],
            "unexpected": [name for name in weights if name not in shapes],
            "of another shape": [name for name, value in weights.items() if tuple(value.shape) != shapes.get(name)],
        }
        for problem, names in problems.items():
            if not names:
                continue
            detail = ""
            if problem == "of another shape":
                detail = f" {tuple(weights[names[0]].shape)}, not {shapes[names[0]]}"
            raise CheckpointError(
                f"the weights do not fit the model: {len(names)} {problem}, first {names[0]}{detail}",
                where=where,
                remedy="Use the configuration that the weights were trained with.",
            )


def list_modules(model: nn.Module) -> list[nn.Module]:
    """List a module and all modules in it, a shared one once for each use, faster than ``modules()``.

    For a small face, each pass over ``modules()`` would take 1% of the time.
    """
    found = [model]
    for module in found:  # the list grows
        found += [child for child in module._modules.values() if child is not None]
    return found


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode and disable gradients inside the context.

    Each module's mode is restored separately, because a part may be in a different mode than the model.
    """
    training = [module for module in list_modules(model) if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def checkpoint_in_evaluation_mode(part: nn.Module) -> None:
    """Make gradient checkpointing take effect in the layers of a frozen part, in place.

    transformers checkpoints only layers in training mode. A frozen part is in evaluation mode, but gradients flow
    through it to the parts before it, so its layers would otherwise keep all activations. This function puts such a
    layer in training mode until the checkpointing function calls it; the computation itself runs in evaluation mode,
    without dropout.

    Args:
        part: A Hugging Face model, in evaluation mode, whose gradient checkpointing is enabled.
    """
    layers: list[Any] = [module for module in part.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        if layer.gradient_checkpointing:
            if not isinstance(layer._gradient_checkpointing_func, _InEvaluationMode):
                layer._gradient_checkpointing_func = _InEvaluationMode(layer, layer._gradient_checkpointing_func)
            layer.training = True  # this module only: its submodules stay in evaluation mode


class _InEvaluationMode:
    """A checkpointing function that runs its layer in evaluation mode."""

    def __init__(self, layer: nn.Module, checkpoint: Callable[..., Any]) -> None:
        self.layer, self.checkpoint = layer, checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.checkpoint(partial(self._run, function), *args)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        training, self.layer.training = self.layer.training, False
        try:
            return function(*args)
        finally:
            self.layer.training = training


# transformers 5.18 renamed the attention layers of DINOv2.
_RENAMED = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
)


def remap_keys(weights: Mapping[str, Value], names: Container[str]) -> dict[str, Value]:
    """Rename weights to the names that the installed release of transformers uses.

    Args:
        weights: Weights, or anything else by the name of a weight, from any release.
        names: All names in the model.

    Returns:
        The weights by new name. A weight without a match in the model keeps its name.
    """
    renamed: dict[str, Value] = {}
    for name, value in weights.items():
        candidates = [name]
        if name not in names:
            for newer, older in _RENAMED:
                candidates += [name.replace(newer, older), name.replace(older, newer)]
        renamed[next((candidate for candidate in candidates if candidate in names), name)] = value
    return renamed
