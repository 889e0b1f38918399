"""Boxes of faces: iou, choice among several, and which face a row of the manifest means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]
"""x, y, width, height in pixels of the upright image; the origin is its upper left corner."""

Point = tuple[float, float]
"""x, y in pixels of the upright image."""

FaceChoice = Literal["largest", "central", "all"]
"""The face of an image with several: the largest, the one nearest to the middle, or all of them."""

SAME_FACE = 0.3
"""Two boxes that iou at least so much are taken for the same face; ours, as detectors cut differently."""


@dataclass(frozen=True)
class Detection:
    """A face that was found."""

    box: Box
    """The face's box, inside the image."""
    score: float
    """How sure the detector is, in [0, 1]."""
    landmarks: tuple[Point, ...] | None = None
    """Five points: the eyes (left in the image first), the tip of the nose, the corners of the mouth; None if the
    detector finds none."""


def iou(first: Box, second: Box) -> float:
    """Return the intersection of two boxes over their union, in [0, 1]."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0.0) * max(down, 0.0)
    union = first[2] * first[3] + second[2] * second[3] - shared
    return shared / union if union > 0 else 0.0


def select_faces(detections: Sequence[Detection], which: FaceChoice, size: tuple[int, int]) -> list[Detection]:
    """Choose among the faces of an image.

    Args:
        detections: The faces.
        which: The rule.
        size: Width and height of the image.

    Returns:
        One face, or with ``all`` every face from left to right; none if there is none.
    """
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
    """Say which faces of an image the rows of a manifest mean.

    An image that stands in one row means the face that `which` chooses. Of an image in several rows, each row with a
    box means the face that overlaps it most, each face going to one row; a row without a box means what is left.

    Args:
        detections: The faces that were found.
        boxes: The box that each row of the image had before; at most one row has none.
        which: The rule for a row without a box, and for an image in one row.
        size: Width and height of the image.

    Returns:
        The faces of each row: none, one, or with ``all`` any number.
    """
    if len(boxes) == 1:
        return [select_faces(detections, which, size)]
    pairs = [
        (iou(box, face.box), row, place)
        for row, box in enumerate(boxes)
        if box is not None
        for place, face in enumerate(detections)
    ]
    found: list[list[Detection]] = [[] for _ in boxes]
    left = set(range(len(detections)))
    for share, row, place in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if share >= SAME_FACE and not found[row] and place in left:
            found[row] = [detections[place]]
            left.remove(place)
    for row, box in enumerate(boxes):
        if box is None:
            found[row] = select_faces([detections[place] for place in sorted(left)], which, size)
    return found
