"""Progress of long-running work, with its rate and the time left: a bar on a terminal, periodic lines elsewhere."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn

SECONDS_BEFORE_BAR = 2.0
"""Seconds after which a bar appears; shorter work shows none."""

REPORT_SECONDS = 30.0
"""Minimum seconds between progress lines if there is no terminal."""

_REFRESH_SECONDS = 0.1
_SAMPLE_SECONDS, _SAMPLES = 1.0, 60
"""The rate is computed from the last 60 samples only, because a resumed run begins with many fast items."""

_Item = TypeVar("_Item")


class ProgressBar:
    """Shows progress on stderr. Nested bars are not shown.

    On a terminal, a bar appears after `SECONDS_BEFORE_BAR` and disappears at the end. Elsewhere, such as in a log file,
    a line is printed every `REPORT_SECONDS`.
    """

    _is_shown = False

    def __init__(self, title: str, total: int | None = None, done: int = 0, *, in_bytes: bool = False) -> None:
        """Prepare a bar; nothing is shown yet.

        Args:
            title: Description of the work.
            total: Number of items; None if unknown.
            done: Number of items that an earlier run finished, which do not count toward the rate.
            in_bytes: Whether the items are bytes, shown as kB, MB or GB.
        """
        self._title, self._total, self._done, self._in_bytes = title, total, done, in_bytes
        self._details, self._is_outermost = "", False
        console = Console(stderr=True)
        name, status = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[status]"))
        self._bar = Progress(
            *(name, BarColumn(), status),
            console=console,
            transient=True,
            redirect_stdout=False,  # True would send the command's output to stderr
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, status="")
        self._timer = threading.Timer(SECONDS_BEFORE_BAR, self._bar.start)
        self._timer.daemon = True

    def __enter__(self) -> "ProgressBar":
        self._refreshed = self._reported = time.monotonic()
        self._samples = deque([(self._reported, self._done)], maxlen=_SAMPLES)
        self._is_outermost = not ProgressBar._is_shown
        if self._is_outermost:
            ProgressBar._is_shown = True
            self._bar.update(self._task, status=self._status())
            if not self._bar.disable:
                self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_outermost:
            ProgressBar._is_shown = False
            if not self._bar.disable:
                self._timer.cancel()
                self._timer.join()
                self._bar.stop()

    def advance(self, count: int = 1, details: str = "") -> None:
        """Count finished items; `details` are shown next to their number."""
        self.update(self._done + count, details)

    def update(self, done: int, details: str = "") -> None:
        """Set the number of finished items, including those of an earlier run."""
        self._done, self._details = done, details
        self.refresh()

    def refresh(self) -> None:
        """Show the progress if it has not been shown recently."""
        now = time.monotonic()
        if not self._is_outermost:
            return
        if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self._done))
        if not self._bar.disable:
            if now - self._refreshed >= _REFRESH_SECONDS:
                self._refreshed = now
                self._bar.update(self._task, completed=self._done, status=self._status())
        elif now - self._reported >= REPORT_SECONDS:
            self._reported = now
            sys.stderr.write(f"{self._title}: {self._status()}\n")
            sys.stderr.flush()

    def _status(self) -> str:
        amount = decimal if self._in_bytes else "{:,}".format
        parts = [amount(self._done) + ("" if self._total is None else f" of {amount(self._total)}")]
        start, before = self._samples[0]
        new, elapsed = self._done - before, time.monotonic() - start
        if new > 0 and elapsed > 0:
            rate = new / elapsed
            parts.append(f"{decimal(round(rate))}/s" if self._in_bytes else _rate(rate))
            if self._total is not None:
                parts.append(f"{timedelta(seconds=round(max(self._total - self._done, 0) / rate))} left")
        return ", ".join([*parts, *([self._details] if self._details else [])])


def _rate(per_second: float) -> str:
    """Format a rate as items per second, minute or hour; the number is at least 1 if possible."""
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.1f}/{unit}"
    return f"{per_second * 3600:.1f}/h"


def track(items: Iterable[_Item], title: str, total: int | None = None) -> Iterator[_Item]:
    """Yield items while showing the progress; `total` is their number, if known."""
    with ProgressBar(title, total) as bar:
        for item in items:
            yield item
            bar.advance()
