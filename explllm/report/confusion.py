"""The interactive confusion matrix of a test's page: each cell opens the faces that it counts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from explllm.core.errors import ImageError, MissingPathError
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.metrics.answers import Answers
from explllm.report.explained import thumbnail_url

NO_LABEL_COLUMN = "no label"
"""Column of the answers that name no class."""

_SIZE, _PER_CELL, _MAX_BYTES = 64, 24, 1_000_000
"""Pixels of a thumbnail, thumbnails per cell, and bytes of all thumbnails. A page stays below 2 MB."""


@dataclass(frozen=True)
class ScoredFace:
    """A face of a test with the model's answer."""

    image: Path
    """The image file."""
    name: str
    """The image's path in the data."""
    expression: str
    """The true label."""
    predicted: str
    """The model's answer, or `NO_LABEL_COLUMN`."""
    confidence: float | None
    """Probability of the true label; None if unknown."""
    box: Sequence[float] | None = None
    """Face box in the image."""
    margin: float = DEFAULT_MARGIN
    """Margin around the box that the model used."""


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix."""

    anchor: str
    """Identifier within the page."""
    expression: str
    predicted: str
    count: int
    share: float
    """Share of the row, in [0, 1]."""
    faces: Sequence[tuple[ScoredFace, str]]
    """Faces to show, with their thumbnails as data URLs."""


def scored_faces(answers: Answers, table: pd.DataFrame, root: Path, margin: float = DEFAULT_MARGIN) -> list[ScoredFace]:
    """Return the scored faces of a test, those with the lowest probability of the true label first.

    `table` has the columns ``image``, relative to `root`, and ``box``, if known.
    """
    names, probabilities = answers.names, answers.truth_probability
    faces = []
    for index in np.argsort(probabilities, kind="stable"):
        row = answers.rows[index]
        image, box = str(table.at[row, "image"]), table.at[row, "box"] if "box" in table else None
        faces.append(
            ScoredFace(
                root / image,
                image,
                str(answers.labels[answers.targets[index]]),
                names[index] or NO_LABEL_COLUMN,
                None if np.isnan(probabilities[index]) else float(probabilities[index]),
                box if isinstance(box, list) else None,
                margin,
            )
        )
    return faces


def confusion_cells(metrics: Mapping[str, Any], faces: Sequence[ScoredFace]) -> list[list[Cell]]:
    """Return the rows of the matrix, with thumbnails of as many faces as fit into the page.

    `metrics` are those of `recognition_metrics`. The last column, of answers without a label, is left out if it is
    empty.
    """
    by_cell: dict[tuple[str, str], list[ScoredFace]] = defaultdict(list)
    for face in faces:
        by_cell[face.expression, face.predicted].append(face)
    thumbnails = _thumbnails(by_cell)
    labels = [str(label) for label in metrics["labels"]]
    columns = [*labels, NO_LABEL_COLUMN] if metrics["no_label"] else labels
    rows = []
    for row, (label, counts) in enumerate(zip(labels, metrics["confusion"], strict=True)):
        total = max(sum(counts), 1)
        rows.append(
            [
                Cell(f"cell-{row}-{column}", label, answer, count, count / total, thumbnails.get((label, answer), []))
                for column, (answer, count) in enumerate(zip(columns, counts, strict=False))
            ]
        )
    return rows


def _thumbnails(
    by_cell: Mapping[tuple[str, str], Sequence[ScoredFace]],
) -> dict[tuple[str, str], list[tuple[ScoredFace, str]]]:
    """Make thumbnails round-robin over the cells: rare errors come before more of the common ones."""
    shown: dict[tuple[str, str], list[tuple[ScoredFace, str]]] = defaultdict(list)
    size = 0
    for turn in zip_longest(*(faces[:_PER_CELL] for faces in by_cell.values())):
        for face in turn:
            if face is None:
                continue
            try:
                url = thumbnail_url(face.image, _SIZE, face.box, face.margin)
            except (ImageError, MissingPathError):
                continue
            size += len(url)
            if size > _MAX_BYTES:
                return shown
            shown[face.expression, face.predicted].append((face, url))
    return shown
