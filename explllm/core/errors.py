"""Errors for mistakes a user can mend: each says what was found, where, and what to do, in one line.

The command line prints ``error: <message>`` and exits with status 2 for any of them; every other exception is a defect
of the program and keeps its traceback.
"""

from __future__ import annotations

from os import PathLike, fspath


class InputError(ValueError):
    """Something the user gave is wrong and can be mended by the user."""

    def __init__(self, found: str, *, where: str | PathLike[str] | None = None, remedy: str) -> None:
        """Build the one-line message ``found [where]. remedy``.

        Args:
            found: What was found, without a final full stop.
            where: The file, field or row it was found in, if there is one.
            remedy: What to do about it, a whole sentence.
        """
        # Exception.args carry all three parts, so that the error survives pickling between worker processes.
        super().__init__(found, where, remedy)
        self.found = _one_line(found)
        self.where = None if where is None else _one_line(fspath(where))
        self.remedy = _one_line(remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild through the keyword-only signature."""
        return _rebuild, (type(self), self.found, self.where, self.remedy)

    def __str__(self) -> str:
        """Return the message on one line."""
        place = "" if self.where is None else f" [{self.where}]"
        return f"{self.found}{place}. {self.remedy}"


class MissingPathError(InputError):
    """A file or folder that was named does not exist."""


class ManifestError(InputError):
    """A manifest lacks a column, or a cell of it cannot be understood."""


class UnknownExpressionError(InputError):
    """A word or number names no facial expression, or none of the label set in use."""


class ImageError(InputError):
    """An image cannot be read or has no usable content."""


class CheckpointError(InputError):
    """A model folder or checkpoint is incomplete or does not fit the model."""


class ConfigError(InputError):
    """A setting is unknown, out of range or contradicts another one."""


class ChainOfThoughtError(InputError):
    """A chain of thought cannot be used as it stands."""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rebuild(kind: type[InputError], found: str, where: str | None, remedy: str) -> InputError:
    return kind(found, where=where, remedy=remedy)
