"""The content of conversations: prompts, messages and chat formats.

A conversation is a list of messages about one image, in which the user and the assistant take turns. A message is a
dictionary with ``role`` (``user`` or ``assistant``) and ``content``. A user message also has ``name`` and ``task`` (see
`Prompt`) and ``image``, which is true only in the first message, where the template inserts the image placeholders.

A chat format is a Jinja template, saved with the tokenizer. The templates in this package receive ``messages`` and
``image_tokens``, the number of placeholders for one image, and enclose the assistant's text in ``{% generation %}``
blocks, which define the label masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from explllm.core.errors import ConfigError

Message = dict[str, Any]
Messages = list[Message]

IMAGE_TOKEN = "<im_patch>"
"""The placeholder for one image token. The name comes from the released code."""

NATIVE = "native"
"""The chat format of a pretrained language model: the chat template of the model's tokenizer."""

TEMPLATES = ("expllm", "vicuna", "plain")
"""Chat formats with a template in this package. ``expllm``: the format of the authors' released code. ``vicuna``:
LLaVA's format for Vicuna v1.5. ``plain``: only the name of each question, for small models trained from scratch, which
gain nothing from a long prompt."""

FORMATS = (*TEMPLATES, NATIVE)
"""All chat formats."""


@dataclass(frozen=True)
class Prompt:
    """One question about an image. Unless noted, the wording is from the authors' released code, mistakes included."""

    name: str
    """A short name for the question; in the chat format ``plain``, it replaces the question."""
    task: str
    """Description of the task, for chat formats that have a line for it (``expllm``)."""
    question: str
    """The user's question."""


RECOGNIZE = Prompt(
    "Expression",
    "Expression recognition involves identifying the emotional state of a person in a given image.",
    "What is the expression of the person in the image? Please provide the expression label.",
)
"""The answer is the label alone."""

EXPLAIN = Prompt(
    "Explanation",
    # The released code has this trailing space, which is a separate token.
    "Expression analysis involves providing a detailed analysis of the face. ",
    "Can you analysis the facial expression step-by-step in the provided image? Provide a detailed description.",
)
"""The answer is the chain of thought."""

CAPTION = Prompt(
    "Caption",
    "Image captioning involves describing what a given image shows.",
    "Describe the image in one sentence.",
)
"""The answer is a caption. The first stage uses this prompt and trains only the projector (paper, Section III-C-2)."""


DESCRIBE = Prompt(
    "Description",
    "Expression description involves naming the expression of a face and its visible evidence.",
    "Please describe the expression in this face.",
)
"""The answer gives the label, followed by the evidence. The question is from FEALLM's figure."""

LIST_UNITS = Prompt(
    "Units",
    "Action unit detection involves finding the facial movements that are active in a face.",
    "Which facial action units are active in this face? Give their side, strength and FACS number.",
)
"""The answer lists the active units. The wording is ours: FEALLM's authors released only one question."""

REASON = Prompt(
    "Reasoning",
    "Expression reasoning involves inferring the expression of a face from its action units.",
    "Which facial movements does this face show, and to which expression do they lead?",
)
"""The answer gives the movements, their meaning and the expression. The wording is ours."""


def unit_state(name: str) -> Prompt:
    """Return the question of whether an action unit is active; the answer is `ACTIVE` or `NOT_ACTIVE`.

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
        rounds: Prompts and answers in order. Only the last answer may be None, for a question that has no answer yet.

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
    """Build the FER conversation: one round, answered with the label (paper, Section III-C-2)."""
    return conversation([(RECOGNIZE, label)])


def explanation(label: str, cot: str | None = None) -> Messages:
    """Build the CoT conversation: two rounds, answered with the label and then the chain of thought."""
    return conversation([(RECOGNIZE, label), (EXPLAIN, cot)])


def explanation_first(cot: str, label: str | None = None) -> Messages:
    """Build the CoT conversation in reverse order, as the authors' released code does for RAF-DB."""
    return conversation([(EXPLAIN, cot), (RECOGNIZE, label)])


def caption(text: str | None = None) -> Messages:
    """Build the first-stage conversation: one round, answered with the image's caption."""
    return conversation([(CAPTION, text)])


def chat_template(name: str) -> str:
    """Return the Jinja template of one of `TEMPLATES`.

    Raises:
        ConfigError: If the name is not one of `TEMPLATES`.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"unknown chat format {name!r}", remedy=f"Use one of {', '.join(FORMATS)}.")
    return resources.files("explllm.conversation").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
