"""The offline judge: deterministic rules about the action units claimed and the expressions named."""

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
"""Similarity of two claims of a unit if only one has an intensity word: 1 minus a quarter, the mean distance of
intensities in [0, 1] from the middle."""


@register_judge("offline")
class OfflineJudge(RuleJudge):
    """A judge by rules, deterministic and free. Its scores are not comparable with those of a language model.

    The paper leaves the scores to GPT-4o; these formulas are this project's own. With
    F1 = 2 x shared / (generated + reference):

    - Key observations: 5 times the F1 of the action units that the two sections claim. A shared unit counts by the
      similarity of its two intensities: 1 - |a - b|. Here a and b are the middles of the ranges that the intensity
      words denote (their mean, if a unit is graded several times); 1 if neither has an intensity word; 0.75 if only
      one has. A side that is claimed more often than the other counts as one extra claim: it says which side moves
      more.
    - Interpretation: 5 times the F1 of the expressions that the two sections name and do not deny.
    - Conclusion: 5 if both conclude the same expression, else 0. The conclusion's own text decides, unless the
      reference's conclusion names no expression. A conclusion that names several expressions equally scores 0 if the
      reference names one.

    A section that has a title in the reference must have its title in the generated text too, unless that text has no
    titles at all. Otherwise the section counts as missing, and a missing section scores 0.
    """

    name = "offline (rules: action units claimed, expressions named)"

    def compare(self, generated: str, reference: str) -> Judgment:
        """Return the scores of a generated text; see the class."""
        mine, theirs = _sections(generated, reference)
        return Judgment(
            MAX_SCORE * _observations(mine.key_observations, theirs.key_observations),
            MAX_SCORE * _interpretations(mine.interpretation, theirs.interpretation),
            MAX_SCORE * _conclusions(mine, theirs),
        )


def _sections(generated: str, reference: str) -> tuple[ChainOfThought, ChainOfThought]:
    """Split both texts in the same way: by titles if the reference has them, else as `ChainOfThought.parse` does."""
    mine, theirs = ChainOfThought.parse(generated), ChainOfThought.parse(reference)
    titled_mine = ChainOfThought.parse(generated, recover=False)
    titled_theirs = ChainOfThought.parse(reference, recover=False)
    if not any(titled_mine.sections):
        return mine, theirs
    return _prefer_titled(titled_theirs, titled_mine, mine), _prefer_titled(titled_theirs, titled_theirs, theirs)


def _prefer_titled(reference: ChainOfThought, titled: ChainOfThought, recovered: ChainOfThought) -> ChainOfThought:
    """Take the titled section wherever `reference` has one, and the recovered section elsewhere."""
    rows = zip(reference.sections, titled.sections, recovered.sections, strict=True)
    key, interpretation, conclusion = (own if expected else found for expected, own, found in rows)
    return ChainOfThought(key, interpretation, conclusion, recovered.text)


def _observations(mine: str, theirs: str) -> float:
    if bool(mine) != bool(theirs):
        return 0.0
    one, other = _intensities(claims(mine)), _intensities(claims(theirs))
    if not one and not other:
        return 1.0
    shared = sum(_similarity(one[claim], other[claim]) for claim in one.keys() & other.keys())
    return 2 * shared / (len(one) + len(other))


def _similarity(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 1.0 if one is other else _ONE_UNGRADED
    return 1 - abs(one - other)


def _intensities(found: Sequence[Claim]) -> dict[tuple[int, bool], float | None]:
    """Return the units claimed present with their intensities, and (unit, True) for a side claimed more often."""
    middles: dict[int, list[float | None]] = {}
    for claim in found:
        if claim.present:
            middle = None if claim.low is None or claim.high is None else (claim.low + claim.high) / 2
            middles.setdefault(claim.unit, []).append(middle)
    intensities: dict[tuple[int, bool], float | None] = {}
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
