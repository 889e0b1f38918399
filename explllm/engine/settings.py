"""What the engine works on and what comes out of it."""

from dataclasses import dataclass
from enum import StrEnum

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought


@dataclass(frozen=True)
class Face:
    """One face, as far as the engine may know it: no image."""

    scope: str
    """Its name in the ledger: the image's path, with the box where an image has several faces."""
    action_units: tuple[float | None, ...]
    """24 intensities in [0, 1], in FEAFA's order; None for a unit that was not measured."""
    expression: Expression
    """The true label."""


class Status(StrEnum):
    """How a face's work ended."""

    ACCEPTED = "accepted"
    LABEL_GIVEN = "accepted with label given"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What the engine made of one face."""

    status: Status
    """How it ended."""
    text: str | None
    """The chain of thought; None where it failed."""
    rounds: int
    """Rounds of reflection that it took, from 0."""
    reason: str
    """Why it failed; empty otherwise."""
    cost: float
    """What its answers cost, in USD, those of earlier runs included."""

    @property
    def cot(self) -> ChainOfThought | None:
        """The chain of thought in its parts."""
        return None if self.text is None else ChainOfThought.parse(self.text)

    def cells(self) -> dict[str, str | float | None]:
        """Return what the written manifest says of the face, by column."""
        return {
            "cot": self.text,
            "cot_rounds": self.rounds,
            "cot_status": str(self.status),
            "cot_reason": self.reason or None,
            "cot_cost": self.cost,
        }


@dataclass(frozen=True)
class EngineSettings:
    """How long the engine tries. The paper gives no numbers; these are ours."""

    max_rounds: int = 4
    """Rounds of reflection before a face counts as failed."""
    label_after: int = 2
    """Rounds of reflection after which the true label is given (the paper's "predefined threshold")."""
    max_refinements: int = 3
    """Times that a description is brought into form before it goes back to reflection."""
    parse_attempts: int = 3
    """Times that a question is asked before an answer that cannot be read counts as failed."""
    max_words: int = 130
    """Most words of a chain of thought (paper, Section III-B-6)."""
    strong: float = 0.3
    """Intensity from which an action unit must be mentioned."""
    temperature: float = 0.0
    """Sampling temperature of the model."""
