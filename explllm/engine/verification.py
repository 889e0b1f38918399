"""Result Verification (paper, Section III-B-4): checks of the action units, intensities and label.

The inferred label and the text are first checked by rules, at no cost. The model then judges whether the description
matches the action units and their intensities.
"""

import re

from explllm.core.expressions import Expression
from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face
from explllm.engine.img2au import format_units, format_unmeasured
from explllm.explanations.checks import description_problems
from explllm.llm.prompt import render
from explllm.llm.reading import answer_field, object_schema

MAX_TOKENS = 32
EXPECTED = "Correct or Incorrect, and nothing else"
SCHEMA = object_schema("verdict", verdict={"type": "string", "enum": ["Correct", "Incorrect"]})


async def verify(face: Face, description: str, inferred: Expression, dialogue: Dialogue) -> list[str]:
    """Return the problems of a description and of the expression inferred from it, without naming the true label.

    The model is asked only if the local checks pass.
    """
    problems = description_problems(description, face.action_units, dialogue.settings.strong)
    if inferred != face.expression:
        problems.insert(0, f"the description arrives at {inferred}, which is not the expression of this face")
    if problems:
        return problems
    question = render(
        "explllm.engine",
        "verification",
        units=format_units(face.action_units),
        unmeasured=format_unmeasured(face.action_units),
        description=description,
    )
    correct = await dialogue.ask("verification", question, read_verdict, EXPECTED, MAX_TOKENS, SCHEMA)
    return [] if correct else ["the description does not fit the action units or their intensities"]


def read_verdict(text: str) -> bool | None:
    """Parse "Correct" or "Incorrect", bare or as a structured answer; None if the answer is neither."""
    word = re.sub(r"[^a-z]", "", answer_field(text, "verdict").lower())
    return {"correct": True, "incorrect": False}.get(word)
