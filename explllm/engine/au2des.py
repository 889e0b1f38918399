"""AU2Des Generation (paper, Section III-B-2): a description from the action units alone."""

from explllm.core.action_units import NAMES
from explllm.engine.asking import Asker
from explllm.engine.face import Face
from explllm.engine.img2au import in_words, unmeasured
from explllm.engine.memory import Memory
from explllm.llm.prompt import render

MAX_TOKENS = 1024
WANTED = "the analysis, in plain words"


async def describe(face: Face, memory: Memory, ask: Asker) -> str:
    """Ask for a description of a face's movements.

    Args:
        face: The face; only its action units are told.
        memory: Takes up question and answer.
        ask: Who is asked.

    Returns:
        The description.
    """
    absent = [name.lower() for name, value in zip(NAMES, face.action_units, strict=True) if value == 0]
    question = render(
        "explllm.engine",
        "au2des",
        units=in_words(face.action_units),
        absent=", ".join(absent) or "none is left",
        unmeasured=unmeasured(face.action_units),
    )
    description = await ask("au2des", memory.asked(question), said, WANTED, MAX_TOKENS)
    memory.answered(description)
    return description


def said(text: str) -> str | None:
    """Read a free text: any that is not empty."""
    return text.strip() or None
