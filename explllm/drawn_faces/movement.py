"""The 24 action units by name and by side of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.action_units import NAMES, check_action_units

SIDES: tuple[int, int] = (1, -1)
"""The halves of the face as signs of x: 1 is the right half of the image, the person's left; -1 the other."""


@dataclass(frozen=True)
class Sided:
    """The intensities of one unit on the two sides of the face."""

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
    """The intensities of the 24 units, in [0, 1]."""

    eye_close: Sided
    lid_raise: Sided
    brow_lower: Sided
    brow_raise: Sided
    jaw_drop: float
    jaw_slide: float
    """Positive toward the right of the image (the person's left)."""
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
        """Return 24 intensities by name.

        Args:
            action_units: 24 intensities in FEAFA's order, each in [0, 1].

        Returns:
            The movement.

        Raises:
            InputError: If there are not 24 values, or one is not in [0, 1].
        """
        value = dict(zip(NAMES, check_action_units(action_units), strict=True))

        def sided(name: str) -> Sided:
            return Sided(left=value[f"Left {name}"], right=value[f"Right {name}"])

        return cls(
            eye_close=sided("Eye Close"),
            lid_raise=sided("Lid Raise"),
            brow_lower=sided("Brow Lower"),
            brow_raise=sided("Brow Raise"),
            jaw_drop=value["Jaw Drop"],
            jaw_slide=value["Jaw Slide Left"] - value["Jaw Slide Right"],
            lip_corner_pull=sided("Lip Corner Pull"),
            lip_corner_stretch=sided("Lip Corner Stretch"),
            upper_lip_suck=value["Upper Lip Suck"],
            lower_lip_suck=value["Lower Lip Suck"],
            jaw_thrust=value["Jaw Thrust"],
            upper_lip_raise=value["Upper Lip Raise"],
            lower_lip_depress=value["Lower Lip Depress"],
            chin_raise=value["Chin Raise"],
            lip_pucker=value["Lip Pucker"],
            cheeks_puff=value["Cheeks Puff"],
            nose_wrinkle=value["Nose Wrinkle"],
        )
