"""Img2AU Regression (paper, Section III-B-1): from a row of the manifest to action units by name.

The intensities come from the manifest; whatever estimated them stands in its column ``action_units_source``.
"""

from collections.abc import Iterator, Sequence

from explllm.core.action_units import NAMES
from explllm.core.errors import ManifestError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest, face_key
from explllm.engine.face import Face


def faces(manifest: Manifest) -> Iterator[tuple[int, Face]]:
    """Yield the faces that the engine can work on, with the numbers of their rows.

    Args:
        manifest: The table; its intensities have been checked when it was read.

    Yields:
        Row, counted from 0, and face; rows without action units or without a label are left out, see `left_out`.

    Raises:
        ManifestError: If no row has action units, or none a label.
    """
    manifest.require("action_units", "expression")
    frame = manifest.frame
    boxes = frame["box"] if "box" in frame else [None] * len(frame)
    columns = zip(frame["image"], manifest.intensities(), frame["expression"], boxes, strict=True)
    for row, (image, units, label, box) in enumerate(columns):
        if units is not None and label is not None:
            yield row, Face(face_key(image, box), tuple(units), Expression(label))


def left_out(manifest: Manifest) -> dict[str, int]:
    """Count the rows that the engine cannot work on.

    Args:
        manifest: The table.

    Returns:
        Rows by what they lack.

    Raises:
        ManifestError: If that is all of them.
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
    return {lack: count for lack, count in counts.items() if count}


def named(action_units: Sequence[float | None]) -> dict[str, float]:
    """Return the action units with non-zero intensity by name, in FEAFA's order.

    Args:
        action_units: 24 intensities; None for a unit that was not measured.

    Returns:
        Intensities by lower-case name, to two decimals, but never rounded to 0.
    """
    pairs = zip(NAMES, action_units, strict=True)
    return {name.lower(): max(round(value, 2), 0.01) for name, value in pairs if value}


def unmeasured(action_units: Sequence[float | None]) -> str:
    """Return the units that were not measured as the prompts give them; empty if all were."""
    return ", ".join(name.lower() for name, value in zip(NAMES, action_units, strict=True) if value is None)


def in_words(action_units: Sequence[float | None]) -> str:
    """Return the positive action units as the prompts give them, such as ``left eye close: 0.23, jaw drop: 0.4``."""
    return ", ".join(f"{name}: {value:g}" for name, value in named(action_units).items()) or "none"
