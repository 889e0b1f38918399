"""What a function's signature says of the command-line options that are made from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """What a type and a docstring cannot say of an option; goes into ``Annotated``."""

    name: str | None = None
    """The option's name, if it is not the parameter's."""
    minimum: float | None = None
    """Smallest value."""
    maximum: float | None = None
    """Largest value."""
    skip: tuple[str, ...] = ()
    """Of a dataclass, the fields that are not options; the function sets them."""
    default: str | None = None
    """The default in words, for ``None`` and for values that say little."""
