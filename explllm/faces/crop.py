"""From a face's box to the square that models see: the one rule for training, action units and explaining."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike, fspath

import numpy as np
from PIL import Image

from explllm.core.errors import ImageError
from explllm.faces.pixels import ImageSource, load_image

DEFAULT_MARGIN = 0.1
"""Added on each side of a box, as a share of its longer side. Ours: the paper states none."""

_LARGEST = 8
"""A square longer than so many times the image's longer side is no face but a mistake in the box."""


def face_crop(image: Image.Image, box: Sequence[float], margin: float = DEFAULT_MARGIN) -> Image.Image:
    """Cut a face out as a square around the middle of its box.

    The side is the box's longer side with the margin on both ends. Where the square reaches beyond the image, the
    image's edge is repeated, which looks more like a photograph than a black bar does.

    Args:
        image: The upright image.
        box: x, y, width, height in pixels of it.
        margin: Added on each side, as a share of the box's longer side; negative cuts into the box.

    Returns:
        The square, in the image's mode, at the image's own resolution.

    Raises:
        ImageError: If the box lies outside the image, or is far larger than it.
    """
    x, y, w, h = box
    side = max(w, h) * (1 + 2 * margin)
    if x >= image.width or y >= image.height or x + w <= 0 or y + h <= 0 or side > _LARGEST * max(image.size):
        raise ImageError(
            f"the box {[round(float(number), 2) for number in box]} does not fit the image of "
            f"{image.width} x {image.height} pixels",
            remedy="Give x, y, width and height in pixels of the upright image.",
        )
    # Half a pixel is rounded up, always: Python's own rounding would shift some squares and not others.
    length = max(math.floor(side + 0.5), 1)
    left, top = math.floor(x + w / 2 - length / 2 + 0.5), math.floor(y + h / 2 - length / 2 + 0.5)
    columns = np.clip(np.arange(left, left + length), 0, image.width - 1)
    rows = np.clip(np.arange(top, top + length), 0, image.height - 1)
    part = np.asarray(image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    if part.shape[:2] == (length, length):
        return Image.fromarray(part)
    return Image.fromarray(part[np.ix_(rows - rows[0], columns - columns[0])])


def load_face(
    source: ImageSource, box: Sequence[float] | None, margin: float = DEFAULT_MARGIN, largest: int | None = None
) -> Image.Image:
    """Read an image and cut its face out.

    Args:
        source: As for `load_image`.
        box: The face's box; None if the image is a face already.
        margin: As for `face_crop`.
        largest: Shrink the face to at most so many pixels of width and height.

    Returns:
        The face, RGB.

    Raises:
        ImageError: If the image cannot be read or the box does not fit it.
        MissingPathError: If the image does not exist.
    """
    image = load_image(source)
    try:
        face = image if box is None else face_crop(image, box, margin)
    except ImageError as error:
        where = fspath(source) if isinstance(source, str | PathLike) else None
        raise ImageError(error.found, where=where, remedy=error.remedy) from error
    if largest is not None and max(face.size) > largest:
        face.thumbnail((largest, largest))
    return face
