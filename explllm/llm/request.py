"""What is asked of a language model, what it answers, and how asking can end without an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Those who ask need only this module and the client.
from explllm.llm.picture import ChatPicture as ChatPicture
from explllm.llm.settings import ChatSettings as ChatSettings

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    content: str
    picture: ChatPicture | None = None
    """Is sent after the text; of it only the hash is recorded."""


@dataclass(frozen=True)
class ChatRequest:
    """One question to the model, with the conversation before it."""

    scope: str
    """Whose request it is, such as the path of a face; recorded, and what `Ledger.conversation` looks for."""
    purpose: str
    """Which process asks, such as ``judge``; tokens and cost are counted for each."""
    round: int
    """Which round of the conversation it is."""
    messages: tuple[ChatMessage, ...]
    """The conversation so far; the last message is the question."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of a structured answer; None for plain text."""
    temperature: float = 0.0
    """Sampling temperature; a server that has only its own (OpenAI's reasoning models) samples at that."""
    max_tokens: int = 1024
    """The longest answer, in tokens. The client adds room for hidden reasoning once an answer was cut off."""
    attempt: int = 0
    """Counts asking again because an answer could not be used; part of the key, so that the model is asked anew."""

    @property
    def pictures(self) -> list[ChatPicture]:
        """The pictures of all messages; one that is in several of them counts as often."""
        return [message.picture for message in self.messages if message.picture is not None]

    def key(self, model: str) -> str:
        """Return what the request is recorded under: a changed prompt, picture, setting or model makes a new entry.

        Args:
            model: The model that is asked.

        Returns:
            64 hexadecimal digits.
        """
        parts = [
            model,
            self.scope,
            self.purpose,
            self.round,
            # Without a picture as it always was, so that what is recorded is found.
            [
                [message.role, message.content, *([] if message.picture is None else [message.picture.sha256])]
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
    """What the model answered."""

    text: str
    prompt_tokens: int
    """Tokens of the prompt as the server counted them; 0 if it did not say."""
    completion_tokens: int
    """Tokens of the answer as the server counted them; 0 if it did not say."""
    cost: float
    """USD at the price known when it was asked; 0 if none was known. The whole upper bound if the server counts no
    tokens."""
    model: str
    """The model that answered, under the server's name for it."""
    recorded: bool
    """Whether the answer came from the ledger, so that nothing was paid for it again."""
    finish_reason: str = "stop"
    """Why the answer ends, in the server's word: ``length`` if it was cut off, at `ChatRequest.max_tokens` or at these
    with the room for hidden reasoning that the client added."""


class ChatFailure(Exception):
    """One request failed for good: refused, not understood, or retries used up. Others may succeed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """What happened, in one line."""


class Refused(ChatFailure):
    """The model, or a filter before it, would not answer; that was paid for, and asking again gives the same."""


class OutOfBudget(Exception):
    """The request might cost more than is left of the budget; it was not sent."""


class Stopped(Exception):
    """The client was stopped; the request was not sent, or not sent again."""


def well_formed(text: str) -> str:
    """Write out halves of surrogate pairs, which no UTF-8 can hold: undecodable paths and broken JSON make them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def digest(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(well_formed(text).encode("utf-8")).hexdigest()
