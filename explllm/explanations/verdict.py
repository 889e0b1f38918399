"""Decide which expression English prose describes.

The rules are word-based, deterministic and fast. Each word that names or suggests an expression is a piece of evidence.
Its weight is the strength of the word (a label counts more than a mood word) times a factor for its context, which may
deny the expression ("absence of anger", "rather than fear"), weaken it ("with undertones of sadness"), or strengthen it
("primarily one of joy", "sadness as the dominant emotion"). The expression with the highest sum wins.

The rules were developed on half of 600 chains of thought from the released RAF-DB test list and checked on the other
half. tests/explanations/test_chain_of_thought.py states the measured agreement.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from explllm.core.expressions import SYNONYMS, Expression
from explllm.explanations import verdict_words as vocabulary
from explllm.explanations.scope import scoped

_LABEL_WEIGHT = 3.0
_SYNONYM_WEIGHT = 2.0
_NO_STRONG_EMOTION_WEIGHT = 1.0

_WORD = re.compile(r"[a-z]+|[,;:()—–]")
_SHORTENED_NOT = re.compile(r"n['’]t\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s|$)|\n")
_QUESTION = re.compile(r"\?\s*$")
# The reach, in tokens, of reversals, of concessions, and of dampers and boosters.
_REACH = 18
_CONCESSION_REACH = 30
_NEAR = 5
_LIST_ITEM = 3  # maximum number of words between the commas of a list

_REVERSED_FACTOR = -0.25
_DAMPED_FACTOR = 0.35
_WEAKLY_DAMPED_FACTOR = 0.7
_BOOSTED_FACTOR = 1.6
_CLEAR_FACTOR = 1.2
_UNMOVED_FACTOR = 0.3

_NAMED = 1.0
"""Minimum score of a decisive text: a label may be weakened once (3 x 0.35), not twice."""
_TIED = 0.85
"""Minimum ratio of the second-best to the best score at which the two count as tied."""

Evidence = tuple[tuple[Expression, float], ...]


def _table() -> tuple[dict[str, Evidence], dict[str, Evidence]]:
    """Return the evidence for whole words and for stems."""
    words: defaultdict[str, list[tuple[Expression, float]]] = defaultdict(list)
    for expression, by_weight in vocabulary.HINTS.items():
        for weight, pattern in by_weight.items():
            for word in pattern.split():
                words[word].append((expression, weight))
    for word, expression in SYNONYMS.items():
        words[word] = [(expression, _LABEL_WEIGHT if word in vocabulary.LABEL_NOUNS else _SYNONYM_WEIGHT)]
    whole = {word: tuple(evidence) for word, evidence in words.items() if not word.endswith("*")}
    stems = {word[:-1]: tuple(evidence) for word, evidence in words.items() if word.endswith("*")}
    return whole, stems


_WHOLE, _STEMS = _table()
_LONGEST_STEM = max(map(len, _STEMS))


@lru_cache(maxsize=4096)
def _evidence(word: str) -> Evidence:
    if word in _WHOLE:
        return _WHOLE[word]
    return next(
        (_STEMS[word[:size]] for size in range(min(len(word), _LONGEST_STEM), 2, -1) if word[:size] in _STEMS), ()
    )


@lru_cache(maxsize=1024)
def score(text: str) -> Mapping[Expression, float]:
    """Score the evidence of a text for each expression.

    Args:
        text: English prose of any length.

    Returns:
        Sum of weights per mentioned expression; negative if the text denies the expression.
    """
    scores: defaultdict[Expression, float] = defaultdict(float)
    for sentence in _SENTENCE_END.split(_SHORTENED_NOT.sub(" not", text.lower())):
        if _QUESTION.search(sentence):
            continue
        scope = scoped(_WORD.findall(sentence), modal_verbs=False)
        words = scope.words
        for position, word in enumerate(words):
            if not scope.asserted[position]:
                continue
            if word in vocabulary.EMOTION:
                if _denies_strong_emotion(words, position):
                    scores[Expression.NEUTRAL] += _NO_STRONG_EMOTION_WEIGHT
                continue
            evidence = _evidence(word)
            if not evidence:
                continue
            factor = _UNMOVED_FACTOR if _is_unmoved_part(words, position) else _context_factor(words, position)
            if scope.denied[position]:
                factor = _REVERSED_FACTOR if factor > 0 else 1.0
            for expression, weight in evidence:
                scores[expression] += weight * factor
    return MappingProxyType(scores)


def _denies_strong_emotion(words: Sequence[str], position: int) -> bool:
    before = words[max(0, position - 6) : position]
    if vocabulary.STRONG.isdisjoint(before) or "other" in before or ("negative" in before and "positive" not in before):
        return False
    return _is_reversed(words, position)


def _is_unmoved_part(words: Sequence[str], position: int) -> bool:
    """Return whether "neutral" describes a part of the face ("neutral brows", "the lips remain neutral")."""
    if words[position] not in vocabulary.UNMOVED:
        return False
    after = next((word for word in words[position + 1 : position + 5] if word not in vocabulary.BETWEEN_PART), "")
    before = next((word for word in words[max(0, position - 4) : position][::-1] if word not in vocabulary.STAYS), "")
    return after in vocabulary.PARTS or (before in vocabulary.PARTS and words[position - 1] in vocabulary.STAYS)


def _context_factor(words: Sequence[str], position: int) -> float:
    if _is_reversed(words, position):
        return _REVERSED_FACTOR
    factor = _before_factor(words, position) * _after_factor(words, position)
    return factor * _DAMPED_FACTOR if _is_conceded(words, position) else factor


def _is_conceded(words: Sequence[str], position: int) -> bool:
    """Return whether a concession ("despite ...") opens the clause, possibly with a list of short items."""
    since_comma = 0
    for word in reversed(words[max(0, position - _CONCESSION_REACH) : position]):
        if word in vocabulary.CONCESSIONS:
            return True
        if word in vocabulary.BREAKS or (word == "," and since_comma > _LIST_ITEM):
            return False
        since_comma = 0 if word == "," else since_comma + 1
    return False


def _is_reversed(words: Sequence[str], position: int) -> bool:
    """Return whether an odd number of nested reversals governs the word at ``position`` in its clause."""
    count = 0
    since_comma = 0
    for at in range(position - 1, max(-1, position - 1 - _REACH), -1):
        word = words[at]
        if word in vocabulary.BREAKS or word in vocabulary.CONCESSIONS or (count and word in vocabulary.JOINERS):
            break
        if word == ",":
            if since_comma > _LIST_ITEM:
                break  # longer than a list item: a new clause
            since_comma = 0
            continue
        since_comma += 1
        if word in vocabulary.REVERSALS:
            following = words[at + 1] if at + 1 < len(words) else ""
            if following in vocabulary.NO_REVERSAL_BEFORE.get(word, ()):
                continue
            if word in vocabulary.REQUIRED_AFTER and following not in vocabulary.REQUIRED_AFTER[word]:
                continue
            count += 1
            if word == "nor":
                break
        elif vocabulary.SHOWING.fullmatch(word) and vocabulary.REVERSALS.isdisjoint(words[max(0, at - 2) : at]):
            break
        if word == "over" and at == position - 1:
            count += 1
    return count % 2 == 1


def _before_factor(words: Sequence[str], position: int) -> float:
    factor = 1.0
    clear = shown = False
    for at in range(position - 1, max(-1, position - 1 - _NEAR), -1):
        word = words[at]
        if word in vocabulary.BREAKS:
            break
        if word == "," and position - at > 3:
            break
        if vocabulary.HEDGES.fullmatch(word) or (not shown and vocabulary.DAMPERS.fullmatch(word)):
            return factor * _DAMPED_FACTOR
        if vocabulary.BOOSTERS.fullmatch(word):
            return factor * _BOOSTED_FACTOR
        if word in vocabulary.BLENDS or (word in vocabulary.WEAK_DAMPERS and position - at <= 3):
            factor = _WEAKLY_DAMPED_FACTOR
        if not clear and vocabulary.CLARITY.fullmatch(word):
            clear = True
            factor *= _CLEAR_FACTOR
        # Words before the verb belong to its subject: "the subtle movements convey joy".
        shown = shown or vocabulary.SHOWING.fullmatch(word) is not None
    return factor


def _after_factor(words: Sequence[str], position: int) -> float:
    copula = False
    for at in range(position + 1, min(len(words), position + 1 + _NEAR)):
        word = words[at]
        if word in vocabulary.BREAKS or word in vocabulary.WEAK_DAMPERS or word == "," or _evidence(word):
            break
        if vocabulary.BOOST_AFTER.fullmatch(word):
            return _BOOSTED_FACTOR
        following = words[at + 1] if at + 1 < len(words) else ""
        if copula and word in vocabulary.DENIED_AFTER:
            return 1.0 if following in vocabulary.NO_REVERSAL_BEFORE.get(word, ()) else _REVERSED_FACTOR
        if (copula and word in vocabulary.DAMPED_AFTER) or (
            at == position + 1 and vocabulary.ASIDE_NOUN.fullmatch(word)
        ):
            return _DAMPED_FACTOR
        copula = copula or word in vocabulary.COPULA
    return 1.0


def is_decisive(text: str) -> bool:
    """Return whether a text clearly describes one expression.

    Args:
        text: English prose of any length.

    Returns:
        True if the best score is at least that of a label weakened once or of one strong hint, and no other score is
        close.
    """
    return _is_decided(score(text))


def is_ambiguous(text: str) -> bool:
    """Return whether a text describes several expressions equally, as a list of all labels does.

    Args:
        text: English prose of any length.

    Returns:
        True if the second-best score is close to the best.
    """
    best, second = _best_two(score(text))
    return second > 0 and second >= _TIED * best


def _is_decided(scores: Mapping[Expression, float]) -> bool:
    best, second = _best_two(scores)
    return best >= _NAMED and second < _TIED * best


def _best_two(scores: Mapping[Expression, float]) -> tuple[float, float]:
    best, second = sorted([*scores.values(), 0.0, 0.0], reverse=True)[:2]
    return best, second


def verdict(text: str, *further: str) -> Expression | None:
    """Return the expression that a text describes.

    >>> verdict("Although the smile hints at joy, the face mainly conveys anger.")
    <Expression.ANGER: 'Anger'>

    Args:
        text: English prose of any length.
        *further: Texts that contribute only if ``text`` is undecided (see `is_decisive`). The first adds a total of
            at most 1 to the scores, the second at most 0.5, and so on.

    Returns:
        The expression with the highest positive score, or None. Ties go to the expression mentioned first.
    """
    scores = dict(score(text))
    if not _is_decided(scores):
        weight = _NAMED
        for other in further:
            # Normalize the scores; otherwise a long text would count more than a short one.
            positive = {expression: value for expression, value in score(other).items() if value > 0}
            total = sum(positive.values())
            for expression, value in positive.items():
                scores[expression] = scores.get(expression, 0.0) + weight * value / total
            weight /= 2
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] > 0 else None
