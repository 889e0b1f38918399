"""A model's folder: configuration, weights as safetensors, tokenizer with its chat template.

Base weights of a named model are not copied unless requested: the configuration holds their name and revision.
"""

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel

from explllm.core.errors import CheckpointError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.models.configuration import ExpLLMConfig
from explllm.models.lora import plain_state_dict
from explllm.models.parts import remap_keys
from explllm.models.pretrained import load_language, load_vision

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM

WEIGHTS = "model.safetensors"


def save(
    model: "ExpLLM",
    folder: str | PathLike[str],
    include_base: bool = False,
    merge: bool = False,
    replace: bool = True,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model's folder atomically.

    Args:
        model: The model.
        folder: The folder to write.
        include_base: Copy frozen base weights too, into the subfolders ``vision`` and ``language``, which transformers
            can open alone. The folder then needs no other files.
        merge: Copy every part, with LoRA merged. Merged layers are saved in float32; loading them in another type
            rounds them.
        replace: Replace an existing model folder.
        weights: The weights to save instead of the model's own: those of a checkpoint, or gathered from several
            devices.

    Raises:
        CheckpointError: If the path exists and may not be replaced, or the base weights to copy are in 4-bit.
    """
    target = Path(folder)
    check_target(target, replace)
    config = ExpLLMConfig.from_dict(model.config.to_dict())
    copied: dict[str, PreTrainedModel] = {}
    if merge or (include_base and config.vision_train != "full"):
        copied["vision"] = model.vision
    if merge or (include_base and config.text_train != "full"):
        copied["language"] = model.language
    if merge:
        config.vision_train = config.text_train = "frozen"
        config.vision_lora = config.text_lora = None
    if merge or include_base:
        config.vision_base = "./vision" if "vision" in copied else None
        config.text_base = "./language" if "language" in copied else None
        config.vision_revision = config.text_revision = None
    if any(getattr(part, "is_quantized", False) for part in copied.values()):
        raise CheckpointError(
            "base weights in 4-bit cannot be saved", where=target, remedy="Load the model without `load_in_4bit`."
        )
    with atomic_write_folder(target) as temporary:
        config.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        save_weights(weights or model.weights_to_save(model.parts(config)), temporary / WEIGHTS)
        for name, part in copied.items():
            state = {key: value.contiguous() for key, value in plain_state_dict(part, merge).items()}
            part.save_pretrained(temporary / name, state_dict=state, max_shard_size="5GB")
        if "language" in copied:
            model.tokenizer.save_pretrained(temporary / "language")


def load(
    model_class: "type[ExpLLM]",
    name: str | PathLike[str],
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    load_in_4bit: bool = False,
) -> "ExpLLM":
    """Load a model from its folder.

    Args:
        model_class: The class to instantiate.
        name: A folder, or the name of a repository on the Hugging Face hub.
        revision: The revision on the hub.
        dtype: Type of the frozen base weights; by default that of their files.
        device: Device of the weights; by default the CPU.
        load_in_4bit: Quantize the language model's base weights to 4-bit; see `load_language`.

    Returns:
        The model, in evaluation mode.

    Raises:
        MissingPathError: If there is no such folder.
        CheckpointError: If the folder holds another kind of model, or its weights do not fit.
    """
    folder = _find_folder(name, revision)
    config = read_config(folder)
    config.vision_base = _resolve_base(config.vision_base, folder)
    config.text_base = _resolve_base(config.text_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    vision = language = None
    if config.vision_base:
        vision = load_vision(config.vision_base, config.vision_revision, dtype)
    if config.text_base:
        language = load_language(config.text_base, config.text_revision, dtype, load_in_4bit)
    model = model_class(config, tokenizer, vision, language)
    weights = remap_keys(read_weights(folder / WEIGHTS), model.state_dict())
    model.check_state_dict(weights, str(folder / WEIGHTS))
    model.load_state_dict(weights, strict=False)
    return model if device is None else model.to(device)  # type: ignore[arg-type]


def initialize(model: "ExpLLM", folder: Path) -> None:
    """Initialize a new model with the weights in another model's folder, such as the first stage's projector.

    Args:
        model: The new model. Weights that the folder does not hold remain unchanged.
        folder: The folder.

    Raises:
        MissingPathError: If there is no such folder.
        CheckpointError: If the model has no weight of the same name and shape for a weight in the folder.
    """
    read_config(folder)
    current = model.state_dict()
    weights: dict[str, torch.Tensor] = {}
    for name, value in remap_keys(read_weights(folder / WEIGHTS), current).items():
        layer, _, leaf = name.rpartition(".")
        # peft moves the weights of a layer with LoRA to its base layer.
        target = name if name in current else f"{layer}.base_layer.{leaf}"
        shape = tuple(current[target].shape) if target in current else None
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"the model to start from does not fit: {name} {tuple(value.shape)}, here {shape or 'missing'}",
                where=folder,
                remedy="Start from a model with the same parts.",
            )
        weights[target] = value
    model.load_state_dict(weights, strict=False)


def check_target(target: Path, replace: bool) -> None:
    """Check that a model's folder may be written to a path.

    Args:
        target: The path.
        replace: Whether an existing model folder may be replaced.

    Raises:
        CheckpointError: If the path exists and is not an empty folder, nor a model folder that may be replaced.
    """
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not (replace and (target / "config.json").is_file()):
        raise CheckpointError(
            f"the path {'exists already' if not replace else 'holds something other than a model'}",
            where=target,
            remedy="Name another folder, or empty it.",
        )


def read_config(folder: Path) -> ExpLLMConfig:
    """Read and check the configuration in a model's folder.

    Args:
        folder: The folder.

    Returns:
        The configuration.

    Raises:
        MissingPathError: If the folder has no configuration.
        CheckpointError: If the configuration is that of another kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingPathError(
            "the folder holds no model: it has no config.json", where=folder, remedy="Name a folder that `fit` wrote."
        )
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError("config.json cannot be read", where=path, remedy="Save the model again.") from error
    if model_type == "locllm":
        raise CheckpointError(
            "the folder holds a model in the authors' released format",
            where=folder,
            remedy=f"Convert it by `explllm convert released {folder} OUT`, then open OUT.",
        )
    if model_type != ExpLLMConfig.model_type:
        raise CheckpointError(
            f"the folder holds a model of type {model_type!r}, not {ExpLLMConfig.model_type!r}",
            where=folder,
            remedy="Name a folder that explllm wrote.",
        )
    return ExpLLMConfig.from_pretrained(folder)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        MissingPathError: If the file does not exist.
        CheckpointError: If the file is truncated or not a safetensors file.
    """
    if not path.is_file():
        raise MissingPathError("the file of weights does not exist", where=path, remedy="Save the model again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {error}", where=path, remedy="Save or copy them again."
        ) from error


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file of weights on any device."""
    save_file({name: value.cpu().contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def _find_folder(name: str | PathLike[str], revision: str | None) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder
    remedy = "Name a folder that `fit` wrote (runs/NAME/model), or a model on the Hugging Face hub."
    if isinstance(name, PathLike) or str(name).count("/") != 1 or str(name).startswith(("/", ".", "~", "runs/")):
        raise MissingPathError("there is no such model folder", where=folder, remedy=remedy)
    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=["*.json", "*.jinja", "*.safetensors"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingPathError(
            "neither a folder nor a model on the hub that can be downloaded", where=folder, remedy=remedy
        ) from error


def _resolve_base(base: str | None, folder: Path) -> str | None:
    return str(folder / base) if base is not None and base.startswith("./") else base
