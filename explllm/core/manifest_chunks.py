"""Manifests that are too large for memory, read and written in chunks of consecutive rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.core.manifest import COLUMNS, Manifest, check_table, write_table
from explllm.core.manifest_files import (
    CHUNK_ROWS,
    check_csv,
    compact,
    csv_kinds,
    csv_options,
    decode_csv,
    format_of,
    parse_json_row,
)


class ManifestFile:
    """A manifest on disk.

    Iteration yields pairs: the number of a chunk's first row, counted from 0, and the chunk as a `Manifest`.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
        """Check that the file exists.

        Args:
            path: A Parquet, CSV or JSON Lines file.
            root: The root folder of the image paths; the folder of the manifest if None.

        Raises:
            MissingPathError: If the file does not exist.
            ManifestError: If the suffix is unsupported.
        """
        self.path = Path(path)
        format_of(self.path)
        if not self.path.is_file():
            raise MissingPathError("the manifest does not exist", where=path, remedy="Check the path.")
        self.root = self.path.parent if root is None else Path(root)
        self._columns: dict[str, Any] | None = None
        self._width = 0

    def __iter__(self) -> Iterator[tuple[int, Manifest]]:
        """Yield chunks of at most `CHUNK_ROWS` rows. An empty table yields one empty chunk.

        Raises:
            ManifestError: If the file is not a valid table or not a valid manifest. Duplicate faces are found only
                within a chunk.
        """
        row = 0
        for frame in self._frames():
            yield row, Manifest(frame, self.root, self.path, row)
            row += len(frame)

    def write(self, out: str | os.PathLike[str], convert: Callable[[int, Manifest], pd.DataFrame]) -> None:
        """Write a converted copy of the table, atomically.

        Args:
            out: The file to write.
            convert: Receives the number of a chunk's first row and the chunk, and returns the converted chunk. Some
                formats call it twice per chunk.

        Raises:
            ManifestError: In the same cases as in `Manifest.write`.
        """
        write_table(out, lambda: (convert(row, chunk) for row, chunk in self))

    def check_writable(self, out: str | os.PathLike[str]) -> None:
        """Check that a copy of the table can be written, as `Manifest.check_writable` does.

        Raises:
            ConfigError: If the path is a folder, or the file cannot be created.
            ManifestError: If the format cannot represent the table, or the disk is full.
        """
        check_table(out, lambda: (chunk.frame for _, chunk in self))

    def _frames(self) -> Iterator[pd.DataFrame]:
        readers = {".parquet": self._parquet_frames, ".csv": self._csv_frames, ".jsonl": self._json_frames}
        try:
            yield from readers[self.path.suffix.lower()]()
        except InputError:
            raise
        except (ValueError, OSError) as error:  # parser errors are subclasses of ValueError
            raise ManifestError(
                f"the file cannot be read ({error})",
                where=self.path,
                remedy="Check that the content matches the file name.",
            ) from error

    def _parquet_frames(self) -> Iterator[pd.DataFrame]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pool = pa.default_memory_pool()
        with pq.ParquetFile(self.path) as file:
            if not file.metadata.num_rows:
                yield file.read().to_pandas().reset_index(drop=True)
            for batch in file.iter_batches(CHUNK_ROWS, use_threads=False):
                frame = batch.to_pandas(use_threads=False, integer_object_nulls=True)
                # Keep a named index: it is a column that pandas stored as the index.
                frame = frame.reset_index(drop=frame.index.names == [None])
                for field in batch.schema:
                    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
                        frame[field.name] = pd.Series([compact(cell) for cell in frame[field.name]], dtype=object)
                yield frame
                pool.release_unused()

    def _json_frames(self) -> Iterator[pd.DataFrame]:
        if self._columns is None:
            self._columns = {}
            for row in self._json_rows():
                self._columns |= dict.fromkeys(row)
        rows = self._json_rows()
        for part in iter(lambda: list(islice(rows, CHUNK_ROWS)), []):
            yield pd.DataFrame(part, columns=list(self._columns), dtype=object)
        if not self._columns:
            yield pd.DataFrame()

    def _json_rows(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as lines:
            yield from (parse_json_row(line, number, self.path) for number, line in enumerate(lines, 1) if line.strip())

    def _csv_frames(self) -> Iterator[pd.DataFrame]:
        if self._columns is None:
            self._width = check_csv(self.path)
            # A column's type must fit its cells in all chunks.
            self._columns = {}
            for frame in self._csv_texts():
                for column in frame.columns.difference(list(COLUMNS)):
                    if (kinds := csv_kinds(frame[column])) is not None:
                        known = self._columns.get(column, kinds)
                        self._columns[column] = [kind for kind in known if kind in kinds]
        for frame in self._csv_texts():
            for column, kinds in self._columns.items():
                frame[column] = decode_csv(frame[column], kinds[0] if kinds else None)
            yield frame

    def _csv_texts(self) -> Iterator[pd.DataFrame]:
        with pd.read_csv(self.path, chunksize=CHUNK_ROWS, **csv_options(self._width)) as reader:
            for frame in reader:
                yield frame.reset_index(drop=True)
