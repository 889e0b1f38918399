"""Face regions that an explanation names, with their positions on a face crop.

The positions are those of an average frontal face: the mean landmarks of MediaPipe's face mesh on 141 real face crops,
in the square around SCRFD's face box. Individual faces deviate by about 8% of the square's side. "Left" is the person's
left, which is on the right in the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.action_units import FEAFA, NAMES, with_facs
from explllm.explanations.review import MARKS, CheckedClaim, ClaimStatus

Place = tuple[float, float, float, float]
"""x, y, width, height as shares of the image."""

_RIGHT: dict[str, Place] = {
    "brow": (0.14, 0.21, 0.30, 0.12),
    "eye": (0.19, 0.33, 0.22, 0.09),
    "mouth corner": (0.29, 0.70, 0.17, 0.19),
}
"""Regions with a side, on the person's right."""

PLACES: dict[str, Place] = {
    **{f"right {name}": place for name, place in _RIGHT.items()},
    **{f"left {name}": (1 - x - w, y, w, h) for name, (x, y, w, h) in _RIGHT.items()},
    "nose": (0.36, 0.36, 0.27, 0.30),
    "cheeks": (0.08, 0.48, 0.84, 0.22),
    "mouth": (0.31, 0.69, 0.37, 0.20),
    "chin": (0.36, 0.88, 0.28, 0.12),
    "jaw": (0.16, 0.76, 0.68, 0.24),
}
"""Positions of the regions in the square around a face box."""

DRAWN_FACE: Place = (0.2, 0.25, 0.6, 0.6)
"""The square around the face in an image of `explllm.drawn_faces`."""

_WORDS = {
    "Eye": "eye",
    "Lid": "eye",
    "Brow": "brow",
    "Jaw": "jaw",
    "Corner": "mouth corner",
    "Lip": "mouth",
    "Chin": "chin",
    "Cheeks": "cheeks",
    "Nose": "nose",
}
"""Words in unit names and their regions; the first match wins."""


def region_of(unit: int) -> str:
    """Return the region that a unit moves, such as ``left brow``.

    Args:
        unit: Zero-based index of the unit.
    """
    words = FEAFA[unit].name.split()
    region = next(region for word, region in _WORDS.items() if word in words)
    side = FEAFA[unit].side
    return f"{side} {region}" if side and region in _RIGHT else region


@dataclass(frozen=True)
class Region:
    """A region that an explanation names."""

    name: str
    place: Place
    """In the image."""
    status: ClaimStatus
    """``contradicts`` if any claim contradicts the action units, else ``agrees`` if any claim agrees with them."""
    units: tuple[str, ...]
    """Names and FACS codes of the claimed units, with "no" before denied ones."""

    @property
    def mark(self) -> str:
        """The mark of the status."""
        return MARKS[self.status]


def named_regions(claims: Sequence[CheckedClaim], square: Place) -> list[Region]:
    """Return the regions that an explanation's claims name, from the top of the face to the chin.

    Args:
        claims: The checked claims.
        square: The square around the face box, as shares of the image.
    """
    by_region: dict[str, list[CheckedClaim]] = {}
    for claim in claims:
        by_region.setdefault(region_of(claim.claim.unit), []).append(claim)
    left, top, width, height = square
    order: tuple[ClaimStatus, ...] = ("contradicts", "agrees", "not measured")
    regions = []
    for name in sorted(by_region, key=lambda name: (PLACES[name][1], PLACES[name][0])):
        x, y, w, h = PLACES[name]
        checked = by_region[name]
        regions.append(
            Region(
                name,
                (left + x * width, top + y * height, w * width, h * height),
                next(status for status in order if any(claim.status == status for claim in checked)),
                tuple(f"{'' if one.claim.present else 'no '}{with_facs(NAMES[one.claim.unit])}" for one in checked),
            )
        )
    return regions
