"""Extract claims about the 24 action units from text: presence or denial, intensity, and side.

The reader is rule-based. It tags the words of each sentence, binds every movement to a part of the face, and looks for
the side, the intensity and a negation nearby. It does not parse the full grammar, so some sentences are misread.
The agreement of the claims with measured intensities on real texts shows how often this happens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.action_units import FEAFA, NAMES
from explllm.explanations import lexicon, movements
from explllm.explanations.binding import AFTER_PART, BEFORE_PART, parts_of
from explllm.explanations.tagging import tagged


@dataclass(frozen=True)
class Claim:
    """One statement of a text about one action unit."""

    unit: int
    """Zero-based index of the unit in `FEAFA`."""
    present: bool
    """False if the text denies the movement."""
    intensity: str | None
    """The intensity word that the text states or implies ("half" for "hooded"); None if there is no such word or the
    text denies the movement."""
    low: float | None
    """Lower bound of the intensity; 0 for a hedge such as "minimal", which is compatible with absence; None without an
    intensity word."""
    high: float | None
    """Upper bound of the intensity; None without an intensity word."""
    sentence: str
    """The sentence that makes the claim."""
    alternatives: tuple[int, ...] = ()
    """Units that would also support the claim, such as the other side for "one brow" or "a smile"."""


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)*\]]*\s+|\n+")
_QUESTION = re.compile(r"\?[\"'”’)*\]\s]*$")
# Quoted phrases of up to three words are part of the sentence (a “smile”), unless the text uses them as a name or
# defines them (the term “smile”).
_QUOTED = r"[\"“][^\"“”\n]{1,400}[\"”]"
_NAMING = (
    r"(?:says?|said|saying|reads?|reading|(?:re)?nam(?:e|ed)|(?:en)?titled?|labell?(?:ed)?|tag(?:ged)?|mark(?:ed)"
    r"|captions?|captioned"
    r"|term|word|phrase|name|file|sentence|entry|category|column|by)s?"
)
_QUOTATION = re.compile(
    r"[\"“](?=(?:[^\"“”\n]*?\s){3})[^\"“”\n]{1,400}[\"”]"
    rf"|\b{_NAMING},? (?:is |of |like )?{_QUOTED}"
    rf"|{_QUOTED}(?= (?:is what|means|refers|denotes|stands for|is (?:defined|(?:the|an?) (?:\w+ )?(?:term|word"
    rf"|label|phrase|name))))",
    re.IGNORECASE,
)
_OTHERS_STILL = re.compile(
    r"\b(?:other|remaining|rest of)\b[^.;]{0,40}?\b(?:units?|movements?|muscles?|aus?|features?|parts?)\b[^.;]{0,30}?"
    r"\b(?:0|zero|inactive|absent|neutral|unchanged|at rest|still|not active)\b"
)
# The head above a list of absent units, such as "**Inactive units:**", and an item of a list.
_HEAD = re.compile(r":[*_\s]*$")
_ABSENCE = re.compile(r"\b(?:absent|inactive|not|no|none|zero|0)\b", re.IGNORECASE)
_ITEM = re.compile(r"\s*[-*•–]\s")
# Longer sentences, which do not occur in real texts, are read in pieces: reading time grows quadratically with length.
_MAX_SENTENCE_WORDS = 200
_STRESSES = frozenset(("especially", "particularly", "notably", "predominantly", "primarily", "mainly", "chiefly"))
_HALFWAY = frozenset(("partially", "partly", "half", "partial"))


def claims(text: str) -> list[Claim]:
    """Return the claims of a text about action units, in text order.

    A text may claim a unit several times. "Left" means the person's left. A part without a side, or in the plural,
    refers to both sides. "A smile" and "one brow" also yield claims about both sides, each with the other side as an
    alternative.

    Args:
        text: English text. Titles, Markdown, questions and quotations of more than three words are ignored.

    Returns:
        One claim per unit and mention.
    """
    result: list[Claim] = []
    head, below_head = "", False
    for sentence in _SENTENCE_END.split(_QUOTATION.sub(_mask, text)):
        if _QUESTION.search(sentence):
            continue
        if _HEAD.search(sentence):
            absent = _ABSENCE.search(sentence) and not tagged(sentence).says_something
            head, below_head = (sentence if absent else ""), True
        else:
            head, below_head = (head if below_head or _ITEM.match(sentence) else ""), False
        words = sentence.split()
        for start in range(0, len(words), _MAX_SENTENCE_WORDS):
            piece = (
                sentence if len(words) <= _MAX_SENTENCE_WORDS else " ".join(words[start : start + _MAX_SENTENCE_WORDS])
            )
            result += _Reader(piece, result, head).claims()
    return result


def _mask(quotation: re.Match[str]) -> str:
    return "?" if "?" in quotation[0] else ","


def _units(kind: str, sides: set[str]) -> list[int]:
    """Return the units of a kind, such as "Brow Raise", on the given sides, or on both sides if none are given."""
    if kind in NAMES:
        return [NAMES.index(kind)]
    sided = [side for side in ("Left", "Right") if not sides or side.lower() in sides]
    return [NAMES.index(f"{kind} {side}" if kind == "Jaw Slide" else f"{side} {kind}") for side in sided]


class _Reader:
    """Reads one sentence, or one item of a list below a head."""

    def __init__(self, sentence: str, before: Sequence[Claim], head: str = "") -> None:
        self.sentence = sentence.strip()
        self.before = before
        self.words = tagged(f"{head} {sentence}" if head else sentence)
        self.claimed: list[Claim] = []
        self.positions: list[int] = []
        self.position = 0
        self.read_parts: set[int] = set()
        self.read_sides: set[int] = set()
        self.last_action = -1

    def claims(self) -> list[Claim]:
        words = self.words
        if not words.says_something:
            return []
        for position, kind in enumerate(words.kinds):
            if words.skipped[position]:
                continue
            self.position = position
            if kind == "action" or (kind == "motion" and not words.denied[position]):
                self._read_movement(position)
            elif kind in ("still", "absent", "motion") and not words.reversed[position]:
                self._read_stillness(position)
        for position in range(len(words.kinds)):
            if not words.skipped[position]:
                self.position = position
                self._read_repetition(position)
        if _OTHERS_STILL.search(self.sentence.lower()):
            named = {claim.unit for claim in (*self.before, *self.claimed)}
            for unit in range(len(FEAFA)):
                if unit not in named:
                    self._add(unit, present=False)
        return self.claimed

    def _add(
        self, unit: int, *, present: bool, grade: int | str | None = None, alternatives: Sequence[int] = ()
    ) -> None:
        """Add a claim; `grade` is an intensity word or its position in the sentence."""
        word = self.words.values[grade] if isinstance(grade, int) else grade
        low: float | None = None
        high: float | None = None
        if not present:
            word = None
        elif word is not None:
            low, high = lexicon.GRADES[word]
            if isinstance(grade, int) and grade in self.words.weakened:
                word, low, high = f"not {word}", 0.0, low
        self.claimed.append(Claim(unit, present, word, low, high, self.sentence, tuple(alternatives)))
        self.positions.append(self.position)

    # Movements and their parts ---------------------------------------------------------------------------------------

    def _read_movement(self, action: int) -> None:
        parts = parts_of(self.words, action)
        own = movements.OWN_PART.get(self.words.values[action])
        if self.words.values[action] == "movement":
            parts = [part for part in parts if part not in self.read_parts]  # "lateral jaw movement"
            follow = self.words.skip(action + 1, ("copula", "adverb", "grade"))
            if self.words.kind(follow) in ("still", "absent"):
                return  # "jaw movement is nearly inactive"
        for part in parts:
            self.read_parts.add(part)
            sides = self._sides_of(part, action)
            for name in self.words.values[part].split("+"):
                if name == "lip" and self.words.kind(part + 1) == "motion":
                    name = "lips"  # "upward lip movement"
                self._claim(name, action, sides)
        if not parts and own is not None:
            sides = self._sides_after(action + 1) or self._sides_before(action)
            self._claim(own, action, sides or self._side_claimed(own), certain_of_side=False)
        if self.words.kinds[action] == "action":
            self.last_action = action

    def _claim(self, part: str, action: int, sides: set[str], *, certain_of_side: bool = True) -> None:
        value = self.words.values[action]
        if part == "lip" and sides:
            part = "lips"  # "the right lip" is the lips' right half
        meaning = movements.MEANINGS.get((part, value.removeprefix("not ")))
        if meaning is None:
            return
        kinds, present = meaning
        grade: int | str | None = self._grade(action)
        if value in movements.OWN_GRADES:
            grade = movements.OWN_GRADES[value]
        word = self.words.values[grade] if isinstance(grade, int) else grade
        if (part, value) == ("eye", "open") and word in _HALFWAY:
            present = True  # half-open eyes are half closed
        # Two negations cancel out: "not unfurrowed".
        present = present and self.words.denied[action] == value.startswith("not ")
        present = present != self.words.reversed[action]
        if "Jaw Slide" in kinds:
            sides = {value.removeprefix("side ")} if value.startswith("side ") else sides or self._side_near(action)
            certain_of_side = bool(sides)
        one = "one" in sides or not certain_of_side
        others = movements.ALTERNATIVES.get((part, value), ()) + (kinds if len(kinds) > 1 else ())
        for kind in kinds:
            units = _units(kind, sides - {"one"})
            for unit in units:
                alternatives = {other for name in others for other in _units(name, set())}
                if one and len(units) > 1:
                    alternatives.add(FEAFA[unit].mirror)
                self._add(unit, present=present, grade=grade, alternatives=sorted(alternatives - {unit}))

    # Sides -----------------------------------------------------------------------------------------------------------

    def _sides_of(self, part: int, action: int) -> set[str]:
        if part in self.words.stands_for:
            return {self.words.stands_for[part]}
        return self._sides_before(part) or self._sides_after(max(part, action) + 1) or self._sides_after(part + 1)

    def _sides_before(self, part: int) -> set[str]:
        """Return the sides named before a part: "left", "left and right", "the left side of the"."""
        words = self.words
        sides: set[str] = set()
        position = part - 1
        while True:
            kind = words.kind(position)
            if kind == "side":
                sides.add(words.values[position])
                self.read_sides.add(position)
            elif kind == "and":
                if not sides or words.kind(words.skip(position - 1, ("filler",), -1)) != "side":
                    return sides
            elif kind == "of":
                if not (
                    words.value(position) == "of"
                    and words.kind(position - 1) == "filler"
                    and words.kind(position - 2) == "side"
                ):
                    return sides
            elif kind not in ("filler", "adverb", "grade", "action", "motion"):
                return sides
            position -= 1

    def _sides_after(self, position: int) -> set[str]:
        """Return the sides named by "on the left" or "(left)" at a position."""
        words = self.words
        if words.kind(position) == "of":
            position = words.skip(position + 1, ("filler",))
        elif words.value(position) == "(":
            position += 1
        else:
            return set()
        if (
            words.kind(position) != "side"
            or words.value(position) == "one"
            or words.kind(position + 1) in ("part", "action")
        ):
            return set()
        positions = [position]
        if words.kind(position + 1) == "and" and words.kind(position + 2) == "side":
            positions.append(position + 2)
        self.read_sides.update(positions)
        return {words.values[side] for side in positions}

    def _side_claimed(self, part: str) -> set[str]:
        """Return the only side in earlier claims about a part if the sentence contains "only" or "just".

        Example: "only the left lip corner rises, in a smirk".
        """
        if {"only", "just"}.isdisjoint(self.words.values):
            return set()
        kinds = movements.PART_UNITS.get(part, ())
        names = [NAMES[claim.unit] for claim in self.claimed if claim.present]
        sides = {name.split()[0].lower() for name in names if name.partition(" ")[2] in kinds}
        return sides if len(sides) == 1 else set()

    def _side_near(self, action: int) -> set[str]:
        """Return the side in "the jaw slides left": the nearest side that does not belong to another part."""
        words = self.words
        for reach in range(1, 6):
            for position in (action + reach, action - reach):
                side = words.kind(position) == "side" and words.values[position] != "one"
                if side and words.kind(words.skip(position + 1, BEFORE_PART)) != "part":
                    self.read_sides.add(position)
                    return {words.values[position]}
        return set()

    # Intensities -----------------------------------------------------------------------------------------------------

    def _grade(self, action: int) -> int | None:
        """Return the position of the intensity word before or after a movement; None if there is no such word."""
        words = self.words
        position = action - 1
        for _ in range(7):
            kind = words.kind(position)
            if kind == "grade":
                return position
            if kind == "of":
                if words.kind(position - 1) not in ("filler", "grade"):
                    break
            elif kind not in BEFORE_PART and (kind != "part" or words.kind(position - 1) == "part"):
                break
            position -= 1
        position = words.skip(action + 1, ("filler", "of", "side", "motion", "part"))
        for _ in range(6):
            kind = words.kind(position)
            if kind == "grade":
                # A grade followed by another part or movement belongs to that part or movement.
                following = words.skip(position + 1, ("adverb", "filler", "side", "motion", "grade"))
                # An adverb before a verb belongs to the verb: "clearly point to".
                own = words.kind(following) not in ("part", "action") and words.kind(position + 1) != "report"
                if words.value(position - 1) in (":", ";"):  # "jaw drop: slight"
                    own = words.kind(position + 1) in ("comma", "break", "end")
                return position if own else None
            if kind not in ("copula", "adverb", "filler", "of", "without effect") and words.value(position) not in (
                "with",
                *("(", ":", ";"),
                "to",
                "so",
            ):
                return None
            position += 1
        return None

    # Statements without a movement word -------------------------------------------------------------------------------

    def _read_stillness(self, position: int) -> None:
        """Deny all units of a part that "remains neutral" or shows "no movement"."""
        words = self.words
        part = words.skip(position - 1, AFTER_PART, -1)
        if words.value(part) == ":":
            part -= 1  # "Right brow: neutral."
        if words.kind(part) != "part":
            part = words.skip(position + 1, ("side", "filler", "motion", "of", "copula", "grade", "seen"))
        elif words.kinds[position] != "motion" and words.kind(position + 1) == "action":
            return  # "is still raised"
        if words.kind(part) != "part" or part in self.read_parts:
            return
        self.read_parts.add(part)
        stands_for = words.stands_for.get(part)  # "while the left remains neutral"
        sides = {stands_for} if stands_for else self._sides_before(part) - {"one"}
        for name in words.values[part].split("+"):
            for kind in movements.PART_UNITS.get(name, ()):
                for unit in _units(kind, sides):
                    self._add(unit, present=False)

    def _read_repetition(self, position: int) -> None:
        """Repeat the last movement for "the right brow mirrors this", "particularly the right", "the brows too"."""
        words = self.words
        kind = words.kind(position)
        part = ""
        if kind == "part" and position not in self.read_parts:
            sides, part = self._sides_of(position, position), words.values[position]
        elif (
            kind == "side" and position not in self.read_sides and words.value(position - 2) not in lexicon.COMPARISONS
        ):
            sides = {words.values[position]}
        else:
            return
        follow = words.skip(position + 1, ("adverb", "filler", "copula", "without effect"))
        grade = follow if words.kind(follow) == "grade" else None
        mirrored = any(words.kind(near) == "mirror" for near in range(position - 7, position + 7))
        stressed = any(words.value(near) in _STRESSES for near in range(position - 5, position)) or "more" in (
            words.value(position + 1),
            words.value(follow),
            words.value(follow + 1),
        )
        alone = grade is not None and words.kind(grade + 1) in ("end", "comma", "break", "and", "report")
        if (
            part
            and words.value(position + 1) in ("too", "as well", "likewise", "follow", "follows")
            and self.last_action >= 0
        ):
            for name in part.split("+"):
                self._claim(name, self.last_action, sides)
        elif len(sides) == 1 and "one" not in sides and (mirrored or alone or stressed):
            last = self._last_sided(part)
            if last is not None:
                unit = last.unit if FEAFA[last.unit].side in sides else FEAFA[last.unit].mirror
                self._add(unit, present=last.present, grade=grade)

    def _last_sided(self, part: str) -> Claim | None:
        """Return the latest earlier claim about a left or right unit, or else the first later one.

        If `part` is not empty, only claims about this part of the face count.
        """
        kinds = movements.PART_UNITS.get(part)
        placed = sorted(zip(self.positions, self.claimed, strict=True), key=lambda pair: pair[0])
        earlier = [claim for position, claim in placed if position < self.position]
        for claim in (*reversed(earlier), *reversed(self.before[-2:]), *self.claimed):
            name = NAMES[claim.unit]
            if FEAFA[claim.unit].side and "Slide" not in name and (kinds is None or name.split(" ", 1)[1] in kinds):
                return claim
        return None
