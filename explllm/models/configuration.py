"""`ExpLLMConfig`, the configuration saved with a model, and functions that read and check configurations."""

import inspect
import json
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from explllm.core.errors import CheckpointError, InputError, MissingPathError
from explllm.core.expressions import Expression
from explllm.faces.pixels import ImagePreset

# Importing this module registers the convolutional encoder with transformers, which then finds it by name.
from explllm.models import conv_encoder  # noqa: F401
from explllm.models.feallm import FEALLMSettings
from explllm.models.lora import LoraSettings

Config = TypeVar("Config", bound=PreTrainedConfig)

Train = Literal["frozen", "lora", "full"]
"""How a part is trained: not at all, only with LoRA, or in full."""

Architecture = Literal["expllm", "feallm"]
"""The modules that turn image features into tokens for the language model: linear layers, or FEALLM's modules."""


class ExpLLMConfig(PreTrainedConfig):
    """Configuration of an `ExpLLM`, created by `explllm.models.build.build_config`."""

    model_type = "explllm"
    # pyrefly: ignore[bad-override]
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012  (the form that transformers expects)

    architecture: Architecture = "expllm"
    """The modules that turn image features into tokens for the language model; see `Architecture`."""
    feallm: dict[str, Any] | None = None
    """Fields of `explllm.models.feallm.FEALLMSettings`, if `architecture` is ``feallm``."""
    vision_config: Any = None
    """Configuration of the vision encoder, of any type that `AutoModel` supports."""
    text_config: Any = None
    """Configuration of the language model, of any type that `AutoModelForCausalLM` supports."""
    vision_base: str | None = None
    """Hugging Face name or folder of the encoder's base weights; a path that begins with ``./`` is relative to the
    model's folder. None if ``model.safetensors`` contains all of the encoder's weights."""
    vision_revision: str | None = None
    """Revision of `vision_base` on the hub."""
    text_base: str | None = None
    """Hugging Face name or folder of the language model's base weights, or None; see `vision_base`."""
    text_revision: str | None = None
    """Revision of `text_base` on the hub."""
    base_dtype: str | None = None
    """Data type of the frozen base weights, such as ``bfloat16``; None for the data type of their files."""
    load_in_4bit: bool = False
    """Whether the language model's base weights are quantized to 4-bit."""
    vision_train: Train = "lora"
    """How the encoder is trained: ``frozen``, ``lora`` or ``full``."""
    projector_train: Train = "full"
    """Whether the projector is trained (``full``) or not (``frozen``)."""
    text_train: Train = "lora"
    """How the language model is trained: ``frozen``, ``lora`` or ``full``."""
    vision_feature_layer: int = -1
    """Index of the encoder's hidden state used as features: -1 for the last, which in DINOv2 follows the final norm."""
    token_pooling: Literal["none", "2x2"] = "none"
    """Pooling of the image tokens; see `explllm.models.vision.image_features`."""
    vision_drop_path: float = 0.0
    """Stochastic depth: share of samples for which each residual branch of the encoder is dropped in training; see
    `explllm.models.vision.BatchDropPath`."""
    vision_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the encoder."""
    text_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the language model."""
    projector_layers: int = 2
    """Number of linear layers in ExpLLM's projector, with GELU between them; the paper uses two."""
    action_unit_tokens: bool = False
    """Whether the language model gets a token for each action unit after the image tokens; see
    `explllm.models.vision.ActionUnitTokens`."""
    temperature: float = 1.0
    """Divisor that calibrates the log-probabilities of the labels (Guo et al. 2017, Section 4.2)."""
    average_flipped: bool = False
    """Whether the encoder's features and the estimates of the `action_unit_tokens` are averaged over each image and its
    mirror image, except in training."""
    image: dict[str, Any] | None = None
    """Fields of `explllm.faces.pixels.ImagePreset`."""
    image_tokens: int = 256
    """Number of tokens per image, including FEALLM's token of local clues and the action unit tokens."""
    vision_width: int = 1024
    """Width of the encoder's features."""
    image_token_id: int = 32000
    """Id of the image placeholder; it may lie outside the language model's vocabulary."""
    chat_format: str = "vicuna"
    """Name of the chat format. Its template is saved with the tokenizer."""
    labels: list[str] | None = None
    """Expressions the model distinguishes, by the paper's names, in index order."""
    training_data_note: str | None = None
    """What users must know about the training data, such as that the faces were drawn; None if there is nothing to
    note."""
    margin: float | None = None
    """Margin around the face boxes of the training data, as in `explllm.faces.crop.face_crop`; None if unknown."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Convert the parts' configurations from dictionaries."""
        self.vision_config = _config(self.vision_config)
        self.text_config = _config(self.text_config)
        super().__post_init__(**kwargs)


def joined_notes(*notes: str | None) -> str | None:
    """Join the training data notes of successive training runs of one model.

    Args:
        *notes: One note per run, in chronological order. Each note consists of whole sentences; it is None or empty
            for a run without a note.

    Returns:
        The distinct sentences, joined by spaces; None if no run has a note.
    """
    sentences = [sentence for note in notes if note for sentence in re.split(r"(?<=\.) ", note)]
    return " ".join(dict.fromkeys(sentences)) or None


def read_config(folder: Path) -> ExpLLMConfig:
    """Read and check the configuration in a model's folder; see `read_checked` for the errors."""
    return read_checked(folder, ExpLLMConfig)


def read_checked(folder: Path, kind: type[Config]) -> Config:
    """Read a configuration of the given class, and check its values, including nested settings.

    Raises:
        MissingPathError: If the folder has no configuration.
        CheckpointError: If the configuration cannot be read, belongs to another kind of model, or has a wrong value.
    """
    check_model_type(folder, kind.model_type)
    try:
        config = kind.from_pretrained(folder)
        _check_values(config)
    except Exception as error:  # transformers and huggingface_hub raise many types of errors
        raise unusable_config(folder, error) from error
    return config


def unusable_config(folder: Path, error: Exception) -> CheckpointError:
    """Return the error that reports an unusable configuration in a folder."""
    lines = (error.found if isinstance(error, InputError) else str(error)).strip().splitlines() or [""]
    # In errors from huggingface_hub's strict data classes, the first line names the validator and ends with a colon.
    reason = lines[len(lines) > 1 and lines[0].endswith(":")].strip().removeprefix("ValueError: ")
    if isinstance(error, LookupError | ArithmeticError):  # these messages name only a key or an operation
        reason = f"{type(error).__name__}: {reason}"
    return CheckpointError(
        f"the configuration cannot be used: {reason}",
        where=folder / "config.json",
        remedy="Correct this value, or save or download the model again.",
    )


def check_model_type(folder: Path, model_type: str) -> None:
    """Check that a folder contains a model of the given type.

    Raises:
        MissingPathError: If the folder has no configuration.
        CheckpointError: If the configuration cannot be read, or belongs to another kind of model.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise MissingPathError(
            "the folder contains no model: it has no config.json",
            where=folder,
            remedy="Name a folder that `fit` wrote.",
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise CheckpointError("config.json cannot be read", where=path, remedy="Save the model again.") from error
    if found == "locllm":
        raise CheckpointError(
            "the folder holds a model in the authors' released format",
            where=folder,
            remedy=f"Convert it with `explllm convert released {folder} OUT`, then open OUT.",
        )
    if found != model_type:
        raise CheckpointError(
            f"the folder holds a model of type {found!r}, not {model_type!r}",
            where=folder,
            remedy="Pass a folder that explllm wrote for this kind of model.",
        )


def _config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    if isinstance(value, dict):
        value = dict(value)
        model_type = value.pop("model_type", None)
        if model_type not in CONFIG_MAPPING:
            raise ValueError(f"transformers does not support model_type {model_type!r}")
        return CONFIG_MAPPING[model_type](**value)
    return value


_SETTINGS: Mapping[str, type] = {
    "image": ImagePreset,
    "feallm": FEALLMSettings,
    "vision_lora": LoraSettings,
    "text_lora": LoraSettings,
}
"""The data classes of the fields that hold settings."""


def _check_values(config: PreTrainedConfig) -> None:
    """Raise a ValueError if a field of a configuration, or of its nested settings, has a wrong type or value.

    Fields that the configuration's class does not declare are not checked: transformers stores them as they are.
    """
    fields = {name: getattr(config, name) for name in inspect.get_annotations(type(config))}
    _check_types(type(config), fields)
    for name, value in fields.items():
        if name in ("image_tokens", "vision_width", "projector_layers", "head_width") and value < 1:
            raise ValueError(f"{name} is {value}")
        if name in _SETTINGS and value is not None:
            _check_types(_SETTINGS[name], value, f"{name}.")
            _SETTINGS[name](**value)
        if name in ("vision_config", "text_config") and not isinstance(value, PreTrainedConfig):
            raise ValueError(f"{name} is {reprlib.repr(value)}")
    if fields.get("temperature", 1.0) <= 0:
        raise ValueError(f"temperature is {fields['temperature']}")
    labels = fields.get("labels") or []
    if unknown := [label for label in labels if label not in [*Expression]]:
        raise ValueError(f"unknown expression {unknown[0]!r} in labels (known: {', '.join(Expression)})")
    if len({*labels}) < len(labels):
        raise ValueError("labels repeat an expression")


def _check_types(kind: type, fields: Mapping[str, Any], prefix: str = "") -> None:
    types = inspect.get_annotations(kind, eval_str=True)
    for name, value in fields.items():
        if name not in types:
            raise ValueError(f"unknown field {prefix}{name}")
        if not _fits(value, types[name]):
            raise ValueError(f"{prefix}{name} is {reprlib.repr(value)}")


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value fits a type.

    A list may fit a tuple. An integer fits a float, but NaN and infinity do not.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, origin or kind)
