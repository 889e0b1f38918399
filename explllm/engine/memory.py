"""The memory: a face's conversation, kept for the next round (paper, Section III-B, "memory mechanism")."""

from dataclasses import dataclass, field

from explllm.llm.request import ChatMessage


@dataclass
class Memory:
    """The descriptions of a face and the feedback on them, in order."""

    messages: list[ChatMessage] = field(default_factory=list)
    """What was said so far: questions of the user and answers of the assistant."""

    def asked(self, question: str) -> tuple[ChatMessage, ...]:
        """Add a question, and return the whole conversation to send."""
        self.messages.append(ChatMessage("user", question))
        return tuple(self.messages)

    def answered(self, answer: str) -> None:
        """Add the answer to the last question."""
        self.messages.append(ChatMessage("assistant", answer))
