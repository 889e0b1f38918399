"""Presets that turn images into model input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from PIL import Image, ImageOps

from explllm.core.errors import ConfigError
from explllm.faces.images import ImageSource as ImageSource
from explllm.faces.images import load_image as load_image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImagePreset:
    """How an image becomes the input of a model."""

    size: int = 224
    """Width and height after resizing, in pixels."""
    square: Literal["pad", "crop", "stretch"] = "crop"
    """How an image becomes square: padded to its longer side, cropped to its shorter side, or stretched."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Color of the padding, RGB in 0-255."""
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """The resizing filter."""
    antialias: bool = True
    """Whether downsampling is antialiased by a wider filter (as in Pillow) or not (as in OpenCV)."""
    upright: bool = True
    """Whether images are rotated according to their EXIF orientation."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel, RGB in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, RGB in [0, 1]."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size < 1:
            raise ConfigError(f"the image size is {self.size} pixels", remedy="Use at least 1.")
        if min(self.std) <= 0:
            raise ConfigError(f"std is {[*self.std]}", remedy="Use numbers above 0, such as 0.5.")

    @classmethod
    def named(cls, name: str, size: int | None = None) -> ImagePreset:
        """Return one of `IMAGE_PRESETS`, with its own size by default.

        Raises:
            ConfigError: If there is no preset with this name, or the size is less than 1.
        """
        if name not in IMAGE_PRESETS:
            raise ConfigError(f"there is no image preset {name!r}", remedy=f"Use one of {', '.join(IMAGE_PRESETS)}.")
        preset = IMAGE_PRESETS[name]
        return preset if size is None else replace(preset, size=size)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImagePreset:
        """Create a preset from the result of `to_dict`."""
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def resize(self, source: ImageSource) -> np.ndarray:
        """Read an image and resize it to a square: uint8 (size, size, 3), RGB, as augmentation expects it."""
        image = load_image(source, self.upright)
        filter_ = Image.Resampling[self.resample.upper()]
        size = (self.size, self.size)
        if self.square == "pad":
            image = _padded(image, self.fill)
        elif self.square == "crop":
            image = ImageOps.fit(image, (min(image.size),) * 2, filter_)
        if image.size == size:
            return np.asarray(image)
        if self.antialias:
            return np.asarray(image.resize(size, filter_))
        return cv2.resize(np.asarray(image), size, interpolation=_OPENCV_FILTERS[self.resample])

    def normalize(self, image: np.ndarray) -> torch.Tensor:
        """Normalize a resized image, uint8 (size, size, 3), to float32 (3, size, size)."""
        # Import torch here, because the worker processes of face detection read images without it.
        import torch

        mean, std = np.asarray(self.mean, dtype=np.float32), np.asarray(self.std, dtype=np.float32)
        # Scale to [0, 1] first, as the released code does, for bit-identical pixels.
        pixels = (image.astype(np.float32) / np.float32(255) - mean) / std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def __call__(self, source: ImageSource) -> torch.Tensor:
        """Read, resize and normalize an image: float32 (3, size, size)."""
        return self.normalize(self.resize(source))


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

IMAGE_PRESETS: Mapping[str, ImagePreset] = MappingProxyType(
    {
        "dinov2": ImagePreset(),
        "clip": ImagePreset(mean=_CLIP_MEAN, std=_CLIP_STD),
        "released": ImagePreset(224, "pad", (123, 117, 104), "bilinear", False, False, _CLIP_MEAN, _CLIP_STD),
        "siglip": ImagePreset(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), square="stretch"),
        "small": ImagePreset(size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), resample="bilinear"),
    }
)
"""``dinov2``: the constants that DINOv2, the paper's encoder, was trained with (the paper states none). ``released``:
the authors' released code, which uses CLIP's constants with DINOv2. ``clip``, ``siglip``: the constants of these
encoders. ``small``: for encoders trained from scratch on small faces."""

_OPENCV_FILTERS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


def _padded(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), fill)
    canvas.paste(image, ((side - width) // 2, (side - height) // 2))
    return canvas
