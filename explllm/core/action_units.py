"""The 24 facial action units of FEAFA, their sides and FACS numbers, and the words for an intensity.

FEAFA (Yan et al., ICMEW 2019) numbers its units 1 to 24 in an order of its own: unit 9, Jaw Drop, is action unit 26 of
the Facial Action Coding System (FACS). "Left" is the person's own left, which lies on the right half of an image.
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
    """FEAFA's number, from 1; the unit's place in a list of intensities is one less."""
    name: str
    """FEAFA's name, such as ``Left Eye Close``."""
    side: Side | None
    """The person's own side, or None for a unit of the whole face."""
    mirror: int
    """The place (from 0) of the other side's unit in `FEAFA`; the unit's own place if it has no side."""
    facs: tuple[int, ...]
    """The FACS action units or descriptors that the unit covers."""


# Name and FACS numbers. The mapping goes by the definition of the movement: FEAFA raises a brow as a whole, which is
# FACS 1 (inner) with 2 (outer); FACS 28 sucks one lip or both; 29, 30 and 34 are FACS action descriptors.
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
"""FEAFA's 24 names, in the order of every list of intensities."""


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
"""The 24 action units in FEAFA's order."""

BP4D_12: tuple[int, ...] = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
"""The 12 FACS action units that are commonly evaluated on BP4D, in the order of its label lists."""

DISFA_8: tuple[int, ...] = (1, 2, 4, 6, 9, 12, 25, 26)
"""The 8 FACS action units that are commonly evaluated on DISFA, in the order of its label lists."""

INTENSITY_WORDS: tuple[tuple[float, str], ...] = (
    (0.05, "absent"),
    (0.25, "slight"),
    (0.45, "moderate"),
    (0.65, "marked"),
    (0.85, "strong"),
    (math.inf, "extreme"),
)
"""Upper bounds (exclusive) of an intensity in [0, 1] and the word for it.

The five words above absence follow FACS's five grades A to E (trace, slight, marked, severe, maximum) at equal steps of
0.2. The bounds are this project's own: neither the paper nor FEAFA fixes words for intensities. What stays below 0.05
is within the noise of the action-unit estimators.
"""


def intensity_word(x: float) -> str:
    """Return the word for an intensity, from the table `INTENSITY_WORDS`.

    Args:
        x: An intensity in [0, 1].

    Returns:
        One of absent, slight, moderate, marked, strong, extreme.

    Raises:
        InputError: If ``x`` is not a number in [0, 1].
    """
    if not 0.0 <= x <= 1.0:
        raise InputError(f"{x!r} is no intensity", remedy="Give a number from 0 to 1.")
    return next(word for bound, word in INTENSITY_WORDS if x < bound)


def mirror_action_units(intensities: Sequence[Intensity]) -> list[Intensity]:
    """Return the intensities of the same face flipped left to right.

    Args:
        intensities: 24 intensities in FEAFA's order; None for a unit that was not measured.

    Returns:
        24 intensities; each sided unit has changed places with its counterpart, jaw slides included.

    Raises:
        InputError: If there are not 24 values.
    """
    if len(intensities) != len(FEAFA):
        raise InputError(
            f"{len(intensities)} action units instead of {len(FEAFA)}",
            remedy="Give one intensity for each FEAFA unit, in FEAFA's order.",
        )
    return [intensities[unit.mirror] for unit in FEAFA]


def parse_unit_names(names: str) -> list[int]:
    """Return the places in `FEAFA` of units that a cell names.

    Args:
        names: FEAFA's names with commas between them, as in a manifest's column ``action_units_missing``.

    Returns:
        The places, in the order of the names.

    Raises:
        InputError: If a name is no unit's.
    """
    found = [name.strip() for name in names.split(",")]
    for name in found:
        if name not in NAMES:
            raise InputError(f"{name!r} is no action unit", remedy="Write FEAFA's names with commas between them.")
    return [NAMES.index(name) for name in found]


def check_action_units(values: Sequence[float], where: str | PathLike[str] | None = None) -> list[float]:
    """Return the values as 24 floats, or say what is wrong with them.

    Args:
        values: Intensities in FEAFA's order.
        where: The file and row they come from, for the message.

    Returns:
        24 finite floats in [0, 1].

    Raises:
        InputError: If the number of values is not 24, or one of them is no finite number in [0, 1].
    """
    remedy = f"Give {len(FEAFA)} numbers from 0 to 1, in FEAFA's order."
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise InputError("action units that are not a list of numbers", where=where, remedy=remedy) from None
    if len(numbers) != len(FEAFA):
        raise InputError(f"{len(numbers)} action units instead of {len(FEAFA)}", where=where, remedy=remedy)
    for unit, number in zip(FEAFA, numbers, strict=True):
        if not 0.0 <= number <= 1.0:  # also false for nan
            raise InputError(f"intensity {number} of {unit.name} is not in [0, 1]", where=where, remedy=remedy)
    return numbers
