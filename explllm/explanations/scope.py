"""Scope: find words that assert nothing about this face, and clauses that are denied as a whole.

Three steps, each on one sentence:

1. Fixed phrases are replaced with plain ones that `explllm.explanations.tagging` handles: "fails to rise" becomes "not
   rise".
2. Words that introduce a clause (a *frame* such as "nobody could deny that") are replaced with semicolons. These
   words decide whether the clause is asserted, denied or left open. An odd number of negative words denies it ("it
   would be wrong to say that"), an even number does not ("it cannot be denied that"), and doubt or another person's
   voice leaves it open ("one might expect", "she believes").
3. Clauses about other people, pictures or times, about hypothetical faces, or about faces in general are marked as
   not asserted.

A dependency parser would find these scopes too, but it is slower: spaCy's small English model reads about 10,000 words
per second, while these rules read 3,000 chains of thought in a few seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from explllm.explanations import scope_rules as rules
from explllm.explanations.scope_rules import BOUNDARIES, BREAK, CONTRAST


@dataclass
class ScopedWords:
    """The words of a sentence with their scopes."""

    words: list[str]
    """Lowercase words and punctuation marks, with negative phrases simplified and frames replaced with semicolons."""
    asserted: list[bool]
    """Whether each word belongs to a statement about this face."""
    denied: list[bool]
    """Whether a negated main clause covers each word."""


_PREPOSITIONS = frozenset(("under", "in", "on", "at", "behind", "near", "with", "below", "above", "beside", "of"))
_MAX_FRAME = 12
_FRAME_START = BOUNDARIES | {"and", "so", "as"}
_AFTER_HEAD = frozenset(
    ("of", "about", "out", "here", "at", "all", "whatsoever", "also", "for", "ever", "just", "me", "us")
)
_ASSERTED, _DENIED, _OPEN = "asserted", "denied", "open"


def scoped(words: list[str], *, modal_verbs: bool = True) -> ScopedWords:
    """Return the words of a sentence with the scopes of negations and of statements about something else.

    Args:
        words: Lowercase words and punctuation marks.
        modal_verbs: Whether "might", "could" and similar verbs make a clause hypothetical. Otherwise they are hedges.

    Returns:
        The words, possibly fewer or more than before, with one flag per word for each kind of scope.
    """
    return _Scoper(" ".join(words), modal_verbs).result()


class _Scoper:
    """Applies the rules to one sentence."""

    def __init__(self, text: str, modal_verbs: bool) -> None:
        self.modal_verbs = modal_verbs
        text = f" {text} ".replace(" cannot ", " can not ")
        if rules.ANY_REWRITE.search(text):
            for rule, plain in rules.REWRITES:
                text = rule.sub(plain, text)
        self.words = text.split()
        self.asserted = [True] * len(self.words)
        self.denied = [False] * len(self.words)
        self._resolve_claims()
        self._resolve_remarks()
        self._resolve_frames()
        self.text = f" {' '.join(self.words)} "
        self.index_at: dict[int, int] = {}
        start = 0
        for index, word in enumerate(self.words):
            self.index_at[start] = index
            start += len(word) + 1

    def result(self) -> ScopedWords:
        for start in self._main_clauses():
            clause = " ".join(self.words[start : self._next(start, CONTRAST)])
            if rules.GENERAL.search(clause):
                subordinate = self.words[start] in ("where", "when", "while", "unlike")
                self._skip(start, self._next(start, CONTRAST | ({":", ","} if subordinate else {":"})))
        for rule, skip in (
            (rules.EXPECTATION, self._skip_expectation),
            (rules.IF, self._skip_condition),
            (rules.AS_IF, self._skip_to_boundary),
            (rules.MODAL_VERB, self._skip_modal),
            (rules.UNCERTAIN, self._skip_whole),
            (rules.INTENTION, self._skip_to_boundary),
            (rules.QUOTED_SOURCE, self._skip_whole),
            (rules.COMPARED, self._skip_to_boundary),
            (rules.OTHER_PEOPLE, self._skip_other),
            (rules.OTHER_TIMES, self._skip_other_time),
        ):
            if rule is rules.MODAL_VERB and not self.modal_verbs:
                continue
            for match in rule.finditer(self.text):
                index = self.index_at.get(match.start())
                if index is not None and self.asserted[index]:
                    skip(index, match)
        return ScopedWords(self.words, self.asserted, self.denied)

    # Frames ----------------------------------------------------------------------------------------------------------

    def _resolve_frames(self) -> None:
        """Replace "nobody could deny that" and similar phrases with breaks, and mark the clauses they introduce."""
        start = index = 0
        while index < len(self.words):
            if self.words[index] in _FRAME_START:
                start = index + 1
            elif self.words[index] in rules.FACE:
                start = len(self.words)  # no frame before the next clause: these words describe the face
            body = self._body(start, index)
            if body:
                end = self._end_of_body(body)
                self._mark(self._attitude(start, index), body, end)
                self.words[start:body] = [BREAK] * (body - start)
                start, index = body, body - 1
            index += 1

    def _body(self, start: int, head: int) -> int:
        """Return the start of the clause that a word introduces, or 0 if it introduces none."""
        word = self.words[head]
        verb = word in rules.SAYING or word in rules.SEEING or word in rules.DOUBTING
        if (
            head < start
            or head - start > _MAX_FRAME
            or not (verb or word in rules.SHOWING or word in rules.CLAUSE_HEADS)
        ):
            return 0
        body = head + 1
        while body < len(self.words) and (self.words[body] in _AFTER_HEAD or self.words[body].endswith("ly")):
            body += 1
        if self.words[body : body + 1] in (["that"], ["how"]):
            return 0 if _is_verb("".join(self.words[body + 1 : body + 2])) else body + 1
        verb = verb or (
            word in rules.SHOWING and self.words[head - 1] == "to"
        )  # "nothing to suggest the jaw is dropped"
        if "of" in self.words[head + 1 : body] and word not in rules.SPEAKING:
            return 0  # "a state of happiness"
        if verb and head > start and body < len(self.words) and self.words[body] in rules.OBJECT_START:
            return body
        return 0

    def _attitude(self, start: int, head: int) -> str:
        """Return whether the words of a frame assert, deny or leave open the clause that they introduce."""
        frame = self.words[start : head + 1]
        negatives = sum(word in rules.NEGATIVE for word in frame)
        judged = {"would", "be"} <= {*frame[:3]} and "to" in frame
        if judged and (rules.NEGATIVE - rules.DOUBTING | rules.POSITIVE).isdisjoint(frame):
            negatives += 1  # "it would be reckless to say that"
        if negatives % 2:
            return _DENIED
        if negatives:
            return _ASSERTED
        saying = frame[-1] in rules.SAYING | rules.CONVICTIONS or frame[-1] == "suggested"
        if not rules.OPEN.isdisjoint(frame) or (
            self.modal_verbs
            and not rules.MODALS.isdisjoint(frame)
            and (frame[-1] not in rules.SEEING or "should" in frame)
        ):
            return _OPEN
        reported = saying and not {"is", "are", "was", "been", "being"}.isdisjoint(frame[-3:-1])
        return _OPEN if reported or (saying and not self._own_voice(frame)) else _ASSERTED

    @staticmethod
    def _own_voice(frame: list[str]) -> bool:
        """Return whether the subject of a frame speaks for the text: "one can see", "the image shows"."""
        subject = frame[: next((at for at, word in enumerate(frame) if word in _PREPOSITIONS), len(frame))]
        return not rules.OWN_VOICE.isdisjoint(subject) or frame[-2:-1] in (["this"], ["these"], ["that"], ["which"])

    def _end_of_body(self, body: int) -> int:
        """Return the end of a clause, or of a noun phrase in place of a clause."""
        if self.words[body - 1] in ("that", "how"):
            return self._next(body, CONTRAST)
        clause = False
        for index in range(body, len(self.words)):
            word = self.words[index]
            if word in CONTRAST or (
                not clause and word in ("and", ",") and self.words[index + 1 : index + 2] != ["or"]
            ):
                following = self.words[index + 1 : index + 2]
                if word in CONTRAST or (following and following[0] in rules.OBJECT_START):
                    return index
            clause = clause or word in rules.FINITE
        return len(self.words)

    def _mark(self, attitude: str, start: int, end: int) -> None:
        for index in range(start, end):
            if attitude == _DENIED:
                self.denied[index] = not self.denied[index]
            elif attitude == _OPEN:
                self.asserted[index] = False

    def _resolve_claims(self) -> None:
        """Mark clauses that are the subject of a sentence: "the claim that the brows are raised is false"."""
        for start in self._main_clauses():
            end = self._next(start, CONTRAST | {":"})
            try:
                body = self.words.index("that", start, min(end, start + 5)) + 1
            except ValueError:
                continue
            opening = " ".join(self.words[start:body]) + " "
            if not rules.CLAIM_START.match(opening) or self.words[body : body + 1] == ["is"]:
                continue
            if body == start + 1 and (body >= end or self.words[body] not in rules.OBJECT_START - rules.FACE):
                continue  # "that smile": not a clause
            tail = next((at for at in range(end - 1, body, -1) if self.words[at] in rules.FINITE), body)
            while tail > body and (
                self.words[tail - 1] in rules.FINITE
                or self.words[tail - 1] in rules.NEGATIVE
                or self.words[tail - 1] in _AFTER_HEAD
            ):
                tail -= 1
            remark = self.words[tail:end]
            if rules.FACE.isdisjoint(self.words[body:tail]) or not rules.FACE.isdisjoint(remark):
                tail = end
                remark = []
            if sum(word in rules.NEGATIVE for word in remark) % 2:
                self._mark(_DENIED, body, tail)
            elif rules.TRUE.isdisjoint(remark):
                self._mark(_OPEN, body, tail)
            self.words[start:body] = [BREAK] * (body - start)
            self.words[tail:end] = [BREAK] * (end - tail)

    def _resolve_remarks(self) -> None:
        """Mark clauses as denied if a later remark takes them back: "the brows seem raised, but they are not"."""
        text = f" {' '.join(self.words)} "
        for remark in reversed([*rules.TAKEN_BACK.finditer(text)]):
            start = len(text[: remark.start()].split())
            length = len(remark[0].split())
            first = self._start(start, CONTRAST)
            if start > first:
                if rules.NEGATIVE.isdisjoint(self.words[first:start]):
                    self._mark(_DENIED, first, start)
                self.words[start : start + length] = [BREAK] * length

    # Positions -------------------------------------------------------------------------------------------------------

    def _next(self, index: int, stop: frozenset[str]) -> int:
        while index < len(self.words) and self.words[index] not in stop:
            index += 1
        return index

    def _start(self, index: int, stop: frozenset[str]) -> int:
        while index > 0 and self.words[index - 1] not in stop:
            index -= 1
        return index

    def _main_clauses(self) -> list[int]:
        return [0, *(index + 1 for index, word in enumerate(self.words) if word in CONTRAST)]

    def _skip(self, start: int, end: int) -> None:
        for index in range(start, min(end, len(self.words))):
            self.asserted[index] = False

    # Rules -----------------------------------------------------------------------------------------------------------

    def _skip_main_clause(self, index: int) -> None:
        self._skip(self._start(index, CONTRAST), self._next(index, CONTRAST))

    def _skip_whole(self, index: int, _: re.Match[str]) -> None:
        self._skip_main_clause(index)

    def _skip_to_boundary(self, index: int, _: re.Match[str]) -> None:
        self._skip(index, self._next(index + 2, BOUNDARIES))

    def _skip_condition(self, index: int, match: re.Match[str]) -> None:
        start = self._start(index, CONTRAST)
        clause = self.words[start : self._next(index, CONTRAST)]
        if index - start < 2 or not {"would", "could", "might", "d"}.isdisjoint(clause):
            self._skip_main_clause(index)
        else:
            self._skip_to_boundary(index, match)

    def _skip_modal(self, index: int, match: re.Match[str]) -> None:
        start = self._clause_start(index)
        end = self._next(index, BOUNDARIES)
        subject = " ".join(self.words[start:index])
        perfect = match["modal"] != "must" and self.text.startswith(" have ", match.end("modal"))
        if (match["modal"] in ("would", "d") or perfect) and self.words[self._start(index, CONTRAST)] in (
            "with",
            "without",
            "given",
        ):
            self._skip_main_clause(index)  # "With raised brows, the face would look surprised."
        elif match["modal"] == "would" and "with" in self.words[start:index]:
            self._skip(self.words.index("with", start), end)  # "the same face with raised brows would look surprised"
        elif not self._concerns_subject(index + 1) and not (
            (match["modal"] == "would" or perfect) and rules.INDEFINITE.match(subject)
        ):
            # "The raised brows might suggest a smile": the subject is a fact, the object is not.
            self._skip(index, end)
        elif not self.words[start:index] or self.words[start] not in ("which", "that", "who"):
            self._skip(start, end)
        else:
            self._skip(index, end)

    def _concerns_subject(self, index: int) -> bool:
        """Return whether the predicate after a modal verb names a movement or says whether one takes place."""
        words = self.words
        while index < len(words) and (
            words[index] in rules.AUXILIARIES or (words[index].endswith("ly") and words[index] != "imply")
        ):
            if words[index] == "appear" and (index + 1 == len(words) or words[index + 1] in rules.LATER):
                return True
            index += 1
        return index >= len(words) or words[index] in rules.MOVEMENTS or words[index] in rules.EXISTENCE

    def _clause_start(self, index: int) -> int:
        while index > 0:
            before = self.words[index - 1]
            if before in BOUNDARIES or before in ("that", "who", "when", "where", "if"):
                break
            if before == "and" and self.words[index] in (
                "would",
                "could",
                "might",
                "may",
                "should",
                "the",
                "a",
                "his",
                "her",
                "their",
                "both",
                "one",
                "it",
            ):
                break
            index -= 1
        return index

    def _skip_expectation(self, index: int, match: re.Match[str]) -> None:
        before = self.words[max(0, index - 3) : index]
        if "what" in before and {"is", "are"} & set(before):
            self._skip_main_clause(index)
        elif {"what", "as", "than", "like", "although", "though", "while"} & set(before):
            self._skip_to_boundary(index, match)
        else:
            subject_first = match[0].lstrip().startswith(("is", "are", "was", "were", "would", "be"))
            start = self._clause_start(index) if subject_first else index
            self._skip(start, self._next(index, CONTRAST))

    def _skip_other_time(self, index: int, match: re.Match[str]) -> None:
        self._skip_other(index, match, returns=rules.RETURNS - rules.PRONOUNS)

    def _skip_other(self, index: int, match: re.Match[str], returns: frozenset[str] = rules.RETURNS) -> None:
        """Skip a statement about another person or another time."""
        start = self._start(index, BOUNDARIES)
        before = " ".join(self.words[start:index])
        standard = rules.STANDARD.search(before)
        if standard:  # "compared to the previous picture", "than in the last picture"
            first = start + len(before[: standard.start()].split())
            end = self._next(index, BOUNDARIES)
            if self.words[end + 1 : end + 2] in (["who"], ["which"], ["whose"]):
                end = self._next(end + 2, BOUNDARIES)
            self._skip(first, end)
            return
        end = self._return(index, returns)
        comma = self._next(index, BOUNDARIES)
        if start == self._start(index, CONTRAST) or self.words[start - 1] == "while":
            self._skip(start, end)
        else:  # a parenthesis: "the eyes, closed in the last picture, are open"
            self._skip(start, min(comma, end))

    def _return(self, index: int, returns: frozenset[str]) -> int:
        """Return the position at which the statement about another person or another time ends."""
        while index < len(self.words):
            word = self.words[index]
            following = self.words[index + 1 : index + 6]
            if word in CONTRAST:
                tense = next(
                    (near for near in self.words[index + 1 :] if near in rules.PAST | {"is", "are", "has"}), ""
                )
                if word == BREAK or tense not in rules.PAST or not returns.isdisjoint(following):
                    return index
            subject_follows = word == "while" and "subject" in following
            if subject_follows or (word in (",", "and", "while") and not returns.isdisjoint(following[:3])):
                return index
            index += 1
        return index


def _is_verb(word: str) -> bool:
    """Return whether a word after "that" makes it a relative pronoun, as in "the conclusion that follows"."""
    return word not in rules.OBJECT_START and (word in rules.FINITE or (word.endswith("s") and not word.endswith("ss")))
