"""The record of a model's training faces: a table in its run folder, including the faces of the model it started from.

The manifest, its folds and the image files may change after training; the record does not.
"""

import os
import time
from pathlib import Path
from typing import Any

import pandas as pd

from explllm.core.errors import InputError
from explllm.core.manifest import Manifest, write_table
from explllm.core.manifest_files import format_of

TRAINING_FACES = "training_faces.parquet"
"""Name of the record in a run folder. It is not part of the model, because paths and identities may be confidential."""


def face_table(faces: Manifest) -> pd.DataFrame:
    """Return the columns that identify faces.

    Returns:
        The columns ``image`` (absolute, with links to folders resolved), ``box``, ``identity``, ``facs_set``, and
        ``folder``, the folder that contains all images and the manifest's root.
    """
    table = faces.frame.reindex(columns=["image", "box", "identity", "facs_set"])
    paths = [os.path.split(os.path.join(faces.root, image)) for image in table["image"]]
    # Resolve each folder once: a data set has many more images than folders.
    folders = {name: os.path.realpath(name) for name in {folder for folder, _ in paths}}
    table["image"] = [os.path.join(folders[folder], name) for folder, name in paths]
    root = os.path.realpath(faces.root)
    try:
        table["folder"] = os.path.commonpath([root, *folders.values()])
    except ValueError:  # the folders are on several drives
        table["folder"] = Path(root).anchor
    return table


def training_faces(faces: Manifest, init_from: Any = None, checkpoint: Any = None) -> pd.DataFrame:
    """Create the record of a run that is starting.

    Args:
        faces: The data, with the column ``split``.
        init_from: The model folder that the run starts from, if any.
        checkpoint: The checkpoint that the run resumes from, if any.

    Returns:
        The columns of `face_table` for the splits ``train`` and ``val``; ``time``, the start of the training; and
        ``gap``, the model or checkpoint that the run starts from if its folder has no record, else None. Existing
        records of the model and the checkpoint are included.
    """
    earlier, gap = [], None
    model_run, checkpoints = Path(os.path.abspath(init_from or "")).parent, Path(checkpoint or "").parent
    for origin, folder in ((init_from, model_run), (checkpoint, checkpoints)):
        if origin is not None:
            record = read_record(folder)
            if record is None:
                gap = str(origin)
            else:
                earlier.append(record)
    table = face_table(faces)[faces.frame["split"].isin(["train", "val"]).to_numpy()].assign(time=time.time(), gap=gap)
    if not earlier:
        return table
    records = [*earlier, table]
    merged = pd.concat(records, ignore_index=True)
    # Keep the earliest of duplicate rows: its timestamp reveals every later change to an image.
    repeated = merged.drop(columns="time").assign(box=merged["box"].map(str)).duplicated()
    return merged[~repeated].reset_index(drop=True)


def write_record(table: pd.DataFrame, folder: Path) -> None:
    """Write a record atomically.

    Raises:
        ManifestError: If the file cannot be written.
    """
    write_table(folder / TRAINING_FACES, lambda: iter([table]))


def read_record(folder: Path) -> pd.DataFrame | None:
    """Return the record in a folder, or None if there is no readable record."""
    path = folder / TRAINING_FACES
    try:
        table = format_of(path)[0](path, ())
    except (InputError, OSError, ValueError):  # Arrow's errors are subclasses
        return None
    needed = {"image", "box", "identity", "facs_set", "folder", "time", "gap"}
    return table if needed <= set(table.columns) else None
