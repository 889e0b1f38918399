"""A fixed sample of validation faces, explained at most once per step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.pytorch import Trainer

from explllm.core.errors import ImageError, MissingPathError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.models.generation import Recognition
from explllm.report.explained import ExplainedFace

if TYPE_CHECKING:
    from explllm.training.task import ExpLLMTask


@dataclass
class ExplainedSample:
    """The faces explained at one step, shared by all callbacks that need them."""

    step: int = -1
    """Number of completed optimizer steps."""
    faces: dict[int, ExplainedFace] = field(default_factory=dict)
    """Explained faces by row."""


def fixed_sample(faces: pd.DataFrame, number: int) -> list[int]:
    """Choose the same rows in every epoch and run: the first of each expression, then the second, and so on.

    Args:
        faces: A table with the column ``expression``.
        number: Rows to choose.

    Returns:
        At most `number` rows.
    """
    labeled = faces[faces["expression"].notna()]
    turns = labeled.groupby("expression", sort=True).cumcount()
    return [int(row) for row in turns.sort_values(kind="stable").index[:number]]


def explain_sample(
    trainer: Trainer, module: "ExpLLMTask", number: int, require: str | None = None
) -> dict[int, ExplainedFace]:
    """Explain the fixed sample of validation faces with the current model.

    Callbacks that request the sample in the same step share the texts.

    Args:
        trainer: The trainer, during or after validation.
        module: The task.
        number: Number of faces.
        require: A column that must not be empty for a face to be in the sample, such as ``cot``.

    Returns:
        Explained faces by row, without the faces that cannot be read.
    """
    data: Any = trainer.datamodule  # pyrefly: ignore[missing-attribute]
    faces = data.frame("val")
    rows = fixed_sample(faces if require is None else faces.dropna(subset=require), number)
    if module.explained_sample.step != trainer.global_step:
        module.explained_sample = ExplainedSample(trainer.global_step)
    explained = module.explained_sample.faces
    explained.update(_explain(data, faces, module, [row for row in rows if row not in explained]))
    return {row: explained[row] for row in rows if row in explained}


def read_faces(data: Any, module: "ExpLLMTask", rows: Iterable[int]) -> dict[int, torch.Tensor]:
    """Read faces and skip those that cannot be read; recognition has already reported and counted these.

    Args:
        data: The data module.
        module: The task, whose model determines the preprocessing.
        rows: The rows to read.

    Returns:
        Pixels (3, H, W) by row.
    """
    pixels = {}
    for row in rows:
        try:
            pixels[row] = module.image(data.face(row))
        except (ImageError, MissingPathError):
            continue
    return pixels


def explained_face(
    data: Any, row: int, label: str, recognition: Recognition, cot: ChainOfThought, au_source: object
) -> ExplainedFace:
    """Return an explained face with its path, intensities and box from the data module's manifest."""
    manifest, source = data.manifest, au_source if isinstance(au_source, str) else None
    path, units, box = manifest.image_path(row), manifest.intensities_at(row), manifest.box(row)
    return ExplainedFace(path, Expression(label), recognition, cot, units, source, box, data.margin)


def _explain(data: Any, faces: pd.DataFrame, module: "ExpLLMTask", rows: list[int]) -> dict[int, ExplainedFace]:
    pixels_by_row = read_faces(data, module, rows)
    if not pixels_by_row:
        return {}
    pixels = torch.stack([*pixels_by_row.values()]).to(module.device)
    with module.trainer.precision_plugin.forward_context():  # training precision, as for the probabilities
        answers = module.explllm.recognize_and_explain_pixels(pixels, module.max_new_tokens)
    metadata = faces.reindex(columns=["expression", "action_units_source"])
    explained = {}
    for row, (recognition, cot) in zip(pixels_by_row, answers, strict=True):
        label, source = metadata.loc[row]
        explained[row] = explained_face(data, row, str(label), recognition, cot, source)
    return explained
