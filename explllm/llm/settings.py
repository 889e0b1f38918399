"""Settings of the client: server, model, rate and budget."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from explllm.core.errors import ConfigError
from explllm.llm.prices import Price, lookup_price

OPENAI_URL = "https://api.openai.com/v1"

Structured = Literal["auto", "always", "never"]


@dataclass
class ChatSettings:
    """Server, model, request rate and budget of a client."""

    model: str = ""
    """Name of the model on the server, such as gpt-4o."""
    base_url: str | None = None
    """URL of an OpenAI-compatible API, such as http://localhost:11434/v1 for Ollama; vLLM uses port 8000, and
    llama.cpp uses port 8080 (default: the environment variable OPENAI_BASE_URL, else OpenAI)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the API key; only OpenAI requires a key."""
    concurrency: int = 16
    """Maximum number of requests in flight."""
    requests_per_minute: float | None = None
    """Maximum number of requests per minute, retries included (default: no limit)."""
    tokens_per_minute: float | None = None
    """Maximum number of prompt and answer tokens per minute (default: no limit)."""
    max_cost: float | None = None
    """Maximum cost in USD of all requests in the ledger, earlier runs included (default: no limit)."""
    price_in: float | None = None
    """Price in USD per million prompt tokens; requires price_out (default: OpenAI's list price on OpenAI's server, else
    unknown)."""
    price_out: float | None = None
    """Price in USD per million answer tokens; requires price_in."""
    timeout: float = 120.0
    """Seconds to wait for an answer."""
    max_retries: int = 8
    """Maximum number of retries after transient failures: status 408, 409, 429 or 5xx, a timeout, a lost connection, or
    an unreadable response. Status 429 does not count while the server answers other requests."""
    max_wait: float = 120.0
    """Maximum seconds to wait before a retry, even if the server asks for more."""
    structured: Structured = "auto"
    """Send JSON schemas to the server: always; never (state them in the prompt); or auto (state only rejected
    ones in the prompt)."""

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ConfigError: If a field is invalid.
        """
        if self.model and not self.model.strip():
            raise ConfigError("no model given", where="model", remedy="Pass the model's name on the server.")
        # The message does not show the value: the most common mistake is to pass the key itself.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ConfigError(
                "not the name of an environment variable",
                where="api_key_env",
                remedy="Put the key into an environment variable and give its name, such as OPENAI_API_KEY.",
            )
        if self.base_url is not None:
            _check_http_url(self.base_url, "base_url")
        if self.structured not in get_args(Structured):
            raise ConfigError(
                f"unknown value {self.structured!r}", where="structured", remedy="Use auto, always or never."
            )
        for name, minimum, maximum in (("concurrency", 1, 10_000), ("max_retries", 0, 1000)):
            if not minimum <= getattr(self, name) <= maximum:
                raise ConfigError(f"{name} is {getattr(self, name)}", where=name, remedy=f"Use {minimum} to {maximum}.")
        for name in ("requests_per_minute", "tokens_per_minute", "timeout", "max_wait"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{value} is not above 0", where=name, remedy="Use a positive number.")
        for name in ("max_cost", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{value} is not an amount of money", where=name, remedy="Use 0 or more USD.")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("only one of price_in and price_out is given", remedy="Pass both or neither.")

    @property
    def url(self) -> str:
        """URL of the server's API without a trailing slash."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")

    @property
    def host(self) -> str:
        """Host and port of the server; messages show these instead of the URL, which may contain a password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's."""
        return urlsplit(self.url).hostname == urlsplit(OPENAI_URL).hostname

    def price(self) -> Price | None:
        """Return the price of the model, or None if it is unknown.

        Raises:
            ConfigError: If there is a budget but no price.
        """
        # The list contains OpenAI's prices, which do not apply to a model of the same name on another server.
        price = lookup_price(self.model if self.is_openai else "", self.price_in, self.price_out)
        if price is None and self.max_cost is not None:
            raise ConfigError(
                f"max_cost is set, but the price of {self.model!r} on {self.host} is unknown",
                remedy="Pass price_in and price_out, USD per million tokens; 0 for your own server.",
            )
        return price

    def api_key(self) -> str | None:
        """Return the API key; None if it is missing and the server is not OpenAI's.

        Raises:
            ConfigError: If the server is OpenAI's and the key is missing, if the key cannot be sent in an HTTP header,
                or if the URL is invalid or contains a user name or password.
        """
        where = "base_url" if self.base_url else "OPENAI_BASE_URL"
        _check_http_url(self.url, where)
        # aiohttp sends either the user name and password or the key. The message shows none of them.
        if "@" in urlsplit(self.url).netloc:
            raise ConfigError(
                "the server's address contains a user name or password",
                where=where,
                remedy=f"Remove it, and set the environment variable {self.api_key_env} to the server's key.",
            )
        key = os.environ.get(self.api_key_env, "").strip()
        if not re.fullmatch("[!-~]*", key):
            raise ConfigError(
                "the API key contains a space, a line break or a character that is not ASCII",
                where=self.api_key_env,
                remedy="Copy the key again, without quotation marks.",
            )
        if not key and self.is_openai:
            raise ConfigError(
                f"the environment variable {self.api_key_env} holds no API key",
                remedy=f"Set it (export {self.api_key_env}=...), or give base_url for your own server.",
            )
        return key or None


def _check_http_url(url: str, where: str) -> None:
    if not _is_http_url(url):
        raise ConfigError(
            "the server's address is not an http URL",
            where=where,
            remedy="Write it in full, such as http://localhost:8000/v1.",
        )


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # `port` raises ValueError if it is not a number.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
