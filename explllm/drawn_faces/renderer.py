"""Draw a face from 24 action units, a person and a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from explllm.core.errors import InputError
from explllm.drawn_faces.canvas import Canvas, Image
from explllm.drawn_faces.eyes import draw_brows, draw_eyes, draw_glasses
from explllm.drawn_faces.head import draw_beard, draw_behind, draw_hair, draw_head
from explllm.drawn_faces.identity import Identity, Scene
from explllm.drawn_faces.mouth import draw_mouth, draw_nose
from explllm.drawn_faces.movement import Movement

__all__ = ["Identity", "Scene", "draw_face"]

# Faces are drawn at this multiple of their size and downsampled by averaging, which antialiases all edges.
_SUPERSAMPLING = 2
# Distance from the center of the image to its border, in face units.
_REACH = 1.26
# Image size that Scene.blur refers to, in pixels.
_BLUR_SIZE = 96
MINIMUM_SIZE = 16


def draw_face(action_units: Sequence[float], identity: Identity, scene: Scene, size: int = 96) -> Image:
    """Draw one face. Equal arguments give equal images.

    "Left" units move the person's own left side, which is the right half of the image.

    Example:
        >>> import numpy as np
        >>> from explllm.core.action_units import NAMES
        >>> smile = [0.8 if "Lip Corner Pull" in name else 0.0 for name in NAMES]
        >>> person = Identity.sample(np.random.default_rng(0))
        >>> draw_face(smile, person, Scene(), size=64).shape
        (64, 64, 3)

    Args:
        action_units: 24 intensities in FEAFA's order, each in [0, 1].
        identity: The person.
        scene: Pose, light and camera.
        size: Width and height of the image in pixels.

    Returns:
        RGB image, uint8 (size, size, 3).

    Raises:
        InputError: If the action units are not 24 numbers in [0, 1], or the size is below 16 pixels.
    """
    if size < MINIMUM_SIZE:
        raise InputError(f"the size is {size} pixels", remedy=f"Use a size of at least {MINIMUM_SIZE} pixels.")
    movement = Movement.of(action_units)
    pixels = size * _SUPERSAMPLING
    canvas = Canvas(
        pixels,
        unit=pixels / 2 / _REACH * scene.scale,
        roll=scene.roll,
        yaw=scene.yaw,
        pitch=scene.pitch,
        # Move the head down, because the hair needs more room than the chest.
        shift=(scene.shift[0], scene.shift[1] + 0.04),
        background=scene.background,
    )
    draw_behind(canvas, identity)
    draw_head(canvas, identity, movement)
    draw_beard(canvas, identity, movement)
    draw_nose(canvas, identity, movement)
    draw_mouth(canvas, identity, movement)
    draw_eyes(canvas, identity, movement)
    draw_brows(canvas, identity, movement)
    draw_hair(canvas, identity)
    draw_glasses(canvas, identity)
    small = cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA)
    return _photograph(np.asarray(small, np.uint8), scene)


def _photograph(image: Image, scene: Scene) -> Image:
    """Apply light, blur and noise."""
    size = len(image)
    picture = image.astype(np.float32)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    direction = (math.cos(scene.light_direction), math.sin(scene.light_direction))
    light = 1 + scene.light_contrast * (across[None, :] * direction[0] + across[:, None] * direction[1])
    tint = np.array([1 + scene.light_warmth, 1.0, 1 - scene.light_warmth], np.float32) * scene.light_gain
    picture *= light[..., None] * tint
    sigma = scene.blur * size / _BLUR_SIZE
    if sigma > 0.05:
        cv2.GaussianBlur(picture, (0, 0), sigma, dst=picture)
    if scene.noise > 0:
        noise = np.random.default_rng(scene.noise_seed).standard_normal(picture.shape, np.float32)
        picture += noise * scene.noise
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
