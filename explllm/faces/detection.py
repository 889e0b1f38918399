"""Face detection for manifests: a box for each row (``explllm faces``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from PIL import Image

from explllm.core.errors import ConfigError, InputError
from explllm.core.files import atomic_write
from explllm.core.manifest import Manifest
from explllm.faces.boxes import Box, Detection, FaceChoice, match_faces
from explllm.faces.crop import DEFAULT_MARGIN, face_crop
from explllm.faces.detector import FaceDetector
from explllm.faces.jobs import Result
from explllm.faces.onnx_session import Provider
from explllm.faces.pixels import load_image

FOUND, GIVEN, NO_FACE, KEPT = "found", "given", "no face found", "no face found; the earlier box is kept"
NO_MATCH = "no detected face overlaps the earlier box, which is kept"
"""Values of the column ``face_status``; for an image that cannot be read it holds the reason."""

PER_FACE_COLUMNS = ("expression", "identity", "votes", "facs", "action_units", "cot")
"""Columns that describe one face, and all columns that start with such a name and an underscore (``cot_source``). They
are emptied if ``all`` turns one row into several."""


@dataclass(frozen=True)
class ImageRows:
    """An image and the rows of the manifest that show it."""

    image: str
    """Its path in the manifest."""
    path: Path
    """Its file."""
    rows: tuple[int, ...]
    """The rows, from 0."""
    boxes: tuple[Box | None, ...]
    """The box of each row."""


@dataclass(frozen=True)
class DetectionJob:
    """Settings of face detection for a manifest."""

    detector: Path
    """The ONNX file."""
    which: FaceChoice = "largest"
    """The face to use for a row without a box if the image shows several."""
    redo: bool = False
    """Detect again in rows that have a box."""
    input_size: int | None = None
    """See `FaceDetector`."""
    threshold: float = 0.5
    """See `FaceDetector`."""
    margin: float = DEFAULT_MARGIN
    """Margin of the crops, see `explllm.faces.crop.face_crop`."""
    crops: Path | None = None
    """Folder for square crops; None writes no crops."""
    provider: Provider = "auto"
    """Device of the detector."""
    threads: int | None = None
    """CPU threads of the detector."""

    def open_detector(self) -> FaceDetector:
        """Open the detector."""
        return FaceDetector(
            self.detector,
            input_size=self.input_size,
            threshold=self.threshold,
            provider=self.provider,
            threads=self.threads,
        )

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[ImageRows]], list[Result]]]:
        """Open the detector, and yield a function that processes images."""
        detector = self.open_detector()
        yield lambda items: [self._result(item, detector) for item in items]

    def _result(self, item: ImageRows, detector: FaceDetector) -> Result:
        if self.crops is None and not self.redo and None not in item.boxes:
            given = [_face(row, box, GIVEN) for row, box in zip(item.rows, item.boxes, strict=True)]
            return {"bad": None, "faces": given}
        try:
            image = load_image(item.path)
            faces = list(self._faces(item, image, detector))
            if self.crops is not None:
                self._write_crops(item.image, image, faces)
        except InputError as error:
            return _unusable(item, error.found)
        except Exception as error:  # one image that breaks a library must not stop the others
            return _unusable(item, f"{type(error).__name__}: {error}")
        return {"bad": None, "faces": faces}

    def _faces(self, item: ImageRows, image: Image.Image, detector: FaceDetector) -> Iterator[dict[str, Any]]:
        """Yield the faces of an image in the order of its rows; a row without a face has no box."""
        detections: list[Detection] = []
        matches: list[list[Detection]] = [[] for _ in item.rows]
        if self.redo or None in item.boxes:
            detections = detector.detect(image)
            matches = match_faces(detections, item.boxes, self.which, image.size)
        for row, box, faces in zip(item.rows, item.boxes, matches, strict=True):
            if box is not None and not self.redo:
                yield _face(row, box, GIVEN)
            elif not faces:
                yield _face(row, box, NO_FACE if box is None else NO_MATCH if detections else KEPT)
            for face in faces if box is None or self.redo else ():
                yield _face(row, face.box, FOUND, face.score)

    def _write_crops(self, name: str, image: Image.Image, faces: list[dict[str, Any]]) -> None:
        assert self.crops is not None
        boxed = [face for face in faces if face["box"] is not None]
        for number, face in enumerate(boxed, 1):
            face["crop"] = crop_name(name, number)
            with atomic_write(self.crops / face["crop"]) as partial:
                face_crop(image, face["box"], self.margin).save(partial, quality=95)


def crop_name(image: str, number: int) -> str:
    """Return the path of a crop relative to the crop folder.

    Args:
        image: The image's path in the manifest; parts that lead out of the folder (a root, ``..``) are dropped.
        number: Number of the face in the image, from 1.

    Returns:
        For example ``train/a.jpg``, and ``train/a.face2.jpg`` for the second face; ``a.png`` becomes ``a.png.jpg``.
    """
    path = PurePath(image)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    stem = path.stem if path.suffix == ".jpg" else path.name
    return PurePath(*parts[:-1], f"{stem}.jpg" if number == 1 else f"{stem}.face{number}.jpg").as_posix()


def check_crop_names(images: Sequence[ImageRows]) -> None:
    """Check that the crops of all images have different names.

    Args:
        images: The images to crop.

    Raises:
        ConfigError: If the crops of two images would have the same name.
    """
    owners: dict[str, str] = {}
    for item in images:
        name = crop_name(item.image, 1)
        if (other := owners.setdefault(name, item.image)) != item.image:
            raise _duplicate_crop(other, item.image, name)
    for name, image in owners.items():
        # The second face of `a.jpg` and the first of `a.face2.jpg`.
        first = re.sub(r"\.face\d+\.jpg$", ".jpg", name)
        if first != name and first in owners:
            raise _duplicate_crop(owners[first], image, name)


def _duplicate_crop(first: str, second: str, name: str) -> ConfigError:
    return ConfigError(
        f"the crops of {first} and {second} would have the same name, {name}",
        where="--crops",
        remedy="Leave --crops out, or rename one of the images.",
    )


def group_by_image(manifest: Manifest) -> list[ImageRows]:
    """Return the images of a manifest with their rows, in order of first appearance."""
    frame = manifest.frame
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    faces: dict[str, list[tuple[int, Box | None]]] = {}
    for row, (image, box) in enumerate(zip(frame["image"], boxes, strict=True)):
        faces.setdefault(image, []).append((row, None if box is None else (box[0], box[1], box[2], box[3])))
    return [
        ImageRows(image, manifest.root / image, tuple(row for row, _ in group), tuple(box for _, box in group))
        for image, group in faces.items()
    ]


def add_faces(manifest: Manifest, results: dict[int, Result]) -> Manifest:
    """Return a manifest with the detected boxes.

    Args:
        manifest: The manifest that was processed.
        results: The result of each image of `group_by_image`.

    Returns:
        The manifest with the columns ``box``, ``face_status``, ``face_score`` (None for a given box) and, if crops were
        written, ``crop`` (path relative to the crop folder). A row with several faces becomes several rows without
        `PER_FACE_COLUMNS`, because it is unknown which face they describe.
    """
    faces = sorted((face for result in results.values() for face in result["faces"]), key=lambda face: face["row"])
    rows = [face["row"] for face in faces]
    frame = manifest.frame.iloc[rows].reset_index(drop=True)
    for column, key in (("box", "box"), ("face_status", "status"), ("face_score", "score"), ("crop", "crop")):
        if column != "crop" or any("crop" in face for face in faces):
            frame[column] = pd.Series([face.get(key) for face in faces], index=frame.index, dtype=object)
    several = pd.Series(rows, index=frame.index).duplicated(keep=False)
    for column in map(str, frame.columns):
        if several.any() and any(column == name or column.startswith(f"{name}_") for name in PER_FACE_COLUMNS):
            frame[column] = frame[column].astype(object).where(~several, None)
    return Manifest(frame, manifest.root, manifest.path)


def _face(row: int, box: Box | None, status: str, score: float | None = None) -> dict[str, Any]:
    return {"row": row, "box": None if box is None else list(box), "status": status, "score": score}


def _unusable(item: ImageRows, reason: str) -> Result:
    """Return the result for an image that cannot be used; its rows keep their boxes."""
    faces = [_face(row, box, reason) for row, box in zip(item.rows, item.boxes, strict=True)]
    return {"bad": f"{item.image}: {reason}", "faces": faces}
