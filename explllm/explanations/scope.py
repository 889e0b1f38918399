"""Scope: find words that assert nothing about this face, and clauses that are denied as a whole.

Statements about other people, other times, hypothetical faces or faces in general are marked as not asserted. Clauses
under "it is not true that" and similar phrases are marked as denied; two negations cancel out. Fixed negative phrases
such as "anything but" are replaced by plain ones, which `explllm.explanations.tagging` handles.

A dependency parser would find these scopes too, but it is slower: spaCy's small English model reads about 10,000 words
per second, while reading 3,000 chains of thought takes a few seconds with the rules.
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
    """Lowercase words and punctuation marks, with negative phrases simplified."""
    asserted: list[bool]
    """Whether each word belongs to a statement about this face."""
    denied: list[bool]
    """Whether a negated main clause covers each word."""


_DENIED_MARK, _END_MARK = "\x01", "\x02"


def scoped(words: list[str], *, modal_verbs: bool = True) -> ScopedWords:
    """Return the words of a sentence with the scopes of negations and of statements about something else.

    Args:
        words: Lowercase words and punctuation marks.
        modal_verbs: Whether "might", "could" and similar verbs make a clause hypothetical. Otherwise they are hedges.

    Returns:
        The words, possibly fewer or more than before, with one flag per word for each kind of scope.
    """
    if rules.TRIGGERS.isdisjoint(words):
        return ScopedWords(words, [True] * len(words), [False] * len(words))
    return _Scoper(" ".join(words), modal_verbs).result()


class _Scoper:
    """Applies the rules to one sentence."""

    def __init__(self, text: str, modal_verbs: bool) -> None:
        self.modal_verbs = modal_verbs
        text = _simplified(text)
        words: list[str] = []
        denied: list[bool] = []
        in_scope = False
        for word in text.split():
            if word in (_DENIED_MARK, _END_MARK):
                in_scope = word == _DENIED_MARK
                word = BREAK
            elif word in CONTRAST:
                in_scope = False
            words.append(word)
            denied.append(in_scope)
        self.words, self.denied = words, denied
        self.asserted = [True] * len(words)
        self.text = " ".join(words)
        self.index_at: dict[int, int] = {}
        start = 0
        for index, word in enumerate(words):
            self.index_at[start] = index
            start += len(word) + 1

    def result(self) -> ScopedWords:
        for start in self._main_clauses():
            clause = " ".join(self.words[start : self._next(start, CONTRAST)])
            if any(
                rule.search(clause) for rule in (rules.GENERAL_PEOPLE, rules.GENERAL_EMOTION, rules.HYPOTHETICAL_START)
            ):
                self._skip(start, self._next(start, CONTRAST | {":"}))
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
            (rules.OTHER_TIMES, self._skip_other),
        ):
            if rule is rules.MODAL_VERB and not self.modal_verbs:
                continue
            for match in rule.finditer(self.text):
                index = self.index_at.get(match.start())
                if index is not None and self.asserted[index]:
                    skip(index, match)
        return ScopedWords(self.words, self.asserted, self.denied)

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
        if match["modal"] in ("would", "d") and self.words[self._start(index, CONTRAST)] in (
            "with",
            "without",
            "given",
        ):
            self._skip_main_clause(index)  # "With raised brows, the face would look surprised."
        elif rules.REPORT_VERB.match(self.text, match.start("verb")) and not (
            match["modal"] == "would" and rules.INDEFINITE.match(subject)
        ):
            # "The raised brows might suggest a smile": the subject is a fact, the object is not.
            self._skip(index, end)
        elif not self.words[start:index] or self.words[start] not in ("which", "that", "who"):
            self._skip(start, end)
        else:
            self._skip(index, end)

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
            subject_first = match[0].startswith(("is", "are", "was", "were", "would", "be"))
            start = self._clause_start(index) if subject_first else index
            self._skip(start, self._next(index, CONTRAST))

    def _skip_other(self, index: int, match: re.Match[str]) -> None:
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
        end = self._return(index)
        comma = self._next(index, BOUNDARIES)
        if start == self._start(index, CONTRAST) or self.words[start - 1] == "while":
            self._skip(start, end)
        else:  # a parenthesis: "the eyes, closed in the last picture, are open"
            self._skip(start, min(comma, end))

    def _return(self, index: int) -> int:
        """Return where the sentence comes back to this person and this picture."""
        while index < len(self.words):
            word = self.words[index]
            following = self.words[index + 1 : index + 6]
            if word in CONTRAST:
                tense = next(
                    (near for near in self.words[index + 1 :] if near in rules.PAST | {"is", "are", "has"}), ""
                )
                if word == BREAK or tense not in rules.PAST or not rules.RETURNS.isdisjoint(following):
                    return index
            subject_follows = word == "while" and "subject" in following
            if subject_follows or (word in (",", "and", "while") and not rules.RETURNS.isdisjoint(following[:3])):
                return index
            index += 1
        return index


def _simplified(text: str) -> str:
    text = text.replace("cannot", "can not")
    for rule, plain in rules.REWRITTEN:
        text = rule.sub(plain, text)
    text = rules.AFFIRMED.sub(f" {BREAK} ", text)
    negated = rules.NEGATED.sub(f" {_DENIED_MARK} ", text)
    if negated != text:
        return negated
    claim = rules.FALSE_CLAIM.search(text)
    if claim is None:
        claim = rules.FALSE_AFTER.match(text)
    if claim is None:
        return text
    groups = claim.groupdict()
    body = groups["body"] if groups["body"] is not None else groups["ellipsis"]
    mark = BREAK if re.fullmatch(rules.TRUE, groups["verdict"] or "") else _DENIED_MARK
    return f"{text[: claim.start()]} {mark} {body} {_END_MARK} {text[claim.end() :]}"
