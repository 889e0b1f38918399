"""Code shared by all readers: collect rows, report bad rows with file and line, and count rows that are left out."""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from explllm.core.errors import ConfigError, ImageError, InputError, ManifestError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.core.manifest import Manifest
from explllm.core.progress import track
from explllm.data.readers.parsing import Cells
from explllm.data.readers.published import Published, count_rows

_Item = TypeVar("_Item")


def to_stderr(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


class Source:
    """A publisher's folder that is being read, and the rows collected so far.

    A reader enters `row` for each row and calls `add` at the end of the block. Errors in the block are then reported
    with file and line, and count toward `max_bad`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        out: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        max_bad: int = 0,
        check_images: bool = False,
        images_exist: bool = True,
        warn: Callable[[str], None] = to_stderr,
    ) -> None:
        """Check the folder and the options.

        Args:
            root: The folder, or the list, in the publisher's layout.
            out: The folder for images that the data set stores inside other files.
            overwrite: Replace that folder if it exists.
            max_bad: Maximum number of bad rows to report and leave out before reading stops.
            check_images: Decode every image and check its box.
            images_exist: Check that every image exists; if False, read only the lists.
            warn: Called with each warning, one line.

        Raises:
            MissingPathError: If the folder or list does not exist.
            ConfigError: If `max_bad` is negative, or `check_images` conflicts with `images_exist`.
        """
        if max_bad < 0:
            raise ConfigError(f"--max_bad is {max_bad}", remedy="Use 0 or more.")
        if check_images and not images_exist:
            raise ConfigError("--check_images conflicts with --lists_only", remedy="Drop one of the two options.")
        self.root = Path(root)
        if not self.root.exists():
            raise MissingPathError("the folder does not exist", where=self.root, remedy="Check the path.")
        self.images = self.root
        """The folder that image paths are relative to; readers may change it."""
        self.left_out: Counter[str] = Counter()
        """Number of rows left out by the reader's rules, by reason."""
        self.remarks: Counter[str] = Counter()
        """Remarks on rows that were kept, or on whole lists and sets, with the number of cases."""
        self.bad: list[str] = []
        """Bad rows that were left out, one line each."""
        self.differences: list[str] = []
        """Differences from the published counts."""
        self.image_remedy = "Check that the data set was unpacked completely."
        """Remedy for a missing image."""
        self._out, self._overwrite = None if out is None else Path(out), overwrite
        self._max_bad, self._check_images, self._images_exist, self.warn = max_bad, check_images, images_exist, warn
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[Any, ...]] = []
        self._row_of_face: dict[tuple[str, tuple[float, ...] | None], int] = {}
        self._folders: dict[str, frozenset[str]] = {}

    @contextmanager
    def row(self, path: str | os.PathLike[str], number: int | None = None, unit: str = "line") -> Iterator[None]:
        """Add the file and line to an error in the block, and suppress the error while at most `max_bad` rows are bad.

        Args:
            path: The file that is read.
            number: Number of the line or entry in the file.
            unit: What the number counts, such as lines or entries.

        Raises:
            ConfigError: The error raised in the block, unchanged, because an invalid option is not a bad row.
            InputError: The error raised in the block, with its location, if more than `max_bad` rows are bad.
        """
        try:
            yield
        except ConfigError:
            raise  # invalid options are not bad rows
        except InputError as error:
            where = os.fspath(path) if number is None else f"{os.fspath(path)}, {unit} {number}"
            self.bad.append(f"{error.found} [{where}]")
            if len(self.bad) > self._max_bad:
                count = f"{len(self.bad)} bad rows, last: " if self._max_bad else ""
                raise type(error)(
                    count + error.found,
                    where=where,
                    remedy=f"{error.remedy} Pass --max_bad N to leave out up to N such rows (now {self._max_bad}).",
                ) from error
            self.warn(f"warning: row {len(self.bad)} of at most {self._max_bad} left out: {self.bad[-1]}")

    def add(self, image: str, *, file: Path | None = None, **cells: Any) -> None:
        """Add a row; an exact duplicate of a row is left out and counted.

        Args:
            image: The image's path relative to `images`, with forward slashes.
            file: Where the image is now, if it is not at that path.
            **cells: The other cells of the row, by manifest column; every row must have the same columns.

        Raises:
            InputError: If the image does not exist or fails the check, or the face already has a different row.
        """
        columns = ("image", *cells)
        self._columns = self._columns or columns
        if columns != self._columns:
            raise TypeError(f"a row with the columns {columns} after rows with {self._columns}")
        values = (image, *cells.values())
        box = cells.get("box")
        face = (image, None if box is None else tuple(box))
        first = self._row_of_face.get(face)
        if first is not None:
            if self._rows[first] != values:
                raise ManifestError(
                    f"a second, different row of the same face in {image}", remedy="Keep one of the two."
                )
            self.left_out["repeated rows"] += 1
            return
        if self._images_exist and file is None and not self._exists(image):
            raise MissingPathError(f"missing image {self.images / image}", remedy=self.image_remedy)
        if self._check_images:
            self._check(self.images / image if file is None else file, box)
        self._row_of_face[face] = len(self._rows)
        self._rows.append(values)

    def add_manifest(self, manifest: Manifest, path: Path) -> None:
        """Add all rows of a manifest that was read from `path`; its root becomes `images`."""
        self.images = manifest.root
        for number, cells in enumerate(self.track(manifest.frame.to_dict("records"), len(manifest)), 1):
            with self.row(path, number, "row"):
                self.add(**{str(column): cell for column, cell in cells.items()})

    def draw(self, count: int, seed: int) -> None:
        """Keep `count` rows drawn at random, in their original order; the others are left out and counted.

        Raises:
            ConfigError: If `count` is below 1 or exceeds the number of rows.
        """
        if not 0 < count <= len(self._rows):
            raise ConfigError(f"cannot draw {count} of {len(self._rows)} rows", remedy=f"Draw 1 to {len(self._rows)}.")
        chosen = np.sort(np.random.default_rng(seed).choice(len(self._rows), count, replace=False))
        self.left_out["rows not drawn"] += len(self._rows) - count
        self._rows = [self._rows[row] for row in chosen]

    def manifest(self) -> Manifest:
        """Return the added rows.

        Raises:
            ManifestError: If no row was added.
        """
        if not self._rows:
            reasons = "".join(f"; left out: {count} {what}" for what, count in self.left_out.items())
            raise ManifestError(f"no row can be used{reasons}", where=self.root, remedy="Check the path and options.")
        return Manifest(pd.DataFrame(self._rows, columns=list(self._columns)), self.images)

    def compare(self, published: Published, **further: int) -> None:
        """Compare the rows added so far, and `further` counts, with the published counts; record differences."""
        columns = {column: [row[i] for row in self._rows] for i, column in enumerate(self._columns)}
        self.differences += published.differences(count_rows(columns) | further)

    def first(self, what: str, *candidates: str) -> Path:
        """Return the first existing path of several, relative to the root.

        Raises:
            MissingPathError: If none exists; the message refers to the missing file or folder as `what`.
        """
        for candidate in candidates:
            if (self.root / candidate).exists():
                return self.root / candidate
        raise MissingPathError(
            f"no {what}", where=self.root, remedy=f"Expected {' or '.join(candidates)} in this folder."
        )

    def track(self, items: Iterable[_Item], total: int | None = None) -> Iterator[_Item]:
        """Yield items while showing the progress; `total` is their number, if known."""
        return track(items, f"reading {self.root.name}", total)

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Yield the line number, from 1, and the stripped text of each non-empty line of a text file.

        Raises:
            ManifestError: If the file is not UTF-8 text.
        """
        with path.open(encoding="utf-8-sig") as stream:
            try:
                for number, line in enumerate(self.track(stream), 1):
                    if line.strip():
                        yield number, line.strip()
            except UnicodeDecodeError as error:
                raise _not_text(path) from error

    def table(self, path: Path, *columns: str) -> Iterator[tuple[int, Cells]]:
        """Yield the line number and cells of each row of a CSV file whose header contains the given columns.

        Raises:
            ManifestError: If a column is missing, or the file is not valid CSV in UTF-8.
        """
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            try:
                header = [name.strip() for name in next(reader, [])]
                missing = [column for column in columns if column not in header]
                if missing:
                    raise ManifestError(
                        f"no column {', '.join(missing)} among {', '.join(header) or 'none'}",
                        where=path,
                        remedy="Use the publisher's file, with its header.",
                    )
                for cells in self.track(reader):
                    if cells:
                        yield reader.line_num, Cells(header, cells)
            except UnicodeDecodeError as error:
                raise _not_text(path) from error
            except csv.Error as error:
                raise ManifestError(
                    f"invalid CSV ({error})", where=f"{path}, line {reader.line_num}", remedy="Download the file again."
                ) from error

    @contextmanager
    def written_images(self) -> Iterator[tuple[Path, str]]:
        """Create the folder for written images; it replaces the output folder when the block ends without an error.

        Yields:
            The folder to write to, and the prefix of image paths.

        Raises:
            ConfigError: If no output folder was given, or if it exists and may not be overwritten.
        """
        if self._out is None:
            remedy = "Pass a folder for them as `out`."
            raise ConfigError("this data set stores images inside other files", where=self.root, remedy=remedy)
        if self._out.exists() and not self._overwrite:
            raise ConfigError(
                "the folder of images exists", where=self._out, remedy="Choose another output, or pass --overwrite."
            )
        with atomic_write_folder(self._out) as folder:
            yield folder, self._out.name
        self.images = self._out.parent

    def first_image(self, candidates: Iterable[str]) -> str:
        """Return the first existing path of several, relative to `images`, or the first path if none exists."""
        paths = list(candidates)
        return next((path for path in paths if self._exists(path)), paths[0])

    def _exists(self, image: str) -> bool:
        folder, name = os.path.split(self.images / image)
        # On network disks, one directory listing is faster than one call per file.
        if folder not in self._folders:
            self._folders[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
        return name in self._folders[folder]

    def _check(self, path: Path, box: list[float] | None) -> None:
        from explllm.faces.pixels import load_image  # loads torch

        if path.stat().st_size == 0:
            raise ImageError(f"the image {path} is empty (0 bytes)", remedy=self.image_remedy)
        try:
            width, height = load_image(path).size
        except ImageError as error:
            raise ImageError(f"{path}: {error.found}", remedy=error.remedy) from error
        if box is None:
            return
        x, y, w, h = box
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise InputError(
                f"the box {box} is outside the image {path} of {width} x {height} pixels",
                remedy="Box coordinates start at the upper left corner of the image.",
            )
        if min(x, y) < 0 or x + w > width or y + h > height:
            self.remarks["boxes that extend beyond their image"] += 1


def _not_text(path: Path) -> ManifestError:
    return ManifestError("the file is not UTF-8 text", where=path, remedy="Download it again.")
