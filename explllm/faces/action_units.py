"""Measure action units in Python: `ActionUnits`, with test-time flipping and results as a table."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from explllm.core.action_units import NAMES, mirror_action_units
from explllm.faces.boxes import Box
from explllm.faces.crop import DEFAULT_MARGIN, face_crop
from explllm.faces.estimators import Estimator, Intensities, open_estimator
from explllm.faces.images import ImageSource, load_image

if TYPE_CHECKING:
    import pandas as pd


class UnitIntensities(list[Intensities | None]):
    """24 intensities per face, in FEAFA's order; None for a face or unit without a measurement."""

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row per face and a column per unit; NaN where there is no measurement."""
        import pandas as pd

        rows = [[None] * len(NAMES) if units is None else units for units in self]
        return pd.DataFrame(rows, columns=list(NAMES), dtype="float64")


class ActionUnits:
    """Measures the 24 action units of faces.

    Use the object as a context manager, or call `close`.

    For example, to measure all faces in a photograph::

        from explllm import ActionUnits, FaceDetector

        faces = FaceDetector("scrfd_10g_bnkps.onnx").detect("party.jpg")
        with ActionUnits("face_landmarker.task") as action_units:
            table = action_units.measure("party.jpg", [face.box for face in faces]).to_frame()
    """

    def __init__(
        self,
        path: str | PathLike[str],
        estimator: str = "landmarker",
        *,
        margin: float | None = None,
        tta: bool = False,
        **options: Any,
    ) -> None:
        """Open an estimator.

        Args:
            path: The estimator's file.
            estimator: A name in `explllm.faces.estimators.ESTIMATORS`.
            margin: Margin around boxes (see `face_crop`); by default, the estimator's training margin, or
                `DEFAULT_MARGIN` if that is unknown.
            tta: Whether to average over the face and its mirror image; see `estimate_with_flip`.
            **options: Options of the estimator.

        Raises:
            InputError: If the file or an option cannot be used.
        """
        self.estimator = open_estimator(estimator, path, **options)
        self.tta = tta
        self.margin = next(m for m in (margin, self.estimator.margin, DEFAULT_MARGIN) if m is not None)

    def measure(self, image: ImageSource, boxes: Sequence[Box] | None = None) -> UnitIntensities:
        """Measure the action units of the faces of an image.

        Args:
            image: The image.
            boxes: Boxes of the faces in pixels of the upright image; by default, the image is used as one face crop.

        Returns:
            24 intensities per face; None for a face without a result or a unit that was not measured.

        Raises:
            ImageError: If the image cannot be read or a box does not fit it.
            MissingPathError: If the file does not exist.
        """
        whole = load_image(image)
        faces = [whole] if boxes is None else [face_crop(whole, box, self.margin) for box in boxes]
        if not faces:
            return UnitIntensities()
        return UnitIntensities(
            estimate_with_flip(self.estimator, faces) if self.tta else self.estimator.estimate(faces)
        )

    def close(self) -> None:
        """Release the estimator."""
        self.estimator.close()

    def __enter__(self) -> ActionUnits:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the estimator."""
        self.close()


def estimate_with_flip(estimator: Estimator, images: Sequence[Image.Image]) -> list[Intensities | None]:
    """Average the estimates for each face and for its mirror image.

    The estimate for the mirror image is mirrored back. If only one of the two estimates exists, it is returned. A unit
    is None if either estimate lacks it.
    """
    count = len(images)
    estimates = estimator.estimate([*images, *(ImageOps.mirror(image) for image in images)])
    results: list[Intensities | None] = []
    for plain, flipped in zip(estimates[:count], estimates[count:], strict=True):
        if plain is None or flipped is None:
            results.append(plain if flipped is None else mirror_action_units(flipped))
            continue
        pairs = zip(plain, mirror_action_units(flipped), strict=True)
        results.append([None if a is None or b is None else (a + b) / 2 for a, b in pairs])
    return results
