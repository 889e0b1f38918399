"""Action unit estimation for manifests: 24 intensities for each row (``explllm aus``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from explllm.core.manifest import Manifest
from explllm.core.manifest_chunks import ManifestFile
from explllm.faces.action_units import estimate_with_flip
from explllm.faces.boxes import Box
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.faces.estimators import Estimator, EstimatorSpec, Intensities, fill_unmeasured, unmeasured_units
from explllm.faces.images import TRUNCATED, allow_pixels
from explllm.faces.job_results import Result, Results, file_sha256
from explllm.faces.jobs import Item, failure
from explllm.faces.onnx_session import Provider
from explllm.faces.table import TableTask, image_boxes

ESTIMATED, GIVEN = "estimated", "given"
"""Values of the column ``action_units_status``, followed by `TRUNCATED` for a truncated file. If a row cannot be
estimated, the column contains the reason instead."""

_MAX_SIZE = 1024
"""Maximum width and height of faces in pixels. No estimator uses more, and a batch of full-size photographs would need
a lot of memory."""


@dataclass(frozen=True)
class FaceRow:
    """A row of a manifest that needs an estimate."""

    row: int
    """The row, from 0."""
    image: str
    """The image's path in the manifest."""
    path: Path
    """The image's file."""
    box: Box | None
    """The face's box; None if the image is a face crop."""


@dataclass(frozen=True)
class EstimationJob:
    """Settings of action unit estimation for a manifest."""

    estimator: EstimatorSpec
    """The estimator with its file and options."""
    margin: float | None = None
    """Margin around boxes (see `explllm.faces.crop.face_crop`); by default, the estimator's training margin, or
    `DEFAULT_MARGIN` if that is unknown."""
    tta: bool = False
    """Whether to average over the face and its mirror image; see `explllm.faces.action_units.estimate_with_flip`."""
    provider: Provider = "auto"
    """Device of the model, for estimators with a choice of device."""
    threads: int | None = None
    """CPU threads of the model, for estimators that can set them."""
    max_pixels: int | None = None
    """Maximum number of pixels of an image, see `explllm.faces.images.allow_pixels`."""

    def open_estimator(self) -> Estimator:
        """Open the estimator; raise InputError if its file or options cannot be used."""
        return self.estimator.open(provider=self.provider, threads=self.threads)

    def margin_for(self, estimator: Estimator) -> float:
        """Return the margin around boxes: the setting, the estimator's training margin, or the default."""
        return next(margin for margin in (self.margin, estimator.margin, DEFAULT_MARGIN) if margin is not None)

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[FaceRow]], list[Result]]]:
        """Open the estimator, and yield a function that processes rows."""
        if self.max_pixels is not None:
            allow_pixels(self.max_pixels)
        with closing(self.open_estimator()) as estimator:
            yield lambda items: self._results(items, estimator)

    def reject(self, item: FaceRow, reason: str) -> Result:
        """Return the result for an unusable image."""
        return {"bad": f"{item.image}: {reason}", "status": reason, "units": None}

    def _results(self, items: Sequence[FaceRow], estimator: Estimator) -> list[Result]:
        margin = self.margin_for(estimator)
        faces: list[Image.Image | Result] = [self._face(item, margin) for item in items]
        try:
            readable = [face for face in faces if isinstance(face, Image.Image)]
            estimates = iter(self._estimates(readable, estimator) if readable else [])
        except Exception as error:
            if len(items) > 1:
                return [result for item in items for result in self._results([item], estimator)]
            return [failure(self, items[0], error)]
        return [
            _estimated(face, next(estimates), estimator) if isinstance(face, Image.Image) else face for face in faces
        ]

    def _estimates(self, faces: Sequence[Image.Image], estimator: Estimator) -> list[Intensities | None]:
        return estimate_with_flip(estimator, faces) if self.tta else estimator.estimate(faces)

    def _face(self, item: FaceRow, margin: float) -> Image.Image | Result:
        """Return the face, or the result for an unusable image."""
        try:
            return load_face(item.path, item.box, margin, _MAX_SIZE)
        except Exception as error:
            return failure(self, item, error)


class EstimationTask(TableTask):
    """Estimation for a manifest: the items are the rows without action units, or all rows if `redo` is set.

    Rows without a detected face are skipped; otherwise, the whole photograph would be used as a face crop. The manifest
    is written with the columns ``action_units``, ``action_units_source``, ``action_units_missing`` (names of the
    unmeasured units, separated by commas; their intensity is 0) and ``action_units_status``. A row without a new
    estimate keeps its old one. If an estimate replaces the intensities of a drawn face, ``action_units_true_source``
    keeps the source of the replaced intensities.
    """

    title = "action units"
    status_column = "action_units_status"

    def __init__(self, job: EstimationJob, source: str, batch_size: int, redo: bool = False) -> None:
        """Prepare a task.

        Args:
            job: What to do with the rows.
            source: The name of the estimator in the column ``action_units_source``.
            batch_size: The estimator's batch size.
            redo: Whether to estimate again for rows that have action units.
        """
        self._job, self._source, self.batch_size, self._redo = job, source, batch_size, redo

    @property
    def job(self) -> EstimationJob:
        """What to do with the rows."""
        return self._job

    def settings(self) -> dict[str, Any]:
        """Return what the results depend on, besides the manifest and its root."""
        estimator = self._job.estimator
        return {
            "estimator": file_sha256(estimator.path),
            "source": self._source,
            "margin": self._job.margin,
            "tta": self._job.tta,
            "options": dict(estimator.options),
            "redo": self._redo,
        }

    def plan(self, source: ManifestFile) -> int:
        """Count the rows to estimate, and note whether some faces are drawn."""
        self._any_drawn, count = False, 0
        for _, chunk in source:
            self._any_drawn |= bool(chunk.is_synthetic().any())
            count += sum(self._needed(chunk))
        return count

    def items(self, source: ManifestFile) -> Iterator[Item]:
        """Yield the rows to estimate."""
        for start, chunk in source:
            rows = zip(image_boxes(chunk), self._needed(chunk), strict=True)
            for row, ((image, box), needed) in enumerate(rows, start):
                if needed:
                    yield row, FaceRow(row, image, source.root / image, box)

    def convert(self, row: int, chunk: Manifest, results: Results) -> pd.DataFrame:
        """Return a chunk with the estimated intensities."""
        frame, drawn = chunk.frame.copy(), chunk.is_synthetic()
        columns = ["action_units", "action_units_source", "action_units_missing"]
        columns += ["action_units_true_source"] * self._any_drawn
        cells: dict[str, list[Any]] = {
            column: list(frame[column].astype(object)) if column in frame else [None] * len(frame) for column in columns
        }
        status = _given_status(chunk)
        for position in range(len(frame)):
            if row + position not in results:
                continue
            result = results[row + position]
            status[position] = result["status"]
            if (units := result["units"]) is not None:
                if drawn.iloc[position] and pd.isna(cells["action_units_true_source"][position]):
                    cells["action_units_true_source"][position] = cells["action_units_source"][position]
                cells["action_units"][position] = fill_unmeasured(units)
                cells["action_units_source"][position] = self._source
                cells["action_units_missing"][position] = ", ".join(unmeasured_units(units)) or None
        for column, values in {**cells, self.status_column: status}.items():
            frame[column] = pd.Series(values, index=frame.index, dtype=object)
        return frame

    def _needed(self, chunk: Manifest) -> list[bool]:
        """Return whether each row needs an estimate."""
        missing = [units is None for units in _column(chunk, "action_units")]
        return [
            (self._redo or absent) and not faceless
            for absent, faceless in zip(missing, chunk.face_not_found(), strict=True)
        ]


def _column(chunk: Manifest, name: str) -> list[Any]:
    return list(chunk.frame[name]) if name in chunk.frame else [None] * len(chunk)


def _given_status(chunk: Manifest) -> list[str]:
    """Return the status that each row has if it is not estimated."""
    rows = zip(chunk.face_not_found(), _column(chunk, "action_units"), _column(chunk, "face_status"), strict=True)
    return [str(reason) if faceless and units is None else GIVEN for faceless, units, reason in rows]


def _estimated(face: Image.Image, units: Intensities | None, estimator: Estimator) -> Result:
    warning = f"; {TRUNCATED}" if face.info.get("truncated") else ""
    if units is None:
        return {"bad": None, "status": estimator.no_result + warning, "units": None}
    rounded = [None if value is None else round(value, 4) for value in units]
    return {"bad": None, "status": ESTIMATED + warning, "units": rounded}
