"""Annotations of the command-line options that `explllm.commands.parser` makes from a function's signature."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """Properties of an option beyond its type and docstring, for use in ``Annotated``."""

    name: str | None = None
    """The option's name, if it differs from the parameter's."""
    minimum: float | None = None
    """Smallest value."""
    maximum: float | None = None
    """Largest value."""
    skip: tuple[str, ...] = ()
    """Dataclass fields that are not options, because the function sets them."""
    default: str | None = None
    """Text that describes the default, if that is ``None`` or needs an explanation."""
