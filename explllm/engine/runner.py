"""Run a model on many faces: concurrency, interruption, early stopping."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from explllm.core.errors import InputError
from explllm.engine.outcomes import FaceOutcome, OutcomeStore
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import OutOfBudget, Stopped, escape_surrogates
from explllm.llm.settings import ChatSettings

FAILED = "failed"
"""The status of a failed face, the same in all kinds of runs."""
LEDGER = "ledger.sqlite"
"""Name of the ledger in a run folder."""

_FACES_PER_REQUEST = 1.5
"""Faces processed at once per request in flight, so that another face can send a request while an answer is parsed."""

Redo = Literal["failed"]
"""The faces to ask about again."""


class ScopedFace(Protocol):
    """A face with a name in the ledger."""

    @property
    def scope(self) -> str:
        """The face's name in the ledger."""


OutcomeT = TypeVar("OutcomeT", bound=FaceOutcome)
FaceT = TypeVar("FaceT", bound=ScopedFace)

OnOutcome = Callable[[OutcomeT], None]
"""A callback for each new outcome."""


@dataclass
class RunResult:
    """The result of a run over a manifest."""

    outcomes: OutcomeStore = field(default_factory=OutcomeStore)
    """Outcomes by zero-based row number; skipped and unfinished rows are missing."""
    total: int = 0
    """Number of faces to process."""
    stopped: str = ""
    """Why the run ended early; empty if it did not."""
    error: InputError | None = None
    """The error that ended the run early, if the user has to fix its cause."""
    seconds: float = 0.0
    """Duration of the run."""
    cost: float = 0.0
    """Cost in USD of all answers in the ledger, including those of earlier runs and failed or unfinished faces."""
    unpriced: int = 0
    """Number of answers in the ledger with an unknown price."""
    uses_model: bool = False
    """Whether a model was used; a later run can then query it again."""

    def count(self, status: str) -> int:
        """Return the number of rows with a status."""
        return self.outcomes.count(status)

    @property
    def pending(self) -> int:
        """Number of unfinished faces."""
        return self.total - len(self.outcomes)

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 1 if a face failed or is unfinished, else 0."""
        return 1 if self.count(FAILED) or self.pending else 0


async def run_all(
    faces: Iterable[tuple[int, FaceT]],
    total: int,
    process: Callable[[FaceT], Awaitable[OutcomeT]],
    concurrency: int,
    on_outcome: OnOutcome[OutcomeT],
    ledger: Ledger,
    redo: Redo | None = None,
) -> RunResult:
    """Process many faces concurrently.

    Args:
        faces: Row numbers and faces.
        total: Number of faces.
        process: Processes one face.
        concurrency: Maximum number of requests in flight.
        on_outcome: Called with each outcome.
        ledger: The ledger of the answers.
        redo: "failed" to ask again about faces that fail with their recorded answers, which are then discarded.

    Returns:
        The result. The run ends early if the budget is exhausted, `ChatClient.stop` is called, the server rejects the
        key or the model, there is no credit left, or answers or outcomes cannot be stored. Requests in flight
        finish, and so do all faces whose answers are in the ledger.
    """
    result, start, queue = RunResult(total=total, uses_model=True), time.monotonic(), iter(faces)
    recorded_scopes: set[str] = set()

    def stop(reason: Exception) -> None:
        if not result.stopped:
            result.stopped = str(reason) or type(reason).__name__
            result.error = reason if isinstance(reason, InputError) else None
            # Faces that an earlier run finished are free. Faces without any recorded answer are not started.
            recorded_scopes.update(ledger.scopes())

    async def worker() -> None:
        # All workers share the iterator, so only a few faces are in memory.
        for row, face in queue:
            if result.stopped and escape_surrogates(face.scope) not in recorded_scopes:
                continue
            try:
                sent = ledger.sent(face.scope) if redo else 0
                outcome = await process(face)
                if redo and outcome.status == FAILED and sent == ledger.sent(face.scope) > 0:
                    await ledger.discard(face.scope)
                    outcome = await process(face)
                result.outcomes.add(row, outcome)
            except (OutOfBudget, Stopped, InputError) as reason:
                stop(reason)
                continue
            on_outcome(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(int(_FACES_PER_REQUEST * concurrency)):
            group.create_task(worker())
    totals = ledger.totals()
    result.seconds, result.cost, result.unpriced = time.monotonic() - start, totals.cost, totals.unpriced
    return result


class Tracker(Protocol):
    """The part of `explllm.engine.progress.ProgressTracker` that a run needs."""

    interrupted: bool

    def __enter__(self) -> None:
        """Show the start of the run."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Show the end of the run."""

    async def heartbeat(self) -> None:
        """Update the progress file regularly until canceled."""


def run_with_client(
    settings: ChatSettings, folder: Path, tracker: Tracker, work: Callable[[ChatClient], Awaitable[RunResult]]
) -> RunResult:
    """Run some work with a client whose ledger is in the run folder.

    The first Ctrl-C stops the client, and requests in flight finish. The second one cancels them. SIGTERM and SIGHUP
    act like the first Ctrl-C. The tracker starts only after the server and the ledger have been checked, so a failed
    start does not change the progress file.

    Args:
        settings: Settings of the client.
        folder: The run folder. Its ledger contains all answers from earlier runs.
        tracker: Tracks the progress; its `interrupted` is set by Ctrl-C.
        work: The work.

    Returns:
        The result of `work`.

    Raises:
        InputError: If the server is unreachable or rejects the key or the model, or if another run is writing the
            ledger. Nothing has been spent in these cases.
        KeyboardInterrupt: After a second Ctrl-C.
    """
    try:
        return asyncio.run(_run_with_client(settings, folder, tracker, work))
    except asyncio.CancelledError:
        if tracker.interrupted:
            raise KeyboardInterrupt from None
        raise


async def _run_with_client(
    settings: ChatSettings, folder: Path, tracker: Tracker, work: Callable[[ChatClient], Awaitable[RunResult]]
) -> RunResult:
    with Ledger(folder / LEDGER) as ledger:
        async with ChatClient(settings, ledger) as client:
            await client.check()
            task = asyncio.current_task()

            def interrupt(signal_number: int) -> None:
                if tracker.interrupted and signal_number == signal.SIGINT and task is not None:
                    task.cancel()
                tracker.interrupted = True
                client.stop()

            with tracker, _on_signals(interrupt):
                heartbeat = asyncio.create_task(tracker.heartbeat())
                try:
                    return await work(client)
                except* Exception as group:
                    # All workers stop for the same reason, so one of their errors is enough.
                    raise _first_error(group) from None
                finally:
                    heartbeat.cancel()


@contextmanager
def _on_signals(interrupt: Callable[[int], None]) -> Iterator[None]:
    """Call a function in the running loop on Ctrl-C, SIGTERM and SIGHUP."""
    loop = asyncio.get_running_loop()
    # Windows has no SIGHUP, and nohup ignores it.
    others = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.SIGINT, *(number for number in others if signal.getsignal(number) is not signal.SIG_IGN)]
    previous = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            try:
                loop.add_signal_handler(number, interrupt, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(interrupt, number))
        yield
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, previous[number])


def _first_error(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
