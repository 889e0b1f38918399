"""Review one explanation: check its claims against measured action units, and the text against itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from explllm.core.action_units import FACS_CODES, NAMES, with_facs
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.claims import Claim, claims
from explllm.explanations.consistency import check_consistency
from explllm.explanations.grounding import ACTIVE, TOLERANCE

ClaimStatus = Literal["agrees", "contradicts", "not measured"]
MARKS: dict[ClaimStatus, str] = {"agrees": "✓", "contradicts": "✗", "not measured": "–"}
"""The mark of each status on the terminal."""


@dataclass(frozen=True)
class CheckedClaim:
    """A claim about one action unit, compared with its measured intensity."""

    claim: Claim
    status: ClaimStatus
    measured: float | None
    """Highest measured intensity in [0, 1] of the unit and, unless the claim is a denial, its alternatives; None if the
    status is "not measured"."""

    @property
    def phrase(self) -> str:
        """The claim in words, such as ``Jaw Drop (AU26, measured 0.62)`` or ``no Nose Wrinkle (AU9)``."""
        name = NAMES[self.claim.unit]
        measured = "" if self.measured is None else f", measured {self.measured:.2f}"
        return f"{'' if self.claim.present else 'no '}{name} ({FACS_CODES[name]}{measured})"


@dataclass(frozen=True)
class Review:
    """The review of one explanation."""

    claims: tuple[CheckedClaim, ...]
    """One entry per unit and per kind of claim (affirmed or denied), in text order."""
    self_contradictions: tuple[str, ...]
    """Names of the units that the text both affirms and denies."""
    label: Expression
    """The expression that the model recognized."""
    concluded: Expression | None
    """The expression that the text arrives at (see `ChainOfThought.expression`); None if it suggests none."""

    @property
    def conclusion_agrees(self) -> bool:
        """Whether the text arrives at the recognized expression."""
        return self.concluded == self.label

    def count(self, status: ClaimStatus) -> int:
        """Return the number of claims with the given status."""
        return sum(claim.status == status for claim in self.claims)

    @property
    def phrases(self) -> dict[ClaimStatus, str]:
        """One line of claims per status that occurs, such as ``Jaw Drop (AU26), no Nose Wrinkle (AU9)``."""
        return {
            status: ", ".join(claim.phrase for claim in self.claims if claim.status == status)
            for status in MARKS
            if self.count(status)
        }

    @property
    def summary(self) -> str:
        """The counts in one line, such as ``claims: 5 agree, 1 contradicts, 2 not measured``."""
        agree, contradict = self.count("agrees"), self.count("contradicts")
        words = [
            f"{agree} agree{'s' * (agree == 1)}",
            f"{contradict} contradict{'s' * (contradict == 1)}",
            f"{self.count('not measured')} not measured",
        ]
        return f"claims: {', '.join(words)}"

    @property
    def warnings(self) -> list[str]:
        """One sentence per problem that does not depend on measured action units."""
        sentences = []
        if self.concluded is None:
            sentences.append(f"The model recognized {self.label}, but the text's conclusion names no expression.")
        elif not self.conclusion_agrees:
            sentences.append(f"The model recognized {self.label}, but the text's conclusion names {self.concluded}.")
        if self.self_contradictions:
            sentences.append(
                f"The text contradicts itself about: {', '.join(map(with_facs, self.self_contradictions))}."
            )
        return sentences


def review_explanation(
    cot: ChainOfThought, label: Expression, action_units: Sequence[float | None] | None = None
) -> Review:
    """Review an explanation.

    - An affirmed unit agrees if it or one of its alternatives is active (intensity of at least `ACTIVE`). A hedged
      claim ("minimal", "barely") also agrees with any lower intensity.
    - A denied unit agrees if its intensity is at most `ACTIVE` + `TOLERANCE`.
    - Repeated claims count once; a contradiction takes precedence.

    >>> units = [0.0] * 24
    >>> units[8] = 0.62  # Jaw Drop
    >>> cot = ChainOfThought.from_sections("The jaw is dropped. The nose is wrinkled.", "Open.", "Surprise.")
    >>> review = review_explanation(cot, Expression.SURPRISE, units)
    >>> for claim in review.claims:
    ...     print(claim.status, claim.phrase)
    agrees Jaw Drop (AU26, measured 0.62)
    contradicts Nose Wrinkle (AU9, measured 0.00)
    >>> review.summary
    'claims: 1 agrees, 1 contradicts, 0 not measured'

    Args:
        cot: The chain of thought.
        label: The recognized expression.
        action_units: 24 measured intensities in [0, 1], with None for each unmeasured unit. By default, all units
            count as unmeasured.

    Returns:
        The review.
    """
    measured = action_units or [None] * len(NAMES)
    checked: dict[tuple[int, bool], CheckedClaim] = {}
    for claim in claims(cot.text):
        key, result = (claim.unit, claim.present), _check(claim, measured)
        if key not in checked or result.status == "contradicts":
            checked[key] = result
    return Review(
        claims=tuple(checked.values()),
        self_contradictions=tuple(NAMES[unit] for unit in check_consistency(cot).contradictions),
        label=label,
        concluded=cot.expression,
    )


def _check(claim: Claim, measured: Sequence[float | None]) -> CheckedClaim:
    units = [claim.unit, *claim.alternatives] if claim.present else [claim.unit]
    values = [value for value in (measured[unit] for unit in units) if value is not None]
    highest = max(values, default=None)
    if highest is None:
        return CheckedClaim(claim, "not measured", None)
    if not claim.present:
        agrees = highest <= ACTIVE + TOLERANCE
    else:
        agrees = highest >= ACTIVE or claim.low == 0.0
        if not agrees and len(values) < len(units):
            return CheckedClaim(claim, "not measured", None)  # an alternative that was not measured may be active
    return CheckedClaim(claim, "agrees" if agrees else "contradicts", highest)
