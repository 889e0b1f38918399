"""The files of a manifest: Parquet, CSV and JSON Lines, read as tables and written from them, without any check."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.errors import ManifestError

Reader = Callable[[Path, Sequence[str]], pd.DataFrame]
"""From a path, and the columns that are texts whatever their cells look like, to the table. Formats that hold types go
by these."""
Writer = Callable[[pd.DataFrame, Path], None]
"""Writes a table to a path."""

_ROWS_AT_A_TIME = 1000


def is_empty(cell: Any) -> bool:
    """Tell whether a cell holds nothing: None, nan, pandas' NA, or a text of blanks."""
    return (
        cell is None
        or cell is pd.NA
        or (isinstance(cell, float) and np.isnan(cell))
        or (isinstance(cell, str) and not cell.strip())
    )


def _read_csv(path: Path, texts: Sequence[str]) -> pd.DataFrame:
    # Only an empty cell is empty, or a person called NA is lost.
    frame = pd.read_csv(path, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=[""])
    for column in frame.columns.difference(list(texts)):
        frame[column] = _decoded(frame[column])
    return frame


def _decoded(cells: pd.Series) -> pd.Series:
    """Return the values of a column that a writer stored as JSON lists, other columns as they are."""
    filled = cells.dropna()
    if filled.empty or not all(isinstance(cell, str) and cell.startswith("[") for cell in filled):
        return cells
    try:
        values = [None if is_empty(cell) else json.loads(cell) for cell in cells]
    except ValueError:
        return cells
    return pd.Series(values, index=cells.index, dtype=object)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    def encoded(cell: Any) -> Any:
        return json.dumps(_plain(cell)) if isinstance(cell, list | tuple | np.ndarray) else cell

    frame.astype(object).map(encoded).to_csv(path, index=False)


def _read_jsonl(path: Path, _: Sequence[str]) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ManifestError(
                    f"no JSON ({error})", where=f"{path}, line {number}", remedy="Write one JSON object a line."
                ) from error
            if not isinstance(row, dict):
                raise ManifestError(
                    "JSON that is no object", where=f"{path}, line {number}", remedy="Write one JSON object a line."
                )
            rows.append(row)
    return pd.DataFrame(rows)


def _write_jsonl(frame: pd.DataFrame, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in frame.to_dict("records"):
            plain = {column: None if is_empty(cell) else _plain(cell) for column, cell in row.items()}
            stream.write(json.dumps(plain, ensure_ascii=False) + "\n")


def _plain(cell: Any) -> Any:
    """Return NumPy's numbers and arrays, at any depth, as Python's."""
    if isinstance(cell, np.ndarray | np.generic):
        return _plain(cell.tolist())
    if isinstance(cell, list | tuple):
        return [_plain(item) for item in cell]
    return cell


def _read_parquet(path: Path, _: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa

    frame = pd.read_parquet(path, engine="pyarrow")
    # Arrow keeps for itself what it used; a long run would carry it along.
    pa.default_memory_pool().release_unused()
    return frame


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # In parts, so that no second copy of all texts is ever in memory; the types are those of the whole columns.
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, max(len(frame), 1), _ROWS_AT_A_TIME):
            part = frame.iloc[start : start + _ROWS_AT_A_TIME]
            writer.write_table(pa.Table.from_pandas(part, schema, preserve_index=False))


FORMATS: dict[str, tuple[Reader, Writer]] = {
    ".parquet": (_read_parquet, _write_parquet),
    ".csv": (_read_csv, _write_csv),
    ".jsonl": (_read_jsonl, _write_jsonl),
}
"""How a file with each ending is read and written."""

ENDINGS: tuple[str, ...] = tuple(FORMATS)
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
