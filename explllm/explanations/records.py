"""Texts and labels made elsewhere: manifests, run folders, lists and results of the authors' released code."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from explllm.core.errors import ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import Expression
from explllm.core.files import PREDICTIONS_FILE
from explllm.core.manifest import Manifest, face_key


@dataclass(frozen=True)
class Record:
    """One text with what it is about."""

    image: str
    """The image."""
    box: Sequence[float] | None
    """Where the face is in it; None if there is only one."""
    text: str
    """The chain of thought."""
    expression: Expression | None = None
    """The true label, where it is known."""
    action_units: Sequence[float | None] | None = None
    """24 measured intensities, where they are known; None for a unit that was not measured."""
    predicted: Expression | None = None
    """The label that was said before the text, where the table tells and it is one."""
    reference: str | None = None
    """The text to judge this one by, where the same table holds it."""

    @property
    def name(self) -> str:
        """The face's name, which no other face of the table has."""
        return face_key(self.image, self.box)


def read_table(path: Path) -> Manifest:
    """Read a table of texts or of recognized faces.

    The authors' released code has two layouts in JSON. A list has ``file_name``, ``emo``, ``au``, ``description``;
    where it has ``gt_emo`` too, that is the true label, and ``emo`` the recognized one; a ``box``, which ours have,
    tells several faces of one image apart. What its evaluation writes, ``result_all.json``, has ``img_path``, ``gt``
    and ``pred``, which are labels or texts.

    Args:
        path: A manifest (``.parquet``, ``.csv``, ``.jsonl``), one of these ``.json`` files, or a run folder, of which
            ``predictions.parquet`` is read.

    Returns:
        A manifest; of JSON with the columns ``image``, ``expression``, ``predicted``, ``action_units``, ``cot``, and
        ``reference``, the text that a result was compared with.

    Raises:
        MissingPathError: If there is no such file.
        ManifestError: If it cannot be read, or holds a face twice.
    """
    if path.is_dir():
        if not (path / PREDICTIONS_FILE).is_file():
            raise MissingPathError(
                f"the folder holds no {PREDICTIONS_FILE}", where=path, remedy="Run `explllm test` or `predict` first."
            )
        return Manifest.read(path / PREDICTIONS_FILE)
    return _released(path) if path.suffix == ".json" else Manifest.read(path)


def records(table: Manifest) -> Iterator[Record]:
    """Yield the rows of a table that have a text.

    Args:
        table: What `read_table` gave.

    Yields:
        Rows in the table's order.
    """
    frame, nothing = table.frame, [None] * len(table)
    columns = ("image", "box", "cot", "expression", "predicted", "reference")
    rows = zip(*(frame.get(name, nothing) for name in columns), table.intensities(), strict=True)
    for image, box, text, label, predicted, reference, units in rows:
        if isinstance(text, str) and text.strip():
            yield Record(
                str(image),
                box,
                text,
                None if label is None else Expression(label),
                units,
                expression_or_none(predicted),
                reference if isinstance(reference, str) else None,
            )


def read_records(path: Path) -> Iterator[Record]:
    """Read the chains of thought of a table; see `read_table`.

    Args:
        path: The file or run folder.

    Yields:
        Rows that have a text.

    Raises:
        MissingPathError: If there is no such file.
        ManifestError: If it cannot be read, or no row has a text.
    """
    empty = True
    for record in records(read_table(path)):
        empty = False
        yield record
    if empty:
        raise ManifestError("no row has a chain of thought", where=path, remedy="Build them: explllm cot build.")


def expression_or_none(word: Any) -> Expression | None:
    """Return the expression that a word names; None for anything else."""
    try:
        return Expression.parse(word)
    except UnknownExpressionError:
        return None


def _released(path: Path) -> Manifest:
    if not path.is_file():
        raise MissingPathError("there is no such file", where=path, remedy="Check the path.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"the file is no JSON ({error})", where=path, remedy="Check the file.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ManifestError("JSON that is no list of records", where=path, remedy="Give a list of objects.")
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        image, values = _of_result(row) if "img_path" in row else _of_list(row)
        if not isinstance(image, str):
            raise ManifestError(
                "neither file_name nor img_path", where=f"{path}, record {number}", remedy="Say whose text it is."
            )
        # One run's result may hold a face's label and its text, each in a record of its own.
        held = found.setdefault(f"{image} {row.get('box')}", {"image": image, "box": row.get("box")})
        if repeated := [name for name, value in values.items() if value is not None and held.get(name) is not None]:
            raise ManifestError(
                f"a second {repeated[0]} of {image}", where=f"{path}, record {number}", remedy="Keep one record a face."
            )
        held.update({name: value for name, value in values.items() if value is not None})
    columns = ["image", "box", "expression", "predicted", "action_units", "cot", "reference"]
    frame = pd.DataFrame(list(found.values()), dtype=object).reindex(columns=columns)
    # A column of answers that is there says that there were answers.
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
    if expression_or_none(truth) is not None:
        return row["img_path"], {"expression": truth, "predicted": answer}
    return row["img_path"], {"reference": truth, "cot": answer}
