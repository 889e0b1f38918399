"""Img2AU Regression (paper, Section III-B-1): the action units of a manifest's rows, and their text form in prompts.

The intensities come from the manifest; its column ``action_units_source`` names the estimator.
"""

from collections.abc import Iterator, Sequence

from explllm.core.action_units import NAMES
from explllm.core.errors import ManifestError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest, face_key
from explllm.engine.face import Face


def faces(manifest: Manifest) -> Iterator[tuple[int, Face]]:
    """Yield the faces that have action units and a label, each with its zero-based row number.

    Raises:
        ManifestError: If the manifest has no action units or no labels.
    """
    manifest.require("action_units", "expression")
    frame = manifest.frame
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    columns = zip(frame["image"], manifest.intensities(), frame["expression"], boxes, strict=True)
    for row, (image, units, label, box) in enumerate(columns):
        if units is not None and label is not None:
            yield row, Face(face_key(image, box), tuple(units), Expression(label))


def skipped_rows(manifest: Manifest) -> dict[str, int]:
    """Return the number of rows that `faces` skips, by reason.

    Raises:
        ManifestError: If all rows are skipped.
    """
    frame = manifest.frame
    no_units = frame["action_units"].isna()
    no_label = frame["expression"].isna() & ~no_units
    if (no_units | no_label).all():
        raise ManifestError(
            "no row has both action units and an expression",
            where=manifest.path,
            remedy="Estimate the action units of labeled faces first.",
        )
    counts = {"no action units": int(no_units.sum()), "no expression": int(no_label.sum())}
    return {reason: count for reason, count in counts.items() if count}


def format_units(action_units: Sequence[float | None]) -> str:
    """Return the positive action units for prompts, such as ``left eye close: 0.23, jaw drop: 0.4``, or ``none``.

    Intensities are rounded to two decimals, but a positive one is never rounded to 0.
    """
    positive = ((name, value) for name, value in zip(NAMES, action_units, strict=True) if value)
    return ", ".join(f"{name.lower()}: {max(round(value, 2), 0.01):g}" for name, value in positive) or "none"


def format_unmeasured(action_units: Sequence[float | None]) -> str:
    """Return the names of the unmeasured units for prompts; empty if all were measured."""
    return ", ".join(name.lower() for name, value in zip(NAMES, action_units, strict=True) if value is None)
