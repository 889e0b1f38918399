"""Action unit estimation for manifests: 24 intensities for each row (``explllm aus``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from explllm.core.errors import InputError
from explllm.core.manifest import Manifest
from explllm.faces.boxes import Box
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.faces.estimators import Estimator, EstimatorSpec, Intensities, fill_unmeasured, unmeasured_units
from explllm.faces.jobs import Result
from explllm.faces.onnx_session import Provider

ESTIMATED, GIVEN = "estimated", "given"
"""Values of the column ``action_units_status``; for a row without intensities it holds the reason."""

_MAX_SIZE = 1024
"""Maximum width and height of faces in pixels: no estimator uses more, and a batch of photographs needs much memory."""


@dataclass(frozen=True)
class FaceRow:
    """A row of a manifest that needs an estimate."""

    row: int
    """The row, from 0."""
    image: str
    """The image's path in the manifest."""
    path: Path
    """Its file."""
    box: Box | None
    """The face's box; None if the image is a face crop."""


@dataclass(frozen=True)
class EstimationJob:
    """Settings of action unit estimation for a manifest."""

    estimator: EstimatorSpec
    """The estimator with its file and options."""
    margin: float | None = None
    """Margin around boxes, see `explllm.faces.crop.face_crop`; by default the estimator's own, or `DEFAULT_MARGIN`."""
    provider: Provider = "auto"
    """Device of the model, if the estimator can choose."""
    threads: int | None = None
    """CPU threads of the model, if the estimator can choose."""

    def open_estimator(self) -> Estimator:
        """Open the estimator.

        Raises:
            InputError: If its file or options cannot be used.
        """
        return self.estimator.open(provider=self.provider, threads=self.threads)

    def margin_for(self, estimator: Estimator) -> float:
        """Return the margin around boxes: the setting, the estimator's training margin, or the default."""
        return next(margin for margin in (self.margin, estimator.margin, DEFAULT_MARGIN) if margin is not None)

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[FaceRow]], list[Result]]]:
        """Open the estimator, and yield a function that processes rows."""
        with closing(self.open_estimator()) as estimator:
            yield lambda items: self._results(items, estimator)

    def _results(self, items: Sequence[FaceRow], estimator: Estimator) -> list[Result]:
        margin = self.margin_for(estimator)
        faces: list[Image.Image | str] = [self._face(item, margin) for item in items]
        try:
            readable = [face for face in faces if not isinstance(face, str)]
            estimates = iter(estimator.estimate(readable) if readable else [])
        except Exception as error:  # one image that breaks a library must not stop the others
            if len(items) > 1:
                return [result for item in items for result in self._results([item], estimator)]
            return [_result(items[0], f"{type(error).__name__}: {error}")]
        return [
            _result(item, face) if isinstance(face, str) else _estimated(next(estimates), estimator)
            for item, face in zip(items, faces, strict=True)
        ]

    def _face(self, item: FaceRow, margin: float) -> Image.Image | str:
        """Return the face, or the reason why it cannot be used."""
        try:
            return load_face(item.path, item.box, margin, _MAX_SIZE)
        except InputError as error:
            return error.found
        except Exception as error:  # as above
            return f"{type(error).__name__}: {error}"


def rows_to_estimate(manifest: Manifest, redo: bool) -> list[FaceRow]:
    """Return the rows that need an estimate: those without action units, or with `redo` all.

    Rows without a detected face are left out, because the whole photograph is not a face.
    """
    frame = manifest.frame
    faceless = manifest.face_not_found()
    given = frame["action_units"].notna() if "action_units" in frame else pd.Series(False, index=frame.index)
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    return [
        FaceRow(row, image, manifest.root / image, None if box is None else (box[0], box[1], box[2], box[3]))
        for row, (image, box) in enumerate(zip(frame["image"], boxes, strict=True))
        if (redo or not given.iloc[row]) and not faceless[row]
    ]


def add_action_units(manifest: Manifest, items: Sequence[FaceRow], results: dict[int, Result], source: str) -> Manifest:
    """Return a manifest with the estimated intensities.

    Args:
        manifest: The manifest that was processed.
        items: The rows that needed an estimate.
        results: The result of each of them, by index.
        source: The estimator's name.

    Returns:
        The manifest with the columns ``action_units``, ``action_units_source``, ``action_units_missing`` (names of the
        unmeasured units, separated by commas; their intensity is 0) and ``action_units_status``. A row without a new
        estimate keeps its old one. If an estimate replaces the intensities of a drawn face,
        ``action_units_true_source`` records that they were drawn.
    """
    frame, drawn = manifest.frame.copy(), manifest.is_synthetic()
    cells = {}
    columns = ("action_units", "action_units_source", "action_units_missing")
    for column in (*columns, *(["action_units_true_source"] if drawn.any() else [])):
        cells[column] = list(frame[column].astype(object)) if column in frame else [None] * len(frame)
    status: list[str] = [GIVEN if reason is None else reason for reason in _without_estimate(manifest)]
    for place, item in enumerate(items):
        result = results[place]
        status[item.row] = result["status"]
        if (units := result["units"]) is not None:
            if drawn[item.row] and pd.isna(cells["action_units_true_source"][item.row]):
                cells["action_units_true_source"][item.row] = cells["action_units_source"][item.row]
            cells["action_units"][item.row] = fill_unmeasured(units)
            cells["action_units_source"][item.row] = source
            cells["action_units_missing"][item.row] = ", ".join(unmeasured_units(units)) or None
    for column, values in {**cells, "action_units_status": status}.items():
        frame[column] = pd.Series(values, index=frame.index, dtype=object)
    return Manifest(frame, manifest.root, manifest.path)


def _without_estimate(manifest: Manifest) -> list[str | None]:
    """Return why each row that is not estimated has no intensities; None if it has some."""
    frame = manifest.frame
    units = frame["action_units"].notna() if "action_units" in frame else [False] * len(frame)
    return [
        str(frame["face_status"].iloc[row]) if faceless and not given else None
        for row, (faceless, given) in enumerate(zip(manifest.face_not_found(), units, strict=True))
    ]


def _estimated(units: Intensities | None, estimator: Estimator) -> Result:
    if units is None:
        return {"bad": None, "status": estimator.no_result, "units": None}
    rounded = [None if value is None else round(value, 4) for value in units]
    return {"bad": None, "status": ESTIMATED, "units": rounded}


def _result(item: FaceRow, reason: str) -> Result:
    return {"bad": f"{item.image}: {reason}", "status": reason, "units": None}
