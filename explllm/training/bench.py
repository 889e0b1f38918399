"""Answers of models for FEABench, and the check that no test face was a training face."""

import json
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from explllm.conversation.messages import LIST_UNITS, conversation
from explllm.core.errors import CheckpointError, ConfigError, InputError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest, face_key
from explllm.core.progress import track
from explllm.data.dataset import face_source
from explllm.data.folder import read_folder
from explllm.drawn_faces.dataset import MANIFEST_NAME
from explllm.explanations.records import read_table
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.models.explllm import ExpLLM
from explllm.models.generation import answer, unit_probabilities


@dataclass(frozen=True)
class Contestant:
    """A model to compare, or a table of answers from a model that runs elsewhere."""

    name: str
    """Name in the report."""
    model: ExpLLM | None
    """The model; None for a table of answers."""
    answers: Manifest | None
    """The answers, such as those of ``explllm baseline``; None for a model."""
    training: Manifest | None
    """Its training and validation faces; None if unknown."""

    @classmethod
    def open(cls, path: str, device: str | None = None) -> "Contestant":
        """Open a run folder, a model's folder or a table of answers.

        Args:
            path: A folder of ``explllm fit``, the ``model`` folder in it, or a table with the columns of
                `explllm.metrics.fea_bench`.
            device: Device of the weights.

        Raises:
            InputError: If the path is not a model or a table.
        """
        folder = Path(path)
        if folder.is_file():
            return cls(folder.stem, None, read_table(folder), None)
        inside = folder if (folder / "config.json").is_file() else folder / "model"
        run = folder.parent if inside == folder else folder
        if not (inside / "config.json").is_file():
            raise CheckpointError(
                "neither a model nor a table of answers",
                where=folder,
                remedy="Pass a run folder of `explllm fit`, a model's folder, or the OUT of `explllm baseline`.",
            )
        name = run.name if inside.name == "model" else inside.name
        return cls(name, ExpLLM.from_pretrained(inside, device=device), None, training_faces(run))


def training_faces(run: Path) -> Manifest | None:
    """Return the training and validation faces of a run folder; None if its configuration does not name them."""
    try:
        data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
        kind, options = str(data["class_path"]).rpartition(".")[2], data["init_args"]
        if kind == "FolderFaces":
            table = read_folder(options["root"])
        elif kind == "DrawnFaces":
            table = Manifest.read(Path(options["folder"]) / MANIFEST_NAME)
        else:
            table = Manifest.read(options["manifest"], root=options.get("root"))
    except (OSError, KeyError, TypeError, yaml.YAMLError, InputError):
        return None
    split = table.frame.get("split")
    kept = table.frame if split is None else table.frame[split != "test"]
    return Manifest(kept.reset_index(drop=True), table.root, table.path)


def leaks(training: Manifest, test: Manifest) -> dict[str, int]:
    """Count test faces that are training faces.

    Args:
        training: Training and validation faces.
        test: Test faces.

    Returns:
        ``images``: test faces whose image file has the same content (and the same box) as that of a training face;
        ``people``: test faces of a person in the training faces, by ``identity``, if both belong to the same data set.
    """
    known = set(_hashes(training).values())
    images = sum(value in known for value in _hashes(test).values())
    people = 0
    same_data = training.root.resolve() == test.root.resolve()
    if same_data and "identity" in training.frame and "identity" in test.frame:
        names = set(training.frame["identity"].dropna())
        people = int(test.frame["identity"].isin(names).sum())
    return {"images": images, "people": people}


def _hashes(faces: Manifest) -> dict[int, str]:
    """Return a hash of image content and box of each row whose image exists."""
    hashes: dict[int, str] = {}
    by_path: dict[Path, str] = {}
    for row in range(len(faces)):
        path = faces.image_path(row)
        if path not in by_path and path.is_file():
            with path.open("rb") as stream:
                by_path[path] = file_digest(stream, "sha256").hexdigest()
        if path in by_path:
            hashes[row] = face_key(by_path[path], faces.box(row))
    return hashes


def check_leaks(contestant: Contestant, test: Manifest) -> dict[str, int] | None:
    """Reject a model that was trained on test faces.

    Args:
        contestant: The model.
        test: The test faces.

    Returns:
        The result of `leaks`; None if the training faces are unknown.

    Raises:
        ConfigError: If a test image or a person in the test faces is among its training faces.
    """
    if contestant.training is None:
        return None
    found = leaks(contestant.training, test)
    for kind, count in found.items():
        if count:
            raise ConfigError(
                f"{contestant.name} was trained on {count} of {len(test)} test faces (same {kind})",
                where=test.path,
                remedy="Test on other faces, or train on another fold; --allow_leaks reports the metrics anyway.",
            )
    return found


def data_relation(contestant: Contestant, test: Manifest) -> str:
    """Return a model's relation to the test's data set: ``trained on``, ``zero-shot`` or ``unknown``.

    Answers of ``explllm baseline`` count as zero-shot; other tables of answers do not state what their model was
    trained on.
    """
    if contestant.training is None:
        is_baseline = contestant.answers is not None and "answer" in contestant.answers.frame
        return "zero-shot" if is_baseline else "unknown"
    return "trained on" if contestant.training.root.resolve() == test.root.resolve() else "zero-shot"


def ask_model(
    model: ExpLLM,
    faces: Manifest,
    units: tuple[str, ...],
    batch_size: int = 16,
    max_new_tokens: int = 320,
    texts: bool = True,
) -> pd.DataFrame:
    """Ask a model about faces.

    Args:
        model: The model.
        faces: The faces.
        units: Names of the units to ask about one by one.
        batch_size: Faces per batch.
        max_new_tokens: Maximum length of an answer, in tokens.
        texts: Generate texts as well as probabilities.

    Returns:
        An answer table for `explllm.metrics.fea_bench.bench_metrics`.

    Raises:
        InputError: If an image cannot be read.
    """
    margin = DEFAULT_MARGIN if model.config.margin is None else model.config.margin
    question = conversation([(LIST_UNITS, None)])
    rows: list[dict[str, Any]] = []
    batches = range(0, len(faces), batch_size)
    for start in track(batches, f"asking the model, batches of {batch_size} faces", len(batches)):
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
        ConfigError: If the table has no answer about any face.
    """
    names = [name for name in ("predicted", "cot", "units_text", "p_active") if name in answers.frame]
    boxes = answers.frame.get("box", pd.Series([None] * len(answers)))
    keys = [face_key(image, box) for image, box in zip(answers.frame["image"], boxes, strict=True)]
    known = dict(zip(keys, answers.frame[names].to_dict("records"), strict=True))
    wanted = [face_key(faces.frame["image"].iloc[row], faces.box(row)) for row in range(len(faces))]
    if not names or not set(wanted) & set(known):
        raise ConfigError(
            "the table has no answer about a test face",
            where=answers.path,
            remedy="Make it from the same manifest, such as by `explllm baseline MANIFEST --split test`.",
        )
    table = pd.DataFrame([known.get(key, {}) for key in wanted], columns=names)
    if "p_active" in table:
        table["p_active"] = [json.loads(cell) if isinstance(cell, str) else cell for cell in table["p_active"]]
    return table


def possible_labels(contestant: Contestant, faces: Manifest) -> tuple[Expression, ...]:
    """Return the expressions that a model chooses from; for a table, all eight."""
    return contestant.model.labels if contestant.model is not None else tuple(Expression)
