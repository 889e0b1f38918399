"""Data sets of drawn faces: images, action units, chains of thought and their manifest."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from explllm import __version__
from explllm.core.errors import ConfigError, InputError
from explllm.core.expressions import LABEL_SETS, Expression, LabelSet
from explllm.core.files import atomic_write_folder
from explllm.core.manifest import Manifest
from explllm.core.progress import ProgressBar
from explllm.drawn_faces.canvas import Image
from explllm.drawn_faces.identity import Identity, Scene
from explllm.drawn_faces.prototypes import sample_action_units
from explllm.drawn_faces.renderer import MINIMUM_SIZE, draw_face
from explllm.explanations.rule_writer import RuleWriter

MANIFEST_NAME = "manifest.parquet"
SETTINGS_NAME = "drawn_faces.json"
"""File with the settings of the faces. It also marks the folder as created by `draw_faces`."""
_MADE_BY = "explllm drawn faces"
_RANDOM_SEEDS = 2**31


def draw_faces(
    folder: str | PathLike[str],
    *,
    train: int,
    val: int,
    test: int,
    size: int = 96,
    seed: int = 0,
    label_set: LabelSet = LABEL_SETS["rafdb"],
) -> Manifest:
    """Draw a data set of faces, or read an existing one with the same settings.

    The images are PNG files in ``folder/{train,val,test}/``. The class counts of a split differ by at most one. A
    person appears in one split only and shows each expression at most once. The faces are drawn into a temporary
    folder, which replaces ``folder`` when it is complete.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = draw_faces(f"{folder}/faces", train=7, val=0, test=0, size=32)
        ...     label = manifest.frame.at[0, "expression"]
        >>> len(manifest), str(label)
        (7, 'Surprise')

    Args:
        folder: Folder of the data set. It must be absent, empty, or the result of an earlier call, which is
            replaced if its settings or the version of this library differ.
        train: Number of training faces.
        val: Number of validation faces.
        test: Number of test faces.
        size: Width and height of the images in pixels.
        seed: Random seed; equal settings give equal files.
        label_set: The classes to draw.

    Returns:
        The manifest, with the columns ``identity``, ``action_units`` (source ``drawn``) and ``cot`` (source
        ``offline``) in addition to image, expression and split.

    Raises:
        ConfigError: If a number is out of range.
        InputError: If the folder contains files that this function did not write.
    """
    counts = {"train": train, "val": val, "test": test}
    _check_numbers(counts, size, seed)
    folder = Path(folder)
    settings: dict[str, Any] = {
        "made_by": _MADE_BY,
        "version": __version__,
        **counts,
        "size": size,
        "seed": seed,
        "classes": [str(expression) for expression in label_set],
    }

    def is_complete() -> bool:
        return _settings_of(folder) == settings and (folder / MANIFEST_NAME).is_file()

    if is_complete():
        return Manifest.read(folder / MANIFEST_NAME)
    if _settings_of(folder) is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = "Use another folder for the drawn faces, or empty this one."
        raise InputError("files that are not drawn faces", where=folder, remedy=remedy)
    try:
        with atomic_write_folder(folder) as drawn:
            _draw_all(drawn, counts, size, seed, label_set)
            text = json.dumps(settings, indent=2) + "\n"
            (drawn / SETTINGS_NAME).write_text(text, encoding="utf-8")
            if is_complete():
                raise FileExistsError(folder)
    except OSError:
        # In the meantime, another machine may have drawn the same faces to a shared disk and may be reading them.
        if not is_complete():
            raise
    return Manifest.read(folder / MANIFEST_NAME)


def _check_numbers(counts: dict[str, int], size: int, seed: int) -> None:
    for split, count in counts.items():
        if count < 0:
            raise ConfigError(f"the number of {split} faces is {count}", remedy="Use 0 or more.")
    if not any(counts.values()):
        raise ConfigError("no faces to draw", remedy="Request at least one face.")
    if size < MINIMUM_SIZE:
        raise ConfigError(f"the size is {size} pixels", remedy=f"Use a size of at least {MINIMUM_SIZE} pixels.")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}", remedy="Use 0 or more.")


def _settings_of(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a folder of drawn faces; None for other folders."""
    try:
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) and settings.get("made_by") == _MADE_BY else None


def _draw_all(folder: Path, counts: dict[str, int], size: int, seed: int, label_set: LabelSet) -> None:
    rows = []
    writer = RuleWriter()
    classes = label_set.expressions
    with ProgressBar("drawing faces", sum(counts.values())) as progress:
        for part, (split, count) in enumerate(counts.items()):
            (folder / split).mkdir()
            for number in range(count):
                person, expression = number // len(classes), classes[number % len(classes)]
                identity = Identity.sample(np.random.default_rng([seed, part, person]))
                # Expressions are counted from 1, because a trailing 0 would repeat the generator of the identity.
                random = np.random.default_rng([seed, part, person, list(Expression).index(expression) + 1])
                units = sample_action_units(expression, random).tolist()
                image = f"{split}/{person:05d}-{expression.lower()}.png"
                _write_image(folder / image, draw_face(units, identity, Scene.sample(random), size))
                rows.append(
                    {
                        "image": image,
                        "expression": str(expression),
                        "split": split,
                        "identity": f"{split}-{person:05d}",
                        "action_units": units,
                        "cot": writer.write(units, expression, seed=int(random.integers(_RANDOM_SEEDS))).text,
                        "action_units_source": "drawn",
                        "cot_source": writer.name,
                    }
                )
                progress.advance()
    Manifest(pd.DataFrame(rows), folder).write(folder / MANIFEST_NAME)


def _write_image(path: Path, image: Image) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    path.write_bytes(data.tobytes())
