"""Work on many images that survives being killed: results go to a file as they come, and a second run goes on there."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.util import Finalize
from os import PathLike
from pathlib import Path
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from explllm.core.errors import ConfigError, InputError

Result = dict[str, Any]
"""What became of one image, such as JSON can hold it; ``bad`` holds the reason if it could not be read, else None."""


class Work(Protocol):
    """Work on images that any process can do; it travels to the workers, so it holds settings and no models."""

    def open(self) -> AbstractContextManager[Callable[[Sequence[Any]], list[Result]]]:
        """Open the models, and give the function that works on some items and returns one result for each."""
        ...


@dataclass(frozen=True)
class JobOptions:
    """How a run goes about its images."""

    partial: Path
    """The file of results so far."""
    settings: dict[str, Any]
    """All that results depend on: a run goes on only where these are the same."""
    title: str
    """What the progress bar says."""
    workers: int = 1
    """Processes; 1: this one does the work itself."""
    chunk: int = 1
    """Images that a worker takes at a time."""
    max_bad: int | None = None
    """Images that may be unreadable before the run stops; None: any number."""


def run_job(items: Sequence[Any], work: Work, how: JobOptions) -> None:
    """Work on every item that has no good result yet, and append the results to the file, one JSON object a line.

    Pixels of no more than `workers` times two chunks are in memory at any time.

    Args:
        items: What to work on; an item is known by its place.
        work: The work.
        how: Where results go, and the limits.

    Raises:
        ConfigError: If the file is that of a run with other settings.
        InputError: If more items are bad than may be, or a worker process died; the results so far are kept.
        KeyboardInterrupt: After Ctrl-C; the results so far are kept.
    """
    done = _begin(how.partial, how.settings)
    bad = 0
    rest = [place for place in range(len(items)) if place not in done]
    chunks = [rest[start : start + how.chunk] for start in range(0, len(rest), how.chunk)]
    finished = len(done)
    with how.partial.open("a", encoding="utf-8") as file, _progress(how.title, len(items), len(done)) as advance:
        try:
            # Closed at once when something is raised, so that no worker outlives the run.
            with closing(_results(chunks, items, work, how.workers)) as results:
                for place, result in results:
                    _append(file, {"place": place, **result})
                    finished += 1
                    advance()
                    bad += result["bad"] is not None
                    if how.max_bad is not None and bad > how.max_bad:
                        raise InputError(
                            f"{bad} images could not be used, the last because: {result['bad']}",
                            remedy="Mend them or raise --max-bad; the same command goes on where this one stopped.",
                        )
        except KeyboardInterrupt as stop:
            stop.add_note(f"{finished} of {len(items)} images are done. Run the same command again to go on.")
            raise
        except BrokenProcessPool as error:
            raise InputError(
                f"a worker process died after {finished} of {len(items)} images",
                remedy="Run the same command again to go on; if it lacked memory, with fewer --workers.",
            ) from error


def read_results(partial: Path) -> dict[int, Result]:
    """Return the results in a file by place; of several for one place the last counts.

    Args:
        partial: The file.

    Returns:
        Results by place.
    """
    with partial.open("rb") as file:
        lines = list(_complete_lines(file))
    return {line.pop("place"): line for line in lines[1:]}


def file_sha256(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file, by which a run knows that it is still the same."""
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def partial_path(out: str | PathLike[str]) -> Path:
    """Return where the results so far of a manifest are: beside it, ``OUT.partial.jsonl``."""
    return Path(f"{out}.partial.jsonl")


def _begin(partial: Path, settings: dict[str, Any]) -> set[int]:
    """Make the file, or check that it is of the same run; return the places that need no more work."""
    settings = json.loads(json.dumps(settings))  # as they are read back: lists, not tuples
    if not partial.is_file() or not partial.stat().st_size:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            _append(file, settings)
        return set()
    done: set[int] = set()
    with partial.open("r+b") as file:
        held = next(iter(_complete_lines(file)), None)
        if held != settings:
            other = sorted(key for key in settings if not isinstance(held, dict) or held.get(key) != settings[key])
            raise ConfigError(
                f"a run with another {', '.join(other) or 'version of this program'} was broken off here",
                where=partial,
                remedy="Give the same settings to go on, or delete this file to begin anew.",
            )
        end = file.tell()
        for line in _complete_lines(file):
            end = file.tell()
            # What was bad may have been mended since.
            (done.add if line["bad"] is None else done.discard)(line["place"])
        # A line that was being written when the run was killed.
        file.truncate(end)
    return done


def _complete_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects from here on, up to a line that was not written to its end."""
    # Not by iterating over the file, which would read ahead and make tell() useless.
    while (line := file.readline()).endswith(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _append(file: IO[str], line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()


def _results(
    chunks: Sequence[list[int]], items: Sequence[Any], work: Work, workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield places and results, as they come."""
    if not chunks:
        return
    if workers == 1:
        with work.open() as run:
            for places in chunks:
                yield from zip(places, run([items[place] for place in places]), strict=True)
        return
    # Spawned, not forked: neither onnxruntime nor mediapipe survives a fork.
    with ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=get_context("spawn"), initializer=_open, initargs=(work,)
    ) as pool:
        waiting = iter(chunks)
        running: dict[Future[list[Result]], list[int]] = {}
        try:
            while True:
                for places in islice(waiting, 2 * workers - len(running)):
                    running[pool.submit(_run, [items[place] for place in places])] = places
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from zip(running.pop(future), future.result(), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_opened: list[Callable[[Sequence[Any]], list[Result]]] = []


def _open(work: Work) -> None:
    """Begin a worker process."""
    # Ctrl-C reaches every process of the terminal; the main one says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    stack = ExitStack()
    _opened.append(stack.enter_context(work.open()))
    Finalize(None, stack.close, exitpriority=1)


def _exit_with_parent() -> None:
    """End this process when the main one is gone: it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(items: Sequence[Any]) -> list[Result]:
    return _opened[0](items)


class _Rate(ProgressColumn):
    """Images in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def _progress(title: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar with rate and time left if there is a terminal; give the function that moves it on."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda: progress.advance(task)
