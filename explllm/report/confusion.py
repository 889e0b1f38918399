"""Interactive matrices of a page, such as the confusion matrix: each cell opens the faces that it counts."""

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

FACES_PER_CELL = 24
"""Maximum number of faces that a cell shows."""

_SIZE, _MAX_BYTES = 64, 1_000_000
"""Size of a thumbnail in pixels, and maximum total size of the thumbnails in bytes. A page stays below 2 MB."""


@dataclass(frozen=True)
class ScoredFace:
    """A face of a test."""

    image: Path
    """The image file."""
    name: str
    """The image's path in the data."""
    row: str
    """Row of the matrix; in a confusion matrix, the true label."""
    column: str
    """Column of the matrix; in a confusion matrix, the model's answer or `NO_LABEL_COLUMN`."""
    lines: Sequence[tuple[str, str]]
    """Lines below the face: for each, a CSS class, which may be empty, and the text."""
    box: Sequence[float] | None = None
    """Face box in the image."""
    margin: float = DEFAULT_MARGIN
    """Margin that was added around the box for the model."""


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix."""

    anchor: str
    """Identifier within the page."""
    row: str
    column: str
    count: int
    share: float
    """Share of the faces with the same true label, in [0, 1]: the shade of the cell."""
    title: str
    """What the cell's faces have in common."""
    expected: bool
    """Whether the cell counts correct answers."""
    faces: Sequence[tuple[ScoredFace, str | None]]
    """Faces to show, each with its thumbnail as a data URL, or with None if the image cannot be read."""


def scored_faces(answers: Answers, table: pd.DataFrame, root: Path, margin: float = DEFAULT_MARGIN) -> list[ScoredFace]:
    """Return the scored faces of a test, those with the lowest probability of the true label first.

    `table` has the column ``image`` (relative to `root`) and, if boxes are known, the column ``box``.
    """
    names, probabilities = answers.names, answers.truth_probability
    faces = []
    for index in np.argsort(probabilities, kind="stable"):
        row, probability = answers.rows[index], probabilities[index]
        image, box = str(table.at[row, "image"]), table.at[row, "box"] if "box" in table else None
        label, answer = str(answers.labels[answers.targets[index]]), str(names[index] or NO_LABEL_COLUMN)
        lines = [] if np.isnan(probability) else [("", f"p({label}) {100 * probability:.1f}%")]
        faces.append(
            ScoredFace(root / image, image, label, answer, lines, box if isinstance(box, list) else None, margin)
        )
    return faces


def confusion_cells(metrics: Mapping[str, Any], faces: Sequence[ScoredFace]) -> list[list[Cell]]:
    """Return the rows of the confusion matrix, with thumbnails of as many faces as fit into the page.

    `metrics` is the result of `recognition_metrics`. The last column, for answers without a label, is left out if it is
    empty.
    """
    shown = thumbnails(faces)
    labels = [str(label) for label in metrics["labels"]]
    columns = [*labels, NO_LABEL_COLUMN] if metrics["no_label"] else labels
    rows = []
    for row, (label, counts) in enumerate(zip(labels, metrics["confusion"], strict=True)):
        total = max(sum(counts), 1)
        rows.append(
            [
                Cell(
                    f"cell-{row}-{column}",
                    label,
                    answer,
                    count,
                    count / total,
                    f"{'✓' if label == answer else '✗'} labeled {label}, answered {answer}",
                    label == answer,
                    shown.get((label, answer), []),
                )
                for column, (answer, count) in enumerate(zip(columns, counts, strict=False))
            ]
        )
    return rows


def most_frequent_error(cells: Sequence[Sequence[Cell]]) -> Cell | None:
    """Return the cell to open first: the largest error cell, otherwise the largest cell; None if no cell has faces."""
    filled = [cell for row in cells for cell in row if cell.faces]
    return max(filled, key=lambda cell: (not cell.expected, cell.count), default=None)


def thumbnails(faces: Sequence[ScoredFace]) -> dict[tuple[str, str], list[tuple[ScoredFace, str | None]]]:
    """Create thumbnails in round-robin order over the cells, so that the size limit does not cut off rare errors.

    Returns:
        The faces to show by row and column, each with its data URL, or with None if the image cannot be read.
    """
    by_cell: dict[tuple[str, str], list[ScoredFace]] = defaultdict(list)
    for face in faces:
        by_cell[face.row, face.column].append(face)
    shown: dict[tuple[str, str], list[tuple[ScoredFace, str | None]]] = defaultdict(list)
    size = 0
    for turn in zip_longest(*(faces[:FACES_PER_CELL] for faces in by_cell.values())):
        for face in turn:
            if face is None:
                continue
            try:
                url = thumbnail_url(face.image, _SIZE, face.box, face.margin)
            except (ImageError, MissingPathError):
                url = None
            size += len(url or "")
            if size > _MAX_BYTES:
                return shown
            shown[face.row, face.column].append((face, url))
    return shown
