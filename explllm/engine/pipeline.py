"""The six processes in their order, for one face."""

import re
from collections.abc import Sequence

from explllm.core.expressions import Expression
from explllm.engine.asking import Ask, Asker, UnreadableAnswer
from explllm.engine.au2des import describe
from explllm.engine.des2exp import infer
from explllm.engine.face import EngineSettings, Face, Outcome, Status
from explllm.engine.memory import Memory
from explllm.engine.refinement import refine
from explllm.engine.reflection import label_is_given, reflect
from explllm.engine.verification import verify
from explllm.llm.request import ChatFailure


async def explain_face(face: Face, ask: Ask, settings: EngineSettings) -> Outcome:
    """Make a chain of thought for one face (paper, Section III-B and Figure 2).

    A description that fails verification goes to reflection; one that cannot be brought into form goes there too, with
    what was wrong. Nothing is accepted unless every check holds.

    Args:
        face: The face.
        ask: Who answers.
        settings: How long to try.

    Returns:
        The outcome. Failures of single requests end in it; whatever stops the whole run (budget, interruption, a wrong
        key) is raised.
    """
    memory, asker = Memory(), Asker(ask, face.scope, settings)
    try:
        description = await describe(face, memory, asker)
        while True:
            inferred = await infer(description, asker)
            problems = await verify(face, description, inferred, asker)
            if not problems:
                cot, faults = await refine(face, description, inferred, asker)
                if not faults:
                    status = Status.LABEL_GIVEN if label_is_given(asker) else Status.ACCEPTED
                    return Outcome(status, cot.text, asker.round, "", asker.cost)
                problems = list(faults)
            if asker.round == settings.max_rounds:
                return _failed(asker, f"not accepted in {asker.round} rounds: {'; '.join(problems)}")
            asker.round += 1
            if not label_is_given(asker):
                problems = _without_label(problems, face.expression)
            description = await reflect(face, problems, memory, asker)
    except (UnreadableAnswer, ChatFailure) as failure:
        return _failed(asker, str(failure))


def _without_label(problems: Sequence[str], label: Expression) -> list[str]:
    """Return faults without those that name the true label; one that does not stands for them."""
    told = [problem for problem in problems if not re.search(rf"\b{label}\b", problem, re.IGNORECASE)]
    return told if len(told) == len(problems) else [*told, "the conclusion is not the one that the analysis leads to"]


def _failed(asker: Asker, reason: str) -> Outcome:
    return Outcome(Status.FAILED, None, asker.round, reason, asker.cost)
