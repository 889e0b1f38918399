"""Agreement between the action units that a text claims and the measured intensities of the face.

The definition of agreement is specific to this project. The ExpLLM paper leaves the judgment to a language model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from explllm.core.action_units import FEAFA, check_action_units
from explllm.explanations.claims import Claim, claims

__all__ = ["ACTIVE", "STRONG", "TOLERANCE", "Claim", "Grounding", "claims", "ground", "ground_claims"]

ACTIVE = 0.05
"""Minimum intensity of an active unit: the upper bound of "absent" in `INTENSITY_WORDS`."""

STRONG = 0.3
"""Minimum intensity of a unit that every text should mention."""

TOLERANCE = 0.1
"""Tolerance when comparing an intensity with the range of a word: half a step of `INTENSITY_WORDS`."""

_ZERO_BELOW = 0.005
"""Intensities below this are printed as 0.00 and count as 0. Estimators may return 0.0001 for absent units."""


@dataclass(frozen=True)
class Grounding:
    """The agreement between the claims of a text and measured intensities."""

    precision: float
    """Share of the units claimed present that are active or have an active alternative; 1 if no unit is claimed."""
    recall: float
    """Share of the active units that are claimed present; 1 if no unit is active."""
    f1: float
    """The harmonic mean of precision and recall."""
    intensity_agreement: float | None
    """Share of the intensity words whose range contains the measured intensity of the unit or an alternative, within
    `TOLERANCE`; None if there are no intensity words."""
    side_errors: list[int]
    """Units claimed on one side only, although only the other side is active."""
    unsupported: list[int]
    """Units claimed present at least once without a hedge, although they and their alternatives have intensity 0."""
    contradicted: list[int]
    """Strong units that the text denies and never claims present."""
    missing: list[int]
    """Strong units that the text never claims present."""
    unsupported_share: float
    """Share of the units claimed present that are unsupported, weighted like precision; 0 if no unit is claimed."""
    claims: list[Claim]
    """All claims of the text, in order."""
    supported_count: float
    """Number of units claimed present that are active or have an active alternative. This and the following counts
    allow averaging over texts. With weights, they are sums of weights."""
    claimed_count: float
    """Number of units claimed present. Inactive units do not count if all claims about them are hedged or any claim
    cannot be verified."""
    unsupported_count: float
    """Number of units in `unsupported`."""
    recalled_count: float
    """Number of active units that are claimed present."""
    active_count: float
    """Number of active units."""


def ground(
    text: str,
    intensities: Sequence[float | None],
    *,
    strong: float = STRONG,
    active: float = ACTIVE,
    weights: Sequence[float] | None = None,
) -> Grounding:
    """Compare the claims of a text with measured intensities.

    - A claim is supported if its unit or one of its alternatives is active.
    - A hedged claim ("minimal", "barely") about an inactive unit does not affect precision.
    - A unit that the text both claims and denies counts as claimed. Denials affect only `contradicted`.
    - Claims that no measured unit supports are ignored if the unit or one of its alternatives was not measured.

    >>> intensities = [0.0] * 24
    >>> intensities[8] = 0.4  # Jaw Drop
    >>> grounding = ground("The jaw is moderately dropped and the nose is wrinkled.", intensities)
    >>> grounding.precision, grounding.recall
    (0.5, 1.0)
    >>> *(FEAFA[unit].name for unit in grounding.unsupported),
    ('Nose Wrinkle',)

    Args:
        text: A text about the face.
        intensities: 24 measured intensities in [0, 1], in FEAFA order; None for a unit that was not measured.
        strong: Minimum intensity of a unit that counts as missing if the text omits it.
        active: Minimum intensity of an active unit.
        weights: 24 weights of the units, such as those of `explllm.core.reliability.UnitReliability`, for precision,
            recall, F1, `unsupported_share` and the counts. By default, all units count equally.

    Returns:
        The agreement. Its lists contain indices into `FEAFA`, in ascending order.

    Raises:
        InputError: If the intensities are not 24 numbers in [0, 1] or None.
    """
    return ground_claims(claims(text), intensities, strong=strong, active=active, weights=weights)


def ground_claims(
    all_claims: Sequence[Claim],
    intensities: Sequence[float | None],
    *,
    strong: float = STRONG,
    active: float = ACTIVE,
    weights: Sequence[float] | None = None,
) -> Grounding:
    """Like `ground`, but for claims that have already been extracted."""
    unmeasured = {unit for unit, intensity in enumerate(intensities) if intensity is None}
    measured = check_action_units([0.0 if intensity is None else intensity for intensity in intensities])
    claimed: dict[int, list[Claim]] = {}
    for claim in all_claims:
        if claim.present:
            claimed.setdefault(claim.unit, []).append(claim)

    def best_intensity(claim: Claim) -> float:
        return max(measured[unit] for unit in (claim.unit, *claim.alternatives))

    support = {unit: max(map(best_intensity, unit_claims)) for unit, unit_claims in claimed.items()}
    hedged = {unit for unit, unit_claims in claimed.items() if all(claim.low == 0.0 for claim in unit_claims)}
    unverifiable = {
        unit
        for unit, unit_claims in claimed.items()
        if any({unit, *claim.alternatives} & unmeasured for claim in unit_claims)
    }
    counted = sorted(unit for unit in claimed if support[unit] >= active or unit not in hedged | unverifiable)
    supported = [unit for unit in counted if support[unit] >= active]
    unsupported = [unit for unit in counted if support[unit] < _ZERO_BELOW]
    active_units = [unit for unit, intensity in enumerate(measured) if intensity >= active]
    missing = [unit for unit, intensity in enumerate(measured) if intensity >= strong and unit not in claimed]
    denied = {claim.unit for claim in all_claims if not claim.present}
    side_errors = [
        unit
        for unit in counted
        if FEAFA[unit].side
        and FEAFA[unit].mirror not in claimed
        and support[unit] < active <= measured[FEAFA[unit].mirror]
    ]
    agreeing = []
    for claim in all_claims:
        if claim.low is not None and claim.high is not None:
            units = {claim.unit, *claim.alternatives}
            fits = any(claim.low - TOLERANCE <= measured[unit] <= claim.high + TOLERANCE for unit in units - unmeasured)
            if fits or not units & unmeasured:
                agreeing.append(fits)

    def total(units: Iterable[int]) -> float:
        return sum(1 if weights is None else weights[unit] for unit in units)

    supported_count, claimed_count, unsupported_count = total(supported), total(counted), total(unsupported)
    recalled_count, active_count = total(unit for unit in active_units if unit in claimed), total(active_units)
    precision = supported_count / claimed_count if claimed_count else 1.0
    recall = recalled_count / active_count if active_count else 1.0
    return Grounding(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        intensity_agreement=sum(agreeing) / len(agreeing) if agreeing else None,
        side_errors=side_errors,
        unsupported=unsupported,
        contradicted=[unit for unit in missing if unit in denied],
        missing=missing,
        unsupported_share=unsupported_count / claimed_count if claimed_count else 0.0,
        claims=list(all_claims),
        supported_count=supported_count,
        claimed_count=claimed_count,
        unsupported_count=unsupported_count,
        recalled_count=recalled_count,
        active_count=active_count,
    )
