"""Feedback Reflection (paper, Section III-B-5): the model revises its description with the feedback and the history."""

from collections.abc import Sequence

from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face
from explllm.llm.prompt import render


async def reflect(face: Face, problems: Sequence[str], dialogue: Dialogue) -> str:
    """Return a revised description; the prompt reveals the label once the rounds have passed the threshold."""
    label = str(face.expression) if dialogue.label_is_given else None
    question = render("explllm.engine", "reflection", problems=list(problems), label=label)
    return await dialogue.ask_for_description("reflection", question)
