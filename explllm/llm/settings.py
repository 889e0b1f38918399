"""How a language model is asked: which server and model, how fast, and for how much money."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from explllm.core.errors import ConfigError
from explllm.llm.prices import Price, price_of

OPENAI_URL = "https://api.openai.com/v1"

Structured = Literal["auto", "always", "never"]


@dataclass
class ChatSettings:
    """How a language model is asked."""

    model: str
    """Name of the model, as the server knows it."""
    base_url: str | None = None
    """Address of the server's API, mostly ending in ``/v1``: ``http://localhost:11434/v1`` for Ollama, port 8000 for
    vLLM, 8080 for llama.cpp. Without one, the environment variable OPENAI_BASE_URL, and without that OpenAI's."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key, which is read from nowhere else; servers other than OpenAI's may
    need none."""
    concurrency: int = 16
    """Requests in flight at once."""
    requests_per_minute: float | None = None
    """Most requests sent in a minute, those sent again included; None for no limit."""
    tokens_per_minute: float | None = None
    """Most tokens of prompts and answers in a minute; None for no limit."""
    max_cost: float | None = None
    """USD that everything in the ledger together may cost, earlier runs included; None for no limit."""
    price_in: float | None = None
    """USD for a million tokens of prompt. Without it, OpenAI's list price if the server is OpenAI's, else unknown."""
    price_out: float | None = None
    """USD for a million tokens of answer; given together with `price_in`."""
    timeout: float = 120.0
    """Seconds until a request counts as lost."""
    max_retries: int = 8
    """Times that a request is sent again after a failure that may pass: 408, 409, 429, 5xx, a lost connection."""
    structured: Structured = "auto"
    """Whether the server is made to keep to a JSON schema: ``always``; ``never``, the schema is only stated in the
    prompt; ``auto``, until the server turns out not to know how."""

    def __post_init__(self) -> None:
        """Check every field by itself."""
        if not self.model.strip():
            raise ConfigError("no model is named", where="model", remedy="Give the server's name for it.")
        # The value is not shown: the commonest mistake is the key itself in this place.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ConfigError(
                "not the name of an environment variable",
                where="api_key_env",
                remedy="Put the key into an environment variable and give its name, such as OPENAI_API_KEY.",
            )
        if self.base_url is not None and not _is_address(self.base_url):
            raise ConfigError(
                "the server's address is no http address",
                where="base_url",
                remedy="Write it in full, such as http://localhost:8000/v1.",
            )
        if self.structured not in get_args(Structured):
            raise ConfigError(f"unknown value {self.structured!r}", where="structured", remedy="auto, always or never.")
        for name, least in (("concurrency", 1), ("max_retries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{getattr(self, name)} is too low", where=name, remedy=f"Give at least {least}.")
        for name in ("requests_per_minute", "tokens_per_minute", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{value} is not above 0", where=name, remedy="Give a positive number.")
        for name in ("max_cost", "price_in", "price_out"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{value} is no amount of money", where=name, remedy="Give 0 or more USD.")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("only one of price_in and price_out is given", remedy="Give both or neither.")

    @property
    def url(self) -> str:
        """Address of the server's API, without a slash at its end."""
        return (self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")

    @property
    def host(self) -> str:
        """The server's name and port: what an error may show, since an address can carry a password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own."""
        return urlsplit(self.url).hostname == urlsplit(OPENAI_URL).hostname

    def price(self) -> Price | None:
        """Return what the model costs, or None if that is unknown.

        Raises:
            ConfigError: There is a budget and the price is unknown.
        """
        # The same name on another server has another price, so the list is OpenAI's alone.
        price = price_of(self.model if self.is_openai else "", self.price_in, self.price_out)
        if price is None and self.max_cost is not None:
            raise ConfigError(
                f"max_cost is given, but not what {self.model!r} costs on {self.host}",
                remedy="Give price_in and price_out, USD for a million tokens; 0 for a server of your own.",
            )
        return price

    def api_key(self) -> str | None:
        """Read the API key; None if the server is not OpenAI's and there is none.

        Raises:
            ConfigError: The server is OpenAI's and there is no key.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and self.is_openai:
            raise ConfigError(
                f"the environment variable {self.api_key_env} holds no API key",
                remedy=f"Set it (export {self.api_key_env}=...), or give base_url for a server of your own.",
            )
        return key or None


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # A port that is no number raises.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
