"""The outcomes of a run, stored on disk because the texts of a long run would not fit in memory."""

import json
import sqlite3
import weakref
from enum import StrEnum
from typing import Any, Protocol

from explllm.core.errors import InputError
from explllm.llm.request import clean_text


class FaceOutcome(Protocol):
    """The outcome of one face."""

    @property
    def status(self) -> StrEnum:
        """The final status; `explllm.engine.runner.FAILED` if the face failed."""

    @property
    def reason(self) -> str:
        """Why the face failed; empty if it did not."""

    @property
    def cost(self) -> float:
        """Cost of the answers for this face in USD, including answers from earlier runs."""

    def cells(self) -> dict[str, str | float | None]:
        """Return the face's cells in the output manifest, by column."""


class OutcomeStore:
    """Outcomes by row, in an unnamed temporary SQLite database.

    Only a small cache is in memory. Every method raises an InputError if the disk is full.
    """

    def __init__(self) -> None:
        """Create an empty store."""
        # The garbage collector may close the connection in another thread.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._database.close)
        # The database does not survive a crash, so writes need not wait for the disk. The rollback journal undoes a row
        # that does not fit on the disk.
        self._database.execute("PRAGMA journal_mode = MEMORY")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA cache_size = -256")  # KiB
        self._database.execute("CREATE TABLE outcomes (row INTEGER PRIMARY KEY, status TEXT, reason TEXT, cells TEXT)")

    def add(self, row: int, outcome: FaceOutcome) -> None:
        """Store the outcome of a row (counted from 0), without characters that some table formats cannot hold."""
        cells = {name: clean_text(cell) if isinstance(cell, str) else cell for name, cell in outcome.cells().items()}
        values = (row, str(outcome.status), clean_text(outcome.reason), json.dumps(cells))
        self._run("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?)", *values)

    def __len__(self) -> int:
        """Return the number of outcomes."""
        return int(self._run("SELECT count(*) FROM outcomes")[0][0])

    def count(self, status: str) -> int:
        """Return the number of rows with a status."""
        return int(self._run("SELECT count(*) FROM outcomes WHERE status = ?", status)[0][0])

    def reasons(self, status: str, limit: int) -> list[tuple[int, str]]:
        """Return the zero-based numbers and the reasons of the first `limit` rows with a status."""
        return self._run("SELECT row, reason FROM outcomes WHERE status = ? ORDER BY row LIMIT ?", status, limit)

    def cells(self, first: int, last: int) -> dict[int, dict[str, Any]]:
        """Return cells by row and column, for the rows from `first` to `last` that have an outcome."""
        rows = self._run("SELECT row, cells FROM outcomes WHERE row BETWEEN ? AND ?", first, last)
        return {row: json.loads(cells) for row, cells in rows}

    def _run(self, statement: str, *values: str | int) -> list[Any]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            # Reading can fail too: SQLite may have to write its cache first.
            raise InputError(
                f"outcomes cannot be stored in a temporary file: {error}",
                remedy="Free disk space, or set TMPDIR (on Windows TMP) to a folder on another disk, and run the same "
                "command again: no answer is paid for twice.",
            ) from error
