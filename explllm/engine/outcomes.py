"""What became of each face of a run, kept on the disk: the texts of a night's run would fill the memory."""

import json
import sqlite3
import weakref
from enum import StrEnum
from typing import Any, Protocol

from explllm.core.errors import InputError
from explllm.llm.request import well_formed


class Ended(Protocol):
    """How the work on one face ended."""

    @property
    def status(self) -> StrEnum:
        """One word for it; `explllm.engine.face_queue.FAILED` if it came to nothing."""

    @property
    def reason(self) -> str:
        """Why it failed; empty otherwise."""

    @property
    def cost(self) -> float:
        """What its answers cost, in USD, those of earlier runs included."""

    def cells(self) -> dict[str, str | float | None]:
        """Return what the written manifest says of the face, by column."""


class Outcomes:
    """Outcomes by row, in a database of SQLite's that has no name, and is gone with this object.

    Of it no more than a small cache is ever in memory. Every method may raise an InputError: if the disk is full.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._base = sqlite3.connect("", isolation_level=None)
        weakref.finalize(self, self._base.close)
        # Nobody finds it after a crash: there is nothing to wait for. A row that finds no room on the disk is undone.
        self._base.execute("PRAGMA journal_mode = MEMORY")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("PRAGMA cache_size = -256")  # KiB
        self._base.execute("CREATE TABLE outcomes (row INTEGER PRIMARY KEY, status TEXT, reason TEXT, cells TEXT)")

    def add(self, row: int, outcome: Ended) -> None:
        """Keep an outcome.

        Args:
            row: Its row, counted from 0.
            outcome: How it ended.

        Raises:
            InputError: If the disk is full.
        """
        values = (row, str(outcome.status), well_formed(outcome.reason), json.dumps(outcome.cells()))
        self._run("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", *values)

    def __len__(self) -> int:
        """Return the number of outcomes."""
        return int(self._run("SELECT count(*) FROM outcomes")[0][0])

    def count(self, status: str) -> int:
        """Return the number of rows that ended in a status."""
        return int(self._run("SELECT count(*) FROM outcomes WHERE status = ?", status)[0][0])

    def reasons(self, status: str, most: int) -> list[tuple[int, str]]:
        """Return the first rows that ended in a status, with their reasons.

        Args:
            status: The status.
            most: How many at most.

        Returns:
            Rows, counted from 0 and in their order, and reasons.
        """
        return self._run("SELECT row, reason FROM outcomes WHERE status = ? ORDER BY row LIMIT ?", status, most)

    def cells(self, first: int, last: int) -> dict[int, dict[str, Any]]:
        """Return what the written manifest says of some rows.

        Args:
            first: The first row, counted from 0.
            last: The last one.

        Returns:
            Cells by column, by row; a row without an outcome is missing.
        """
        found = self._run("SELECT row, cells FROM outcomes WHERE row BETWEEN ? AND ?", first, last)
        return {row: json.loads(cells) for row, cells in found}

    def _run(self, statement: str, *values: str | int) -> list[Any]:
        try:
            return self._base.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            # While reading too: what is in the cache may have to be written first.
            raise InputError(
                f"outcomes cannot be kept in a temporary file: {error}",
                remedy="Free the disk, or name a folder on another one by TMPDIR (on Windows TMP), and run the same "
                "command again: no answer is paid for twice.",
            ) from error
