"""Errors the user can fix. Each message states the problem, where it occurred, and the remedy, on one line.

The command line prints ``error: <message>`` and exits with status 2 for each `InputError`. Apart from interruptions,
inaccessible files and full disks, any other exception is a bug in the program and keeps its traceback.
"""

from __future__ import annotations

from os import PathLike, fspath


class InputError(ValueError):
    """Invalid input that the user can correct."""

    def __init__(self, found: str, *, where: str | PathLike[str] | None = None, remedy: str) -> None:
        """Build the one-line message ``found [where]. remedy``.

        Args:
            found: The problem, without a final period.
            where: The file, field or row with the problem, if known.
            remedy: How to fix it, as a full sentence.
        """
        # Exception.args holds all three parts; pickling uses `__reduce__` instead, which passes them by keyword.
        super().__init__(found, where, remedy)
        self.found = _one_line(found)
        self.where = None if where is None else _one_line(fspath(where))
        self.remedy = _one_line(remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling despite the keyword-only arguments."""
        return _rebuild, (type(self), self.found, self.where, self.remedy)

    def __str__(self) -> str:
        """Return the message on one line."""
        location = "" if self.where is None else f" [{self.where}]"
        return f"{self.found}{location}. {self.remedy}"


class MissingPathError(InputError):
    """A file or folder does not exist."""


class ManifestError(InputError):
    """A manifest or another data file lacks a column, contains an invalid cell, or cannot be read or written."""


class UnknownExpressionError(InputError):
    """A word or number does not name an expression, or names one outside the label set."""


class ImageError(InputError):
    """An image cannot be decoded or is unusable."""


class CheckpointError(InputError):
    """A model folder or checkpoint is incomplete or does not match the model."""


class ConfigError(InputError):
    """A setting is unknown or out of range, conflicts with another setting, or cannot be used on this machine."""


class ChainOfThoughtError(InputError):
    """A chain of thought is unusable."""


class Terminated(KeyboardInterrupt):
    """SIGTERM was received by a command that handles it like Ctrl-C."""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rebuild(kind: type[InputError], found: str, where: str | None, remedy: str) -> InputError:
    return kind(found, where=where, remedy=remedy)
