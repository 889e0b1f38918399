"""The client for OpenAI-compatible servers, with retries, rate limits, a budget, and a ledger of all requests."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import tenacity

from explllm.core.errors import ConfigError, InputError
from explllm.llm.dialect import Dialect
from explllm.llm.ledger import Ledger
from explllm.llm.ledger_file import AttemptResult
from explllm.llm.limits import RateLimit
from explllm.llm.prices import MAX_IMAGE_TOKENS, image_tokens
from explllm.llm.request import ChatAnswer, ChatFailure, ChatRequest, OutOfBudget, Refused, Stopped, digest
from explllm.llm.server import Completion, FatalError, RejectedError, RequestError, Server, TransientError
from explllm.llm.settings import ChatSettings

_log = logging.getLogger(__name__)

_BACKOFF = tenacity.wait_exponential_jitter(initial=0.5, max=60, jitter=0.5)
_LONG_WAIT = 60.0
"""Waits longer than this many seconds are logged."""
_MAX_CHARACTERS_PER_TOKEN = 16
"""Upper bound on the characters per token of an answer; a server that returns more has ignored the token limit."""
_MAX_FORBIDDEN = 3
"""After this many 403 responses and no answer of the model, the key is considered to lack permission."""
_MAX_FORBIDDEN_AGAIN = 20
"""The same for a run without an answer, if the model has answered in an earlier run."""


class ChatClient:
    """Asks a language model and pays for each answer once.

    Use it as an async context manager. Several clients may share a ledger in one event loop.
    """

    def __init__(self, settings: ChatSettings, ledger: Ledger) -> None:
        """Prepare a client without connecting to the server.

        Args:
            settings: Server, model, rate and budget.
            ledger: Records all requests and answers.

        Raises:
            ConfigError: If no model is given, the server's URL or the API key is invalid, the key is missing for
                OpenAI's server, or there is a budget but no price.
        """
        if not settings.model:
            raise ConfigError("no model given", where="model", remedy="Pass the model's name on the server.")
        self.settings = settings
        self.ledger = ledger
        self._price = settings.price()
        settings.api_key()
        self._dialect = Dialect(settings)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._request_limit = _rate_limit(settings.requests_per_minute)
        self._token_limit = _rate_limit(settings.tokens_per_minute)
        self._warned_of_usage = False
        self._answers = self._forbidden = 0
        self._truncated: dict[str, Completion] = {}
        self._stop_event = asyncio.Event()
        self._stop_reason: Exception | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.ledger.open_for_writing()
        try:
            self._server = Server(self.settings)
        except BaseException:
            await self.ledger.close_writer()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_with(Stopped("the client is closed"))
        if self._server is not None:
            await self._server.close()
        await self.ledger.close_writer()

    async def check(self) -> None:
        """Check, before any money is spent, that the server is reachable, accepts the key, and has the model.

        The ledger does not record this request. A server that does not list its models passes.

        Raises:
            InputError: If a check fails.
        """
        await self._require_server().check()

    async def ask(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer to a request, from the ledger if possible, else from the server.

        Args:
            request: The request.

        Returns:
            The answer, which has been written to disk. The caller parses it, even if the request has a schema.

        Raises:
            Refused: If the model or a content filter refused to answer, now or in an earlier run.
            ChatFailure: If this request failed permanently; others may succeed.
            OutOfBudget: If the request could cost more than the budget has left; it was not sent.
            Stopped: If `stop` was called, or the client was closed, before the request was answered.
            InputError: If no request can succeed: for example, because of a wrong key, an unknown model, no credit, or
                an unwritable ledger.
        """
        key = request.key(self.settings.model)
        while True:
            recorded = self.ledger.answer(key)
            if recorded is not None:
                if recorded.finish_reason == "length":
                    self._dialect.note_recorded_truncation(request)
                return recorded
            in_flight = self.ledger.in_flight.get(key)
            if in_flight is None:
                break
            await asyncio.wait([in_flight])
            # If the caller that sent the request was canceled, stopped or out of budget, try again.
            if not in_flight.cancelled() and not isinstance(in_flight.exception(), (Stopped, OutOfBudget)):
                return replace(in_flight.result(), recorded=True)
        refusal = self.ledger.refusal(key)
        if refusal is not None:
            raise Refused(refusal)
        future = asyncio.get_running_loop().create_future()
        self.ledger.in_flight[key] = future
        try:
            answer = await self._ask(request, key)
            future.set_result(answer)
            return answer
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:
            future.set_exception(error)
            # Mark the exception as retrieved. Usually nobody else waits for the future, and asyncio would log an error.
            future.exception()
            raise
        finally:
            del self.ledger.in_flight[key]

    def stop(self) -> None:
        """Send no more requests. Requests in flight finish; all others raise `Stopped`. Callable from any thread."""
        self._stop_with(Stopped("the run was stopped"))

    async def _ask(self, request: ChatRequest, key: str) -> ChatAnswer:
        self._check_open()
        async with _Slot(self._slots) as slot:
            # tenacity keeps the state of the retries in this object: create one for each request.
            retrying = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(TransientError),
                stop=self._retry_limit(),
                wait=self._retry_wait,
                sleep=self._sleep,
                reraise=True,
            )
            try:
                return await retrying(self._send_accepted, request, key, slot)
            except FatalError as error:
                self._stop_with(error.error)
                raise error.error from None
            except RequestError as error:
                self._stop_if_forbidden(error)
                sent = retrying.statistics["attempt_number"]
                times = f", sent {sent} times" if isinstance(error, TransientError) else ""
                reason = f"{error}{times}"
                await self.ledger.give_up(key, reason)
                raise ChatFailure(reason) from None
            except InputError as error:
                self._stop_with(error)
                raise

    def _stop_if_forbidden(self, error: RequestError) -> None:
        """Stop after several forbidden requests without any answer, in this run or an earlier one.

        After the first answer, status 403 does not concern the key, only the rejected request.
        """
        if error.status == 403 and not self._answers:
            self._forbidden += 1
            answered_earlier = self.ledger.has_answers(self.settings.model)
            if self._forbidden >= (_MAX_FORBIDDEN_AGAIN if answered_earlier else _MAX_FORBIDDEN):
                self._stop_with(self._require_server().forbidden(error))
                self._check_open()

    async def _send_accepted(self, request: ChatRequest, key: str, slot: _Slot) -> ChatAnswer:
        """Send a request; if the server rejects its format, send it again in a different format."""
        while True:
            body = self._dialect.body(request)
            # At temperature 0, the answer to the same body would be truncated again.
            digest_of_body = digest(json.dumps(body)) if request.attempt and request.temperature == 0 else ""
            if digest_of_body in self._truncated:
                return self._answer(self._truncated[digest_of_body], None, recorded=True)
            try:
                completion, cost = await self._send(request, body, slot)
            except RejectedError as error:
                if error.status == 403 or not self._dialect.note_rejection(
                    request, body, param=error.param, code=error.code, reason=str(error)
                ):
                    raise
                continue
            self._answers += 1
            self._dialect.note_answer(request, body, completion.finish_reason)
            if completion.finish_reason == "length":
                self._truncated[digest(json.dumps(body))] = replace(completion, text="")
            if completion.refusal is not None:
                await self.ledger.give_up(key, completion.refusal)
                raise Refused(completion.refusal)
            return self._answer(completion, cost, recorded=False)

    def _answer(self, completion: Completion, cost: float | None, *, recorded: bool) -> ChatAnswer:
        return ChatAnswer(
            text=completion.text,
            prompt_tokens=completion.prompt_tokens or 0,
            completion_tokens=completion.completion_tokens or 0,
            cost=cost or 0.0,
            model=completion.model or self.settings.model,
            recorded=recorded,
            finish_reason=completion.finish_reason,
        )

    async def _send(self, request: ChatRequest, body: dict[str, Any], slot: _Slot) -> tuple[Completion, float | None]:
        """Record an HTTP request, send it, and record its result; return the answer and its cost in USD, if known."""
        # The number of bytes is an upper bound on the prompt tokens: no tokenizer produces more tokens than bytes, and
        # a chat template adds fewer tokens to a message than JSON adds bytes. Vision tokens replace an image's bytes.
        size = len(json.dumps(body, ensure_ascii=False).encode("utf-8")) - sum(
            len(image.url) for image in request.images
        )
        vision_tokens = image_tokens(self.settings.model).maximum * len(request.images)
        max_answer = self._dialect.token_limit(request)
        upper_bound = 0.0 if self._price is None else self._price.cost(size + vision_tokens, max_answer)
        # English has about four bytes per token; `give_back` corrects the estimate.
        tokens = size / 4 + vision_tokens + max_answer
        if self._request_limit is not None:
            await self._unless_stopped(self._request_limit.acquire(1))
        if self._token_limit is not None:
            await self._unless_stopped(self._token_limit.acquire(tokens))
        budget = self.ledger.budget
        reservation = await budget.reserve(upper_bound, self.settings.max_cost)
        spent = 0.0
        try:
            self._check_open()
            number, request_id = await self.ledger.begin(request, self.settings.model, upper_bound)
            result = AttemptResult("canceled", error="cut off", upper_bound=upper_bound)
            try:
                completion = await self._require_server().complete(body, request_id)
                # The next request does not have to wait until the ledger has recorded this answer.
                slot.release()
                # The name may be an alias of a model that counts more tokens per image than were reserved.
                max_prompt = size + MAX_IMAGE_TOKENS * len(request.images)
                completion, usage_note = self._cap_usage(completion, max_prompt, max_answer)
                if len(completion.text) > _MAX_CHARACTERS_PER_TOKEN * max_answer:
                    raise RequestError(
                        f"the answer has {len(completion.text):,} characters, but the limit was {max_answer:,} tokens",
                        status=200,
                        charged=True,
                    )
                result = self._result(completion, upper_bound, usage_note)
            except RequestError as error:
                charged = upper_bound if error.charged else 0.0
                result = AttemptResult("failed", status=error.status, error=str(error), upper_bound=charged)
                raise
            finally:
                spent = result.upper_bound
                await self.ledger.finish(number, result)
        finally:
            budget.settle(reservation, spent)
        if self._token_limit is not None and completion.completion_tokens is not None:
            self._token_limit.give_back(tokens - (completion.prompt_tokens or 0) - completion.completion_tokens)
        return completion, result.cost

    def _cap_usage(self, completion: Completion, max_prompt: int, max_answer: int) -> tuple[Completion, str | None]:
        """Cap token counts at the possible maximum; if one exceeds it, also return a note with the reported counts."""
        prompt, answer = completion.prompt_tokens, completion.completion_tokens
        if (prompt or 0) <= max_prompt and (answer or 0) <= max_answer:
            return completion, None
        note = f"reported usage: {prompt} prompt tokens, {answer} answer tokens"
        if not self._warned_of_usage:
            self._warned_of_usage = True
            _log.warning("%s sent an impossible %s. Capping it at the possible maximum.", self.settings.host, note)
        capped_prompt = None if prompt is None else min(prompt, max_prompt)
        capped_answer = None if answer is None else min(answer, max_answer)
        return replace(completion, prompt_tokens=capped_prompt, completion_tokens=capped_answer), note

    def _result(self, completion: Completion, upper_bound: float, usage_note: str | None) -> AttemptResult:
        cost = None
        if self._price is not None:
            prompt, answer = completion.prompt_tokens, completion.completion_tokens
            cost = upper_bound if prompt is None or answer is None else self._price.cost(prompt, answer)
        return AttemptResult(
            "answered" if completion.refusal is None else "refused",
            status=200,
            error=completion.refusal or usage_note,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            cost=cost,
            upper_bound=cost or 0.0,
            model=completion.model or self.settings.model,
            finish_reason=completion.finish_reason,
            answer=completion.text,
        )

    def _retry_limit(self) -> Callable[[tenacity.RetryCallState], bool]:
        """Return a function that decides after each failure of one request whether to give up.

        Status 429 does not count as a failure while the server answers other requests, because these compete with the
        request for the same rate limit.
        """
        failures, answers = 0, self._answers

        def is_reached(state: tenacity.RetryCallState) -> bool:
            nonlocal failures, answers
            if _transient_error(state).status != 429 or self._answers == answers:
                failures += 1
            answers = self._answers
            return failures > self.settings.max_retries

        return is_reached

    def _retry_wait(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds until a retry: ``Retry-After`` or the backoff, at most `max_wait`, and jitter.

        The server's wait assumes that no other request uses the rate limit in the meantime.
        """
        requested = _transient_error(state).wait or 0.0
        # Add jitter: otherwise all requests would be sent again at the same moment.
        wait = min(max(_BACKOFF(state), requested), self.settings.max_wait) * random.uniform(1, 1.25)
        if requested > _LONG_WAIT:
            _log.warning("%s asks to wait for %.0f s. Waiting for %.0f s.", self.settings.host, requested, wait)
        return wait

    async def _sleep(self, seconds: float) -> None:
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Await a coroutine, or raise an error as soon as the client is stopped."""
        tasks = {asyncio.create_task(waiting), asyncio.create_task(self._stop_event.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        self._check_open()

    def _check_open(self) -> None:
        if self._stop_reason is not None:
            # Raise a copy: one instance raised by thousands of tasks would collect all their tracebacks.
            raise copy.copy(self._stop_reason)

    def _stop_with(self, reason: Exception) -> None:
        # Keep the first reason.
        self._stop_reason = self._stop_reason or reason
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop_event.set)

    def _require_server(self) -> Server:
        if self._server is None:
            raise RuntimeError("use the client as an async context manager: async with ChatClient(...) as client")
        return self._server


class _Slot:
    """A slot for one request in flight. A request keeps it between retries, which reduces the load on a busy server."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._acquired = False

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        self._acquired = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the slot if it is still held; may be called before the block ends."""
        if self._acquired:
            self._acquired = False
            self._slots.release()


def _transient_error(state: tenacity.RetryCallState) -> TransientError:
    """Return the error after which a request is sent again."""
    error = None if state.outcome is None else state.outcome.exception()
    assert isinstance(error, TransientError)
    return error


def _rate_limit(per_minute: float | None) -> RateLimit | None:
    return None if per_minute is None else RateLimit(per_minute)
