"""The 24 action units by name and by side of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from explllm.core.action_units import NAMES, check_action_units

SIDES: tuple[int, int] = (1, -1)
"""The halves of the face as signs of x: 1 is the right half of the image, the person's left; -1 is the other."""


@dataclass(frozen=True)
class Sided:
    """The intensities of one unit on the person's left and right side."""

    left: float
    right: float

    def at(self, side: int) -> float:
        """Return the intensity on a side of the image (see `SIDES`)."""
        return self.left if side > 0 else self.right

    @property
    def mean(self) -> float:
        """The mean intensity of the two sides."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class Movement:
    """The intensities of the 24 units, in [0, 1]; `jaw_slide` combines two units."""

    eye_close: Sided
    lid_raise: Sided
    brow_lower: Sided
    brow_raise: Sided
    jaw_drop: float
    jaw_slide: float
    """From -1 to 1; positive toward the right of the image (the person's left)."""
    lip_corner_pull: Sided
    lip_corner_stretch: Sided
    upper_lip_suck: float
    lower_lip_suck: float
    jaw_thrust: float
    upper_lip_raise: float
    lower_lip_depress: float
    chin_raise: float
    lip_pucker: float
    cheeks_puff: float
    nose_wrinkle: float

    @classmethod
    def of(cls, action_units: Sequence[float]) -> Movement:
        """Return the movement given by 24 intensities in FEAFA's order, each in [0, 1].

        Raises:
            InputError: If there are not 24 values, or one is not in [0, 1].
        """
        value = dict(zip(NAMES, check_action_units(action_units), strict=True))

        values: dict[str, Any] = {"jaw_slide": value["Jaw Slide Left"] - value["Jaw Slide Right"]}
        for name in (field.name for field in fields(cls) if field.name not in values):
            unit = name.replace("_", " ").title()
            values[name] = value[unit] if unit in value else Sided(value[f"Left {unit}"], value[f"Right {unit}"])
        return cls(**values)
