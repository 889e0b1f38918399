"""The quality of chains of thought in a table: form, conclusion, grounding."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from explllm.core.action_units import check_action_units
from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.grounding import ground
from explllm.core.manifest import Manifest
from explllm.engine.checks import form_problems, names, pair_problems


@dataclass(frozen=True)
class Record:
    """One text with what it is about."""

    name: str
    """The image."""
    text: str
    """The chain of thought."""
    expression: Expression
    """The true label."""
    action_units: Sequence[float] | None
    """24 measured intensities, where they are known."""


@dataclass(frozen=True)
class Quality:
    """Counts over a table; shares are of `texts`, grounding of `grounded`."""

    texts: int
    """Texts."""
    mean_words: float
    """Mean number of words, titles included."""
    over_limit: int
    """Texts of more than 130 words."""
    missing_title: int
    """Texts that lack a section's title, its place having been guessed or not."""
    unnamed_label: int
    """Conclusions that never name the label by its own word."""
    only_another: int
    """Conclusions that name another expression by its own word and never the label."""
    other_verdict: int
    """Texts whose verdict is another expression."""
    unit_numbers: int
    """Texts that give numbers of action units."""
    pronouns: int
    """Texts with personal pronouns."""
    duplicates: int
    """Texts that an earlier row has too."""
    grounded: int
    """Texts whose face has measured action units."""
    precision: float
    """Mean share of claimed units that are measured, in [0, 1]."""
    recall: float
    """Mean share of measured units that are claimed, in [0, 1]."""
    intensity_agreement: float
    """Mean share of intensity words that fit the measured intensity, in [0, 1]."""
    missing_strong: int
    """Texts that leave out a unit of intensity 0.3 or more."""
    unsupported: int
    """Texts that claim a unit of intensity 0."""
    side_errors: int
    """Texts that take left for right."""
    sound: int
    """Texts that pass every local check of the engine."""


def read_records(path: Path) -> Iterator[Record]:
    """Read the chains of thought of a manifest or of a list in the authors' released layout.

    Args:
        path: ``.parquet``, ``.csv``, ``.jsonl``, or the released ``.json``.

    Yields:
        Rows that have a text and a label.

    Raises:
        MissingPathError: If there is no such file.
        ManifestError: If it cannot be read, or no row has a text and a label.
    """
    records = _released(path) if path.suffix == ".json" else _manifest(path)
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        raise ManifestError(
            "no row has a chain of thought and an expression", where=path, remedy="Build them: explllm cot build."
        )


def quality(records: Iterable[Record]) -> Quality:
    """Measure the texts of a table.

    Args:
        records: The texts.

    Returns:
        The counts.
    """
    sums: dict[str, float] = dict.fromkeys(Quality.__dataclass_fields__, 0)
    seen: set[str] = set()
    agreements = 0
    for record in records:
        cot = ChainOfThought.parse(record.text)
        words = len(record.text.split())
        problems = cot.check()
        named = names(cot.conclusion, record.expression)
        verdict = cot.expression
        sums["texts"] += 1
        sums["mean_words"] += words
        sums["over_limit"] += words > 130
        sums["missing_title"] += any("section" in problem for problem in problems)
        sums["unnamed_label"] += not named
        sums["only_another"] += not named and any(names(cot.conclusion, other) for other in Expression)
        sums["other_verdict"] += verdict not in (None, record.expression)
        form = form_problems(cot)
        sums["unit_numbers"] += any("number of" in problem for problem in form)
        sums["pronouns"] += any("pronoun" in problem for problem in form)
        sums["duplicates"] += record.text in seen
        seen.add(record.text)
        if record.action_units is not None:
            found = ground(record.text, record.action_units)
            sums["grounded"] += 1
            sums["precision"] += found.precision
            sums["recall"] += found.recall
            if found.intensity_agreement is not None:
                sums["intensity_agreement"] += found.intensity_agreement
                agreements += 1
            sums["missing_strong"] += bool(found.missing)
            sums["unsupported"] += bool(found.unsupported)
            sums["side_errors"] += bool(found.side_errors)
        sums["sound"] += not pair_problems(cot, record.action_units, record.expression)
    sums["mean_words"] /= max(sums["texts"], 1)
    for name in ("precision", "recall"):
        sums[name] /= max(sums["grounded"], 1)
    sums["intensity_agreement"] /= max(agreements, 1)
    means = ("mean_words", "precision", "recall", "intensity_agreement")
    return Quality(**{name: value if name in means else int(value) for name, value in sums.items()})  # type: ignore[arg-type]


def _manifest(path: Path) -> Iterator[Record]:
    manifest = Manifest.read(path)
    manifest.require("cot", "expression")
    frame = manifest.frame
    units = frame["action_units"] if "action_units" in frame else [None] * len(frame)
    for image, text, label, values in zip(frame["image"], frame["cot"], frame["expression"], units, strict=True):
        if text is not None and label is not None:
            yield Record(str(image), text, Expression(label), values)


def _released(path: Path) -> Iterator[Record]:
    if not path.is_file():
        raise MissingPathError("there is no such file", where=path, remedy="Check the path.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"the file is no JSON ({error})", where=path, remedy="Check the file.") from error
    if not isinstance(rows, list):
        raise ManifestError("JSON that is no list of records", where=path, remedy="Give a list of objects.")
    for number, row in enumerate(rows, 1):
        record = _record(row, f"{path}, record {number}")
        if record is not None:
            yield record


def _record(row: Any, where: str) -> Record | None:
    if not isinstance(row, dict):
        raise ManifestError("a record that is no object", where=where, remedy="Give objects with `description`.")
    text, label, units = row.get("description"), row.get("emo"), row.get("au")
    if not isinstance(text, str) or label is None:
        return None
    try:
        values = None if units is None else check_action_units(json.loads(units) if isinstance(units, str) else units)
        return Record(str(row.get("file_name")), text, Expression.parse(str(label)), values)
    except InputError as error:
        raise ManifestError(error.found, where=where, remedy=error.remedy) from error
