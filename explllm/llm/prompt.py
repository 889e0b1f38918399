"""Prompts: Jinja templates in the package data of whoever asks."""

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


def render(package: str, name: str, **values: Any) -> str:
    """Fill in a prompt.

    Args:
        package: The package that has it in its folder ``prompts``.
        name: The template's name, without the ending.
        **values: What it asks for; a missing value is an error.

    Returns:
        The text to send.
    """
    return _template(package, name).render(**values).strip()


def version(package: str, name: str) -> str:
    """Return 12 hexadecimal digits that change with a prompt: results are told by it."""
    return sha256(_text(package, name).encode()).hexdigest()[:12]


@cache
def _template(package: str, name: str) -> Template:
    return _ENVIRONMENT.from_string(_text(package, name))


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath("prompts", f"{name}.jinja").read_text(encoding="utf-8")
