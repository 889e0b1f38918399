"""Collect answers for FEABench from models and answer tables."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from explllm.conversation.messages import LIST_UNITS, conversation
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest, face_key
from explllm.core.progress import track
from explllm.data.dataset import face_source
from explllm.explanations.records import read_table
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.models.configuration import read_config
from explllm.models.explllm import ExpLLM
from explllm.models.generation import answer, unit_probabilities
from explllm.training.face_record import read_record
from explllm.training.leaks import ComparedFaces, DataCheck


@dataclass(frozen=True)
class Contestant:
    """A model to compare, or a table of answers from a model that runs elsewhere."""

    name: str
    """Name in the report."""
    labels: tuple[Expression, ...]
    """The expressions that the model chooses from; for a table, all eight."""
    folder: Path | None = None
    """The model's folder; None for a table of answers."""
    answers: pd.DataFrame | None = None
    """The answers in the order of the test faces, such as those of ``explllm baseline``; None for a model."""
    is_baseline: bool = False
    """Whether the answers come from ``explllm baseline``."""

    @classmethod
    def open(cls, path: str, test: Manifest) -> "Contestant":
        """Open a run folder, a model's folder or a table of answers; the weights are not loaded yet.

        Args:
            path: A run folder of ``explllm fit``, a model's folder, or a table with the columns of
                `explllm.metrics.fea_bench`.
            test: The test faces.

        Raises:
            InputError: If the path is neither a model nor a table, or does not fit the test faces.
        """
        folder = Path(os.path.abspath(path))  # links are not resolved: the target may lie outside the run folder
        if folder.is_file():
            table = read_table(folder)
            answers = aligned_answers(table, test)
            return cls(folder.stem, tuple(Expression), None, answers, "answer" in table.frame)
        inside = folder if (folder / "config.json").is_file() else folder / "model"
        if not (inside / "config.json").is_file():
            raise CheckpointError(
                "neither a model nor a table of answers",
                where=folder,
                remedy="Pass a run folder of `explllm fit`, a model's folder, or the OUT of `explllm baseline`.",
            )
        labels = tuple(Expression(label) for label in read_config(inside).labels or ())
        expressions = set(test.frame.get("expression", pd.Series(dtype=object)).dropna())
        if not labels or (expressions and expressions.isdisjoint(labels)):
            raise ConfigError(
                f"the model chooses from {', '.join(labels) or 'no expressions'}, but the test faces show "
                f"{', '.join(sorted(expressions)) or 'others'}",
                where=inside,
                remedy="Test on faces whose expressions it knows.",
            )
        return cls(inside.parent.name if inside.name == "model" else inside.name, labels, inside)

    def check(self, faces: ComparedFaces, allow_leaks: bool = False) -> DataCheck:
        """Compare the training faces with the test faces.

        Args:
            faces: The test faces.
            allow_leaks: Return the leaks instead of rejecting the model.

        Returns:
            The result of `ComparedFaces.check`. Answers of ``explllm baseline`` count as zero-shot; other answer tables
            do not record the model's training data.

        Raises:
            ConfigError: If the training faces include a test image or a person in the test faces, and `allow_leaks` is
                false.
        """
        if self.folder is None:
            return DataCheck("zero-shot" if self.is_baseline else "unknown")
        found = faces.check(read_record(self.folder.parent))
        for kind in ("images", "people"):
            count = (found.leaks or {}).get(kind)
            if count and not allow_leaks:
                raise ConfigError(
                    f"{self.name} was trained on {count} of {len(faces.table)} test faces (same {kind})",
                    where=self.folder,
                    remedy="Test on other faces, or train on another fold; --allow_leaks reports the metrics anyway.",
                )
        return found

    def ask(
        self,
        test: Manifest,
        validation: Manifest | None,
        units: tuple[str, ...],
        device: str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 320,
    ) -> tuple[pd.DataFrame, tuple[Manifest, pd.DataFrame] | None]:
        """Return the answers for the test faces, and the validation faces with the model's probabilities for them.

        The second value is None for a table, or if there are no validation faces or `units`. See `ask_model` for the
        arguments.

        Raises:
            InputError: If the weights or an image cannot be read.
        """
        if self.folder is None:
            assert self.answers is not None
            return self.answers, None
        model = ExpLLM.from_pretrained(self.folder, device=device)
        answers = ask_model(model, test, units, batch_size, max_new_tokens)
        if validation is None or not units:
            return answers, None
        return answers, (validation, ask_model(model, validation, units, batch_size, texts=False))


def check_images(*tables: Manifest | None) -> None:
    """Check that all images exist.

    Raises:
        MissingPathError: If an image is missing; the message names the first.
    """
    for faces in filter(None, tables):
        for row in range(len(faces)):
            if not faces.image_path(row).is_file():
                raise MissingPathError(
                    "missing image", where=faces.image_path(row), remedy="Check --root and the files."
                )


def write_answers(answers: pd.DataFrame, faces: Manifest, path: Path) -> None:
    """Write the answers for faces to a table that the benchmark accepts in place of the model."""
    names = [name for name in ("image", "box") if name in faces.frame]
    Manifest(faces.frame[names].join(answers), faces.root).write(path)


def validation_faces(manifest: Manifest, split: str, faces: ComparedFaces) -> tuple[Manifest | None, int]:
    """Return the rows of the ``val`` split to choose thresholds on, and the number of rows left out.

    Rows that share an image or a person with the test faces are left out. The rows are None if the tested split
    (`split`) is ``val`` or no row remains.
    """
    if split == "val" or not (manifest.frame["split"] == "val").any():
        return None, 0
    rows = manifest.select(split="val")
    kept = faces.without_shared(rows)
    return kept, len(rows) - (0 if kept is None else len(kept))


def ask_model(
    model: ExpLLM,
    faces: Manifest,
    units: tuple[str, ...],
    batch_size: int = 16,
    max_new_tokens: int = 320,
    texts: bool = True,
) -> pd.DataFrame:
    """Run a model on faces and collect its answers.

    Args:
        model: The model.
        faces: The faces.
        units: Names of the units to ask about one by one.
        batch_size: Faces per batch.
        max_new_tokens: Maximum length of an answer, in tokens.
        texts: Whether to generate texts in addition to probabilities.

    Returns:
        An answer table for `explllm.metrics.fea_bench.bench_metrics`.

    Raises:
        InputError: If an image cannot be read.
    """
    margin = DEFAULT_MARGIN if model.config.margin is None else model.config.margin
    question = conversation([(LIST_UNITS, None)])
    rows: list[dict[str, Any]] = []
    batches = range(0, len(faces), batch_size)
    for start in track(batches, f"running the model, batches of {batch_size} faces", len(batches)):
        numbers = range(start, min(start + batch_size, len(faces)))
        pixels = torch.stack([model.image(face_source(faces, number, margin)) for number in numbers])
        columns: dict[str, list[Any]] = {}
        if texts:
            results = model.recognize_and_explain_pixels(pixels, max_new_tokens)
            columns["predicted"] = [str(recognition.expression) for recognition, _ in results]
            columns["cot"] = [cot.text for _, cot in results]
        if units:
            values = unit_probabilities(model, pixels, units).tolist()
            columns["p_active"] = [dict(zip(units, row, strict=True)) for row in values]
            if texts:
                columns["units_text"] = answer(model, pixels, question, max_new_tokens)
        rows += [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return pd.DataFrame(rows)


def aligned_answers(answers: Manifest, faces: Manifest) -> pd.DataFrame:
    """Return a table's answers in the order of the faces; faces without an answer get empty cells.

    Args:
        answers: A table with the column ``image`` and answers.
        faces: The faces.

    Raises:
        ConfigError: If the table has no answer for any of the faces.
    """
    names = [name for name in ("predicted", "cot", "units_text", "p_active") if name in answers.frame]
    boxes = answers.frame.get("box", pd.Series([None] * len(answers)))
    keys = [face_key(image, box) for image, box in zip(answers.frame["image"], boxes, strict=True)]
    known = dict(zip(keys, answers.frame[names].to_dict("records"), strict=True))
    wanted = [face_key(faces.frame["image"].iloc[row], faces.box(row)) for row in range(len(faces))]
    if not names or not set(wanted) & set(known):
        raise ConfigError(
            "the table has no answer about any test face",
            where=answers.path,
            remedy="Create it from the same manifest, for example with `explllm baseline MANIFEST --split test`.",
        )
    table = pd.DataFrame([known.get(key, {}) for key in wanted], columns=names)
    if "p_active" in table:
        cells = [_parsed(cell) for cell in table["p_active"]]
        table["p_active"] = pd.Series(cells, dtype=object)
    return table


def _parsed(cell: Any) -> Any:
    """Parse a JSON cell; return any other cell unchanged. The metrics reject cells that are not probabilities."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell
