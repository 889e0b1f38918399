"""Parse answers: strip the reasoning of the model, and ask again if the answer cannot be parsed."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from explllm.llm.prompt import render
from explllm.llm.request import ChatAnswer, ChatRequest

T = TypeVar("T")

Ask = Callable[[ChatRequest], Awaitable[ChatAnswer]]
"""A function that answers requests, such as `explllm.llm.client.ChatClient.ask`."""

_DECODER = json.JSONDecoder(strict=False)
_QUOTED_CHARACTERS = 80
_MAX_RUNS = 3
"""Number of runs with only unusable answers after which a question counts as unanswerable."""
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# Some servers put the opening tag into the prompt, so the answer contains only the closing tag.
_UNOPENED_REASONING = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)


class UnreadableAnswer(Exception):
    """No answer could be parsed in the allowed number of attempts."""


def strip_reasoning(text: str) -> str:
    """Return an answer without the model's visible reasoning, ``<think>...</think>``."""
    return _UNOPENED_REASONING.sub("", _REASONING.sub("", text)).strip()


def object_schema(title: str, **properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object that must have the given properties and no others."""
    schema: dict[str, Any] = {"title": title, "type": "object", "properties": properties}
    return schema | {"required": list(properties), "additionalProperties": False}


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in an answer, which may be in a code fence or in prose; None if there is no valid object.

    Line breaks in strings need no escape.
    """
    for brace in re.finditer("{", text):
        with suppress(ValueError, RecursionError):
            value: dict[str, Any] = _DECODER.raw_decode(text, brace.start())[0]
            return value
    return None


def answer_field(text: str, name: str) -> str:
    """Return a field of a structured answer, empty if missing; return the answer itself if it has no JSON object."""
    value = parse_object(text)
    return text if value is None else str(value.get(name, ""))


async def ask_until_parsed(
    ask: Ask, request: ChatRequest, parse: Callable[[str], T | None], expected: str, attempts: int
) -> T:
    """Ask until an answer can be parsed.

    After an answer that cannot be parsed, the next attempt quotes it. A truncated answer is always unusable but is not
    quoted. In this case the question stays the same, because the client allows more tokens for the next answer
    (`explllm.llm.dialect.Dialect`).

    The cause of an unusable answer may be temporary, so recorded answers do not count as attempts: a later run asks
    again, up to three times `attempts` in total.

    Args:
        ask: Answers requests.
        request: The question; attempts are numbered from its `attempt`.
        parse: Parses the text of an answer without its reasoning; returns None if that is impossible.
        expected: Description of a valid answer, such as ``one of the words Correct and Incorrect``; new attempts
            quote it.
        attempts: Maximum number of new answers.

    Returns:
        The parsed answer.

    Raises:
        UnreadableAnswer: If no answer can be parsed; the message quotes the last answer.
    """
    problem, question, messages = "", request.messages[-1], request.messages
    unusable = new_answers = 0
    while new_answers < attempts and unusable < _MAX_RUNS * attempts:
        answer = await ask(replace(request, messages=messages, attempt=request.attempt + unusable))
        unusable += 1
        new_answers += not answer.recorded
        text = strip_reasoning(answer.text)
        problem = repr(text[:_QUOTED_CHARACTERS])
        if answer.finish_reason == "length":
            problem = f"cut off after {answer.completion_tokens or 'too many'} tokens"
            continue
        parsed = parse(text)
        if parsed is not None:
            return parsed
        again = render("explllm.llm", "again", count=unusable, answer=text[:_QUOTED_CHARACTERS], expected=expected)
        messages = (*request.messages[:-1], replace(question, content=f"{question.content}\n\n{again}"))
    raise UnreadableAnswer(f"no parsable answer in {unusable} attempts, last: {problem}")
