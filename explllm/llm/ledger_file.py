"""The ledger's SQLite file: its tables, its statements, and its only writer.

The file uses a write-ahead log: other processes can read it while it is written.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from explllm.core.errors import InputError, MissingPathError
from explllm.llm.request import ChatMessage, ChatRequest, digest, escape_surrogates

_APPLICATION_ID = 0x45584C43
_VERSION = 1

_TABLES = """
-- Stores each text once: the rounds of a conversation repeat earlier messages, and all faces share the instructions.
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
    messages TEXT NOT NULL,     -- JSON: [role, hash of the text] of each message, then the image's hash if it has one
    schema_hash TEXT,
    temperature REAL NOT NULL,
    max_tokens INTEGER NOT NULL,
    failure TEXT                -- why the request failed; NULL if it did not
);
CREATE INDEX requests_scope ON requests (scope);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    request INTEGER NOT NULL REFERENCES requests,
    sent_as TEXT NOT NULL,      -- its X-Client-Request-Id
    started REAL NOT NULL,      -- seconds since 1970
    ended REAL,                 -- NULL: in flight, or its process died
    outcome TEXT,               -- answered, refused, failed, lost, canceled, discarded
    status INTEGER,             -- HTTP status; NULL without a response
    error TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost REAL,                  -- USD; NULL if unknown
    at_most REAL NOT NULL,      -- maximum cost in USD
    model TEXT,                 -- as reported by the server
    finish_reason TEXT,
    answer TEXT
);
CREATE INDEX attempts_request ON attempts (request);
CREATE TABLE ledger (name TEXT NOT NULL);
"""


@dataclass(frozen=True)
class AttemptResult:
    """The result of one HTTP request."""

    outcome: Literal["answered", "refused", "failed", "canceled"]
    status: int | None = None
    """HTTP status; None without a response."""
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    """Cost in USD; None if unknown."""
    upper_bound: float = 0.0
    """Maximum cost in USD."""
    model: str | None = None
    finish_reason: str | None = None
    answer: str | None = None


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a ledger's file and create missing tables.

    Raises:
        MissingPathError: If the file is missing and `create` is false.
        InputError: If the file is not a ledger, has another format version, or cannot be opened.
    """
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise MissingPathError("no such ledger", where=path, remedy="Check the path; runs with a model create ledgers.")
    try:
        # Several threads use the connection, but only one at a time.
        connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise InputError(
            f"the ledger cannot be opened: {error}", where=path, remedy="Pass a different file, or fix its permissions."
        ) from error
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _is_ledger(connection, path):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have created the tables in the meantime.
        if not _is_ledger(connection, path):
            for statement in _TABLES.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO ledger VALUES (?)", (uuid.uuid4().hex[:12],))
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        raise InputError(
            f"the ledger has format {version}, but this release reads format {_VERSION}",
            where=path,
            remedy="Use the release that wrote it, or start a new ledger.",
        )
    # With FULL, a commit is on disk when it returns, so a power cut loses no answer.
    connection.execute("PRAGMA synchronous = FULL")


def _is_ledger(connection: sqlite3.Connection, path: Path) -> bool:
    """Return True for a ledger and False for an empty file; raise an InputError for any other SQLite file."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID:
        return True
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise InputError("an SQLite file, but not a ledger", where=path, remedy="Choose another file.")
    return False


def record_attempt(
    connection: sqlite3.Connection,
    number: int,
    request_id: str,
    request: ChatRequest,
    model: str,
    started: float,
    upper_bound: float,
) -> None:
    """Insert an attempt, and its request if it is new."""
    key = request.key(model)
    if not connection.execute("SELECT 1 FROM requests WHERE key = ?", (key,)).fetchone():
        messages = json.dumps([_insert_message(connection, message) for message in request.messages])
        schema = None if request.schema is None else _insert_text(connection, json.dumps(dict(request.schema)))
        connection.execute(
            "INSERT INTO requests (key, scope, purpose, round, attempt, model, prompt_hash, messages, schema_hash,"
            " temperature, max_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                escape_surrogates(request.scope),
                escape_surrogates(request.purpose),
                request.round,
                request.attempt,
                model,
                digest(messages),
                messages,
                schema,
                request.temperature,
                request.max_tokens,
            ),
        )
    connection.execute(
        "INSERT INTO attempts (id, request, sent_as, started, at_most)"
        " SELECT ?, id, ?, ?, ? FROM requests WHERE key = ?",
        (number, request_id, started, upper_bound, key),
    )


def record_result(connection: sqlite3.Connection, number: int, result: AttemptResult) -> None:
    """Update an attempt with its result."""
    connection.execute(
        "UPDATE attempts SET ended = ?, outcome = ?, status = ?, error = ?, prompt_tokens = ?, completion_tokens = ?,"
        " cost = ?, at_most = ?, model = ?, finish_reason = ?, answer = ? WHERE id = ?",
        (
            time.time(),
            result.outcome,
            result.status,
            result.error,
            result.prompt_tokens,
            result.completion_tokens,
            result.cost,
            result.upper_bound,
            result.model,
            result.finish_reason,
            result.answer,
            number,
        ),
    )
    if result.outcome == "answered":
        # The request may have failed in an earlier run.
        connection.execute(
            "UPDATE requests SET failure = NULL WHERE id = (SELECT request FROM attempts WHERE id = ?)", (number,)
        )


def record_failure(connection: sqlite3.Connection, key: str, reason: str) -> None:
    """Record why a request failed."""
    connection.execute("UPDATE requests SET failure = ? WHERE key = ?", (reason, key))


def discard_answers(connection: sqlite3.Connection, scope: str) -> None:
    """Mark the answers and refusals of a scope as discarded."""
    connection.execute(
        "UPDATE attempts SET outcome = 'discarded' WHERE outcome IN ('answered', 'refused')"
        " AND request IN (SELECT id FROM requests WHERE scope = ?)",
        (escape_surrogates(scope),),
    )


def _insert_message(connection: sqlite3.Connection, message: ChatMessage) -> list[str]:
    # Store only the hash of an image: faces are personal data, and users share ledgers.
    image = [] if message.image is None else [message.image.sha256]
    return [message.role, _insert_text(connection, message.content), *image]


def _insert_text(connection: sqlite3.Connection, text: str) -> str:
    text = escape_surrogates(text)
    text_hash = digest(text)
    connection.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (text_hash, text))
    return text_hash


Statements = Callable[[sqlite3.Connection], object]
"""A function that executes statements. Its transaction may contain the statements of other functions."""


class LedgerWriter:
    """The only writer of a ledger, in one event loop.

    It collects the statements that arrive during a commit and commits them together: a commit waits milliseconds for
    the disk, and all requests in flight share this wait. Commits run in a thread. Statements run in the event loop,
    because in a thread each would wait for the interpreter's lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._lock = self._take_lock()
        try:
            self._connection = connect(path, create=True)
            self._inode = path.stat().st_ino
            self.name: str = self._connection.execute("SELECT name FROM ledger").fetchone()[0]
            self.next_id: int = self._connection.execute("SELECT coalesce(max(id), 0) + 1 FROM attempts").fetchone()[0]
            # This process holds the lock, so unfinished attempts were in flight when their process died. They may have
            # been charged.
            self._connection.execute(
                "UPDATE attempts SET ended = started, outcome = 'lost', error = 'the process ended' WHERE ended IS NULL"
            )
        except BaseException:
            self._lock.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._pending: list[tuple[Statements, asyncio.Future[None]]] = []
        self._busy = False

    def submit(self, statements: Statements) -> asyncio.Future[None]:
        """Schedule statements; they are executed in the order of submission, even if nobody awaits the future.

        Returns:
            A future that is done when the statements are on disk; it raises an InputError if they cannot be written.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("a ledger is written from one event loop")
        future = self._loop.create_future()
        self._pending.append((statements, future))
        if not self._busy:
            self._busy = True
            # Start two loop iterations later. The commit then includes the statements of this iteration and those
            # of the next request, which takes the slot of an answered one.
            self._loop.call_soon(self._loop.call_soon, self._start)
        return future

    async def close(self) -> None:
        """Finish all writes and release the ledger."""
        while self._busy:
            # Ignore errors here: they are raised in the tasks that wait for the pending statements.
            await asyncio.gather(self.submit(lambda connection: None), return_exceptions=True)
        self._thread.shutdown()
        self._connection.close()
        self._lock.close()

    def _take_lock(self) -> sqlite3.Connection:
        # Lock a separate file: an exclusive lock on the ledger would block readers too. SQLite's locks work on every
        # system, and the system releases them if the process is killed.
        path = self._path.with_name(f"{self._path.name}-writer")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if "locked" not in str(error):
                raise self._write_error(error) from error
            raise InputError(
                "another run is writing this ledger",
                where=self._path,
                remedy="Wait for it or stop it: two runs at once could pay for the same answer.",
            ) from error
        return lock

    def _start(self) -> None:
        batch, self._pending = self._pending, []
        try:
            self._check_file()
            self._connection.execute("BEGIN IMMEDIATE")
            for statements, _ in batch:
                statements(self._connection)
        except Exception as error:
            self._end(batch, error)
        else:
            committed = self._loop.run_in_executor(self._thread, self._connection.execute, "COMMIT")
            committed.add_done_callback(lambda done: self._end(batch, done.exception()))

    def _end(self, batch: list[tuple[Statements, asyncio.Future[None]]], error: BaseException | None) -> None:
        if error is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        for _, future in batch:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(self._write_error(error) if isinstance(error, sqlite3.Error) else error)
        self._busy = bool(self._pending)
        if self._busy:
            self._start()

    def _check_file(self) -> None:
        """Raise an InputError if the file was deleted or replaced: SQLite would keep writing to the deleted file."""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = None
        if inode != self._inode:
            raise InputError(
                "the ledger was deleted or replaced during the run",
                where=self._path,
                remedy="Restore it or start again; without it, all answers are paid for again.",
            )

    def _write_error(self, error: Any) -> InputError:
        return InputError(
            f"the ledger cannot be written: {error}",
            where=self._path,
            remedy="Free disk space or fix the permissions, then start again: recorded answers are not paid for twice.",
        )
