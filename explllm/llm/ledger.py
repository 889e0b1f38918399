"""The ledger: every request, its answer and its cost, in one crash-safe file."""

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
from typing import Any, Self

from explllm.core.errors import InputError
from explllm.llm.ledger_file import (
    AttemptResult,
    LedgerWriter,
    connect,
    discard_answers,
    record_attempt,
    record_failure,
    record_result,
)
from explllm.llm.limits import Budget
from explllm.llm.request import ChatAnswer, ChatImage, ChatMessage, ChatRequest, escape_surrogates


@dataclass(frozen=True)
class Totals:
    """Counts and cost of the requests in a ledger."""

    requests: int = 0
    """HTTP requests sent, failed ones included."""
    open: int = 0
    """HTTP requests in flight. After a crash, the next run marks them as lost."""
    answers: int = 0
    """Requests with an answer."""
    failures: int = 0
    """Requests that failed and have not been answered since."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """Cost in USD of all answers and refusals, discarded ones included, at the prices known at the time."""
    cost_upper_bound: float = 0.0
    """The cost plus the maximum cost of HTTP requests that may have been charged although no answer arrived."""
    unpriced: int = 0
    """Answers with an unknown price, which `cost` does not include."""
    by_purpose: dict[str, Totals] = field(default_factory=dict)
    """The same counts and cost for each `ChatRequest.purpose`."""


@dataclass(frozen=True)
class RecordedRequest:
    """A request in the ledger."""

    request: ChatRequest
    model: str
    """Name of the model that the request was sent to."""
    answer: ChatAnswer | None
    """The answer; None if it is missing."""
    failure: str | None
    """Why the request failed; None if it did not."""
    sent: int
    """Number of HTTP requests sent."""

    @property
    def purpose(self) -> str:
        """The task that asked; see `ChatRequest.purpose`."""
        return self.request.purpose

    @property
    def round(self) -> int:
        """Round of the conversation, from 0."""
        return self.request.round

    @property
    def messages(self) -> tuple[ChatMessage, ...]:
        """The messages sent; images contain only their hash."""
        return self.request.messages

    @property
    def text(self) -> str:
        """Text of the answer; empty without an answer."""
        return "" if self.answer is None else self.answer.text

    @property
    def cost(self) -> float:
        """Cost of the answer in USD; 0 without an answer."""
        return 0.0 if self.answer is None else self.answer.cost


class Ledger:
    """A file of requests, answers and their cost.

    Many processes can read a ledger at the same time. Only one process at a time can write to it, between
    `open_for_writing` and `close_writer`.
    """

    def __init__(self, path: str | PathLike[str], *, create: bool = True) -> None:
        """Open a ledger.

        Args:
            path: The file. SQLite keeps more files with the same prefix next to it while the ledger is in use.
            create: Whether to create a missing file.

        Raises:
            MissingPathError: If the file is missing and `create` is false.
            InputError: If the file is not a ledger, has another format version, or cannot be opened.
        """
        self.path = Path(path)
        self._reader = connect(self.path, create=create)
        self._lock = threading.Lock()
        self._writer: LedgerWriter | None = None
        self._writer_users = 0
        self._next_id = 1
        self.budget = Budget()
        """The money spent, shared by all clients that write to the ledger."""
        self.in_flight: dict[str, asyncio.Future[ChatAnswer]] = {}
        """Futures of the answers to requests in flight, by key, shared by all clients that write to the ledger."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; all clients that use the ledger must be closed first."""
        with self._lock:
            self._reader.close()

    def answer(self, key: str) -> ChatAnswer | None:
        """Return the recorded answer to the request with this `ChatRequest.key`, or None."""
        rows = self._read(_SELECT_ANSWER + " WHERE r.key = ? AND a.outcome = 'answered' LIMIT 1", (key,))
        return _answer_from_row(rows[0]) if rows else None

    def refusal(self, key: str) -> str | None:
        """Return the recorded refusal of the request with this `ChatRequest.key`, or None.

        A refusal was paid for. The request is not sent again, because it would probably be refused again.
        """
        rows = self._read(
            "SELECT a.error FROM requests r JOIN attempts a ON a.request = r.id"
            " WHERE r.key = ? AND a.outcome = 'refused' LIMIT 1",
            (key,),
        )
        return rows[0][0] if rows else None

    def has_answers(self, model: str) -> bool:
        """Return whether the ledger contains an answer or refusal of a model, including discarded ones."""
        rows = self._read(
            "SELECT 1 FROM requests r JOIN attempts a ON a.request = r.id"
            " WHERE r.model = ? AND a.outcome IN ('answered', 'refused', 'discarded') LIMIT 1",
            (model,),
        )
        return bool(rows)

    def conversation(self, scope: str) -> list[RecordedRequest]:
        """Return all requests of a scope in the order of their first attempts."""
        return [
            self._request_from_row(row)
            for row in self._read(
                "SELECT r.*, count(a.id) AS sent FROM requests r LEFT JOIN attempts a ON a.request = r.id"
                " WHERE r.scope = ? GROUP BY r.id ORDER BY r.id",
                (escape_surrogates(scope),),
            )
        ]

    def sent(self, scope: str) -> int:
        """Return the number of HTTP requests sent for a scope."""
        rows = self._read(
            "SELECT count(*) FROM attempts a JOIN requests r ON r.id = a.request WHERE r.scope = ?",
            (escape_surrogates(scope),),
        )
        return int(rows[0][0])

    def scopes(self) -> set[str]:
        """Return the scopes of all requests."""
        return {scope for (scope,) in self._read("SELECT DISTINCT scope FROM requests")}

    def totals(self) -> Totals:
        """Return the counts and cost of all requests, in total and by purpose."""
        names = [name for name in Totals.__dataclass_fields__ if name != "by_purpose"]
        by_purpose = {
            purpose: Totals(**dict(zip(names, counts, strict=True))) for purpose, *counts in self._read(_SELECT_TOTALS)
        }
        sums = {name: sum(getattr(part, name) for part in by_purpose.values()) for name in names}
        return Totals(**sums, by_purpose=by_purpose)

    def open_for_writing(self) -> None:
        """Make this process the only writer of the ledger, in the running event loop.

        Calls can be nested: the ledger is released when `close_writer` has been called as often as this method.

        Raises:
            InputError: If another process, or another `Ledger` object in this process, is writing to the file, or the
                file cannot be written.
        """
        if self._writer is None:
            self._writer = LedgerWriter(self.path)
            self._next_id = self._writer.next_id
            self.budget = Budget(self._read("SELECT total(at_most) FROM attempts")[0][0])
        self._writer_users += 1

    async def close_writer(self) -> None:
        """Undo one call of `open_for_writing`. The last call finishes pending writes and releases the ledger."""
        self._writer_users -= 1
        if self._writer_users == 0 and self._writer is not None:
            writer, self._writer = self._writer, None
            await writer.close()

    async def begin(self, request: ChatRequest, model: str, upper_bound: float) -> tuple[int, str]:
        """Record an attempt before it is sent; the record is on disk when this method returns.

        Args:
            request: The request.
            model: The model to ask.
            upper_bound: Maximum cost in USD.

        Returns:
            The attempt's number for `finish`, and a unique id for the HTTP request.

        Raises:
            InputError: If the ledger cannot be written.
        """
        writer = self._require_writer()
        number, self._next_id = self._next_id, self._next_id + 1
        request_id = f"explllm-{writer.name}-{number}"
        started = time.time()
        written = writer.submit(
            lambda connection: record_attempt(connection, number, request_id, request, model, started, upper_bound)
        )
        try:
            await asyncio.shield(written)
        except asyncio.CancelledError:
            not_sent = AttemptResult("canceled", error="not sent")
            writer.submit(lambda connection: record_result(connection, number, not_sent))
            raise
        return number, request_id

    async def finish(self, number: int, result: AttemptResult) -> None:
        """Record the result of an attempt; the result is written to disk even if this method is canceled.

        Raises:
            InputError: If the ledger cannot be written.
        """
        await asyncio.shield(
            self._require_writer().submit(lambda connection: record_result(connection, number, result))
        )

    async def give_up(self, key: str, reason: str) -> None:
        """Record that a request failed; do nothing if the request was never sent.

        Raises:
            InputError: If the ledger cannot be written.
        """
        await asyncio.shield(self._require_writer().submit(lambda connection: record_failure(connection, key, reason)))

    async def discard(self, scope: str) -> None:
        """Mark the answers and refusals of a scope as discarded: their cost still counts, but they are requested again.

        Raises:
            InputError: If the ledger cannot be written.
        """
        await asyncio.shield(self._require_writer().submit(lambda connection: discard_answers(connection, scope)))

    def _require_writer(self) -> LedgerWriter:
        if self._writer is None:
            raise RuntimeError("the ledger is not open for writing: call open_for_writing first")
        return self._writer

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                # Fetch all rows: an unfinished read would prevent checkpoints of the write-ahead log.
                return self._reader.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise InputError(
                f"the ledger cannot be read: {error}", where=self.path, remedy="Check the file and its disk."
            ) from error

    def _request_from_row(self, row: tuple[Any, ...]) -> RecordedRequest:
        _, key, scope, purpose, turn, attempt, model, _, messages, schema, temperature, max_tokens, failure, sent = row
        request = ChatRequest(
            scope=scope,
            purpose=purpose,
            round=turn,
            messages=tuple(
                ChatMessage(role, self._text(text_hash), *map(ChatImage, images))
                for role, text_hash, *images in json.loads(messages)
            ),
            schema=None if schema is None else json.loads(self._text(schema)),
            temperature=temperature,
            max_tokens=max_tokens,
            attempt=attempt,
        )
        return RecordedRequest(request, model, self.answer(key), failure, sent)

    def _text(self, text_hash: str) -> str:
        text: str = self._read("SELECT content FROM texts WHERE hash = ?", (text_hash,))[0][0]
        return text


_SELECT_ANSWER = (
    "SELECT a.answer, a.prompt_tokens, a.completion_tokens, a.cost, a.model, a.finish_reason"
    " FROM requests r JOIN attempts a ON a.request = r.id"
)

# The columns after the first are the fields of `Totals`, in order.
_SELECT_TOTALS = """
SELECT r.purpose, count(*), sum(ended IS NULL), sum(outcome IS 'answered'),
    (SELECT count(*) FROM requests given WHERE given.purpose = r.purpose AND given.failure IS NOT NULL),
    sum(coalesce(prompt_tokens, 0)), sum(coalesce(completion_tokens, 0)), total(cost), total(at_most),
    sum(outcome IS 'answered' AND cost IS NULL)
FROM attempts a JOIN requests r ON r.id = a.request GROUP BY r.purpose ORDER BY r.purpose
"""


def _answer_from_row(row: tuple[Any, ...]) -> ChatAnswer:
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
