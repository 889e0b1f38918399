"""Format Refinement (paper, Section III-B-6): a chain of thought with three parts and at most 130 words."""

import re
from collections.abc import Sequence

from explllm.core.expressions import Expression
from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face
from explllm.engine.img2au import format_units
from explllm.explanations.chain_of_thought import TITLES, ChainOfThought
from explllm.explanations.checks import pair_problems
from explllm.llm.prompt import render
from explllm.llm.reading import object_schema, parse_object
from explllm.llm.request import clean_text

MAX_TOKENS = 512
EXPECTED = "the three parts under their titles, none of them empty"
_PARTS = ("key_observations", "overall_emotional_interpretation", "conclusion")
SCHEMA = object_schema("chain_of_thought", **{part: {"type": "string"} for part in _PARTS})


async def refine(
    face: Face, description: str, expression: Expression, dialogue: Dialogue
) -> tuple[ChainOfThought, Sequence[str]]:
    """Rewrite a verified description as a chain of thought until the local checks pass, up to `max_refinements` times.

    Returns:
        The last version and its remaining problems.
    """
    settings, previous = dialogue.settings, ""
    problems: list[str] = []
    for step in range(settings.max_refinements):
        question = render(
            "explllm.engine",
            "refinement",
            expression=str(expression),
            words=settings.max_words,
            target_words=settings.max_words * 4 // 5,
            units=format_units(face.action_units),
            problems=problems,
            previous=previous,
            description=description,
        )
        cot = await dialogue.ask("refinement", question, read_cot, EXPECTED, MAX_TOKENS, SCHEMA, step)
        problems = pair_problems(cot, face.action_units, expression, settings.max_words, settings.strong)
        if not problems:
            break
        previous = cot.text
    return cot, problems


def read_cot(text: str) -> ChainOfThought | None:
    """Parse a chain of thought: a structured answer or a text with three sections; None if a section is missing."""
    value = parse_object(text)
    if value is not None:
        fields = [(title, value.get(part)) for title, part in zip(TITLES, _PARTS, strict=True)]
        # JSON escapes can encode characters that the client has removed from the answer.
        parts = [_strip_title(title, clean_text(part)) if isinstance(part, str) else "" for title, part in fields]
        return ChainOfThought.from_sections(*parts) if all(parts) else None
    cot = ChainOfThought.parse(text)
    # Normalize the titles.
    return ChainOfThought.from_sections(*cot.sections) if all(cot.sections) else None


def _strip_title(title: str, part: str) -> str:
    """Remove the title that some models repeat at the start of a part, although it is already the field's name."""
    return re.sub(rf"\A[\s#*_]*{title}[\s*_]*(?::|\n)[\s*_]*", "", part, flags=re.IGNORECASE).strip()
