"""A run that asks a model about many faces: its workers, its progress, its interruption, its summary."""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from explllm.core.errors import ConfigError, InputError
from explllm.core.files import atomic_write
from explllm.engine.face_queue import FAILED, RunResult
from explllm.engine.outcomes import Ended
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatSettings

LEDGER = "ledger.sqlite"
PROGRESS = "progress.json"

_HEARTBEAT = 2.0
"""Seconds between two signs of life in the progress file."""
_REASONS = 10
"""Failed rows whose reason the summary tells."""


def chat_settings(options: argparse.Namespace) -> ChatSettings:
    """Return whom to ask, and how, of a command line with the options of `explllm.commands.cot.add_asking`."""
    return ChatSettings(
        model=options.model,
        base_url=options.base_url,
        api_key_env=options.api_key_env,
        concurrency=options.concurrency,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        max_cost=options.max_cost,
        price_in=options.price_in,
        price_out=options.price_out,
        timeout=options.timeout,
        max_retries=options.max_retries,
        structured=options.structured,
    )


@dataclass(frozen=True)
class BuildIdentity:
    """What a run makes; kept with its progress, so that no other file is taken for its beginning."""

    manifest: Path
    """What is read."""
    out: Path
    """What is written."""
    source: str
    """Who makes it, a model's name for one."""

    def check_overwrite(self, folder: Path) -> None:
        """Refuse an OUT that is not the beginning of this run.

        Args:
            folder: The run folder, whose progress says what was made there.

        Raises:
            ConfigError: If OUT is the manifest that is read, or was made otherwise.
        """
        remedy = "Name another one, or pass --overwrite."
        if self.out.resolve() == self.manifest.resolve():
            raise ConfigError("--out is the manifest that is read", where=self.out, remedy=remedy)
        if not self.out.exists():
            return
        told = progress_of(folder)
        if str(self.out.resolve()) not in told.get("outs", ()):
            raise ConfigError("the manifest exists", where=self.out, remedy=remedy)
        for word, name in (("by", "source"), ("of", "manifest")):
            if told.get(name) != self.kept()[name]:
                raise ConfigError(
                    f"the manifest was made {word} {told.get(name)}, not {word} {self.kept()[name]}",
                    where=self.out,
                    remedy=remedy,
                )

    def kept(self) -> dict[str, str]:
        """Return what must be the same for a run to go on."""
        return {"source": self.source, "manifest": str(self.manifest.resolve())}


def progress_of(folder: Path) -> dict[str, Any]:
    """Return what `ProgressTracker.write` saved in a run folder; empty if there is none or it is unreadable."""
    try:
        held = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


class ProgressTracker:
    """Shows the progress of a run, and keeps it in a file for other shells."""

    def __init__(self, folder: Path, total: int, statuses: Iterable[str], title: str, making: BuildIdentity) -> None:
        """Prepare; nothing is shown.

        Args:
            folder: The run folder.
            total: Faces to work on.
            statuses: How a face's work may end.
            title: What is made.
            making: Kept with the progress.
        """
        self.folder, self.total, self.statuses, self.making = folder, total, tuple(statuses), making
        earlier = progress_of(folder)
        same = earlier.items() >= making.kept().items()
        self._outs = sorted({str(making.out.resolve()), *(earlier.get("outs", ()) if same else ())})
        self.counts: Counter[str] = Counter()
        self.cost = 0.0
        self.interrupted = False
        self._start = self._written = time.monotonic()
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("failed {task.fields[failed]}, {task.fields[cost]:.2f} USD"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=total, failed=0, cost=0.0)

    def __enter__(self) -> None:
        self._start = time.monotonic()
        self.write("running")
        self._progress.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._progress.stop()
        if kind is not None:
            self.write("stopped")

    def seen(self, outcome: Ended) -> None:
        """Take note of an outcome."""
        self.counts[str(outcome.status)] += 1
        self.cost += outcome.cost
        self._progress.update(self._task, advance=1, failed=self.counts[FAILED], cost=self.cost)
        if time.monotonic() - self._written > 1:
            self.write("running")

    async def live(self) -> None:
        """Give a sign of life every few seconds, also while no face ends; until canceled."""
        while True:
            await asyncio.sleep(_HEARTBEAT)
            self.write("running")

    def write(self, state: str) -> None:
        """Keep the progress: ``running``, ``stopped`` or ``done``."""
        self._written = time.monotonic()
        told = {
            "state": state,
            **self.making.kept(),
            "outs": self._outs,
            "total": self.total,
            "done": self.counts.total(),
            "statuses": {str(status): self.counts[status] for status in self.statuses},
            "cost": self.cost,
            "seconds": time.monotonic() - self._start,
            "updated": time.time(),
        }
        # On a full disk the ledger stops the run, and says why; the progress is only its picture.
        with suppress(OSError), atomic_write(self.folder / PROGRESS) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    def raise_if_stopped(self, built: RunResult, command: str = "the same command") -> None:
        """Say how to go on after an early end, when all that was in flight is finished and written.

        Args:
            built: What became of the manifest.
            command: What to run again.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            InputError: If the server refused key, model or credit.
        """
        if built.error is not None:
            raise built.error
        if self.interrupted:
            stop = KeyboardInterrupt()
            stop.add_note(f"{self.counts.total()} of {self.total} faces are done. Run {command} again to go on.")
            raise stop


@contextmanager
def writing(watch: ProgressTracker, built: RunResult) -> Iterator[None]:
    """Say in the progress how a run ended, once what became of it is written.

    Args:
        watch: The run's progress.
        built: What became of it.

    Raises:
        InputError: If it cannot be written: why, or, where the run had ended for another reason, that one. The same
            disk may be full for both.
    """
    try:
        yield
    except (InputError, OSError) as error:
        watch.write("stopped")
        raise built.error or error from None
    watch.write("stopped" if built.stopped else "done")


def run_with_client(
    settings: ChatSettings, folder: Path, watch: ProgressTracker, work: Callable[[ChatClient], Awaitable[RunResult]]
) -> RunResult:
    """Do a run's work with a client that keeps its ledger in the run folder.

    Ctrl-C stops the client: what is in flight is finished. A second Ctrl-C waits for nothing. Nothing is said of the
    run, in the progress file either, before it is certain that it can begin.

    Args:
        settings: Whom to ask.
        folder: The run folder; its ledger gives a resumed run all answers that were paid for.
        watch: Shows the work, and is told of an interruption.
        work: What is to be done.

    Returns:
        What `work` gave.

    Raises:
        InputError: If the server cannot be reached, or refuses the key or the model, or another run writes the ledger:
            nothing has been spent then.
        KeyboardInterrupt: After a second Ctrl-C.
    """
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        try:
            return runner.run(_with_client(settings, folder, watch, work))
        except asyncio.CancelledError:
            if watch.interrupted:
                raise KeyboardInterrupt from None
            raise


async def _with_client(
    settings: ChatSettings, folder: Path, watch: ProgressTracker, work: Callable[[ChatClient], Awaitable[RunResult]]
) -> RunResult:
    with Ledger(folder / LEDGER) as ledger:
        async with ChatClient(settings, ledger) as client:
            await client.check()
            task = asyncio.current_task()

            def interrupt() -> None:
                if watch.interrupted and task is not None:
                    task.cancel()  # a second Ctrl-C waits for nothing
                watch.interrupted = True
                client.stop()

            with watch, _on_ctrl_c(interrupt):
                heart = asyncio.create_task(watch.live())
                try:
                    return await work(client)
                except* Exception as group:
                    # What stops one worker stops all of them alike: one cause is enough to tell.
                    raise _first(group) from None
                finally:
                    heart.cancel()


@contextmanager
def _on_ctrl_c(interrupt: Callable[[], None]) -> Iterator[None]:
    """Call something on Ctrl-C, in the running loop."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except NotImplementedError:  # the loop of Windows
        before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(interrupt))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    else:
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop, where there is one: at hundreds of requests a second the loop itself is work."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def print_summary(built: RunResult, statuses: Iterable[str], left_out: Mapping[str, int], out: Path) -> None:
    """Print what became of a manifest, and why rows failed.

    Args:
        built: What became of it.
        statuses: How a face's work may end.
        left_out: Rows that could not be worked on, by what they lack.
        out: The manifest that was written.
    """
    # Without markup: paths and reasons may hold square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for status in statuses:
        console.print(f"{status!s:26} {built.count(status)}")
    for lack, count in left_out.items():
        console.print(f"{'left out: ' + lack:26} {count}")
    if built.pending:
        console.print(f"{'not done':26} {built.pending} ({built.stopped or 'stopped'})")
    console.print(f"cost {built.cost:.2f} USD, {built.seconds:.1f} s; wrote {out}")
    for row, reason in built.outcomes.reasons(FAILED, most=_REASONS):
        sys.stderr.write(f"failed: row {row + 1}: {reason}\n")
    if (more := built.count(FAILED) - _REASONS) > 0:
        sys.stderr.write(f"failed: {more} more; the column cot_reason of {out} says why each row failed\n")
