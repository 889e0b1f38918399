"""The manifest columns: what they mean, and how their cells are validated and converted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.action_units import check_action_units, parse_unit_names
from explllm.core.errors import InputError, ManifestError, UnknownExpressionError
from explllm.core.expressions import Expression
from explllm.core.manifest_files import is_empty

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "image": "path of the image, relative to the manifest's root",
        "expression": "name of the expression, or empty",
        "split": "name of the split, such as train or test",
        "identity": "identifier of the person, if known",
        "box": "face box (x, y, w, h) in pixels of the upright image; the origin is the upper left corner",
        "action_units": "24 intensities in [0, 1], in FEAFA order",
        "cot": "the chain of thought",
        "action_units_missing": "comma-separated names of unmeasured units; their intensity is stored as 0",
        "action_units_source": "source of the intensities: a model name, or drawn",
        "cot_source": "source of the chain of thought: a model name, or offline",
    }
)
"""The known columns and their meaning. Other columns are allowed and preserved."""

REQUIRED: tuple[str, ...] = ("image",)
"""The required columns."""

_LISTS = ("box", "action_units")
_TEXTS = tuple(column for column in COLUMNS if column not in _LISTS)


def checked_table(frame: pd.DataFrame, path: Path | None, first_row: int) -> pd.DataFrame:
    """Return a copy of the table with the known columns validated and converted."""
    absent = [column for column in REQUIRED if column not in frame]
    if absent:
        raise ManifestError(
            f"no column {', '.join(absent)} among {', '.join(map(str, frame.columns)) or 'none'}",
            where=path,
            remedy=f"Use the column names of a manifest: {', '.join(COLUMNS)}.",
        )
    frame = frame.reset_index(drop=True)
    converters: dict[str, Callable[[Any], Any]] = dict.fromkeys(_TEXTS, str)
    converters |= {"image": _image, "expression": _expression, "box": _box, "action_units": _action_units}
    converters["action_units_missing"] = _missing
    for column, convert in converters.items():
        if column in frame:
            cells = _convert(frame[column], convert, column, path, first_row)
            # dtype=object keeps empty cells as None instead of NaN in every pandas version.
            frame[column] = pd.Series(cells, index=frame.index, dtype=object)
    _check_unique_faces(frame, path, first_row)
    return frame


def _convert(
    cells: Iterable[Any], convert: Callable[[Any], Any], column: str, path: Path | None, first_row: int
) -> list[Any]:
    converted = []
    for row, cell in enumerate(cells, first_row + 1):
        try:
            converted.append(None if is_empty(cell) else convert(cell))
        except InputError as error:
            raise ManifestError(error.found, where=_row(path, row, column), remedy=error.remedy) from error
    if column in REQUIRED and None in converted:
        where = _row(path, first_row + converted.index(None) + 1, column)
        raise ManifestError("the cell is empty", where=where, remedy="Fill it or drop the row.")
    return converted


def _row(path: Path | None, row: int, column: str) -> str:
    return ", ".join([*([str(path)] if path else []), f"row {row}", f"column {column}"])


def _image(cell: Any) -> str:
    if not isinstance(cell, str | os.PathLike):
        raise InputError(f"invalid path {cell!r}", remedy="Use a path relative to the root folder.")
    return os.fspath(cell)


def _expression(cell: Any) -> str:
    try:
        return Expression.parse(cell).value
    except UnknownExpressionError as error:
        raise InputError(
            error.found, remedy=f"Use the names {', '.join(Expression)}. Convert class numbers to names first."
        ) from None


def _listed(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise InputError(f"{cell!r} is not a list", remedy="Write a JSON list of numbers.") from None
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if not isinstance(cell, list | tuple):
        raise InputError(f"{cell!r} is not a list", remedy="Write a JSON list of numbers.")
    return list(cell)


def _action_units(cell: Any) -> list[float]:
    intensities = check_action_units(_listed(cell))
    # Tables are validated again when they are written, so reuse lists that are already valid instead of copying them.
    # Sharing one 0.0 object saves memory because most intensities are 0.
    is_converted = isinstance(cell, list) and all(type(intensity) is float for intensity in cell)
    return cell if is_converted else [intensity or 0.0 for intensity in intensities]


def _missing(cell: Any) -> str:
    parse_unit_names(str(cell))
    return str(cell)


def _box(cell: Any) -> list[float]:
    remedy = "Provide x, y, width and height in pixels; width and height must be positive."
    try:
        box = [float(number) for number in _listed(cell)]
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the box {cell!r} contains a value that is not a number", remedy=remedy) from None
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise InputError(f"invalid box {box}", remedy=remedy)
    return box


def _check_unique_faces(frame: pd.DataFrame, path: Path | None, first_row: int) -> None:
    """Raise an error if two rows have the same image and box.

    Without this check, the same face could be in both training and test data.
    """
    # Most images contain one face, so compare only rows that share an image.
    shared = frame.index[frame["image"].duplicated(keep=False)]
    images, boxes = (frame[name].tolist() if name in frame else [None] * len(frame) for name in ("image", "box"))
    first_rows: dict[tuple[str, tuple[float, ...] | None], int] = {}
    for row in shared:
        first = first_rows.setdefault((images[row], None if boxes[row] is None else tuple(boxes[row])), row)
        if first != row:
            raise duplicate_face(path, images[row], first_row + first, first_row + row)


def duplicate_face(path: Path | None, image: str, first: int, second: int) -> ManifestError:
    """Return the error for two rows (counted from 0) of the same face."""
    return ManifestError(
        f"duplicate face: {image} is also in row {first + 1}",
        where=_row(path, second + 1, "image"),
        remedy="Keep one row per face. If an image has several faces, give each row a box.",
    )
