"""Local checks: free, deterministic, beside the model's own verdict."""

import re
from collections.abc import Sequence

from explllm.core.action_units import NAMES
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.grounding import ground

_INDEX = re.compile(r"\bA\.?U\.?s?\s*[-#]?\s*\d+|\baction units?\s*(?:no\.?|number|#)?\s*\d+", re.IGNORECASE)
# "US" is the country, and an "I" before anything but a word is a numeral, as is the "i" of "i.e.".
_PRONOUN = re.compile(
    r"\b(?:(?i:he|she|him|his|hers?|himself|herself|they|them|theirs?|themselves|me|my|mine|myself|we|our|ours|ourselves"
    r"|you|your|yours|yourself)|[Uu]s|[Ii](?=['’]|\s+[a-z]))\b"
)


def description_problems(text: str, action_units: Sequence[float | None], strong: float = 0.3) -> list[str]:
    """Hold a text about a face against its measured action units.

    Args:
        text: A description or a chain of thought.
        action_units: 24 intensities in [0, 1]; None for a unit that was not measured.
        strong: Intensity from which a unit must be mentioned.

    Returns:
        What is wrong, a phrase for each fault; empty if nothing is.
    """
    found = ground(text, action_units, strong=strong)
    problems = [f"{NAMES[unit].lower()} ({action_units[unit]:.2f}) is not mentioned" for unit in found.missing]
    problems += [f"{NAMES[unit].lower()} is claimed, but it is the other side that moves" for unit in found.side_errors]
    problems += [
        f"{NAMES[unit].lower()} is claimed, but its intensity is 0"
        for unit in found.unsupported
        if unit not in found.side_errors
    ]
    return problems


def pair_problems(
    cot: ChainOfThought,
    action_units: Sequence[float | None] | None,
    expression: Expression,
    max_words: int = 130,
    strong: float = 0.3,
) -> list[str]:
    """Check a chain of thought with its label: form, conclusion, grounding.

    Args:
        cot: The chain of thought.
        action_units: 24 intensities in [0, 1], with None for a unit that was not measured; None leaves grounding out.
        expression: The label that the conclusion must name.
        max_words: Most words, titles included.
        strong: Intensity from which a unit must be mentioned.

    Returns:
        What is wrong, a phrase for each fault; empty if nothing is.
    """
    problems = [*cot.check(expression, max_words), *form_problems(cot)]
    if ChainOfThought.parse(cot.text).sections != cot.sections:
        problems.append("the title of a section stands inside a section")
    verdict = cot.expression
    if verdict is None or not names_expression(cot.conclusion, expression):
        problems.append(f"the conclusion does not name {expression}")
    if action_units is not None:
        problems += description_problems(cot.text, action_units, strong)
    return problems


def form_problems(cot: ChainOfThought) -> list[str]:
    """Find indices of action units and personal pronouns in a chain of thought."""
    problems = []
    if index := _INDEX.search(cot.text):
        problems.append(f"it gives the number of an action unit ({index[0]})")
    if pronoun := _PRONOUN.search(cot.text):
        problems.append(f"it uses a personal pronoun ({pronoun[0]})")
    return problems


def names_expression(conclusion: str, expression: Expression) -> bool:
    """Tell whether a conclusion names an expression itself, by its own word or as an adjective of it."""
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
