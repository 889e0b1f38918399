"""Commands as plain functions: a function's signature and docstring define its parser.

Parameters before ``*`` are positional arguments; those after it are options. A parameter whose type is a dataclass
represents a group of options, one per field, and the function receives the dataclass. Descriptions come from the
docstrings. A command without an option ``config`` of its own also takes ``--config FILE``, a YAML file of its options.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse, parse_from_object
from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.core.files import read_settings
from explllm.core.options import Option as Option

WIDTH = 80
"""Maximum width of a help text, in columns."""


@dataclass(frozen=True)
class _Argument:
    """One option or positional argument."""

    name: str
    annotation: Any
    default: Any
    help: str
    positional: bool
    option: Option

    @property
    def flag(self) -> str:
        """The argument as the user sees it."""
        return self.metavar if self.positional else f"--{self.name}"

    @property
    def metavar(self) -> str:
        kind = self.kind
        if self.positional:
            return self.name.upper().removesuffix("S") if get_origin(kind) is list else self.name.upper()
        return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")

    @property
    def kind(self) -> Any:
        """The type, without None."""
        if get_origin(self.annotation) in (Union, UnionType):
            return next(kind for kind in get_args(self.annotation) if kind is not NoneType)
        return self.annotation

    def check(self, value: Any) -> None:
        """Reject a number that is out of range."""
        low, high = self.option.minimum, self.option.maximum
        if value is None or ((low is None or value >= low) and (high is None or value <= high)):
            return
        allowed = f"at least {low:g}" if high is None else f"{low or 0:g} to {high:g}"
        raise ConfigError(f"{self.flag} is {value}", remedy=f"Use {allowed}.")

    def expected(self) -> str:
        """Return a description of the accepted values."""
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(map(str, get_args(self.kind)))}"
        return {int: "a whole number", float: "a number"}.get(self.kind, "text")


class _Formatter(DefaultHelpFormatter):
    """Formats help at most `WIDTH` columns wide and wraps the description by paragraph."""

    def __init__(self, prog: str) -> None:
        width = max(40, min(WIDTH, shutil.get_terminal_size().columns) - 2)
        argparse.HelpFormatter.__init__(self, prog, max_help_position=26, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return for_terminal(text, width).rstrip("\n")

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help or ""

    def _format_usage(self, usage: Any, actions: Iterable[Any], groups: Any, prefix: Any) -> str:
        arguments = [action for action in actions if not action.option_strings or action.required]
        words = [self._prog, *(self._usage(action) for action in arguments), "[options]"]
        return textwrap.fill(f"usage: {' '.join(words)}", self._width, subsequent_indent=" " * 7) + "\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # Every flag also has a --no_NAME form; the help omits it, because its main use is to override a --config file.
        if isinstance(action, ActionYesNo):
            return action.option_strings[0]
        return str(super()._format_action_invocation(action))

    def _usage(self, action: argparse.Action) -> str:
        word = str(action.metavar or action.dest)
        more = f" [{word} ...]" if action.nargs == "+" else ""
        return f"{action.option_strings[-1]} {word}" if action.option_strings else f"{word}{more}"


def run_command(
    function: Callable[..., int | None], prog: str, arguments: Sequence[str], more: Callable[..., Any] | None = None
) -> int | None:
    """Parse a command line and call the function.

    Args:
        function: The command. A parameter ``*rest`` receives the options that the function does not define.
        prog: The command as the user types it, such as ``explllm cot build``.
        arguments: The command-line arguments after `prog`.
        more: A function whose parameters, except for the first, are options as well; `function` receives them by name.

    Returns:
        What the function returns.

    Raises:
        InputError: If the user made a mistake.
    """
    listed = command_arguments(function, more)
    parser = _parser(function, prog, listed)
    known = with_underscores(arguments)
    rest: list[str] = []
    signature = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in signature.values()):
        known, rest = _split(known, parser)
    check_words(known)
    if not any(argument.name == "config" for argument in listed):
        _check_config(known)
    try:
        values = parser.parse_args(known)
    except ArgumentError as error:
        raise _input_error(str(error), prog, listed, parser) from error
    for argument in listed:
        argument.check(getattr(values, argument.name))
    own = dict(_values(function, values, skip_first=False))
    positional = [own.pop(name) for name in [*own] if signature[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return function(*positional, *rest, **own, **dict(_values(more, values, skip_first=True) if more else ()))


def command_arguments(function: Callable[..., Any], more: Callable[..., Any] | None = None) -> list[_Argument]:
    """Return the arguments of a command; `more` is as for `run_command` (default: the attribute `function.more`)."""
    more = more or getattr(function, "more", None)
    return [*_arguments(function, skip_first=False), *(_arguments(more, skip_first=True) if more else ())]


def check_words(words: Sequence[str]) -> None:
    """Reject empty values, which parsers would interpret as the default or the working folder.

    Raises:
        ConfigError: If a value is empty.
    """
    for place, word in enumerate(words):
        previous = words[place - 1] if place else ""
        option, equals, value = word.partition("=") if word.startswith("--") else (previous, "=", word)
        if equals and not value:
            found = f"{option} is empty" if option.startswith("-") else "an argument is empty"
            raise ConfigError(found, remedy="Pass a value, or omit it.")


def _check_config(words: Sequence[str]) -> None:
    """Reject ``--config`` files that the parser would misread, such as files with duplicate keys."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--config" and (equals or place + 1 < len(words)):
            read_settings(Path(value if equals else words[place + 1]))


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """Replace hyphens in option names with underscores: ``--max-cost`` becomes ``--max_cost``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = []
    for word in arguments[:end]:
        option, equals, value = word.partition("=")
        words.append(f"--{option[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word)
    return [*words, *arguments[end:]]


def suggestion(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "Did you mean X? " for the closest known word, or an empty string."""
    # The dashes that all options share would make any two short options look similar.
    names = {name.lstrip("-"): name for name in known}
    near = get_close_matches(word.lstrip("-"), list(names), 1, cutoff)
    return f"Did you mean {names[near[0]]}? " if near else ""


def for_terminal(text: str, width: int = WIDTH) -> str:
    """Wrap the paragraphs of a text, except indented ones such as examples; remove docstring markup."""
    paragraphs = re.split(r"\n\s*\n", _plain(text).strip("\n"))
    wrapped = [
        paragraph if paragraph.startswith(" ") else textwrap.fill(" ".join(paragraph.split()), width)
        for paragraph in paragraphs
    ]
    return "\n\n".join(wrapped) + "\n"


def summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a function's docstring, without its final period."""
    return _plain(parse(inspect.getdoc(function) or "").short_description or "").rstrip(".")


def _parser(function: Callable[..., Any], prog: str, arguments: Sequence[_Argument]) -> ArgumentParser:
    documented = parse(inspect.getdoc(function) or "")
    description = f"{documented.short_description or ''}\n\n{documented.long_description or ''}"
    settings: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False, "print_config": None}
    parser = ArgumentParser(prog=prog, description=description, formatter_class=_Formatter, **settings)
    for argument in arguments:
        _add(parser, argument)
    if not any(argument.name == "config" for argument in arguments):
        parser.add_argument("--config", action="config", metavar="FILE", help="Read options from this YAML file.")
    return parser


def _add(parser: ArgumentParser, argument: _Argument) -> None:
    option = argument.option
    help_text = argument.help
    if not argument.positional and argument.default is not MISSING:
        silent = argument.default is None or argument.default is False or argument.default == ""
        default = option.default or (None if silent else str(argument.default))
        help_text += f" (default: {default})" if default else ""
    settings: dict[str, Any] = {"help": help_text.replace("%", "%%")}
    if argument.annotation is bool:
        parser.add_argument(f"--{argument.name}", action=ActionYesNo, default=argument.default, **settings)
        return
    if get_origin(argument.kind) is not Literal:
        settings["metavar"] = argument.metavar
    if not argument.positional and get_origin(argument.kind) is list:
        settings |= {"required": True} if argument.default is MISSING else {"default": argument.default}
        parser.add_argument(f"--{argument.name}", nargs="+", type=get_args(argument.kind)[0], **settings)
        return
    if argument.positional:
        if get_origin(argument.kind) is list:
            settings |= {"nargs": "+", "type": get_args(argument.kind)[0]}
        else:
            settings["type"] = argument.annotation
        parser.add_argument(argument.name, **settings)
        return
    settings |= {"required": True} if argument.default is MISSING else {"default": argument.default}
    short = ["-o"] if argument.name == "out" else []
    parser.add_argument(*short, f"--{argument.name}", type=argument.annotation, **settings)


def _parameters(function: Callable[..., Any], skip_first: bool) -> Iterator[tuple[inspect.Parameter, Any, Option]]:
    """Yield each named parameter (an argument, an option or a group of options) with its type and `Option`."""
    hints = get_type_hints(getattr(function, "func", function), include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters[1:] if skip_first else parameters:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            yield parameter, *_unwrapped(hints[parameter.name])


def _unwrapped(annotation: Any) -> tuple[Any, Option]:
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        return kind, next((extra for extra in extras if isinstance(extra, Option)), Option())
    return annotation, Option()


def _arguments(function: Callable[..., Any], skip_first: bool) -> Iterator[_Argument]:
    """Yield the arguments of a function, including the fields of its dataclasses."""
    documented = parse(inspect.getdoc(getattr(function, "func", function)) or "")
    texts = {param.arg_name: param.description or "" for param in documented.params}
    for parameter, kind, option in _parameters(function, skip_first):
        if is_dataclass(kind):
            yield from _fields(kind, option, texts)
            continue
        default = MISSING if parameter.default is parameter.empty else parameter.default
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and not skip_first
        name = option.name or parameter.name
        yield _Argument(name, kind, default, _plain(texts.get(parameter.name, "")), positional, option)


def _fields(cls: Any, group: Option, texts: dict[str, str]) -> Iterator[_Argument]:
    hints = get_type_hints(cls, include_extras=True)
    documented = {param.arg_name: param.description or "" for param in parse_from_object(cls).params}
    for field in fields(cls):
        kind, option = _unwrapped(hints[field.name])
        if field.name not in group.skip:
            text = texts.get(field.name) or documented.get(field.name, "")
            yield _Argument(option.name or field.name, kind, field.default, _plain(text), False, option)


def _values(function: Callable[..., Any], values: Namespace, skip_first: bool) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each parameter of a function."""
    for parameter, kind, option in _parameters(function, skip_first):
        if is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            names = {
                field.name: _unwrapped(hints[field.name])[1].name or field.name
                for field in fields(kind)
                if field.name not in option.skip
            }
            build: Any = kind
            yield parameter.name, build(**{field: getattr(values, name) for field, name in names.items()})
        else:
            yield parameter.name, getattr(values, option.name or parameter.name)


def _split(arguments: Sequence[str], parser: ArgumentParser) -> tuple[list[str], list[str]]:
    """Separate the options that the parser knows from the others, each with its value."""
    own: list[str] = []
    rest: list[str] = []
    target = own
    for word in arguments:
        if word.startswith("-") and not re.fullmatch(r"-[\d.].*", word):
            target = own if word.partition("=")[0] in parser._option_string_actions else rest
        target.append(word)
    return own, rest


def _input_error(message: str, prog: str, arguments: Sequence[_Argument], parser: ArgumentParser) -> InputError:
    """Turn a parser message into an error that names the argument, the value and the remedy."""
    see = f"See `{prog} --help`."
    by_name = {argument.name: argument for argument in arguments}
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        word = match[1].partition("=")[0]
        if word.startswith("-"):
            return ConfigError(f"unknown option {word}", remedy=suggestion(word, options) + see)
        return ConfigError(f"unexpected argument {word}", remedy=see)
    if match := re.match(r"the following arguments are required: (.*)", message):
        missing = [by_name[name].flag for name in match[1].split(", ")]
        return ConfigError(f"no {' and no '.join(missing)} given", remedy=f"Pass {' and '.join(missing)}. {see}")
    if "ignored explicit argument" in message and (match := re.search(r"(--\w+)/--no_\w+", message)):
        return ConfigError(f"{match[1]} takes no value", remedy=f"Write {match[1]} or --no_{match[1][2:]}.")
    if match := re.search(r"File does not exist: '(.*)'", message):
        return MissingPathError("the file does not exist", where=match[1], remedy="Check --config.")
    if match := re.match(r"argument (\S*?(--\w+)|\w+)\S*: expected", message):
        return ConfigError(f"the option {match[2] or match[1]} has no value", remedy="Pass a value.")
    if (match := re.match(r'Parser key "([\w.]+)":', message)) and match[1] in by_name:
        argument = by_name[match[1]]
        value = re.search(r"(?:Got|Given) value: (.*)", message)
        if value:
            return ConfigError(f"{argument.flag} is {value[1]!r}, not {argument.expected()}", remedy=see)
    if match := re.search(r"Option '(\w+)' is not accepted|[Kk]ey '(\w+)'", message):
        word = match[1] or match[2]
        return ConfigError(f"unknown key {word} in --config", remedy=suggestion(word, by_name) + see)
    return ConfigError(" ".join(message.split()).rstrip("."), remedy=see)


def _plain(text: str) -> str:
    """Remove docstring markup from a text for the terminal."""
    return re.sub(r"`~?([^`]+)`", r"\1", text.replace("``", "`"))
