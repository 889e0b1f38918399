"""Face boxes: intersection over union, selection among several faces, and matching faces to rows of a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright image; the origin is its upper left corner."""

Point = tuple[float, float]
"""x, y in pixels of the upright image."""

FaceChoice = Literal["largest", "central", "all"]
"""Which face to use if an image has several: the largest, the one nearest to the center, or all of them."""

MIN_IOU = 0.3
"""Minimum intersection over union of two boxes of the same face. Our choice is low because box conventions differ."""


@dataclass(frozen=True)
class Detection:
    """A detected face."""

    box: Box
    """The face's box, inside the image."""
    score: float
    """Confidence of the detector, in [0, 1]."""
    landmarks: tuple[Point, ...] | None = None
    """Five points: the eyes (left in the image first), the tip of the nose, the corners of the mouth; None if the
    detector has no landmarks."""


class Detections(list[Detection]):
    """The detected faces of an image."""

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row per face and the columns ``x``, ``y``, ``w``, ``h`` and ``score``."""
        import pandas as pd

        return pd.DataFrame([[*face.box, face.score] for face in self], columns=["x", "y", "w", "h", "score"])


def iou(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes, in [0, 1]."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = first[2] * first[3] + second[2] * second[3] - shared
    return shared / union if union > 0 else 0.0


def select_faces(detections: Sequence[Detection], which: FaceChoice, size: tuple[int, int]) -> list[Detection]:
    """Select one face of an image of the given size; ``all`` selects every face, from left to right."""
    if which == "all":
        return sorted(detections, key=lambda face: face.box)
    if not detections:
        return []

    def distance(face: Detection) -> float:
        x, y, w, h = face.box
        return (x + w / 2 - size[0] / 2) ** 2 + (y + h / 2 - size[1] / 2) ** 2

    if which == "central":
        return [min(detections, key=distance)]
    return [max(detections, key=lambda face: face.box[2] * face.box[3])]


def match_faces(
    detections: Sequence[Detection], boxes: Sequence[Box | None], which: FaceChoice, size: tuple[int, int]
) -> list[list[Detection]]:
    """Assign the faces detected in an image to the manifest rows of this image.

    A row with a box gets the face with the highest intersection over union, if it is at least `MIN_IOU`. Each face is
    assigned to at most one row. A row without a box gets the faces that `which` selects among the remaining ones.

    Args:
        detections: The detected faces.
        boxes: The earlier box of each row; at most one may be None.
        which: The rule for a row without a box.
        size: Width and height of the image.

    Returns:
        The faces of each row. A row has at most one face, or any number with ``all``.
    """
    pairs = [
        (iou(box, face.box), row, index)
        for row, box in enumerate(boxes)
        if box is not None
        for index, face in enumerate(detections)
    ]
    matches: list[list[Detection]] = [[] for _ in boxes]
    remaining = set(range(len(detections)))
    for score, row, index in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if score >= MIN_IOU and not matches[row] and index in remaining:
            matches[row] = [detections[index]]
            remaining.remove(index)
    for row, box in enumerate(boxes):
        if box is None:
            matches[row] = select_faces([detections[index] for index in sorted(remaining)], which, size)
    return matches
