"""File formats of a manifest: Parquet, CSV and JSON Lines.

Tables are read and written without validating the cells of the known columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.errors import ManifestError

Reader = Callable[[Path, Sequence[str]], pd.DataFrame]
"""Reads a table from a path. The second argument lists the columns to read as text; formats that store types ignore
it."""
Chunks = Callable[[], Iterator[pd.DataFrame]]
"""Returns a new iterator over chunks of consecutive rows. There is at least one chunk, which may be empty."""
Writer = Callable[[Chunks, Path], None]
"""Writes a table to a path."""

CHUNK_ROWS = 1000
"""Number of rows to read and write at once."""


def is_empty(cell: Any) -> bool:
    """Return whether a cell is empty: None, NaN, pandas.NA, or blank text."""
    return (
        cell is None
        or cell is pd.NA
        or (isinstance(cell, float) and np.isnan(cell))
        or (isinstance(cell, str) and not cell.strip())
    )


def compact(cell: Any) -> Any:
    """Return a list or array of floats as a list whose zeros share one object, to save memory; keep other cells."""
    if isinstance(cell, np.ndarray) and cell.ndim == 1 and cell.dtype.kind == "f":
        cell = cell.tolist()
    if isinstance(cell, list) and all(isinstance(number, float) for number in cell):
        return [number or 0.0 for number in cell]
    return cell


def check_csv(path: Path) -> int:
    """Reject a CSV file with duplicate column names or with rows longer than the header: pandas would alter both.

    Returns:
        The number of columns. Rows may have additional empty cells.

    Raises:
        ManifestError: If two columns have the same name, or a row has surplus cells that are not empty.
    """
    csv.field_size_limit(2**31 - 1)  # pandas has no such limit
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = csv.reader(stream)
        names = next((cells for cells in lines if "".join(cells).strip()), [])
        for place, name in enumerate(names):
            if name and name in names[:place]:
                raise ManifestError(
                    f"two columns are named {name!r}", where=path, remedy="Rename or remove one of them."
                )
        for cells in lines:
            if any(map(str.strip, cells[len(names) :])):
                raise ManifestError(
                    f"{len(cells)} cells, but the header has {len(names)}",
                    where=f"{path}, line {lines.line_num}",
                    remedy="Quote cells that contain commas, or name every column in the header.",
                )
    return len(names)


def _read_csv(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    frame = pd.read_csv(path, **csv_options(check_csv(path)))
    for column in frame.columns.difference(list(texts)):
        frame[column] = decode_csv(frame[column], next(iter(csv_kinds(frame[column]) or []), None))
    return frame


def csv_options(columns: int) -> dict[str, Any]:
    """Return the `pandas.read_csv` options that read the given number of columns as text."""
    return {
        "dtype": str,
        # Treat only empty cells as missing: NA may be somebody's initials.
        "keep_default_na": False,
        "na_values": [""],
        # Otherwise, pandas would use the first column as the index if rows have empty surplus cells.
        "index_col": False,
        "usecols": range(columns),
    }


_INTEGER = r"0|-?[1-9]\d{0,17}"
_NUMBER = r"(-(?!0$))?(0|[1-9]\d{0,14})(\.(0|\d*[1-9]))?(e[-+]\d{2,})?|-?inf"
"""Numbers as Python prints them. Other spellings, such as 1.10, may be text, for example a version number."""
_BOOLEANS = {"True": True, "False": False}


def csv_kinds(cells: pd.Series) -> list[str] | None:
    """Return the types that fit all filled cells of a CSV column, best first; None for an empty column.

    A column that no type fits stays text: 007 is not 7.
    """
    filled = cells.dropna()
    if filled.empty:
        return None
    kinds = []
    if filled.str.fullmatch(_INTEGER).all():
        kinds.append("integer")
    if filled.str.fullmatch(_NUMBER).all():
        kinds.append("number")
    if filled.isin(list(_BOOLEANS)).all():
        kinds.append("boolean")
    if filled.str.startswith("[").all() and _are_json(filled):
        kinds.append("list")
    return kinds


def _are_json(cells: pd.Series) -> bool:
    try:
        for cell in cells:
            json.loads(cell)
    except ValueError:
        return False
    return True


def decode_csv(cells: pd.Series, kind: str | None) -> pd.Series:
    """Convert a CSV column to a type returned by `csv_kinds`; None leaves the column as text."""
    filled = cells.dropna()
    if filled.empty:
        return cells.astype(object)
    if kind == "integer":
        whole = filled.astype("int64")
        return whole if len(whole) == len(cells) else whole.astype("Int64").reindex(cells.index)
    if kind == "number":
        return cells.astype("float64")
    if kind == "boolean":
        return cells.map(_BOOLEANS)
    if kind == "list":
        values = [None if is_empty(cell) else compact(json.loads(cell)) for cell in cells]
        return pd.Series(values, index=cells.index, dtype=object)
    return cells


def _write_csv(chunks: Chunks, path: Path) -> None:
    def encoded(cell: Any) -> Any:
        return json.dumps(_plain(cell)) if isinstance(cell, list | tuple | np.ndarray) else cell

    with path.open("w", encoding="utf-8", newline="") as stream:
        for number, part in enumerate(chunks()):
            # dtype=object, because pandas would convert integers with missing values to floats.
            cells = {name: pd.Series([encoded(cell) for cell in part[name]], dtype=object) for name in part}
            pd.DataFrame(cells).to_csv(stream, index=False, header=number == 0)


def _read_jsonl(path: Path, _: Sequence[str]) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        rows = (parse_json_row(line, number, path) for number, line in enumerate(lines, 1) if line.strip())
        # Convert in chunks, because dictionaries take several times the memory of a table.
        parts = [pd.DataFrame(part, dtype=object) for part in iter(lambda: list(islice(rows, CHUNK_ROWS)), [])]
    return pd.concat(parts, ignore_index=True).apply(_inferred) if parts else pd.DataFrame()


def _inferred(cells: pd.Series) -> pd.Series:
    """Infer the type of a column. Integers with missing values stay integers."""
    filled = cells.dropna()
    if len(filled) < len(cells) and pd.api.types.infer_dtype(filled) == "integer":
        return cells
    return cells.infer_objects()


def parse_json_row(line: str, number: int, path: Path) -> dict[str, Any]:
    """Return the cells in one line of a JSON Lines file, by column name."""
    where, remedy = f"{path}, line {number}", "Write one JSON object per line."
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ManifestError(f"invalid JSON ({error})", where=where, remedy=remedy) from error
    if not isinstance(row, dict):
        raise ManifestError("expected a JSON object", where=where, remedy=remedy)
    return {column: compact(cell) for column, cell in row.items()}


def _write_jsonl(chunks: Chunks, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for part in chunks():
            for row in part.to_dict("records"):
                plain = {column: _plain(cell) for column, cell in row.items()}
                stream.write(json.dumps(plain, ensure_ascii=False, default=_to_text) + "\n")


def _plain(cell: Any) -> Any:
    """Convert nested NumPy values to Python values and missing values to None."""
    if cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, np.ndarray | np.generic):
        return _plain(cell.tolist())
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {name: _plain(item) for name, item in cell.items()}
    return cell


def _to_text(value: Any) -> str:
    """Return values that JSON cannot represent, such as timestamps, as text."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _read_parquet(path: Path, _: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Use one thread and release unused memory: every Arrow thread keeps its own memory pool.
    pool = pa.default_memory_pool()
    with pq.ParquetFile(path) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
        lists = [name for name, kind in kinds.items() if pa.types.is_list(kind) or pa.types.is_large_list(kind)]
        others = [name for name in kinds if name not in lists]
        # Keep integer columns with missing values as integers: floats could alter values of more than 15 digits.
        frame = file.read(columns=others, use_threads=False).to_pandas(use_threads=False, integer_object_nulls=True)
        # Keep a named index: it is a column that pandas stored as the index.
        frame = frame.reset_index(drop=frame.index.names == [None])
        pool.release_unused()
        for name in lists:
            cells: list[Any] = []
            # Convert in batches, to avoid holding all rows as Arrow, NumPy and Python values at once.
            for batch in file.iter_batches(CHUNK_ROWS, columns=[name], use_threads=False):
                cells.extend(map(compact, batch.to_pandas(use_threads=False)[name]))
                pool.release_unused()
            frame[name] = pd.Series(cells, dtype=object)
    return frame[[name for name in kinds if name in frame] + [name for name in frame if name not in kinds]]


def _write_parquet(chunks: Chunks, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Unify the schemas of all chunks first, because a column that is empty in one chunk gets its type from another.
    schemas, pool = [], pa.default_memory_pool()
    for part in chunks():
        # Schema.from_pandas is not used because its errors do not name the column.
        schemas.append(pa.Table.from_pandas(part, preserve_index=False, nthreads=1).schema)
        pool.release_unused()
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    with pq.ParquetWriter(path, schema) as writer:
        for part in chunks():
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False, nthreads=1))
            pool.release_unused()


FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".parquet": (_read_parquet, _write_parquet),
    ".csv": (_read_csv, _write_csv),
    ".jsonl": (_read_jsonl, _write_jsonl),
}
"""The reader and writer for each file suffix."""

SUFFIXES: tuple[str, ...] = tuple(FORMATS)
"""The supported file suffixes."""


def format_of(path: Path) -> tuple[Reader, Writer]:
    """Return the reader and the writer for a file, by its suffix.

    Raises:
        ManifestError: If the suffix is not supported.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ManifestError(
            f"unsupported file extension {path.suffix!r}", where=path, remedy=f"Use {', '.join(FORMATS)}."
        ) from None
