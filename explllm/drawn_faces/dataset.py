"""Draw a data set of faces: images, action units, chains of thought and the manifest that holds them together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from explllm import __version__
from explllm.core.errors import ConfigError, InputError
from explllm.core.expressions import LABEL_SETS, Expression, LabelSet
from explllm.core.files import atomic_write_folder
from explllm.core.manifest import Manifest
from explllm.drawn_faces.canvas import Image
from explllm.drawn_faces.identity import Identity, Scene
from explllm.drawn_faces.prototypes import sample_action_units
from explllm.drawn_faces.renderer import MINIMUM_SIZE, draw_face
from explllm.explanations.rule_writer import RuleWriter

MANIFEST_NAME = "manifest.parquet"
SETTINGS_NAME = "drawn_faces.json"
"""The file beside the manifest that says with which settings the faces were drawn, and that the folder is ours."""
_MADE_BY = "explllm drawn faces"
_SECONDS_BEFORE_PROGRESS = 2.0
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
    """Draw a data set of faces, or read the one that was drawn before with the same settings.

    The images stand in ``folder/{train,val,test}/`` as PNG files. The classes of a split differ by one face at most. A
    person shows each expression once at most and appears in one split only. Drawing goes into a folder beside the
    wanted one, which takes its place when it is complete.

    Args:
        folder: Where the faces go. It must be absent, empty, or drawn by this function before; in the last case other
            settings replace it.
        train: Number of faces to learn from.
        val: Number of faces to validate on.
        test: Number of faces to test on.
        size: Side of the images, pixels.
        seed: Seed of all that is random; equal settings give equal files.
        label_set: The classes to draw.

    Returns:
        The manifest, with the columns ``identity``, ``action_units`` (source ``drawn``) and ``cot`` (source
        ``offline``) beside image, expression and split.

    Raises:
        ConfigError: If a number is out of range.
        InputError: If the folder holds something that this function did not make.
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
    before = _settings_of(folder)
    if before == settings and (folder / MANIFEST_NAME).is_file():
        return Manifest.read(folder / MANIFEST_NAME)
    if before is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "files that are no drawn faces",
            where=folder,
            remedy="Name another folder for the drawn faces, or empty this one.",
        )
    with atomic_write_folder(folder) as drawn:
        _draw_all(drawn, counts, size, seed, label_set)
        text = json.dumps(settings, indent=2) + "\n"
        (drawn / SETTINGS_NAME).write_text(text, encoding="utf-8")
    return Manifest.read(folder / MANIFEST_NAME)


def _check_numbers(counts: dict[str, int], size: int, seed: int) -> None:
    for split, count in counts.items():
        if count < 0:
            raise ConfigError(f"{count} faces for {split}", remedy="Give 0 or more.")
    if not any(counts.values()):
        raise ConfigError("no faces to draw", remedy="Ask for at least one face in a split.")
    if size < MINIMUM_SIZE:
        raise ConfigError(f"drawn faces of {size} pixels", remedy=f"Use a size of at least {MINIMUM_SIZE} pixels.")
    if seed < 0:
        raise ConfigError(f"the seed {seed}", remedy="Give 0 or more.")


def _settings_of(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a folder was drawn with, or None if it was not drawn by us."""
    try:
        settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return settings if isinstance(settings, dict) and settings.get("made_by") == _MADE_BY else None


def _draw_all(folder: Path, counts: dict[str, int], size: int, seed: int, label_set: LabelSet) -> None:
    rows = []
    writer = RuleWriter()
    classes = label_set.expressions
    with _progress(sum(counts.values())) as advance:
        for part, (split, count) in enumerate(counts.items()):
            (folder / split).mkdir()
            for number in range(count):
                person, expression = number // len(classes), classes[number % len(classes)]
                identity = Identity.sample(np.random.default_rng([seed, part, person]))
                # The number is counted from 1: a trailing 0 would give the generator of the identity once more.
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
                advance()
    Manifest(pd.DataFrame(rows), folder).write(folder / MANIFEST_NAME)


def _write_image(path: Path, image: Image) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    path.write_bytes(data.tobytes())


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Give a function to call after each face; a bar appears on a terminal if drawing takes longer than two seconds."""
    console = Console(stderr=True)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("Drawing faces", total=total)
    show_at = time.monotonic() + _SECONDS_BEFORE_PROGRESS
    shown = not console.is_terminal

    def advance() -> None:
        nonlocal shown
        bar.advance(task)
        if not shown and time.monotonic() > show_at:
            bar.start()
            shown = True

    try:
        yield advance
    finally:
        if shown and console.is_terminal:
            bar.stop()
