"""Requests to a language model, their answers, and the ways in which a request can end without one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]

# JSON may escape a slash with a backslash.
_BASE64_CHARACTER = r"(?:[A-Za-z0-9+/=]|\\/)"
_DATA_URL = re.compile(rf"data:image\\?/[\w.+-]{{1,40}};base64,{_BASE64_CHARACTER}*")
_LONG_BASE64 = re.compile(rf"{_BASE64_CHARACTER}{{100,}}")
"""Base64 without the prefix of a data URL, recognized by its length: no word in prose has 100 letters."""

# Escape sequences with their parameters, C0 and C1 controls except tab and newline, bidirectional marks, and the byte
# order mark.
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]"
)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class ChatImage:
    """An image in a message."""

    sha256: str
    """Hash of the JPEG file as 64 hexadecimal digits. The ledger keeps this hash and never the image."""
    jpeg: bytes | None = field(default=None, repr=False, compare=False)
    """Content of the JPEG file; None if the image was read from a ledger."""

    @classmethod
    def of(cls, jpeg: bytes) -> ChatImage:
        """Create an image from the content of a JPEG file."""
        return cls(hashlib.sha256(jpeg).hexdigest(), jpeg)

    @property
    def url(self) -> str:
        """The image as a data URL.

        Raises:
            ValueError: If the image was read from a ledger, which keeps only hashes.
        """
        if self.jpeg is None:
            raise ValueError(f"no content for image {self.sha256[:12]}: a ledger keeps only its hash")
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"

    @property
    def part(self) -> dict[str, Any]:
        """The image as a content part of OpenAI's chat API."""
        return {"type": "image_url", "image_url": {"url": self.url}}


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    content: str
    image: ChatImage | None = None
    """An image that follows the text."""


@dataclass(frozen=True)
class ChatRequest:
    """One question to the model, with the conversation before it."""

    scope: str
    """What the request is about, such as the path of a face image; `Ledger.conversation` searches by this name."""
    purpose: str
    """The task that asks, such as ``judge``; the ledger counts tokens and cost for each purpose."""
    round: int
    """Round of the conversation, from 0."""
    messages: tuple[ChatMessage, ...]
    """The conversation so far; the last message is the question."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of a structured answer; None for plain text."""
    temperature: float = 0.0
    """Sampling temperature. It is not sent to models that reject it, such as OpenAI's reasoning models."""
    max_tokens: int = 1024
    """Maximum answer length in tokens. The client adds tokens for hidden reasoning after a truncated answer."""
    attempt: int = 0
    """Number of earlier attempts with unusable answers. It is part of the key, so each attempt gets a new answer."""

    @property
    def images(self) -> list[ChatImage]:
        """The images of all messages, repeated images included."""
        return [message.image for message in self.messages if message.image is not None]

    def key(self, model: str) -> str:
        """Return the key of the request in the ledger, 64 hexadecimal digits.

        Any change to the model or to a field of the request, images included, changes the key.
        """
        parts = [
            model,
            self.scope,
            self.purpose,
            self.round,
            # Add a third element only for an image, so that the keys of older ledgers stay valid.
            [
                [message.role, message.content, *([] if message.image is None else [message.image.sha256])]
                for message in self.messages
            ],
            None if self.schema is None else dict(self.schema),
            float(self.temperature),
            self.max_tokens,
            self.attempt,
        ]
        return digest(json.dumps(parts, ensure_ascii=False, separators=(",", ":")))


@dataclass(frozen=True)
class ChatAnswer:
    """An answer of the model."""

    text: str
    prompt_tokens: int
    """Prompt tokens as counted by the server; 0 if unknown."""
    completion_tokens: int
    """Answer tokens as counted by the server; 0 if unknown."""
    cost: float
    """Cost in USD; 0 if the price is unknown. If the server reports no token counts, an upper bound on the cost."""
    model: str
    """The model's name as reported by the server, else as requested."""
    recorded: bool
    """Whether the answer was reused, from the ledger or from an identical request in this run."""
    finish_reason: str = "stop"
    """Why the answer ended, as reported by the server; ``length`` if it was truncated."""


class ChatFailure(Exception):
    """One request failed permanently: rejected, refused, or out of retries. Other requests may succeed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """The cause, in one line."""


class Refused(ChatFailure):
    """The model or a content filter refused to answer. The refusal was paid for, and the request is not sent again."""


class OutOfBudget(Exception):
    """The request could cost more than the budget has left; it was not sent."""


class Stopped(Exception):
    """The client was stopped or closed before the request was answered."""


def escape_surrogates(text: str) -> str:
    r"""Replace lone surrogates, which UTF-8 cannot encode, with escapes such as ``\udcff``.

    Lone surrogates come from undecodable file names and broken JSON.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def clean_text(text: str) -> str:
    """Return a text without characters that break tables and terminals.

    The function removes escape sequences, control characters other than newline and tab, byte order marks, and
    bidirectional marks (which change the direction of text). Lone surrogates, which UTF-8 cannot encode, become U+FFFD.
    """
    return _LONE_SURROGATE.sub("\ufffd", _UNPRINTABLE.sub("", text))


def digest(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(escape_surrogates(text).encode("utf-8")).hexdigest()


def strip_images(text: str) -> str:
    """Replace data URLs of images, and runs of 100 or more base64 characters, with ``[image]``.

    A server may repeat a request and its images in an error or an answer.
    """
    return _LONG_BASE64.sub("[image]", _DATA_URL.sub("[image]", text))
