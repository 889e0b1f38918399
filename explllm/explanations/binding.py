"""Which parts of the face a movement in a sentence belongs to."""

from __future__ import annotations

from explllm.explanations import movements
from explllm.explanations.tagging import TaggedSentence

# What may stand between a part and its movement in "brows are slightly raised", and between them in "raised left brow".
AFTER_PART = frozenset(("copula", "adverb", "grade", "motion", "filler", "not", "no"))
BEFORE_PART = frozenset(("adverb", "grade", "side", "filler", "motion", "action"))
_AROUND_OF = BEFORE_PART | {"of", "and", "copula", "seen"}
_CLAUSE_START = frozenset(("filler", "copula", "adverb", "grade", "action", "motion", "and", "no", "not"))
# Words that mean other things too, and a movement only beside their part.
_SPEAK_OF_NEIGHBOURS = frozenset(("tense", "together", "movement", "out", "in"))
_FARTHEST_PART = 8


def _fits(words: TaggedSentence, part: int, action: int) -> bool:
    value = words.values[action].removeprefix("not ")
    return any((name, value) in movements.MEANINGS for name in words.values[part].split("+"))


def parts_of(words: TaggedSentence, action: int) -> list[int]:
    """Return the parts of the face that a movement belongs to: the nearest in the likeliest construction.

    Args:
        words: The sentence.
        action: The place of the movement in it.

    Returns:
        The places of the parts, in order; none if no part near it can make this movement.
    """
    beside = action - 1 if words.kind(action - 1) == "part" else -1
    if beside >= 0 and _fits(words, beside, action):  # "brow raise"
        return _joined_before(words, beside, action)
    part = _part_after_of(words, action)
    if part >= 0 and _fits(words, part, action):  # "elevation of the brows"
        return _joined_after(words, part, action)
    place = action - 1
    while words.kind(place) in AFTER_PART or (
        words.kind(place) == "of" and words.kind(place - 1) in ("filler", "grade")
    ):
        place -= 1
    if words.kind(place) == "part" and _fits(words, place, action):  # "brows are slightly raised"
        return _joined_before(words, place, action)
    ahead = action + 1
    while words.kind(ahead) in BEFORE_PART or (
        words.kind(ahead) in ("and", "comma")
        and words.kind(words.skip(ahead + 1, ("adverb", "grade", "and"))) == "action"
    ):
        ahead += 1
    if words.kind(ahead) == "part" and _fits(words, ahead, action):  # "raised brows", "raised and furrowed brows"
        return _joined_after(words, ahead, action)
    place = words.skip(action - 1, AFTER_PART | {"and", "action"}, -1)
    if words.kind(place) == "part" and words.kind(place + 1) != "and" and _fits(words, place, action):
        return _joined_before(words, place, action)  # "brows are raised and furrowed"
    if words.kind(ahead) == "part" or beside >= 0 or words.values[action] in _SPEAK_OF_NEIGHBOURS:
        return []  # the movement of a part that has no such unit, "raised cheeks", or "the tension of the moment"
    return _distant_parts(words, action)


def _part_after_of(words: TaggedSentence, action: int) -> int:
    place, of = action + 1, False
    while words.kind(place) in _AROUND_OF and not (of and words.kind(place) in ("action", "and")):
        of = of or words.kind(place) == "of"
        place += 1
    return place if of and words.kind(place) == "part" else -1


def _distant_parts(words: TaggedSentence, action: int) -> list[int]:
    """Look in the same clause and, for a clause that names no part, back through the sentence."""
    for place in range(action - 1, max(action - 1 - _FARTHEST_PART, -1), -1):
        if words.kinds[place] in ("break", "report", "comma"):
            break
        if words.kinds[place] == "part":
            # Two unknown words between them are likely to hold another verb.
            if _fits(words, place, action) and words.kinds[place:action].count("word") < 2:
                return _joined_before(words, place, action)
            break
    for place in range(action + 1, action + 1 + _FARTHEST_PART // 2):
        if words.kind(place) in ("report", "copula", "end") or (
            words.kind(place) == "break" and words.value(place) != "with"
        ):
            break
        if words.kinds[place] == "part":
            if _fits(words, place, action):
                return [place]
            break
    start = action
    while words.kind(start - 1) in _CLAUSE_START:
        start -= 1
    if words.kind(start - 1) in ("comma", "break", "end"):
        for place in range(start - 1, -1, -1):
            if words.kinds[place] == "part" and _fits(words, place, action):
                return _joined_before(words, place, action)
    return []


def _joined_before(words: TaggedSentence, part: int, action: int) -> list[int]:
    """Return a part with those joined to it in front: "the brows and the upper eyelids are raised"."""
    parts, place, joined = [part], part - 1, False
    while True:
        kind = words.kind(place)
        if kind == "and" or words.value(place) == "nor":
            joined = True
        elif kind == "part" and joined and words.kind(place + 1) in ("and", "comma", "no"):
            # A part with a movement of its own in front of it ends the list.
            if words.kind(words.skip(place - 1, ("filler", "side", "adverb", "grade"), -1)) in ("of", "action"):
                break
            if _fits(words, place, action):
                parts.append(place)
        elif kind not in ("filler", "side", "adverb") and not (kind == "comma" and joined):
            break
        place -= 1
    return parts[::-1]


def _joined_after(words: TaggedSentence, part: int, action: int) -> list[int]:
    """Return a part with those joined to it behind: "elevation of the brows and the eyelids"."""
    parts, place, joined = [part], part + 1, False
    while True:
        kind = words.kind(place)
        if kind == "and" or words.value(place) == "nor":
            if words.kind(place - 1) not in ("part", "comma"):
                break
            joined = True
        elif kind == "comma":
            if words.kind(place + 1) not in ("part", "and"):
                break
        elif kind == "part" and joined:
            # A part with a movement of its own behind it ends the list.
            if words.kind(words.skip(place + 1, ("copula", "adverb", "grade", "filler", "motion"))) == "action":
                break
            if _fits(words, place, action):
                parts.append(place)
            joined = False
        elif kind not in ("filler", "side", "adverb", "of") or words.value(place) == "relaxed":
            break  # "raised lip corners and a relaxed brow"
        place += 1
    return parts
