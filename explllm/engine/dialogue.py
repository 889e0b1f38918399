"""The dialogue with the model about one face, and the history of its reflection rounds."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from explllm.engine.settings import EngineSettings
from explllm.llm.reading import Ask, UnreadableAnswer, ask_until_parsed
from explllm.llm.request import ChatAnswer, ChatMessage, ChatRequest

T = TypeVar("T")


class Dialogue:
    """Asks the questions about one face, keeps the history, and adds up the cost.

    The history is the paper's "memory mechanism" (Section III-B): the descriptions of the face and the feedback on
    them.
    """

    def __init__(self, ask: Ask, scope: str, settings: EngineSettings) -> None:
        """Start a dialogue; `ask` answers requests, and `scope` is the name of the face in the ledger."""
        self.settings = settings
        self.round = 0
        """Number of the current reflection round; 0 before the first."""
        self.cost = 0.0
        """Cost of all answers in USD."""
        self._ask, self._scope = ask, scope
        self._history: list[ChatMessage] = []

    @property
    def label_is_given(self) -> bool:
        """Whether the rounds have passed the threshold after which the true label is revealed."""
        return self.round > self.settings.label_after

    async def ask(
        self,
        purpose: str,
        question: str,
        parse: Callable[[str], T | None],
        expected: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> T:
        """Ask a question without the history until an answer can be parsed.

        Args:
            purpose: The process that asks.
            question: The question.
            parse: Parses the text of an answer; returns None if that is impossible.
            expected: Description of a valid answer, quoted in new attempts.
            max_tokens: Maximum answer length in tokens, without hidden reasoning.
            schema: JSON schema of a structured answer.
            step: Number of the question if the process asks several in one round.

        Returns:
            The parsed answer.

        Raises:
            UnreadableAnswer: If no answer can be parsed; the message quotes the last one.
        """
        return await self._request(purpose, (ChatMessage("user", question),), parse, expected, max_tokens, schema, step)

    async def ask_for_description(self, purpose: str, question: str) -> str:
        """Send the whole history and ask for a description of the face; add the question and the answer to the history.

        Raises:
            UnreadableAnswer: If all answers are empty or truncated.
        """
        self._history.append(ChatMessage("user", question))
        expected = "the analysis, in plain words"
        messages = tuple(self._history)
        description = await self._request(purpose, messages, lambda text: text.strip() or None, expected, 1024)
        self._history.append(ChatMessage("assistant", description))
        return description

    async def _request(
        self,
        purpose: str,
        messages: tuple[ChatMessage, ...],
        parse: Callable[[str], T | None],
        expected: str,
        max_tokens: int,
        schema: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> T:
        request = ChatRequest(
            scope=self._scope,
            purpose=purpose,
            round=self.round,
            messages=messages,
            schema=schema,
            temperature=self.settings.temperature,
            max_tokens=max_tokens,
            # Number the steps in thousands; otherwise their attempts would have the same numbers.
            attempt=1000 * step,
        )
        try:
            return await ask_until_parsed(self._count_cost, request, parse, expected, self.settings.parse_attempts)
        except UnreadableAnswer as error:
            raise UnreadableAnswer(f"{purpose}: {error}") from None

    async def _count_cost(self, request: ChatRequest) -> ChatAnswer:
        answer = await self._ask(request)
        self.cost += answer.cost
        return answer
