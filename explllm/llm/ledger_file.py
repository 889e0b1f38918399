"""The ledger's file: its tables, and their one writer.

The file is SQLite's, with a write-ahead log, so that others can read while it is written.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from explllm.core.errors import InputError, MissingPathError

_APPLICATION = 0x45584C43
_VERSION = 1

_TABLES = """
-- Every text once: the rounds of a conversation repeat each other, and all faces share the instructions.
CREATE TABLE texts (hash TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL,
    purpose TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    model TEXT NOT NULL,
    prompt_hash TEXT NOT NULL,  -- of all messages
    messages TEXT NOT NULL,     -- JSON: [role, hash of the text] for each, with a picture's hash third
    schema_hash TEXT,
    temperature REAL NOT NULL,
    max_tokens INTEGER NOT NULL,
    failure TEXT                -- why it was given up; NULL while it was not
);
CREATE INDEX requests_scope ON requests (scope);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    request INTEGER NOT NULL REFERENCES requests,
    sent_as TEXT NOT NULL,      -- its X-Client-Request-Id
    started REAL NOT NULL,      -- seconds since 1970
    ended REAL,                 -- NULL: in flight, or its process died
    outcome TEXT,               -- answered, refused, failed, lost, canceled
    status INTEGER,             -- of HTTP; NULL without an answer
    error TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost REAL,                  -- USD; NULL if unknown
    at_most REAL NOT NULL,      -- USD that it may have cost
    model TEXT,                 -- as the server names it
    finish_reason TEXT,
    answer TEXT
);
CREATE INDEX attempts_request ON attempts (request);
CREATE TABLE ledger (name TEXT NOT NULL);
"""


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a ledger's file, with its tables.

    Raises:
        MissingPathError: There is no file, and it shall not be made.
        InputError: The file is not a ledger, or cannot be opened.
    """
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise MissingPathError("no such ledger", where=path, remedy="Check the path; a run that asks a model makes it.")
    try:
        # Used by one thread at a time, though not by one alone.
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise InputError(
            f"the ledger cannot be opened: {error}", where=path, remedy="Name another file, or one that may be written."
        ) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _is_ledger(connection, path):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have made the tables since.
        if not _is_ledger(connection, path):
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO ledger VALUES (?)", (uuid.uuid4().hex[:12],))
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != _VERSION:
        raise InputError(
            f"a ledger of format {found}; this release reads format {_VERSION}",
            where=path,
            remedy="Use the release that wrote it, or start a new ledger.",
        )
    # FULL: a commit is on the disk when it returns, so that a power cut loses no answer either.
    connection.execute("PRAGMA synchronous = FULL")


def _is_ledger(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has a ledger's tables; False if it is empty."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION:
        return True
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise InputError("an SQLite file, but not a ledger", where=path, remedy="Name another file.")
    return False


Work = Callable[[sqlite3.Connection], object]
"""Executes statements on the connection it is given; it may be rolled back together with others."""


class LedgerWriter:
    """The one writer of a ledger, in one event loop: commits together whatever came in during the last commit.

    Waiting for the disk takes milliseconds; 64 requests in flight share it. The wait is a thread's, the statements are
    the loop's: from another thread, each of them would wait for the interpreter's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._lock = self._take_lock()
        try:
            self._connection = connect(path, create=True)
            self.name: str = self._connection.execute("SELECT name FROM ledger").fetchone()[0]
            self.next_id: int = self._connection.execute("SELECT coalesce(max(id), 0) + 1 FROM attempts").fetchone()[0]
            # No other process writes: what is open was in flight when its process died, and may have been charged for.
            self._connection.execute(
                "UPDATE attempts SET ended = started, outcome = 'lost', error = 'the process ended' WHERE ended IS NULL"
            )
        except BaseException:
            self._lock.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._waiting: list[tuple[Work, asyncio.Future[None]]] = []
        self._busy = False

    def submit(self, work: Work) -> asyncio.Future[None]:
        """Have some work written; works are done in order.

        Args:
            work: What to do.

        Returns:
            Is done when the work is on the disk, or carries an InputError if it could not be written. The work is done
            also if nobody waits for it.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a ledger is written from one event loop")
        future = self._loop.create_future()
        self._waiting.append((work, future))
        if not self._busy:
            self._busy = True
            # Two turns of the loop later: what comes in during this one is committed with it, and so is what an answer
            # makes room for, the next request.
            self._loop.call_soon(self._loop.call_soon, self._start)
        return future

    async def close(self) -> None:
        """Write what was handed in, and let other processes write."""
        while self._busy:
            await asyncio.wait([self.submit(lambda connection: None)])
        self._thread.shutdown()
        self._connection.close()
        self._lock.close()

    def _take_lock(self) -> sqlite3.Connection:
        # A file of its own, because an exclusive lock on the ledger would keep readers out too. SQLite's locks work on
        # every system, and the system takes them from a process that is killed.
        beside = self._path.with_name(f"{self._path.name}-writer")
        beside.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(beside, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if "locked" not in str(error):
                raise self._unwritable(error) from error
            raise InputError(
                "another run is writing this ledger",
                where=self._path,
                remedy="Wait for it or stop it: two at once could pay for the same answer.",
            ) from error
        return lock

    def _start(self) -> None:
        works, self._waiting = self._waiting, []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for work, _ in works:
                work(self._connection)
        except Exception as error:
            self._end(works, error)
        else:
            committed = self._loop.run_in_executor(self._thread, self._connection.execute, "COMMIT")
            committed.add_done_callback(lambda done: self._end(works, done.exception()))

    def _end(self, works: list[tuple[Work, asyncio.Future[None]]], error: BaseException | None) -> None:
        if error is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        for _, future in works:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(self._unwritable(error) if isinstance(error, sqlite3.OperationalError) else error)
        self._busy = bool(self._waiting)
        if self._busy:
            self._start()

    def _unwritable(self, error: Any) -> InputError:
        return InputError(
            f"the ledger cannot be written: {error}",
            where=self._path,
            remedy="Make room or give access, and start again: what is recorded is not paid for again.",
        )
