"""How a request is put to a server: what one OpenAI-compatible server takes, another answers with status 400."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from explllm.core.errors import InputError
from explllm.llm.request import ChatRequest, digest, well_formed
from explllm.llm.settings import ChatSettings

_log = logging.getLogger(__name__)

_UNSUPPORTED = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
"""Codes with which OpenAI names a field that a model does not take."""

_FIRST_ROOM, _MOST_ROOM, _LEAST_ROOM = 4096, 16384, 1024
"""Tokens for hidden reasoning, on top of the answer's own: OpenAI's guide "Reasoning models" speaks of hundreds to tens
of thousands, and advises to begin with 25,000 for prompts less simple than ours."""

_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class Dialect:
    """What is known of a server, learned from what it rejects."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        # OpenAI's reasoning models take only the newer name, older servers only the older one.
        self._length = "max_completion_tokens" if settings.is_openai else "max_tokens"
        self._rejected_lengths: set[str] = set()
        self._takes_temperature = True
        self._room, self._most_room = 0, _MOST_ROOM
        self._kept: set[str] = set()
        self._stated: set[str] = set()

    def limit(self, request: ChatRequest) -> int:
        """Return the tokens that an answer may take: the request's own, and room for the reasoning before it."""
        return request.max_tokens + self._room

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Put a request into the server's words.

        Args:
            request: The request.

        Returns:
            The fields of ``POST /chat/completions``.
        """
        texts = [well_formed(message.content) for message in request.messages]
        body: dict[str, Any] = {"model": self._settings.model, "messages": [], self._length: self.limit(request)}
        if self._takes_temperature:
            body["temperature"] = request.temperature
        if request.schema is not None:
            schema = dict(request.schema)
            if self._settings.structured == "never" or _name(request) in self._stated:
                texts[-1] += (
                    "\n\nAnswer with one JSON object and nothing else. It must match this JSON schema:\n"
                    + json.dumps(schema, ensure_ascii=False)
                )
            else:
                body["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": schema, "strict": True},
                }
        for message, text in zip(request.messages, texts, strict=True):
            content = text if message.picture is None else [{"type": "text", "text": text}, message.picture.part]
            body["messages"].append({"role": message.role, "content": content})
        return body

    def accepted(self, request: ChatRequest, body: dict[str, Any], finish_reason: str) -> None:
        """Note that the server answered.

        An answer that was cut off shows that the model reasons at length first: then all requests leave more room.
        That is no part of a request's key, so what is recorded is found all the same.
        """
        if "response_format" in body:
            self._kept.add(_name(request))
        # Others in flight may have been cut off at the old limit as well.
        if finish_reason == "length" and body.get(self._length) == self.limit(request):
            self._leave(4 * self._room or _FIRST_ROOM)

    def cut_off_before(self) -> None:
        """Note that an earlier run was given an answer that was cut off."""
        self._leave(_FIRST_ROOM)

    def _leave(self, room: int) -> None:
        room = min(room, self._most_room)
        if room > self._room:
            self._room = room
            _log.warning("%s was cut off: it gets %d tokens more, for its reasoning.", self._settings.model, room)

    def learn(
        self, request: ChatRequest, body: dict[str, Any], *, param: str | None, code: str | None, why: str
    ) -> bool:
        """Learn from status 400.

        Args:
            request: The request.
            body: What was sent for it.
            param: The field that the server names in its error, if it does.
            code: The server's code for the error, if it has one.
            why: The server's message.

        Returns:
            Whether the request may succeed in other words, which `body` now gives.

        Raises:
            InputError: The server knows no schemas, and must.
        """
        if code in _UNSUPPORTED and param == "temperature" and "temperature" in body:
            if self._takes_temperature:
                _log.warning("%s has its own temperature, which is used instead.", self._settings.model)
            self._takes_temperature = False
            return True
        if code in _UNSUPPORTED and param in _OTHER_NAME and param in body:
            self._rejected_lengths.add(param)
            self._length = _OTHER_NAME[param]
            return self._length not in self._rejected_lengths
        room = body.get(self._length, 0) - request.max_tokens
        if room > 0 and re.search(r"token|length|context", why, re.IGNORECASE):
            # More than the model has room for itself.
            self._most_room = room // 4 if room > _LEAST_ROOM else 0
            self._room = min(self._room, self._most_room)
            return True
        return request.schema is not None and self._learn_schema(request, body, why)

    def _learn_schema(self, request: ChatRequest, body: dict[str, Any], why: str) -> bool:
        name = _name(request)
        if "response_format" not in body:
            # The schema was not what the server minded.
            self._stated.discard(name)
            return False
        if name in self._kept:
            return False
        if self._settings.structured == "always":
            raise InputError(
                f"{self._settings.host} does not take the JSON schema of {request.purpose!r}: {why}",
                where="structured",
                remedy="Use structured: auto, which states the schema in the prompt instead.",
            )
        if name not in self._stated:
            _log.warning("%s: the JSON schema is stated in the prompt only, the server rejects it: %s", name[:8], why)
        self._stated.add(name)
        return True


def _name(request: ChatRequest) -> str:
    return digest(json.dumps(dict(request.schema or {})))
