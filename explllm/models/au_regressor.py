"""An action unit regressor: any vision encoder with a head for FEAFA's 24 intensities.

Shape legend:
    B batch, N image tokens, C width of the encoder, D width of a unit in the head, U action units (24),
    H and W image height and width
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from explllm.core.action_units import FEAFA
from explllm.core.errors import ConfigError
from explllm.core.files import atomic_write_folder
from explllm.faces.images import as_images
from explllm.faces.pixels import ImagePreset, ImageSource
from explllm.models import storage
from explllm.models.build import architecture, config_fields, part_config
from explllm.models.configuration import Train, read_checked
from explllm.models.lora import LoraSettings, add_lora
from explllm.models.parts import MultiPartModel, Part, inference, remap_keys
from explllm.models.pretrained import base_revision, load_vision
from explllm.models.vision import UnitHead, image_features, vision_shape, vision_tower_config


@dataclass
class RegressorSettings:
    """The parts of an action unit regressor."""

    vision: str | dict[str, Any] = "facebook/dinov2-large"
    """Vision encoder: a Hugging Face name or folder of pretrained weights, or configuration fields (``model_type`` and
    others) for random weights."""
    vision_revision: str | None = None
    """Revision of the encoder on the hub."""
    vision_train: Train = "lora"
    """How the encoder is trained: ``frozen``, ``lora`` or ``full``."""
    vision_lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA in the encoder, if `vision_train` is ``lora``."""
    image_preset: str = "dinov2"
    """Preprocessing: one of `explllm.faces.pixels.IMAGE_PRESETS`."""
    image_size: int | None = None
    """Width and height of preprocessed images, in pixels; by default the image preset's."""
    head_width: int = 128
    """Width D of each unit's features in the head."""


class RegressorConfig(PreTrainedConfig):
    """The configuration saved with an `ActionUnitRegressor`."""

    model_type = "explllm_action_units"
    # pyrefly: ignore[bad-override]
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012  (the form that transformers expects)

    vision_config: Any = None
    """Configuration of the encoder, of any type that `AutoModel` supports."""
    vision_base: str | None = None
    """Hugging Face name or folder of the encoder's base weights; None if the encoder was initialized randomly."""
    vision_revision: str | None = None
    """Revision of `vision_base` on the hub."""
    vision_train: Train = "lora"
    """How the encoder is trained: ``frozen``, ``lora`` or ``full``."""
    vision_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings`."""
    image: dict[str, Any] | None = None
    """Fields of `explllm.faces.pixels.ImagePreset`."""
    image_preset: str = "dinov2"
    """Name of the image preset; also stored in the ONNX file's metadata."""
    margin: float | None = None
    """Margin around the face boxes of the training data, as in `explllm.faces.crop.face_crop`; None if unknown."""
    training_data_note: str | None = None
    """What users must know about the training data, such as the source of the labels, or that the faces were drawn."""
    image_tokens: int = 256
    """Number of tokens per image."""
    vision_width: int = 1024
    """Width of the encoder's features."""
    head_width: int = 128
    """Width D of each unit's features in the head."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Convert the encoder's configuration from a dictionary."""
        if isinstance(self.vision_config, dict):
            self.vision_config = part_config(self.vision_config, None, "vision")[0]
        super().__post_init__(**kwargs)


class ActionUnitRegressor(MultiPartModel):
    """Estimates the intensities of FEAFA's 24 action units. `from_pretrained` opens a trained model."""

    entry_points = ("forward_single_view",)
    mirror: torch.Tensor

    def __init__(self, config: RegressorConfig, vision: PreTrainedModel | None = None) -> None:
        """Assemble the parts, add LoRA as configured, and freeze the other weights.

        Args:
            config: The configuration.
            vision: A pretrained encoder; random weights by default.

        Raises:
            ConfigError: If no layer of the encoder matches the LoRA targets.
        """
        super().__init__()
        self.config = config
        self.image = ImagePreset.from_dict(config.image or {})
        self.vision = vision or AutoModel.from_config(config.vision_config, dtype=torch.float32)
        self.head = UnitHead(config.image_tokens, config.vision_width, config.head_width)
        self.register_buffer("mirror", torch.tensor([unit.mirror for unit in FEAFA]), persistent=False)
        if config.vision_train == "lora":
            add_lora(self.vision, LoraSettings(**(config.vision_lora or {})))
        self.freeze()
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str]) -> "ActionUnitRegressor":
        """Load a model from its folder.

        Args:
            folder: A folder written by `save_pretrained`, such as ``runs/NAME/model``.

        Returns:
            The model, in evaluation mode.

        Raises:
            MissingPathError: If the folder does not exist.
            CheckpointError: If the folder contains another kind of model, or its weights do not fit.
        """
        folder = Path(folder)
        config = read_checked(folder, RegressorConfig)
        vision = None
        if config.vision_base:
            vision = load_vision(config.vision_base, config.vision_revision, torch.float32)
        model = cls(config, vision)
        weights = remap_keys(storage.read_weights(folder / storage.WEIGHTS), model.state_dict())
        model.check_state_dict(weights, str(folder / storage.WEIGHTS))
        model.load_state_dict(weights, strict=False)
        return model

    def save_pretrained(self, folder: str | PathLike[str], state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Write the model's folder atomically, without the frozen weights of a pretrained encoder.

        Args:
            folder: The folder. An existing model folder is replaced.
            state_dict: The weights to save instead of the model's own, such as weights from a checkpoint.

        Raises:
            CheckpointError: If the path contains something other than a model.
        """
        storage.check_target(Path(folder), replace=True)
        with atomic_write_folder(folder) as temporary:
            self.config.save_pretrained(temporary)
            storage.save_weights(state_dict or self.weights_to_save(), temporary / storage.WEIGHTS)

    def parts(self) -> dict[str, Part]:
        """Return each part by name."""
        config = self.config
        return {
            "vision": Part(self.vision, config.vision_train, config.vision_base),
            "head": Part(self.head, "full", None),
        }

    def unused_weights(self, part: str) -> frozenset[str]:
        """Return the encoder's parameters that do not affect its features."""
        return vision_shape(self.config.vision_config, self.image.size).unused if part == "vision" else frozenset()

    def forward_single_view(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Estimate intensities without the mirror image, as in training: (B, 3, H, W) to (B, U) in [0, 1]."""
        return self.head(image_features(self.vision, pixel_values))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Estimate intensities from each image and its mirror image.

        The result is the mean of both estimates, with left and right swapped in the second. A flipped image therefore
        gives exactly the same estimate with left and right swapped.

        Args:
            pixel_values: (B, 3, H, W), as prepared by `image`.

        Returns:
            (B, U) intensities in [0, 1], in FEAFA's order.
        """
        # Use two passes, because in one batch the position of a face could change the last bit of its result.
        mirrored = self.forward_single_view(pixel_values.flip(-1))
        return (self.forward_single_view(pixel_values) + mirrored[:, self.mirror]) / 2

    def estimate(self, images: ImageSource | Iterable[ImageSource]) -> list[list[float]]:
        """Estimate the action units of faces.

        Args:
            images: One image or any iterable of images, with one face each.

        Returns:
            24 intensities in [0, 1] per image, in FEAFA's order.

        Raises:
            MissingPathError: If an image does not exist.
            ImageError: If an image cannot be read.
        """
        batch = list(as_images(images)[0])
        if not batch:
            return []
        pixels = torch.stack([self.image(image) for image in batch]).to(self.head.bias.device)
        with inference(self):
            return self(pixels).tolist()


def regressor_config(settings: RegressorSettings) -> RegressorConfig:
    """Create a configuration, without loading weights.

    Args:
        settings: Settings of the model.

    Returns:
        The configuration.

    Raises:
        ConfigError: If a part is unknown, or the parts are incompatible.
        CheckpointError: If the configuration of a pretrained encoder cannot be read.
    """
    if settings.head_width < 1:
        raise ConfigError(f"head_width is {settings.head_width}", remedy="Set head_width to at least 1.")
    vision, base = part_config(settings.vision, settings.vision_revision, "vision")
    vision = vision_tower_config(vision)
    image = ImagePreset.named(settings.image_preset, settings.image_size)
    shape = vision_shape(vision, image.size)
    return RegressorConfig(
        vision_config=vision,
        vision_base=base,
        vision_revision=base_revision(base, settings.vision_revision) if base else None,
        vision_train=settings.vision_train,
        vision_lora=asdict(settings.vision_lora),
        image=image.to_dict(),
        image_preset=settings.image_preset,
        image_tokens=shape.tokens,
        vision_width=shape.width,
        head_width=settings.head_width,
    )


def build_regressor(config: RegressorConfig) -> ActionUnitRegressor:
    """Create a new model. A pretrained encoder is loaded; other weights are random.

    Seed PyTorch first to get the same random weights again.

    Args:
        config: A configuration from `regressor_config`.

    Returns:
        The model, in evaluation mode and in float32, to match its ONNX file.

    Raises:
        ConfigError: If no layer of the encoder matches the LoRA targets.
        CheckpointError: If a pretrained encoder cannot be loaded.
    """
    vision = None
    if config.vision_base:
        vision = load_vision(config.vision_base, config.vision_revision, torch.float32)
    return ActionUnitRegressor(config, vision)


def build_regressor_on_meta(settings: RegressorSettings) -> ActionUnitRegressor:
    """Create a model on the meta device: all parts and shapes, without weights. The default encoder needs no download.

    Args:
        settings: Settings of the model.

    Returns:
        The model, without weights.

    Raises:
        ConfigError: If a part is unknown, or the parts are incompatible.
        CheckpointError: If the configuration of a pretrained encoder cannot be read.
    """
    vision, _ = part_config(architecture(settings.vision), settings.vision_revision, "vision")
    fields: dict[str, Any] = {
        **vars(settings),
        "vision": config_fields(vision_tower_config(vision)),
        "vision_revision": None,
    }
    config = regressor_config(RegressorSettings(**fields))
    with torch.device("meta"):
        return ActionUnitRegressor(config)
