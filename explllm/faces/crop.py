"""Square face crops: one rule, shared by training, action units and explanation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike, fspath

import cv2
import numpy as np
from PIL import Image

from explllm.core.errors import ImageError
from explllm.faces.boxes import Detection
from explllm.faces.images import ImageSource, load_image, load_reduced, to_reduced

DEFAULT_MARGIN = 0.1
"""Margin on each side of a box, as a share of its longer side. Our choice: the paper states none."""

_MAX_RATIO = 8
"""A crop whose side exceeds this multiple of the image's longer side indicates a wrong box."""

_CROP_RATIO, _CROP_SIZE = 1.3, 512
_CROP_SHARE = 0.6
"""Minimum length of the face box's longer side in a face crop, as a share of the crop's longer side. In a crop with
`DEFAULT_MARGIN`, the share is 0.83."""


def crop_warning(image: Image.Image) -> str | None:
    """Return a warning if a picture does not look like a face crop; None if it does.

    Unlike many photographs, face crops are nearly square and rarely large. Only the picture's size is checked; its
    content is left to a face detector.
    """
    width, height = image.size
    if max(width, height) <= _CROP_RATIO * min(width, height) and min(width, height) < _CROP_SIZE:
        return None
    return (
        f"The picture of {width} x {height} pixels may be a photograph rather than a face crop; detect its faces first "
        "with --detector."
    )


def is_face_crop(image: Image.Image, faces: Sequence[Detection]) -> bool:
    """Return whether a picture can be used as a face crop as it is.

    Such a picture has the shape and size of a crop (see `crop_warning`), and shows only one face, which fills most of
    the picture. Detectors miss faces that fill the picture, so a picture of this shape and size in which no face is
    detected also counts as a crop.
    """
    if crop_warning(image) is not None or len(faces) > 1:
        return False
    return all(max(face.box[2:]) >= _CROP_SHARE * max(image.size) for face in faces)


def face_crop(image: Image.Image, box: Sequence[float], margin: float = DEFAULT_MARGIN) -> Image.Image:
    """Return the square crop of a face, centered on its box, in the mode and resolution of the image.

    The crop's side is the box's longer side plus the margin at both ends. Outside the image, the edge pixels are
    repeated, which looks more natural than black bars.

    Example:
        >>> from PIL import Image
        >>> photograph = Image.new("RGB", (640, 480))
        >>> face_crop(photograph, (100, 50, 80, 120), margin=0.25).size
        (180, 180)

    Args:
        image: The upright image.
        box: x, y, width, height in image pixels.
        margin: Margin on each side, as a share of the box's longer side; a negative margin cuts into the box.

    Raises:
        ImageError: If the box lies outside the image, or the crop would be far larger than the image.
    """
    rows, columns = _square(box, margin, image.size)
    part = np.asarray(image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    return Image.fromarray(_fill_square(part, rows - rows[0], columns - columns[0]))


def _square(box: Sequence[float], margin: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the rows and columns of a crop; outside the image, the index at its edge is repeated."""
    _check_box(box, margin, size)
    x, y, w, h = box
    # Half a pixel is always rounded up, because Python's rounding to even would shift some crops but not others.
    length = max(math.floor(max(w, h) * (1 + 2 * margin) + 0.5), 1)
    left, top = math.floor(x + w / 2 - length / 2 + 0.5), math.floor(y + h / 2 - length / 2 + 0.5)
    columns = np.clip(np.arange(left, left + length), 0, size[0] - 1)
    return np.clip(np.arange(top, top + length), 0, size[1] - 1), columns


def _fill_square(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the given rows and columns of pixels, as a view if no row or column is repeated."""
    if len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1:
        return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return pixels[np.ix_(rows, columns)]


def _check_box(box: Sequence[float], margin: float, size: tuple[int, int]) -> None:
    """Raise an error if a box lies outside an image of the given size, or its crop is far larger than the image."""
    x, y, w, h = box
    width, height = size
    side = max(w, h) * (1 + 2 * margin)
    if x >= width or y >= height or x + w <= 0 or y + h <= 0 or side > _MAX_RATIO * max(size):
        raise ImageError(
            f"the box {[round(float(number), 2) for number in box]} does not fit the image of "
            f"{width} x {height} pixels",
            remedy="Use x, y, width and height in pixels of the upright image.",
        )


def load_face(
    source: ImageSource, box: Sequence[float] | None, margin: float = DEFAULT_MARGIN, max_size: int | None = None
) -> Image.Image:
    """Read an image as RGB and crop its face.

    Args:
        source: As for `load_image`.
        box: The face's box; None if the image is already a face crop.
        margin: As for `face_crop`.
        max_size: Shrink the face to at most this width and height, in pixels.

    Raises:
        ImageError: If the image cannot be read or the box does not fit it.
        MissingPathError: If the image does not exist.
    """
    where = fspath(source) if isinstance(source, str | PathLike) else None
    # A crop keeps up to `max_size` pixels per side, no matter how small a part of the image it is.
    part = None if box is None else max(box[2], box[3]) * (1 + 2 * margin)
    image = to_reduced(load_image(source)) if max_size is None else load_reduced(source, max_size, part)
    pixels = image.pixels
    if box is not None:
        scale = 1 / round(image.size[0] / pixels.shape[1])
        try:
            _check_box(box, margin, image.size)
        except ImageError as error:
            raise ImageError(error.found, where=where, remedy=error.remedy) from error
        size = pixels.shape[1], pixels.shape[0]
        pixels = _fill_square(pixels, *_square([side * scale for side in box], margin, size))
    if max_size is not None and max(pixels.shape) > max_size:
        shrink = max_size / max(pixels.shape)
        height, width = (max(round(side * shrink), 1) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    face = Image.fromarray(pixels)
    if image.truncated:
        face.info["truncated"] = True
    return face
