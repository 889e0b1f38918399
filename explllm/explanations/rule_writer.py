"""A writer of chains of thought that needs no language model: fixed phrases, chosen by the action units and a seed.

What it writes describes given intensities under a given label; it judges nothing. A manifest that holds such texts says
so: its ``cot_source`` is ``offline``.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from explllm.core.action_units import NAMES, check_action_units, intensity_word
from explllm.core.expressions import Expression
from explllm.explanations import rule_phrases as phrases
from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought

_NAMED_FROM = 0.1
"""The intensity from which a movement is named; what is weaker may be noise of the estimator."""
_TRACE_FROM = 0.05
"""The intensity from which the other side of a named movement is named with it; below, a movement counts as absent."""
_CLEAR_FROM = 0.25
"""The intensity from which a movement is more than slight."""
_STRIKING_FROM = 0.45
"""The intensity from which a movement speaks against a neutral face."""

_STRONG_FROM = 0.3
"""The intensity from which a movement is named in every text."""

_MOST_TRAITS = 3
_ABSENCE_RATE = 0.35
_FEW_MOVEMENTS = 2
"""Up to so many movements, a text always says what is absent, and more of it: there is little else to tell faces by."""
_NOUN_RATE = 0.25


@dataclass(frozen=True)
class _Seen:
    """A movement that a face makes."""

    kind: str
    sides: tuple[tuple[str, float], ...]
    """Each moving side with its intensity; one entry without a side for a movement of the whole face."""

    @property
    def intensity(self) -> float:
        return max(intensity for _, intensity in self.sides)

    @property
    def movement(self) -> phrases.Movement:
        return phrases.MOVEMENTS[self.kind]

    @property
    def plural(self) -> bool:
        return len(self.sides) > 1 or self.movement.plural

    @property
    def whose(self) -> str:
        """The side, with a space after it, of a movement on one side alone; else nothing."""
        side = self.sides[0][0] if len(self.sides) == 1 else ""
        return f"{side} " if side else ""

    @property
    def trait(self) -> str:
        """The part with its look, such as "the lowered brows"."""
        ending = "s" if len(self.sides) > 1 else ""
        return f"the {self.movement.trait} {self.whose}{self.movement.part}{ending}"


class RuleWriter:
    """Writes the chain of thought of a labelled face by rule."""

    name = "offline"

    def write(self, action_units: Sequence[float | None], expression: Expression, *, seed: int = 0) -> ChainOfThought:
        """Write a chain of thought.

        The intensities and the label take part in the choice of the wordings, so that faces that differ in any of them
        differ in their texts as well, even under one seed; that two still faces share a text remains possible.

        Args:
            action_units: 24 intensities in [0, 1], in FEAFA's order; None for a unit that was not measured, of which
                nothing is said.
            expression: The face's label; the conclusion names it and no other.
            seed: Chooses among the wordings; the same arguments give the same text. Pass the row's number for one text
                a face, and another number for another text about the same face.

        Returns:
            Three sections of less than 130 words together. Each movement from 0.1 is named with its intensity and
            side; where a face moves so much that the words do not suffice, only those from 0.3 are sure to be.

        Raises:
            InputError: If the action units are not 24 numbers in [0, 1].
        """
        unknown = {name for name, value in zip(NAMES, action_units, strict=False) if value is None}
        units = check_action_units([0.0 if value is None else value for value in action_units])
        expression = Expression(expression)
        # Seeded by text, which gives the same stream in every process; hash() of a string would not.
        key = f"{seed} {expression} {units}"
        seen = _seen(units)
        text = _compose(seen, units, unknown, expression, random.Random(key))
        attempt = 0
        while _words(text) >= MAX_WORDS:
            # A face that moves so much has its movements listed. Then the weakest go; where none is weak, even all 24
            # of them fit beside one of the shorter readings.
            attempt += 1
            weak = [one for one in seen if one.intensity < _STRONG_FROM]
            if attempt > 1 and weak:
                seen.remove(min(weak, key=lambda one: one.intensity))
            text = _compose(seen, units, unknown, expression, random.Random(f"{key} {attempt}"), listed=True)
        return text


def _words(text: ChainOfThought) -> int:
    return len(text.text.split())


def _seen(units: Sequence[float]) -> list[_Seen]:
    """Return the movements that are named, from the top of the face downwards."""
    found = []
    for kind in phrases.MOVEMENTS:
        sides = _sides(kind, units)
        if max(intensity for _, intensity in sides) >= _NAMED_FROM:
            found.append(_Seen(kind, tuple(side for side in sides if side[1] >= _TRACE_FROM)))
    return found


def _names(kind: str) -> list[str]:
    return [kind] if kind in NAMES else [f"{side} {kind}" for side in ("Left", "Right")]


def _sides(kind: str, units: Sequence[float]) -> list[tuple[str, float]]:
    if kind in NAMES:
        return [("", units[NAMES.index(kind)])]
    return [(name.split()[0].lower(), units[NAMES.index(name)]) for name in _names(kind)]


def _compose(
    seen: Sequence[_Seen],
    units: Sequence[float],
    unknown: Collection[str],
    expression: Expression,
    rng: random.Random,
    *,
    listed: bool = False,
) -> ChainOfThought:
    typical = [one for one in seen if _is_typical(one, expression)]
    return ChainOfThought.from_sections(
        _list(seen, rng) if listed else _observations(seen, typical, units, unknown, expression, rng),
        _interpretation(seen, typical, expression, rng, brief=listed),
        _conclusion(seen, typical, expression, rng),
    )


def _is_typical(seen: _Seen, expression: Expression) -> bool:
    if expression is Expression.CONTEMPT and seen.kind == "Lip Corner Pull":
        # Contempt lifts one corner; a smile of both sides alike is another expression's.
        intensities = [intensity for _, intensity in seen.sides]
        return len(intensities) == 1 or max(intensities) >= 2 * min(intensities)
    return seen.kind in phrases.TYPICAL[expression]


def _observations(
    seen: Sequence[_Seen],
    typical: Sequence[_Seen],
    units: Sequence[float],
    unknown: Collection[str],
    expression: Expression,
    rng: random.Random,
) -> str:
    absent = [
        movement.absent
        for kind, movement in phrases.MOVEMENTS.items()
        if movement.absent
        and max(intensity for _, intensity in _sides(kind, units)) < _TRACE_FROM
        and not any(name in unknown for name in _names(kind))
    ]
    if not seen:
        return " ".join((_stillness(units, rng), *_some(absent, rng, most=3)))
    ordered = list(seen)
    order = rng.choice(("strength", "strength", "down", "up"))
    if order == "strength":
        ordered.sort(key=lambda one: -one.intensity)
    elif order == "up":
        ordered.reverse()
    strongest_sign = max(typical, key=lambda one: one.intensity, default=None)
    sentences = []
    openings: Sequence[str] = phrases.OPENINGS
    for start in range(0, len(ordered), 2):
        pair = ordered[start : start + 2]
        clauses = [_clause(one, rng) for one in pair]
        opening = rng.choice(openings)
        openings = [other for other in phrases.FOLLOWINGS if other != opening or not other]
        sentence = opening + _join(clauses, rng)
        # Only at the end of the sentence is it plain which movement the sign belongs to.
        if strongest_sign is not None and pair[-1] is strongest_sign and rng.random() < 0.7:
            sentence += rng.choice(phrases.TYPICAL_SIGNS).format(label=_label(expression))
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
    if len(seen) <= _FEW_MOVEMENTS:
        sentences += _some(absent, rng, most=3)
    elif rng.random() < _ABSENCE_RATE:
        sentences += _some(absent, rng, most=1)
    return " ".join(sentences)


def _some(sentences: Sequence[str], rng: random.Random, *, most: int) -> list[str]:
    """Return one to ``most`` of the sentences, as far as there are any."""
    return rng.sample(sentences, min(rng.randint(1, most), len(sentences)))


def _stillness(units: Sequence[float], rng: random.Random) -> str:
    """Return a sentence about a face of which no movement is named."""
    traces = {kind: _sides(kind, units) for kind in phrases.MOVEMENTS}
    kind, strongest = max(traces.items(), key=lambda trace: max(intensity for _, intensity in trace[1]))
    if max(intensity for _, intensity in strongest) < _TRACE_FROM:
        return rng.choice(phrases.STILL)
    part = phrases.MOVEMENTS[kind].part + ("s" if len(strongest) > 1 else "")
    return rng.choice(phrases.TRACES).format(part=f"the {part}")


def _list(seen: Sequence[_Seen], rng: random.Random) -> str:
    """Return one sentence that lists the movements in few words: "left brow strongly raised, right markedly; ..."."""
    items = []
    for one in sorted(seen, key=lambda one: -one.intensity):
        movement, done = one.movement, one.movement.done[0]
        grades = [phrases.LIST_ADVERBS[intensity_word(intensity)] for _, intensity in one.sides]
        if len(set(grades)) > 1:
            (first, _), (second, _) = one.sides
            items.append(f"{first} {movement.part} {grades[0]} {done}, {second} {grades[1]}")
        elif len(grades) > 1:
            items.append(f"both {movement.part}s {grades[0]} {done}")
        else:
            items.append(f"{one.whose}{movement.part} {grades[0]} {done}")
    return f"{rng.choice(phrases.LIST_OPENINGS)}{'; '.join(items)}."


def _join(clauses: Sequence[str], rng: random.Random) -> str:
    """Join one or two clauses; of two about the same part the second goes without it."""
    if len(clauses) == 2 and not any(" and " in clause for clause in clauses):
        subject = clauses[0].partition(" is ")[0] + " is "
        if clauses[1].startswith(subject):
            return f"{clauses[0]} and {clauses[1].removeprefix(subject)}"
    return rng.choice((", and ", ", while ")).join(clauses)


def _clause(seen: _Seen, rng: random.Random) -> str:
    """Return a clause such as "both brows are slightly lowered"."""
    movement = seen.movement
    grades = [intensity_word(intensity) for _, intensity in seen.sides]
    done = rng.choice(movement.done)
    if len(grades) == 2 and grades[0] != grades[1]:
        (first, _), (second, _) = seen.sides
        return (
            f"the {first} {movement.part} is {phrases.ADVERBS[grades[0]]} {done} "
            f"and the {second} {movement.part} {phrases.ADVERBS[grades[1]]}"
        )
    part = f"both {movement.part}s" if len(grades) == 2 else f"the {seen.whose}{movement.part}"
    if rng.random() < _NOUN_RATE:
        article = "an" if grades[0] == "extreme" else "a"
        return f"there is {article} {grades[0]} {movement.noun.format(part)}"
    return f"{part} {'are' if seen.plural else 'is'} {phrases.ADVERBS[grades[0]]} {done}"


def _interpretation(
    seen: Sequence[_Seen], typical: Sequence[_Seen], expression: Expression, rng: random.Random, *, brief: bool = False
) -> str:
    words = {"mood": rng.choice(phrases.MOODS[expression]), "label": _label(expression)}
    strongest = sorted(seen, key=lambda one: -one.intensity)
    most = 1 if brief else _MOST_TRAITS
    if expression is Expression.NEUTRAL:
        if not seen:
            return rng.choice(phrases.NEUTRAL_STILL).format(**words)
        clear = [one for one in strongest if one.intensity >= _CLEAR_FROM]
        striking = [one for one in clear if one.intensity >= _STRIKING_FROM]
        templates = phrases.NEUTRAL_CONTRARY if striking else phrases.NEUTRAL_CLEAR if clear else phrases.NEUTRAL_FAINT
        return _about(rng.choice(templates), (striking or clear or strongest)[:most], words)
    if not seen:
        return rng.choice(phrases.STILL_READINGS).format(**words)
    if not typical:
        return rng.choice(phrases.UNTYPICAL_READINGS).format(**words)
    signs = sorted(typical, key=lambda one: -one.intensity)[:most]
    contrary = [one for one in strongest if one not in typical and one.intensity >= _CLEAR_FROM][: 0 if brief else 1]
    readings: Sequence[str]
    if signs[0].intensity >= _CLEAR_FROM:
        readings = phrases.CLEAR_READINGS if len(signs) == 1 else phrases.JOINT_READINGS
    else:
        readings = phrases.OVERSHADOWED_READINGS if contrary else phrases.FAINT_READINGS
    sentences = [_about(rng.choice(readings), signs, words)]
    if contrary:
        weaker = contrary[0].intensity < signs[0].intensity
        sentences.append(_about(rng.choice(phrases.WEAKER_CONTRARY if weaker else phrases.CONTRARY), contrary, words))
    return " ".join(sentences)


def _about(template: str, seen: Sequence[_Seen], words: dict[str, str]) -> str:
    """Fill a template with the looks of the first few movements and verbs that agree with them."""
    traits = [one.trait for one in seen]
    listed = traits[0] if len(traits) == 1 else f"{', '.join(traits[:-1])} and {traits[-1]}"
    plural = len(seen) > 1 or seen[0].plural
    verbs = {verb: verb if plural else f"{verb}s" for verb in phrases.VERBS}
    verbs["do"] = "do" if plural else "does"
    return template.format(traits=listed, Traits=listed[0].upper() + listed[1:], **verbs, **words)


def _conclusion(seen: Sequence[_Seen], typical: Sequence[_Seen], expression: Expression, rng: random.Random) -> str:
    if expression is Expression.NEUTRAL:
        strongest = max((one.intensity for one in seen), default=0.0)
        clear, doubtful = strongest < _CLEAR_FROM, strongest >= _STRIKING_FROM
        forms = {"label": "neutral", "plain": "a neutral expression", "clear": "a clearly neutral expression"}
    else:
        strongest = max((one.intensity for one in typical), default=0.0)
        others = max((one.intensity for one in seen if one not in typical), default=0.0)
        clear, doubtful = strongest >= max(_CLEAR_FROM, others), not typical
        label = _label(expression)
        forms = {"label": label, "plain": f"an expression of {label}", "clear": f"a clear expression of {label}"}
    endings = phrases.CLEAR_ENDINGS if clear else phrases.WEAK_ENDINGS if doubtful else phrases.FAINT_ENDINGS
    return rng.choice(endings).format(**forms)


def _label(expression: Expression) -> str:
    return expression.value.lower()
