"""Which FEAFA units make which unit of the Facial Action Coding System (FACS), and which FACS units none makes.

DISFA and BP4D are labeled by FACS. A model of FEAFA's 24 units can be tested there on the units that both know; the
others are named as missing, and never counted as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from explllm.core.action_units import BP4D_12, DISFA_8, NAMES
from explllm.core.errors import ConfigError


@dataclass(frozen=True)
class FacsUnit:
    """One FACS unit that DISFA or BP4D is evaluated on."""

    number: int
    """FACS's number."""
    name: str
    """FACS's name."""
    feafa: tuple[str, ...] = ()
    """The FEAFA units that make it, by name; none if FEAFA has no such movement."""
    remark: str = ""
    """What the mapping leaves open, or why there is none."""

    @property
    def places(self) -> tuple[int, ...]:
        """The places (from 0) of `feafa` in a list of 24 intensities."""
        return tuple(NAMES.index(name) for name in self.feafa)


# FACS 6 and 7 are read from the cheek and the lower lid, FEAFA's Eye Close (FACS 43) from the gap between the lids; a
# smile narrows the gap too, so that a mapping of it would measure something else. The same holds for lips that part.
_TABLE = (
    FacsUnit(1, "Inner Brow Raiser", ("Left Brow Raise", "Right Brow Raise"), "FEAFA raises the brow as a whole"),
    FacsUnit(2, "Outer Brow Raiser", ("Left Brow Raise", "Right Brow Raise"), "FEAFA raises the brow as a whole"),
    FacsUnit(4, "Brow Lowerer", ("Left Brow Lower", "Right Brow Lower")),
    FacsUnit(6, "Cheek Raiser", (), "FEAFA does not look at the cheeks' height"),
    FacsUnit(7, "Lid Tightener", (), "FEAFA's Eye Close is FACS 43"),
    FacsUnit(9, "Nose Wrinkler", ("Nose Wrinkle",)),
    FacsUnit(10, "Upper Lip Raiser", ("Upper Lip Raise",)),
    FacsUnit(12, "Lip Corner Puller", ("Left Lip Corner Pull", "Right Lip Corner Pull")),
    FacsUnit(14, "Dimpler", (), "FEAFA has no such movement"),
    FacsUnit(15, "Lip Corner Depressor", (), "FEAFA has no such movement"),
    FacsUnit(17, "Chin Raiser", ("Chin Raise",)),
    FacsUnit(23, "Lip Tightener", (), "FEAFA's sucked lips are FACS 28"),
    FacsUnit(24, "Lip Pressor", (), "FEAFA's sucked lips are FACS 28"),
    FacsUnit(25, "Lips Part", (), "FEAFA has no unit of its own for parted lips"),
    FacsUnit(26, "Jaw Drop", ("Jaw Drop",)),
)

FACS: Mapping[int, FacsUnit] = MappingProxyType({unit.number: unit for unit in _TABLE})
"""The FACS units of `FACS_SETS` by number."""

FACS_SETS: Mapping[str, tuple[int, ...]] = MappingProxyType({"disfa8": DISFA_8, "bp4d12": BP4D_12})
"""The units of each set, by the name in a manifest's column ``facs_set``, in the order of its column ``facs``."""


def facs_set(name: str) -> tuple[FacsUnit, ...]:
    """Return the units of a set, in the order of its labels.

    Args:
        name: One of `FACS_SETS`.

    Returns:
        The units.

    Raises:
        ConfigError: If there is no such set.
    """
    if name not in FACS_SETS:
        raise ConfigError(f"there is no set of FACS units {name!r}", remedy=f"Use one of {', '.join(FACS_SETS)}.")
    return tuple(FACS[number] for number in FACS_SETS[name])


def unmapped_units(units: Sequence[FacsUnit]) -> tuple[FacsUnit, ...]:
    """Return those that no FEAFA unit makes."""
    return tuple(unit for unit in units if not unit.feafa)
