"""The manifest: the table that every command reads and writes, one row a face."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from explllm.core import manifest_files
from explllm.core.action_units import check_action_units, parse_unit_names
from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import Expression
from explllm.core.files import atomic_write, check_writable
from explllm.core.manifest_files import SUFFIXES, format_of, is_empty

__all__ = ["COLUMNS", "REQUIRED", "SUFFIXES", "Manifest"]

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "image": "path of the image, relative to the manifest's root",
        "expression": "the expression's name, or empty",
        "split": "name of the part of the data set, such as train or test",
        "identity": "who is shown, where that is known",
        "box": "the face's box (x, y, w, h) in pixels of the upright image; the origin is its upper left corner",
        "action_units": "24 intensities in [0, 1], in FEAFA's order",
        "cot": "the chain of thought",
        "action_units_missing": "names of the units that were not measured, with commas; their intensity says 0",
        "action_units_source": "where the intensities come from: a model's name, or drawn",
        "cot_source": "where the chain of thought comes from: a model's name, or offline",
    }
)
"""Each known column and what it holds. A manifest may have further columns; they are carried along."""

REQUIRED: tuple[str, ...] = ("image",)
"""The columns without which a table is no manifest."""

_REMEDIES = {
    "expression": "label the images",
    "split": "name each row's split",
    "box": "detect the faces",
    "action_units": "estimate the action units",
    "cot": "write the chains of thought",
}
_LISTS = ("box", "action_units")
_TEXTS = tuple(column for column in COLUMNS if column not in _LISTS)


class Manifest:
    """A table of faces and the folder that its image paths start from."""

    def __init__(self, frame: pd.DataFrame, root: str | os.PathLike[str], path: Path | None = None) -> None:
        """Check a table and take it over.

        Args:
            frame: The table, with the columns of `COLUMNS` that are known and any others. Empty cells of the known
                columns become None, boxes and action units lists of floats, expressions the paper's names.
            root: The folder that the image paths start from.
            path: The file that the table was read from, for messages.

        Raises:
            ManifestError: If a required column is absent, a cell cannot be understood, or two rows are the same face.
        """
        self.root = Path(root)
        self.path = path
        self.frame = _checked(frame, path)

    @classmethod
    def read(cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
        """Read a manifest.

        Args:
            path: A Parquet (``.parquet``), CSV (``.csv``) or JSON Lines (``.jsonl``) file.
            root: The folder that the image paths start from; the manifest's own folder if None.

        Returns:
            The manifest.

        Raises:
            MissingPathError: If there is no such file.
            ManifestError: If the file cannot be read as a table, or the table is no manifest.
        """
        path = Path(path)
        reader = format_of(path)[0]
        if not path.is_file():
            raise MissingPathError("there is no such manifest", where=path, remedy="Check the path.")
        try:
            # Known columns as text: an identity 007 must not become 7.
            frame = reader(path, list(COLUMNS))
        except InputError:
            raise
        except (ValueError, OSError) as error:  # the parsers' own errors are kinds of ValueError
            raise ManifestError(
                f"a file that cannot be read ({error})", where=path, remedy="Check that its content fits its ending."
            ) from error
        return cls(frame, path.parent if root is None else root, path)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield the table in parts of 1,000 consecutive rows, at least one; the index counts from 0 through all."""
        for start in range(0, max(len(self), 1), manifest_files.CHUNK_ROWS):
            yield self.frame.iloc[start : start + manifest_files.CHUNK_ROWS]

    def write(self, path: str | os.PathLike[str], finish: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> None:
        """Write the manifest, whole or not at all: an existing file stays until the new one is complete.

        Image paths are written as they are, relative to `root`: whoever reads the file from another folder names it.

        Args:
            path: The file; its ending (``.parquet``, ``.csv`` or ``.jsonl``) decides the format.
            finish: Adds columns to each of `chunks` just before it is written, to save memory. Called twice per chunk for
                formats that need two passes. None writes the table unchanged.

        Raises:
            ManifestError: If the ending is none of these, a changed cell cannot be understood, a column has no place in
                the format, or the disk takes no file.
        """
        path = Path(path)
        writer = format_of(path)[1]
        checked = Manifest(self.frame, self.root, self.path)
        try:
            with atomic_write(path) as partial:
                writer(checked.chunks if finish is None else lambda: map(finish, checked.chunks()), partial)
        except InputError:
            raise
        except OSError as error:
            raise ManifestError(
                f"a manifest that cannot be written ({error.strerror or error})",
                where=path,
                remedy="Name another place, or make room there.",
            ) from error
        except UnicodeError as error:
            raise ManifestError(
                "a text with half a character (of a surrogate pair), which no file can hold",
                where=path,
                remedy="Replace it in the table.",
            ) from error
        # Arrow's errors are kinds of these; they name the column.
        except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
            raise ManifestError(
                f"a table that {path.suffix} cannot hold ({'; '.join(map(str, error.args))})",
                where=path,
                remedy="Make the values of the column alike, or write .jsonl.",
            ) from error

    def check_writable(self, path: str | os.PathLike[str]) -> None:
        """Make sure, before work is done for it, that the table can be written: it is, beside the file, and removed.

        Args:
            path: The file; missing folders are made.

        Raises:
            ConfigError: If a folder is there, or no file can be made.
            ManifestError: If the table has no place in the format, or the disk not for it.
        """
        check_writable(path)
        with tempfile.TemporaryDirectory(prefix=".explllm-", dir=Path(path).parent) as folder:
            self.write(Path(folder, Path(path).name))

    def select(self, *, split: str) -> Manifest:
        """Return the rows of one split.

        Args:
            split: The split's name.

        Returns:
            A manifest with these rows, numbered anew.

        Raises:
            ManifestError: If no row is of that split.
        """
        self.require("split")
        rows = self.frame[self.frame["split"] == split]
        if rows.empty:
            known = sorted({str(name) for name in self.frame["split"].dropna()})
            raise ManifestError(f"no row of split {split!r}", where=self.path, remedy=f"Use one of {', '.join(known)}.")
        return Manifest(rows.reset_index(drop=True), self.root, self.path)

    def require(self, *columns: str) -> None:
        """Make sure that columns are there and not wholly empty.

        Args:
            *columns: Names of columns.

        Raises:
            ManifestError: If one is absent, or has no value in any row; names all of them.
        """
        missing = [
            column
            for column in columns
            if column not in self.frame or (len(self.frame) and self.frame[column].isna().all())
        ]
        if missing:
            steps = [_REMEDIES[column] for column in missing if column in _REMEDIES]
            advice = f"First {' and '.join(steps)}" if steps else "Add the column"
            raise ManifestError(
                f"no values in the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
                where=self.path,
                remedy=f"{advice}, then pass the manifest that holds the result.",
            )

    def intensities(self) -> Iterator[list[float | None] | None]:
        """Yield the action units of each row, with None for a unit that was not measured.

        Yields:
            24 values in FEAFA's order, None where ``action_units_missing`` names the unit; None for a row without any.
        """
        nothing = [None] * len(self.frame)
        for units, missing in zip(
            self.frame.get("action_units", nothing), self.frame.get("action_units_missing", nothing), strict=True
        ):
            yield _measured(units, missing)

    def intensities_at(self, i: int) -> list[float | None] | None:
        """Return the action units of one row, with None for a unit that was not measured.

        Args:
            i: The row, from 0.

        Returns:
            As of `intensities`.
        """
        units, missing = (
            self.frame[column].iloc[i] if column in self.frame else None
            for column in ("action_units", "action_units_missing")
        )
        return _measured(units, missing)

    def is_synthetic(self) -> pd.Series:
        """Return of each row whether its face is drawn by a program, as its intensities' source says.

        Where a regressor has estimated the intensities, what came before stands in ``action_units_true_source``.
        """
        drawn = pd.Series(False, index=self.frame.index)
        for name in ("action_units_source", "action_units_true_source"):
            if name in self.frame:
                drawn |= self.frame[name].astype(str).str.fullmatch("(.*, )?drawn", na=False)
        return drawn

    def face_not_found(self) -> list[bool]:
        """Return of each row whether a face was looked for in its image and not found: the whole image is none."""
        nothing = pd.Series(None, index=self.frame.index, dtype=object)
        looked_for = self.frame.get("face_status", nothing).notna()
        return [bool(cell) for cell in looked_for & self.frame.get("box", nothing).isna()]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.frame)

    def image_path(self, i: int) -> Path:
        """Return the path of a row's image.

        Args:
            i: The row, from 0.

        Returns:
            The root with the image's path below it.
        """
        return self.root / str(self.frame["image"].iloc[i])

    def box(self, i: int) -> list[float] | None:
        """Return the box of a row's face.

        Args:
            i: The row, from 0.

        Returns:
            x, y, width, height in pixels; None if the row has none: its image is a face already.
        """
        return self.frame["box"].iloc[i] if "box" in self.frame else None


def _measured(units: list[float] | None, missing: str | None) -> list[float | None] | None:
    unknown = () if missing is None else parse_unit_names(missing)
    return None if units is None else [None if i in unknown else value for i, value in enumerate(units)]


def _checked(frame: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    """Return a copy of the table with the known columns in their proper types."""
    absent = [column for column in REQUIRED if column not in frame]
    if absent:
        raise ManifestError(
            f"no column {', '.join(absent)} among {', '.join(map(str, frame.columns)) or 'none'}",
            where=path,
            remedy=f"Name the columns of a manifest: {', '.join(COLUMNS)}.",
        )
    frame = frame.reset_index(drop=True)
    converters: dict[str, Callable[[Any], Any]] = {column: _text for column in _TEXTS}
    converters |= {"image": _image, "expression": _expression, "box": _box, "action_units": _action_units}
    converters["action_units_missing"] = _missing
    for column, convert in converters.items():
        if column in frame:
            cells = _convert(frame[column], convert, column, path)
            # Plain objects, so that an empty cell is None in every pandas version and never nan.
            frame[column] = pd.Series(cells, index=frame.index, dtype=object)
    _refuse_repeated_faces(frame, path)
    return frame


def _convert(cells: Iterable[Any], convert: Callable[[Any], Any], column: str, path: Path | None) -> list[Any]:
    converted = []
    for row, cell in enumerate(cells, 1):
        try:
            converted.append(None if is_empty(cell) else convert(cell))
        except InputError as error:
            raise ManifestError(error.found, where=_row(path, row, column), remedy=error.remedy) from error
    if column in REQUIRED and None in converted:
        raise ManifestError(
            "an empty cell", where=_row(path, converted.index(None) + 1, column), remedy="Fill it or drop the row."
        )
    return converted


def _row(path: Path | None, row: int, column: str) -> str:
    return ", ".join([*([str(path)] if path else []), f"row {row}", f"column {column}"])


def _text(cell: Any) -> str:
    return str(cell)


def _image(cell: Any) -> str:
    if not isinstance(cell, str | os.PathLike):
        raise InputError(f"{cell!r} is no path", remedy="Give the image's path below the root.")
    return os.fspath(cell)


def _expression(cell: Any) -> str:
    try:
        return Expression.parse(cell).value
    except UnknownExpressionError as error:
        raise InputError(
            error.found, remedy=f"Use the names {', '.join(Expression)}; translate a data set's numbers first."
        ) from None


def _listed(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise InputError(f"{cell!r} is no list", remedy="Write a JSON list of numbers.") from None
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if not isinstance(cell, list | tuple):
        raise InputError(f"{cell!r} is no list", remedy="Write a JSON list of numbers.")
    return list(cell)


def _action_units(cell: Any) -> list[float]:
    intensities = check_action_units(_listed(cell))
    # A table is checked again when it is written: what is as it should be is not copied. Most units of a face are 0:
    # one such number is enough for millions of them.
    as_it_should_be = isinstance(cell, list) and all(type(intensity) is float for intensity in cell)
    return cell if as_it_should_be else [intensity or 0.0 for intensity in intensities]


def _missing(cell: Any) -> str:
    parse_unit_names(str(cell))
    return str(cell)


def _box(cell: Any) -> list[float]:
    remedy = "Give x, y, width and height in pixels, the last two greater than 0."
    try:
        box = [float(number) for number in _listed(cell)]
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the box {cell!r} holds something other than numbers", remedy=remedy) from None
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise InputError(f"{box} is no box", remedy=remedy)
    return box


def _refuse_repeated_faces(frame: pd.DataFrame, path: Path | None) -> None:
    """Refuse two rows of the same image and box: a face counted twice, at worst once in training and once in test."""
    # Most images hold one face: only rows that share theirs are compared.
    shared = frame.index[frame["image"].duplicated(keep=False)]
    images, boxes = (frame[name].tolist() if name in frame else [None] * len(frame) for name in ("image", "box"))
    seen: dict[tuple[str, tuple[float, ...] | None], int] = {}
    for row in shared:
        first = seen.setdefault((images[row], None if boxes[row] is None else tuple(boxes[row])), row)
        if first != row:
            raise ManifestError(
                f"the face of {images[row]} stands already in row {first + 1}",
                where=_row(path, row + 1, "image"),
                remedy="Keep one row a face; several faces of one image need a box each.",
            )


def face_key(image: str, box: Sequence[float] | None) -> str:
    """Return the name of a face: the path of its image, followed by its box where it has one."""
    return str(image) if box is None else f"{image} {','.join(f'{side:g}' for side in box)}"
