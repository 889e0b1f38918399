"""The words of a text that make its claims about action units, for highlighting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from explllm.explanations.claims import claims

_CLAUSE_END = re.compile(r"[.!?,;:]\s+|\s+(?:and|but|while|with)\s+|\n+")
_WORD = re.compile(r"\S+")
_MAX_CLAUSE_WORDS = 30
"""Longer clauses are not shortened: the time grows quadratically."""


@dataclass(frozen=True)
class Mention:
    """A phrase that names action units."""

    start: int
    end: int
    """The phrase is ``text[start:end]``."""
    units: tuple[int, ...]
    """Zero-based indices of the units."""
    present: bool
    """False if the phrase denies the movement."""


def mentions(text: str) -> list[Mention]:
    """Return the phrases of a text that claim or deny action units, in text order and without overlaps.

    A phrase is the shortest part of a clause that makes the same claims as the clause.

    >>> text = "The left brow is slightly raised, and the jaw is dropped."
    >>> for mention in mentions(text):
    ...     print(text[mention.start : mention.end])
    left brow is slightly raised
    jaw is dropped

    Args:
        text: English text.
    """
    result = []
    start = 0
    for end in (*_CLAUSE_END.finditer(text), None):
        stop = len(text) if end is None else end.start()
        for first, last, units, present in _phrases(text[start:stop]):
            result.append(Mention(start + first, start + last, units, present))
        start = stop if end is None else end.end()
    return result


@lru_cache(maxsize=4096)
def _phrases(clause: str) -> tuple[tuple[int, int, tuple[int, ...], bool], ...]:
    return tuple(_found(clause))


def _found(clause: str) -> Iterator[tuple[int, int, tuple[int, ...], bool]]:
    found = _claimed(clause)
    if not found:
        return
    words = [match.span() for match in _WORD.finditer(clause)]
    first, last = 0, len(words)
    if len(words) <= _MAX_CLAUSE_WORDS:
        while last - first > 1 and _claimed(clause[words[first][0] : words[last - 2][1]]) == found:
            last -= 1
        while last - first > 1 and _claimed(clause[words[first + 1][0] : words[last - 1][1]]) == found:
            first += 1
    units = tuple(dict.fromkeys(unit for unit, _ in found))
    end = words[last - 1][1]
    while end and clause[end - 1] in ".,;:!?*":
        end -= 1
    yield words[first][0], end, units, all(present for _, present in found)


def _claimed(clause: str) -> tuple[tuple[int, bool], ...]:
    return tuple(dict.fromkeys((claim.unit, claim.present) for claim in claims(clause)))
