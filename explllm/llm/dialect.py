"""The request format that a server accepts: OpenAI-compatible servers differ in the fields they support."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from explllm.core.errors import InputError
from explllm.llm.request import ChatRequest, digest, escape_surrogates
from explllm.llm.settings import ChatSettings

_log = logging.getLogger(__name__)

_UNSUPPORTED = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
"""OpenAI's error codes for a field that a model does not support."""

_INITIAL_REASONING, _MAX_REASONING, _MIN_REASONING = 4096, 16384, 1024
"""Tokens allowed for hidden reasoning, in addition to the answer: the first allowance after a truncated answer, the
maximum, and the minimum. If a server rejects a request because of its length, the new maximum is a quarter of the
rejected allowance, or 0 if that allowance was not above the minimum. OpenAI's guide "Reasoning models" reports hundreds
to tens of thousands of tokens and recommends starting with 25,000, but for more complex prompts than those of this
package."""

_ALTERNATIVE_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class Dialect:
    """The request format of a server, learned from its answers and its rejections."""

    def __init__(self, settings: ChatSettings) -> None:
        self._settings = settings
        # OpenAI's reasoning models accept only the newer name, and older servers accept only the older one.
        self._length_field = "max_completion_tokens" if settings.is_openai else "max_tokens"
        self._rejected_length_fields: set[str] = set()
        self._supports_temperature = True
        self._reasoning_tokens: dict[str, int] = {}
        self._max_reasoning = _MAX_REASONING
        self._accepted_schemas: set[str] = set()
        self._schemas_in_prompt: set[str] = set()

    def token_limit(self, request: ChatRequest) -> int:
        """Return the maximum length of the answer in tokens, hidden reasoning included."""
        return request.max_tokens + min(self._reasoning_tokens.get(request.purpose, 0), self._max_reasoning)

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """Return the body of ``POST /chat/completions`` for a request."""
        texts = [escape_surrogates(message.content) for message in request.messages]
        body: dict[str, Any] = {"model": self._settings.model, "messages": []}
        body[self._length_field] = self.token_limit(request)
        if self._supports_temperature:
            body["temperature"] = request.temperature
        if request.schema is not None:
            schema = dict(request.schema)
            if self._settings.structured == "never" or _schema_id(request) in self._schemas_in_prompt:
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
            content = text if message.image is None else [{"type": "text", "text": text}, message.image.part]
            body["messages"].append({"role": message.role, "content": content})
        return body

    def note_answer(self, request: ChatRequest, body: dict[str, Any], finish_reason: str) -> None:
        """Learn from an answer.

        An answer to a request with a JSON schema shows that the server accepts the schema. A truncated answer is taken
        to mean that the model reasons before it answers: later requests of the same purpose allow more tokens. The
        additional tokens are not part of a request's key, so recorded answers remain valid.
        """
        if "response_format" in body:
            self._accepted_schemas.add(_schema_id(request))
        # Ignore truncated answers to requests that were sent with an older, lower limit.
        if finish_reason == "length" and body.get(self._length_field) == self.token_limit(request):
            self._allow_reasoning(request, 4 * (self.token_limit(request) - request.max_tokens) or _INITIAL_REASONING)

    def note_recorded_truncation(self, request: ChatRequest) -> None:
        """Learn from a truncated answer in the ledger."""
        self._allow_reasoning(request, _INITIAL_REASONING)

    def _allow_reasoning(self, request: ChatRequest, tokens: int) -> None:
        tokens = min(tokens, self._max_reasoning)
        if tokens > self._reasoning_tokens.get(request.purpose, 0):
            self._reasoning_tokens[request.purpose] = tokens
            _log.warning(
                "An answer from %s was cut off. Allowing %d more tokens for the reasoning of %s.",
                self._settings.model,
                tokens,
                request.purpose,
            )

    def note_rejection(
        self, request: ChatRequest, body: dict[str, Any], *, param: str | None, code: str | None, reason: str
    ) -> bool:
        """Learn from a rejected request (status 400, 413 or 422, for example).

        Args:
            request: The rejected request.
            body: The body of the request.
            param: The field that the error names, if any.
            code: The error code, if any.
            reason: The error message.

        Returns:
            Whether to send the request again with a new `body`.

        Raises:
            InputError: If `structured` is ``always`` and the server rejects a request with its schema.
        """
        if code in _UNSUPPORTED and param == "temperature" and "temperature" in body:
            if self._supports_temperature:
                _log.warning("%s does not support a temperature. Using the model's default.", self._settings.model)
            self._supports_temperature = False
            return True
        if code in _UNSUPPORTED and param in _ALTERNATIVE_NAME and param in body:
            self._rejected_length_fields.add(param)
            self._length_field = _ALTERNATIVE_NAME[param]
            return self._length_field not in self._rejected_length_fields
        reasoning = body.get(self._length_field, 0) - request.max_tokens
        if reasoning > 0 and re.search(r"token|length|context", reason, re.IGNORECASE):
            # The limit exceeds the model's context.
            self._max_reasoning = reasoning // 4 if reasoning > _MIN_REASONING else 0
            return True
        return request.schema is not None and self._note_rejected_schema(request, body, reason)

    def _note_rejected_schema(self, request: ChatRequest, body: dict[str, Any], reason: str) -> bool:
        schema = _schema_id(request)
        if "response_format" not in body:
            # The server also rejects the request without the schema, so the schema was not the problem.
            self._schemas_in_prompt.discard(schema)
            return False
        if schema in self._accepted_schemas:
            return False
        if self._settings.structured == "always":
            raise InputError(
                f"{self._settings.host} does not accept the JSON schema of {request.purpose!r}: {reason}",
                where="structured",
                remedy="Use structured: auto, which states the schema in the prompt instead.",
            )
        if schema not in self._schemas_in_prompt:
            _log.warning("The server rejects a JSON schema (%s). Stating it in the prompt instead.", reason)
        self._schemas_in_prompt.add(schema)
        return True


def _schema_id(request: ChatRequest) -> str:
    return digest(json.dumps(dict(request.schema or {})))
