"""Mapping from FEAFA units to the Facial Action Coding System (FACS).

DISFA and BP4D are labeled with FACS units. A model that predicts FEAFA's 24 units is evaluated on the FACS units that
FEAFA can express. The rest are reported as unmapped, never as absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from explllm.core.action_units import BP4D_12, DISFA_8, FEAFA, NAMES
from explllm.core.errors import ConfigError


@dataclass(frozen=True)
class FacsUnit:
    """One FACS unit used in the evaluation on DISFA or BP4D."""

    number: int
    """The FACS number."""
    name: str
    """The FACS name."""
    remark: str = ""
    """A caveat about the mapping, or the reason why no FEAFA unit is mapped to this unit."""

    @property
    def feafa(self) -> tuple[str, ...]:
        """Names of the corresponding FEAFA units; empty if FEAFA has no such movement."""
        return tuple(unit.name for unit in FEAFA if self.number in unit.facs)

    @property
    def label(self) -> str:
        """The name with its number, such as ``AU26 (Jaw Drop)``."""
        return f"AU{self.number} ({self.name})"

    @property
    def indices(self) -> tuple[int, ...]:
        """Zero-based indices of the `feafa` units in a list of 24 intensities."""
        return tuple(NAMES.index(name) for name in self.feafa)


# In FACS, units 6 and 7 are coded from the cheek and the lower lid. FEAFA's Eye Close (FACS 43) measures the gap
# between the lids, which a smile narrows too, so mapping it to 6 or 7 would measure something else. FEAFA also has no
# unit that measures parted lips (25) separately.
_TABLE = (
    FacsUnit(1, "Inner Brow Raiser", "FEAFA codes the raised brow as a whole"),
    FacsUnit(2, "Outer Brow Raiser", "FEAFA codes the raised brow as a whole"),
    FacsUnit(4, "Brow Lowerer"),
    FacsUnit(6, "Cheek Raiser", "FEAFA does not code the height of the cheeks"),
    FacsUnit(7, "Lid Tightener", "FEAFA's Eye Close is FACS 43"),
    FacsUnit(9, "Nose Wrinkler"),
    FacsUnit(10, "Upper Lip Raiser"),
    FacsUnit(12, "Lip Corner Puller"),
    FacsUnit(14, "Dimpler", "FEAFA has no such movement"),
    FacsUnit(15, "Lip Corner Depressor", "FEAFA has no such movement"),
    FacsUnit(17, "Chin Raiser"),
    FacsUnit(23, "Lip Tightener", "FEAFA's Upper and Lower Lip Suck are FACS 28"),
    FacsUnit(24, "Lip Pressor", "FEAFA's Upper and Lower Lip Suck are FACS 28"),
    FacsUnit(25, "Lips Part", "FEAFA has no separate unit for parted lips"),
    FacsUnit(26, "Jaw Drop"),
)

FACS: Mapping[int, FacsUnit] = MappingProxyType({unit.number: unit for unit in _TABLE})
"""The FACS units in `FACS_SETS`, by number."""

FACS_SETS: Mapping[str, tuple[int, ...]] = MappingProxyType({"disfa8": DISFA_8, "bp4d12": BP4D_12})
"""The units of each set, in label order. Keys are the values of the manifest column ``facs_set``."""


def facs_set(name: str) -> tuple[FacsUnit, ...]:
    """Return the units of one of `FACS_SETS`, in label order.

    Raises:
        ConfigError: If the set does not exist.
    """
    if name not in FACS_SETS:
        raise ConfigError(f"unknown set of FACS units {name!r}", remedy=f"Use one of {', '.join(FACS_SETS)}.")
    return tuple(FACS[number] for number in FACS_SETS[name])


def unmapped_units(units: Sequence[FacsUnit]) -> tuple[FacsUnit, ...]:
    """Return the units that have no FEAFA equivalent."""
    return tuple(unit for unit in units if not unit.feafa)
