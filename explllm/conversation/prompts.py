"""What is asked of the model. The strings are those of the authors' released code, slips of grammar included."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One question about an image."""

    name: str
    """One word for it, all that the chat format ``plain`` says."""
    task: str
    """What the task is, for chat formats that have a line for it (``expllm``)."""
    question: str
    """What the user asks."""


RECOGNIZE = Prompt(
    "Expression",
    "Expression recognition involves identifying the emotional state of a person in a given image.",
    "What is the expression of the person in the image? Please provide the expression label.",
)
"""Answered by the label alone."""

EXPLAIN = Prompt(
    "Explanation",
    # The space before the line's end is the released code's; it is one token of its own.
    "Expression analysis involves providing a detailed analysis of the face. ",
    "Can you analysis the facial expression step-by-step in the provided image? Provide a detailed description.",
)
"""Answered by the chain of thought."""

CAPTION = Prompt(
    "Caption",
    "Image captioning involves describing what a given image shows.",
    "Describe the image in one sentence.",
)
"""Answered by a caption: the first stage, in which only the projector trains (paper, Section III-C-2)."""
