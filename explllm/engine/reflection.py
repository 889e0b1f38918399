"""Feedback Reflection (paper, Section III-B-5): what was wrong goes back with the whole history."""

from collections.abc import Sequence

from explllm.engine.asking import Asker
from explllm.engine.au2des import MAX_TOKENS, WANTED, said
from explllm.engine.face import Face
from explllm.engine.memory import Memory
from explllm.llm.prompt import render


async def reflect(face: Face, problems: Sequence[str], memory: Memory, ask: Asker) -> str:
    """Ask for a revised description.

    Args:
        face: The face; its true label is told once the rounds have passed the threshold.
        problems: What was wrong with the last description.
        memory: The history that is sent along; takes up question and answer.
        ask: Who is asked; its round is the number of this reflection, from 1.

    Returns:
        The new description.
    """
    label = str(face.expression) if label_is_given(ask) else None
    question = render("explllm.engine", "reflection", problems=list(problems), label=label)
    description = await ask("reflection", memory.asked(question), said, WANTED, MAX_TOKENS)
    memory.answered(description)
    return description


def label_is_given(ask: Asker) -> bool:
    """Tell whether the rounds have passed the threshold after which the true label is given."""
    return ask.round > ask.settings.label_after
