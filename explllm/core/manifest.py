"""The manifest: the table of faces that commands pass to each other, with one row per face."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from explllm.core import manifest_files
from explllm.core.action_units import parse_unit_names
from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.core.facs import FACS_SETS
from explllm.core.files import atomic_write, check_writable
from explllm.core.manifest_cells import COLUMNS, REQUIRED, checked_table
from explllm.core.manifest_files import SUFFIXES, format_of

__all__ = ["COLUMNS", "REQUIRED", "SUFFIXES", "Manifest"]

_REMEDIES = {
    "expression": "label the images",
    "split": "name each row's split",
    "box": "detect the faces",
    "action_units": "estimate the action units",
    "cot": "write the chains of thought",
}


class Manifest:
    r"""A table of faces and the root folder of its image paths.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "faces.csv")
    ...     _ = path.write_text("image,expression,split\na.png,happy,train\nb.png,sad,test\n")
    ...     manifest = Manifest.read(path)
    >>> len(manifest)
    2
    >>> list(manifest.frame["expression"])
    ['Happiness', 'Sadness']
    >>> manifest.select(split="test").image_path(0).name
    'b.png'
    """

    def __init__(
        self, frame: pd.DataFrame, root: str | os.PathLike[str], path: Path | None = None, first_row: int = 0
    ) -> None:
        """Validate a table and convert its cells.

        Args:
            frame: The table. In the columns listed in `COLUMNS`, empty cells become None, boxes and action units become
                lists of floats, and expressions get the paper's names. Other columns stay unchanged.
            root: The root folder of the image paths.
            path: The file that the table was read from, for error messages.
            first_row: Row of the file at which the table starts, for error messages.

        Raises:
            ManifestError: If a required column is missing, a cell is invalid, or two rows describe the same face.
        """
        self.root = Path(root)
        self.path = path
        self.frame = checked_table(frame, path, first_row)

    @classmethod
    def read(cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Manifest:
        """Read a manifest.

        Args:
            path: A Parquet (``.parquet``), CSV (``.csv``) or JSON Lines (``.jsonl``) file.
            root: The root folder of the image paths; the folder of the manifest if None.

        Raises:
            MissingPathError: If the file does not exist.
            ManifestError: If the file is not a valid table or not a valid manifest.
        """
        path = Path(path)
        if not path.is_file():
            found = "a folder, not a manifest" if path.is_dir() else "the manifest does not exist"
            raise MissingPathError(found, where=path, remedy="Check the path.")
        reader = format_of(path)[0]
        try:
            # Read known columns as text: the identity 007 must not become 7.
            frame = reader(path, list(COLUMNS))
        except InputError:
            raise
        except (ValueError, OSError) as error:  # parser errors are subclasses of ValueError
            raise ManifestError(
                f"the file cannot be read ({error})", where=path, remedy="Check that the content matches the file name."
            ) from error
        return cls(frame, path.parent if root is None else root, path)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yield the table in chunks of 1,000 consecutive rows. An empty table yields one empty chunk."""
        for start in range(0, max(len(self), 1), manifest_files.CHUNK_ROWS):
            yield self.frame.iloc[start : start + manifest_files.CHUNK_ROWS]

    def write(self, path: str | os.PathLike[str], finish: Callable[[pd.DataFrame], pd.DataFrame] | None = None) -> None:
        """Write the manifest atomically: an existing file stays in place until the new one is complete.

        Image paths are written unchanged, relative to `root`. Pass ``root`` to `read` if the file is not in `root`.

        Args:
            path: The file. Its suffix (``.parquet``, ``.csv`` or ``.jsonl``) selects the format.
            finish: Function that adds columns to a chunk just before it is written, to save memory. Formats that need
                two passes call it twice per chunk. None writes the table unchanged.

        Raises:
            ManifestError: If the suffix is unsupported, a cell is invalid, the format cannot represent a column, or the
                file cannot be written.
        """
        checked = Manifest(self.frame, self.root, self.path)
        write_table(path, checked.chunks if finish is None else lambda: map(finish, checked.chunks()))

    def check_writable(self, path: str | os.PathLike[str]) -> None:
        """Check that the table can be written, by writing it to a temporary file in the same folder.

        Call this before a long computation that writes its result to ``path``. Missing parent folders are created.

        Raises:
            ConfigError: If the path is a folder, or the file cannot be created.
            ManifestError: If the format cannot represent the table, or the disk is full.
        """
        check_table(path, Manifest(self.frame, self.root, self.path).chunks)

    def select(self, *, split: str) -> Manifest:
        """Return the rows of one split as a manifest with a new index.

        Raises:
            ManifestError: If the table has no splits, or the split has no rows.
        """
        self.require("split")
        rows = self.frame[self.frame["split"] == split]
        if rows.empty:
            known = sorted({str(name) for name in self.frame["split"].dropna()})
            raise ManifestError(
                f"the split {split!r} has no rows", where=self.path, remedy=f"Use one of {', '.join(known)}."
            )
        return Manifest(rows.reset_index(drop=True), self.root, self.path)

    def sample(self, count: int, seed: int = 0) -> Manifest:
        """Return at most `count` random rows, in table order; with the same seed, larger samples contain smaller ones.

        Raises:
            InputError: If `count` is negative.
        """
        if count < 0:
            raise InputError(f"a sample of {count} rows", remedy="Use 0 or more.")
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Manifest(self.frame.iloc[rows], self.root, self.path)

    def require(self, *columns: str) -> None:
        """Check that columns exist and are not entirely empty.

        Raises:
            ManifestError: If a column is missing or has no values. The message lists all such columns.
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
                remedy=f"{advice}, then pass the resulting manifest.",
            )

    def intensities(self) -> Iterator[list[float | None] | None]:
        """Yield the action units of each row.

        Yields:
            24 values in FEAFA order, in which units listed in ``action_units_missing`` are None. A row without action
            units yields None instead of a list.
        """
        nothing = [None] * len(self.frame)
        for units, missing in zip(
            self.frame.get("action_units", nothing), self.frame.get("action_units_missing", nothing), strict=True
        ):
            yield _measured(units, missing)

    def intensities_at(self, i: int) -> list[float | None] | None:
        """Return the action units of one row, counted from 0, as `intensities` yields them."""
        units, missing = (
            self.frame[column].iloc[i] if column in self.frame else None
            for column in ("action_units", "action_units_missing")
        )
        return _measured(units, missing)

    def facs_labels(self) -> tuple[str | None, np.ndarray]:
        """Return the labels of FACS units in the columns ``facs`` and ``facs_set``.

        Returns:
            The name of the set of K units (a key of `explllm.core.facs.FACS_SETS`), or None if there are no labels; and
            the labels, (rows, K) float32. A label is 0 or 1; rows without labels contain NaN.

        Raises:
            ManifestError: If the labels are from several sets or an unknown one, or a row with labels does not have K
                values of 0 or 1.
        """
        sets = sorted({str(name) for name in self.frame.get("facs_set", pd.Series(dtype=object)).dropna()})
        if not sets or "facs" not in self.frame:
            return None, np.zeros((len(self), 0), np.float32)
        if len(sets) > 1 or sets[0] not in FACS_SETS:
            raise ManifestError(
                f"the column facs_set names {' and '.join(sets)}",
                where=self.path,
                remedy=f"Keep the rows of one set: {' or '.join(FACS_SETS)}.",
            )
        labels = np.full((len(self), len(FACS_SETS[sets[0]])), np.nan, np.float32)
        for row, (cell, name) in enumerate(zip(self.frame["facs"], self.frame["facs_set"], strict=True)):
            if not isinstance(cell, list | np.ndarray) or name != sets[0]:
                continue
            values = np.asarray(cell, dtype=np.float32)
            if values.shape != labels[row].shape or not np.isin(values, (0, 1)).all():
                raise ManifestError(
                    f"{values.tolist()} are not labels of {sets[0]}",
                    where=f"row {row + 1}, column facs",
                    remedy=f"Use {labels.shape[1]} values, each 0 or 1.",
                )
            labels[row] = values
        return sets[0], labels

    @property
    def drawn_note(self) -> str:
        """A note to show with metrics if any face is drawn; empty if all are photographs."""
        return "The faces are drawn by a program, not photographs." if self.is_synthetic().any() else ""

    def is_synthetic(self) -> pd.Series:
        """Return, for each row, whether the face was drawn by a program, according to the source of its intensities.

        After a regressor has estimated the intensities, ``action_units_true_source`` holds the original source.
        """
        drawn = pd.Series(False, index=self.frame.index)
        for name in ("action_units_source", "action_units_true_source"):
            if name in self.frame:
                drawn |= self.frame[name].astype(str).str.fullmatch("(.*, )?drawn", na=False)
        return drawn

    def face_not_found(self) -> list[bool]:
        """Return, for each row, whether detection ran on the image and found no face."""
        nothing = pd.Series(None, index=self.frame.index, dtype=object)
        searched = self.frame.get("face_status", nothing).notna()
        return [bool(cell) for cell in searched & self.frame.get("box", nothing).isna()]

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.frame)

    def image_path(self, i: int) -> Path:
        """Return the path of the image of one row, counted from 0, including `root`."""
        return self.root / str(self.frame["image"].iloc[i])

    def box(self, i: int) -> list[float] | None:
        """Return the face box of one row, counted from 0: x, y, width and height in pixels; None for a face crop."""
        return self.frame["box"].iloc[i] if "box" in self.frame else None


def write_table(path: str | os.PathLike[str], chunks: Callable[[], Iterator[pd.DataFrame]]) -> None:
    """Write a table atomically.

    Args:
        path: The file. Its suffix (``.parquet``, ``.csv`` or ``.jsonl``) selects the format.
        chunks: Returns a new iterator over consecutive parts of the table; there is at least one part. Some formats
            call it twice.

    Raises:
        ManifestError: If the suffix is unsupported, the format cannot represent a column, or writing fails.
    """
    path = Path(path)
    writer = format_of(path)[1]
    with _write_errors(path), atomic_write(path, keep=True) as partial:
        writer(chunks, partial)


def check_table(path: str | os.PathLike[str], chunks: Callable[[], Iterator[pd.DataFrame]]) -> None:
    """Check that `write_table` can write a table, by writing it to a temporary file in the same folder.

    Raises:
        ConfigError: If the path is a folder, or the file cannot be created.
        ManifestError: In the same cases as in `write_table`.
    """
    path = Path(path)
    writer = format_of(path)[1]
    check_writable(path)
    with _write_errors(path), tempfile.TemporaryDirectory(prefix=".explllm-", dir=path.parent) as folder:
        writer(chunks, Path(folder, path.name))


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Convert errors raised while writing a table to a `ManifestError`."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise ManifestError(
            f"the manifest cannot be written ({error.strerror or error})",
            where=path,
            remedy="Choose another path, or free disk space.",
        ) from error
    except UnicodeError as error:
        raise ManifestError(
            "a text contains a lone surrogate (half a character), which cannot be written",
            where=path,
            remedy="Replace it in the table.",
        ) from error
    # Arrow's errors are subclasses of these and name the column.
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise ManifestError(
            f"{path.suffix} cannot represent the table ({'; '.join(map(str, error.args))})",
            where=path,
            remedy="Use one type per column, or write .jsonl.",
        ) from error


def _measured(units: list[float] | None, missing: str | None) -> list[float | None] | None:
    unknown = () if missing is None else parse_unit_names(missing)
    return None if units is None else [None if i in unknown else value for i, value in enumerate(units)]


def face_key(image: str, box: Sequence[float] | None) -> str:
    """Return a unique key for a face: the image path, followed by the box if there is one."""
    return str(image) if box is None else f"{image} {','.join(f'{side:g}' for side in box)}"
