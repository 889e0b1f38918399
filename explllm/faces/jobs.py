"""Resumable jobs over many images: each result is appended to a file, and the next run continues from it."""

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
"""The result for one item, serializable as JSON; ``bad`` is the reason if the item is unusable, otherwise None."""


class Job(Protocol):
    """Processes items in any process. It is pickled for the workers, so it holds settings and no models."""

    def open(self) -> AbstractContextManager[Callable[[Sequence[Any]], list[Result]]]:
        """Open the models, and yield a function that processes some items and returns one result for each."""
        ...


@dataclass(frozen=True)
class JobOptions:
    """Where results go, and how the items are processed."""

    partial: Path
    """File of the results."""
    settings: dict[str, Any]
    """Everything that the results depend on: only a run with equal settings resumes."""
    title: str
    """Label of the progress bar."""
    workers: int = 1
    """Worker processes; with 1 the main process does the work."""
    chunk: int = 1
    """Items per call of a worker."""
    max_bad: int | None = None
    """Maximum number of unusable items before the run stops; None for no limit."""


def run_job(items: Sequence[Any], job: Job, options: JobOptions) -> None:
    """Process every item without a good result, and append the results to the file, one JSON object per line.

    At most `workers` times two chunks are in progress at any time.

    Args:
        items: The items; results refer to them by index.
        job: What to do with them.
        options: Where results go, and the limits.

    Raises:
        ConfigError: If the file belongs to a run with other settings.
        InputError: If more than `max_bad` items are unusable, or a worker process died; the results so far are kept.
        KeyboardInterrupt: After Ctrl-C; the results so far are kept.
    """
    done = _begin(options.partial, options.settings)
    bad = 0
    rest = [index for index in range(len(items)) if index not in done]
    chunks = [rest[start : start + options.chunk] for start in range(0, len(rest), options.chunk)]
    finished = len(done)
    with (
        options.partial.open("a", encoding="utf-8") as file,
        _progress(options.title, len(items), len(done)) as advance,
    ):
        try:
            # Closed immediately on errors: no worker may outlive the run.
            with closing(_results(chunks, items, job, options.workers)) as results:
                for index, result in results:
                    _append(file, {"index": index, **result})
                    finished += 1
                    advance()
                    bad += result["bad"] is not None
                    if options.max_bad is not None and bad > options.max_bad:
                        raise InputError(
                            f"{bad} images could not be used, the last because: {result['bad']}",
                            remedy="Fix them or raise --max_bad; the same command resumes the run.",
                        )
        except KeyboardInterrupt as stop:
            stop.add_note(f"{finished} of {len(items)} images are done. Run the same command again to resume.")
            raise
        except BrokenProcessPool as error:
            raise InputError(
                f"a worker process died after {finished} of {len(items)} images",
                remedy="Run the same command again to resume; if memory ran out, with fewer --workers.",
            ) from error


def read_results(partial: Path) -> dict[int, Result]:
    """Return the results in a file by index; the last result for an index counts.

    Args:
        partial: The file.

    Returns:
        Results by index.
    """
    with partial.open("rb") as file:
        lines = list(_complete_lines(file))
    return {line.pop("index"): line for line in lines[1:]}


def file_sha256(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file, which identifies it when a run resumes."""
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def partial_path(out: str | PathLike[str]) -> Path:
    """Return the path of the partial results of a manifest: ``OUT.partial.jsonl``."""
    return Path(f"{out}.partial.jsonl")


def _begin(partial: Path, settings: dict[str, Any]) -> set[int]:
    """Create the file, or check that it belongs to this run; return the indices that are done."""
    settings = json.loads(json.dumps(settings))  # JSON turns tuples into lists
    if not partial.is_file() or not partial.stat().st_size:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            _append(file, settings)
        return set()
    done: set[int] = set()
    with partial.open("r+b") as file:
        recorded = next(iter(_complete_lines(file)), None)
        if recorded != settings:
            other = sorted(
                key for key in settings if not isinstance(recorded, dict) or recorded.get(key) != settings[key]
            )
            raise ConfigError(
                f"an unfinished run with another {', '.join(other) or 'version of this program'}",
                where=partial,
                remedy="Give the same settings to resume it, or delete this file to start over.",
            )
        end = file.tell()
        for line in _complete_lines(file):
            end = file.tell()
            # Unusable items may have been fixed since.
            (done.add if line["bad"] is None else done.discard)(line["index"])
        # Drops a line that was incomplete when the run was killed.
        file.truncate(end)
    return done


def _complete_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the remaining JSON objects, up to an incomplete line."""
    # Iterating over the file would read ahead and disable tell().
    while (line := file.readline()).endswith(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def _append(file: IO[str], line: dict[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()


def _results(
    chunks: Sequence[list[int]], items: Sequence[Any], job: Job, workers: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield indices and results in order of completion."""
    if not chunks:
        return
    if workers == 1:
        with job.open() as process:
            for indices in chunks:
                yield from zip(indices, process([items[index] for index in indices]), strict=True)
        return
    # Spawned: onnxruntime and mediapipe do not survive a fork.
    with ProcessPoolExecutor(
        min(workers, len(chunks)), mp_context=get_context("spawn"), initializer=_open, initargs=(job,)
    ) as pool:
        waiting = iter(chunks)
        running: dict[Future[list[Result]], list[int]] = {}
        try:
            while True:
                for indices in islice(waiting, 2 * workers - len(running)):
                    running[pool.submit(_run, [items[index] for index in indices])] = indices
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield from zip(running.pop(future), future.result(), strict=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_opened: list[Callable[[Sequence[Any]], list[Result]]] = []


def _open(job: Job) -> None:
    """Start a worker process."""
    # Ctrl-C reaches every process of the terminal; the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    stack = ExitStack()
    _opened.append(stack.enter_context(job.open()))
    Finalize(None, stack.close, exitpriority=1)


def _exit_with_parent() -> None:
    """Exit when the main process dies; the worker would wait forever."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(items: Sequence[Any]) -> list[Result]:
    return _opened[0](items)


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def _progress(title: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal, and yield the function that advances it."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda: progress.advance(task)
