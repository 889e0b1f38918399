"""Chat formats: the wire format of a conversation, as one Jinja template each, saved with the tokenizer.

A template receives ``messages`` (see `explllm.conversation.messages`) and ``image_tokens``, the number of placeholders
for one image, and marks what the assistant says by ``{% generation %}``, from which the label masks follow.
"""

from importlib import resources

from explllm.core.errors import ConfigError

IMAGE_TOKEN = "<im_patch>"
"""The placeholder in the text, one for each token of the image; the name is the released code's."""

FORMATS = ("expllm", "vicuna", "plain")
"""``expllm``: the authors' released code. ``vicuna``: LLaVA's format for Vicuna v1.5. ``plain``: one word for each
question, for small models trained from scratch, to which a long prompt says nothing and only costs time."""


def chat_template(name: str) -> str:
    """Return the Jinja template of a chat format.

    Args:
        name: One of `FORMATS`.

    Returns:
        The template's text.

    Raises:
        ConfigError: If there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"there is no chat format {name!r}", remedy=f"Use one of {', '.join(FORMATS)}.")
    return resources.files("explllm.conversation").joinpath("templates", f"{name}.jinja").read_text(encoding="utf-8")
