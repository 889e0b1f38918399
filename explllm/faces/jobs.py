"""Resumable jobs over many images, in this process or in worker processes; `job_results` stores the results."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

from explllm.core.errors import InputError, MissingPathError
from explllm.core.progress import ProgressBar
from explllm.faces.job_results import Result, append, begin

Item = tuple[int, Any]
"""An index and an item; the result of the item is stored under the index."""

MAX_MISSING = 100
"""A run stops if the files of its first `MAX_MISSING` items are all missing."""

_MAX_REJECTED = 3
"""Maximum number of consecutive items that crash their worker. If there are more, the run stops, because the items are
unlikely to be the cause."""

_KILLED = "it crashed its worker process twice"


class Job(Protocol):
    """Defines how items are processed. It is pickled for the workers, so it holds settings but no models."""

    def open(self) -> AbstractContextManager[Callable[[Sequence[Any]], list[Result]]]:
        """Open the models, and yield a function that processes some items and returns one result for each."""
        ...

    def reject(self, item: Any, reason: str) -> Result:
        """Return the result of an unusable item."""
        ...


def failure(job: Job, item: Any, error: Exception) -> Result:
    """Return the result of an item that raised an error, so that a single image cannot stop the run."""
    if not isinstance(error, InputError):
        return job.reject(item, f"{type(error).__name__}: {error}")
    result = job.reject(item, error.found)
    return {**result, "missing": True} if isinstance(error, MissingPathError) else result


@dataclass(frozen=True)
class JobOptions:
    """Where results are written, and how the items are processed."""

    partial: Path
    """File of the results."""
    settings: dict[str, Any]
    """Everything that the results depend on. A run can be resumed only with the same settings."""
    title: str
    """Label of the progress bar."""
    total: int
    """Number of items."""
    workers: int = 1
    """Number of worker processes; with 1, the main process does the work."""
    chunk: int = 1
    """Number of items per call of a worker."""
    max_bad: int | None = None
    """Maximum number of unusable items before the run stops; None for no limit."""


def run_job(items: Iterable[Item], job: Job, options: JobOptions) -> None:
    """Process every item without a good result, and append the results to the file, one JSON object per line.

    At most two chunks per worker are in progress at any time. An item that crashes its process twice (in one run
    if there are several workers, otherwise in two runs) is recorded as unusable.

    Args:
        items: Indices and items, by ascending index.
        job: What to do with the items.
        options: Where results are written, and the limits.

    Raises:
        ConfigError: If the file belongs to a run with other settings.
        InputError: If more than `max_bad` items are unusable, the files of the first `MAX_MISSING` items are all
            missing, or worker processes keep dying. The results so far are kept, except in the case of missing files.
        KeyboardInterrupt: After Ctrl-C; the results so far are kept.
    """
    done, deaths = begin(options.partial, options.settings)
    finished = sum(done)
    counts: Counter[str] = Counter()
    rest = ((index, item) for index, item in items if not (index < len(done) and done[index]))
    progress = ProgressBar(options.title, options.total, finished)
    with options.partial.open("a", encoding="utf-8") as file, progress:
        try:
            # Close immediately on errors, so that no worker outlives the run.
            with closing(_results(rest, job, options, deaths, lambda line: append(file, line))) as results:
                for index, result in results:
                    append(file, {"index": index, **result})
                    progress.advance()
                    finished += 1
                    counts["processed"] += 1
                    counts["bad"] += result["bad"] is not None
                    counts["missing"] += bool(result.get("missing"))
                    _check_limits(counts, result, options)
        except KeyboardInterrupt as stop:
            stop.add_note(f"{finished} of {options.total} images are done. Run the same command again to resume.")
            raise
        except BrokenProcessPool as error:
            raise InputError(
                f"worker processes keep dying, the last after {finished} of {options.total} images",
                remedy="Run the same command again to resume; if memory ran out, use fewer --workers.",
            ) from error


def _check_limits(counts: Counter[str], result: Result, options: JobOptions) -> None:
    if counts["missing"] == counts["processed"] == MAX_MISSING:
        options.partial.unlink()  # The next run will have another root, so nothing here is worth keeping.
        raise InputError(
            f"the first {MAX_MISSING} images do not exist; the last one is {result['bad']}",
            remedy="Pass the folder that image paths are relative to: --root DIR.",
        )
    if options.max_bad is not None and counts["bad"] > options.max_bad:
        raise InputError(
            f"{counts['bad']} images could not be used, the last because: {result['bad']}",
            remedy="Fix them or raise --max_bad; the same command resumes the run.",
        )


def _results(
    items: Iterator[Item],
    job: Job,
    options: JobOptions,
    deaths: Counter[int],
    record: Callable[[dict[str, Any]], None],
) -> Generator[tuple[int, Result], None, None]:
    """Yield indices and results in order of completion."""
    chunks = iter(lambda: list(islice(items, options.chunk)), [])
    if options.workers > 1:
        yield from _pooled(chunks, job, options.workers)
        return
    with ExitStack() as stack:
        process = None
        for chunk in chunks:
            usable = [(index, item) for index, item in chunk if deaths[index] < 2]
            yield from ((index, job.reject(item, _KILLED)) for index, item in chunk if deaths[index] >= 2)
            # After a crash, process items one by one, because only one item in the chunk caused it.
            parts = [[one] for one in usable] if any(deaths[index] for index, _ in usable) else [usable]
            for part in filter(None, parts):
                process = process or stack.enter_context(job.open())
                indices = [index for index, _ in part]
                # If one of these items crashes the process, the next run can tell which items were in progress.
                record({"started": indices})
                try:
                    results = process([item for _, item in part])
                except BaseException:
                    record({"stopped": indices})
                    raise
                yield from zip(indices, results, strict=True)


def _pooled(chunks: Iterator[list[Item]], job: Job, workers: int) -> Generator[tuple[int, Result], None, None]:
    """Yield the results of worker processes.

    After a worker dies, the items in progress are repeated one by one, because the pool does not report which one
    caused the crash. An item that crashes its worker twice on its own is rejected.
    """
    suspects: list[Item] = []
    deaths = Counter[int]()
    rejected = 0
    while True:
        running: dict[Future[list[Result]], list[Item]] = {}
        submitting: list[Item] = []
        alone = bool(suspects)
        # Spawn the workers, because onnxruntime and mediapipe do not survive a fork.
        pool = ProcessPoolExecutor(
            1 if alone else workers, mp_context=get_context("spawn"), initializer=_open, initargs=(job,)
        )
        try:
            while True:
                waiting = iter([[suspects[0]]] if suspects else []) if alone else chunks
                for chunk in islice(waiting, (1 if alone else 2 * workers) - len(running)):
                    submitting = chunk
                    running[pool.submit(_run, [item for _, item in chunk])] = chunk
                    submitting = []
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    results = future.result()
                    rejected = 0
                    suspects = suspects[1:]
                    yield from zip([index for index, _ in running.pop(future)], results, strict=True)
            if not alone:
                return
        except BrokenProcessPool:
            if not alone:
                suspects = [item for chunk in [*running.values(), submitting] for item in chunk]
                continue
            index, item = suspects[0]
            deaths[index] += 1
            if deaths[index] == 2:
                rejected += 1
                if rejected > _MAX_REJECTED:
                    raise
                suspects = suspects[1:]
                yield index, job.reject(item, _KILLED)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_opened: list[Callable[[Sequence[Any]], list[Result]]] = []


def _open(job: Job) -> None:
    """Initialize a worker process, and open the models of the job."""
    # Ctrl-C reaches every process of the terminal; the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    stack = ExitStack()
    _opened.append(stack.enter_context(job.open()))
    Finalize(None, stack.close, exitpriority=1)


def _exit_with_parent() -> None:
    """Exit when the main process dies; otherwise, the worker would wait forever."""
    parent = parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(items: Sequence[Any]) -> list[Result]:
    return _opened[0](items)
