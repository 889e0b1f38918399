"""The engine's input and output: a face, and the outcome of its processing."""

from dataclasses import dataclass
from enum import StrEnum

from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought


@dataclass(frozen=True)
class Face:
    """The measured action units and the label of one face. The engine never uses its image."""

    scope: str
    """Name of the face in the ledger: the image's path, followed by the box if there is one."""
    action_units: tuple[float | None, ...]
    """24 intensities in [0, 1] in FEAFA's order; None for an unmeasured unit."""
    expression: Expression
    """The true label."""


class Status(StrEnum):
    """Final status of a face."""

    ACCEPTED = "accepted"
    LABEL_GIVEN = "accepted with label given"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """The result of the engine for one face."""

    status: Status
    """The final status."""
    text: str | None
    """The chain of thought; None if the face failed."""
    rounds: int
    """Number of reflection rounds."""
    reason: str
    """Why the face failed; empty if it did not."""
    cost: float
    """Cost of the answers in USD, including answers from earlier runs."""

    @property
    def cot(self) -> ChainOfThought | None:
        """The parsed chain of thought; None if the face failed."""
        return None if self.text is None else ChainOfThought.parse(self.text)

    def cells(self) -> dict[str, str | float | None]:
        """Return the face's cells in the output manifest, by column."""
        return {
            "cot": self.text,
            "cot_rounds": self.rounds,
            "cot_status": str(self.status),
            "cot_reason": self.reason or None,
            "cot_cost": self.cost,
        }
