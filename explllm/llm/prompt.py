"""Prompts: Jinja templates in the ``prompts`` folder of a package."""

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


def render(package: str, name: str, **values: Any) -> str:
    """Render ``prompts/NAME.jinja`` of a package; a variable without a value is an error."""
    return _template(package, name).render(**values).strip()


def prompt_version(package: str, name: str) -> str:
    """Return 12 hexadecimal digits that identify the text of a template."""
    return sha256(_text(package, name).encode()).hexdigest()[:12]


@cache
def _template(package: str, name: str) -> Template:
    return _ENVIRONMENT.from_string(_text(package, name))


def _text(package: str, name: str) -> str:
    return resources.files(package).joinpath("prompts", f"{name}.jinja").read_text(encoding="utf-8")
