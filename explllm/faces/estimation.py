"""What ``explllm aus`` does: action units for each row of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from explllm.core.errors import ConfigError, InputError
from explllm.core.manifest import Manifest
from explllm.faces.boxes import Box
from explllm.faces.crop import DEFAULT_MARGIN, load_face
from explllm.faces.estimators import Estimator, Intensities, known, unmeasured_units
from explllm.faces.estimators.blendshapes import MediaPipeBlendshapes
from explllm.faces.estimators.onnx_regressor import OnnxRegressor
from explllm.faces.jobs import Result
from explllm.faces.onnx_session import Provider

ESTIMATED, GIVEN = "estimated", "given"
"""What the column ``action_units_status`` says of a row; of one without intensities it says why."""

_LARGEST = 1024
"""Faces are shrunk to so many pixels first: no estimator sees more, and sixteen photographs would fill the memory."""


@dataclass(frozen=True)
class FaceRow:
    """A row of a manifest whose action units are to be estimated."""

    row: int
    """The row, from 0."""
    image: str
    """The image's path in the manifest."""
    path: Path
    """Its file."""
    box: Box | None
    """The face's box; None if the image is a face."""


@dataclass(frozen=True)
class EstimationJob:
    """Settings of an estimator; exactly one of `landmarker` and `onnx` is given."""

    landmarker: Path | None = None
    """MediaPipe's ``face_landmarker.task``."""
    onnx: Path | None = None
    """A model with 24 outputs."""
    preset: str | None = None
    """Image preset of the ONNX model, as for `OnnxRegressor`."""
    size: int | None = None
    """Input size of the ONNX model, in pixels."""
    margin: float | None = None
    """Around a box, as for `explllm.faces.crop.face_crop`; by default `margin_for` the estimator."""
    provider: Provider = "auto"
    """Where the ONNX model runs."""
    threads: int | None = None
    """Its CPU threads."""

    def open_estimator(self) -> Estimator:
        """Open the estimator.

        Raises:
            InputError: If its file cannot be used, or not exactly one is given.
        """
        if self.landmarker is not None and self.onnx is None:
            return MediaPipeBlendshapes(self.landmarker)
        if self.onnx is not None and self.landmarker is None:
            return OnnxRegressor(self.onnx, self.preset, self.size, self.provider, self.threads)
        raise ConfigError("not exactly one estimator", remedy="Give --landmarker FILE or --onnx FILE.")

    def margin_for(self, estimator: Estimator) -> float:
        """Return the margin around a box: what was given, else what the ONNX model learned with, else the default."""
        own = estimator.margin if isinstance(estimator, OnnxRegressor) else None
        return next(margin for margin in (self.margin, own, DEFAULT_MARGIN) if margin is not None)

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[FaceRow]], list[Result]]]:
        """Open the estimator, and give what estimates the action units of rows."""
        with closing(self.open_estimator()) as estimator:
            yield lambda items: self._results(items, estimator)

    def _results(self, items: Sequence[FaceRow], estimator: Estimator) -> list[Result]:
        margin = self.margin_for(estimator)
        faces: list[Image.Image | str] = [self._face(item, margin) for item in items]
        try:
            readable = [face for face in faces if not isinstance(face, str)]
            found = iter(estimator.estimate(readable) if readable else [])
        except Exception as error:  # whatever an image does to a library, the other images are still to be done
            if len(items) > 1:
                return [result for item in items for result in self._results([item], estimator)]
            return [_result(items[0], f"{type(error).__name__}: {error}")]
        return [
            _result(item, face) if isinstance(face, str) else _estimated(item, next(found), estimator)
            for item, face in zip(items, faces, strict=True)
        ]

    def _face(self, item: FaceRow, margin: float) -> Image.Image | str:
        """Return the face, or the reason why there is none."""
        try:
            return load_face(item.path, item.box, margin, _LARGEST)
        except InputError as error:
            return error.found
        except Exception as error:  # as above
            return f"{type(error).__name__}: {error}"


def rows_to_estimate(manifest: Manifest, redo: bool) -> list[FaceRow]:
    """Return the rows whose action units are to be estimated: those without, or with `redo` all.

    Rows in which ``explllm faces`` found no face are left out: the whole photograph is none.
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
    """Return a manifest with the intensities that were estimated.

    Args:
        manifest: The table that the estimation began with.
        items: The rows that were estimated.
        results: What became of each of them.
        source: The estimator's name.

    Returns:
        The table with the columns ``action_units``, ``action_units_source``, ``action_units_missing`` (names of the
        units that the estimator does not know, with commas between them; their intensity says 0) and
        ``action_units_status``. A row without a new estimate keeps the one it had. Where the estimate takes the place
        of a drawn face's intensities, ``action_units_true_source`` says that they were drawn.
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
            cells["action_units"][item.row] = known(units)
            cells["action_units_source"][item.row] = source
            cells["action_units_missing"][item.row] = ", ".join(unmeasured_units(units)) or None
    for column, values in {**cells, "action_units_status": status}.items():
        frame[column] = pd.Series(values, index=frame.index, dtype=object)
    return Manifest(frame, manifest.root, manifest.path)


def _without_estimate(manifest: Manifest) -> list[str | None]:
    """Return why a row that is not estimated has no intensities; None where it has some."""
    frame = manifest.frame
    units = frame["action_units"].notna() if "action_units" in frame else [False] * len(frame)
    return [
        str(frame["face_status"].iloc[row]) if faceless and not given else None
        for row, (faceless, given) in enumerate(zip(manifest.face_not_found(), units, strict=True))
    ]


def _estimated(item: FaceRow, units: Intensities | None, estimator: Estimator) -> Result:
    if units is None:
        return {"bad": None, "status": estimator.nothing, "units": None}
    rounded = [None if value is None else round(value, 4) for value in units]
    return {"bad": None, "status": ESTIMATED, "units": rounded}


def _result(item: FaceRow, reason: str) -> Result:
    return {"bad": f"{item.image}: {reason}", "status": reason, "units": None}
