"""Rule-based checks of chains of thought: form, conclusion and grounding."""

import re
from collections.abc import Sequence

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.grounding import ground

_INDEX = re.compile(r"\bA\.?U\.?s?\s*[-#]?\s*\d+|\baction units?\s*(?:no\.?|number|#)?\s*\d+", re.IGNORECASE)
# "US" is the country. "I" is a pronoun only before an apostrophe or a lowercase word; elsewhere, it is a numeral or
# part of "i.e.".
_PRONOUN = re.compile(
    r"\b(?:(?i:he|she|him|his|hers?|himself|herself|they|them|theirs?|themselves|me|my|mine|myself|we|our|ours|ourselves"
    r"|you|your|yours|yourself)|[Uu]s|[Ii](?=['’]|\s+[a-z]))\b"
)


def description_problems(text: str, action_units: Sequence[float | None], strong: float = 0.3) -> list[str]:
    """Compare a text about a face with the face's measured action units.

    Args:
        text: A description or a chain of thought.
        action_units: 24 intensities in [0, 1]; None for a unit that was not measured.
        strong: Minimum intensity of a unit that must be mentioned.

    Returns:
        One phrase per problem; empty if there are none.
    """
    grounding = ground(text, action_units, strong=strong)
    problems = [f"{NAMES[unit].lower()} ({action_units[unit]:.2f}) is not mentioned" for unit in grounding.missing]
    problems += [f"{NAMES[unit].lower()} is claimed, but only the other side moves" for unit in grounding.side_errors]
    problems += [
        f"{NAMES[unit].lower()} is claimed, but its intensity is 0"
        for unit in grounding.unsupported
        if unit not in grounding.side_errors
    ]
    return problems


def pair_problems(
    cot: ChainOfThought,
    action_units: Sequence[float | None] | None,
    expression: Expression,
    max_words: int = 130,
    strong: float = 0.3,
) -> list[str]:
    """Check the form, conclusion and grounding of a chain of thought.

    Args:
        cot: The chain of thought.
        action_units: 24 intensities in [0, 1], with None for each unmeasured unit. Pass None instead of the list to
            skip the grounding check.
        expression: The label that the conclusion must name.
        max_words: Maximum number of words, including titles.
        strong: Minimum intensity of a unit that must be mentioned.

    Returns:
        One phrase per problem; empty if there are none.
    """
    problems = [*cot.check(expression, max_words), *form_problems(cot)]
    if ChainOfThought.parse(cot.text).sections != cot.sections:
        problems.append("a section contains the title of another section")
    verdict = cot.expression
    if verdict is None or not names_expression(cot.conclusion, expression):
        problems.append(f"the conclusion does not name {expression}")
    if action_units is not None:
        problems += description_problems(cot.text, action_units, strong)
    return problems


def form_problems(cot: ChainOfThought) -> list[str]:
    """Find action unit numbers and personal pronouns in a chain of thought."""
    problems = []
    if index := _INDEX.search(cot.text):
        problems.append(f"it gives the number of an action unit ({index[0]})")
    if pronoun := _PRONOUN.search(cot.text):
        problems.append(f"it uses a personal pronoun ({pronoun[0]})")
    return problems


def names_expression(conclusion: str, expression: Expression) -> bool:
    """Return whether a conclusion names an expression by its noun or adjective."""
    return _OWN_WORDS[expression].search(conclusion) is not None


_OWN_WORDS = {
    expression: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for expression, words in {
        Expression.NEUTRAL: "neutral|neutrality",
        Expression.HAPPINESS: "happiness|happy",
        Expression.SADNESS: "sadness|sad",
        Expression.SURPRISE: "surprise|surprised",
        Expression.FEAR: "fear|fearful",
        Expression.DISGUST: "disgust|disgusted",
        Expression.ANGER: "anger|angry",
        Expression.CONTEMPT: "contempt|contemptuous",
    }.items()
}
