"""How well the action units that a text claims agree with the measured intensities of the face.

What counts as agreement is this project's own definition; the ExpLLM paper lets a language model judge it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.action_units import FEAFA, check_action_units
from explllm.explanations.claims import Claim, claims

__all__ = ["ACTIVE", "STRONG", "TOLERANCE", "Claim", "Grounding", "claims", "ground"]

ACTIVE = 0.05
"""The intensity from which a unit counts as active: the bound of "absent" in `INTENSITY_WORDS`."""

STRONG = 0.3
"""The intensity from which a text that leaves a unit out misses something."""

TOLERANCE = 0.1
"""How far a measured intensity may lie outside the range of the word for it: half a step of `INTENSITY_WORDS`."""

_NOTHING = 0.005
"""An intensity below this shows as 0.00 and counts as 0: the estimators give 0.0001 for what is not there."""


@dataclass(frozen=True)
class Grounding:
    """The agreement of a text's claims with measured intensities."""

    precision: float
    """The share of the units claimed present, and measured, that are active; 1 if none is claimed."""
    recall: float
    """The share of the active units that are claimed present; 1 if none is active."""
    f1: float
    """The harmonic mean of precision and recall."""
    intensity_agreement: float | None
    """The share of the claims with a word for the intensity whose range holds the measured one, within `TOLERANCE`;
    None without such a claim."""
    side_errors: list[int]
    """Units claimed on one side alone while the other side alone is active."""
    unsupported: list[int]
    """Units claimed present whose intensity is 0."""
    contradicted: list[int]
    """Strong units that the text denies and nowhere claims present."""
    missing: list[int]
    """Strong units that the text nowhere claims present."""
    unsupported_share: float
    """The share of the units claimed present that are unsupported; 0 if none is claimed."""
    claims: list[Claim]
    """Every claim of the text, in order."""
    supported_count: int
    """How many units are claimed present and active; with the next two, what averages over many texts need."""
    claimed_count: int
    """How many units are claimed present."""
    active_count: int
    """How many units are active."""


def ground(
    text: str, intensities: Sequence[float | None], *, strong: float = STRONG, active: float = ACTIVE
) -> Grounding:
    """Hold what a text claims of the action units against measured intensities.

    A claim is borne out by its unit or by one of its alternatives. A hedge ("minimal", "barely") of a unit that is not
    active is right either way and counts neither for nor against the precision. Denials enter only `contradicted`: a
    unit that the text denies in one place and claims in another counts as claimed. What is claimed of a unit that was
    not measured can be neither borne out nor refuted, and counts nowhere.

    Args:
        text: A text about the face.
        intensities: 24 measured intensities in [0, 1], in FEAFA's order; None for a unit that was not measured.
        strong: The intensity from which a unit that is left out counts as missing.
        active: The intensity from which a unit counts as active.

    Returns:
        The agreement; the lists hold places in `FEAFA`, in ascending order.

    Raises:
        InputError: If the intensities are not 24 numbers in [0, 1].
    """
    unknown = {unit for unit, intensity in enumerate(intensities) if intensity is None}
    measured = check_action_units([0.0 if intensity is None else intensity for intensity in intensities])
    made = claims(text)
    claimed: dict[int, list[Claim]] = {}
    for claim in made:
        if claim.present:
            claimed.setdefault(claim.unit, []).append(claim)

    def strongest(claim: Claim) -> float:
        return max(measured[unit] for unit in (claim.unit, *claim.alternatives))

    found = {unit: max(map(strongest, of_unit)) for unit, of_unit in claimed.items()}
    hedged = {unit for unit, of_unit in claimed.items() if all(claim.low == 0.0 for claim in of_unit)}
    open_to_doubt = {
        unit for unit, of_unit in claimed.items() if any({unit, *claim.alternatives} & unknown for claim in of_unit)
    }
    counted = sorted(unit for unit in claimed if found[unit] >= active or unit not in hedged | open_to_doubt)
    supported = [unit for unit in counted if found[unit] >= active]
    unsupported = [unit for unit in counted if found[unit] < _NOTHING]
    moving = [unit for unit, intensity in enumerate(measured) if intensity >= active]
    missing = [unit for unit, intensity in enumerate(measured) if intensity >= strong and unit not in claimed]
    denied = {claim.unit for claim in made if not claim.present}
    side_errors = [
        unit
        for unit in counted
        if FEAFA[unit].side
        and FEAFA[unit].mirror not in claimed
        and found[unit] < active <= measured[FEAFA[unit].mirror]
    ]
    agreeing = []
    for claim in made:
        if claim.low is not None and claim.high is not None:
            units = {claim.unit, *claim.alternatives}
            fits = any(claim.low - TOLERANCE <= measured[unit] <= claim.high + TOLERANCE for unit in units - unknown)
            if fits or not units & unknown:
                agreeing.append(fits)
    precision = len(supported) / len(counted) if counted else 1.0
    recall = sum(unit in claimed for unit in moving) / len(moving) if moving else 1.0
    return Grounding(
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        intensity_agreement=sum(agreeing) / len(agreeing) if agreeing else None,
        side_errors=side_errors,
        unsupported=unsupported,
        contradicted=[unit for unit in missing if unit in denied],
        missing=missing,
        unsupported_share=len(unsupported) / len(counted) if counted else 0.0,
        claims=made,
        supported_count=len(supported),
        claimed_count=len(counted),
        active_count=len(moving),
    )
