"""The offline judge: deterministic rules about the claimed action units and the named expressions."""

import re
from collections.abc import Sequence

from explllm.core.action_units import FEAFA
from explllm.core.expressions import SYNONYMS, Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.grounding import Claim, claims
from explllm.explanations.verdict import is_ambiguous, score, verdict
from explllm.metrics.exp_cot_score import MAX_SCORE, Judgment
from explllm.metrics.judges import RuleJudge, register_judge

_WORD = re.compile(r"[a-z]+")

_ONE_UNGRADED = 0.75
"""Similarity of two claims about a unit if only one has an intensity word."""

_SLOPE = 2.0
"""Loss of similarity if two intensities differ by 1. Words that are half the scale or more apart, such as "slight" and
"strong", do not match."""

_OPPOSITE = 0.35
"""Minimum difference between two intensities at which one contradicts the other: "slight" and "marked", for example."""


@register_judge("offline")
class OfflineJudge(RuleJudge):
    """A rule-based judge, deterministic and free. Its scores are not comparable with those of a language model.

    The paper leaves the scores to GPT-4o; these formulas are this project's own, with
    F1 = 2 x shared / (generated + reference):

    - Key observations: 5 times the F1 of the action units that the two sections claim, times the share of the
      reference's units that the generated text does not contradict. A shared unit is weighted by the similarity of its
      two intensities: max(0, 1 - 2 |a - b|), where a and b are the midpoints of the ranges of the intensity words
      (averaged if a unit is graded several times); 1 if neither has an intensity word; 0.75 if only one has. If one
      side is claimed more often than the other, this counts as one extra claim that this side moves more.
      A unit is contradicted if the generated text denies it and never claims it (unless the reference denies it, too),
      claims the other side instead, or gives an intensity that differs by at least 0.35. A unit that the generated text
      merely omits is not contradicted.
    - Interpretation: 5 times the F1 of the expressions that the two sections name and do not deny, times the share of
      units that are not contradicted, because an interpretation of denied observations has no support.
    - Conclusion: 5 if both conclude the same expression, else 0. Only the conclusions themselves count, unless the
      reference's conclusion names no expression. A conclusion that names several expressions with about equal
      weight scores 0, unless the reference's conclusion does so, too.

    A section that has a title in the reference must have its title in the generated text too, unless that text has no
    titles at all. Otherwise, the section counts as missing. A section scores 0 if only one of the texts has it.
    """

    name = "offline (rules: action units claimed, expressions named)"

    def compare(self, generated: str, reference: str) -> Judgment:
        """Return the scores of a generated text; see the class."""
        mine, theirs = _sections(generated, reference)
        observations, contradicted = _observations(mine.key_observations, theirs.key_observations)
        return Judgment(
            MAX_SCORE * observations,
            MAX_SCORE * (1 - contradicted) * _interpretations(mine.interpretation, theirs.interpretation),
            MAX_SCORE * _conclusions(mine, theirs),
        )


def _sections(generated: str, reference: str) -> tuple[ChainOfThought, ChainOfThought]:
    """Split both texts into sections.

    Sections that have a title in the reference are split by title, and other sections as `ChainOfThought.parse` does.
    If the generated text has no titles, `ChainOfThought.parse` splits both texts.
    """
    mine, theirs = ChainOfThought.parse(generated), ChainOfThought.parse(reference)
    titled_mine = ChainOfThought.parse(generated, recover=False)
    titled_theirs = ChainOfThought.parse(reference, recover=False)
    if not any(titled_mine.sections):
        return mine, theirs
    return _prefer_titled(titled_theirs, titled_mine, mine), _prefer_titled(titled_theirs, titled_theirs, theirs)


def _prefer_titled(reference: ChainOfThought, titled: ChainOfThought, recovered: ChainOfThought) -> ChainOfThought:
    """Take the titled section wherever `reference` has one, and the recovered section elsewhere."""
    rows = zip(reference.sections, titled.sections, recovered.sections, strict=True)
    key, interpretation, conclusion = (
        own if expected else recovered_section for expected, own, recovered_section in rows
    )
    return ChainOfThought(key, interpretation, conclusion, recovered.text)


def _observations(mine: str, theirs: str) -> tuple[float, float]:
    """Return the agreement of two sections, and the share of the units in `theirs` that `mine` contradicts."""
    if bool(mine) != bool(theirs):
        return 0.0, 0.0
    my_claims, their_claims = claims(mine), claims(theirs)
    one, other = _intensities(my_claims), _intensities(their_claims)
    if not one and not other:
        return 1.0, 0.0
    shared = sum(_similarity(one[claim], other[claim]) for claim in one.keys() & other.keys())
    # A reference that denies a unit in one place and claims it in another cannot be contradicted.
    denied = {claim.unit for claim in my_claims if not claim.present and (claim.unit, False) not in one}
    denied -= {claim.unit for claim in their_claims if not claim.present}
    units = [unit for unit, more in other if not more]
    contradicted = sum(unit in denied or _is_contradicted(unit, one, other) for unit in units) / max(len(units), 1)
    return 2 * shared / (len(one) + len(other)) * (1 - contradicted), contradicted


Intensities = dict[tuple[int, bool], float | None]


def _is_contradicted(unit: int, mine: Intensities, theirs: Intensities) -> bool:
    """Return whether `mine` claims a unit of `theirs` on the other side only, or with an opposite intensity.

    Claims about which side moves more are compared in the same way.
    """
    mirror = FEAFA[unit].mirror
    if mirror != unit:
        for more in (False, True):
            in_mine = [(side, more) in mine for side in (unit, mirror)]
            in_theirs = [(side, more) in theirs for side in (unit, mirror)]
            if in_theirs == [True, False] and in_mine == [False, True]:
                return True
    one, other = mine.get((unit, False)), theirs[unit, False]
    return one is not None and other is not None and abs(one - other) >= _OPPOSITE


def _similarity(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 1.0 if one is other else _ONE_UNGRADED
    return max(0.0, 1 - _SLOPE * abs(one - other))


def _intensities(all_claims: Sequence[Claim]) -> Intensities:
    """Return the units claimed present with their intensities, and (unit, True) for a side claimed more often."""
    middles: dict[int, list[float | None]] = {}
    for claim in all_claims:
        if claim.present:
            middle = None if claim.low is None or claim.high is None else (claim.low + claim.high) / 2
            middles.setdefault(claim.unit, []).append(middle)
    intensities: Intensities = {}
    for unit, of_unit in middles.items():
        graded = [middle for middle in of_unit if middle is not None]
        intensities[unit, False] = sum(graded) / len(graded) if graded else None
        if 0 < len(middles.get(FEAFA[unit].mirror, ())) < len(of_unit):
            intensities[unit, True] = None
    return intensities


def _interpretations(mine: str, theirs: str) -> float:
    if bool(mine) != bool(theirs):
        return 0.0
    one, other = _named(mine), _named(theirs)
    return 2 * len(one & other) / (len(one) + len(other)) if one or other else 1.0


def _named(text: str) -> set[Expression]:
    """Return the expressions that a text names and does not deny."""
    scores = score(text)
    named = {SYNONYMS[word] for word in _WORD.findall(text.lower()) if word in SYNONYMS}
    return {expression for expression in named if scores.get(expression, 0.0) > 0}


def _conclusions(mine: ChainOfThought, theirs: ChainOfThought) -> float:
    if bool(mine.conclusion) != bool(theirs.conclusion):
        return 0.0
    if is_ambiguous(mine.conclusion) and not is_ambiguous(theirs.conclusion):
        return 0.0  # a conclusion that names every expression would otherwise always match
    one, other = verdict(mine.conclusion), verdict(theirs.conclusion)
    if other is None:
        one, other = mine.expression, theirs.expression
    return float(one is not None and one == other)
