"""The content of conversations: prompts, messages and chat formats.

A conversation is a list of messages: rounds of user and assistant about one image. A message is a dictionary with
``role`` (``user`` or ``assistant``) and ``content``. A user's message also has ``name`` and ``task`` (see `Prompt`)
and ``image``, true in the first message: the template inserts the image placeholders there.

A chat format is a Jinja template, saved with the tokenizer. A template receives ``messages`` and ``image_tokens``, the
number of placeholders for one image. It marks the assistant's text by ``{% generation %}``; the label masks follow from
these marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from explllm.core.errors import ConfigError

Message = dict[str, Any]
Messages = list[Message]

IMAGE_TOKEN = "<im_patch>"
"""The image placeholder, one for each image token; the name is the released code's."""

NATIVE = "native"
"""The chat format of a pretrained language model: the chat template of the model's tokenizer."""

TEMPLATES = ("expllm", "vicuna", "plain")
"""Chat formats with a template in this package. ``expllm``: the authors' released code. ``vicuna``: LLaVA's format for
Vicuna v1.5. ``plain``: one word per question, for small models trained from scratch, which gain nothing from a long
prompt."""

FORMATS = (*TEMPLATES, NATIVE)
"""All chat formats."""


@dataclass(frozen=True)
class Prompt:
    """One question about an image. The wording is that of the authors' released code, grammar mistakes included."""

    name: str
    """One word for the question; the chat format ``plain`` contains only this word."""
    task: str
    """Description of the task, for chat formats that have a line for it (``expllm``)."""
    question: str
    """The user's question."""


RECOGNIZE = Prompt(
    "Expression",
    "Expression recognition involves identifying the emotional state of a person in a given image.",
    "What is the expression of the person in the image? Please provide the expression label.",
)
"""Answered by the label alone."""

EXPLAIN = Prompt(
    "Explanation",
    # The trailing space is the released code's; it is a separate token.
    "Expression analysis involves providing a detailed analysis of the face. ",
    "Can you analysis the facial expression step-by-step in the provided image? Provide a detailed description.",
)
"""Answered by the chain of thought."""

CAPTION = Prompt(
    "Caption",
    "Image captioning involves describing what a given image shows.",
    "Describe the image in one sentence.",
)
"""Answered by a caption: the first stage, in which only the projector is trained (paper, Section III-C-2)."""


DESCRIBE = Prompt(
    "Description",
    "Expression description involves naming the expression of a face and its visible evidence.",
    "Please describe the expression in this face.",
)
"""Answered by the label, then the evidence. The question is the one in FEALLM's figure."""

LIST_UNITS = Prompt(
    "Units",
    "Action unit detection involves finding the facial movements that are active in a face.",
    "Which facial action units are active in this face? Give their side, strength and FACS number.",
)
"""Answered by the list of active units. The wording is ours: FEALLM's authors released one question only."""

REASON = Prompt(
    "Reasoning",
    "Expression reasoning involves inferring the expression of a face from its action units.",
    "Which facial movements does this face show, and to which expression do they lead?",
)
"""Answered by the movements, their meaning and the expression. The wording is ours."""


def unit_state(name: str) -> Prompt:
    """Return the question that asks whether one action unit is active, answered by `ACTIVE` or `NOT_ACTIVE`.

    Args:
        name: Name of the unit, such as ``Jaw Drop``.
    """
    return Prompt(
        name,
        "Action unit detection involves finding the facial movements that are active in a face.",
        f"Is the facial action unit {name} active in this face? Answer active or not active.",
    )


ACTIVE, NOT_ACTIVE = "active", "not active"


def conversation(rounds: Sequence[tuple[Prompt, str | None]]) -> Messages:
    """Build the messages of a conversation about one image.

    Args:
        rounds: Prompts and answers in order. Only the last answer may be None, for a question without an answer yet.

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
    """Build the FER conversation: one round, the answer is the label (paper, Section III-C-2)."""
    return conversation([(RECOGNIZE, label)])


def explanation(label: str, cot: str | None = None) -> Messages:
    """Build the CoT conversation: two rounds, the label and then the chain of thought."""
    return conversation([(RECOGNIZE, label), (EXPLAIN, cot)])


def explanation_first(cot: str, label: str | None = None) -> Messages:
    """Build the CoT conversation in reverse order, as the authors' released code trained on RAF-DB."""
    return conversation([(EXPLAIN, cot), (RECOGNIZE, label)])


def caption(text: str | None = None) -> Messages:
    """Build the conversation of the first stage: one round, the answer is the image's caption."""
    return conversation([(CAPTION, text)])


def chat_template(name: str) -> str:
    """Return the Jinja template of one of `TEMPLATES`.

    Raises:
        ConfigError: If the format is unknown.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"unknown chat format {name!r}", remedy=f"Use one of {', '.join(FORMATS)}.")
    return resources.files("explllm.conversation").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
