"""The 24 facial action units of FEAFA, with sides, FACS numbers, and words for their intensities.

FEAFA (Yan et al., ICMEW 2019) numbers its units 1 to 24. The numbers differ from those of the Facial Action Coding
System (FACS): FEAFA 9, Jaw Drop, is FACS 26. "Left" means the person's left, which is on the right in the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeVar

from explllm.core.errors import InputError

Side = Literal["left", "right"]
Intensity = TypeVar("Intensity", bound=float | None)


@dataclass(frozen=True)
class ActionUnit:
    """One FEAFA action unit."""

    number: int
    """The FEAFA number, from 1 to 24. The index into a list of intensities is one less."""
    name: str
    """The FEAFA name, such as ``Left Eye Close``."""
    side: Side | None
    """The person's left or right; None for a unit without a side."""
    mirror: int
    """Zero-based index of the same unit on the other side; its own index if the unit has no side."""
    facs: tuple[int, ...]
    """The corresponding FACS action units or descriptors."""

    @property
    def facs_code(self) -> str:
        """The unit in FACS notation: AU12, AU1+2 for a combination, or AD29 for a descriptor."""
        kind = "AD" if self.facs[0] in _DESCRIPTORS else "AU"
        return kind + "+".join(map(str, self.facs))


_DESCRIPTORS = frozenset((29, 30, 34))

# Names and FACS numbers. The mapping follows the definition of each movement: a raised brow is one unit in FEAFA, but
# FACS 1 (inner) plus 2 (outer); FACS 28 covers either lip or both; 29, 30 and 34 are FACS action descriptors.
_UNITS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("Left Eye Close", (43,)),
    ("Right Eye Close", (43,)),
    ("Left Lid Raise", (5,)),
    ("Right Lid Raise", (5,)),
    ("Left Brow Lower", (4,)),
    ("Right Brow Lower", (4,)),
    ("Left Brow Raise", (1, 2)),
    ("Right Brow Raise", (1, 2)),
    ("Jaw Drop", (26,)),
    ("Jaw Slide Left", (30,)),
    ("Jaw Slide Right", (30,)),
    ("Left Lip Corner Pull", (12,)),
    ("Right Lip Corner Pull", (12,)),
    ("Left Lip Corner Stretch", (20,)),
    ("Right Lip Corner Stretch", (20,)),
    ("Upper Lip Suck", (28,)),
    ("Lower Lip Suck", (28,)),
    ("Jaw Thrust", (29,)),
    ("Upper Lip Raise", (10,)),
    ("Lower Lip Depress", (16,)),
    ("Chin Raise", (17,)),
    ("Lip Pucker", (18,)),
    ("Cheeks Puff", (34,)),
    ("Nose Wrinkle", (9,)),
)

NAMES: tuple[str, ...] = tuple(name for name, _ in _UNITS)
"""The 24 FEAFA names, in the order used by every list of intensities."""


def _side(name: str) -> Side | None:
    words = name.split()
    return "left" if "Left" in words else "right" if "Right" in words else None


def _mirrored_name(name: str) -> str:
    swap = {"Left": "Right", "Right": "Left"}
    return " ".join(swap.get(word, word) for word in name.split())


FEAFA: tuple[ActionUnit, ...] = tuple(
    ActionUnit(number, name, _side(name), NAMES.index(_mirrored_name(name)), facs)
    for number, (name, facs) in enumerate(_UNITS, 1)
)
"""The 24 action units, in FEAFA order."""

FACS_CODES: dict[str, str] = {unit.name: unit.facs_code for unit in FEAFA}
"""The FACS code of each unit by FEAFA name, such as ``AU26`` for Jaw Drop."""

BP4D_12: tuple[int, ...] = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
"""The 12 FACS action units commonly evaluated on BP4D, in label order."""

DISFA_8: tuple[int, ...] = (1, 2, 4, 6, 9, 12, 25, 26)
"""The 8 FACS action units commonly evaluated on DISFA, in label order."""

INTENSITY_WORDS: tuple[tuple[float, str], ...] = (
    (0.05, "absent"),
    (0.25, "slight"),
    (0.45, "moderate"),
    (0.65, "marked"),
    (0.85, "strong"),
    (math.inf, "extreme"),
)
"""Words for an intensity in [0, 1], each with its exclusive upper bound.

The five words above "absent" follow the FACS grades A to E (trace, slight, marked, severe, maximum) in steps of 0.2.
The bounds are our choice, because neither the ExpLLM paper nor FEAFA defines words for intensities. Values below 0.05
are within the noise of the action unit estimators.
"""


def intensity_word(x: float) -> str:
    """Return the word in `INTENSITY_WORDS` for an intensity in [0, 1].

    Raises:
        InputError: If ``x`` is not a number in [0, 1].
    """
    if not 0.0 <= x <= 1.0:
        raise InputError(f"invalid intensity {x!r}", remedy="Use a number from 0 to 1.")
    return next(word for bound, word in INTENSITY_WORDS if x < bound)


def with_facs(name: str) -> str:
    """Return a unit's FEAFA name with its FACS code, such as ``Jaw Drop (AU26)``."""
    return f"{name} ({FACS_CODES[name]})"


def mirror_action_units(intensities: Sequence[Intensity]) -> list[Intensity]:
    """Return the intensities of the same face flipped horizontally.

    Args:
        intensities: 24 intensities in FEAFA order; None for a unit that was not measured.

    Returns:
        24 intensities with left and right units swapped, including the jaw slides.

    Raises:
        InputError: If the number of values is not 24.
    """
    if len(intensities) != len(FEAFA):
        raise InputError(
            f"expected {len(FEAFA)} action units, got {len(intensities)}",
            remedy="Provide one intensity per FEAFA unit, in FEAFA order.",
        )
    return [intensities[unit.mirror] for unit in FEAFA]


def parse_unit_names(names: str) -> list[int]:
    """Return the zero-based indices of a comma-separated list of FEAFA names, as in ``action_units_missing``.

    Raises:
        InputError: If a name is unknown.
    """
    units = [name.strip() for name in names.split(",")]
    for name in units:
        if name not in NAMES:
            raise InputError(f"unknown action unit {name!r}", remedy="Use FEAFA names separated by commas.")
    return [NAMES.index(name) for name in units]


def check_action_units(values: Sequence[float | str], where: str | PathLike[str] | None = None) -> list[float]:
    """Validate intensities in FEAFA order and return them as 24 finite floats.

    Error messages contain `where`, the source of the intensities.

    Raises:
        InputError: If the number of values is not 24, or a value is not a finite number in [0, 1].
    """
    remedy = f"Provide {len(FEAFA)} numbers from 0 to 1, in FEAFA order."
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise InputError("the action units are not a list of numbers", where=where, remedy=remedy) from None
    if len(numbers) != len(FEAFA):
        raise InputError(f"expected {len(FEAFA)} action units, got {len(numbers)}", where=where, remedy=remedy)
    for unit, number in zip(FEAFA, numbers, strict=True):
        if not 0.0 <= number <= 1.0:  # also False for NaN
            raise InputError(f"intensity {number} of {unit.name} is not in [0, 1]", where=where, remedy=remedy)
    return numbers
