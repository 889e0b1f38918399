"""Augmentation of training images, which keeps action units and chains of thought true to the picture."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explllm.core.action_units import mirror_action_units
from explllm.core.errors import ConfigError
from explllm.explanations.chain_of_thought import mirror_text

# Albumentations asks the package index for a newer version when it is imported, and waits where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2

_ERASED = 127
"""Gray level of erased areas: near the mean of a face, so that normalized pixels stay small."""


class Augment:
    """Flips, moves, recolors and partly erases an image, at random but repeatably.

    Each strength may be 0, which turns that change off. The defaults keep the evidence of an expression: faces stay
    nearly upright, and colors natural.

    Args:
        flip: Probability of a flip from left to right.
        rotation: Greatest rotation, degrees either way.
        scale: Greatest change of size, as a share: 0.1 gives 0.9 to 1.1 times the size.
        shift: Greatest shift along each axis, as a share of the image's side.
        brightness: Greatest change of brightness, as a share.
        contrast: Greatest change of contrast, as a share.
        saturation: Greatest change of color saturation, as a share.
        hue: Greatest turn of the hue, as a share of the whole color circle, up to 0.5.
        erase: Probability that a rectangle is erased.
        erase_area: Smallest and greatest area of the rectangle, as shares of the image's area.
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
        limits = {
            "flip": (flip, 1.0),
            "rotation": (rotation, 180.0),
            "scale": (scale, 0.9),
            "shift": (shift, 1.0),
            "brightness": (brightness, 1.0),
            "contrast": (contrast, 1.0),
            "saturation": (saturation, 1.0),
            "hue": (hue, 0.5),
            "erase": (erase, 1.0),
        }
        for name, (value, most) in limits.items():
            if not 0 <= value <= most:
                raise ConfigError(f"augment.{name} is {value}", remedy=f"Give a number from 0 (off) to {most:g}.")
        smallest, greatest = erase_area
        if not 0 < smallest <= greatest <= 1:
            raise ConfigError(
                f"augment.erase_area is {list(erase_area)}",
                remedy="Give the smallest and the greatest area, shares above 0 and up to 1.",
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
            steps.append(albumentations.Erasing(scale=(smallest, greatest), fill=_ERASED, p=erase))
        self._steps = albumentations.Compose(steps) if steps else None

    def __call__(
        self, image: NDArray[np.uint8], action_units: list[float | None] | None, cot: str | None, rng_seed: int
    ) -> tuple[NDArray[np.uint8], list[float | None] | None, str | None]:
        """Change an image, and what is said about it where that has sides.

        Args:
            image: uint8 RGB of shape (H, W, 3); it is left as it is.
            action_units: 24 intensities in FEAFA's order, None for a unit that was not measured; or None.
            cot: A text about the face, or None.
            rng_seed: Seed, 0 or more. Equal seeds give equal results, in any process and after any earlier calls.

        Returns:
            The image, of the same shape; the action units and the text, with left and right exchanged if the image was
            flipped.
        """
        uniform = random.Random(rng_seed)
        flipped = uniform.random() < self.flip
        if flipped:
            image = np.ascontiguousarray(image[:, ::-1])
            action_units = None if action_units is None else mirror_action_units(action_units)
            cot = None if cot is None else mirror_text(cot)
        if self._steps is not None:
            # Not Compose.set_random_seed: it gives every step a generator of its own with the same seed, so that their
            # draws would go together, such as a bright image always being a turned one.
            self._steps.set_random_state(np.random.default_rng(rng_seed), uniform)
            image = self._steps(image=image)["image"]
        elif not flipped:
            image = image.copy()
        return image, action_units, cot


class ReleasedAugment(Augment):
    """The augmentation of the authors' released code: albumentations' transforms of the same kinds and strengths.

    Flip 0.5; color jitter (0.25, 0.25, 0.25, hue 0.1) or, as likely, gray with 0.2; with 0.5 a rotation of up to 5
    degrees and then a resized crop (0.8 to 1 of the area, 3:4 to 4:3) or a crop after padding by 12 pixels; with 0.5 an
    affine map (15 degrees, shift 0.1, size 0.9 to 1.1) and a Gaussian blur (5 to 9 pixels, sigma 0.1 to 2); with 0.5 an
    erased area of 0.05 to 0.12. Random numbers are not drawn in the released order: equal in distribution, not in
    pixels. Unlike there, a flip turns left and right in the chain of thought too.

    Args:
        size: Width and height of the images, in pixels.
    """

    def __init__(self, size: int = 224) -> None:
        self.flip = 0.5
        self._steps = albumentations.Compose(
            [
                albumentations.OneOf(
                    [
                        albumentations.ColorJitter(
                            brightness=(0.75, 1.25),
                            contrast=(0.75, 1.25),
                            saturation=(0.75, 1.25),
                            hue=(-0.1, 0.1),
                            p=1,
                        ),
                        albumentations.Compose([albumentations.ToGray(p=0.2)], p=1),
                    ],
                    p=1,
                ),
                albumentations.Sequential(
                    [
                        albumentations.Rotate(limit=(-5, 5), interpolation=cv2.INTER_NEAREST, p=1),
                        albumentations.OneOf(
                            [
                                albumentations.RandomResizedCrop(
                                    (size, size), scale=(0.8, 1), ratio=(3 / 4, 4 / 3), p=1
                                ),
                                # A crop of the same size after padding is a shift by whole pixels.
                                albumentations.Affine(translate_px=(-12, 12), fill=0, p=1),
                            ],
                            p=1,
                        ),
                    ],
                    p=0.5,
                ),
                albumentations.Sequential(
                    [
                        albumentations.Affine(
                            rotate=(-15, 15),
                            translate_percent=(-0.1, 0.1),
                            scale=(0.9, 1.1),
                            keep_ratio=True,
                            interpolation=cv2.INTER_NEAREST,
                            p=1,
                        ),
                        albumentations.GaussianBlur(blur_limit=(5, 9), sigma_limit=(0.1, 2.0), p=1),
                    ],
                    p=0.5,
                ),
                albumentations.Erasing(scale=(0.05, 0.12), fill=0, p=0.5),
            ]
        )
