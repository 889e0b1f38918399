"""Format Refinement (paper, Section III-B-6): three parts, at most 130 words."""

import json
import re
from collections.abc import Sequence

from explllm.core.expressions import Expression
from explllm.engine.asking import Asker
from explllm.engine.face import Face
from explllm.engine.img2au import in_words
from explllm.explanations.chain_of_thought import TITLES, ChainOfThought
from explllm.explanations.checks import pair_problems
from explllm.llm.prompt import render
from explllm.llm.request import ChatMessage

MAX_TOKENS = 512
WANTED = "the three parts under their titles, none of them empty"
_PARTS = ("key_observations", "overall_emotional_interpretation", "conclusion")
SCHEMA = {
    "title": "chain_of_thought",
    "type": "object",
    "properties": {part: {"type": "string"} for part in _PARTS},
    "required": list(_PARTS),
    "additionalProperties": False,
}


async def refine(
    face: Face, description: str, expression: Expression, ask: Asker
) -> tuple[ChainOfThought, Sequence[str]]:
    """Bring a description into form, again while local checks find faults.

    Args:
        face: The face.
        description: Its verified description.
        expression: The expression that was inferred from it.
        ask: Who is asked.

    Returns:
        The last version, and the faults that are left in it.
    """
    settings, previous = ask.settings, ""
    problems: list[str] = []
    for step in range(settings.max_refinements):
        question = render(
            "explllm.engine",
            "refinement",
            expression=str(expression),
            words=settings.max_words,
            margin=settings.max_words * 4 // 5,
            units=in_words(face.action_units),
            problems=problems,
            previous=previous,
            description=description,
        )
        cot = await ask("refinement", (ChatMessage("user", question),), read_cot, WANTED, MAX_TOKENS, SCHEMA, step)
        problems = pair_problems(cot, face.action_units, expression, settings.max_words, settings.strong)
        if not problems:
            break
        previous = cot.text
    return cot, problems


def read_cot(text: str) -> ChainOfThought | None:
    """Read a chain of thought: a structured answer, or a text in three sections; None if a section is missing."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        found = [(title, value.get(part)) for title, part in zip(TITLES, _PARTS, strict=True)]
        parts = [_untitled(title, part) if isinstance(part, str) else "" for title, part in found]
        return ChainOfThought.from_sections(*parts) if all(parts) else None
    cot = ChainOfThought.parse(text)
    # In the usual form, whatever titles the model chose.
    return ChainOfThought.from_sections(*cot.sections) if all(cot.sections) else None


def _untitled(title: str, part: str) -> str:
    """Return a part without the title that some models repeat in it, although the field's name says it."""
    return re.sub(rf"\A[\s#*_]*{title}[\s*_]*(?::|\n)[\s*_]*", "", part, flags=re.IGNORECASE).strip()
