"""Augmentation of training images that keeps action units and chains of thought consistent with the image."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explllm.core.action_units import mirror_action_units
from explllm.core.errors import ConfigError
from explllm.explanations.chain_of_thought import mirror_text

# On import, albumentations checks the package index for a newer version, and waits if there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2

_ERASED = 127
"""Gray level of erased areas: near the mean of a face, which keeps normalized pixels small."""


class Augment:
    """Random flip, rotation, scale, shift, color jitter and erasing, reproducible by seed.

    A strength of 0 turns a change off. The defaults preserve expressions: faces stay nearly upright, and colors look
    natural.

    Args:
        flip: Probability of a horizontal flip.
        rotation: Maximum rotation, in degrees.
        scale: Maximum change of scale: 0.1 gives 0.9 to 1.1 times the size.
        shift: Maximum shift along each axis, as a share of the image size.
        brightness: Maximum relative change of brightness.
        contrast: Maximum relative change of contrast.
        saturation: Maximum relative change of saturation.
        hue: Maximum shift of the hue, as a share of the color wheel, up to 0.5.
        erase: Probability of erasing a rectangle.
        erase_area: Minimum and maximum area of the rectangle, as shares of the image area.
    """

    def __init__(
        self,
        flip: float = 0.5,
        rotation: float = 10.0,
        scale: float = 0.1,
        shift: float = 0.05,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        erase: float = 0.25,
        erase_area: tuple[float, float] = (0.02, 0.12),
    ) -> None:
        strengths = {"flip": flip, "rotation": rotation, "scale": scale, "shift": shift, "brightness": brightness}
        strengths |= {"contrast": contrast, "saturation": saturation, "hue": hue, "erase": erase}
        for name, value in strengths.items():
            maximum = {"rotation": 180.0, "scale": 0.9, "hue": 0.5}.get(name, 1.0)
            if not 0 <= value <= maximum:
                raise ConfigError(f"`augment.{name}` is {value}", remedy=f"Use 0 (off) to {maximum:g}.")
        smallest, largest = erase_area
        if not 0 < smallest <= largest <= 1:
            raise ConfigError(
                f"`augment.erase_area` is {list(erase_area)}",
                remedy="Use a minimum and a maximum area, shares above 0 and up to 1.",
            )
        self.flip = flip
        steps: list[Any] = []
        if rotation or scale or shift:
            steps.append(
                albumentations.Affine(
                    rotate=(-rotation, rotation),
                    scale=(1 - scale, 1 + scale),
                    translate_percent=(-shift, shift),
                    keep_ratio=True,
                    border_mode=cv2.BORDER_REPLICATE,
                    p=1.0,
                )
            )
        if brightness or contrast or saturation or hue:
            steps.append(
                albumentations.ColorJitter(
                    brightness=(1 - brightness, 1 + brightness),
                    contrast=(1 - contrast, 1 + contrast),
                    saturation=(1 - saturation, 1 + saturation),
                    hue=(-hue, hue),
                    p=1.0,
                )
            )
        if erase:
            steps.append(albumentations.Erasing(scale=(smallest, largest), fill=_ERASED, p=erase))
        self._steps = albumentations.Compose(steps) if steps else None

    def __call__(
        self, image: NDArray[np.uint8], action_units: list[float | None] | None, cot: str | None, rng_seed: int
    ) -> tuple[NDArray[np.uint8], list[float | None] | None, str | None]:
        """Augment an image; a flip also swaps left and right in its action units and text.

        Args:
            image: uint8 RGB of shape (H, W, 3); not modified.
            action_units: 24 intensities in FEAFA's order, if known; units that were not measured are None.
            cot: A text about the face, or None.
            rng_seed: Seed, at least 0. Equal seeds give equal results, in any process and regardless of earlier calls.

        Returns:
            The image, of the same shape; and the action units and the text, with left and right swapped after a flip.
        """
        uniform = random.Random(rng_seed)
        flipped = uniform.random() < self.flip
        if flipped:
            image = np.ascontiguousarray(image[:, ::-1])
            action_units = None if action_units is None else mirror_action_units(action_units)
            cot = None if cot is None else mirror_text(cot)
        if self._steps is not None:
            # Compose.set_random_seed is not used, because it gives the generator of every step the same seed, which
            # correlates the steps: brightened images would always be rotated, for example.
            self._steps.set_random_state(np.random.default_rng(rng_seed), uniform)
            image = self._steps(image=image)["image"]
        elif not flipped:
            image = image.copy()
        return image, action_units, cot


class ReleasedAugment(Augment):
    """The augmentation of the authors' released code: the same kinds of transforms with the same strengths.

    At 224 pixels, the following transforms are applied in this order:

    - with probability 0.5, a flip
    - either color jitter (brightness, contrast and saturation 0.25, hue 0.1) or, equally often, grayscale with
      probability 0.2
    - with probability 0.5, a rotation of up to 5 degrees, followed by a resized crop (0.8 to 1 of the area, aspect
      ratio 3:4 to 4:3) or a crop after padding by 12 pixels
    - with probability 0.5, an affine map (15 degrees, shift 0.1, scale 0.9 to 1.1) and a Gaussian blur (5 to 9 pixels,
      sigma 0.1 to 2)
    - with probability 0.5, a rectangle is erased (0.05 to 0.12 of the area)

    At other sizes, lengths in pixels are scaled. Random numbers are drawn in a different order than in the released
    code, so the distributions are equal but the pixels are not. Unlike in the released code, a flip also swaps left and
    right in the chain of thought.
    """

    def __init__(self) -> None:
        self.flip = 0.5
        self._steps = None
        self._size = 0

    def __call__(
        self, image: NDArray[np.uint8], action_units: list[float | None] | None, cot: str | None, rng_seed: int
    ) -> tuple[NDArray[np.uint8], list[float | None] | None, str | None]:
        """Augment a square image of any size; see `Augment`."""
        if image.shape[0] != self._size:
            self._size = image.shape[0]
            self._steps = _released_steps(self._size)
        return super().__call__(image, action_units, cot, rng_seed)


def _released_steps(size: int) -> Any:
    """Return the released transforms for images of `size` x `size` pixels."""
    scale = size / 224
    shift = round(12 * scale)
    low, high = (max(3, 2 * round((pixels * scale - 1) / 2) + 1) for pixels in (5, 9))  # kernels have odd sizes
    light = {name: (0.75, 1.25) for name in ("brightness", "contrast", "saturation")}
    jitter = albumentations.ColorJitter(**light, hue=(-0.1, 0.1), p=1)
    gray = albumentations.Compose([albumentations.ToGray(p=0.2)], p=1)
    rotation = albumentations.Rotate(limit=(-5, 5), interpolation=cv2.INTER_NEAREST, p=1)
    resized_crop = albumentations.RandomResizedCrop((size, size), scale=(0.8, 1), ratio=(3 / 4, 4 / 3), p=1)
    # A crop of the same size after padding is a shift by whole pixels.
    padded_crop = albumentations.Affine(translate_px=(-shift, shift), fill=0, p=1)
    affine = albumentations.Affine(
        rotate=(-15, 15),
        translate_percent=(-0.1, 0.1),
        scale=(0.9, 1.1),
        keep_ratio=True,
        interpolation=cv2.INTER_NEAREST,
        p=1,
    )
    gaussian_blur = albumentations.GaussianBlur(blur_limit=(low, high), sigma_limit=(0.1 * scale, 2.0 * scale), p=1)
    return albumentations.Compose(
        [
            albumentations.OneOf([jitter, gray], p=1),
            albumentations.Sequential([rotation, albumentations.OneOf([resized_crop, padded_crop], p=1)], p=0.5),
            albumentations.Sequential([affine, gaussian_blur], p=0.5),
            albumentations.Erasing(scale=(0.05, 0.12), fill=0, p=0.5),
        ]
    )
