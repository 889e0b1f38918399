"""Result Verification (paper, Section III-B-4): action units, intensities, label.

The model judges whether the description names the action units in fitting words; the label is compared in code, and so
are all local checks, before anything is asked.
"""

import json
import re

from explllm.core.expressions import Expression
from explllm.engine.asking import Asker
from explllm.engine.face import Face
from explllm.engine.img2au import in_words, unmeasured
from explllm.explanations.checks import description_problems
from explllm.llm.prompt import render
from explllm.llm.request import ChatMessage

MAX_TOKENS = 32
WANTED = "Correct or Incorrect, and nothing else"
SCHEMA = {
    "title": "verdict",
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["Correct", "Incorrect"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


async def verify(face: Face, description: str, inferred: Expression, ask: Asker) -> list[str]:
    """Find what is wrong with a description and the expression inferred from it.

    Args:
        face: The face.
        description: Its description.
        inferred: The expression that the description arrives at.
        ask: Who is asked, once all that costs nothing is in order.

    Returns:
        What is wrong, in words that do not betray the true label; empty if nothing is.
    """
    problems = description_problems(description, face.action_units, ask.settings.strong)
    if inferred != face.expression:
        problems.insert(0, f"the description arrives at {inferred}, which is not the expression of this face")
    if problems:
        return problems
    question = render(
        "explllm.engine",
        "verification",
        units=in_words(face.action_units),
        unmeasured=unmeasured(face.action_units),
        description=description,
    )
    correct = await ask("verification", (ChatMessage("user", question),), read_verdict, WANTED, MAX_TOKENS, SCHEMA)
    return [] if correct else ["the description does not fit the action units or their intensities"]


def read_verdict(text: str) -> bool | None:
    """Read "Correct" or "Incorrect", bare or as a structured answer; None if the answer is neither."""
    try:
        value = json.loads(text)
        text = str(value.get("verdict", "")) if isinstance(value, dict) else str(value)
    except ValueError:
        pass
    word = re.sub(r"[^a-z]", "", text.lower())
    return {"correct": True, "incorrect": False}.get(word)
