"""The ledger: every request that was sent, what came back and what it cost, in one file that survives a crash."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from explllm.core.errors import InputError
from explllm.llm.budget import Budget
from explllm.llm.ledger_file import LedgerWriter, connect
from explllm.llm.request import ChatAnswer, ChatMessage, ChatPicture, ChatRequest, digest, well_formed

Outcome = Literal["answered", "refused", "failed", "canceled"]


@dataclass(frozen=True)
class Totals:
    """What a ledger holds."""

    requests: int = 0
    """HTTP requests sent, the failed ones included."""
    open: int = 0
    """Of them, those in flight; after a crash those that were, until the next run counts them as lost."""
    answers: int = 0
    """Requests that were answered."""
    failures: int = 0
    """Requests that were given up and not answered since."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """USD for what came back, at the prices known then."""
    cost_at_most: float = 0.0
    """The same with the upper bound of everything that was sent and never came back."""
    unpriced: int = 0
    """Answers whose price was not known; `cost` lacks them."""
    by_purpose: dict[str, Totals] = field(default_factory=dict)
    """The same for each `ChatRequest.purpose`."""


@dataclass(frozen=True)
class RecordedRequest:
    """A request and what became of it."""

    request: ChatRequest
    model: str
    """The model that was asked."""
    answer: ChatAnswer | None
    """None if there is none (yet)."""
    failure: str | None
    """Why it was given up; None if it was not."""
    sent: int
    """HTTP requests sent for it."""

    @property
    def purpose(self) -> str:
        """Which process asked."""
        return self.request.purpose

    @property
    def round(self) -> int:
        """Which round of the conversation it was."""
        return self.request.round

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """What was sent; of a picture its hash."""
        return self.request.messages

    @property
    def text(self) -> str:
        """What came back; empty without an answer."""
        return "" if self.answer is None else self.answer.text

    @property
    def cost(self) -> float:
        """What the answer cost, in USD."""
        return 0.0 if self.answer is None else self.answer.cost


@dataclass(frozen=True)
class Settled:
    """How one HTTP request ended."""

    outcome: Outcome
    status: int | None = None
    """Of HTTP; None if nothing came back."""
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    """USD; None if unknown."""
    at_most: float = 0.0
    """USD that it may have cost."""
    model: str | None = None
    finish_reason: str | None = None
    answer: str | None = None


class Ledger:
    """A file of requests, answers and their cost.

    Many processes may read it; one at a time writes, which a client begins by `open_for_writing`.
    """

    def __init__(self, path: str | PathLike[str], *, create: bool = True) -> None:
        """Open a ledger.

        Args:
            path: The file; others whose names begin with its name stand beside it, and must stay while it is in use.
            create: Whether to make it if it is missing.

        Raises:
            MissingPathError: It is missing and shall not be made.
            InputError: It is not a ledger, or cannot be opened.
        """
        self.path = Path(path)
        self._reading = connect(self.path, create=create)
        self._lock = threading.Lock()
        self._writer: LedgerWriter | None = None
        self._writers = 0
        self._next_id = 1
        self.budget = Budget()
        """What has been spent, shared by the clients that write."""
        self.asking: dict[str, asyncio.Future[ChatAnswer]] = {}
        """The keys that are being asked for, shared by the clients that write."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a client that writes it is closed before."""
        with self._lock:
            self._reading.close()

    def answer(self, key: str) -> ChatAnswer | None:
        """Return the recorded answer to a request.

        Args:
            key: What `ChatRequest.key` gave.

        Returns:
            The answer, or None if there is none.
        """
        rows = self._read(_ANSWER + " WHERE r.key = ? AND a.outcome = 'answered' LIMIT 1", (key,))
        return _answer(rows[0]) if rows else None

    def refusal(self, key: str) -> str | None:
        """Return why the model refused a request: that was paid for too, and asking again would give the same."""
        rows = self._read(
            "SELECT a.error FROM requests r JOIN attempts a ON a.request = r.id"
            " WHERE r.key = ? AND a.outcome = 'refused' LIMIT 1",
            (key,),
        )
        return rows[0][0] if rows else None

    def conversation(self, scope: str) -> list[RecordedRequest]:
        """Return everything that was asked for a scope, in the order in which it was first sent."""
        return [
            self._recorded(row)
            for row in self._read(
                "SELECT r.*, count(a.id) AS sent FROM requests r LEFT JOIN attempts a ON a.request = r.id"
                " WHERE r.scope = ? GROUP BY r.id ORDER BY r.id",
                (well_formed(scope),),
            )
        ]

    def scopes(self) -> set[str]:
        """Return everything that was asked about."""
        return {scope for (scope,) in self._read("SELECT DISTINCT scope FROM requests")}

    def totals(self) -> Totals:
        """Count requests, answers, tokens and cost, over all and for each purpose."""
        by_purpose = {purpose: _totals(counts) for purpose, *counts in self._read(_TOTALS)}
        numbers = [name for name in Totals.__dataclass_fields__ if name != "by_purpose"]
        return Totals(
            **{name: sum(getattr(part, name) for part in by_purpose.values()) for name in numbers},
            by_purpose=by_purpose,
        )

    def open_for_writing(self) -> None:
        """Become the one process that writes this ledger, in the running event loop; `done_writing` ends it.

        Raises:
            InputError: Another process, or another `Ledger` of this one, writes it.
        """
        if self._writer is None:
            self._writer = LedgerWriter(self.path)
            self._next_id = self._writer.next_id
            self.budget = Budget(self._read("SELECT total(at_most) FROM attempts")[0][0])
        self._writers += 1

    async def done_writing(self) -> None:
        """End what `open_for_writing` began, when it was called as often."""
        self._writers -= 1
        if self._writers == 0 and self._writer is not None:
            writer, self._writer = self._writer, None
            await writer.close()

    async def begin(self, request: ChatRequest, model: str, at_most: float) -> tuple[int, str]:
        """Record that a request is going to be sent; on the disk when this returns.

        Args:
            request: The request.
            model: The model that is asked.
            at_most: What it may cost, in USD.

        Returns:
            A number to give to `finish`, and a name for the HTTP request that no other has.

        Raises:
            InputError: It cannot be written.
        """
        writer = self._need_writer()
        number, self._next_id = self._next_id, self._next_id + 1
        sent_as = f"explllm-{writer.name}-{number}"
        started = time.time()
        written = writer.submit(
            lambda connection: _begin(connection, number, sent_as, request, model, started, at_most)
        )
        try:
            await asyncio.shield(written)
        except asyncio.CancelledError:
            writer.submit(lambda connection: _finish(connection, number, Settled("canceled", error="not sent")))
            raise
        return number, sent_as

    async def finish(self, number: int, settled: Settled) -> None:
        """Record how an HTTP request ended; on the disk when this returns, and also if it is canceled.

        Raises:
            InputError: It cannot be written.
        """
        written = self._need_writer().submit(lambda connection: _finish(connection, number, settled))
        await asyncio.shield(written)

    async def give_up(self, key: str, reason: str) -> None:
        """Record that a request failed for good; nothing happens if it was never sent.

        Raises:
            InputError: It cannot be written.
        """
        written = self._need_writer().submit(lambda connection: _give_up(connection, key, reason))
        await asyncio.shield(written)

    def _need_writer(self) -> LedgerWriter:
        if self._writer is None:
            raise RuntimeError("the ledger is not open for writing: call open_for_writing first")
        return self._writer

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                # All at once: an unfinished read would keep the write-ahead log from being shortened.
                return self._reading.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise InputError(
                f"the ledger cannot be read: {error}", where=self.path, remedy="Check the file and its disk."
            ) from error

    def _recorded(self, row: tuple[Any, ...]) -> RecordedRequest:
        _, key, scope, purpose, turn, attempt, model, _, messages, schema, temperature, max_tokens, failure, sent = row
        request = ChatRequest(
            scope=scope,
            purpose=purpose,
            round=turn,
            messages=tuple(
                ChatMessage(role, self._text(hashed), *map(ChatPicture, picture))
                for role, hashed, *picture in json.loads(messages)
            ),
            schema=None if schema is None else json.loads(self._text(schema)),
            temperature=temperature,
            max_tokens=max_tokens,
            attempt=attempt,
        )
        return RecordedRequest(request, model, self.answer(key), failure, sent)

    def _text(self, hashed: str) -> str:
        text: str = self._read("SELECT content FROM texts WHERE hash = ?", (hashed,))[0][0]
        return text


_ANSWER = (
    "SELECT a.answer, a.prompt_tokens, a.completion_tokens, a.cost, a.model, a.finish_reason"
    " FROM requests r JOIN attempts a ON a.request = r.id"
)


_TOTALS = """
SELECT r.purpose, count(*), sum(ended IS NULL), sum(outcome IS 'answered'),
    (SELECT count(*) FROM requests given WHERE given.purpose = r.purpose AND given.failure IS NOT NULL),
    sum(coalesce(prompt_tokens, 0)), sum(coalesce(completion_tokens, 0)), total(cost), total(at_most),
    sum(outcome IS 'answered' AND cost IS NULL)
FROM attempts a JOIN requests r ON r.id = a.request GROUP BY r.purpose ORDER BY r.purpose
"""


def _totals(counts: list[Any]) -> Totals:
    requests, unfinished, answers, failures, prompt_tokens, completion_tokens, cost, cost_at_most, unpriced = counts
    return Totals(
        requests=requests,
        open=unfinished,
        answers=answers,
        failures=failures,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost=cost,
        cost_at_most=cost_at_most,
        unpriced=unpriced,
    )


def _answer(row: tuple[Any, ...]) -> ChatAnswer:
    text, prompt_tokens, completion_tokens, cost, model, finish_reason = row
    return ChatAnswer(
        text=text,
        prompt_tokens=prompt_tokens or 0,
        completion_tokens=completion_tokens or 0,
        cost=cost or 0.0,
        model=model,
        recorded=True,
        finish_reason=finish_reason,
    )


def _begin(
    connection: sqlite3.Connection,
    number: int,
    sent_as: str,
    request: ChatRequest,
    model: str,
    started: float,
    at_most: float,
) -> None:
    key = request.key(model)
    if not connection.execute("SELECT 1 FROM requests WHERE key = ?", (key,)).fetchone():
        messages = json.dumps([_kept(connection, message) for message in request.messages])
        schema = None if request.schema is None else _keep(connection, json.dumps(dict(request.schema)))
        connection.execute(
            "INSERT INTO requests (key, scope, purpose, round, attempt, model, prompt_hash, messages, schema_hash,"
            " temperature, max_tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                well_formed(request.scope),
                well_formed(request.purpose),
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
        (number, sent_as, started, at_most, key),
    )


def _finish(connection: sqlite3.Connection, number: int, settled: Settled) -> None:
    connection.execute(
        "UPDATE attempts SET ended = ?, outcome = ?, status = ?, error = ?, prompt_tokens = ?, completion_tokens = ?,"
        " cost = ?, at_most = ?, model = ?, finish_reason = ?, answer = ? WHERE id = ?",
        (
            time.time(),
            settled.outcome,
            settled.status,
            settled.error,
            settled.prompt_tokens,
            settled.completion_tokens,
            settled.cost,
            settled.at_most,
            settled.model,
            settled.finish_reason,
            settled.answer,
            number,
        ),
    )
    if settled.outcome == "answered":
        # It may have been given up in an earlier run.
        connection.execute(
            "UPDATE requests SET failure = NULL WHERE id = (SELECT request FROM attempts WHERE id = ?)", (number,)
        )


def _give_up(connection: sqlite3.Connection, key: str, reason: str) -> None:
    connection.execute("UPDATE requests SET failure = ? WHERE key = ?", (reason, key))


def _kept(connection: sqlite3.Connection, message: ChatMessage) -> list[str]:
    # Of a picture the hash alone: faces are personal data, and a ledger is passed on.
    picture = [] if message.picture is None else [message.picture.sha256]
    return [message.role, _keep(connection, message.content), *picture]


def _keep(connection: sqlite3.Connection, text: str) -> str:
    text = well_formed(text)
    hashed = digest(text)
    connection.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (hashed, text))
    return hashed
