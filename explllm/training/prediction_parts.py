"""Predictions on disk while `predict` runs: each rank writes its own parts, and a killed run can resume."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from lightning.pytorch import Trainer

from explllm.core.files import atomic_write


class PredictionParts:
    """A folder of Parquet files, ``RANK-NUMBER.parquet``, each with the records of some batches of one rank.

    All ranks must have access to the folder. Each record contains its face's row number in the manifest.
    """

    def __init__(self, predictions: Path) -> None:
        """Set the folder: the path of the final table plus ``.parts``."""
        self.folder = predictions.with_name(f"{predictions.name}.parts")

    def resume(self, trainer: Trainer, origin: dict[str, Any]) -> set[int]:
        """Keep the parts of a killed run with the same origin; delete all others. Every rank must call it.

        Args:
            trainer: The trainer.
            origin: What the predictions depend on, such as the checkpoint and the images.

        Returns:
            The rows that have a prediction. Rows whose images could not be read are tried again.
        """
        file = self.folder / "origin.json"
        text = json.dumps(origin, sort_keys=True)
        if trainer.is_global_zero and not (file.is_file() and file.read_text(encoding="utf-8") == text):
            shutil.rmtree(self.folder, ignore_errors=True)
            with atomic_write(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        trainer.strategy.barrier()
        rows = {int(row) for part in self._files() for row in _finished(_read_rows(part))["row"]}
        trainer.strategy.barrier()
        return rows

    def write(self, trainer: Trainer, records: list[dict[str, Any]]) -> None:
        """Write this rank's records of some batches.

        Args:
            trainer: The trainer.
            records: Records with the key ``row``.
        """
        if not records:
            return
        number = len(list(self.folder.glob(f"{trainer.global_rank:05}-*.parquet")))
        with atomic_write(self.folder / f"{trainer.global_rank:05}-{number:06}.parquet") as temporary:
            pd.DataFrame(records).to_parquet(temporary)

    def merge(self) -> pd.DataFrame:
        """Return all records, one per row, in the order of rows; a prediction replaces an unreadable image."""
        table = pd.concat([pd.read_parquet(part) for part in self._files()], ignore_index=True)
        table = pd.concat([table, _finished(table)], ignore_index=True)
        return table.drop_duplicates("row", keep="last").sort_values("row", ignore_index=True)

    def remove(self) -> None:
        """Delete the parts, once the final table is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        # Not the hidden file that a killed process may leave behind.
        return sorted(self.folder.glob("[0-9]*.parquet"))


def _read_rows(part: Path) -> pd.DataFrame:
    """Read only the columns ``row`` and, if present, ``unreadable``."""
    names = [name for name in pq.read_schema(part).names if name in ("row", "unreadable")]
    return pd.read_parquet(part, columns=names)


def _finished(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records without those of unreadable images."""
    return records[records["unreadable"].isna()] if "unreadable" in records else records


def file_identity(path: str | os.PathLike[str] | None) -> list[Any] | None:
    """Return the path, size and modification time of a file; None if `path` is None."""
    if path is None:
        return None
    status = Path(path).stat()
    return [str(path), status.st_size, status.st_mtime_ns]
