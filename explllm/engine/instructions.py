"""FEA instruction data: three checked answers about each face, for FEALLM's training."""

from dataclasses import dataclass

from explllm.engine.build import TextKind
from explllm.engine.dialogue import Dialogue
from explllm.engine.face import Face, Status
from explllm.engine.img2au import format_units, format_unmeasured
from explllm.engine.settings import EngineSettings
from explllm.explanations.instructions import (
    INSTRUCTION_KINDS,
    InstructionKind,
    instruction_problems,
    write_instructions,
)
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.prompt import render
from explllm.llm.reading import Ask, UnreadableAnswer
from explllm.llm.request import ChatFailure

MAX_TOKENS = 512


@dataclass(frozen=True)
class InstructionOutcome:
    """The answers about one face."""

    texts: dict[InstructionKind, str]
    """The accepted answers."""
    rounds: int
    """Number of answers that the checks rejected."""
    reason: str
    """Why answers are missing; empty if none are."""
    cost: float
    """Cost of all answers in USD, including answers from earlier runs."""

    @property
    def status(self) -> Status:
        """The final status: failed if an answer is missing, else accepted."""
        return Status.FAILED if self.reason else Status.ACCEPTED

    def cells(self) -> dict[str, str | float | None]:
        """Return the face's cells in the output manifest, by column."""
        return {
            **{f"fea_{kind}": self.texts.get(kind) for kind in INSTRUCTION_KINDS},
            "fea_rounds": self.rounds,
            "fea_status": str(self.status),
            "fea_reason": self.reason or None,
            "fea_cost": self.cost,
        }


class OfflineInstructions:
    """Writes the answers by rules, at no cost. Their source is ``offline``."""

    def __init__(self, settings: EngineSettings) -> None:
        """Create a writer; `settings` contains the limits for the checks."""
        self.settings, self.writer = settings, RuleWriter()

    def answer(self, face: Face) -> InstructionOutcome:
        """Write the answers about a face and check them."""
        texts, problems = write_instructions(self.writer, face.action_units, face.expression), {}
        for kind, text in texts.items():
            problems[kind] = _problems(kind, text, face, self.settings)
        return InstructionOutcome(
            {kind: text for kind, text in texts.items() if not problems[kind]},
            0,
            "; ".join(f"{kind}: {', '.join(found)}" for kind, found in problems.items() if found),
            0.0,
        )


async def ask_instructions(face: Face, ask: Ask, settings: EngineSettings) -> InstructionOutcome:
    """Ask a language model for the answers about one face.

    Each answer is checked against the label and the measured units. An answer with problems is requested again, with
    the problems added to the question, until `settings.max_refinements` versions of this answer have been rejected.

    Args:
        face: The face.
        ask: Answers requests.
        settings: Limits of the engine.

    Returns:
        The outcome. Errors that stop the whole run (budget, interruption, wrong key) are raised.
    """
    dialogue = Dialogue(ask, face.scope, settings)
    texts: dict[InstructionKind, str] = {}
    reasons: list[str] = []
    rejected = 0
    for kind in INSTRUCTION_KINDS:
        problems: list[str] = []
        previous = ""
        try:
            for step in range(settings.max_refinements):
                question = render(
                    "explllm.engine",
                    "instruction",
                    kind=kind,
                    expression=str(face.expression),
                    units=format_units(face.action_units),
                    unmeasured=format_unmeasured(face.action_units),
                    words=settings.max_words,
                    problems=problems,
                    previous=previous,
                )
                previous = await dialogue.ask(
                    f"fea {kind}",
                    question,
                    lambda text: text.strip() or None,
                    "the answer alone",
                    MAX_TOKENS,
                    step=step,
                )
                problems = _problems(kind, previous, face, settings)
                if not problems:
                    texts[kind] = previous
                    break
                rejected += 1
        except (UnreadableAnswer, ChatFailure) as failure:
            problems = [str(failure)]
        if problems:
            reasons.append(f"{kind}: {', '.join(problems)}")
    return InstructionOutcome(texts, rejected, "; ".join(reasons), dialogue.cost)


def _problems(kind: InstructionKind, text: str, face: Face, settings: EngineSettings) -> list[str]:
    return instruction_problems(kind, text, face.action_units, face.expression, settings.max_words, settings.strong)


FEA = TextKind(
    "FEA instructions",
    "fea",
    tuple(f"fea_{kind}" for kind in INSTRUCTION_KINDS),
    lambda settings: OfflineInstructions(settings).answer,
    ask_instructions,
)
"""FEA instruction texts."""
