"""Find the phrases of a text that claim or deny action units, for highlighting."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from explllm.explanations.claims import claims
from explllm.explanations.unit_numbers import ZERO

# A colon before a verdict ("jaw drop: 0") ends no clause.
_CLAUSE_END = re.compile(rf"[.!?,;]\s+|:\s+(?!{ZERO}|(?:absent|inactive|none|not?)\b)|\s+(?:and|but|while|with)\s+|\n+")
_WORD = re.compile(r"\S+")
_ADVERB = re.compile(r"very\b|more\b|less\b|\w+ly\b")
_MODIFIERS = {"left", "right", "both", "upper", "lower", "inner", "outer", "lip", "mouth", "eye"}
_MAX_CLAUSE_WORDS = 30
"""Longer clauses are not shortened to a phrase, because the time to find it grows quadratically with the length."""


@dataclass(frozen=True)
class Mention:
    """A phrase that names action units."""

    start: int
    end: int
    """The phrase is ``text[start:end]``."""
    units: tuple[int, ...]
    """Zero-based indices of the units."""
    present: bool
    """False if the phrase denies any of the units."""


def mentions(text: str) -> list[Mention]:
    """Return the phrases of a text that claim or deny action units, in text order and without overlaps.

    A phrase is the shortest part of a clause that makes the same claims as the clause, together with modifiers directly
    before it, such as "left", "upper" or "lip".

    >>> text = "The left brow is slightly raised, and the jaw is dropped."
    >>> for mention in mentions(text):
    ...     print(text[mention.start : mention.end])
    left brow is slightly raised
    jaw is dropped

    Args:
        text: English text.
    """
    result: list[Mention] = []
    start, context = 0, ""
    for end in (*_CLAUSE_END.finditer(text), None):
        stop = len(text) if end is None else end.start()
        clause = text[start:stop]
        phrase = _phrase(clause, "") or _phrase(clause, context)
        if phrase is not None:
            first, last, units, present = phrase
            result.append(Mention(start + first, start + last, units, present))
        following = len(text) if end is None else end.end()
        # "The left brow is raised and the right brow slightly": the verb is in the preceding clause.
        is_elliptical = end is not None and not end[0].startswith((".", "!", "?", "\n"))
        context = text[start:following] if is_elliptical and phrase is not None else ""
        start = following
    return result


@lru_cache(maxsize=4096)
def _phrase(clause: str, context: str) -> tuple[int, int, tuple[int, ...], bool] | None:
    """Return the start and end of the phrase in a clause, its units, and whether it affirms all of them.

    The result is None if the clause makes no claim.

    Args:
        clause: The clause.
        context: The preceding clause if this one may lack a verb, else empty.
    """
    earlier = _claimed(context) if context else ()

    def claimed(part: str) -> tuple[tuple[int, bool], ...]:
        return tuple(claim for claim in _claimed(context + part) if claim not in earlier)

    found = claimed(clause)
    if not found:
        return None
    words = [match.span() for match in _WORD.finditer(clause)]
    first, last = 0, len(words)
    if len(words) <= _MAX_CLAUSE_WORDS:
        while last - first > 1 and claimed(clause[words[first][0] : words[last - 2][1]]) == found:
            last -= 1
        while last - first > 1 and claimed(clause[words[first + 1][0] : words[last - 1][1]]) == found:
            first += 1
    while first and clause[slice(*words[first - 1])].lower() in _MODIFIERS:
        first -= 1
    while context and last < len(words) and _ADVERB.match(clause, words[last][0]):
        last += 1
    units = tuple(dict.fromkeys(unit for unit, _ in found))
    end = words[last - 1][1]
    while end and clause[end - 1] in ".,;:!?*":
        end -= 1
    return words[first][0], end, units, all(present for _, present in found)


def _claimed(clause: str) -> tuple[tuple[int, bool], ...]:
    return tuple(dict.fromkeys((claim.unit, claim.present) for claim in claims(clause)))
