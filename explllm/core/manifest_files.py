"""The files of a manifest: Parquet, CSV and JSON Lines, read as tables and written from them, without any check."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.errors import ManifestError

Reader = Callable[[Path, Sequence[str]], pd.DataFrame]
"""From a path, and the columns that are texts whatever their cells look like, to the table. Formats that hold types go
by these."""
Parts = Callable[[], Iterator[pd.DataFrame]]
"""Gives a table, each time anew, in parts of consecutive rows; at least one, which may be empty."""
Writer = Callable[[Parts, Path], None]
"""Writes a table to a path."""

CHUNK_ROWS = 1000
"""Rows that are read and written at a time."""


def is_empty(cell: Any) -> bool:
    """Tell whether a cell holds nothing: None, nan, pandas' NA, or a text of blanks."""
    return (
        cell is None
        or cell is pd.NA
        or (isinstance(cell, float) and np.isnan(cell))
        or (isinstance(cell, str) and not cell.strip())
    )


def _compact(cell: Any) -> Any:
    """Return a list or an array of floats as a list, with one 0 for all: most units of a face are 0."""
    if isinstance(cell, np.ndarray) and cell.ndim == 1 and cell.dtype.kind == "f":
        cell = cell.tolist()
    if isinstance(cell, list) and all(isinstance(number, float) for number in cell):
        return [number or 0.0 for number in cell]
    return cell


def _read_csv(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    # Only an empty cell is empty, or a person called NA is lost.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    for column in frame.columns.difference(list(texts)):
        frame[column] = _decoded(frame[column])
    return frame


_WHOLE = r"0|-?[1-9]\d{0,17}"
_NUMBER = r"(-(?!0$))?(0|[1-9]\d{0,14})(\.(0|\d*[1-9]))?(e[-+]\d{2,})?|-?inf"
"""As Python writes them: what is written otherwise, such as 1.10, may be no number."""
_TRUTHS = {"True": True, "False": False}


def _decoded(cells: pd.Series) -> pd.Series:
    """Return numbers and truths where all cells are, and lists where all are JSON's; else texts: 007 is not 7."""
    filled = cells.dropna()
    if filled.empty:
        return cells.astype(object)
    if filled.str.fullmatch(_WHOLE).all():
        whole = filled.astype("int64")
        return whole if len(whole) == len(cells) else whole.astype("Int64").reindex(cells.index)
    if filled.str.fullmatch(_NUMBER).all():
        return cells.astype("float64")
    if filled.isin(list(_TRUTHS)).all():
        return cells.map(_TRUTHS)
    if not filled.str.startswith("[").all():
        return cells
    try:
        values = [None if is_empty(cell) else _compact(json.loads(cell)) for cell in cells]
    except ValueError:
        return cells
    return pd.Series(values, index=cells.index, dtype=object)


def _write_csv(parts: Parts, path: Path) -> None:
    def encoded(cell: Any) -> Any:
        return json.dumps(_plain(cell)) if isinstance(cell, list | tuple | np.ndarray) else cell

    with path.open("w", encoding="utf-8", newline="") as stream:
        for number, part in enumerate(parts()):
            # As objects: pandas would make floats of whole numbers with gaps.
            cells = {name: pd.Series(map(encoded, part[name]), dtype=object) for name in part}
            pd.DataFrame(cells).to_csv(stream, index=False, header=number == 0)


def _read_jsonl(path: Path, _: Sequence[str]) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        rows = (_row(line, number, path) for number, line in enumerate(lines, 1) if line.strip())
        # In parts: as dictionaries the rows take several times the memory of a table.
        parts = [pd.DataFrame(part, dtype=object) for part in iter(lambda: list(islice(rows, CHUNK_ROWS)), [])]
    return pd.concat(parts, ignore_index=True).apply(_inferred) if parts else pd.DataFrame()


def _inferred(cells: pd.Series) -> pd.Series:
    """Return a column with its proper type; whole numbers with gaps stay whole."""
    filled = cells.dropna()
    if len(filled) < len(cells) and pd.api.types.infer_dtype(filled) == "integer":
        return cells
    return cells.infer_objects()


def _row(line: str, number: int, path: Path) -> dict[str, Any]:
    where, remedy = f"{path}, line {number}", "Write one JSON object a line."
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ManifestError(f"no JSON ({error})", where=where, remedy=remedy) from error
    if not isinstance(row, dict):
        raise ManifestError("JSON that is no object", where=where, remedy=remedy)
    return {column: _compact(cell) for column, cell in row.items()}


def _write_jsonl(parts: Parts, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for part in parts():
            for row in part.to_dict("records"):
                plain = {column: _plain(cell) for column, cell in row.items()}
                stream.write(json.dumps(plain, ensure_ascii=False, default=_named) + "\n")


def _plain(cell: Any) -> Any:
    """Return NumPy's numbers and arrays, at any depth, as Python's, and what is missing as None."""
    if cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell)):
        return None
    if isinstance(cell, np.ndarray | np.generic):
        return _plain(cell.tolist())
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    if isinstance(cell, dict):
        return {name: _plain(item) for name, item in cell.items()}
    return cell


def _named(value: Any) -> str:
    """Return what JSON has no form for, such as times, as text."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _read_parquet(path: Path, _: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # By one thread, because each has a store of its own; and what Arrow would keep for another time is given back.
    pool = pa.default_memory_pool()
    with pq.ParquetFile(path) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
        lists = [name for name, kind in kinds.items() if pa.types.is_list(kind) or pa.types.is_large_list(kind)]
        others = [name for name in kinds if name not in lists]
        # Whole numbers with gaps stay whole: as floats those of more than 15 digits would be others.
        frame = file.read(columns=others, use_threads=False).to_pandas(use_threads=False, integer_object_nulls=True)
        # pandas may have kept a column as the index, which has a name then.
        frame = frame.reset_index(drop=frame.index.names == [None])
        pool.release_unused()
        for name in lists:
            cells: list[Any] = []
            # In parts, so that the numbers of all rows are never there as Arrow's, NumPy's and Python's at once.
            for batch in file.iter_batches(CHUNK_ROWS, columns=[name], use_threads=False):
                cells.extend(map(_compact, batch.to_pandas(use_threads=False)[name]))
                pool.release_unused()
            frame[name] = pd.Series(cells, dtype=object)
    return frame[[name for name in kinds if name in frame] + [name for name in frame if name not in kinds]]


def _write_parquet(parts: Parts, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A column that is empty in one part says its type in another: all are looked at before the first is written.
    schemas, pool = [], pa.default_memory_pool()
    for part in parts():
        schemas.append(pa.Schema.from_pandas(part, preserve_index=False))
        pool.release_unused()
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    with pq.ParquetWriter(path, schema) as writer:
        for part in parts():
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False, nthreads=1))
            pool.release_unused()


FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".parquet": (_read_parquet, _write_parquet),
    ".csv": (_read_csv, _write_csv),
    ".jsonl": (_read_jsonl, _write_jsonl),
}
"""How a file with each ending is read and written."""

SUFFIXES: tuple[str, ...] = tuple(FORMATS)
"""The endings of the files that a manifest can be read from and written to."""


def format_of(path: Path) -> tuple[Reader, Writer]:
    """Return what reads and what writes a file.

    Args:
        path: The file; its ending decides.

    Returns:
        The reader, which is given the path and the columns that are texts, and the writer.

    Raises:
        ManifestError: If there is no such format.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ManifestError(
            f"a manifest with the ending {path.suffix!r}", where=path, remedy=f"Use {', '.join(FORMATS)}."
        ) from None
