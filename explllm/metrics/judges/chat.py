"""A language model as judge, as in the paper (Section III-B-7)."""

import json
import re
from typing import Any, Protocol

from explllm.llm.prompt import prompt_version, render
from explllm.llm.reading import UnreadableAnswer, ask_until_parsed, object_schema, strip_reasoning
from explllm.llm.request import ChatAnswer, ChatFailure, ChatMessage, ChatRequest
from explllm.metrics.exp_cot_score import MAX_SCORE, Judgment
from explllm.metrics.judges import Judge

_PARTS = ("key_observations", "overall_emotional_interpretation", "conclusion")
_UP_TO_5 = {"type": "number", "minimum": 0, "maximum": 5}
SCHEMA = object_schema(
    "scores",
    key_observations=_UP_TO_5,
    overall_emotional_interpretation=_UP_TO_5,
    conclusion={"type": "number", "enum": [0, 5]},
)
_ATTEMPTS = 3
_EXPECTED = f"one JSON object of three numbers, {', '.join(_PARTS)}: the first two from 0 to 5, the third 0 or 5"


class AsksQuestions(Protocol):
    """The part of `explllm.llm.client.ChatClient` that a judge needs."""

    async def ask(self, request: ChatRequest) -> ChatAnswer:
        """Return the answer to a request."""
        ...


class ChatJudge(Judge):
    """A language model as judge: structured answers at temperature 0. The ledger keeps every answer.

    It needs a client, so it is not registered: ``--judge NAME`` creates one for every name that is not registered.
    """

    def __init__(self, client: AsksQuestions, model: str) -> None:
        """Store the client, an `explllm.llm.client.ChatClient`, and the model's name."""
        self.client, self.model = client, model
        self.name = f"{model}, prompt {prompt_version('explllm.metrics', 'judge')}"

    async def judge(self, generated: str, reference: str, scope: str) -> Judgment:
        """Ask the model for the scores, up to three times if its answer cannot be parsed."""
        question = render("explllm.metrics", "judge", generated=generated, reference=reference)
        messages = (ChatMessage("user", question),)
        request = ChatRequest(scope, "judge", 0, messages, SCHEMA, max_tokens=128)
        try:
            return await ask_until_parsed(self.client.ask, request, parse_judgment, _EXPECTED, _ATTEMPTS)
        except UnreadableAnswer as error:
            raise ChatFailure(f"judge: {error}") from None


def parse_judgment(text: str) -> Judgment | None:
    """Parse a judge's answer: a JSON object, possibly in a code fence or in prose; None if there is no valid object."""
    match = re.search(r"\{[^{}]*\}", strip_reasoning(text))
    try:
        values: Any = json.loads(match[0]) if match else None
        key, interpretation, conclusion = (float(values[part]) for part in _PARTS)
    except (ValueError, TypeError, KeyError):
        return None
    if not (0 <= key <= MAX_SCORE and 0 <= interpretation <= MAX_SCORE and conclusion in (0, MAX_SCORE)):
        return None
    return Judgment(key, interpretation, conclusion)
