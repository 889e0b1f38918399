"""The progress of a run: its file, display and summary, and the protection against overwriting other files."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.core.files import atomic_write
from explllm.core.progress import ProgressBar
from explllm.engine.outcomes import FaceOutcome
from explllm.engine.runner import FAILED, RunResult

PROGRESS = "progress.json"
"""Name of the progress file in a run folder."""

_HEARTBEAT = 2.0
"""Seconds between updates of the progress file."""
_SHOWN_REASONS = 10
"""Maximum number of failed rows in the summary."""


@dataclass(frozen=True)
class BuildIdentity:
    """The input and outputs of a run, stored with its progress so that only the same run may overwrite its outputs."""

    manifest: Path
    """The input manifest."""
    out: Path
    """The output manifest."""
    source: str
    """The source of the texts, such as the model's name."""
    released: Path | None = None
    """A second output: the list in the format that the authors released."""
    kind: str = "chains of thought"
    """The kind of texts."""

    @property
    def outputs(self) -> dict[str, Path]:
        """The outputs, keyed by command-line option."""
        return {"--out": self.out, **({} if self.released is None else {"--json": self.released})}

    def check_overwrite(self, folder: Path, overwrite: bool = False) -> None:
        """Check that the run overwrites only its own outputs.

        Args:
            folder: The run folder with the progress file.
            overwrite: Whether to replace other files, including other runs' outputs; ``--out`` may then be the input.

        Raises:
            ConfigError: If an output is the input or the other output, or if it exists and this run did not write it.
        """
        if self.released is not None and self.released.resolve() in (self.manifest.resolve(), self.out.resolve()):
            other = "the input manifest" if self.released.resolve() == self.manifest.resolve() else "--out"
            raise ConfigError(f"--json is {other}", where=self.released, remedy="Choose another file.")
        if overwrite:
            return
        progress, remedy = self.earlier_progress(folder), "Choose another file, or pass --overwrite."
        for option, path in self.outputs.items():
            if path.resolve() == self.manifest.resolve():
                raise ConfigError(f"{option} is the input manifest", where=path, remedy=remedy)
            # If the path of the list is a folder, `check_writable` reports it.
            if not path.exists() or (path == self.released and path.is_dir()):
                continue
            if str(path.resolve()) not in progress.get("outs", ()):
                kind = "manifest" if path == self.out else "file"
                raise ConfigError(f"the {kind} exists", where=path, remedy=remedy)
            for word, name in (("by", "source"), ("of", "manifest"), ("with", "kind")):
                if progress.get(name) != self.fields()[name]:
                    difference = f"{word} {progress.get(name)}, not {word} {self.fields()[name]}"
                    raise ConfigError(f"the manifest was made {difference}", where=path, remedy=remedy)

    def fields(self) -> dict[str, str]:
        """Return the fields that must not change when a run is resumed."""
        return {"source": self.source, "manifest": str(self.manifest.resolve()), "kind": self.kind}

    def earlier_progress(self, folder: Path) -> dict[str, Any]:
        """Return the content of a run folder's progress file; empty if it is missing or damaged."""
        progress = read_progress(folder)
        # Progress files of earlier versions have no kind.
        return {"kind": self.kind, **progress} if progress else {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Prevent other runs, in any process, from writing the same outputs.

        The system releases the lock if the process is killed.

        Raises:
            InputError: If another run holds the lock.
        """
        with ExitStack() as locks:
            for path in self.outputs.values():
                target = path.resolve()
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    locks.enter_context(FileLock(target.with_name(f".{target.name}.lock"), timeout=0))
                except Timeout:
                    raise InputError(
                        "another run is writing this file", where=path, remedy="Wait for it or stop it."
                    ) from None
                except OSError:
                    # `check_writable` reports unwritable folders.
                    continue
            yield


def read_progress(folder: Path) -> dict[str, Any]:
    """Return the content of a run folder's progress file; empty if it is missing or damaged."""
    try:
        return load_progress(folder)
    except InputError:
        return {}


def load_progress(folder: Path) -> dict[str, Any]:
    """Return the content of a run folder's progress file.

    Raises:
        MissingPathError: If the file does not exist.
        InputError: If the file is damaged or cannot be read.
    """
    path = folder / PROGRESS
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingPathError(
            "the build does not exist", where=folder, remedy="Pass the OUT of `explllm cot build`, or its run folder."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"the progress file cannot be read: {error}", where=path, remedy=_REPAIR) from None
    if not isinstance(progress, dict) or not all(
        isinstance(progress.get(name), kind) for name, kind in _PROGRESS_FIELDS.items()
    ):
        raise InputError("the progress file is damaged", where=path, remedy=_REPAIR)
    return progress


_PROGRESS_FIELDS: dict[str, Any] = {
    "state": str,
    "outs": list,
    "total": int,
    "done": int,
    "statuses": dict,
    "seconds": (int, float),
    "updated": (int, float),
}
_REPAIR = "Run the same build again with --overwrite: it rewrites the file and takes all answers from the ledger."


def format_cost(cost: float, unpriced: int) -> str:
    """Format a cost as text; answers with an unknown price make it unknown or incomplete."""
    if not unpriced:
        return f"cost {cost:.2f} USD"
    return f"cost unknown ({unpriced} answers without a price{f', the others {cost:.2f} USD' if cost else ''})"


class ProgressTracker:
    """Shows the progress of a run and writes it to a file, which other shells can read."""

    def __init__(self, folder: Path, total: int, statuses: Iterable[str], title: str, identity: BuildIdentity) -> None:
        """Prepare a tracker; nothing is shown yet.

        Args:
            folder: The run folder.
            total: Number of faces.
            statuses: All possible statuses of a face.
            title: Title of the progress bar.
            identity: Input and outputs of the run.
        """
        self.folder, self.total, self.statuses, self.identity = folder, total, tuple(statuses), identity
        earlier = identity.earlier_progress(folder)
        is_same_run = earlier.items() >= identity.fields().items()
        outs = {str(path.resolve()) for path in identity.outputs.values()}
        self._outs = sorted({*outs, *(earlier.get("outs", ()) if is_same_run else ())})
        self.counts: Counter[str] = Counter()
        self.cost = 0.0
        self.interrupted = False
        self._start = self._written = time.monotonic()
        self._bar = ProgressBar(title, total)

    def __enter__(self) -> None:
        self._start = time.monotonic()
        self.write("running")
        self._bar.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.__exit__()
        if kind is not None:
            self.write("stopped")

    def update(self, outcome: FaceOutcome) -> None:
        """Count an outcome."""
        self.counts[str(outcome.status)] += 1
        self.cost += outcome.cost
        # Omit the cost if the price is unknown.
        cost = f", {self.cost:.2f} USD" if self.cost else ""
        self._bar.advance(details=f"failed {self.counts[FAILED]}{cost}")
        if time.monotonic() - self._written > 1:
            self.write("running")

    async def heartbeat(self) -> None:
        """Update the progress file every few seconds until canceled, even if no face finishes."""
        while True:
            await asyncio.sleep(_HEARTBEAT)
            self._bar.refresh()
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
        # Ignore a full disk, because the ledger stops the run with a clear error.
        with suppress(OSError), atomic_write(self.folder / PROGRESS) as temporary:
            temporary.write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def saving(self, result: RunResult) -> Iterator[None]:
        """Record the final state of the run after the ``with`` block has written its outputs.

        Raises:
            InputError: If the outputs cannot be written. If the run had already ended with an error, that error is
                raised instead, because a full disk may be the cause of both.
        """
        try:
            yield
        except (InputError, OSError) as error:
            self.write("stopped")
            raise result.error or error from None
        self.write("stopped" if result.stopped else "done")

    def raise_if_stopped(self, result: RunResult, command: str = "the same command") -> None:
        """Raise an exception if the run stopped early because of a signal or an error that the user has to fix.

        Call this after all outputs are written; `command` is the command that resumes the run.

        Raises:
            KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP.
            InputError: If the user has to fix the cause, such as a rejected key or model, or a lack of credit.
        """
        if result.error is not None:
            raise result.error
        if self.interrupted:
            stop = KeyboardInterrupt()
            stop.add_note(f"{self.counts.total()} of {self.total} faces are done. Run {command} again to resume.")
            raise stop


def print_summary(result: RunResult, statuses: Iterable[str], skipped: Mapping[str, int], out: Path) -> None:
    """Print the rows by status, the skipped rows by reason, the cost and duration, and why rows failed."""
    # Disable markup, because paths and reasons may contain square brackets.
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for status in statuses:
        console.print(f"{status!s:26} {result.count(status)}")
    for reason, count in skipped.items():
        console.print(f"{'skipped: ' + reason:26} {count}")
    if result.pending:
        console.print(f"{'not done':26} {result.pending} ({result.stopped or 'stopped'})")
    console.print(f"{format_cost(result.cost, result.unpriced)}, {result.seconds:.1f} s; wrote {out}")
    for row, reason in result.outcomes.reasons(FAILED, limit=_SHOWN_REASONS):
        sys.stderr.write(f"failed: row {row + 1}: {reason}\n")
    if (more := result.count(FAILED) - _SHOWN_REASONS) > 0:
        sys.stderr.write(f"failed: {more} more; see the reasons in {out}\n")
    if result.uses_model and result.count(FAILED) and not result.pending:
        sys.stderr.write(
            "Run the same command again to retry transient failures and unusable answers (each in at most 3 runs), or "
            "add `--redo failed` to ask again about every failed row.\n"
        )
