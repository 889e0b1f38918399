"""What ``explllm faces`` does: a box for each row of a manifest."""

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
"""What the column ``face_status`` says of a row; of one whose image cannot be read it says why."""

PER_FACE_COLUMNS = ("expression", "identity", "votes", "facs", "action_units", "cot")
"""Columns that speak of one face, with all whose names begin with one of these and an underscore (``cot_source``): they
are emptied where ``all`` makes several rows of one."""


@dataclass(frozen=True)
class ImageRows:
    """An image, with the rows of the manifest that show it."""

    image: str
    """Its path in the manifest."""
    path: Path
    """Its file."""
    rows: tuple[int, ...]
    """The rows, from 0."""
    boxes: tuple[Box | None, ...]
    """The box that each row has."""


@dataclass(frozen=True)
class DetectionJob:
    """Settings of the search for faces."""

    detector: Path
    """The ONNX file."""
    which: FaceChoice = "largest"
    """The face to take where an image that stands in one row shows several."""
    redo: bool = False
    """Search again where a row has a box already."""
    input_size: int | None = None
    """As for `FaceDetector`."""
    threshold: float = 0.5
    """As for `FaceDetector`."""
    margin: float = DEFAULT_MARGIN
    """Of the crops, as for `explllm.faces.crop.face_crop`."""
    crops: Path | None = None
    """The folder for square crops; None: none are written."""
    provider: Provider = "auto"
    """Where the detector runs."""
    threads: int | None = None
    """Its CPU threads."""

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
        """Open the detector, and give what finds the faces of images."""
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
        except Exception as error:  # whatever an image does to a library, the other images are still to be done
            return _unusable(item, f"{type(error).__name__}: {error}")
        return {"bad": None, "faces": faces}

    def _faces(self, item: ImageRows, image: Image.Image, detector: FaceDetector) -> Iterator[dict[str, Any]]:
        """Yield the faces of an image in the order of its rows, and a row without a face as one without a box."""
        found: list[list[Detection]] = [[] for _ in item.rows]
        if self.redo or None in item.boxes:
            found = match_faces(detector.detect(image), item.boxes, self.which, image.size)
        for row, box, faces in zip(item.rows, item.boxes, found, strict=True):
            if box is not None and not self.redo:
                yield _face(row, box, GIVEN)
            elif not faces:
                yield _face(row, box, NO_FACE if box is None else KEPT)
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
    """Return the path of a crop below its folder.

    Args:
        image: The image's path in the manifest; what leads out of the folder (a root, ``..``) is left out.
        number: Number of the face in its image, from 1.

    Returns:
        Such as ``train/a.jpg``, for the second face ``train/a.face2.jpg``; ``a.png`` becomes ``a.png.jpg``.
    """
    path = PurePath(image)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    stem = path.stem if path.suffix == ".jpg" else path.name
    return PurePath(*parts[:-1], f"{stem}.jpg" if number == 1 else f"{stem}.face{number}.jpg").as_posix()


def check_crop_names(images: Sequence[ImageRows]) -> None:
    """Make sure that no crop takes the place of another image's.

    Args:
        images: The images whose faces are to be cropped.

    Raises:
        ConfigError: If the crops of two images would have one name.
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
        f"the crops of {first} and {second} would have one name, {name}",
        where="--crops",
        remedy="Leave --crops out, or rename one of the images.",
    )


def group_by_image(manifest: Manifest) -> list[ImageRows]:
    """Return the images of a manifest, each once, with its rows, in order of first mention."""
    frame = manifest.frame
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    rows: dict[str, list[tuple[int, Box | None]]] = {}
    for row, (image, box) in enumerate(zip(frame["image"], boxes, strict=True)):
        rows.setdefault(image, []).append((row, None if box is None else (box[0], box[1], box[2], box[3])))
    return [
        ImageRows(image, manifest.root / image, tuple(row for row, _ in held), tuple(box for _, box in held))
        for image, held in rows.items()
    ]


def add_faces(manifest: Manifest, results: dict[int, Result]) -> Manifest:
    """Return a manifest with the boxes that were found.

    Args:
        manifest: The table that the search began with.
        results: What became of each image of `group_by_image`.

    Returns:
        The table with the columns ``box``, ``face_status``, ``face_score`` (None for a given box) and, if crops were
        written, ``crop`` (path below their folder). A row with several faces becomes several rows, in which what
        speaks of one face (`PER_FACE_COLUMNS`) is empty, as nobody knows of which.
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
    """Return the result for an image that cannot be used; boxes that are there stay."""
    faces = [_face(row, box, reason) for row, box in zip(item.rows, item.boxes, strict=True)]
    return {"bad": f"{item.image}: {reason}", "faces": faces}
