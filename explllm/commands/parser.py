"""The parser of the commands that are not Lightning's."""

import argparse
from typing import NoReturn

from explllm.core.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(message, remedy=f"See `{self.prog} --help`.")


def at_least(least: float, kind: type = int):  # noqa: ANN201  (argparse's own form of a type)
    """Return an argparse type for numbers that are not below a limit.

    Args:
        least: The limit.
        kind: int or float.
    """

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' * (kind is int)}number") from None
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is below {least:g}")
        return value

    return number
