"""One OpenAI-compatible server: sends single HTTP requests and classifies their failures."""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from explllm.core.errors import InputError
from explllm.llm.request import clean_text, strip_images
from explllm.llm.settings import ChatSettings

_CONNECT_TIMEOUT = 20.0
"""Seconds to establish a connection; a request without a connection was never sent."""
_TRANSIENT_STATUSES = (408, 409, 429)
_GATEWAY_TIMEOUTS = (504, 524)
"""Gateway timeouts: the server may still have completed the answer and charged for this request."""
_PLACEHOLDER = re.compile(r"[A-Za-z]{0,7}|.{0,3}", re.DOTALL)
"""Short keys such as "k" or "ollama", which users set for servers that need no key. They are removed from texts only as
whole words, because ordinary words may contain them."""


class RequestError(Exception):
    """An HTTP request ended without an answer."""

    def __init__(self, message: str, *, status: int | None = None, charged: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.charged = charged
        """Whether the request may have been charged."""


class TransientError(RequestError):
    """A failure that may be temporary: the request is sent again."""

    def __init__(
        self, message: str, *, status: int | None = None, charged: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(message, status=status, charged=charged)
        self.wait = wait
        """Seconds to wait before a retry, if the server specifies them."""


class RejectedError(RequestError):
    """The server does not accept this request."""

    def __init__(self, message: str, *, status: int, code: str | None, param: str | None) -> None:
        super().__init__(message, status=status)
        self.code = code
        self.param = param


class FatalError(RequestError):
    """No request can succeed until the user fixes the cause."""

    def __init__(self, message: str, *, status: int | None, error: InputError) -> None:
        super().__init__(message, status=status)
        self.error = error


@dataclass(frozen=True)
class Completion:
    """The answer of a server."""

    text: str
    refusal: str | None
    """Why the model or a content filter refused to answer; None if it did not."""
    finish_reason: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class Server:
    """A server and its API key. No result or error of this class contains the key."""

    def __init__(self, settings: ChatSettings) -> None:
        # These imports take a second, and most commands never use a language model server.
        import aiohttp
        import openai

        self._aiohttp, self._openai = aiohttp, openai
        self._settings = settings
        self._key = settings.api_key()
        key = re.escape(self._key or "")
        is_placeholder = _PLACEHOLDER.fullmatch(self._key or "") is not None
        self._key_pattern = re.compile(rf"(?<!\w){key}(?!\w)" if is_placeholder else key)
        _check_proxy(settings.url)
        # Use an absolute address: the library would parse a relative one and the base URL for every request.
        self._address = f"{settings.url.rstrip('/')}/chat/completions"
        self._client = openai.AsyncOpenAI(
            # The library requires a key; servers without keys ignore it.
            api_key=self._key or "none",
            base_url=settings.url,
            # `ChatClient` retries instead, because it records each attempt in the ledger.
            max_retries=0,
            # `complete` limits the total time.
            timeout=openai.Timeout(None, connect=_CONNECT_TIMEOUT),
            http_client=openai.DefaultAioHttpClient(follow_redirects=False),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(self, body: dict[str, Any], request_id: str) -> Completion:
        """Send one HTTP request.

        Args:
            body: The body of ``POST /chat/completions``.
            request_id: Value of the header ``X-Client-Request-Id``, which links the server's log to the ledger.

        Returns:
            The answer or refusal.

        Raises:
            TransientError: If the request may succeed when sent again.
            RejectedError: If the request cannot succeed.
            FatalError: If no request can succeed.
        """
        # `chat.completions.create` would validate and copy every field. A raw response also allows reading the answers
        # of servers that deviate from OpenAI's format.
        try:
            async with asyncio.timeout(self._settings.timeout):
                response = await self._client.post(
                    self._address,
                    body=body,
                    options={"headers": {"X-Client-Request-Id": request_id}},
                    cast_to=self._openai.HttpxBinaryResponseContent,
                )
                content = response.content
        except TimeoutError:
            raise TransientError(f"no answer within {self._settings.timeout:g} s", charged=True) from None
        except self._openai.APIStatusError as error:
            raise self._classify_status(error.status_code, error.body, error.response.headers) from None
        except self._openai.APIConnectionError as error:
            raise self._classify_connection_error(error) from None
        try:
            answer = json.loads(content)
            failure = self._classify_error_body(answer, response.response.headers)
            if failure is not None:
                raise failure
            return self._parse_completion(answer)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            message = self._clean(f"the server's answer cannot be read: {type(error).__name__}: {error}")
            raise TransientError(message[:300], status=200, charged=True) from None

    async def check(self) -> None:
        """Check that the server is reachable, accepts the key, and has the model.

        A server that does not list its models passes.

        Raises:
            InputError: If a check fails.
        """
        settings = self._settings
        # The ledger does not record this request, so the library may retry it.
        client = self._client.with_options(max_retries=2, timeout=min(settings.timeout, 20.0))
        try:
            response = await client.models.with_raw_response.list()
        except self._openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                return
            failure = self._classify_status(error.status_code, error.body, error.response.headers)
            if isinstance(failure, FatalError):
                raise failure.error from None
            if isinstance(failure, RejectedError) and failure.status == 403:
                raise self.forbidden(failure) from None
            raise InputError(
                f"{settings.host} cannot list its models: {failure}", where="base_url", remedy="Try again later."
            ) from None
        except self._openai.APIConnectionError as error:
            raise InputError(
                f"{settings.host} cannot be reached: {self._classify_connection_error(error)}",
                where="base_url",
                remedy="Check the address, and that the server is running.",
            ) from None
        try:
            listed = json.loads(response.http_response.content)
            # Together AI sends the bare list.
            entries = listed if isinstance(listed, list) else listed["data"]
            models = {entry["id"]: entry.get("owned_by") for entry in entries}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(
                f"{settings.host} does not answer like an OpenAI-compatible server",
                where="base_url",
                remedy="Check the address, which usually ends in /v1.",
            ) from None
        # Ollama adds the tag "latest" to names without one; llama.cpp has one model and accepts any name.
        names = {*models, *(name.removesuffix(":latest") for name in models)}
        if names and settings.model not in names and "llamacpp" not in models.values():
            near = difflib.get_close_matches(settings.model, models, n=5, cutoff=0.0)
            raise InputError(
                f"{settings.host} has no model {settings.model!r}",
                where="model",
                remedy=f"It has: {', '.join(near)}{', ...' if len(models) > len(near) else ''}.",
            )

    def forbidden(self, failure: RequestError) -> InputError:
        """Return the error for an API key that lacks permission.

        Status 403 can also reject a single request because of its content; the caller distinguishes the two.
        """
        return InputError(
            f"{self._settings.host} answers with {failure}",
            where=self._settings.api_key_env,
            remedy="Use a key with permission to list models and to use this model.",
        )

    def _classify_error_body(self, answer: Any, headers: Mapping[str, str]) -> RequestError | None:
        """Return the error for a response of status 200 that contains an error with an HTTP status; None for others.

        OpenRouter and other routers send these when the provider of the model fails.
        """
        if not isinstance(answer, Mapping) or answer.get("choices") or not isinstance(answer.get("error"), Mapping):
            return None
        status = _parse_count(answer["error"].get("code")) or 0
        return self._classify_status(status, answer["error"], headers) if 400 <= status < 600 else None

    def _classify_status(
        self, status: int, body: Any, headers: Mapping[str, str]
    ) -> TransientError | RejectedError | FatalError:
        """Return the error for an HTTP status, the error in the body, and the headers of the response."""
        settings = self._settings
        code, param = (body.get(name) if isinstance(body, Mapping) else None for name in ("code", "param"))
        # FastAPI's errors have a `detail` instead of OpenAI's `message`.
        detail = body.get("message") or body.get("detail") if isinstance(body, Mapping) else body
        message = self._clean(" ".join(f"status {status}: {detail or 'no reason given'}".split()))[:300]
        remedy = where = None
        if status == 401:
            where = settings.api_key_env
            remedy = "Set the environment variable to a valid key of the server."
        elif status == 404:
            remedy = f"Check the model's name ({settings.model}) and the address, which usually ends in /v1."
        elif status == 402 or (status == 429 and code == "insufficient_quota"):
            remedy = "Buy credit or raise the limit, then start again: recorded answers are not paid for twice."
        elif 300 <= status < 400:
            where = "base_url"
            remedy = f"The server has moved; give its new address: {headers.get('location', 'unknown')}."
        if remedy is not None:
            fatal = InputError(f"{settings.host} answers with {message}", where=where, remedy=self._clean(remedy))
            return FatalError(message, status=status, error=fatal)
        if status in _TRANSIENT_STATUSES or status >= 500:
            wait = parse_retry_after(headers)
            return TransientError(message, status=status, charged=status in _GATEWAY_TIMEOUTS, wait=wait)
        code, param = (field if isinstance(field, str) else None for field in (code, param))
        return RejectedError(message, status=status, code=code, param=param)

    def _classify_connection_error(self, error: BaseException) -> TransientError | FatalError:
        """Return the error for a failure without an HTTP status."""
        # openai wraps httpx's error, which wraps aiohttp's. Only aiohttp's is specific.
        while error.__cause__ is not None and not isinstance(error, self._aiohttp.ClientError):
            error = error.__cause__
        if isinstance(error, self._aiohttp.ConnectionTimeoutError):
            return TransientError(f"no connection within {_CONNECT_TIMEOUT:g} s")
        if isinstance(error, self._aiohttp.ClientConnectorCertificateError):
            message = self._clean(f"the certificate of {self._settings.host} cannot be verified: {error}")[:300]
            remedy = "Set SSL_CERT_FILE to a file with the certificate of the authority that signed it."
            return FatalError(message, status=None, error=InputError(message, where="base_url", remedy=remedy))
        message = self._clean(f"{type(error).__name__}: {error}".removesuffix(": "))
        never_sent = isinstance(error, (self._aiohttp.ClientConnectorError, self._aiohttp.InvalidURL))
        return TransientError(message[:300], charged=not never_sent)

    def _parse_completion(self, answer: Any) -> Completion:
        choice = answer["choices"][0]
        message = choice["message"]
        finish_reason = str(choice.get("finish_reason") or "stop")
        refusal = message.get("refusal")
        if not refusal and finish_reason == "content_filter":
            refusal = "stopped by the server's content filter"
        usage = answer.get("usage")
        usage = usage if isinstance(usage, Mapping) else {}
        model = answer.get("model")
        return Completion(
            text=self._clean(_join_parts(message.get("content"))),
            refusal=self._clean(_join_parts(refusal)) if refusal else None,
            finish_reason=self._clean(finish_reason),
            model=None if model is None else self._clean(str(model)),
            prompt_tokens=_parse_count(usage.get("prompt_tokens")),
            completion_tokens=_parse_count(usage.get("completion_tokens")),
        )

    def _clean(self, text: str) -> str:
        """Remove unprintable characters, images and the API key from a text, because a server may repeat a request."""
        # Remove unprintable characters first: otherwise the pattern would not match a key that they split.
        text = strip_images(clean_text(text))
        return self._key_pattern.sub("[API key]", text) if self._key else text


def _join_parts(content: Any) -> str:
    """Return the text of a message's content: a string, None, or a list of parts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, Mapping) and part.get("text"))
    if content is not None and not isinstance(content, str):
        raise TypeError(f"content of type {type(content).__name__}")
    return content or ""


def _parse_count(tokens: Any) -> int | None:
    """Return a token count, which some servers send as a string; None if it is missing or invalid."""
    try:
        count = int(tokens)
    except (ValueError, TypeError, OverflowError):
        return None
    return count if count >= 0 else None


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks the client to wait, at least 0; None if the headers are missing or invalid.

    The headers are ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3), or OpenAI's ``retry-after-ms``.
    """
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait = float(headers.get(name, "")) * seconds
        except ValueError:
            continue
        if math.isfinite(wait):
            return max(0.0, wait)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - time.time())


def _check_proxy(url: str) -> None:
    """Raise an InputError if the environment sets a proxy that aiohttp does not support."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = None if proxy_bypass(parts.hostname or "") else proxies.get(parts.scheme) or proxies.get("all")
    if proxy is not None and urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"unsupported proxy type {urlsplit(proxy).scheme or 'unknown'!r}",
            where=f"{parts.scheme.upper()}_PROXY or ALL_PROXY",
            remedy="Set a proxy that begins with http:// or https://, or none.",
        )
