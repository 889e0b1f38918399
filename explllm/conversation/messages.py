"""Conversations as lists of messages: rounds of user and assistant about one image.

A message is a dictionary with ``role`` (``user`` or ``assistant``) and ``content``; a user's also has
``name`` and ``task`` (see `explllm.conversation.prompts.Prompt`) and ``image``, true in the first, where the template
puts the placeholders.
"""

from collections.abc import Sequence
from typing import Any

from explllm.conversation.prompts import CAPTION, EXPLAIN, RECOGNIZE, Prompt

Message = dict[str, Any]
Messages = list[Message]


def conversation(rounds: Sequence[tuple[Prompt, str | None]]) -> Messages:
    """Build the messages of a conversation about one image.

    Args:
        rounds: Prompts and answers in order; only the last answer may be None, a question still open.

    Returns:
        The messages.
    """
    messages: Messages = []
    for number, (prompt, answer) in enumerate(rounds):
        user = {"role": "user", "name": prompt.name, "task": prompt.task, "content": prompt.question}
        messages.append({**user, "image": number == 0})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def recognition(label: str | None = None) -> Messages:
    """The FER conversation: one round, the answer is the label alone (paper, Section III-C-2)."""
    return conversation([(RECOGNIZE, label)])


def explanation(label: str, cot: str | None = None) -> Messages:
    """The CoT conversation: two rounds, the label and then the chain of thought."""
    return conversation([(RECOGNIZE, label), (EXPLAIN, cot)])


def explanation_first(cot: str, label: str | None = None) -> Messages:
    """The CoT conversation the other way round, as the authors' released code trained on RAF-DB."""
    return conversation([(EXPLAIN, cot), (RECOGNIZE, label)])


def caption(text: str | None = None) -> Messages:
    """The conversation of the first stage: one round, the answer is the image's caption."""
    return conversation([(CAPTION, text)])
