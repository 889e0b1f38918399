"""A regressor of action units: any vision encoder with a head for FEAFA's 24 intensities."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from explllm.core.action_units import FEAFA
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.faces.pixels import ImagePreset, ImageSource
from explllm.models import storage
from explllm.models.build import architecture, config_fields, part_config
from explllm.models.configuration import Train
from explllm.models.lora import LoraSettings, add_lora, is_lora
from explllm.models.vision import image_features, vision_part, vision_shape

_RESTING = -2.0
"""The head's first output before the sigmoid, an intensity of 0.12: most units rest on most faces."""


@dataclass
class RegressorSettings:
    """The parts of an action-unit regressor."""

    vision: str | dict[str, Any] = "facebook/dinov2-large"
    """Vision encoder: a Hugging Face name or folder with weights, or the fields of its configuration (``model_type``
    and others) for random weights."""
    vision_revision: str | None = None
    """Revision of the encoder on the hub."""
    vision_train: Train = "lora"
    """What trains in the encoder."""
    vision_lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA in the encoder, where it trains by LoRA."""
    image_preset: str = "dinov2"
    """Preprocessing: one of `explllm.faces.pixels.IMAGE_PRESETS`."""
    image_size: int | None = None
    """Width and height that images are brought to, in pixels; by default the image preset's."""
    head_width: int = 128
    """Features of each unit in the head."""


class RegressorConfig(PreTrainedConfig):
    """The configuration that is saved with an `ActionUnitRegressor`."""

    model_type = "explllm_action_units"
    sub_configs = {"vision_config": AutoConfig}  # noqa: RUF012  (transformers' own form)

    vision_config: Any = None
    """Architecture of the encoder, any that `AutoModel` knows."""
    vision_base: str | None = None
    """Hugging Face name or folder that the encoder's base weights come from; None if they are the model's own."""
    vision_revision: str | None = None
    """Revision of `vision_base` on the hub."""
    vision_train: Train = "lora"
    """What trains in the encoder."""
    vision_lora: dict[str, Any] | None = None
    """Fields of `explllm.models.lora.LoraSettings`."""
    image: dict[str, Any] | None = None
    """Fields of `explllm.faces.pixels.ImagePreset`."""
    image_preset: str = "dinov2"
    """The preset's name, for `explllm aus --preset`."""
    margin: float | None = None
    """Around the boxes of the faces that it learned from, as for `explllm.faces.crop.face_crop`; None if not known."""
    training_data_note: str | None = None
    """What is to be said of the data that it learned from: drawn faces, who made the labels."""
    image_tokens: int = 256
    """Tokens for each image."""
    vision_width: int = 1024
    """Width of the encoder's features."""
    head_width: int = 128
    """Features of each unit in the head."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Rebuild the encoder's configuration from a dictionary."""
        if isinstance(self.vision_config, dict):
            fields = dict(self.vision_config)
            self.vision_config = part_config(fields, None, "vision")[0]
        super().__post_init__(**kwargs)


class UnitHead(nn.Module):
    """Looks for each unit at a place of its own, by one attention over the image tokens, and grades what it finds.

    A mean over all tokens would lose the place, which tells a left brow from a right one.
    """

    def __init__(self, tokens: int, width_in: int, width: int, units: int = len(FEAFA)) -> None:
        """Build the head.

        Args:
            tokens: Image tokens N.
            width_in: Width C of the encoder's features.
            width: Features D of each unit.
            units: Number of units U.
        """
        super().__init__()
        scale = width**-0.5
        self.norm = nn.LayerNorm(width_in)
        self.key, self.value = nn.Linear(width_in, width), nn.Linear(width_in, width)
        self.query = nn.Parameter(torch.randn(units, width) * scale)
        # Where each unit is to be found, whatever is there.
        self.place = nn.Parameter(torch.zeros(units, tokens))
        self.mix = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.weight = nn.Parameter(torch.randn(units, width) * scale)
        self.bias = nn.Parameter(torch.full((units,), _RESTING))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Grade the units.

        Args:
            features: Of the encoder, in any float type.

        Returns:
            Intensities in [0, 1], float32.

        Shape legend:
            B: images, N: image tokens, C: width of the features, D: features of a unit, U: units

            features (B, N, C) -> intensities (B, U)
        """
        features = self.norm(features.to(self.bias.dtype))
        attention = (self.key(features) @ self.query.T).transpose(1, 2) + self.place  # (B, U, N)
        found = attention.softmax(-1) @ self.value(features)  # (B, U, D)
        found = found + self.mix(found)
        return ((found * self.weight).sum(-1) + self.bias).sigmoid()


class ActionUnitRegressor(nn.Module):
    """Estimates FEAFA's 24 action units; ``ActionUnitRegressor.from_pretrained(folder)`` opens a trained one."""

    mirror: torch.Tensor

    def __init__(self, config: RegressorConfig, vision: PreTrainedModel | None = None) -> None:
        """Assemble the parts, put LoRA where the configuration asks for it, and freeze what does not train.

        Args:
            config: The configuration.
            vision: An encoder with its weights; by default one with random weights.

        Raises:
            ConfigError: If the encoder has no layers for LoRA.
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
        """Open a model's folder.

        Args:
            folder: What `save_pretrained` wrote: ``runs/NAME/model``.

        Returns:
            The model, in evaluation mode.

        Raises:
            MissingPathError: If there is no such folder.
            CheckpointError: If it is no folder of such a model, or its weights do not fit.
        """
        folder = Path(folder)
        config = _read_config(folder)
        vision = None
        if config.vision_base:
            vision = storage.load_vision(config.vision_base, config.vision_revision, torch.float32)
        model = cls(config, vision)
        weights = storage.read_weights(folder / storage.WEIGHTS)
        storage.check_state_dict(model, weights, str(folder / storage.WEIGHTS))
        model.load_state_dict(weights, strict=False)
        return model

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write the model's folder whole; base weights that a name can give back are not copied.

        Args:
            folder: Where to; a model's folder that is there is replaced.

        Raises:
            CheckpointError: If the path holds something else.
        """
        storage.check_target(Path(folder), replace=True)
        with atomic_write_folder(folder) as temporary:
            self.config.save_pretrained(temporary)
            weights = {name: value.cpu().contiguous() for name, value in storage.weights_to_save(self).items()}
            save_file(weights, temporary / storage.WEIGHTS, metadata={"format": "pt"})

    def parts(self) -> dict[str, tuple[nn.Module, Train, str | None]]:
        """Return each part by name: the module, what trains in it, and where its base weights come from."""
        return {
            "vision": (self.vision, self.config.vision_train, self.config.vision_base),
            "head": (self.head, "full", None),
        }

    def freeze(self) -> dict[str, int]:
        """Set which weights train, by the configuration.

        Returns:
            Number of trainable weights by part.
        """
        counts = {}
        for part, (module, train, _) in self.parts().items():
            unused: frozenset[str] = frozenset()
            if part == "vision" and train == "full":
                unused = vision_shape(self.config.vision_config, self.image.size).unused
            for name, weight in module.named_parameters():
                weight.requires_grad_(
                    (train == "full" and name not in unused) or (train == "lora" and is_lora(f".{name}"))
                )
            counts[part] = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
        return counts

    def train(self, mode: bool = True) -> "ActionUnitRegressor":
        """Switch dropout and batch statistics on or off; parts that are frozen stay in evaluation mode."""
        super().train(mode)
        if self.config.vision_train == "frozen":
            self.vision.eval()
        return self

    def forward_single_view(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Estimate from one look at each image, as in training: (B, 3, H, W) to (B, 24) in [0, 1]."""
        return self.head(image_features(self.vision, pixel_values))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Estimate from the image and its mirror image.

        The estimate is the mean of both, left and right exchanged in the second: that of a flipped image is exactly the
        flipped estimate.

        Args:
            pixel_values: (B, 3, H, W), as `image` prepares them.

        Returns:
            (B, 24) intensities in [0, 1], in FEAFA's order.
        """
        # One after the other and not as one batch, in which a face's place could change the last bit.
        mirrored = self.forward_single_view(pixel_values.flip(-1))
        return (self.forward_single_view(pixel_values) + mirrored[:, self.mirror]) / 2

    @torch.no_grad()
    def estimate(self, images: ImageSource | Sequence[ImageSource]) -> list[list[float]]:
        """Estimate the action units of faces.

        Args:
            images: One image or several, each of one face.

        Returns:
            24 intensities in [0, 1] for each image, in FEAFA's order.

        Raises:
            ImageError: If an image cannot be read.
        """
        several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        if not several:
            return []
        pixels = torch.stack([self.image(image) for image in several]).to(self.head.bias.device)
        return self(pixels).tolist()


def regressor_config(settings: RegressorSettings) -> RegressorConfig:
    """Make a configuration; no weights are needed or loaded.

    Args:
        settings: The parts.

    Returns:
        The configuration.

    Raises:
        ConfigError: If parts do not fit each other or are unknown.
        CheckpointError: If a named encoder cannot be read.
    """
    if settings.head_width < 1:
        raise ConfigError(f"a head of width {settings.head_width}", remedy="Give 1 or more.")
    vision, base = part_config(settings.vision, settings.vision_revision, "vision")
    # The commit that a name on the hub stood for today, so that the model can be put together again.
    revision = settings.vision_revision or getattr(vision, "_commit_hash", None)
    vision = vision_part(vision)
    image = ImagePreset.named(settings.image_preset, settings.image_size)
    shape = vision_shape(vision, image.size)
    return RegressorConfig(
        vision_config=vision,
        vision_base=base,
        vision_revision=revision if base else None,
        vision_train=settings.vision_train,
        vision_lora=asdict(settings.vision_lora),
        image=image.to_dict(),
        image_preset=settings.image_preset,
        image_tokens=shape.tokens,
        vision_width=shape.width,
        head_width=settings.head_width,
    )


def build_regressor(config: RegressorConfig) -> ActionUnitRegressor:
    """Make a new model: the encoder's weights are loaded where they are named, the rest is random (seed it before).

    Args:
        config: What `regressor_config` gave.

    Returns:
        The model, in evaluation mode and float32 throughout, so that its ONNX file gives the same numbers.

    Raises:
        ConfigError: If the encoder has no layers for LoRA.
        CheckpointError: If a named encoder cannot be loaded.
    """
    vision = None
    if config.vision_base:
        vision = storage.load_vision(config.vision_base, config.vision_revision, torch.float32)
    return ActionUnitRegressor(config, vision)


def build_regressor_on_meta(settings: RegressorSettings) -> ActionUnitRegressor:
    """Make a model on the meta device: every part and shape, no weights, and no hub for the presets' encoder.

    Args:
        settings: The parts.

    Returns:
        The model without weights.

    Raises:
        ConfigError: If parts do not fit each other or are unknown.
    """
    vision, _ = part_config(architecture(settings.vision), settings.vision_revision, "vision")
    fields = {**vars(settings), "vision": config_fields(vision_part(vision)), "vision_revision": None}
    config = regressor_config(RegressorSettings(**fields))
    with torch.device("meta"):
        return ActionUnitRegressor(config)


def _read_config(folder: Path) -> RegressorConfig:
    path = folder / "config.json"
    remedy = "Name a folder that `fit` wrote for a regressor of action units: runs/NAME/model."
    if not path.is_file():
        raise MissingPathError("the folder holds no model: it has no config.json", where=folder, remedy=remedy)
    try:
        values, _ = RegressorConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError("config.json cannot be read", where=path, remedy="Save the model again.") from error
    if values.get("model_type") != RegressorConfig.model_type:
        raise CheckpointError(
            f"the folder holds a model of type {values.get('model_type')!r}, not {RegressorConfig.model_type!r}",
            where=folder,
            remedy=remedy,
        )
    return RegressorConfig.from_pretrained(folder)
