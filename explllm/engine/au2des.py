"""AU2Des Generation (paper, Section III-B-2): a description from the action units alone."""

from explllm.core.action_units import NAMES
from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face
from explllm.engine.img2au import format_units, format_unmeasured
from explllm.llm.prompt import render


async def describe(face: Face, dialogue: Dialogue) -> str:
    """Return a description of a face's movements; the prompt contains only the action units."""
    absent = [name.lower() for name, value in zip(NAMES, face.action_units, strict=True) if value == 0]
    question = render(
        "explllm.engine",
        "au2des",
        units=format_units(face.action_units),
        absent=", ".join(absent) or "none",
        unmeasured=format_unmeasured(face.action_units),
    )
    return await dialogue.ask_for_description("au2des", question)
