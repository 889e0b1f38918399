"""What a text claims of the 24 action units: which are present or denied, how strongly, and on which side.

A shallow reader: it tags the words of each sentence with the lexicon, joins every movement to the part of the face that
it belongs to, and looks for the side, the intensity and a denial around it. It parses no grammar, so a text may be
misread; how often, the agreement on a corpus whose intensities are known tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.action_units import FEAFA, NAMES
from explllm.explanations import lexicon, movements
from explllm.explanations.binding import AFTER_PART, BEFORE_PART, parts_of
from explllm.explanations.tagging import TaggedSentence


@dataclass(frozen=True)
class Claim:
    """What a text says of one action unit in one place."""

    unit: int
    """The unit's place (from 0) in `FEAFA`."""
    present: bool
    """False where the text denies the movement."""
    intensity: str | None
    """The word for the intensity, as found; None without one, and for a denial."""
    low: float | None
    """The least intensity that the word means; 0 for a hedge such as "minimal", which absence would fit too."""
    high: float | None
    """The greatest intensity that the word means."""
    sentence: str
    """The sentence that makes the claim."""
    alternatives: tuple[int, ...] = ()
    """Units that would bear the claim out as well, such as the other side's for "one brow" or "a smile"."""


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)*\]]*\s+|\n+")
_OTHERS_STILL = re.compile(
    r"\b(?:other|remaining|rest of)\b[^.;]{0,40}?\b(?:units?|movements?|muscles?|aus?|features?|parts?)\b[^.;]{0,30}?"
    r"\b(?:0|zero|inactive|absent|neutral|unchanged|at rest|still|not active)\b"
)
# No sentence of a person or a sound model is longer; the time to read one grows with its square.
_LONGEST_SENTENCE = 200
_STRESSES = frozenset(("especially", "particularly", "notably", "predominantly", "primarily", "mainly", "chiefly"))
_HALFWAY = frozenset(("partially", "partly", "half", "partial"))


def claims(text: str) -> list[Claim]:
    """Return what a text claims of the action units, in the order of the text.

    A text may claim a unit several times. "Left" is the person's own left. A part without a side, or in the plural,
    stands for both sides; "a smile" and "one brow" do so too, with the other side as the alternative.

    Args:
        text: Any text in English; titles and bold type do no harm.

    Returns:
        One claim for each unit and place.
    """
    found: list[Claim] = []
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        for start in range(0, len(words), _LONGEST_SENTENCE):
            piece = sentence if len(words) <= _LONGEST_SENTENCE else " ".join(words[start : start + _LONGEST_SENTENCE])
            found += _Reader(piece, found).claims()
    return found


def _units(kind: str, sides: set[str]) -> list[int]:
    """Return the units of a kind, such as "Brow Raise", on the given sides; on both if there is none."""
    if kind in NAMES:
        return [NAMES.index(kind)]
    sided = [side for side in ("Left", "Right") if not sides or side.lower() in sides]
    return [NAMES.index(f"{kind} {side}" if kind == "Jaw Slide" else f"{side} {kind}") for side in sided]


class _Reader:
    """Reads one sentence."""

    def __init__(self, sentence: str, before: Sequence[Claim]) -> None:
        self.sentence = sentence.strip()
        self.before = before
        self.words = TaggedSentence(sentence)
        self.found: list[Claim] = []
        self.places: list[int] = []
        self.place = 0
        self.read_parts: set[int] = set()
        self.read_sides: set[int] = set()
        self.last_action = -1

    def claims(self) -> list[Claim]:
        words = self.words
        if not words.says_something:
            return []
        for place, kind in enumerate(words.kinds):
            if words.skipped[place]:
                continue
            self.place = place
            if kind == "action" or (kind == "motion" and not words.denied[place]):
                self._read_movement(place)
            elif kind in ("still", "absent", "motion"):
                self._read_stillness(place)
        for place in range(len(words.kinds)):
            self.place = place
            self._read_repetition(place)
        if _OTHERS_STILL.search(self.sentence.lower()):
            named = {claim.unit for claim in (*self.before, *self.found)}
            for unit in range(len(FEAFA)):
                if unit not in named:
                    self._add(unit, present=False)
        return self.found

    def _add(
        self, unit: int, *, present: bool, grade: int | str | None = None, alternatives: Sequence[int] = ()
    ) -> None:
        """Add a claim; the grade is the word's place, or the word."""
        word = self.words.values[grade] if isinstance(grade, int) else grade
        low: float | None = None
        high: float | None = None
        if not present:
            word = None
        elif word is not None:
            low, high = lexicon.GRADES[word]
            if isinstance(grade, int) and grade in self.words.weakened:
                word, low, high = f"not {word}", 0.0, low
        self.found.append(Claim(unit, present, word, low, high, self.sentence, tuple(alternatives)))
        self.places.append(self.place)

    # Movements and their parts ---------------------------------------------------------------------------------------

    def _read_movement(self, action: int) -> None:
        parts = parts_of(self.words, action)
        own = movements.OWN_PART.get(self.words.values[action])
        for part in parts:
            self.read_parts.add(part)
            sides = self._sides_of(part, action)
            for name in self.words.values[part].split("+"):
                self._claim(name, action, sides)
        if not parts and own is not None:
            self._claim(own, action, self._sides_after(action + 1) or self._sides_before(action), certain_of_side=False)
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
        present = present and not self.words.denied[action] and not value.startswith("not ")
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
        """Return the sides in front of a part: "left", "left and right", "the left side of the"."""
        words = self.words
        sides: set[str] = set()
        place = part - 1
        while True:
            kind = words.kind(place)
            if kind == "side":
                sides.add(words.values[place])
                self.read_sides.add(place)
            elif kind == "and":
                if not sides or words.kind(words.skip(place - 1, ("filler",), -1)) != "side":
                    return sides
            elif kind == "of":
                if not (
                    words.value(place) == "of" and words.kind(place - 1) == "filler" and words.kind(place - 2) == "side"
                ):
                    return sides
            elif kind not in ("filler", "adverb", "grade", "action", "motion"):
                return sides
            place -= 1

    def _sides_after(self, place: int) -> set[str]:
        """Return the sides that "on the left" or "(left)" names from a place on."""
        words = self.words
        if words.kind(place) == "of":
            place = words.skip(place + 1, ("filler",))
        elif words.value(place) == "(":
            place += 1
        else:
            return set()
        if words.kind(place) != "side" or words.value(place) == "one" or words.kind(place + 1) in ("part", "action"):
            return set()
        places = [place]
        if words.kind(place + 1) == "and" and words.kind(place + 2) == "side":
            places.append(place + 2)
        self.read_sides.update(places)
        return {words.values[side] for side in places}

    def _side_near(self, action: int) -> set[str]:
        """Return the side of "the jaw slides left": the next one that is no other part's."""
        words = self.words
        for reach in range(1, 6):
            for place in (action + reach, action - reach):
                side = words.kind(place) == "side" and words.values[place] != "one"
                if side and words.kind(words.skip(place + 1, BEFORE_PART)) != "part":
                    self.read_sides.add(place)
                    return {words.values[place]}
        return set()

    # Intensities -----------------------------------------------------------------------------------------------------

    def _grade(self, action: int) -> int | None:
        """Return the place of the word for a movement's intensity: in front of it, or behind it and its part."""
        words = self.words
        place = action - 1
        for _ in range(7):
            kind = words.kind(place)
            if kind == "grade":
                return place
            if kind == "of":
                if words.kind(place - 1) not in ("filler", "grade"):
                    break
            elif kind not in BEFORE_PART and (kind != "part" or words.kind(place - 1) == "part"):
                break
            place -= 1
        place = words.skip(action + 1, ("filler", "of", "side", "motion", "part"))
        for _ in range(6):
            kind = words.kind(place)
            if kind == "grade":
                # One that goes on to a part or a movement of its own is that one's.
                following = words.skip(place + 1, ("adverb", "filler", "side", "motion", "grade"))
                # And an adverb in front of a verb belongs to that: "clearly point to".
                own = words.kind(following) not in ("part", "action") and words.kind(place + 1) != "report"
                return place if own else None
            if kind not in ("copula", "adverb", "filler", "of", "without effect") and words.value(place) not in (
                "with",
                "(",
                "to",
                "so",
            ):
                return None
            place += 1
        return None

    # What names no movement of its own -------------------------------------------------------------------------------

    def _read_stillness(self, place: int) -> None:
        """Deny every unit of a part that "remains neutral" or shows "no movement"."""
        words = self.words
        part = words.skip(place - 1, AFTER_PART, -1)
        if words.value(part) == ":":
            part -= 1  # "Right brow: neutral."
        if words.kind(part) != "part":
            part = words.skip(place + 1, ("side", "filler", "motion", "of", "copula", "grade", "seen"))
        elif words.kinds[place] != "motion" and words.kind(place + 1) == "action":
            return  # "is still raised"
        if words.kind(part) != "part" or part in self.read_parts:
            return
        self.read_parts.add(part)
        sides = self._sides_before(part) - {"one"}
        for name in words.values[part].split("+"):
            for kind in movements.PART_UNITS.get(name, ()):
                for unit in _units(kind, sides):
                    self._add(unit, present=False)

    def _read_repetition(self, place: int) -> None:
        """Read "the right brow mirrors this", "particularly the right", "the brows too": the last movement again."""
        words = self.words
        kind = words.kind(place)
        part = ""
        if kind == "part" and place not in self.read_parts:
            sides, part = self._sides_of(place, place), words.values[place]
        elif kind == "side" and place not in self.read_sides and words.value(place - 2) not in lexicon.COMPARISONS:
            sides = {words.values[place]}
        else:
            return
        follow = words.skip(place + 1, ("adverb", "filler", "copula", "without effect"))
        grade = follow if words.kind(follow) == "grade" else None
        mirrored = any(words.kind(near) == "mirror" for near in range(place - 7, place + 7))
        stressed = any(words.value(near) in _STRESSES for near in range(place - 5, place)) or "more" in (
            words.value(place + 1),
            words.value(follow),
            words.value(follow + 1),
        )
        alone = grade is not None and words.kind(grade + 1) in ("end", "comma", "break", "and", "report")
        if part and words.value(place + 1) in ("too", "as well", "likewise") and self.last_action >= 0:
            for name in part.split("+"):
                self._claim(name, self.last_action, sides)
        elif len(sides) == 1 and "one" not in sides and (mirrored or alone or stressed):
            last = self._last_sided(part)
            if last is not None:
                unit = last.unit if FEAFA[last.unit].side in sides else FEAFA[last.unit].mirror
                self._add(unit, present=last.present, grade=grade)

    def _last_sided(self, part: str) -> Claim | None:
        """Return the last claim in front of the place, or else the next one, of a part and one of its sides."""
        kinds = movements.PART_UNITS.get(part)
        placed = sorted(zip(self.places, self.found, strict=True), key=lambda pair: pair[0])
        earlier = [claim for place, claim in placed if place < self.place]
        for claim in (*reversed(earlier), *reversed(self.before[-2:]), *self.found):
            name = NAMES[claim.unit]
            if FEAFA[claim.unit].side and "Slide" not in name and (kinds is None or name.split(" ", 1)[1] in kinds):
                return claim
        return None
