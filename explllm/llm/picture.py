"""Pictures in a conversation: sent, told apart by their hash, and kept out of everything that is written down."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

# In JSON, a slash may have a backslash before it.
_LETTER = r"(?:[A-Za-z0-9+/=]|\\/)"
_DATA_URL = re.compile(rf"data:image\\?/[\w.+-]{{1,40}};base64,{_LETTER}*")
_LONG_RUN = re.compile(rf"{_LETTER}{{100,}}")
"""Base64 without its URL: no prose has a word of so many letters."""


@dataclass(frozen=True)
class ChatPicture:
    """A picture of a message."""

    sha256: str
    """Hash of the file that is sent, 64 hexadecimal digits: what a ledger keeps of the picture."""
    jpeg: bytes | None = field(default=None, repr=False, compare=False)
    """The file; None in what a ledger gives back."""

    @classmethod
    def of(cls, jpeg: bytes) -> ChatPicture:
        """Take over a JPEG file.

        Args:
            jpeg: The file's content.

        Returns:
            The picture.
        """
        return cls(sha256(jpeg).hexdigest(), jpeg)

    @property
    def url(self) -> str:
        """The picture inside a URL.

        Raises:
            ValueError: It comes from a ledger, which keeps no pictures.
        """
        if self.jpeg is None:
            raise ValueError(f"the picture {self.sha256[:12]} is not here: a ledger keeps its hash alone")
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"

    @property
    def part(self) -> dict[str, Any]:
        """The picture as a part of a message's content, in the words of OpenAI's chat API."""
        return {"type": "image_url", "image_url": {"url": self.url}}


def without_pictures(text: str) -> str:
    """Leave pictures out of a text, which may be JSON: a server may repeat what it was sent, in an error or an answer.

    Args:
        text: Any text.

    Returns:
        The text, with ``[picture]`` for data URLs and for words of 100 or more letters of base64.
    """
    return _LONG_RUN.sub("[picture]", _DATA_URL.sub("[picture]", text))
