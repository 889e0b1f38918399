"""The configuration that is saved with a model."""

import re
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Registers the convolutional encoder, so that its configuration can be read back by name.
from explllm.models import conv_encoder  # noqa: F401

Train = Literal["frozen", "lora", "full"]
"""What trains in a part: nothing, LoRA beside frozen weights, or every weight."""


class ExpLLMConfig(PreTrainedConfig):
    """Everything that `ExpLLM` needs besides its weights. See `explllm.models.build` for how one is made."""

    model_type = "explllm"
    sub_configs = {"vision_config": AutoConfig, "text_config": AutoConfig}  # noqa: RUF012  (transformers' own form)

    vision_config: Any = None
    """Architecture of the vision encoder, any that `AutoModel` knows."""
    text_config: Any = None
    """Architecture of the language model, any that `AutoModelForCausalLM` knows."""
    vision_base: str | None = None
    """Hugging Face name or folder that the encoder's base weights come from; None if they are the model's own. A
    folder inside the model's own begins with ``./``."""
    vision_revision: str | None = None
    """Revision of `vision_base` on the hub."""
    text_base: str | None = None
    """Hugging Face name or folder of the language model's base weights; None if they are the model's own."""
    text_revision: str | None = None
    """Revision of `text_base` on the hub."""
    vision_train: Train = "lora"
    """What trains in the encoder."""
    projector_train: Train = "full"
    """Whether the projector trains (``full``) or not (``frozen``)."""
    text_train: Train = "lora"
    """What trains in the language model."""
    vision_drop_path: float = 0.0
    """Share of a micro-batch whose residuals an encoder's block leaves out in training; see `models.drop_path`."""
    vision_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the encoder."""
    text_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings` for the language model."""
    projector_layers: int = 2
    """Linear layers of the projector, GELU between them; the paper has two."""
    image: dict[str, Any] | None = None
    """Fields of `explllm.faces.pixels.ImagePreset`."""
    image_tokens: int = 256
    """Tokens for each image."""
    vision_width: int = 1024
    """Width of the encoder's features."""
    image_token_id: int = 32000
    """Id of the placeholder; it may lie outside the language model's vocabulary."""
    chat_format: str = "vicuna"
    """Name of the chat format; its template is saved with the tokenizer."""
    labels: list[str] | None = None
    """The expressions that the model tells apart, under the paper's names, in index order."""
    training_data_note: str | None = None
    """What must be said of the data that it learned from, such as that faces were drawn; None if nothing."""
    margin: float | None = None
    """Around the boxes of the faces that it learned from, as for `explllm.faces.crop.face_crop`; None if not known."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Rebuild the parts' configurations from dictionaries."""
        self.vision_config = _config(self.vision_config)
        self.text_config = _config(self.text_config)
        super().__post_init__(**kwargs)


def joined_notes(*notes: str | None) -> str | None:
    """Join what must be said of several trainings of one model.

    Args:
        *notes: Sentences, the earliest training first; None or empty where nothing must be said.

    Returns:
        Each sentence once; None if there is none.
    """
    sentences = [sentence for note in notes if note for sentence in re.split(r"(?<=\.) ", note)]
    return " ".join(dict.fromkeys(sentences)) or None


def _config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    if isinstance(value, dict):
        value = dict(value)
        return CONFIG_MAPPING[value.pop("model_type")](**value)
    return value
