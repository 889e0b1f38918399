"""Work on many faces that a model is asked about, many at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from explllm.core.errors import InputError
from explllm.engine.outcomes import Ended, Outcomes
from explllm.llm.ledger import Ledger
from explllm.llm.request import OutOfBudget, Stopped, well_formed

FAILED = "failed"
"""The status of a face that came to nothing, in every run."""

_FACES_A_REQUEST = 1.5
"""Faces in work for each request that may be in flight: while one's answer is read and its next question made, the
request of another takes the place."""


class Asked(Protocol):
    """A face that a model is asked about."""

    @property
    def scope(self) -> str:
        """Its name in the ledger."""


End = TypeVar("End", bound=Ended)
Face = TypeVar("Face", bound=Asked)

Seen = Callable[[End], None]
"""Is told of each outcome as it comes."""


@dataclass
class RunResult:
    """What became of a manifest."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    """By row, counted from 0; a row that is missing was not finished or cannot be worked on."""
    total: int = 0
    """Rows that can be worked on."""
    stopped: str = ""
    """Why the run ended before all rows were done; empty if it did not."""
    error: InputError | None = None
    """What the user has to mend before it can go on, if it ended for that."""
    seconds: float = 0.0
    """How long it took."""
    cost: float = 0.0
    """What everything in the ledger cost, in USD: earlier runs, failures and faces that are not done included."""

    def count(self, status: str) -> int:
        """Return the number of rows that ended in a status."""
        return self.outcomes.count(status)

    @property
    def pending(self) -> int:
        """Rows that are still to be done."""
        return self.total - len(self.outcomes)

    @property
    def exit_status(self) -> int:
        """1 if a row failed or is not done, else 0."""
        return 1 if self.count(FAILED) or self.pending else 0


async def run_all(
    faces: Iterable[tuple[int, Face]],
    total: int,
    work: Callable[[Face], Awaitable[End]],
    requests: int,
    seen: Seen[End],
    ledger: Ledger,
) -> RunResult:
    """Work on many faces at a time.

    Args:
        faces: Rows and faces.
        total: How many these are.
        work: What is done with a face.
        requests: Requests at a time.
        seen: Is told of each outcome.
        ledger: Where the answers are recorded.

    Returns:
        What became of them. A budget that is used up, `ChatClient.stop`, or a server that refuses key, model or credit
        ends it early: what is in flight is finished, and so is each face whose answers are all recorded.
    """
    built, start, waiting = RunResult(total=total), time.monotonic(), iter(faces)

    begun: set[str] = set()

    def end(stop: Exception) -> None:
        if not built.stopped:
            built.stopped = str(stop) or type(stop).__name__
            built.error = stop if isinstance(stop, InputError) else None
            # An earlier run may have got further: its faces cost nothing more, and no new one is begun.
            begun.update(ledger.scopes())

    async def worker() -> None:
        # The iterator is shared: each worker takes the next face when it has finished one, so few are ever in memory.
        for row, face in waiting:
            if built.stopped and well_formed(face.scope) not in begun:
                continue
            try:
                outcome = await work(face)
                built.outcomes.add(row, outcome)
            except (OutOfBudget, Stopped, InputError) as stop:
                end(stop)
                continue
            seen(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(int(_FACES_A_REQUEST * requests)):
            group.create_task(worker())
    built.seconds, built.cost = time.monotonic() - start, ledger.totals().cost
    return built
