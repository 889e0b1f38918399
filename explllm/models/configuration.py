"""The configuration saved with a model."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from explllm.core.errors import CheckpointError, MissingPathError

# Importing this module registers the convolutional encoder with transformers, which then finds it by name.
from explllm.models import conv_encoder  # noqa: F401

Train = Literal["frozen", "lora", "full"]
"""What trains in a part: nothing, LoRA only, or every weight."""

Architecture = Literal["expllm", "feallm"]
"""How an image becomes tokens for the language model: by linear layers, or by FEALLM's modules."""


class ExpLLMConfig(PreTrainedConfig):
    """Everything that `ExpLLM` needs besides its weights. `explllm.models.build.build_config` creates one."""

    model_type = "explllm"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012  (the form that transformers expects)

    architecture: Architecture = "expllm"
    """How an image becomes tokens for the language model."""
    feallm: dict[str, Any] | None = None
    """Fields of `explllm.models.feallm.FEALLMSettings`, if `architecture` is ``feallm``."""
    vision_config: Any = None
    """Architecture of the vision encoder: any that `AutoModel` supports."""
    text_config: Any = None
    """Architecture of the language model: any that `AutoModelForCausalLM` supports."""
    vision_base: str | None = None
    """Hugging Face name or folder of the encoder's base weights; None if this model's files hold them. A subfolder of
    the model's folder begins with ``./``."""
    vision_revision: str | None = None
    """Revision of `vision_base` on the hub."""
    text_base: str | None = None
    """Hugging Face name or folder of the language model's base weights; None if this model's files hold them."""
    text_revision: str | None = None
    """Revision of `text_base` on the hub."""
    base_dtype: str | None = None
    """Type of the frozen base weights, such as ``bfloat16``; None for that of their files."""
    load_in_4bit: bool = False
    """Whether the language model's base weights are quantized to 4-bit."""
    vision_train: Train = "lora"
    """What trains in the encoder."""
    projector_train: Train = "full"
    """Whether the projector trains (``full``) or not (``frozen``)."""
    text_train: Train = "lora"
    """What trains in the language model."""
    vision_feature_layer: int = -1
    """Hidden state of the encoder that gives the features: -1 for the last, after the final norm."""
    token_pooling: Literal["none", "2x2"] = "none"
    """Pooling of the image tokens; see `explllm.models.vision.image_features`."""
    vision_drop_path: float = 0.0
    """Stochastic depth: share of samples whose residual an encoder block drops in training; see `BatchDropPath`."""
    vision_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the encoder."""
    text_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the language model."""
    projector_layers: int = 2
    """Number of linear layers in ExpLLM's projector, with GELU between them; the paper has two."""
    action_unit_tokens: bool = False
    """Whether the language model gets a token for each action unit after the image tokens; see
    `explllm.models.vision.ActionUnitTokens`."""
    temperature: float = 1.0
    """Divides the log-probabilities of labels, which calibrates them (Guo et al. 2017, Section 4.2)."""
    average_flipped: bool = False
    """Whether probabilities of labels and estimates of action units are means over the image and its mirror image."""
    image: dict[str, Any] | None = None
    """Fields of `explllm.faces.pixels.ImagePreset`."""
    image_tokens: int = 256
    """Number of tokens per image, those of action units included."""
    vision_width: int = 1024
    """Width of the encoder's features."""
    image_token_id: int = 32000
    """Id of the image placeholder; it may lie outside the language model's vocabulary."""
    chat_format: str = "vicuna"
    """Name of the chat format. Its template is saved with the tokenizer."""
    labels: list[str] | None = None
    """Expressions the model distinguishes, by the paper's names, in index order."""
    training_data_note: str | None = None
    """What users must know about the training data, such as that the faces were drawn; None if nothing."""
    margin: float | None = None
    """Margin around the face boxes of the training data, as in `explllm.faces.crop.face_crop`; None if unknown."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Convert the parts' configurations from dictionaries."""
        self.vision_config = _config(self.vision_config)
        self.text_config = _config(self.text_config)
        super().__post_init__(**kwargs)


def joined_notes(*notes: str | None) -> str | None:
    """Join the `training_data_note` of successive training runs of one model.

    Args:
        *notes: Notes of whole sentences, the earliest run first; None or empty for no note.

    Returns:
        Each sentence once, or None if every note is empty.
    """
    sentences = [sentence for note in notes if note for sentence in re.split(r"(?<=\.) ", note)]
    return " ".join(dict.fromkeys(sentences)) or None


def read_config(folder: Path) -> ExpLLMConfig:
    """Read and check the configuration in a model's folder; see `check_model_type` for the errors."""
    check_model_type(folder, ExpLLMConfig.model_type)
    return ExpLLMConfig.from_pretrained(folder)


def check_model_type(folder: Path, model_type: str) -> None:
    """Check that a folder holds a model of a type.

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
            remedy="Name a folder that explllm wrote for this kind of model.",
        )


def _config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    if isinstance(value, dict):
        value = dict(value)
        return CONFIG_MAPPING[value.pop("model_type")](**value)
    return value
