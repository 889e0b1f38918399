"""Rule-based writer of chains of thought: fixed wordings, chosen by the action units, the label and a seed.

The text describes given intensities and explains a given label. The writer does not classify the face: if the movements
do not support the label, the text says that the evidence is weak. In manifests, the writer's texts have the value
``offline`` in the column ``cot_source``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from explllm.core.action_units import NAMES, check_action_units, intensity_word
from explllm.core.expressions import Expression
from explllm.explanations import rule_phrases as phrases
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.rule_table import COMPANIONS, LIP_SUCK, PATTERNS, Pattern

_NAMED_FROM = 0.08
"""Minimum intensity of a movement that is named. Weaker movements may be estimator noise."""
_TRACE_FROM = 0.05
"""Minimum intensity of the other side of a named movement. Below this, a movement counts as absent."""
_CLEAR_FROM = 0.25
"""Minimum intensity of a movement that is more than slight."""
_STRIKING_FROM = 0.45
"""Minimum intensity of a movement that is evidence against a neutral expression."""
_STRONG_FROM = 0.3
"""Minimum intensity of a movement that every text names."""
_SHUT_FROM = 0.65
"""Minimum intensity of eyes that are closed rather than narrowed."""
_ONE_SIDED_RATIO = 2.0
"""Minimum ratio between the intensities of the two sides of a movement that counts as one-sided."""
_MAX_TRAITS = 3


class Evidence(IntEnum):
    """How well the movements of a face support its label."""

    NONE = 0
    WEAK = 1
    MODERATE = 2
    CLEAR = 3


@dataclass(frozen=True)
class _Visible:
    """A movement that a face makes."""

    kind: str
    sides: tuple[tuple[str, float], ...]
    """Each moving side with its intensity, the stronger first; for a movement without sides, one entry whose side is
    empty."""

    @property
    def intensity(self) -> float:
        return self.sides[0][1]

    @property
    def movement(self) -> phrases.Movement:
        return phrases.MOVEMENTS[self.kind]

    @property
    def plural(self) -> bool:
        return len(self.sides) > 1 or self.movement.plural

    @property
    def is_one_sided(self) -> bool:
        return len(self.sides) == 1 or self.sides[0][1] >= _ONE_SIDED_RATIO * self.sides[1][1]

    @property
    def side(self) -> str:
        """The side followed by a space if the movement is on one side only; otherwise empty."""
        side = self.sides[0][0] if len(self.sides) == 1 else ""
        return f"{side} " if side else ""

    @property
    def trait(self) -> str:
        """The moved part with an adjective, such as "the lowered brows"."""
        ending = "s" if len(self.sides) > 1 else ""
        adjective = "closed" if self.is_shut else self.movement.trait
        return f"the {adjective} {self.side}{self.movement.part}{ending}"

    @property
    def is_shut(self) -> bool:
        """Whether the eyes are closed rather than narrowed."""
        return self.kind == "Eye Close" and self.intensity >= _SHUT_FROM


class RuleWriter:
    """Writes the chain of thought of a labeled face by rule.

    >>> units = [0.0] * 24
    >>> units[11] = units[12] = 0.7  # both lip corners pulled up
    >>> cot = RuleWriter().write(units, Expression.HAPPINESS, seed=1)
    >>> cot.expression
    <Expression.HAPPINESS: 'Happiness'>
    >>> cot.check(Expression.HAPPINESS)
    []
    """

    name = "offline"

    def write(self, action_units: Sequence[float | None], expression: Expression, *, seed: int = 0) -> ChainOfThought:
        """Write a chain of thought.

        The choice of wordings also depends on the intensities and the label, so different faces usually get different
        texts with the same seed. Two faces without movements may share a text.

        Args:
            action_units: 24 intensities in [0, 1], in FEAFA order; None for a unit that was not measured. The text
                does not mention such units.
            expression: The label of the face. The conclusion names it and no other label.
            seed: Selects the wordings. The same arguments give the same text. Pass the row number for one text per
                face, and a different number for another text about the same face.

        Returns:
            Three sections of fewer than 130 words in total. The strongest movement comes first. Each movement with an
            intensity of 0.08 or more is named with its intensity and side; if there are too many, only those with 0.3
            or more are always named.

        Raises:
            InputError: If the action units are not 24 numbers in [0, 1] or None.
        """
        units = check_action_units([0.0 if value is None else value for value in action_units])
        expression = Expression(expression)
        # Seed with a string, which gives the same stream in every process; its hash() would not.
        key = f"{seed} {expression} {units}"
        visible = _visible(units)
        text = _compose(visible, units, expression, random.Random(key))
        attempt = 0
        while len(text.text.split()) >= MAX_WORDS:
            # First list the movements, then drop the weakest, one per attempt. With a short interpretation, even 24
            # strong movements fit.
            attempt += 1
            weak = [one for one in visible if one.intensity < _STRONG_FROM]
            if attempt > 1 and weak:
                visible.remove(min(weak, key=lambda one: one.intensity))
            text = _compose(visible, units, expression, random.Random(f"{key} {attempt}"), listed=True)
        return text


def _visible(units: Sequence[float]) -> list[_Visible]:
    """Return the movements to name, the strongest first. Lip sucks with the same intensity word are merged."""
    visible = []
    for kind in phrases.MOVEMENTS:
        sides = _sides(kind, units)
        if sides and sides[0][1] >= _NAMED_FROM:
            visible.append(_Visible(kind, tuple(side for side in sides if side[1] >= _TRACE_FROM)))
    return sorted(visible, key=lambda one: -one.intensity)


def _sides(kind: str, units: Sequence[float]) -> list[tuple[str, float]]:
    """Return the sides of a movement with their intensities, the stronger first.

    The list is empty for `LIP_SUCK` if the lip sucks are not merged, and for each single lip suck if they are.
    """
    lips = [units[NAMES.index(name)] for name in ("Upper Lip Suck", "Lower Lip Suck")]
    merged = min(lips) >= _TRACE_FROM and intensity_word(lips[0]) == intensity_word(lips[1])
    if kind == LIP_SUCK:
        return [("", max(lips))] if merged else []
    if kind in NAMES:
        return [] if merged and kind.endswith("Lip Suck") else [("", units[NAMES.index(kind)])]
    sides = [(side.lower(), units[NAMES.index(f"{side} {kind}")]) for side in ("Left", "Right")]
    return sorted(sides, key=lambda side: -side[1])


def _compose(
    visible: Sequence[_Visible],
    units: Sequence[float],
    expression: Expression,
    rng: random.Random,
    *,
    listed: bool = False,
) -> ChainOfThought:
    if not visible:
        observations = _stillness(units, rng)
    else:
        observations = _list(visible, rng) if listed else _observations(visible, rng)
    signs, evidence = _reading(visible, expression)
    contrary = [
        one
        for one in visible
        if one.kind not in COMPANIONS[expression] and one.intensity >= _CLEAR_FROM and one not in signs
    ]
    if evidence == Evidence.CLEAR and contrary and contrary[0].intensity >= signs[0].intensity / 2:
        evidence = Evidence.MODERATE
    return ChainOfThought.from_sections(
        observations,
        _interpretation(visible, signs, contrary, evidence, expression, rng, brief=listed),
        _conclusion(visible, evidence, expression, rng),
    )


# The reading of a face ----------------------------------------------------------------------------------------------


def _reading(visible: Sequence[_Visible], expression: Expression) -> tuple[list[_Visible], Evidence]:
    """Return the movements of the best pattern, the strongest first, and how strong the evidence is."""
    by_kind = {one.kind: one for one in visible}

    def matches(pattern: Pattern) -> bool:
        return all(name in by_kind for name in pattern.movements) and (
            not pattern.one_sided or by_kind[pattern.movements[0]].is_one_sided
        )

    def strength(pattern: Pattern) -> float:
        return sum(by_kind[name].intensity for name in pattern.movements) / len(pattern.movements)

    patterns = [pattern for pattern in PATTERNS[expression] if matches(pattern)]
    if not patterns:
        return [], Evidence.NONE
    # A high-weight pattern of slight movements is weaker evidence than a single strong movement.
    best = max(
        patterns,
        key=lambda pattern: (min(pattern.weight, 3 if strength(pattern) >= _CLEAR_FROM else 1), strength(pattern)),
    )
    signs = sorted((by_kind[name] for name in best.movements), key=lambda one: -one.intensity)
    if strength(best) < _CLEAR_FROM:
        return signs, Evidence.WEAK
    return signs, Evidence(best.weight)


def _interpretation(
    visible: Sequence[_Visible],
    signs: Sequence[_Visible],
    contrary: Sequence[_Visible],
    evidence: Evidence,
    expression: Expression,
    rng: random.Random,
    *,
    brief: bool,
) -> str:
    mood = rng.choice(phrases.MOODS[expression])
    words = {"mood": mood, "Mood": mood[0].upper() + mood[1:], "label": expression.lower()}
    if expression is Expression.NEUTRAL:
        clear = [one for one in visible if one.intensity >= _CLEAR_FROM]
        striking = [one for one in clear if one.intensity >= _STRIKING_FROM]
        if not visible:
            return rng.choice(phrases.NEUTRAL_STILL).format(**words)
        templates = phrases.NEUTRAL_CONTRARY if striking else phrases.NEUTRAL_CLEAR if clear else phrases.NEUTRAL_FAINT
        return _fill(rng.choice(templates), (striking or clear or visible)[: 1 if brief else _MAX_TRAITS], words)
    if not visible:
        return rng.choice(phrases.STILL_READINGS).format(**words)
    if evidence == Evidence.NONE:
        return rng.choice(phrases.NO_READINGS).format(**words)
    readings = {
        Evidence.WEAK: phrases.WEAK_READINGS,
        Evidence.MODERATE: phrases.MODERATE_READINGS,
        Evidence.CLEAR: phrases.CLEAR_READINGS,
    }[evidence]
    sentences = [_fill(rng.choice(readings), signs[: 1 if brief else _MAX_TRAITS], words)]
    if contrary and not brief:
        templates = phrases.WEAKER_CONTRARY if evidence == Evidence.CLEAR else phrases.CONTRARY
        sentences.append(_fill(rng.choice(templates), contrary[:1], words))
    return " ".join(sentences)


def _fill(template: str, visible: Sequence[_Visible], words: dict[str, str]) -> str:
    """Fill a template with the traits of movements and verbs that agree with them."""
    traits = [one.trait for one in visible]
    listed = traits[0] if len(traits) == 1 else f"{', '.join(traits[:-1])} and {traits[-1]}"
    plural = len(visible) > 1 or visible[0].plural
    verbs = {verb: verb if plural else f"{verb}s" for verb in phrases.VERBS}
    verbs |= {verb: verb if plural else singular for verb, singular in phrases.IRREGULAR_VERBS.items()}
    return template.format(traits=listed, Traits=listed[0].upper() + listed[1:], **verbs, **words)


def _conclusion(visible: Sequence[_Visible], evidence: Evidence, expression: Expression, rng: random.Random) -> str:
    if expression is Expression.NEUTRAL:
        strongest = max((one.intensity for one in visible), default=0.0)
        evidence = (
            Evidence.CLEAR
            if strongest < _CLEAR_FROM
            else Evidence.MODERATE
            if strongest < _STRIKING_FROM
            else Evidence.WEAK
        )
        forms = {"label": "neutral", "plain": "a neutral expression", "clear": "a clearly neutral expression"}
    else:
        label = expression.lower()
        forms = {"label": label, "plain": f"an expression of {label}", "clear": f"a clear expression of {label}"}
    endings = {Evidence.CLEAR: phrases.CLEAR_ENDINGS, Evidence.MODERATE: phrases.MODERATE_ENDINGS}
    return rng.choice(endings.get(evidence, phrases.WEAK_ENDINGS)).format(**forms)


# Observations -------------------------------------------------------------------------------------------------------


def _observations(visible: Sequence[_Visible], rng: random.Random) -> str:
    sentences = []
    slight = visible[0].intensity < _CLEAR_FROM
    openings: Sequence[str] = phrases.SLIGHT_OPENINGS if slight else phrases.OPENINGS
    used = set()
    start = 0
    while start < len(visible):
        count = rng.choice((1, 2, 2))
        clauses = [_clause(one, rng) for one in visible[start : start + count]]
        opening = rng.choice(openings)
        sentence = opening + _join(clauses, rng)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
        used.add(opening)
        openings = [other for other in phrases.FOLLOWINGS if other not in used or not other]
        start += count
    return " ".join(sentences)


def _stillness(units: Sequence[float], rng: random.Random) -> str:
    """Return a sentence about a face without a movement to name."""
    traces = {kind: sides for kind in phrases.MOVEMENTS if (sides := _sides(kind, units))}
    kind, strongest = max(traces.items(), key=lambda trace: trace[1][0][1])
    if strongest[0][1] < _TRACE_FROM:
        return rng.choice(phrases.STILL)
    part = phrases.MOVEMENTS[kind].part + ("s" if len(strongest) > 1 else "")
    return rng.choice(phrases.TRACES).format(part=f"the {part}")


def _list(visible: Sequence[_Visible], rng: random.Random) -> str:
    """Return one sentence that lists the movements in few words: "left brow strongly raised, right markedly; ..."."""
    items = []
    for one in visible:
        movement, done = one.movement, one.movement.done[0]
        grades = [phrases.LIST_ADVERBS[intensity_word(intensity)] for _, intensity in one.sides]
        if len(set(grades)) > 1:
            (first, _), (second, _) = one.sides
            items.append(f"{first} {movement.part} {grades[0]} {done}, {second} {grades[1]}")
        elif len(grades) > 1:
            items.append(f"both {movement.part}s {grades[0]} {done}")
        elif one.kind == LIP_SUCK:
            items.append(f"both lips {grades[0]} {done}")
        else:
            items.append(f"{one.side}{movement.part} {grades[0]} {done}")
    return f"{rng.choice(phrases.LIST_OPENINGS)}{'; '.join(items)}."


def _join(clauses: Sequence[str], rng: random.Random) -> str:
    """Join one or two clauses. If both have the same subject, the second omits it."""
    if len(clauses) == 2 and not any(" and " in clause for clause in clauses):
        subject = clauses[0].partition(" is ")[0] + " is "
        if clauses[1].startswith(subject):
            return f"{clauses[0]} and {clauses[1].removeprefix(subject)}"
    return rng.choice(phrases.JOINTS).join(clauses)


def _clause(one: _Visible, rng: random.Random) -> str:
    """Return a clause such as "both brows are slightly lowered"."""
    movement = one.movement
    grades = [intensity_word(intensity) for _, intensity in one.sides]
    done = "closed" if one.is_shut else rng.choice(movement.done)
    if len(grades) == 2 and grades[0] != grades[1]:
        (first, _), (second, _) = one.sides
        return (
            f"the {first} {movement.part} is {phrases.ADVERBS[grades[0]]} {done} "
            f"and the {second} {movement.part} {phrases.ADVERBS[grades[1]]}"
        )
    both = len(grades) == 2 or one.kind == LIP_SUCK
    part = f"both {movement.part}{'' if movement.plural else 's'}" if both else f"the {one.side}{movement.part}"
    adverb, verb = phrases.ADVERBS[grades[0]], "are" if one.plural else "is"
    article = "an" if grades[0] == "extreme" else "a"
    noun, shown = movement.noun.format(part), movement.shown
    if one.is_shut:
        noun, shown = noun.replace("narrowing", "closing"), "closing"
    return rng.choice(
        (
            f"{part} {verb} {adverb} {done}",
            f"{part} {verb} {adverb} {done}",
            f"there is {article} {grades[0]} {noun}",
            f"{part} {'show' if one.plural else 'shows'} {article} {grades[0]} {shown}",
            # In "a shift to the left is visible", "visible" would be read as the intensity of the shift.
            f"{article} {grades[0]} {noun} {'can be seen' if one.kind.startswith('Jaw Slide') else 'is visible'}",
            f"{article} {grades[0]} {noun} can be seen",
        )
    )
