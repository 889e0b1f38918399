"""A model's folder: configuration, the weights that are its own as safetensors, tokenizer with its chat template.

Base weights that come from a named model are not copied unless asked: the configuration holds name and revision.
"""

import importlib.util
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel

from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.models.configuration import ExpLLMConfig, Train
from explllm.models.lora import is_lora, plain_state_dict
from explllm.models.spelling import remap_keys
from explllm.models.vision import vision_part

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM

WEIGHTS = "model.safetensors"


class MultiPartModel(Protocol):
    """A model of parts, each of which may build upon named base weights."""

    def parts(self) -> Mapping[Any, tuple[nn.Module, Train, str | None]]:
        """Return each part by name: the module, what trains in it, and where its base weights come from."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all weights and buffers by name."""
        ...


def weights_to_save(model: MultiPartModel, config: ExpLLMConfig | None = None) -> dict[str, torch.Tensor]:
    """Return the weights that are the model's own: all that a named base cannot give back.

    Args:
        model: The model.
        config: An ExpLLM's; says which bases are named and what trains. By default the model's own.

    Returns:
        Weights and buffers by name; of tied weights the first only.
    """
    given = {part: (train, base) for part, (_, train, base) in model.parts().items()}
    if config is not None:
        given["vision"] = (config.vision_train, config.vision_base)
        given["language"] = (config.text_train, config.text_base)
    own: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for part, (module, _, _) in model.parts().items():
        train, base = given[part]
        whole = base is None or train == "full"
        for name, value in module.state_dict(prefix=f"{part}.", keep_vars=True).items():
            lora = is_lora(name) and train == "lora"
            if (whole or lora) and id(value) not in seen:
                own[name] = value.detach()
            seen.add(id(value))
    return own


def check_state_dict(model: MultiPartModel, weights: dict[str, torch.Tensor], where: str) -> None:
    """Account for every name of weights that `weights_to_save` gave.

    Args:
        model: The model they are for.
        weights: Weights and buffers by name.
        where: Where they come from, for errors.

    Raises:
        CheckpointError: If a name is missing, unexpected, or of another shape; it names the first.
    """
    expected, everything = weights_to_save(model), model.state_dict()
    for fault, names in (
        ("missing", [name for name in expected if name not in weights]),
        ("unexpected", [name for name in weights if name not in everything]),
        ("of another shape", [name for name in weights if _shape(weights, name) != _shape(everything, name)]),
    ):
        if names:
            shapes = f" {_shape(weights, names[0])}, not {_shape(everything, names[0])}" if fault[0] == "o" else ""
            raise CheckpointError(
                f"the weights do not fit the model: {len(names)} {fault}, first {names[0]}{shapes}",
                where=where,
                remedy="Use the configuration that the weights were trained with.",
            )


def initialize(model: "ExpLLM", folder: Path) -> None:
    """Start a new model from the weights in another model's folder, such as the first stage's projector.

    Args:
        model: The new model; weights that the folder does not hold stay as they are.
        folder: The folder.

    Raises:
        MissingPathError: If there is no such folder.
        CheckpointError: If a weight of the folder has no place of its shape in the model.
    """
    read_config(folder)
    everything = model.state_dict()
    weights = remap_keys(read_weights(folder / WEIGHTS), everything)
    # A layer that gets LoRA in this stage has moved into a wrapper.
    moved = {name: _wrapped(name) if name not in everything else name for name in weights}
    for name, place in moved.items():
        if _shape(everything, place) != tuple(weights[name].shape):
            raise CheckpointError(
                f"the model to start from does not fit: {name} {tuple(weights[name].shape)}, "
                f"here {_shape(everything, place) or 'missing'}",
                where=folder,
                remedy="Start from a model of the same parts.",
            )
    model.load_state_dict({place: weights[name] for name, place in moved.items()}, strict=False)


def save(
    model: "ExpLLM", folder: str | PathLike[str], include_base: bool = False, merge: bool = False, replace: bool = True
) -> None:
    """Write a model's folder whole: into a temporary sibling first, then by renaming.

    Args:
        model: The model.
        folder: Where to.
        include_base: Copy frozen base weights too, into the folders ``vision`` and ``language`` of it, each of which
            transformers opens by itself; the folder then stands by itself.
        merge: The same for every part, with LoRA folded in. Folded layers are kept in float32; what is loaded in
            another type is rounded then.
        replace: Replace a model folder that is there.

    Raises:
        CheckpointError: If the path holds something that may not be replaced, or base weights are in 4 bits.
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
            "base weights in 4 bits cannot be written", where=target, remedy="Open the model without 4 bits first."
        )
    with atomic_write_folder(target) as temporary:
        config.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        weights = {name: value.cpu().contiguous() for name, value in weights_to_save(model, config).items()}
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        for name, part in copied.items():
            state = {key: value.contiguous() for key, value in plain_state_dict(part, merge).items()}
            part.save_pretrained(temporary / name, state_dict=state, max_shard_size="5GB")
        if "language" in copied:
            model.tokenizer.save_pretrained(temporary / "language")


def check_target(target: Path, replace: bool) -> None:
    """Refuse a path that a model's folder may not be written to.

    Args:
        target: The path.
        replace: Whether a model's folder that is there may be replaced.

    Raises:
        CheckpointError: If the path holds something else.
    """
    held = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if held and not (replace and (target / "config.json").is_file()):
        raise CheckpointError(
            f"the path {'exists already' if not replace else 'holds something other than a model'}",
            where=target,
            remedy="Name another folder, or empty it.",
        )


def load(
    name: str | PathLike[str],
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    load_in_4bit: bool = False,
) -> "ExpLLM":
    """Open a model's folder.

    Args:
        name: A folder, or the name of a repository on the Hugging Face hub.
        revision: The revision on the hub.
        dtype: Type of the frozen base weights; by default that of their files.
        device: Where the weights go; by default the CPU.
        load_in_4bit: Bring the language model's base weights to 4 bits; see `load_language`.

    Returns:
        The model, in evaluation mode.

    Raises:
        MissingPathError: If there is no such folder.
        CheckpointError: If it is no folder of this model, or its weights do not fit.
    """
    from explllm.models.explllm import ExpLLM

    folder = _find(name, revision)
    config = read_config(folder)
    config.vision_base, config.text_base = _located(config.vision_base, folder), _located(config.text_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    vision = language = None
    if config.vision_base:
        vision = load_vision(config.vision_base, config.vision_revision, dtype)
    if config.text_base:
        language = load_language(config.text_base, config.text_revision, dtype, load_in_4bit)
    model = ExpLLM(config, tokenizer, vision, language)
    weights = remap_keys(read_weights(folder / WEIGHTS), model.state_dict())
    check_state_dict(model, weights, str(folder / WEIGHTS))
    model.load_state_dict(weights, strict=False)
    return model if device is None else model.to(device)  # type: ignore[arg-type]


def read_config(folder: Path) -> ExpLLMConfig:
    """Read and check the configuration in a model's folder.

    Args:
        folder: The folder.

    Returns:
        The configuration.

    Raises:
        MissingPathError: If the folder has none.
        CheckpointError: If it is that of another model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingPathError(
            "the folder holds no model: it has no config.json", where=folder, remedy="Name a folder that `fit` wrote."
        )
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError("config.json cannot be read", where=path, remedy="Save the model again.") from error
    if kind == "locllm":
        raise CheckpointError(
            "the folder holds a model in the authors' released format",
            where=folder,
            remedy=f"Convert it by `explllm convert released {folder} OUT`, then open OUT.",
        )
    if kind != ExpLLMConfig.model_type:
        raise CheckpointError(
            f"the folder holds a model of type {kind!r}, not {ExpLLMConfig.model_type!r}",
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
        MissingPathError: If there is no such file.
        CheckpointError: If it is truncated or no safetensors file.
    """
    if not path.is_file():
        raise MissingPathError("there is no such file of weights", where=path, remedy="Save the model again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {error}", where=path, remedy="Save or copy them again."
        ) from error


def load_vision(name: str, revision: str | None, dtype: torch.dtype | None) -> PreTrainedModel:
    """Load a pretrained vision encoder; of CLIP and SigLIP the vision tower alone.

    Args:
        name: Hugging Face name or folder.
        revision: The revision on the hub.
        dtype: Type of the weights; by default that of their files.

    Returns:
        The encoder.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    config = vision_part(base_config(name, revision))
    return _load_base(AutoModel, name, revision, dtype, config=config)


def load_language(
    name: str, revision: str | None, dtype: torch.dtype | None, load_in_4bit: bool = False
) -> PreTrainedModel:
    """Load a pretrained causal language model.

    Args:
        name: Hugging Face name or folder.
        revision: The revision on the hub.
        dtype: Type of the weights; by default that of their files.
        load_in_4bit: Bring the linear layers' weights to 4 bits (bitsandbytes' NF4, doubly quantized; computed with in
            bfloat16), which fits a 7B model and its training by LoRA on one GPU of 24 GB.

    Returns:
        The language model.

    Raises:
        CheckpointError: If it cannot be loaded.
        ConfigError: If 4 bits are asked for and bitsandbytes is not installed.
    """
    if not load_in_4bit:
        return _load_base(AutoModelForCausalLM, name, revision, dtype)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("4-bit weights need bitsandbytes", remedy='Install it: pip install "explllm[gpu]".')
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return _load_base(AutoModelForCausalLM, name, revision, torch.bfloat16, quantization_config=settings)


def base_config(name: str, revision: str | None):  # noqa: ANN201  (any transformers configuration)
    """Read a base model's configuration.

    Args:
        name: Hugging Face name or folder.
        revision: The revision on the hub.

    Returns:
        The configuration.

    Raises:
        CheckpointError: If it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        raise _base_error(name, error) from error


def _load_base(
    auto: type, name: str, revision: str | None, dtype: torch.dtype | None, **options: object
) -> PreTrainedModel:
    try:
        # transformers 5 takes the files' own type for "auto"; only safetensors, so that nothing is unpickled.
        return auto.from_pretrained(  # type: ignore[attr-defined]
            name, revision=revision, dtype=dtype or "auto", use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise _base_error(name, error) from error


def _base_error(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the base model cannot be loaded: {str(error).splitlines()[0]}",
        where=name,
        remedy="Give a folder that holds it as safetensors, or a Hugging Face name that this machine can reach.",
    )


def _find(name: str | PathLike[str], revision: str | None) -> Path:
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
        raise MissingPathError("no folder and no reachable model of that name", where=folder, remedy=remedy) from error


def _located(base: str | None, folder: Path) -> str | None:
    return str(folder / base) if base is not None and base.startswith("./") else base


def _shape(weights: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def _wrapped(name: str) -> str:
    layer, _, leaf = name.rpartition(".")
    return f"{layer}.base_layer.{leaf}"
