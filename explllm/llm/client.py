"""The client of every OpenAI-compatible server: retries, limits, a budget, and a ledger in which nothing is lost."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import tenacity

from explllm.core.errors import InputError
from explllm.llm.dialect import Dialect
from explllm.llm.ledger import Ledger, Settled
from explllm.llm.limits import RateLimit
from explllm.llm.prices import picture_tokens
from explllm.llm.request import ChatAnswer, ChatFailure, ChatRequest, OutOfBudget, Refused, Stopped
from explllm.llm.server import Completion, Fatal, Rejected, Server, TransientError, Unanswered
from explllm.llm.settings import ChatSettings

_log = logging.getLogger(__name__)

_BACKOFF = tenacity.wait_exponential_jitter(initial=0.5, max=60, jitter=0.5)
_LONG_WAIT = 60.0
"""Seconds of waiting that the user is told of."""


class ChatClient:
    """Asks a language model, and pays for no answer twice.

    An async context manager. Several may share a ledger, in one event loop.
    """

    def __init__(self, settings: ChatSettings, ledger: Ledger) -> None:
        """Prepare a client; nothing is sent.

        Args:
            settings: Which model, how fast, for how much money.
            ledger: Where everything is recorded.

        Raises:
            ConfigError: There is no API key, or there is a budget and no price.
        """
        self.settings = settings
        self.ledger = ledger
        self._price = settings.price()
        settings.api_key()
        self._dialect = Dialect(settings)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._requests = _limit(settings.requests_per_minute)
        self._tokens = _limit(settings.tokens_per_minute)
        self._ended = asyncio.Event()
        self._end: Exception | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.ledger.open_for_writing()
        try:
            self._server = Server(self.settings)
        except BaseException:
            await self.ledger.done_writing()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_with(Stopped("the client is closed"))
        if self._server is not None:
            await self._server.close()
        await self.ledger.done_writing()

    async def check(self) -> None:
        """Find out before money is spent: is the server there, does it take the key, does it have the model?

        Nothing is recorded of it; a server that does not list its models passes.

        Raises:
            InputError: One of them is not so.
        """
        await self._need_server().check()

    async def ask(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer to a request, from the ledger if it is there, else from the server.

        Args:
            request: The request.

        Returns:
            The answer, which is on the disk. The caller parses it, also if a schema was given.

        Raises:
            Refused: The model would not answer it.
            ChatFailure: This request failed for good otherwise; others may succeed.
            OutOfBudget: It might cost more than is left; it was not sent.
            Stopped: `stop` was called before it was answered.
            InputError: No request can succeed: wrong key, no such model, no credit, a ledger that cannot be written.
        """
        key = request.key(self.settings.model)
        while True:
            recorded = self.ledger.answer(key)
            if recorded is not None:
                if recorded.finish_reason == "length":
                    self._dialect.cut_off_before()
                return recorded
            other = self.ledger.asking.get(key)
            if other is None:
                break
            await asyncio.wait([other])
            # That the other was ended need not concern this one.
            if not other.cancelled() and not isinstance(other.exception(), (Stopped, OutOfBudget)):
                return replace(other.result(), recorded=True)
        refusal = self.ledger.refusal(key)
        if refusal is not None:
            raise Refused(refusal)
        mine = asyncio.get_running_loop().create_future()
        self.ledger.asking[key] = mine
        try:
            answer = await self._ask(request, key)
            mine.set_result(answer)
            return answer
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except BaseException as error:
            mine.set_exception(error)
            # Taken note of: mostly nobody else waits.
            mine.exception()
            raise
        finally:
            del self.ledger.asking[key]

    def stop(self) -> None:
        """Send nothing more, from any thread: what is in flight finishes, everything else raises `Stopped`."""
        self._finish_with(Stopped("the run was stopped"))

    async def _ask(self, request: ChatRequest, key: str) -> ChatAnswer:
        self._check_open()
        async with _Slot(self._slots) as slot:
            # A new one for each request: tenacity keeps the state of one run in it.
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(TransientError),
                stop=tenacity.stop_after_attempt(self.settings.max_retries + 1),
                wait=_wait,
                sleep=self._sleep,
                reraise=True,
            )
            try:
                return await retrying(self._put, request, key, slot)
            except Fatal as error:
                self._finish_with(error.error)
                raise error.error from None
            except Unanswered as error:
                times = f", sent {self.settings.max_retries + 1} times" if isinstance(error, TransientError) else ""
                reason = f"{error}{times}"
                await self.ledger.give_up(key, reason)
                raise ChatFailure(reason) from None
            except InputError as error:
                self._finish_with(error)
                raise

    async def _put(self, request: ChatRequest, key: str, slot: _Slot) -> ChatAnswer:
        """Send a request, in other words where the server does not take the first."""
        while True:
            body = self._dialect.body(request)
            try:
                completion, cost = await self._send(request, body, slot)
            except Rejected as error:
                if self._dialect.learn(request, body, param=error.param, code=error.code, why=str(error)):
                    continue
                raise
            self._dialect.accepted(request, body, completion.finish_reason)
            if completion.refusal is not None:
                await self.ledger.give_up(key, completion.refusal)
                raise Refused(completion.refusal)
            return ChatAnswer(
                text=completion.text,
                prompt_tokens=completion.prompt_tokens or 0,
                completion_tokens=completion.completion_tokens or 0,
                cost=cost or 0.0,
                model=completion.model or self.settings.model,
                recorded=False,
                finish_reason=completion.finish_reason,
            )

    async def _send(self, request: ChatRequest, body: dict[str, Any], slot: _Slot) -> tuple[Completion, float | None]:
        """Send one HTTP request, recorded before and after; return the answer and its cost in USD, if known."""
        # No tokenizer makes more tokens than bytes, and a message's JSON is longer than the marks a template sets.
        # A picture counts by what models see of it, not by its bytes.
        size = len(json.dumps(body, ensure_ascii=False).encode("utf-8")) - sum(len(one.url) for one in request.pictures)
        seen = picture_tokens(self.settings.model).most * len(request.pictures)
        longest = self._dialect.limit(request)
        at_most = 0.0 if self._price is None else self._price.cost(size + seen, longest)
        # English has about four bytes a token; `give_back` corrects it.
        tokens = size / 4 + seen + longest
        if self._requests is not None:
            await self._unless_ended(self._requests.take(1))
        if self._tokens is not None:
            await self._unless_ended(self._tokens.take(tokens))
        budget = self.ledger.budget
        reserved = await budget.reserve(at_most, self.settings.max_cost)
        spent = 0.0
        try:
            self._check_open()
            number, sent_as = await self.ledger.begin(request, self.settings.model, at_most)
            settled = Settled("canceled", error="cut off", at_most=at_most)
            try:
                completion = await self._need_server().complete(body, sent_as)
                # The next request need not wait for this one to be written down.
                slot.free()
                settled = self._settled(completion, at_most)
            except Unanswered as error:
                charged = at_most if error.charged else 0.0
                settled = Settled("failed", status=error.status, error=str(error), at_most=charged)
                raise
            finally:
                spent = settled.at_most
                await self.ledger.finish(number, settled)
        finally:
            budget.settle(reserved, spent)
        if self._tokens is not None and completion.completion_tokens is not None:
            self._tokens.give_back(tokens - (completion.prompt_tokens or 0) - completion.completion_tokens)
        return completion, settled.cost

    def _settled(self, completion: Completion, at_most: float) -> Settled:
        cost = None
        if self._price is not None:
            prompt, answer = completion.prompt_tokens, completion.completion_tokens
            cost = at_most if prompt is None or answer is None else self._price.cost(prompt, answer)
        return Settled(
            "answered" if completion.refusal is None else "refused",
            status=200,
            error=completion.refusal,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            cost=cost,
            at_most=cost or 0.0,
            model=completion.model or self.settings.model,
            finish_reason=completion.finish_reason,
            answer=completion.text,
        )

    async def _sleep(self, seconds: float) -> None:
        if seconds > _LONG_WAIT:
            _log.warning("%s asks to wait for %.0f s.", self.settings.host, seconds)
        await self._unless_ended(asyncio.sleep(seconds))

    async def _unless_ended(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait, but not longer than the client goes on."""
        tasks = {asyncio.create_task(waiting), asyncio.create_task(self._ended.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        self._check_open()

    def _check_open(self) -> None:
        if self._end is not None:
            # A copy: one instance raised by thousands would collect all their tracebacks.
            raise copy.copy(self._end)

    def _finish_with(self, end: Exception) -> None:
        # The first reason stays.
        self._end = self._end or end
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    def _need_server(self) -> Server:
        if self._server is None:
            raise RuntimeError("use the client as an async context manager: async with ChatClient(...) as client")
        return self._server


class _Slot:
    """One of the requests in flight; kept while a request waits to be sent again, so that a busy server gets fewer."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._held = False

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.free()

    def free(self) -> None:
        """Let another request be sent."""
        if self._held:
            self._held = False
            self._slots.release()


def _limit(per_minute: float | None) -> RateLimit | None:
    return None if per_minute is None else RateLimit(per_minute)


def _wait(state: tenacity.RetryCallState) -> float:
    """Wait as long as the server asks, else longer each time."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, TransientError) and error.wait is not None:
        # Not all at the same moment.
        return error.wait + random.uniform(0, 0.25)
    return _BACKOFF(state)
