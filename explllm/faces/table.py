"""Resumable jobs over the rows of a manifest, which is read in chunks and written with new columns.

Memory use grows only by a few dozen bytes per row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.errors import InputError, ManifestError
from explllm.core.manifest import Manifest
from explllm.core.manifest_cells import duplicate_face
from explllm.core.manifest_chunks import ManifestFile
from explllm.faces.boxes import Box
from explllm.faces.job_results import Results, exclusive, file_sha256, partial_path
from explllm.faces.jobs import Item, Job, JobOptions, run_job

MAX_REASONS = 10
"""Maximum number of unusable images that a summary lists."""


@dataclass
class Summary:
    """Summary of a job."""

    rows_in: int
    """Rows of the manifest that was read."""
    counts: Counter[str] = field(default_factory=Counter)
    """Rows of the manifest that was written, by status."""
    processed: int = 0
    """Number of items processed."""
    bad: int = 0
    """Number of unusable items."""
    reasons: list[str] = field(default_factory=list)
    """The first `MAX_REASONS` unusable images with their reasons."""

    @property
    def rows_out(self) -> int:
        """Rows of the manifest that was written."""
        return self.counts.total()


class TableTask(ABC):
    """A job over a manifest. It defines which rows are items and which columns store their results."""

    title: str
    """Label of the progress bar."""
    status_column: str
    """Column with the status of each row."""
    batch_size: int = 1
    """Number of items per call of the job."""

    @property
    @abstractmethod
    def job(self) -> Job:
        """What to do with the items."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Return what the results depend on, besides the manifest and its root."""

    @abstractmethod
    def plan(self, source: ManifestFile) -> int:
        """Read the manifest once, and return the number of items."""

    @abstractmethod
    def items(self, source: ManifestFile) -> Iterator[Item]:
        """Yield the items with their row numbers, in ascending order of row numbers."""

    @abstractmethod
    def convert(self, row: int, chunk: Manifest, results: Results) -> pd.DataFrame:
        """Return a chunk of the manifest, starting at the given row, with the new columns."""


def run_on_manifest(
    source: ManifestFile, out: str | PathLike[str], task: TableTask, *, workers: int = 1, max_bad: int | None = None
) -> Summary:
    """Process the rows of a manifest and write the result. The same call resumes a run that was interrupted.

    Args:
        source: The manifest to read.
        out: The manifest to write; it is replaced if it exists.
        task: What to do.
        workers: Worker processes.
        max_bad: Maximum number of unusable images before the run stops; None for no limit.

    Raises:
        InputError: As raised by `run_job` and `ManifestFile`; also if the manifest is empty or lists a face twice, if
            another run is writing the same output, or if no image can be used and `out` exists, because a table of
            failures must not replace it.
    """
    with exclusive(out):
        rows = check_unique_faces(source)
        if not rows:
            raise ManifestError("the manifest has no rows", where=source.path, remedy="Use one with at least one row.")
        total = task.plan(source)
        partial = partial_path(out)
        settings = {
            "command": task.title,
            "manifest": file_sha256(source.path),
            "root": str(source.root.resolve()),
            **task.settings(),
        }
        options = JobOptions(partial, settings, task.title, total, workers, task.batch_size, max_bad)
        run_job(task.items(source), task.job, options)
        results = Results(partial)
        try:
            summary = Summary(rows, processed=len(results), bad=len(results.bad))
            summary.reasons = [results[index]["bad"] for index in sorted(results.bad)[:MAX_REASONS]]
            if summary.bad and summary.bad == summary.processed and Path(out).exists():
                partial.unlink()  # The next run will have another root, so nothing here is worth keeping.
                raise InputError(
                    f"no image could be used, and the existing manifest was not replaced: {summary.reasons[0]}",
                    where=out,
                    remedy=f"Are the paths relative to {source.root}? If not, pass --root.",
                )

            def convert(row: int, chunk: Manifest) -> pd.DataFrame:
                if row == 0:
                    summary.counts.clear()  # For some formats, the table is read twice.
                frame = task.convert(row, chunk, results)
                summary.counts.update(frame[task.status_column])
                return frame

            source.write(out, convert)
        finally:
            results.close()
        partial.unlink()
    return summary


def check_unique_faces(source: ManifestFile) -> int:
    """Check that no two rows of a manifest describe the same face, and return the number of rows.

    Raises:
        ManifestError: If two rows describe the same face.
    """
    # The hashes have 64 bits. Among 400,000 faces, the probability of two equal hashes is 4e-9.
    hashes = array("q", (hash(face) for _, chunk in source for face in image_boxes(chunk)))
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        first, second = (int(row) for row in np.flatnonzero(np.asarray(hashes) == repeated[0])[:2])
        for row, chunk in source:
            if row <= second < row + len(chunk):
                raise duplicate_face(source.path, chunk.frame["image"].iloc[second - row], first, second)
    return len(hashes)


def image_boxes(manifest: Manifest) -> Iterable[tuple[str, Box | None]]:
    """Yield the image of each row and its box; the box is None if the row has none."""
    frame = manifest.frame
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    for image, box in zip(frame["image"], boxes, strict=True):
        yield image, None if box is None else (box[0], box[1], box[2], box[3])
