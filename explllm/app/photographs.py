"""The faces in a picture that a user sent: checked, cropped, and preprocessed for the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image

from explllm.core.errors import ImageError
from explllm.faces.boxes import Box, FaceChoice, select_faces
from explllm.faces.crop import DEFAULT_MARGIN, crop_warning, face_crop, is_face_crop
from explllm.faces.detector import FaceDetector
from explllm.faces.images import TRUNCATED, ImageSource, load_image, open_image
from explllm.models.explllm import ExpLLM

MAX_PIXELS = 50_000_000
"""Default maximum number of pixels of a picture."""


@dataclass(frozen=True)
class Photograph:
    """A picture and its faces."""

    image: Image.Image
    """Upright, RGB."""
    boxes: tuple[Box | None, ...]
    """Box of each face; None if the picture itself is the face."""
    warnings: tuple[str, ...] = ()
    """Reasons to doubt results for this picture."""

    def crop(self, face: int, margin: float | None) -> Image.Image:
        """Return the crop of a face (with the default margin if `margin` is None), or the picture if it has no box."""
        box = self.boxes[face]
        return self.image if box is None else face_crop(self.image, box, DEFAULT_MARGIN if margin is None else margin)


def open_photograph(
    source: ImageSource, detector: FaceDetector | None, which: FaceChoice = "all", max_pixels: int | None = None
) -> Photograph:
    """Read a picture and find its faces.

    Args:
        source: The picture.
        detector: Finds the faces. Without a detector, the picture is treated as one face. A face crop is always
            treated as one face.
        which: The faces to use if there are several.
        max_pixels: Maximum number of pixels of a picture passed as bytes. The size is read from the header, and
            larger pictures are rejected without being decoded.

    Raises:
        ImageError: If the picture cannot be read, is too large, or shows no face.
    """
    if max_pixels is not None and isinstance(source, bytes):
        _check_size(source, max_pixels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TRUNCATED)
        image = load_image(source)
    doubts = ["The image file is truncated."] if image.info.get("truncated") else []
    if detector is None:
        doubts += filter(None, [crop_warning(image)])
        return Photograph(image, (None,), tuple(doubts))
    detections = detector.detect(image)
    if is_face_crop(image, detections):
        if not detections:
            doubts.append("No face was detected; the whole picture is treated as one face.")
        return Photograph(image, (None,), tuple(doubts))
    faces = select_faces(detections, which, image.size)
    if not faces:
        raise ImageError(
            "no face found", remedy="Send a picture in which the face is larger and turned toward the camera."
        )
    return Photograph(image, tuple(face.box for face in faces), tuple(doubts))


def preprocess(model: ExpLLM, photograph: Photograph, face: int, margin: float | None = None) -> torch.Tensor:
    """Return the pixels (3, H, W) of a face for a model; by default with the margin that the model was trained with."""
    return model.image(photograph.crop(face, model.config.margin if margin is None else margin))


def _check_size(content: bytes, max_pixels: int) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_image(BytesIO(content)) as header:
                width, height = header.size
    except Exception:  # `load_image` reports the error
        return
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels", remedy=f"Send one of at most {max_pixels:,} pixels."
        )
