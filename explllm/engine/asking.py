"""One question to the model, asked again while its answer cannot be read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from explllm.chat.request import ChatAnswer, ChatMessage, ChatRequest
from explllm.engine.face import EngineSettings

T = TypeVar("T")

Ask = Callable[[ChatRequest], Awaitable[ChatAnswer]]
"""Whatever answers requests: `explllm.chat.client.ChatClient.ask`."""


class UnreadableAnswer(Exception):
    """No answer could be read, however often the question was asked."""


class Asker:
    """Asks the questions about one face, and adds up what they cost."""

    def __init__(self, ask: Ask, scope: str, settings: EngineSettings) -> None:
        """Keep who answers, whose face it is, and how often to ask."""
        self.ask, self.scope, self.settings = ask, scope, settings
        self.round = 0
        self.cost = 0.0

    async def __call__(
        self,
        purpose: str,
        messages: tuple[ChatMessage, ...],
        read: Callable[[str], T | None],
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> T:
        """Ask until the answer can be read.

        Args:
            purpose: The process that asks.
            messages: The conversation.
            read: Makes something of the answer's text, or None if it cannot be read.
            max_tokens: Longest answer, in tokens.
            schema: JSON schema of a structured answer.
            step: Number of the question where a process asks several in a round.

        Returns:
            What `read` made of the answer.

        Raises:
            UnreadableAnswer: If no answer can be read; it quotes the last.
        """
        text = ""
        for attempt in range(self.settings.parse_attempts):
            answer = await self.ask(
                ChatRequest(
                    scope=self.scope,
                    purpose=purpose,
                    round=self.round,
                    messages=messages,
                    schema=schema,
                    temperature=self.settings.temperature,
                    max_tokens=max_tokens,
                    attempt=step * self.settings.parse_attempts + attempt,
                )
            )
            self.cost += answer.cost
            text = answer.text
            found = read(text)
            if found is not None:
                return found
        raise UnreadableAnswer(f"{purpose}: no readable answer in {self.settings.parse_attempts}, last {text[:80]!r}")
