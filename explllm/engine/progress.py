"""The progress of a run: its file, its display, its summary, and the guard against overwriting other files."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from explllm.core.errors import ConfigError, InputError
from explllm.core.files import atomic_write
from explllm.engine.outcomes import FaceOutcome
from explllm.engine.runner import FAILED, RunResult

PROGRESS = "progress.json"
"""Name of the progress file in a run folder."""

_HEARTBEAT = 2.0
"""Seconds between two updates of the progress file."""
_SHOWN_REASONS = 10
"""Maximum number of failed rows in the summary."""


@dataclass(frozen=True)
class BuildIdentity:
    """The input and output of a run, stored with its progress: a run resumes only its own output."""

    manifest: Path
    """The input manifest."""
    out: Path
    """The output manifest."""
    source: str
    """The source of the texts, such as the model's name."""

    def check_overwrite(self, folder: Path) -> None:
        """Refuse to overwrite a file that is not the output of this run.

        Args:
            folder: The run folder with the progress file.

        Raises:
            ConfigError: If the output is the input, or exists and belongs to another run.
        """
        remedy = "Name another one, or pass --overwrite."
        if self.out.resolve() == self.manifest.resolve():
            raise ConfigError("--out is the manifest that is read", where=self.out, remedy=remedy)
        if not self.out.exists():
            return
        progress = read_progress(folder)
        if str(self.out.resolve()) not in progress.get("outs", ()):
            raise ConfigError("the manifest exists", where=self.out, remedy=remedy)
        for word, name in (("by", "source"), ("of", "manifest")):
            if progress.get(name) != self.fields()[name]:
                raise ConfigError(
                    f"the manifest was made {word} {progress.get(name)}, not {word} {self.fields()[name]}",
                    where=self.out,
                    remedy=remedy,
                )

    def fields(self) -> dict[str, str]:
        """Return the fields that must not change when a run is resumed."""
        return {"source": self.source, "manifest": str(self.manifest.resolve())}


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the content of a run folder's progress file; empty if it is missing or unreadable."""
    try:
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


class ProgressTracker:
    """Shows the progress of a run and writes it to a file for other shells."""

    def __init__(self, folder: Path, total: int, statuses: Iterable[str], title: str, identity: BuildIdentity) -> None:
        """Prepare a tracker without showing anything.

        Args:
            folder: The run folder.
            total: Number of faces.
            statuses: All possible statuses of a face.
            title: Title of the progress bar.
            identity: Input and output of the run.
        """
        self.folder, self.total, self.statuses, self.identity = folder, total, tuple(statuses), identity
        earlier = read_progress(folder)
        is_same_run = earlier.items() >= identity.fields().items()
        self._outs = sorted({str(identity.out.resolve()), *(earlier.get("outs", ()) if is_same_run else ())})
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

    def update(self, outcome: FaceOutcome) -> None:
        """Count an outcome."""
        self.counts[str(outcome.status)] += 1
        self.cost += outcome.cost
        self._progress.update(self._task, advance=1, failed=self.counts[FAILED], cost=self.cost)
        if time.monotonic() - self._written > 1:
            self.write("running")

    async def heartbeat(self) -> None:
        """Update the progress file every few seconds until canceled, even if no face finishes."""
        while True:
            await asyncio.sleep(_HEARTBEAT)
            self.write("running")

    def write(self, state: str) -> None:
        """Write the progress file with the state ``running``, ``stopped`` or ``done``."""
        self._written = time.monotonic()
        progress = {
            "state": state,
            **self.identity.fields(),
            "outs": self._outs,
            "total": self.total,
            "done": self.counts.total(),
            "statuses": {str(status): self.counts[status] for status in self.statuses},
            "cost": self.cost,
            "seconds": time.monotonic() - self._start,
            "updated": time.time(),
        }
        # Ignore a full disk: the ledger stops the run with a clear error.
        with suppress(OSError), atomic_write(self.folder / PROGRESS) as temporary:
            temporary.write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def saving(self, result: RunResult) -> Iterator[None]:
        """Record the final state of the run after the block has written its outputs.

        Args:
            result: The result of the run.

        Raises:
            InputError: If the outputs cannot be written. If the run had already ended with an error, that error: a full
                disk may be the cause of both.
        """
        try:
            yield
        except (InputError, OSError) as error:
            self.write("stopped")
            raise result.error or error from None
        self.write("stopped" if result.stopped else "done")

    def raise_if_stopped(self, result: RunResult, command: str = "the same command") -> None:
        """Raise the cause of an early end, after all outputs are written.

        Args:
            result: The result of the run.
            command: The command that resumes the run.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            InputError: If the server refused key, model or credit.
        """
        if result.error is not None:
            raise result.error
        if self.interrupted:
            stop = KeyboardInterrupt()
            stop.add_note(f"{self.counts.total()} of {self.total} faces are done. Run {command} again to resume.")
            raise stop


def print_summary(result: RunResult, statuses: Iterable[str], skipped: Mapping[str, int], out: Path) -> None:
    """Print the number of rows by status and why rows failed.

    Args:
        result: The result of the run.
        statuses: All possible statuses of a face.
        skipped: Number of skipped rows, by reason.
        out: The output manifest.
    """
    # Without markup: paths and reasons may contain square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for status in statuses:
        console.print(f"{status!s:26} {result.count(status)}")
    for reason, count in skipped.items():
        console.print(f"{'skipped: ' + reason:26} {count}")
    if result.pending:
        console.print(f"{'not done':26} {result.pending} ({result.stopped or 'stopped'})")
    console.print(f"cost {result.cost:.2f} USD, {result.seconds:.1f} s; wrote {out}")
    for row, reason in result.outcomes.reasons(FAILED, limit=_SHOWN_REASONS):
        sys.stderr.write(f"failed: row {row + 1}: {reason}\n")
    if (more := result.count(FAILED) - _SHOWN_REASONS) > 0:
        sys.stderr.write(f"failed: {more} more; see the column cot_reason of {out}\n")
