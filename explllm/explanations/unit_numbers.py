"""Read FACS numbers in text: which units a text lists, and which of them it denies.

A verdict, such as "active", "no" or a score, belongs to a clause. Clauses end at commas and at "and"; a clause that
only names units shares the verdict of its list::

    AU6 and AU14 are active, AU15 is not.     6 and 14, not 15
    AU6, AU12 and AU14 are not active.        none
    No AU4, AU9 or AU15, but AU12 (0.7).      12
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NUMBER = r"\d+(?!\d|\.\d|\s?%|\s+(?:others?|more|of|out)\b)"
# "au 6" is French.
_UNIT = r"(?<![A-Za-z0-9])(?:AU|[Aa]u(?=\d)|[Aa]ction\s[Uu]nit)"
_JOINED = rf"{_UNIT}[\s:#_-]*{_NUMBER}(?:[A-Za-z]?\s?[+/&]\s?{_NUMBER})*"
_LISTED = rf"{_UNIT}(?:\(?s\b\)?(?:\sare\b)?:?|:)\s*{_NUMBER}(?:(?:\s*(?:[,+/&]|and\b|or\b))+\s*{_NUMBER})*"
_UNITS = re.compile(f"{_LISTED}|{_JOINED}")
_UNIT_NUMBER = re.compile(r"(?<![A-Za-z0-9])AU(\d+)(?!\d|\.\d)")

_SENTENCE = re.compile(r"(?<=[.!?\n])\s+|\n|;|\b(?:but|while|whereas|although|though|however)\b", re.IGNORECASE)
_CLAUSE = re.compile(r",|\band\b", re.IGNORECASE)
ZERO = r"(?<![\w.])0(?:\.0+)?(?!\.?\d|\s*(?:-|–|to)\s*\d)"
"""The scores 0 and 0.0, which are denials; 0.7, 10 and "0 to 5" are not."""
_DENIAL = re.compile(
    r"\bnot?\b(?!\s+(?:only|doubt)\b)|n['’]t\b|\b(?:none|never|without|absent|absence|inactive|neither|nor|zero|false)\b"
    rf"|\black(?:s|ing)?\b|{ZERO}",
    re.IGNORECASE,
)
_DENIAL_ALONE = re.compile(r"\W*(?:(?:is|are|both|all)\s+)*(?:not(?:\s+\w+)?|absent|inactive)\W*", re.IGNORECASE)
_DENIED_UNIT = re.compile(
    r"\b(?:(?:not?|nor)(?:\s+(?:any|an?|the|signs?|evidence|of))*|without(?:\s+\(?\w+){0,4}?)\s+\(?AU\d", re.IGNORECASE
)
_INTRODUCTION = re.compile(
    r"\b(?:active|activated|present|visible|detected|observed|shows?|showing|displays?|see)\b", re.IGNORECASE
)
_AFFIRMATION = re.compile(
    rf"{_INTRODUCTION.pattern}|\b(?:is|are|was|were|yes|true|seen)\b|(?<![\w.])(?:\d*\.)?\d", re.IGNORECASE
)
# "None of AU1, AU2 and AU4 are active", "no AU1, AU2 or AU4 is seen": the later verdict belongs to the denial.
_WHOLE_LIST = re.compile(r"\b(?:none|neither)\b", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\bn?or\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Clause:
    """A part of a sentence with at most one verdict."""

    text: str
    numbers: tuple[int, ...]
    active: bool | None
    """The verdict; None for a clause without one."""
    leads: bool
    """Whether the verdict comes before the units; it then applies to the clauses that follow, too."""


def named_units(text: str) -> set[int]:
    """Return the FACS numbers that a text names, whether denied or not.

    >>> sorted(named_units("AU06+12, AU 4; action units 1, 2 and 25"))
    [1, 2, 4, 6, 12, 25]
    """
    return {int(number) for number in _UNIT_NUMBER.findall(_with_single_units(text))}


def stated_units(text: str) -> dict[int, bool]:
    """Return, for each FACS number that a text names, whether the text says that the unit is active.

    >>> stated_units("AU6 and AU14 are active, AU15 is not.")
    {6: True, 14: True, 15: False}

    Args:
        text: English text.

    Returns:
        True or False by FACS number; False for a unit that is denied wherever it is named. A score of 0 counts as a
        denial.
    """
    stated: dict[int, bool] = {}
    header: bool | None = None
    for sentence in _SENTENCE.split(_with_single_units(text)):
        clauses = [part for clause in _CLAUSE.split(sentence) for part in _clauses(clause)]
        if any(clause.numbers for clause in clauses):
            for number, active in _verdicts(clauses, header):
                stated[number] = stated.get(number, False) or active
        elif re.search(r"[A-Za-z]", sentence):
            # "Not active:" above a list.
            header = _clause(sentence).active if sentence.rstrip(" *_").endswith(":") else None
    return stated


def _with_single_units(text: str) -> str:
    """Write each unit with its own prefix: "AUs 6, 12 and 14" becomes "AU6 AU12 AU14"."""
    return _UNITS.sub(lambda match: " ".join(f"AU{int(number)}" for number in re.findall(r"\d+", match[0])), text)


def _clauses(text: str) -> Iterator[_Clause]:
    """Yield the parts of a clause. A denied unit after other units starts a new part: "AU12 without AU6"."""
    start = 0
    for denial in _DENIED_UNIT.finditer(text):
        if _UNIT_NUMBER.search(text, start, denial.start()):
            yield _clause(text[start : denial.start()])
            start = denial.start()
    yield _clause(text[start:])


def _clause(text: str) -> _Clause:
    units = list(_UNIT_NUMBER.finditer(text))
    start = units[0].start() if units else len(text)
    denial = _DENIAL.search(text) if units or text.rstrip(" *_").endswith(":") else _DENIAL_ALONE.fullmatch(text)
    introduction = _INTRODUCTION.search(text, 0, start)
    active = False if denial else True if introduction or _AFFIRMATION.search(text, start) else None
    leads = denial.start() < start if denial else introduction is not None
    return _Clause(text, tuple(int(unit[1]) for unit in units), active, leads)


def _verdicts(clauses: list[_Clause], header: bool | None) -> Iterator[tuple[int, bool]]:
    """Yield each number of a sentence with its verdict; units without a verdict count as active."""
    head, waiting, whole_list, alternative = header, list[int](), False, False
    for clause in clauses:
        alternative = alternative or bool(_ALTERNATIVE.search(clause.text))
        if clause.leads and clause.numbers:
            yield from ((number, head is not False) for number in waiting)
            yield from ((number, bool(clause.active)) for number in clause.numbers)
            head, waiting = clause.active, []
            whole_list, alternative = bool(_WHOLE_LIST.search(clause.text)), False
        elif clause.active is None:
            waiting += clause.numbers
        else:
            # "No AU4, AU9 or AU15 is active" denies all three.
            active = clause.active and not (head is False and (whole_list or alternative))
            yield from ((number, active or head is True) for number in waiting)
            yield from ((number, active) for number in clause.numbers)
            waiting = []
    yield from ((number, head is not False) for number in waiting)
