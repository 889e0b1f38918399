"""What every reader shares: rows gathered one by one, bad ones named with file and line, all others counted."""

import csv
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from explllm.core.errors import ConfigError, ImageError, InputError, ManifestError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.core.manifest import Manifest
from explllm.data.readers.parsing import Cells
from explllm.data.readers.published import Published, found_counts

_Item = TypeVar("_Item")
_SECONDS_BEFORE_PROGRESS = 2.0


def to_stderr(line: str) -> None:
    """Print a warning.

    Args:
        line: The warning.
    """
    sys.stderr.write(f"{line}\n")


class Source:
    """A publisher's folder while it is read.

    A reader opens `row` around the work on one row and calls `add` as its last act: whatever is wrong with the row is
    then reported with the file and the line, and counts against `max_bad`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        out: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        max_bad: int = 0,
        check_images: bool = False,
        images_there: bool = True,
        warn: Callable[[str], None] = to_stderr,
    ) -> None:
        """Open the folder.

        Args:
            root: The folder, or the list, as the publisher ships it.
            out: The folder for images that the set ships inside other files.
            overwrite: Replace that folder if it exists.
            max_bad: Bad rows that are reported and left out before the reading stops.
            check_images: Decode every image, and hold its box against its size.
            images_there: Look whether every image is there; False reads lists alone.
            warn: Takes each warning, a line.

        Raises:
            MissingPathError: If there is no such folder.
            ConfigError: If `max_bad` is negative, or images cannot be checked because they are not looked for.
        """
        if max_bad < 0:
            raise ConfigError(f"{max_bad} tolerated rows", remedy="Give at least 0 for --max-bad.")
        if check_images and not images_there:
            raise ConfigError("images to be checked and not to be looked for", remedy="Drop one of the two options.")
        self.root = Path(root)
        if not self.root.exists():
            raise MissingPathError("there is no such folder", where=self.root, remedy="Check the path.")
        self.images = self.root
        """The folder that image paths start from; a reader may set another one."""
        self.left_out: Counter[str] = Counter()
        """Rows that the set's rules leave out, by reason."""
        self.remarks: Counter[str] = Counter()
        """What is worth knowing of rows that were kept."""
        self.bad: list[str] = []
        """Bad rows that were tolerated, a line each."""
        self.differences: list[str] = []
        """What differs from the published counts."""
        self.image_remedy = "Check that the set was unpacked whole."
        """What to do where an image is not there."""
        self._out, self._overwrite = None if out is None else Path(out), overwrite
        self._max_bad, self._check_images, self._images_there, self._warn = max_bad, check_images, images_there, warn
        self._columns: tuple[str, ...] = ()
        self._rows: list[tuple[Any, ...]] = []
        self._seen: dict[tuple[str, tuple[float, ...] | None], int] = {}
        self._folders: dict[str, frozenset[str]] = {}
        self._tracking = False

    @contextmanager
    def row(self, path: str | os.PathLike[str], number: int | None = None, unit: str = "line") -> Iterator[None]:
        """Name the place of whatever is wrong in the block, and go on after it while that is tolerated.

        Args:
            path: The file that is read.
            number: The line or entry in it.
            unit: What the number counts.

        Raises:
            InputError: The block's own, with its place, if it is one too many.
        """
        try:
            yield
        except ConfigError:
            raise  # a wrong option is no row's fault
        except InputError as error:
            place = os.fspath(path) if number is None else f"{os.fspath(path)}, {unit} {number}"
            self.bad.append(f"{error.found} [{place}]")
            if len(self.bad) > self._max_bad:
                count = f"{len(self.bad)} bad rows, last: " if self._max_bad else ""
                raise type(error)(
                    count + error.found,
                    where=place,
                    remedy=f"{error.remedy} --max-bad N leaves up to N such rows out (now {self._max_bad}).",
                ) from error
            self._warn(f"warning: row {len(self.bad)} of at most {self._max_bad} left out: {self.bad[-1]}")

    def add(self, image: str, *, file: Path | None = None, **cells: Any) -> None:
        """Take a row; the same row a second time is left out and counted.

        Args:
            image: The image's path below `images`, with forward slashes.
            file: Where the image lies for the moment, if not there.
            **cells: The row's other cells, under the manifest's column names; every row has the same columns.

        Raises:
            InputError: If the image is not there or, where images are checked, cannot be used; or if the face has
                another row that says something else.
        """
        columns = ("image", *cells)
        self._columns = self._columns or columns
        if columns != self._columns:
            raise TypeError(f"a row with the columns {columns} after rows with {self._columns}")
        values = (image, *cells.values())
        box = cells.get("box")
        face = (image, None if box is None else tuple(box))
        first = self._seen.get(face)
        if first is not None:
            if self._rows[first] != values:
                raise ManifestError(
                    f"a second row of the face of {image} that differs from the first", remedy="Keep one of the two."
                )
            self.left_out["rows that repeat another"] += 1
            return
        if self._images_there and file is None and not self._is_there(image):
            raise MissingPathError(f"there is no image {self.images / image}", remedy=self.image_remedy)
        if self._check_images:
            self._check(self.images / image if file is None else file, box)
        self._seen[face] = len(self._rows)
        self._rows.append(values)

    def add_manifest(self, manifest: Manifest, path: Path) -> None:
        """Take all rows of a manifest.

        Args:
            manifest: The manifest; its root becomes `images`.
            path: The file or folder it was read from.
        """
        self.images = manifest.root
        for number, cells in enumerate(self.track(manifest.frame.to_dict("records"), len(manifest)), 1):
            with self.row(path, number, "row"):
                self.add(**{str(column): cell for column, cell in cells.items()})

    def draw(self, count: int, seed: int) -> None:
        """Keep rows drawn at random, in their old order; the others are left out and counted.

        Args:
            count: How many.
            seed: Seeds the draw.

        Raises:
            ConfigError: If there are not so many rows.
        """
        if not 0 < count <= len(self._rows):
            raise ConfigError(f"{count} rows to draw from {len(self._rows)}", remedy="Draw at least 1, at most all.")
        chosen = np.sort(np.random.default_rng(seed).choice(len(self._rows), count, replace=False))
        self.left_out["rows that were not drawn"] += len(self._rows) - count
        self._rows = [self._rows[row] for row in chosen]

    def manifest(self) -> Manifest:
        """Return the rows that were taken.

        Returns:
            The manifest.

        Raises:
            ManifestError: If there is none.
        """
        if not self._rows:
            reasons = "".join(f"; left out: {count} {what}" for what, count in self.left_out.items())
            raise ManifestError(f"no row can be used{reasons}", where=self.root, remedy="Check the path and options.")
        return Manifest(pd.DataFrame(self._rows, columns=list(self._columns)), self.images)

    def compare(self, published: Published, **further: int) -> None:
        """Hold the rows so far against the published counts, and note what differs.

        Args:
            published: The counts, under the keys of `explllm.data.readers.published.found_counts`.
            **further: Further counts to hold against them.
        """
        kept = {column: [row[place] for row in self._rows] for place, column in enumerate(self._columns)}
        self.differences += published.differences(found_counts(kept) | further)

    def first(self, what: str, *candidates: str) -> Path:
        """Return the first of several paths below the root that exists.

        Args:
            what: What is looked for, for the message.
            *candidates: Paths below the root.

        Returns:
            The path.

        Raises:
            MissingPathError: If none exists.
        """
        for candidate in candidates:
            if (self.root / candidate).exists():
                return self.root / candidate
        raise MissingPathError(
            f"there is no {what}", where=self.root, remedy=f"Expected {' or '.join(candidates)} in this folder."
        )

    def track(self, items: Iterable[_Item], total: int | None = None) -> Iterator[_Item]:
        """Pass items on, with a progress bar on a terminal once that takes over two seconds.

        Args:
            items: The items.
            total: How many there are, if that is known.

        Yields:
            Each item.
        """
        console = Console(stderr=True)
        if self._tracking or not console.is_terminal:  # one bar at a time, the outermost
            yield from items
            return
        progress = Progress(console=console, transient=True, auto_refresh=False)
        task = progress.add_task(f"reading {self.root.name}", total=total)
        self._tracking = True
        shown = started = time.monotonic()
        try:
            for done, item in enumerate(items):
                now = time.monotonic()
                if now - shown > 0.2 and now - started > _SECONDS_BEFORE_PROGRESS:
                    progress.start()  # once is enough, more do nothing
                    progress.update(task, completed=done, refresh=True)
                    shown = now
                yield item
        finally:
            progress.stop()
            self._tracking = False

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Read a text file line by line; empty lines are passed over.

        Args:
            path: The file.

        Yields:
            The line's number, from 1, and its text without white space around it.

        Raises:
            ManifestError: If the file is no UTF-8 text.
        """
        with path.open(encoding="utf-8-sig") as stream:
            try:
                for number, line in enumerate(self.track(stream), 1):
                    if line.strip():
                        yield number, line.strip()
            except UnicodeDecodeError as error:
                raise _no_text(path) from error

    def table(self, path: Path, *columns: str) -> Iterator[tuple[int, Cells]]:
        """Read a CSV file row by row.

        Args:
            path: The file; its first line names the columns.
            *columns: Columns that it must have.

        Yields:
            The number of the row's line and its cells.

        Raises:
            ManifestError: If a column is absent, or the file is no UTF-8 text.
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
                        remedy="Check that the file is the publisher's own, with its header.",
                    )
                for cells in self.track(reader):
                    if cells:
                        yield reader.line_num, Cells(header, cells)
            except UnicodeDecodeError as error:
                raise _no_text(path) from error
            except csv.Error as error:
                raise ManifestError(
                    f"no CSV ({error})", where=f"{path}, line {reader.line_num}", remedy="Download the file again."
                ) from error

    @contextmanager
    def written_images(self) -> Iterator[tuple[Path, str]]:
        """Make the folder for images that are written out; it appears whole when the block ends without an error.

        Yields:
            The folder to write to, and the name that image paths must start with.

        Raises:
            ConfigError: If no such folder was named, or it exists.
        """
        if self._out is None:
            raise ConfigError("images that must be written out", where=self.root, remedy="Name a folder for them.")
        if self._out.exists() and not self._overwrite:
            raise ConfigError("images exist here", where=self._out, remedy="Name another output, or overwrite it.")
        with atomic_write_folder(self._out) as folder:
            yield folder, self._out.name
        self.images = self._out.parent

    def beside(self, stem: str, endings: Iterable[str]) -> str:
        """Return the image of a name without its ending.

        Args:
            stem: The path below `images`, without an ending.
            endings: The endings that it may have, the likeliest first.

        Returns:
            The path with the ending that is there; with the likeliest where none is.
        """
        names = [stem + ending for ending in endings]
        return next((name for name in names if self._is_there(name)), names[0])

    def _is_there(self, image: str) -> bool:
        folder, name = os.path.split(self.images / image)
        # A listing a folder, not a question a file: fewer questions to a network disk.
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
                f"the box {box} lies outside the image {path} of {width} x {height} pixels",
                remedy="Boxes count from the image's upper left corner.",
            )
        if min(x, y) < 0 or x + w > width or y + h > height:
            self.remarks["boxes that reach beyond their image"] += 1


def _no_text(path: Path) -> ManifestError:
    return ManifestError("the file is no UTF-8 text", where=path, remedy="Download it again.")
