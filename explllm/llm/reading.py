"""Answers that are to be read: without the thoughts before them, and asked for again where they cannot be."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from explllm.llm.prompt import render
from explllm.llm.request import ChatAnswer, ChatRequest

T = TypeVar("T")

Ask = Callable[[ChatRequest], Awaitable[ChatAnswer]]
"""Whatever answers requests: `explllm.llm.client.ChatClient.ask`."""

_QUOTED = 80
"""Characters of an answer that are quoted."""
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# Some servers put the opening tag into the prompt, so that only the closing one comes back.
_OPENED_BEFORE = re.compile(r"\A.*</(?:think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)


class UnreadableAnswer(Exception):
    """No answer could be read, however often the question was asked."""


def without_thoughts(text: str) -> str:
    """Return an answer without what a reasoning model thinks aloud before it, ``<think>...</think>``."""
    return _OPENED_BEFORE.sub("", _THOUGHTS.sub("", text)).strip()


async def ask_until_read(
    ask: Ask, request: ChatRequest, read: Callable[[str], T | None], wanted: str, attempts: int
) -> T:
    """Ask until the answer can be read.

    The question is repeated with what was wrong. An answer that was cut off counts as unreadable, whatever is there of
    it; the client leaves more room from then on (`explllm.llm.dialect.Dialect`), and the question stays as it is.

    Args:
        ask: Who answers.
        request: The question; the repeated ones count on from its `attempt`.
        read: Makes something of the answer's text without its thoughts, or None if it cannot be read.
        wanted: What to answer with, such as ``one of the words Correct and Incorrect, and nothing else``.
        attempts: How often to ask.

    Returns:
        What `read` made of the answer.

    Raises:
        UnreadableAnswer: If no answer can be read; it quotes the last.
    """
    what, question = "", request.messages[-1]
    messages = request.messages
    for attempt in range(request.attempt, request.attempt + attempts):
        answer = await ask(replace(request, messages=messages, attempt=attempt))
        text = without_thoughts(answer.text)
        what = repr(text[:_QUOTED])
        if answer.finish_reason == "length":
            what = f"cut off after {answer.completion_tokens or 'too many'} tokens"
            continue
        found = read(text)
        if found is not None:
            return found
        again = render("explllm.llm", "again", answer=text[:_QUOTED], wanted=wanted)
        messages = (*request.messages[:-1], replace(question, content=f"{question.content}\n\n{again}"))
    raise UnreadableAnswer(f"no readable answer in {attempts}, last {what}")
