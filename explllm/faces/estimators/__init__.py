"""Estimators of action units: from a face to 24 intensities in FEAFA's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from explllm.core.action_units import NAMES

Intensities = list[float | None]
"""24 intensities in [0, 1], in FEAFA's order; None for a unit that the estimator does not know."""


class Estimator(Protocol):
    """What every estimator of action units offers."""

    name: str
    """What the manifest's column ``action_units_source`` says."""
    runs_on: list[str]
    """Lines about the device it runs on, warnings included."""
    nothing: str
    """What it means that there are no intensities, such as ``no face found``."""
    batch: int
    """Faces to give at a time."""

    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces.

        Args:
            images: RGB images, each of one face.

        Returns:
            For each image 24 intensities, or None where there are none.
        """
        ...

    def close(self) -> None:
        """Free what the estimator holds; it is of no use afterwards."""
        ...


def unmeasured_units(intensities: Intensities) -> list[str]:
    """Return the names of the units that an estimator does not know."""
    return [name for name, value in zip(NAMES, intensities, strict=True) if value is None]


def known(intensities: Intensities) -> list[float]:
    """Return intensities as the manifest holds them: 0 for a unit that the estimator does not know."""
    return [0.0 if value is None else value for value in intensities]
