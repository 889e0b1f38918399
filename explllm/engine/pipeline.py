"""The five processes of the engine that follow Img2AU, for one face."""

import re
from collections.abc import Sequence

from explllm.core.expressions import Expression
from explllm.engine.au2des import describe
from explllm.engine.des2exp import infer
from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face, Outcome, Status
from explllm.engine.refinement import refine
from explllm.engine.reflection import reflect
from explllm.engine.settings import EngineSettings
from explllm.engine.verification import verify
from explllm.llm.reading import Ask, UnreadableAnswer
from explllm.llm.request import ChatFailure


async def explain_face(face: Face, ask: Ask, settings: EngineSettings) -> Outcome:
    """Generate the chain of thought of one face (paper, Section III-B and Figure 2).

    A description goes to reflection if it fails verification or if all its refinements fail the checks. A chain of
    thought is accepted only if every check passes.

    Returns:
        The outcome, which records failures of single requests. Errors that stop the whole run (budget, interruption,
        wrong key) are raised.
    """
    dialogue = Dialogue(ask, face.scope, settings)
    try:
        description = await describe(face, dialogue)
        while True:
            inferred = await infer(description, dialogue)
            problems: Sequence[str] = await verify(face, description, inferred, dialogue)
            if not problems:
                cot, problems = await refine(face, description, inferred, dialogue)
                if not problems:
                    status = Status.LABEL_GIVEN if dialogue.label_is_given else Status.ACCEPTED
                    return Outcome(status, cot.text, dialogue.round, "", dialogue.cost)
            if dialogue.round == settings.max_rounds:
                return _failed(dialogue, f"not accepted in {dialogue.round} rounds: {'; '.join(problems)}")
            dialogue.round += 1
            if not dialogue.label_is_given:
                problems = _without_label(problems, face.expression)
            description = await reflect(face, problems, dialogue)
    except (UnreadableAnswer, ChatFailure) as failure:
        return _failed(dialogue, str(failure))


def _without_label(problems: Sequence[str], label: Expression) -> list[str]:
    """Replace the problems that reveal the true label with one that does not."""
    unrevealing = [problem for problem in problems if not re.search(rf"\b{label}\b", problem, re.IGNORECASE)]
    if len(unrevealing) < len(problems):
        unrevealing.append("the conclusion is not the one that the analysis leads to")
    return unrevealing


def _failed(dialogue: Dialogue, reason: str) -> Outcome:
    return Outcome(Status.FAILED, None, dialogue.round, reason, dialogue.cost)
