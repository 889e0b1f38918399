"""Requests and answers of the HTTP server, in the format of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from explllm.app.errors import RequestError
from explllm.app.explainer import Answer
from explllm.core.expressions import Expression
from explllm.models.generation import Recognition
from explllm.report.json_lines import explain_schema

FIELDS = (
    "expression",
    "confidence",
    "probabilities",
    "key_observations",
    "interpretation",
    "conclusion",
    "text",
    "concluded",
    "conclusion_agrees",
    "self_contradictions",
    "claims",
    "claims_summary",
    "warnings",
    "training_data_note",
)
"""Fields of a JSON answer."""


class ImageURL(BaseModel):
    """The URL of a picture."""

    url: str = Field(description="A data URL (data:image/jpeg;base64,...), or an address if the server allows it.")


class TextPart(BaseModel):
    """Text in a message. It has no effect, because the model uses the questions it was trained with."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageURL


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None = None


class JSONSchema(BaseModel):
    """A JSON schema that selects fields of the answer."""

    name: str = ""
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)


class ResponseFormat(BaseModel):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JSONSchema | None = None


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat completion about one picture. Decoding is greedy: ``temperature`` and ``seed`` have no effect."""

    model_config = {"extra": "allow"}

    model: str
    messages: list[Message] = Field(min_length=1, max_length=64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1, le=1)
    response_format: ResponseFormat | None = None


class RecognizeRequest(BaseModel):
    """Pictures of faces, as data URLs, as plain base64, or as addresses if the server allows them."""

    images: list[str] = Field(min_length=1)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    """Machine-readable error code, such as ``invalid_image``."""


class ErrorBody(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetail


def heading(recognition: Recognition) -> str:
    """Return the line that precedes an explanation."""
    return f"**Expression:** {recognition.expression} ({recognition.confidence:.0%})\n\n"


def answer_schema() -> dict[str, Any]:
    """Return the schema of JSON answers: that of ``explllm explain --json``, limited to `FIELDS`."""
    definitions = explain_schema()["$defs"]
    face = definitions["face"]
    properties = {name: face["properties"][name] for name in FIELDS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The expression of a face and its explanation",
        "$defs": {name: definitions[name] for name in ("expression", "intensity", "facs")},
        "type": "object",
        "properties": properties,
        "required": list(FIELDS),
        "additionalProperties": False,
    }


def requested_fields(response_format: ResponseFormat | None, labels: Iterable[str]) -> list[str] | None:
    """Return the requested fields of a JSON answer (empty list: all fields), or None for a plain-text answer.

    Args:
        response_format: The format that a request asks for.
        labels: The expressions that the model knows.

    Raises:
        RequestError: If the schema asks for a field that no answer has, gives a field the wrong type, or does not allow
            all of its values.
    """
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object" or response_format.json_schema is None:
        return []
    ours = answer_schema()["properties"]
    properties = response_format.json_schema.schema_.get("properties")
    if not isinstance(properties, dict):
        return []
    for name, schema in properties.items():
        if name not in ours:
            message = f"The schema asks for {name[:100]!r}. An answer has the fields {', '.join(ours)}."
            raise RequestError(400, message, "invalid_json_schema")
        kind = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(kind, str) and kind not in _types(ours[name]):
            message = f"The schema's field {name!r} is of type {kind[:100]!r}, not {' or '.join(_types(ours[name]))}."
            raise RequestError(400, message, "invalid_json_schema")
        alternatives = _alternatives(schema, response_format.json_schema.schema_.get("$defs"))
        possible = _possible_values(name, labels)
        allows_all = possible and all(any(_allows(part, value) for part in alternatives) for value in possible)
        if any("enum" in part or "const" in part for part in alternatives) and not allows_all:
            values = f"one of {', '.join(map(str, possible))}" if possible else "any value of its type"
            message = f"The schema limits the values of {name!r}. The answer can be {values}."
            raise RequestError(400, message, "invalid_json_schema")
    return list(properties)


def _possible_values(name: str, labels: Iterable[str]) -> list[Any]:
    """Return all values that a field of an answer can have; empty if there are too many to list."""
    if name == "expression":
        return [*map(str, labels)]
    # A text may conclude an expression that is not one of the model's labels.
    return {"concluded": [*map(str, Expression), None], "conclusion_agrees": [True, False]}.get(name, [])


def _alternatives(schema: Any, definitions: Any) -> list[dict[str, Any]]:
    """Return the schemas of which a value must match at least one; Pydantic's references are resolved."""

    def resolved(part: Any) -> dict[str, Any]:
        name = str(part.get("$ref")).removeprefix("#/$defs/") if isinstance(part, dict) else ""
        found = definitions[name] if isinstance(definitions, dict) and name in definitions else part
        return found if isinstance(found, dict) else {}

    first = resolved(schema)
    parts = first.get("anyOf")
    return [resolved(part) for part in parts] if isinstance(parts, list) else [first]


def _allows(schema: dict[str, Any], value: Any) -> bool:
    """Return whether the keywords `type`, `enum` and `const` of a schema allow a value."""
    kinds, values = schema.get("type"), schema.get("enum")
    names = {str: "string", bool: "boolean", type(None): "null"}
    return (
        (kinds is None or names[type(value)] in (kinds if isinstance(kinds, list) else [kinds]))
        and (not isinstance(values, list) or value in values)
        and schema.get("const", value) == value
    )


def _types(schema: dict[str, Any]) -> list[str]:
    if "anyOf" in schema:
        return [kind for part in schema["anyOf"] for kind in _types(part)]
    kinds = schema.get("type", "string")  # the enumeration of expressions has no type
    return [kinds] if isinstance(kinds, str) else list(kinds)


def picture_url(messages: list[Message]) -> str:
    """Return the URL of the only picture in the messages.

    Raises:
        RequestError: If there is no picture, or more than one.
    """
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(urls) != 1:
        message = f"The messages have {len(urls) or 'no'} pictures. Send one as a content part of type image_url."
        raise RequestError(400, message, "invalid_image")
    return urls[0]


def finish_reason(answer: Answer) -> str:
    """Return OpenAI's finish reason for an answer."""
    return "stop" if answer.complete else "length"
