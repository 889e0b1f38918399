"""Texts and labels from manifests, run folders, and the JSON files of the authors' released code."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.files import PREDICTIONS_FILE
from explllm.core.manifest import Manifest, face_key


@dataclass(frozen=True)
class Record:
    """One chain of thought with the face it describes."""

    image: str
    """Path of the image."""
    box: Sequence[float] | None
    """Box of the face; None if the image shows a single face."""
    text: str
    """The chain of thought."""
    expression: Expression | None = None
    """The true label, if known."""
    action_units: Sequence[float | None] | None = None
    """24 measured intensities, if known; None for a unit that was not measured."""
    predicted: Expression | None = None
    """The predicted label that precedes the text, if known and valid."""
    reference: str | None = None
    """The reference text, if the table contains one."""

    @property
    def name(self) -> str:
        """A unique key of the face within the table."""
        return face_key(self.image, self.box)


def read_table(path: Path) -> Manifest:
    """Read a table of texts or of recognized faces.

    The authors' released code uses two JSON layouts. Annotation lists have the fields ``file_name``, ``emo``, ``au``,
    and ``description``. If a record also has ``gt_emo``, that field is the true label and ``emo`` is the prediction.
    The field ``box`` is read, too, because it distinguishes several faces in one image. Evaluation results
    (``result_all.json``) have the fields ``img_path``, ``gt`` and ``pred``; the last two contain labels or texts.

    Args:
        path: A manifest (``.parquet``, ``.csv``, ``.jsonl``), a ``.json`` file in one of these layouts, or a run folder
            that contains ``predictions.parquet``.

    Returns:
        A manifest. JSON files yield the columns ``image``, ``box``, ``expression``, ``predicted``, ``action_units``,
        ``cot`` and ``reference`` (the text that a result was compared with). Empty columns are omitted.

    Raises:
        MissingPathError: If the file does not exist, or a folder does not contain ``predictions.parquet``.
        ManifestError: If the file cannot be read or contains a duplicate face.
    """
    if path.is_dir():
        if not (path / PREDICTIONS_FILE).is_file():
            raise MissingPathError(
                f"the folder does not contain {PREDICTIONS_FILE}",
                where=path,
                remedy="Run `explllm test` or `predict` first.",
            )
        return Manifest.read(path / PREDICTIONS_FILE)
    return _released(path) if path.suffix == ".json" else Manifest.read(path)


def records(table: Manifest, texts_only: bool = True) -> Iterator[Record]:
    """Yield the rows of a table as records, by default only those with a chain of thought.

    Args:
        table: The result of `read_table`.
        texts_only: Whether to skip rows without a chain of thought. If False, their `Record.text` is empty.

    Yields:
        Records in table order.
    """
    frame, empty = table.frame, [None] * len(table)
    columns = ("image", "box", "cot", "expression", "predicted", "reference")
    rows = zip(*(frame.get(name, empty) for name in columns), table.intensities(), strict=True)
    for image, box, text, label, predicted, reference, units in rows:
        written = text if isinstance(text, str) and text.strip() else ""
        if written or not texts_only:
            yield Record(
                str(image),
                box,
                written,
                None if label is None else Expression(label),
                units,
                Expression.parse_or_none(predicted),
                reference if isinstance(reference, str) else None,
            )


def read_records(path: Path) -> Iterator[Record]:
    """Read the chains of thought of a file accepted by `read_table`.

    Args:
        path: The file or run folder.

    Yields:
        One record per row with a text.

    Raises:
        MissingPathError: See `read_table`.
        ManifestError: If the file cannot be read, contains a duplicate face, or has no text in any row.
    """
    empty = True
    for record in records(read_table(path)):
        empty = False
        yield record
    if empty:
        raise ManifestError("no row has a chain of thought", where=path, remedy="Create them with `explllm cot build`.")


def _released(path: Path) -> Manifest:
    if not path.is_file():
        raise MissingPathError("the file does not exist", where=path, remedy="Check the path.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"invalid JSON ({error})", where=path, remedy="Check the file.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ManifestError("expected a JSON list of records", where=path, remedy="Provide a list of objects.")
    faces: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        image, values = _of_result(row) if "img_path" in row else _of_list(row)
        if not isinstance(image, str):
            raise ManifestError(
                "the record has no file_name or img_path",
                where=f"{path}, record {number}",
                remedy="Add the image path.",
            )
        # Evaluation results may store the label and the text of a face in separate records.
        face = faces.setdefault(f"{image} {row.get('box')}", {"image": image, "box": row.get("box")})
        if repeated := [name for name, value in values.items() if value is not None and face.get(name) is not None]:
            raise ManifestError(
                f"duplicate {repeated[0]} for {image}",
                where=f"{path}, record {number}",
                remedy="Keep one record per face.",
            )
        face.update({name: value for name, value in values.items() if value is not None})
    columns = ["image", "box", "expression", "predicted", "action_units", "cot", "reference"]
    frame = pd.DataFrame(list(faces.values()), dtype=object).reindex(columns=columns)
    # Drop empty columns; otherwise an empty answer column would imply that there were answers.
    return Manifest(frame.drop(columns=[name for name in columns[1:] if frame[name].isna().all()]), path.parent, path)


def _of_list(row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    recognized = "gt_emo" in row
    return row.get("file_name"), {
        "expression": row.get("gt_emo" if recognized else "emo"),
        "predicted": row.get("emo") if recognized else None,
        "action_units": row.get("au"),
        "cot": row.get("description"),
    }


def _of_result(row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    truth, answer = row.get("gt"), row.get("pred")
    if Expression.parse_or_none(truth) is not None:
        return row["img_path"], {"expression": truth, "predicted": answer}
    return row["img_path"], {"reference": truth, "cot": answer}
