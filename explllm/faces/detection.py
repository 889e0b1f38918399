"""Face detection for manifests: a box for each row (``explllm faces``)."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from explllm.core.errors import ConfigError, InputError
from explllm.core.files import atomic_write, check_writable
from explllm.core.manifest import Manifest
from explllm.core.manifest_chunks import ManifestFile
from explllm.faces.boxes import Box, Detection, FaceChoice, match_faces
from explllm.faces.crop import DEFAULT_MARGIN, face_crop
from explllm.faces.detector import FaceDetector
from explllm.faces.images import TRUNCATED, ReducedImage, allow_pixels, load_image, load_reduced, to_reduced
from explllm.faces.job_results import Result, Results, file_sha256
from explllm.faces.jobs import Item, failure
from explllm.faces.onnx_session import Provider
from explllm.faces.table import TableTask, image_boxes

FOUND, GIVEN, NO_FACE, KEPT = "found", "given", "no face found", "no face found; the earlier box is kept"
NO_MATCH = "no detected face overlaps the earlier box, which is kept"
"""Values of the column ``face_status``, followed by `TRUNCATED` for a truncated file. If an image cannot be read, the
column contains the reason instead."""

PER_FACE_COLUMNS = ("expression", "identity", "votes", "facs", "action_units", "cot")
"""Columns that describe one face. If ``all`` turns one row into several, these columns are emptied, and so are columns
that start with one of these names and an underscore, such as ``cot_source``."""

_CACHED_IMAGES = 64


class CropError(InputError):
    """A crop cannot be written."""


@dataclass(frozen=True)
class ImageRows:
    """An image and the rows of the manifest that show it."""

    image: str
    """The image's path in the manifest."""
    path: Path
    """The image's file."""
    rows: tuple[int, ...]
    """The rows, from 0."""
    boxes: tuple[Box | None, ...]
    """The box of each row; None for a row without one."""


@dataclass(frozen=True)
class DetectionJob:
    """Face detection settings for a manifest."""

    detector: Path
    """The ONNX file."""
    which: FaceChoice = "largest"
    """The face to use for a row without a box if the image has several."""
    redo: bool = False
    """Whether to detect faces again for rows that have a box."""
    input_size: int | None = None
    """See `FaceDetector`."""
    threshold: float = 0.5
    """See `FaceDetector`."""
    margin: float = DEFAULT_MARGIN
    """Margin of the crops, see `explllm.faces.crop.face_crop`."""
    crops: Path | None = None
    """Folder for square crops; if None, no crops are written."""
    provider: Provider = "auto"
    """Device of the detector."""
    threads: int | None = None
    """CPU threads of the detector."""
    max_pixels: int | None = None
    """Maximum number of pixels of an image, see `explllm.faces.images.allow_pixels`."""

    def open_detector(self) -> FaceDetector:
        """Open the detector."""
        names = ("input_size", "threshold", "provider", "threads")
        return FaceDetector(self.detector, **{name: getattr(self, name) for name in names})

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[ImageRows]], list[Result]]]:
        """Open the detector, and yield a function that processes images."""
        if self.max_pixels is not None:
            allow_pixels(self.max_pixels)
        detector = self.open_detector()
        yield lambda items: [self._result(item, detector) for item in items]

    def reject(self, item: ImageRows, reason: str) -> Result:
        """Return the result for an unusable image; its rows keep their boxes."""
        faces = [_face(row, box, reason) for row, box in zip(item.rows, item.boxes, strict=True)]
        return {"bad": f"{item.image}: {reason}", "faces": faces}

    def _result(self, item: ImageRows, detector: FaceDetector) -> Result:
        try:
            if self.crops is None:
                faces = list(self._faces(item, load_reduced(item.path, 2 * detector.size), detector))
            else:
                whole = load_image(item.path)
                faces = list(self._faces(item, to_reduced(whole), detector))
                self._write_crops(item.image, whole, faces)
        except CropError:
            raise  # The disk is the cause, not the image.
        except Exception as error:
            return failure(self, item, error)
        return {"bad": None, "faces": faces}

    def _faces(self, item: ImageRows, image: ReducedImage, detector: FaceDetector) -> Iterator[dict[str, Any]]:
        """Yield the faces of an image in the order of its rows; a row without a detected face keeps its box, if any."""
        detections: list[Detection] = []
        matches: list[list[Detection]] = [[] for _ in item.rows]
        if self.redo or None in item.boxes:
            detections = detector.detect_reduced(image)
            matches = match_faces(detections, item.boxes, self.which, image.size)
        for row, box, faces in zip(item.rows, item.boxes, matches, strict=True):
            warning = f"; {TRUNCATED}" if image.truncated else ""
            if box is not None and not self.redo:
                yield _face(row, box, GIVEN + warning)
            elif not faces:
                yield _face(row, box, (NO_FACE if box is None else NO_MATCH if detections else KEPT) + warning)
            for face in faces if box is None or self.redo else ():
                yield _face(row, face.box, FOUND + warning, face.score)

    def _write_crops(self, name: str, image: Image.Image, faces: list[dict[str, Any]]) -> None:
        assert self.crops is not None
        boxed = [face for face in faces if face["box"] is not None]
        for number, face in enumerate(boxed, 1):
            face["crop"] = crop_name(name, number)
            crop = face_crop(image, face["box"], self.margin)
            try:
                with atomic_write(self.crops / face["crop"]) as partial:
                    crop.save(partial, quality=95)
            except OSError as error:
                raise CropError(
                    f"the crop cannot be written ({error.strerror or error})",
                    where=self.crops / face["crop"],
                    remedy="Free disk space or fix the folder; the same command resumes the run.",
                ) from error


def crop_name(image: str, number: int) -> str:
    """Return a crop's path relative to the crop folder; `number` counts the faces of the image from 1.

    For example, the first two crops of ``train/a.jpg`` are ``train/a.jpg`` and ``train/a.face2.jpg``, and the first
    crop of ``a.png`` is ``a.png.jpg``. Parts of the path that lead out of the folder (a root, ``..``) are dropped.
    """
    path = PurePath(image)
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    stem = path.stem if path.suffix == ".jpg" else path.name
    return PurePath(*parts[:-1], f"{stem}.jpg" if number == 1 else f"{stem}.face{number}.jpg").as_posix()


class DetectionTask(TableTask):
    """Detection for a manifest: an item is an image with all its rows.

    The manifest is written with the columns ``box``, ``face_status``, ``face_score`` (None unless the box was detected)
    and, if crops are written, ``crop`` (path relative to the crop folder). A row with several faces becomes several
    rows with empty `PER_FACE_COLUMNS`, because it is unknown which of the faces their values describe.
    """

    title = "faces"
    status_column = "face_status"

    def __init__(self, job: DetectionJob) -> None:
        """Prepare a task."""
        self._job = job
        self._cache: dict[int, dict[int, list[dict[str, Any]]]] = {}

    @property
    def job(self) -> DetectionJob:
        """What to do with the images."""
        return self._job

    def settings(self) -> dict[str, Any]:
        """Return what the results depend on, besides the manifest and its root."""
        job = self._job
        settings = {name: getattr(job, name) for name in ("which", "redo", "input_size", "threshold", "margin")}
        crops = None if job.crops is None else str(job.crops)
        return {"detector": file_sha256(job.detector), "crops": crops, **settings}

    def plan(self, source: ManifestFile) -> int:
        """Group the rows by image, and return the number of images to read.

        Raises:
            ConfigError: If the crops of two images would have the same name, a crop would replace an image, or the
                crop folder cannot be written.
        """
        hashes, boxed = array("q"), bytearray()
        for _, chunk in source:
            for image, box in image_boxes(chunk):
                hashes.append(hash(image))
                boxed.append(box is not None)
        count = len(hashes)
        # In this order, the rows of an image are adjacent, and its first row comes first.
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)
        ordered = np.asarray(hashes)[self._order]
        is_start = np.ones(count, bool)
        is_start[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(is_start)
        sizes = np.diff(np.append(starts, count))
        firsts = self._order[starts]
        # `_first` maps each row to the first row of its image. For that first row, `_start` is the image's place in the
        # order, and `_size` is its number of rows.
        self._first, self._start, self._size = (np.zeros(count, np.int32) for _ in range(3))
        self._first[self._order] = np.repeat(firsts, sizes)
        self._start[firsts], self._size[firsts] = starts, sizes
        self._is_item = np.zeros(count, bool)
        if self._job.crops is not None or self._job.redo:
            self._is_item[firsts] = True
        else:
            self._is_item[self._first[~np.frombuffer(boxed, bool)]] = True
        if self._job.crops is not None:
            check_crop_names(image for _, chunk in source for image in chunk.frame["image"])
            self._check_replaces_no_image(source)
            if self._job.crops.is_file():
                raise ConfigError(
                    "--crops expects a folder, found a file", where=self._job.crops, remedy="Name a folder."
                )
            check_writable(self._job.crops / "crop.jpg")
        return int(self._is_item.sum())

    def _check_replaces_no_image(self, source: ManifestFile) -> None:
        real_folder = cache(os.path.realpath)  # resolve each folder once: a data set has many more images than folders

        def resolve(*parts: str | Path) -> str:
            folder, name = os.path.split(os.path.join(*parts))
            return os.path.join(real_folder(folder), name)

        images = {image for _, chunk in source for image in chunk.frame["image"]}
        paths = {resolve(source.root, image) for image in images}
        # The crop of the second face of `a.jpg` is called `a.face2.jpg`.
        paths |= {re.sub(r"\.face\d+\.jpg$", ".jpg", path) for path in paths}
        for image in images:
            if resolve(str(self._job.crops), crop_name(image, 1)) in paths:
                raise ConfigError(
                    f"the crop of {image} would replace an image",
                    where=self._job.crops,
                    remedy="Pass another folder in --crops.",
                )

    def items(self, source: ManifestFile) -> Iterator[Item]:
        """Yield the images that need detection or crops."""
        if not self._is_item.any():
            return
        boxes = array("d")
        for _, chunk in source:
            for _, box in image_boxes(chunk):
                boxes.extend(box or (math.nan,) * 4)
        for start, chunk in source:
            for row, image in enumerate(chunk.frame["image"], start):
                if self._is_item[row]:
                    start_of_image = self._start[row]
                    rows = tuple(int(other) for other in self._order[start_of_image : start_of_image + self._size[row]])
                    yield row, ImageRows(image, source.root / image, rows, tuple(_box_at(boxes, i) for i in rows))

    def convert(self, row: int, chunk: Manifest, results: Results) -> pd.DataFrame:
        """Return a chunk with the detected boxes."""
        positions: list[int] = []
        faces: list[dict[str, Any]] = []
        for position, (_, box) in enumerate(image_boxes(chunk)):
            faces_of_row = self._faces_of(row + position, results) or [_face(row + position, box, GIVEN)]
            faces += faces_of_row
            positions += [position] * len(faces_of_row)
        frame = chunk.frame.iloc[positions].reset_index(drop=True)
        columns = {"box": "box", "face_status": "status", "face_score": "score"}
        if self._job.crops is not None:
            columns["crop"] = "crop"
        for column, key in columns.items():
            frame[column] = pd.Series([face.get(key) for face in faces], index=frame.index, dtype=object)
        several = pd.Series(positions, index=frame.index).duplicated(keep=False)
        for column in map(str, frame.columns):
            if several.any() and any(column == name or column.startswith(f"{name}_") for name in PER_FACE_COLUMNS):
                frame[column] = frame[column].astype(object).where(~several, None)
        return frame

    def _faces_of(self, row: int, results: Results) -> list[dict[str, Any]]:
        """Return the faces of a row; an empty list if its image was not read."""
        first = int(self._first[row])
        if not self._is_item[first]:
            return []
        if first not in self._cache:
            if len(self._cache) >= _CACHED_IMAGES:
                self._cache.pop(next(iter(self._cache)))
            by_row: dict[int, list[dict[str, Any]]] = {}
            for face in results[first]["faces"]:
                by_row.setdefault(face["row"], []).append(face)
            self._cache[first] = by_row
        return self._cache[first][row]


def _box_at(boxes: array[float], row: int) -> Box | None:
    x, y, w, h = boxes[4 * row : 4 * row + 4]
    return None if math.isnan(x) else (x, y, w, h)


def check_crop_names(images: Iterable[str]) -> None:
    """Check that the crops of all images have different names.

    Raises:
        ConfigError: If the crops of two images would have the same name.
    """
    owners: dict[str, str] = {}
    for image in images:
        name = crop_name(image, 1)
        if (other := owners.setdefault(name, image)) != image:
            raise _duplicate_crop(other, image, name)
    for name, image in owners.items():
        # The second face of `a.jpg` and the first face of `a.face2.jpg` would have the same name.
        first = re.sub(r"\.face\d+\.jpg$", ".jpg", name)
        if first != name and first in owners:
            raise _duplicate_crop(owners[first], image, name)


def _duplicate_crop(first: str, second: str, name: str) -> ConfigError:
    return ConfigError(
        f"the crops of {first} and {second} would have the same name, {name}",
        where="--crops",
        remedy="Omit --crops, or rename one of the images.",
    )


def _face(row: int, box: Box | None, status: str, score: float | None = None) -> dict[str, Any]:
    return {"row": row, "box": None if box is None else list(box), "status": status, "score": score}
