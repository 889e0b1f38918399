"""Facial expressions, their synonyms, and the label set of each data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from explllm.core.errors import ConfigError, UnknownExpressionError


class Expression(StrEnum):
    """A facial expression, named as in the ExpLLM paper (Section IV-A).

    >>> Expression.parse("joy")
    <Expression.HAPPINESS: 'Happiness'>
    """

    NEUTRAL = "Neutral"
    HAPPINESS = "Happiness"
    SADNESS = "Sadness"
    SURPRISE = "Surprise"
    FEAR = "Fear"
    DISGUST = "Disgust"
    ANGER = "Anger"
    CONTEMPT = "Contempt"

    @classmethod
    def parse(cls, word: str) -> Expression:
        """Return the expression named by a label or a common synonym, such as ``JOY``.

        Case, surrounding whitespace and trailing periods are ignored.

        Raises:
            UnknownExpressionError: If the word does not name an expression.
        """
        expression = SYNONYMS.get(word.strip().rstrip(".").lower()) if isinstance(word, str) else None
        if expression is None:
            raise UnknownExpressionError(
                f"unknown expression {word!r}", remedy=f"Use one of {', '.join(cls)}, or a common synonym."
            )
        return expression

    @classmethod
    def parse_or_none(cls, word: Any) -> Expression | None:
        """Return the result of `parse`, or None for anything that does not name an expression."""
        try:
            return cls.parse(word)
        except UnknownExpressionError:
            return None


# Words that name an expression. Words that merely suggest one are listed in explllm.explanations.verdict.
_WORDS: dict[Expression, str] = {
    Expression.NEUTRAL: "neutral neutrality",
    Expression.HAPPINESS: "happiness happy joy joyful joyous joyfulness happily joyfully gladness glad",
    Expression.SADNESS: "sadness sad sadly sorrow sorrowful sorrowfulness sorrowfully unhappiness unhappy grief",
    Expression.SURPRISE: "surprise surprised surprising astonishment astonished amazement amazed",
    Expression.FEAR: "fear fearful fearfulness fearfully scared afraid fright frightened terror terrified",
    Expression.DISGUST: "disgust disgusted disgusting disgustedly revulsion revolted repulsion repulsed",
    Expression.ANGER: "anger angry angered angrily rage enraged fury furious",
    Expression.CONTEMPT: "contempt contemptuous contemptuously scorn scornful disdain disdainful",
}

SYNONYMS: Mapping[str, Expression] = MappingProxyType(
    {word: expression for expression, words in _WORDS.items() for word in words.split()}
)
"""Every lowercase word that `Expression.parse` accepts, including the labels themselves."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, in index order.

    >>> label_set = LabelSet.by_name("RAF-DB")
    >>> label_set.expression(4)
    <Expression.HAPPINESS: 'Happiness'>
    >>> label_set.index(Expression.NEUTRAL)
    7
    """

    name: str
    """The name used in configs and on the command line."""
    expressions: tuple[Expression, ...]
    """The classes, in index order."""
    first_index: int = 0
    """The number of the first class: 1 for RAF-DB, 0 for the others."""

    @classmethod
    def by_name(cls, name: str) -> LabelSet:
        """Return the label set of a data set. Case, spaces, hyphens and underscores are ignored.

        Raises:
            ConfigError: If the name is not a key of `LABEL_SETS`.
        """
        label_set = LABEL_SETS.get("".join(letter for letter in str(name).lower() if letter.isalnum()))
        if label_set is None:
            raise ConfigError(f"unknown label set {name!r}", remedy=f"Use one of {', '.join(LABEL_SETS)}.")
        return label_set

    def index(self, expression: Expression) -> int:
        """Return the number that the data set assigns to an expression; the first class has the number `first_index`.

        Raises:
            UnknownExpressionError: If the expression is not in this label set.
        """
        if expression not in self.expressions:
            raise self._unknown(expression)
        return self.expressions.index(expression) + self.first_index

    def expression(self, index: int) -> Expression:
        """Return the expression with a given class number; the first class has the number `first_index`.

        Raises:
            UnknownExpressionError: If the number is out of range.
        """
        position = index - self.first_index
        if not 0 <= position < len(self.expressions):
            raise self._unknown(index)
        return self.expressions[position]

    def parse(self, value: str | int) -> Expression:
        """Return the class named by a cell of the data set's annotation files.

        The cell is a class number, the same number as a string, or a word accepted by `Expression.parse`.

        Raises:
            UnknownExpressionError: If the value does not name a class of this label set.
        """
        if isinstance(value, bool):
            raise self._unknown(value)
        if isinstance(value, str):
            word = value.strip()
            if not word.isdecimal():
                try:
                    expression = Expression.parse(word)
                except UnknownExpressionError:
                    raise self._unknown(value) from None
                if expression not in self.expressions:
                    raise self._unknown(value)
                return expression
            value = int(word)
        try:
            return self.expression(value.__index__())
        except (AttributeError, TypeError):
            raise self._unknown(value) from None

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.expressions)

    def __iter__(self) -> Iterator[Expression]:
        """Iterate over the classes in index order."""
        return iter(self.expressions)

    def __contains__(self, expression: object) -> bool:
        """Return whether an expression is in this label set."""
        return expression in self.expressions

    def _unknown(self, value: object) -> UnknownExpressionError:
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(self.expressions, self.first_index))
        shown = str(value) if isinstance(value, Expression) else repr(value)
        return UnknownExpressionError(f"{shown} is not in the label set {self.name}", remedy=f"Use one of: {classes}.")


_AFFECTNET8 = tuple(Expression)
# FER2013 and ExpW use the same order: alphabetical, with Neutral last.
_ALPHABETICAL = tuple(map(Expression, ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")))
_RAFDB = tuple(map(Expression, ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")))

LABEL_SETS: Mapping[str, LabelSet] = MappingProxyType(
    {
        label_set.name: label_set
        for label_set in (
            LabelSet("rafdb", _RAFDB, first_index=1),
            LabelSet("affectnet8", _AFFECTNET8),
            LabelSet("affectnet7", _AFFECTNET8[:7]),
            LabelSet("fer2013", _ALPHABETICAL),
            LabelSet("expw", _ALPHABETICAL),
        )
    }
)
"""All label sets, by name."""
