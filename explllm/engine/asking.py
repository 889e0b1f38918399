"""One question to the model about a face, asked again while its answer cannot be read."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from explllm.engine.face import EngineSettings
from explllm.llm.reading import Ask, UnreadableAnswer, ask_until_read
from explllm.llm.request import ChatAnswer, ChatMessage, ChatRequest

__all__ = ["Ask", "Asker", "UnreadableAnswer"]

T = TypeVar("T")


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
        wanted: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> T:
        """Ask until the answer can be read.

        Args:
            purpose: The process that asks.
            messages: The conversation.
            read: Makes something of the answer's text, or None if it cannot be read.
            wanted: What to answer with; said when the question is repeated.
            max_tokens: Longest answer, in tokens, without hidden reasoning.
            schema: JSON schema of a structured answer.
            step: Number of the question where a process asks several in a round.

        Returns:
            What `read` made of the answer.

        Raises:
            UnreadableAnswer: If no answer can be read; it quotes the last.
        """
        request = ChatRequest(
            scope=self.scope,
            purpose=purpose,
            round=self.round,
            messages=messages,
            schema=schema,
            temperature=self.settings.temperature,
            max_tokens=max_tokens,
            attempt=step * self.settings.parse_attempts,
        )
        try:
            return await ask_until_read(self._paid, request, read, wanted, self.settings.parse_attempts)
        except UnreadableAnswer as error:
            raise UnreadableAnswer(f"{purpose}: {error}") from None

    async def _paid(self, request: ChatRequest) -> ChatAnswer:
        answer = await self.ask(request)
        self.cost += answer.cost
        return answer
