"""One OpenAI-compatible server: sends one HTTP request at a time, and says of a failure what it means."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from explllm.core.errors import InputError
from explllm.llm.picture import without_pictures
from explllm.llm.request import well_formed
from explllm.llm.settings import ChatSettings

_CONNECT = 20.0
"""Seconds for a connection to be made; what takes longer was never sent."""
_KEEP_ALIVE = 5.0
"""Seconds for which an idle connection is kept; as openai does, and no longer than common servers keep theirs."""
_MAY_PASS = (408, 409, 429)
_GATEWAY_TIMEOUTS = (504, 524)
"""Statuses behind which the model may have gone on writing."""
_SHORTEST_SECRET = 16
"""Characters of a key that cannot stand in a text by chance."""
_MOST_TOKENS = 2**31
"""No request has as many: whatever says so counts wrongly."""


class Unanswered(Exception):
    """An HTTP request ended without an answer."""

    def __init__(self, message: str, *, status: int | None = None, charged: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.charged = charged
        """Whether it may have been charged for."""


class TransientError(Unanswered):
    """A failure that may pass: worth sending again."""

    def __init__(
        self, message: str, *, status: int | None = None, charged: bool = False, wait: float | None = None
    ) -> None:
        super().__init__(message, status=status, charged=charged)
        self.wait = wait
        """Seconds that the server asks to wait, if it does."""


class Rejected(Unanswered):
    """The server does not take this request."""

    def __init__(self, message: str, *, status: int, code: str | None, param: str | None) -> None:
        super().__init__(message, status=status)
        self.code = code
        self.param = param


class Fatal(Unanswered):
    """No request can succeed until the user has mended something."""

    def __init__(self, message: str, *, status: int | None, error: InputError) -> None:
        super().__init__(message, status=status)
        self.error = error


@dataclass(frozen=True)
class Completion:
    """What a server answered."""

    text: str
    refusal: str | None
    """Why there is no answer, if the model or a filter refused."""
    finish_reason: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class Server:
    """A server and a key to it, which appears in nothing that this class gives away."""

    def __init__(self, settings: ChatSettings) -> None:
        # They take a second, and most commands never ask a model.
        import aiohttp
        import openai

        self._aiohttp, self._openai = aiohttp, openai
        self._settings = settings
        self._key = settings.api_key()
        # Servers without keys take any word, such as "k": that one stands inside of others by chance.
        key = re.escape(self._key or "")
        self._key_again = re.compile(key if len(key) >= _SHORTEST_SECRET else rf"(?<!\w){key}(?!\w)")
        proxy = _proxy(settings.url)
        self._client = self._new_client()
        headers = {**self._client.default_headers, **self._client.auth_headers, "Content-Type": "application/json"}
        # The library marks headers that are to be left out by objects.
        self._headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.concurrency, keepalive_timeout=_KEEP_ALIVE, ssl=_trusted_authorities()
            ),
            timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=_CONNECT),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Not `trust_env`: it would read ~/.netrc for each request, and refuse one that has a key of its own.
            proxy=proxy,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
        await self._client.close()

    async def complete(self, body: dict[str, Any], sent_as: str) -> Completion:
        """Send one HTTP request.

        Args:
            body: The fields of ``POST /chat/completions``.
            sent_as: A name for the request, sent as its ``X-Client-Request-Id``: the server's log can be held against
                the ledger.

        Returns:
            The answer, or refusal.

        Raises:
            Passing: It may succeed when sent again.
            Rejected: It cannot succeed.
            Fatal: No request can.
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8")
        headers = {**self._headers, "X-Client-Request-Id": sent_as}
        try:
            # With openai's headers, but past its layers and its HTTP library: they cost two milliseconds a request,
            # more than all else together, and at hundreds of requests a second that is the limit.
            async with self._session.post(
                f"{self._settings.url}/chat/completions", data=content, headers=headers, allow_redirects=False
            ) as response:
                answer = await response.read()
        except self._aiohttp.ConnectionTimeoutError:
            raise TransientError(f"no connection within {_CONNECT:g} s") from None
        except TimeoutError:
            raise TransientError(f"no answer within {self._settings.timeout:g} s", charged=True) from None
        except self._aiohttp.ClientConnectorCertificateError as error:
            raise self._distrusted(error) from None
        except self._aiohttp.ClientError as error:
            raise self._lost(error) from None
        if response.status // 100 != 2:
            raise self._understand(_status_error(response.status, response.headers, answer)) from None
        try:
            return self._completion(json.loads(answer))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            message = self._hide(f"the server's answer cannot be read: {type(error).__name__}: {error}")
            raise TransientError(message[:300], status=200, charged=True) from None

    async def check(self) -> None:
        """Ask for the server's models: is it there, does it take the key, does it have the model?

        A server that does not list its models passes.

        Raises:
            InputError: One of them is not so.
        """
        settings = self._settings
        # GET costs nothing and is not recorded, so the library may repeat it.
        client = self._client.with_options(max_retries=2, timeout=min(settings.timeout, 20.0))
        try:
            response = await client.models.with_raw_response.list()
        except self._openai.APIStatusError as error:
            if error.status_code in (404, 405, 501):
                return
            found = self._understand(error)
            raise (
                found.error
                if isinstance(found, Fatal)
                else InputError(
                    f"{settings.host} cannot list its models: {found}", where="base_url", remedy="Try again later."
                )
            ) from None
        except self._openai.APIConnectionError as error:
            raise InputError(
                f"{settings.host} cannot be reached: {self._lost(error)}",
                where="base_url",
                remedy="Check the address, and that the server is running.",
            ) from None
        try:
            models = {
                entry["id"]: entry.get("owned_by") for entry in json.loads(response.http_response.content)["data"]
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InputError(
                f"{settings.host} does not answer like an OpenAI-compatible server",
                where="base_url",
                remedy="Check the address, which mostly ends in /v1.",
            ) from None
        # Ollama takes a name without its tag for the latest; llama.cpp has one model and takes any name for it.
        names = {*models, *(name.removesuffix(":latest") for name in models)}
        if names and settings.model not in names and "llamacpp" not in models.values():
            near = difflib.get_close_matches(settings.model, models, n=5, cutoff=0.0)
            raise InputError(
                f"{settings.host} has no model {settings.model!r}",
                where="model",
                remedy=f"It has: {', '.join(near)}{', ...' if len(models) > len(near) else ''}.",
            )

    def _new_client(self) -> Any:
        return self._openai.AsyncOpenAI(
            # The library wants one; servers without keys ignore it.
            api_key=self._key or "none",
            base_url=self._settings.url,
            http_client=self._openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    def _understand(self, error: Any) -> TransientError | Rejected | Fatal:
        """Say what an HTTP status means."""
        settings, status = self._settings, error.status_code
        body = error.body
        # FastAPI's own refusals have a `detail` in the place of OpenAI's `message`.
        detail = body.get("message") or body.get("detail") if isinstance(body, Mapping) else body
        message = self._hide(" ".join(f"status {status}: {detail or 'no reason given'}".split()))[:300]
        remedy = where = None
        if status == 401:
            where = settings.api_key_env
            remedy = "Set the environment variable to a key that the server takes."
        elif status == 403:
            where = settings.api_key_env
            remedy = "Use a key that may list models and use this one."
        elif status == 404:
            remedy = f"Check the model's name ({settings.model}) and the address, which mostly ends in /v1."
        elif status == 429 and error.code == "insufficient_quota":
            remedy = (
                "Buy credit or raise the account's limit, then start again: what is recorded is not paid for again."
            )
        elif 300 <= status < 400:
            where = "base_url"
            remedy = f"The server has moved; give its new address: {error.response.headers.get('location', 'unknown')}."
        if remedy is not None:
            found = InputError(f"{settings.host} answers with {message}", where=where, remedy=self._hide(remedy))
            return Fatal(message, status=status, error=found)
        if status in _MAY_PASS or status >= 500:
            wait = wait_asked_for(error.response.headers)
            return TransientError(message, status=status, charged=status in _GATEWAY_TIMEOUTS, wait=wait)
        return Rejected(message, status=status, code=error.code, param=error.param)

    def _lost(self, error: Exception) -> TransientError:
        cause = error.__cause__ if isinstance(error, self._openai.OpenAIError) and error.__cause__ else error
        message = self._hide(f"{type(cause).__name__}: {cause}".removesuffix(": "))
        never_sent = isinstance(error, (self._aiohttp.ClientConnectorError, self._aiohttp.InvalidURL))
        return TransientError(message[:300], charged=not never_sent)

    def _distrusted(self, error: Exception) -> Fatal:
        message = self._hide(f"the certificate of {self._settings.host} cannot be verified: {error}")[:300]
        remedy = "Name a file with the authority that signed it in SSL_CERT_FILE."
        return Fatal(message, status=None, error=InputError(message, where="base_url", remedy=remedy))

    def _completion(self, answer: Any) -> Completion:
        choice = answer["choices"][0]
        message = choice["message"]
        finish_reason = str(choice.get("finish_reason") or "stop")
        refusal = message.get("refusal")
        if not refusal and finish_reason == "content_filter":
            refusal = "stopped by the server's content filter"
        usage = answer.get("usage") or {}
        model = answer.get("model")
        return Completion(
            text=well_formed(self._hide(message.get("content") or "")),
            refusal=well_formed(self._hide(refusal)) if refusal else None,
            finish_reason=self._hide(finish_reason),
            model=None if model is None else self._hide(str(model)),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
        )

    def _hide(self, text: str) -> str:
        """Leave the key and pictures out of a text: a server may repeat them."""
        text = without_pictures(text)
        return self._key_again.sub("[API key]", text) if self._key else text


def _count(tokens: Any) -> int | None:
    """Return a number of tokens; None, which means unknown, for what can be none."""
    return tokens if isinstance(tokens, int) and 0 <= tokens < _MOST_TOKENS else None


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Read how long a server asks to wait.

    Args:
        headers: Of the answer; ``Retry-After`` holds seconds or a date (RFC 9110, section 10.2.3), and OpenAI's
            ``retry-after-ms`` says it more exactly.

    Returns:
        Seconds from now, at least 0; None if the server does not say, or not so that it can be understood.
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


@dataclass(frozen=True)
class _Response:
    headers: Mapping[str, str]


@dataclass(frozen=True)
class _StatusError:
    """An answer of another status than 200, with the fields of openai's own error."""

    status_code: int
    body: Any
    code: str | None
    param: str | None
    response: _Response


def _status_error(status: int, headers: Mapping[str, str], answer: bytes) -> _StatusError:
    try:
        body = json.loads(answer)
    except ValueError:
        body = answer.decode("utf-8", errors="replace")
    if isinstance(body, Mapping):
        body = body.get("error", body)
    told = body if isinstance(body, Mapping) else {}
    code, param = told.get("code"), told.get("param")
    return _StatusError(status, body, None if code is None else str(code), param, _Response(headers))


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for an address (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``)."""
    parts, set_up = urlsplit(url), getproxies()
    proxy = None if proxy_bypass(parts.hostname or "") else set_up.get(parts.scheme) or set_up.get("all")
    if proxy is not None and urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"a proxy of the kind {urlsplit(proxy).scheme or 'unknown'!r}",
            where=f"{parts.scheme.upper()}_PROXY or ALL_PROXY",
            remedy="Set one that begins with http:// or https://, or none.",
        )
    return proxy


def _trusted_authorities() -> ssl.SSLContext:
    """Return the system's certificate authorities and, where it is installed, certifi's, as other HTTP libraries do."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        context.load_verify_locations(importlib.import_module("certifi").where())
    return context
