"""Binding: find the parts of the face that a movement in a sentence belongs to."""

from __future__ import annotations

from explllm.explanations import movements
from explllm.explanations.tagging import TaggedSentence

# Tags allowed between a part and its movement: after the part ("brows are slightly raised") and before it ("raised
# left brow").
AFTER_PART = frozenset(("copula", "adverb", "grade", "motion", "filler", "not", "no"))
BEFORE_PART = frozenset(("adverb", "grade", "side", "filler", "motion", "action"))
_AROUND_OF = BEFORE_PART | {"of", "and", "copula", "seen"}
_CLAUSE_START = frozenset(("filler", "copula", "adverb", "grade", "action", "motion", "and", "no", "not"))
# Ambiguous words that count as a movement only next to their part.
_NEEDS_ADJACENT_PART = frozenset(("tense", "together", "movement", "out", "in"))
_MAX_DISTANCE = 8


def _fits(words: TaggedSentence, part: int, action: int) -> bool:
    value = words.values[action].removeprefix("not ")
    return any((name, value) in movements.MEANINGS for name in words.values[part].split("+"))


def parts_of(words: TaggedSentence, action: int) -> list[int]:
    """Return the parts of the face that a movement belongs to.

    The grammatical constructions are tried from the most to the least specific.

    Args:
        words: The sentence.
        action: Position of the movement.

    Returns:
        Positions of the parts, in order; empty if no nearby part can make this movement.
    """
    beside = action - 1 if words.kind(action - 1) == "part" else -1
    if beside >= 0 and _fits(words, beside, action):  # "brow raise"
        return _joined_before(words, beside, action)
    part = _part_after_of(words, action)
    if part >= 0 and _fits(words, part, action):  # "elevation of the brows"
        return _joined_after(words, part, action)
    position = action - 1
    while words.kind(position) in AFTER_PART or (
        words.kind(position) == "of" and words.kind(position - 1) in ("filler", "grade")
    ):
        position -= 1
    if words.kind(position) == "part" and _fits(words, position, action):  # "brows are slightly raised"
        return _joined_before(words, position, action)
    ahead = action + 1
    while words.kind(ahead) in BEFORE_PART or (
        words.kind(ahead) in ("and", "comma")
        and words.kind(words.skip(ahead + 1, ("adverb", "grade", "and"))) == "action"
    ):
        ahead += 1
    if words.kind(ahead) == "part" and _fits(words, ahead, action):  # "raised brows", "raised and furrowed brows"
        return _joined_after(words, ahead, action)
    if words.kind(ahead) == "part":
        return []  # no unit for this part ("brow raise and raised cheeks")
    position = words.skip(action - 1, AFTER_PART | {"and", "action"}, -1)
    if words.kind(position) == "part" and words.kind(position + 1) != "and" and _fits(words, position, action):
        return _joined_before(words, position, action)  # "brows are raised and furrowed"
    if beside >= 0 or words.values[action] in _NEEDS_ADJACENT_PART:
        return []  # no unit for this part ("cheek raise"), or another meaning ("the tension of the moment")
    return _distant_parts(words, action)


def _part_after_of(words: TaggedSentence, action: int) -> int:
    position, of = action + 1, False
    while words.kind(position) in _AROUND_OF and not (of and words.kind(position) in ("action", "and")):
        of = of or words.kind(position) == "of"
        position += 1
    return position if of and words.kind(position) == "part" else -1


def _distant_parts(words: TaggedSentence, action: int) -> list[int]:
    """Search the clause of a movement for parts, and also the preceding clauses if the movement starts its clause."""
    for position in range(action - 1, max(action - 1 - _MAX_DISTANCE, -1), -1):
        if words.kinds[position] in ("break", "report", "comma"):
            break
        if words.kinds[position] == "part":
            # Two unknown words in between probably include another verb.
            if _fits(words, position, action) and words.kinds[position:action].count("word") < 2:
                return _joined_before(words, position, action)
            break
    for position in range(action + 1, action + 1 + _MAX_DISTANCE // 2):
        if words.kind(position) in ("report", "copula", "end") or (
            words.kind(position) == "break" and words.value(position) != "with"
        ):
            break
        if words.kinds[position] == "part":
            if _fits(words, position, action):
                return [position]
            break
    start = action
    while words.kind(start - 1) in _CLAUSE_START:
        start -= 1
    if words.kind(start - 1) in ("comma", "break", "end"):
        for position in range(start - 1, -1, -1):
            if words.kinds[position] == "part" and _fits(words, position, action):
                return _joined_before(words, position, action)
    return []


def _joined_before(words: TaggedSentence, part: int, action: int) -> list[int]:
    """Return a part and those coordinated before it: "the brows and the upper eyelids are raised"."""
    parts, position, joined = [part], part - 1, False
    while True:
        kind = words.kind(position)
        if kind == "and" or words.value(position) == "nor":
            joined = True
        elif kind == "part" and joined and words.kind(position + 1) in ("and", "comma", "no"):
            # A part preceded by another movement ends the list.
            if words.kind(words.skip(position - 1, ("filler", "side", "adverb", "grade"), -1)) in ("of", "action"):
                break
            if _fits(words, position, action):
                parts.append(position)
        elif kind not in ("filler", "side", "adverb") and not (kind == "comma" and joined):
            break
        position -= 1
    return parts[::-1]


def _joined_after(words: TaggedSentence, part: int, action: int) -> list[int]:
    """Return a part and those coordinated after it: "elevation of the brows and the eyelids"."""
    parts, position, joined = [part], part + 1, False
    while True:
        kind = words.kind(position)
        if kind == "and" or words.value(position) == "nor":
            if words.kind(position - 1) not in ("part", "comma"):
                break
            joined = True
        elif kind == "comma":
            if words.kind(position + 1) not in ("part", "and"):
                break
        elif kind == "part" and joined:
            # A part followed by another movement ends the list.
            if words.kind(words.skip(position + 1, ("copula", "adverb", "grade", "filler", "motion"))) == "action":
                break
            if _fits(words, position, action):
                parts.append(position)
            joined = False
        elif kind not in ("filler", "side", "adverb", "of") or words.value(position) == "relaxed":
            break  # "raised lip corners and a relaxed brow"
        position += 1
    return parts
