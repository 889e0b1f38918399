"""Instruction texts for facial expression analysis: write three kinds of answers for a face by rules, and check them.

FEALLM's authors describe instruction data for facial expression analysis but did not release it. The kinds of answers
follow their abstract: the active action units, the reasoning from the units to the expression, and a description that
begins with the label. The forms and limits are this project's own.
"""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from explllm.core.action_units import FEAFA, NAMES, intensity_word
from explllm.core.expressions import Expression
from explllm.explanations.checks import description_problems, names_expression
from explllm.explanations.grounding import ACTIVE, STRONG, ground
from explllm.explanations.rule_writer import RuleWriter
from explllm.explanations.unit_numbers import named_units
from explllm.explanations.verdict import verdict

InstructionKind = Literal["description", "units", "reasoning"]

INSTRUCTION_KINDS: tuple[InstructionKind, ...] = get_args(InstructionKind)
"""The kinds of answers, in the order in which a model is asked for them."""

NO_UNITS = "No action unit is active."
"""The ``units`` answer for a face without active units."""

_VISIBLE = 0.25
"""Minimum intensity of a movement that is more than slight. An answer about a face with such a movement must claim or
deny a unit."""

_FIRST_WORD = re.compile(r"\A\W*(\w+)\s*[.:,]")


def write_instructions(
    writer: RuleWriter, action_units: Sequence[float | None], expression: Expression, seed: int = 0
) -> dict[InstructionKind, str]:
    """Write the three answers for a face by rules.

    >>> units = [0.0] * 24
    >>> units[8] = 0.7  # Jaw Drop
    >>> write_instructions(RuleWriter(), units, Expression.SURPRISE)["units"]
    'Active action units: strong jaw drop (AU26).'

    Args:
        writer: Writes the observations and the interpretation.
        action_units: 24 intensities in [0, 1], in FEAFA order; None for a unit that was not measured.
        expression: The label.
        seed: Selects the wordings.

    Returns:
        The answers by kind.

    Raises:
        InputError: If the action units are not 24 values, each a number in [0, 1] or None.
    """
    cot = writer.write(action_units, expression, seed=seed)
    active = [(value, unit) for unit, value in zip(FEAFA, action_units, strict=True) if value and value >= ACTIVE]
    listed = [
        f"{intensity_word(value)} {unit.name.lower()} ({' and '.join(f'AU{number}' for number in unit.facs)})"
        for value, unit in sorted(active, key=lambda pair: (-pair[0], pair[1].number))
    ]
    return {
        "description": f"{expression}. {cot.key_observations}",
        "units": f"Active action units: {', '.join(listed)}." if listed else NO_UNITS,
        "reasoning": f"{cot.key_observations} {cot.interpretation} {cot.conclusion}",
    }


def instruction_problems(
    kind: InstructionKind,
    text: str,
    action_units: Sequence[float | None],
    expression: Expression,
    max_words: int = 130,
    strong: float = STRONG,
) -> list[str]:
    """Check an answer against the label and the measured units.

    Args:
        kind: The kind of answer.
        text: The answer.
        action_units: 24 intensities in [0, 1]; None for a unit that was not measured.
        expression: The label.
        max_words: Maximum number of words; the kind ``units`` has no maximum.
        strong: Minimum intensity of a unit that must be mentioned; the kind ``units`` uses `ACTIVE` instead.

    Returns:
        One phrase per problem; an empty list if the answer passes.
    """
    problems = []
    rest = text
    if kind == "description":
        first = _FIRST_WORD.match(text)
        if first is None or not names_expression(first[1], expression):
            problems.append(f"it does not begin with the label: {expression}.")
        else:
            rest = text[first.end() :]
    elif kind == "reasoning":
        last = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
        if not names_expression(last, expression) or verdict(last) != expression:
            problems.append(f"its last sentence does not name {expression}")
    other = verdict(rest)
    if other is not None and other != expression and names_expression(rest, other):
        problems.append(f"it describes {other}")
    if (words := len(text.split())) > max_words and kind != "units":
        problems.append(f"it has {words} words, more than {max_words}")
    problems += description_problems(text, action_units, ACTIVE if kind == "units" else strong)
    grounding = ground(text, action_units, strong=ACTIVE)
    if not grounding.claims and max((value or 0 for value in action_units), default=0) >= _VISIBLE:
        problems.append("it states no facial movement in English")
    problems += [f"{NAMES[unit].lower()} ({action_units[unit]:.2f}) is denied" for unit in grounding.contradicted]
    if grounding.intensity_agreement is not None and grounding.intensity_agreement < 1:
        problems.append("a word for the strength does not match the measured intensity")
    if kind == "units":
        problems += _number_problems(text, action_units)
    return problems


def _number_problems(text: str, action_units: Sequence[float | None]) -> list[str]:
    """Compare the FACS numbers in a text with the measured units."""
    listed = named_units(text)
    active = [unit for unit, value in zip(FEAFA, action_units, strict=True) if value is not None and value >= ACTIVE]
    possible = {number for unit in active for number in unit.facs}
    problems = [f"AU{number} is listed, but no such unit is active" for number in sorted(listed - possible)]
    for unit in active:
        if not listed & set(unit.facs):
            value = action_units[unit.number - 1]
            problems.append(f"{NAMES[unit.number - 1].lower()} ({value:.2f}) is listed without its FACS number")
    return problems
