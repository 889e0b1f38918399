"""Check whether a chain of thought agrees with itself, without any measured action units."""

from dataclasses import dataclass

from explllm.core.action_units import FEAFA
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.claims import Claim, claims


@dataclass(frozen=True)
class Consistency:
    """Contradictions and unaffirmed units of one text. Each list contains indices into `FEAFA`, in ascending order."""

    affirmed_and_denied: list[int]
    """Units that the key observations both affirm and deny."""
    denied: list[int]
    """Units that the interpretation names although the key observations deny them."""
    unaffirmed: list[int]
    """Units that the interpretation names although the key observations do not affirm them; includes `denied`."""

    @property
    def contradicts_itself(self) -> bool:
        """Whether the key observations contradict themselves or the interpretation."""
        return bool(self.affirmed_and_denied or self.denied)

    @property
    def contradictions(self) -> list[int]:
        """Units that the text both affirms and denies, in ascending order."""
        return sorted({*self.affirmed_and_denied, *self.denied})


def check_consistency(cot: ChainOfThought) -> Consistency:
    """Compare the action units that the key observations and the interpretation claim.

    A hedged claim ("minimal", "barely") is compatible with a denial. A claim with alternatives, such as "one brow",
    counts as denied only if its unit and all alternatives are denied.

    >>> cot = ChainOfThought.from_sections("The nose is not wrinkled.", "The wrinkled nose shows disgust.", "Disgust.")
    >>> check_consistency(cot).denied
    [23]

    Args:
        cot: The chain of thought.

    Returns:
        The contradictions and unaffirmed units; all lists are empty for a consistent text.
    """
    observed, interpreted = claims(cot.key_observations), claims(cot.interpretation)
    affirmed = {unit for claim in observed if claim.present for unit in _units(claim)}
    stated = [claim for claim in observed if claim.present and claim.low != 0.0]
    denied = {claim.unit for claim in observed if not claim.present}
    named = [claim for claim in interpreted if claim.present and claim.low != 0.0]
    named_units = {claim.unit for claim in named}

    def scope(claim: Claim) -> set[int]:
        # "The furrowed brow" names both sides, but one side is enough to support it.
        mirror = FEAFA[claim.unit].mirror
        return _units(claim) | ({mirror} & named_units)

    return Consistency(
        affirmed_and_denied=sorted({claim.unit for claim in stated if _units(claim) <= denied}),
        denied=sorted({claim.unit for claim in named if scope(claim) <= denied - affirmed}),
        unaffirmed=sorted({claim.unit for claim in named if not scope(claim) & affirmed}),
    )


def _units(claim: Claim) -> set[int]:
    return {claim.unit, *claim.alternatives}
