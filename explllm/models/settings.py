"""Settings of new models: `NetworkSettings`, and presets that fill them in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from explllm.conversation.messages import NATIVE
from explllm.core.errors import ConfigError
from explllm.models.configuration import Architecture, Train
from explllm.models.feallm import FEALLMSettings
from explllm.models.lora import LoraSettings
from explllm.models.vision import Pooling

PresetName = Literal["tiny", "vicuna-7b"]


@dataclass
class NetworkSettings:
    """The parts of an ExpLLM or FEALLM. Settings that are None take the preset's value."""

    preset: PresetName = "vicuna-7b"
    """``vicuna-7b``: the paper's setup. ``tiny``: random weights and a new tokenizer, trainable on two CPU cores."""
    architecture: Architecture = "expllm"
    """The modules that turn image features into tokens for the language model: ``expllm`` for linear layers,
    ``feallm`` for the local clue aggregator and the multi-perspective projector."""
    vision: str | dict[str, Any] | None = None
    """Vision encoder: a Hugging Face name or folder of pretrained weights, or configuration fields (``model_type`` and
    others) for random weights."""
    vision_revision: str | None = None
    """Revision of the encoder on the hub."""
    vision_train: Train | None = None
    """How the encoder is trained: ``frozen``, ``lora`` or ``full``; by default as in the preset, but ``frozen`` for a
    pretrained encoder if `architecture` is ``feallm``."""
    vision_drop_path: float = 0.0
    """Stochastic depth in the encoder: share of samples for which each residual branch is dropped in training. It has
    no effect with one conversation per micro-batch."""
    vision_lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA in the encoder, if `vision_train` is ``lora``."""
    language: str | dict[str, Any] | None = None
    """Causal language model, in the same forms as `vision`."""
    language_revision: str | None = None
    """Revision of the language model on the hub."""
    language_train: Train | None = None
    """How the language model is trained: ``frozen``, ``lora`` or ``full``; by default as in the preset."""
    language_lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA in the language model, if `language_train` is ``lora``."""
    projector_train: Literal["frozen", "full"] | None = None
    """How the projector is trained: ``full`` or ``frozen``."""
    projector_layers: int = 2
    """Number of linear layers in ExpLLM's projector, with GELU between them."""
    feallm: FEALLMSettings | None = None
    """Sizes of FEALLM's modules, if `architecture` is ``feallm``; by default the preset's."""
    action_unit_tokens: bool = False
    """Give the language model a token for each action unit after the image tokens. A head on the encoder estimates the
    units; training it requires ``model.action_unit_weight``. The tokens make explanations more faithful to the face;
    the paper does not use them."""
    average_flipped: bool = False
    """Except in training, average the encoder's features and the estimates of `action_unit_tokens` over each image and
    its mirror image, whose results are mirrored back. The encoder then takes twice as long."""
    vision_feature_layer: int = -1
    """Index of the encoder's hidden state used as features: -1 for the last, which in DINOv2 follows the final norm;
    LLaVA uses -2."""
    token_pooling: Pooling = "none"
    """Pooling of the image tokens: ``none``, or ``2x2`` for the mean of each square of four."""
    image_preset: str | None = None
    """Preprocessing: one of `explllm.faces.pixels.IMAGE_PRESETS`, or ``native`` for a pretrained encoder's own
    preprocessing; by default ``native`` for a pretrained encoder that is not the preset's."""
    image_size: int | None = None
    """Width and height of preprocessed images, in pixels; by default the size in `preset`. For a pretrained encoder
    that is not the preset's, the default is the size in `image_preset`."""
    chat_format: str | None = None
    """Chat format: one of `explllm.conversation.messages.FORMATS`; by default ``native`` for a pretrained language
    model that is not the preset's."""
    vocabulary: int | None = None
    """Maximum vocabulary size of the tokenizer that is trained for a language model with random weights."""
    labels: str | list[str] | None = None
    """Expressions to distinguish: the name of a label set (``rafdb``, ``affectnet8``, ...) or a list in index order; by
    default, the expressions in the training data."""
    base_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Data type of the frozen base weights. Trainable weights are always float32."""
    load_in_4bit: bool = False
    """Quantize the frozen weights of a pretrained language model to 4-bit (bitsandbytes), for example to train a 7B
    model on a 24 GB GPU."""

    def __post_init__(self) -> None:
        """Check the projector's settings."""
        if self.projector_layers < 1:
            raise ConfigError(f"projector_layers is {self.projector_layers}", remedy="Use at least 1.")
        if self.projector_train not in (None, "frozen", "full"):
            raise ConfigError(f"projector_train is {self.projector_train}", remedy="Use full or frozen.")

    def resolved(self) -> "NetworkSettings":
        """Return the settings with the preset's value for each setting that is None.

        There are exceptions. A pretrained encoder other than the preset's keeps its own preprocessing, and a pretrained
        language model other than the preset's keeps its own chat template. In FEALLM, a pretrained encoder is frozen.
        Paths of existing folders become absolute.
        """
        preset = PRESETS[self.preset]
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        values = {name: value for name, value in values.items() if value is not None}
        for part in ("vision", "language"):
            if isinstance(values.get(part), str) and Path(values[part]).expanduser().is_dir():
                # The saved model contains this path, and may be opened from another working directory.
                values[part] = str(Path(values[part]).expanduser().absolute())
        if isinstance(self.vision, str) and self.vision != preset.vision:
            values = {"image_preset": NATIVE, **values}
            preset = replace(preset, image_size=None)
        if isinstance(self.language, str) and self.language != preset.language:
            values = {"chat_format": NATIVE, **values}
        # The encoder is frozen in FEALLM's figure, but an encoder with random weights has to be trained.
        if self.architecture == "feallm" and isinstance(values.get("vision", preset.vision), str):
            values = {"vision_train": "frozen", **values}
        return replace(preset, **values)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "NetworkSettings":
        """Create settings from nested dictionaries, as stored in checkpoints and parsed configurations."""
        nested = {"vision_lora": LoraSettings, "language_lora": LoraSettings, "feallm": FEALLMSettings}
        values = {name: value for name, value in fields.items() if name != "class_path"}
        for name, kind in nested.items():
            if isinstance(values.get(name), Mapping):
                values[name] = kind(**{key: value for key, value in values[name].items() if key != "class_path"})
        return cls(**values)


_DECISIVE = (
    *("architecture", "feallm", "vision", "vision_lora", "language", "language_lora", "vocabulary", "chat_format"),
    *("vision_feature_layer", "token_pooling", "image_preset", "image_size"),
)


def decisive_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine what weights mean, beyond their names and shapes.

    Args:
        settings: The fields of a `NetworkSettings` or `explllm.models.au_regressor.RegressorSettings`, as nested
            dictionaries.

    Returns:
        The settings by name, without dropout. Of the path of a base model, only the last part is included, because its
        folder may be moved.
    """
    found = {name: settings[name] for name in _DECISIVE if name in settings}
    for name, value in found.items():
        if isinstance(value, Mapping):
            found[name] = {key: item for key, item in value.items() if "dropout" not in key}
        elif name in ("vision", "language") and value is not None:
            found[name] = Path(value).name
    return found


PRESETS: Mapping[str, NetworkSettings] = MappingProxyType(
    {
        # Paper, Sections III-C-1 and IV-A: DINOv2 ViT-L/14 at 224 pixels, Vicuna-7B v1.5, LoRA r=8, alpha 16.
        "vicuna-7b": NetworkSettings(
            preset="vicuna-7b",
            vision="facebook/dinov2-large",
            vision_train="lora",
            language="lmsys/vicuna-7b-v1.5",
            language_train="lora",
            projector_train="full",
            image_preset="dinov2",
            image_size=224,
            chat_format="vicuna",
            base_dtype="bfloat16",
            feallm=FEALLMSettings(),
        ),
        "tiny": NetworkSettings(
            preset="tiny",
            vision={"model_type": "explllm_conv", "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
            vision_train="full",
            language={
                "model_type": "llama",
                "hidden_size": 128,
                "intermediate_size": 352,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 1024,
                # About 1 / sqrt(hidden size). The default of transformers, 0.02, suits wide models. In a narrow model,
                # it makes the activations so small that the model learns much more slowly.
                "initializer_range": 0.09,
            },
            language_train="full",
            projector_train="full",
            image_preset="small",
            image_size=64,
            chat_format="plain",
            vocabulary=1024,
            base_dtype="float32",
            feallm=FEALLMSettings(crop_size=32, local_width=64),
        ),
    }
)
"""Complete settings by name."""

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "facebook/dinov2-large": {
            "model_type": "dinov2",
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 518,
            "patch_size": 14,
        },
        "lmsys/vicuna-7b-v1.5": {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
    }
)
"""Configuration fields of the presets' base models, as on the hub, for building models on the meta device without
downloads."""
