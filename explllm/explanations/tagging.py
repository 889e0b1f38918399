"""Tagging: convert a sentence to tagged words, and find the scope of each negation."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from explllm.explanations import lexicon
from explllm.explanations.scope import scoped
from explllm.explanations.unit_numbers import ZERO

_ZERO = re.compile(ZERO)
_MARKUP = re.compile(r"[*_#`>]+")
_BRACKETED_NUMBERS = re.compile(r"\([^()]*\d[^()]*\)")
_POSSESSIVE = re.compile(r"'s?\b(?!\w)")
_TOKEN = re.compile(r"[a-z]+|[,;:()]")

_MODIFIERS = frozenset(("adverb", "grade"))
# Movements with a direction, and verbs that need one: "pulled" next to "down" is not a separate movement.
_DIRECTED = frozenset(("up", "down", "in", "out", "together", "forward", "side", "side left", "side right"))
_UNDIRECTED = frozenset(("pull", "curl", "motion"))
# Tags that follow "in" when it is a preposition.
_OBJECTS = frozenset(("filler", "part", "side", "grade", "action", "word"))
# Words that modify a smile or a stretch instead of naming another movement.
_STRENGTHENERS = frozenset(("widen", "open", "tense", "curl"))
_MAX_LIST_ITEM = 5
_DETERMINERS = frozenset(("the", "his", "her", "their", "its", "both"))
# The head of a list of absent units ("every other action unit is absent: ...") consists of these tags and words.
_HEAD_KINDS = frozenset(("absent", "no", "motion", "filler", "copula", "of", "seen", "mirror", "and"))
_HEAD_WORDS = frozenset(("unit", "units", "au", "aus", "intensities", "active", "facial", "there", ")"))
_HEAD_WORDS |= {"other", "others", "remaining", "rest", "every", "each"}
_OUTSIDE_HEAD = frozenset(("part", "action", "side", "comma", "break", "end"))
_CLOSING = {"(": ")", ";": ";"}
_OPENING = {")": "(", ";": ";", ",": ","}


def words_of(sentence: str) -> list[str]:
    """Return a sentence's lowercase words, commas, colons, semicolons and parentheses, without Markdown.

    A score of 0 becomes "zero"; other numbers are omitted.
    """
    plain = _ZERO.sub("zero", sentence.lower())
    plain = plain.replace("’", "'").replace("n't", " not").replace("-", " ").replace("/", " and ")
    plain = _BRACKETED_NUMBERS.sub(_bracketed_grade, plain).replace("—", " ; ").replace("–", " ; ")
    return _TOKEN.findall(_POSSESSIVE.sub("", _MARKUP.sub(" ", plain)))


def _bracketed_grade(bracket: re.Match[str]) -> str:
    """Return the intensity word in brackets such as "(slight, 0.2)", or else a space."""
    words = " ".join(re.findall(r"[a-z]+\b", bracket[0]))
    return f"({words})" if words in lexicon.GRADES or words == "zero" else " "


def tag(words: list[str]) -> tuple[list[lexicon.Tag], list[int]]:
    """Tag words. Each phrase of the lexicon becomes one token.

    Args:
        words: Lowercase words and punctuation marks.

    Returns:
        Kind and value of each token, and the index of its first word. Words that are not in the lexicon are tagged
        ``adverb`` or ``word``, and punctuation marks ``comma`` or ``break``.
    """
    tags: list[lexicon.Tag] = []
    starts: list[int] = []
    position = 0
    while position < len(words):
        word = words[position]
        starts.append(position)
        position += 1
        for rest, entry in lexicon.TABLE.get(word, ()):
            if not rest or tuple(words[position : position + len(rest)]) == rest:
                tags.append(entry)
                position += len(rest)
                break
        else:
            kind = (
                "comma" if word == "," else "break" if word in ";:()" else "adverb" if word.endswith("ly") else "word"
            )
            tags.append((kind, word))
    return tags, starts


@lru_cache(maxsize=2048)
def tagged(sentence: str) -> TaggedSentence:
    """Return a tagged sentence. Do not modify it: it is cached, because checks and metrics read the same texts."""
    return TaggedSentence(sentence)


class TaggedSentence:
    """A tagged sentence: kind, value and negation of each token.

    Attributes:
        kinds: Kind of each token, such as ``part`` or ``action``.
        values: Value of each token, such as the name of the part.
        denied: Whether a negation covers the token.
        skipped: Whether the token is part of a statement that is not about this face.
        reversed: Whether a negated main clause, such as "it is not true that", covers the token.
        weakened: Positions of intensity words weakened by "not", as in "not fully closed".
        stands_for: Sides by position, for tokens such as "the right" that stand for the last part mentioned.
    """

    def __init__(self, sentence: str) -> None:
        scope = scoped(words_of(sentence))
        tags, starts = tag(scope.words)
        self.kinds = [kind for kind, _ in tags]
        self.values = [value for _, value in tags]
        self.denied = [False] * len(tags)
        self.skipped = [not scope.asserted[start] for start in starts]
        self.reversed = [scope.denied[start] for start in starts]
        self.weakened: set[int] = set()
        self.stands_for: dict[int, str] = {}
        if self.says_something:
            self._resolve_directions()
            self._resolve_motions()
            self._resolve_stand_ins()
            self._mark_denials()

    @property
    def says_something(self) -> bool:
        """Whether the sentence mentions a part of the face, a side or a movement."""
        return not {"part", "action", "side"}.isdisjoint(self.kinds)

    def kind(self, position: int) -> str:
        """Return the kind of a token, or ``end`` outside the sentence."""
        return self.kinds[position] if 0 <= position < len(self.kinds) else "end"

    def value(self, position: int) -> str:
        """Return the value of a token, or an empty string outside the sentence."""
        return self.values[position] if 0 <= position < len(self.values) else ""

    def skip(self, position: int, over: Collection[str], step: int = 1) -> int:
        """Return the first position, forward or backward, whose kind is not in ``over``."""
        while self.kind(position) in over:
            position += step
        return position

    def _resolve_directions(self) -> None:
        """Decide whether "up", "in" and similar words describe movements or are ordinary words."""
        for position, kind in enumerate(self.kinds):
            if kind != "direction":
                continue
            before = self.skip(position - 1, _MODIFIERS | {"and"}, -1)
            after_action = self.kind(before) == "action"
            # "The corners are up" and "lips apart" need no verb of motion; "in" and "out" do.
            after_part = (
                self.values[position] not in ("in", "out")
                and self.kind(self.skip(before, ("copula", "adverb", "grade"), -1)) == "part"
            )
            if self.values[position] in ("up", "down") and self.value(position + 1) == "to":
                after_part = False  # "from the brows down to the mouth"
            if self.values[position] == "in":
                after_action = after_action and self.kind(position + 1) not in _OBJECTS
            if self.values[position] == "out" and self.kind(position - 1) == "and" and self.value(position - 2) == "up":
                after_action = False  # "up and back" means up
            preposition = "of" if self.values[position] == "in" else "word"
            self.kinds[position] = "action" if after_action or after_part else preposition

    def _resolve_motions(self) -> None:
        """Keep only the more specific of two words for the same movement."""
        for position, kind in enumerate(self.kinds):
            value = self.values[position]
            if kind != "action" or value not in _DIRECTED:
                continue
            for other in (self.skip(position - 1, _MODIFIERS, -1), position + 1):
                if self.kind(other) == "action" and (
                    self.values[other] in _UNDIRECTED or (value.startswith("side ") and self.values[other] == "side")
                ):
                    self.kinds[other], self.values[other] = "motion", ""
        for position, kind in enumerate(self.kinds):
            if kind != "action":
                continue
            value = self.values[position]
            if value == "motion":
                self.kinds[position], self.values[position] = "motion", ""
            elif value in _STRENGTHENERS and (
                self.value(position + 1) == "smile" or (value == "widen" and self.value(position - 1) == "stretch")
            ):
                self.kinds[position] = "filler"

    def _resolve_stand_ins(self) -> None:
        """Resolve "the right" and "the right one" to the last part mentioned, unless a part follows."""
        last = -1
        for position, kind in enumerate(self.kinds):
            if kind == "part":
                last = position
            if kind != "side" or last < 0 or self.values[position] == "one" or self.kind(position - 1) != "filler":
                continue
            if self.value(position + 1) == "one":
                self.kinds[position + 1] = "filler"
            elif self.kind(position + 1) not in (*("copula", "adverb", "grade", "action", "mirror", "without effect"),):
                continue
            following = self.skip(position + 1, ("adverb", "grade", "action", "filler", "motion", "side", "and"))
            if self.kind(position - 2) != "of" and self.kind(following) != "part":
                self.stands_for[position] = self.values[position]
                self.kinds[position], self.values[position] = "part", self.values[last]

    def _mark_denials(self) -> None:
        for position, kind in enumerate(self.kinds):
            if kind in ("no", "absent"):
                self._deny_list(position)
            if kind in ("no", "not"):
                after = self.skip(position + 1, ("adverb", "copula", "filler"))
                if "without effect" in (self.kind(after), self.kind(position + 1)):
                    continue
                if kind == "not" and self.kind(after) == "grade" and lexicon.GRADES[self.values[after]][0] > 0.8:
                    self.weakened.add(after)
                    continue
                for denied in range(position + 1, self._end_of_denial(position)):
                    self.denied[denied] = True
            elif kind == "absent":
                self._deny_before(position)
            elif kind == "general":
                for skipped in range(position, self._end_of_clause(position)):
                    self.skipped[skipped] = True

    def _end_of_clause(self, position: int) -> int:
        while self.kind(position) not in ("comma", "break", "report", "end"):
            position += 1
        return position

    def _deny_before(self, absent: int) -> None:
        """Deny the subject of "is absent", or the name before "absent" in "jaw drop: absent" and "jaw drop (absent)".

        The subject may be a list, and it may end in examples or an aside: "signs such as A, are absent", "A, a sign of
        joy, is absent".
        """
        last = self.skip(absent - 1, ("copula", "adverb"), -1)
        listed = self.value(absent - 1) == "all"
        named = last + listed == absent - 1 and self.value(last) in (":", ";", "(")
        if named:
            if self.value(absent + 1) not in ("(" if self.value(last) == ":" else ")", ",", ";", ")", ""):
                return  # "The brows are raised; absent is a smile."
            last -= 1
        single = not listed and (self.value(absent - 1) == "(" or self.kind(absent - 1) == "of")
        opening = self._opening_of_aside(last)
        for position in range(last if opening < 0 else opening - 1, -1, -1):
            kind = self.kinds[position]
            if (
                kind in ("break", "report")
                or (named and kind in ("word", "copula", "no", "not"))
                or (single and kind in ("and", "comma"))  # "brow raise (0.3) and jaw drop (0)"
                or (kind == "and" and (self.value(position + 1) == "all" or self._has_verb_before(position)))
                or (kind == "comma" and (not listed or self._has_verb_before(position - 1, over=("comma",))))
            ):
                break
            listed = listed or kind == "and"
            self._deny(position, position + 1)
        if opening >= 0:
            self._deny(opening, last)

    def _deny(self, start: int, end: int) -> None:
        for position in range(start, end):
            if self.kinds[position] in ("action", "motion"):
                self.denied[position] = True

    def _opening_of_aside(self, closing: int) -> int:
        """Return the start of the examples or the aside that end at a comma, dash or bracket, or -1 without these."""
        mark = _OPENING.get(self.value(closing))
        opening = -1
        for position in range(closing - 1, -1, -1):
            if mark is None or self.kinds[position] in ("copula", "report"):
                break
            if self.kinds[position] == "example":
                return position
            if self.values[position] == mark and opening < 0:
                opening = position
            if self.kinds[position] == "break":
                break
        # Commas also separate the items of a list: only words without a movement are an aside.
        return -1 if mark == "," and "action" in self.kinds[opening:closing] else opening

    def _deny_list(self, negation: int) -> None:
        """Deny the list after a head such as "absent units:" or "none of the other units (...)"."""
        start = self.skip(negation - 1, _HEAD_KINDS | {"word"}, -1)
        opening = negation + 1
        while self.kind(opening) not in _OUTSIDE_HEAD or self.value(opening) == ")":
            opening += 1
        closing = _CLOSING.get(self.value(opening), "")
        head = range(start + 1, opening)
        if (
            self.value(opening) not in (":", "(", ";")
            or self.value(opening + 1) == ";"  # "no movement (except a smile)"
            or self.kind(start) not in ("comma", "break", "end")
            or any(self.kinds[at] not in _HEAD_KINDS and self.values[at] not in _HEAD_WORDS for at in head)
            or not any(self.kinds[at] in ("absent", "motion") or self.values[at] in _HEAD_WORDS for at in head)
        ):
            return
        end = item = opening + 1
        while self.kind(end) not in ("copula", "report") and self.value(end) != ":":
            if self.kind(end) in ("comma", "break", "end"):
                item = end
                if self.value(end) == closing or self.value(end) not in (",", ";", "(", ")"):
                    break
            end += 1
        if closing != ";" or (self.value(end) == ";" and self.kind(end + 1) == "copula"):
            self._deny(opening, item)

    def _has_verb_before(self, position: int, over: Collection[str] = ()) -> bool:
        while self.kind(position) in over or self.kind(position) not in ("break", "report", "comma", "end"):
            if self.kinds[position] == "copula":
                return True
            position -= 1
        return False

    def _end_of_denial(self, negation: int) -> int:
        """Return the end of the scope of a negation.

        The negation of a noun covers a whole list; the negation of a verb ends at "and".
        """
        of_noun = self.kinds[negation] == "no"
        listed = False
        position = negation + 1
        verb = self.skip(position, ("adverb", "copula", "filler"))
        if self.kind(verb) == "report":
            position = verb + 1  # "does not indicate a smile"
        while position < len(self.kinds):
            kind = self.kinds[position]
            if of_noun and kind in ("comma", "break") and self.kind(position + 1) == "example":
                pass  # "no negative signs, such as furrowed brows"
            elif (
                kind in ("break", "report")
                or (kind == "comma" and not listed and not self._list_continues(position, negation))
                or (
                    kind == "and"
                    and self.values[position] == "and"
                    and not self._is_denied_too(position, negation, listed)
                )
            ):
                break
            if kind == "comma":
                if listed and self.kind(position + 1) != "and" and not self._list_continues(position, negation):
                    break  # after the list
                listed = True
            position += 1
        return position

    def _is_denied_too(self, conjunction: int, negation: int, listed: bool) -> bool:
        """Return whether a negation extends past "and": to the last item of its list or to another noun."""
        if listed or (self.kinds[negation] == "no" and self._noun_follows(conjunction)):
            return True
        if self.values[negation] not in lexicon.LISTED:
            return False
        # "The lack of raised brows and widened eyes".
        action = self.skip(conjunction + 1, ("adverb",))
        part = self.skip(action + 1, ("side", "filler"))
        behind = self.kind(part + 1)
        return (
            self.kind(action) == "action"
            and self.kind(part) == "part"
            and (lexicon.LISTED[self.values[negation]] or behind in ("break", "comma", "end", "of"))
        )

    def _list_continues(self, comma: int, negation: int) -> bool:
        """Return whether a comma belongs to a list that ends in "or" or, after some negations, in "and".

        Examples: "no jaw drop, brow raise, or pucker", "the absence of raised brows, wide eyes, and a smile".
        """
        length = 0
        for position in range(comma + 1, len(self.kinds)):
            kind, value = self.kinds[position], self.values[position]
            if self._clause_begins(position):
                return False  # "without raised brows, the eyes widen and the lips part"
            if value in ("or", "nor"):
                return True
            if value == "and" and self.values[negation] in lexicon.LISTED:
                if self._clause_begins(position + 1):
                    return False
                end = position + 1
                while self.kind(end) not in ("break", "report", "comma", "copula", "end", "word"):
                    end += 1
                verb = self.kind(end) not in ("break", "comma", "end")
                return end - position <= _MAX_LIST_ITEM + 1 and (not verb or lexicon.LISTED[self.values[negation]])
            if kind in ("and", "break", "report", "copula", "no", "not") or length > _MAX_LIST_ITEM:
                return False
            length = 0 if kind == "comma" else length + 1
        return False

    def _clause_begins(self, position: int) -> bool:
        """Return whether a clause such as "the eyes widen" starts here."""
        if self.value(position) not in _DETERMINERS:
            return False
        part = self.skip(position, ("filler", "side"))
        return self.kind(part) == "part" and self.kind(self.skip(part + 1, ("adverb",))) == "action"

    def _noun_follows(self, conjunction: int) -> bool:
        """Return whether a movement noun follows, such as "nose wrinkling" or "raise of the brows".

        An article or a grade starts a new statement: "no smile and a pronounced lip depression".
        """
        if self.kind(conjunction + 1) == "grade" or self.value(conjunction + 1) in ("a", "an"):
            return False
        for position in range(conjunction + 1, len(self.kinds)):
            kind = self.kinds[position]
            if kind == "action":
                return self.kinds[position - 1] == "part" or self.kind(position + 1) == "of"
            if kind in ("break", "report", "comma", "copula"):
                return False
        return False
