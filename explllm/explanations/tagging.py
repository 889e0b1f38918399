"""One sentence about a face as tagged words, with the words that a denial covers."""

from __future__ import annotations

import re
from collections.abc import Collection

from explllm.explanations import lexicon

_MARKUP = re.compile(r"[*_#`>]+")
_BRACKETED_NUMBERS = re.compile(r"\([^()]*\d[^()]*\)")
_POSSESSIVE = re.compile(r"'s?\b(?!\w)")
_TOKEN = re.compile(r"[a-z]+|[,;:()]")

_MODIFIERS = frozenset(("adverb", "grade"))
# Movements that say whither, and those that need such a word: "pulled" beside "down" is no pull of its own.
_DIRECTED = frozenset(("up", "down", "in", "out", "together", "forward", "side", "side left", "side right"))
_UNDIRECTED = frozenset(("pull", "curl", "motion"))
# What follows "in" where it is the preposition.
_OBJECTS = frozenset(("filler", "part", "side", "grade", "action", "word"))
# Words that strengthen a smile or a stretch and are no movement beside it.
_STRENGTHENERS = frozenset(("widen", "open", "tense", "curl"))
_LONGEST_LIST_ITEM = 5
_DETERMINERS = frozenset(("the", "his", "her", "their", "its", "both"))


def tag(sentence: str) -> list[lexicon.Tag]:
    """Return the words of a sentence with their tags; phrases of the lexicon count as one word.

    Args:
        sentence: Any text.

    Returns:
        Kind and value of each word or phrase; a word that the lexicon lacks is an ``adverb`` or a ``word``.
    """
    plain = sentence.lower().replace("’", "'").replace("n't", " not").replace("-", " ").replace("/", " and ")
    plain = _BRACKETED_NUMBERS.sub(" ", plain).replace("—", " ; ").replace("–", " ; ")
    words = _TOKEN.findall(_POSSESSIVE.sub("", _MARKUP.sub(" ", plain)))
    tags: list[lexicon.Tag] = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        for rest, entry in lexicon.TABLE.get(word, ()):
            if not rest or tuple(words[place : place + len(rest)]) == rest:
                tags.append(entry)
                place += len(rest)
                break
        else:
            kind = (
                "comma" if word == "," else "break" if word in ";:()" else "adverb" if word.endswith("ly") else "word"
            )
            tags.append((kind, word))
    return tags


class TaggedSentence:
    """The words of a sentence, each with its kind, its value and whether it is denied.

    Attributes:
        kinds: The kind of each word, such as ``part`` or ``action``.
        values: Which part, which action and so on.
        denied: Whether a negation covers the word.
        skipped: Whether the word speaks of faces in general.
        weakened: Places of words for an intensity that a "not" takes down, as in "not fully closed".
        stands_for: The side of each word such as "the right" that stands for the part named before it.
    """

    def __init__(self, sentence: str) -> None:
        tags = tag(sentence)
        self.kinds = [kind for kind, _ in tags]
        self.values = [value for _, value in tags]
        self.denied = [False] * len(tags)
        self.skipped = [False] * len(tags)
        self.weakened: set[int] = set()
        self.stands_for: dict[int, str] = {}
        # Most sentences about feelings name neither.
        if self.says_something:
            self._resolve_directions()
            self._resolve_motions()
            self._resolve_stand_ins()
            self._mark_denials()

    @property
    def says_something(self) -> bool:
        """Whether a part of the face, a side or a movement is named at all."""
        return not {"part", "action", "side"}.isdisjoint(self.kinds)

    def kind(self, place: int) -> str:
        """Return the kind of a word; ``end`` outside the sentence."""
        return self.kinds[place] if 0 <= place < len(self.kinds) else "end"

    def value(self, place: int) -> str:
        """Return the value of a word; empty outside the sentence."""
        return self.values[place] if 0 <= place < len(self.values) else ""

    def skip(self, place: int, over: Collection[str], step: int = 1) -> int:
        """Return the first place from a given one on, or backwards, whose kind is not among the given."""
        while self.kind(place) in over:
            place += step
        return place

    def _resolve_directions(self) -> None:
        """Make "up", "in" and the like a movement or a plain word."""
        for place, kind in enumerate(self.kinds):
            if kind != "direction":
                continue
            before = self.skip(place - 1, _MODIFIERS | {"and"}, -1)
            after_action = self.kind(before) == "action"
            # "The corners are up" and "lips apart" say a direction without a verb of motion; "in" and "out" do not.
            after_part = (
                self.values[place] not in ("in", "out")
                and self.kind(self.skip(before, ("copula", "adverb", "grade"), -1)) == "part"
            )
            if self.values[place] in ("up", "down") and self.value(place + 1) == "to":
                after_part = False  # "from the brows down to the mouth"
            if self.values[place] == "in":
                after_action = after_action and self.kind(place + 1) not in _OBJECTS
            preposition = "of" if self.values[place] == "in" else "word"
            self.kinds[place] = "action" if after_action or after_part else preposition

    def _resolve_motions(self) -> None:
        """Leave, of two words for one movement, the one that says which it is."""
        for place, kind in enumerate(self.kinds):
            value = self.values[place]
            if kind != "action" or value not in _DIRECTED:
                continue
            for other in (self.skip(place - 1, _MODIFIERS, -1), place + 1):
                if self.kind(other) == "action" and (
                    self.values[other] in _UNDIRECTED or (value.startswith("side ") and self.values[other] == "side")
                ):
                    self.kinds[other], self.values[other] = "motion", ""
        for place, kind in enumerate(self.kinds):
            if kind != "action":
                continue
            value = self.values[place]
            if value == "motion":
                self.kinds[place], self.values[place] = "motion", ""
            elif value in _STRENGTHENERS and (
                self.value(place + 1) == "smile" or (value == "widen" and self.value(place - 1) == "stretch")
            ):
                self.kinds[place] = "filler"

    def _resolve_stand_ins(self) -> None:
        """Let "the right" or "the right one" stand for the part named last, where no part follows it."""
        last = -1
        for place, kind in enumerate(self.kinds):
            if kind == "part":
                last = place
            if kind != "side" or last < 0 or self.values[place] == "one" or self.kind(place - 1) != "filler":
                continue
            if self.value(place + 1) == "one":
                self.kinds[place + 1] = "filler"
            elif self.kind(place + 1) not in (*("copula", "adverb", "grade", "action", "mirror", "without effect"),):
                continue
            following = self.skip(place + 1, ("adverb", "grade", "action", "filler", "motion", "side", "and"))
            if self.kind(place - 2) != "of" and self.kind(following) != "part":
                self.stands_for[place] = self.values[place]
                self.kinds[place], self.values[place] = "part", self.values[last]

    def _mark_denials(self) -> None:
        for place, kind in enumerate(self.kinds):
            if kind in ("no", "not"):
                after = self.skip(place + 1, ("adverb", "copula", "filler"))
                if "without effect" in (self.kind(after), self.kind(place + 1)):
                    continue
                if kind == "not" and self.kind(after) == "grade" and lexicon.GRADES[self.values[after]][0] > 0.8:
                    self.weakened.add(after)
                    continue
                for denied in range(place + 1, self._end_of_denial(place)):
                    self.denied[denied] = True
            elif kind == "absent":
                self._deny_before(place)
            elif kind == "general":
                for skipped in range(place, self._end_of_clause(place)):
                    self.skipped[skipped] = True

    def _end_of_clause(self, place: int) -> int:
        while self.kind(place) not in ("comma", "break", "report", "end"):
            place += 1
        return place

    def _deny_before(self, absent: int) -> None:
        """Deny the subject of "is absent", which may be a list or end in examples: "signs such as A, are absent"."""
        last = self.skip(absent - 1, ("copula", "adverb"), -1)
        opening = self._opening_of_examples(last)
        listed = False
        for place in range(last if opening < 0 else last - 1, opening, -1):
            kind = self.kinds[place]
            if opening < 0 and (
                kind in ("break", "report")
                or (kind == "and" and self._has_verb_before(place))
                or (kind == "comma" and (not listed or self._has_verb_before(place - 1, over=("comma",))))
            ):
                return
            listed = listed or kind == "and"
            if kind == "action":
                self.denied[place] = True

    def _opening_of_examples(self, closing: int) -> int:
        """Return where the examples begin that a comma or a bracket closes; -1 if there are none."""
        if self.kind(closing) != "comma" and self.value(closing) != ")":
            return -1
        for place in range(closing - 1, -1, -1):
            if self.kinds[place] in ("example", "copula", "report", "break"):
                return place if self.kinds[place] == "example" or self.values[place] == "(" else -1
        return -1

    def _has_verb_before(self, place: int, over: Collection[str] = ()) -> bool:
        while self.kind(place) in over or self.kind(place) not in ("break", "report", "comma", "end"):
            if self.kinds[place] == "copula":
                return True
            place -= 1
        return False

    def _end_of_denial(self, negation: int) -> int:
        """Return where a negation's clause ends; one before a noun covers a list, one of a verb stops at "and"."""
        of_noun = self.kinds[negation] == "no"
        listed = False
        place = negation + 1
        verb = self.skip(place, ("adverb", "copula", "filler"))
        if self.kind(verb) == "report":
            place = verb + 1  # "does not indicate a smile"
        while place < len(self.kinds):
            kind = self.kinds[place]
            if of_noun and kind in ("comma", "break") and self.kind(place + 1) == "example":
                pass  # "no negative signs, such as furrowed brows"
            elif (
                kind in ("break", "report")
                or (kind == "comma" and not listed and not self._list_goes_on(place, negation))
                or (kind == "and" and self.values[place] == "and" and not self._is_denied_too(place, negation, listed))
            ):
                break
            if kind == "comma":
                if listed and self.kind(place + 1) != "and" and not self._list_goes_on(place, negation):
                    break  # behind the list
                listed = True
            place += 1
        return place

    def _is_denied_too(self, conjunction: int, negation: int, listed: bool) -> bool:
        """Whether a denial covers what follows an "and": the last item of its list, or another movement as a noun."""
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

    def _list_goes_on(self, comma: int, negation: int) -> bool:
        """Whether a comma belongs to a list that ends in "or", after some negations in "and".

        As "no jaw drop, brow raise, or pucker" and "the absence of raised brows, wide eyes, and a smile".
        """
        length = 0
        for place in range(comma + 1, len(self.kinds)):
            kind, value = self.kinds[place], self.values[place]
            if self._clause_begins(place):
                return False  # "without raised brows, the eyes widen and the lips part"
            if value in ("or", "nor"):
                return True
            if value == "and" and self.values[negation] in lexicon.LISTED:
                if self._clause_begins(place + 1):
                    return False
                end = place + 1
                while self.kind(end) not in ("break", "report", "comma", "copula", "end", "word"):
                    end += 1
                verb = self.kind(end) not in ("break", "comma", "end")
                return end - place <= _LONGEST_LIST_ITEM + 1 and (not verb or lexicon.LISTED[self.values[negation]])
            if kind in ("and", "break", "report", "copula", "no", "not") or length > _LONGEST_LIST_ITEM:
                return False
            length = 0 if kind == "comma" else length + 1
        return False

    def _clause_begins(self, place: int) -> bool:
        """Whether a part of the face begins to move here by itself, such as "the eyes widen"."""
        if self.value(place) not in _DETERMINERS:
            return False
        part = self.skip(place, ("filler", "side"))
        return self.kind(part) == "part" and self.kind(self.skip(part + 1, ("adverb",))) == "action"

    def _noun_follows(self, conjunction: int) -> bool:
        """Whether what follows is a movement as a noun, such as "nose wrinkling" or "raise of the brows".

        With an article or a grade it stands for itself: "no smile and a pronounced lip depression".
        """
        if self.kind(conjunction + 1) == "grade" or self.value(conjunction + 1) in ("a", "an"):
            return False
        for place in range(conjunction + 1, len(self.kinds)):
            kind = self.kinds[place]
            if kind == "action":
                return self.kinds[place - 1] == "part" or self.kind(place + 1) == "of"
            if kind in ("break", "report", "comma", "copula"):
                return False
        return False
