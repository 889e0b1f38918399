"""The facial expressions, the words that name them, and each data set's classes in its own index order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from explllm.core.errors import ConfigError, UnknownExpressionError


class Expression(StrEnum):
    """A facial expression, under the name that the ExpLLM paper uses (Section IV-A)."""

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
        """Return the expression that a word names, in any case and with the usual synonyms.

        Args:
            word: A label such as ``Happiness``, ``happy`` or ``JOY``; white space and a final full stop are ignored.

        Returns:
            The expression.

        Raises:
            UnknownExpressionError: If the word names none.
        """
        found = SYNONYMS.get(word.strip().rstrip(".").lower()) if isinstance(word, str) else None
        if found is None:
            raise UnknownExpressionError(
                f"{word!r} names no expression", remedy=f"Use one of {', '.join(cls)}, or a common synonym."
            )
        return found


# Words that name one expression by themselves. Words that only hint at one, which the verdict of a chain of thought
# weighs too, stand in explllm.explanations.verdict.
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
"""Every lower-case word that `Expression.parse` understands, the labels themselves among them."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of one data set in its own index order."""

    name: str
    """The data set's name in configs and on the command line."""
    expressions: tuple[Expression, ...]
    """The classes, in index order."""
    first_index: int = 0
    """The number that the data set gives its first class: 1 for RAF-DB, 0 elsewhere."""

    @classmethod
    def by_name(cls, name: str) -> LabelSet:
        """Return the label set of a data set; case, spaces, hyphens and underscores do not matter.

        Args:
            name: For example ``rafdb`` or ``RAF-DB``; the known names are the keys of `LABEL_SETS`.

        Returns:
            The label set.

        Raises:
            ConfigError: If there is no set of that name.
        """
        found = LABEL_SETS.get("".join(letter for letter in str(name).lower() if letter.isalnum()))
        if found is None:
            raise ConfigError(f"there is no label set {name!r}", remedy=f"Use one of {', '.join(LABEL_SETS)}.")
        return found

    def index(self, expression: Expression) -> int:
        """Return the data set's own number of an expression.

        Args:
            expression: One of the classes.

        Returns:
            Its number, counted from `first_index`.

        Raises:
            UnknownExpressionError: If the expression is not a class of this set.
        """
        if expression not in self.expressions:
            raise self._unknown(expression)
        return self.expressions.index(expression) + self.first_index

    def expression(self, index: int) -> Expression:
        """Return the expression that has a number in this data set.

        Args:
            index: The data set's own number, counted from `first_index`.

        Returns:
            The expression.

        Raises:
            UnknownExpressionError: If the number is out of range.
        """
        position = index - self.first_index
        if not 0 <= position < len(self.expressions):
            raise self._unknown(index)
        return self.expressions[position]

    def parse(self, value: str | int) -> Expression:
        """Return the class that a cell of the data set's own tables names.

        Args:
            value: The data set's own number, the same as a string of digits, or a word as for `Expression.parse`.

        Returns:
            The expression.

        Raises:
            UnknownExpressionError: If the value names no class of this set.
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
        """Tell whether an expression is a class of this set."""
        return expression in self.expressions

    def _unknown(self, value: object) -> UnknownExpressionError:
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(self.expressions, self.first_index))
        shown = str(value) if isinstance(value, Expression) else repr(value)
        return UnknownExpressionError(f"{shown} is no class of the label set {self.name}", remedy=f"Use: {classes}.")


_AFFECTNET8 = tuple(Expression)
# FER2013 and ExpW share one alphabetical order with the neutral face last.
_ALPHABETICAL = (
    Expression.ANGER,
    Expression.DISGUST,
    Expression.FEAR,
    Expression.HAPPINESS,
    Expression.SADNESS,
    Expression.SURPRISE,
    Expression.NEUTRAL,
)
_RAFDB = (
    Expression.SURPRISE,
    Expression.FEAR,
    Expression.DISGUST,
    Expression.HAPPINESS,
    Expression.SADNESS,
    Expression.ANGER,
    Expression.NEUTRAL,
)

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
"""The label sets by name."""
