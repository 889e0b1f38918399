"""A fixed sample of validation faces, explained once for each step whoever asks."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer

from explllm.core.errors import ImageError, MissingPathError
from explllm.core.expressions import Expression
from explllm.report.explained import ExplainedFace
from explllm.training.task import ExpLLMTask


def fixed_sample(faces: pd.DataFrame, number: int) -> list[int]:
    """Choose rows that are the same in every epoch and run: the first of each expression in turn.

    Args:
        faces: A table with the column ``expression``.
        number: Rows to choose.

    Returns:
        At most so many row numbers.
    """
    labeled = faces[faces["expression"].notna()]
    turns = labeled.groupby("expression", sort=True).cumcount()
    return [int(row) for row in turns.sort_values(kind="stable").index[:number]]


def explain_sample(
    trainer: Trainer, module: ExpLLMTask, number: int, having: str | None = None
) -> dict[int, ExplainedFace]:
    """Explain the fixed sample of the validation faces with the model as it is now.

    Two callbacks that ask in the same step get the same texts for one generation.

    Args:
        trainer: The trainer, in or after validation.
        module: The task.
        number: Faces.
        having: A column that must be filled for a face to be in the sample, such as ``cot``.

    Returns:
        Explained faces by row; faces that cannot be read are left out.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    faces = data.frame("val")
    rows = fixed_sample(faces if having is None else faces.dropna(subset=having), number)
    step, held = module.explained_sample
    if step != trainer.global_step:
        held = {}
    missing = [row for row in rows if row not in held]
    held = {**held, **_explain(data, faces, module, missing)}
    module.explained_sample = (trainer.global_step, held)
    return {row: held[row] for row in rows if row in held}


def readable(data: Any, module: ExpLLMTask, rows: Iterable[int]) -> dict[int, torch.Tensor]:
    """Read faces, and leave out those that cannot be read: whoever recognizes them has named and counted them.

    Args:
        data: The data module.
        module: The task, which knows how the model sees images.
        rows: Their rows.

    Returns:
        Pixels (3, H, W) by row.
    """
    read = {}
    for row in rows:
        try:
            read[row] = module.image(data.face(row))
        except (ImageError, MissingPathError):
            continue
    return read


def _explain(data: Any, faces: pd.DataFrame, module: ExpLLMTask, rows: list[int]) -> dict[int, ExplainedFace]:
    read = readable(data, module, rows)
    if not read:
        return {}
    model = module.explllm
    training = model.training
    model.eval()
    try:
        pixels = torch.stack([*read.values()]).to(module.device)
        found = model.recognize_pixels(pixels)
        cots = model.explain_pixels(pixels, [one.expression for one in found], module.max_new_tokens)
    finally:
        model.train(training)
    known = faces.reindex(columns=["expression", "action_units_source"])
    explained = {}
    for row, recognition, cot in zip(read, found, cots, strict=True):
        label, source = known.loc[row]
        explained[row] = ExplainedFace(
            data.manifest.image_path(row),
            Expression(str(label)),
            recognition,
            cot,
            data.manifest.intensities_at(row),
            source if isinstance(source, str) else None,
            data.manifest.box(row),
            data.margin,
        )
    return explained
