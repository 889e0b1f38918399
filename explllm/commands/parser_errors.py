"""Errors of Lightning's parser, reduced to one line that names the setting.

jsonargparse reports every type that it tried, as a multi-line tree. The innermost error is the useful one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from explllm.commands.lightning_help import DATA, MODELS, settings_of
from explllm.commands.parser import suggestion
from explllm.core.errors import ConfigError, InputError

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN_KEY = re.compile(r"(?:Subcommand '\w+' does not accept option|Option) '([^']+)'")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")
_NO_CLASS = re.compile(r"(?:Expected a dot import path string: |.*?Import of |.*?[Uu]nable to import )'?([\w.]+)")
_RESTRICTED = re.compile(r"Not of type \w+: (.*) does not conform to restriction v(.*)")
_GIVEN = re.compile(r"Given value: (.*)")
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}


def input_error(
    error: Exception,
    stage: str,
    arguments: Sequence[str],
    classes: Mapping[str, Sequence[str]],
    options: Sequence[str] = (),
) -> InputError:
    """Return the parser's error on one line.

    Args:
        error: The exception, raised while parsing or while building the objects that the settings describe.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: The command line after the stage's name.
        classes: Known class names by setting, such as those of ``data``.
        options: Known options without dashes, for suggestions.

    Returns:
        The error to raise instead; if a constructor rejected its arguments, the constructor's error.
    """
    for cause in _causes(error):
        if isinstance(cause, InputError):
            return cause
    message, see = str(error), f"See `explllm {stage} --help`."
    if message.startswith("unrecognized arguments:"):
        word = message.removeprefix("unrecognized arguments:").split()[0]
        if not word.startswith("-"):
            return ConfigError(f"unexpected argument {word}", remedy=see)
        word = word.partition("=")[0]
        return ConfigError(
            f"unknown option {word}", remedy=suggestion(word, [f"--{name}" for name in options], 0.7) + see
        )
    if "expected one argument" in message:
        return ConfigError(f"the option {_without_value(arguments)} has no value", remedy="Pass a value.")
    if message.startswith("the following arguments are required:"):
        missing = [word.strip(" ,").rpartition(".")[2] for word in message.partition(":")[2].split()]
        return ConfigError(
            f"no {' and no '.join(sorted(missing, reverse=True))} configured",
            remedy=f"Pass a configuration, such as `explllm {stage} --config demo.yaml`.",
        )
    return _innermost(message, stage, classes, options) or ConfigError(
        one_sentence(list(_causes(error))[-1]), remedy=see
    )


def one_sentence(error: BaseException) -> str:
    """Return an error's message on one line, short and without a final period."""
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__


def _innermost(
    message: str, stage: str, classes: Mapping[str, Sequence[str]], options: Sequence[str]
) -> ConfigError | None:
    """Return the first leaf of the tree of errors as one error; None if the message is not such a tree."""
    keys: list[str] = []
    expected: list[str] = []
    # `--KEY.help CLASS` lists the options of the outermost class only.
    see = f"See `explllm {stage} --help`."
    for line in message.splitlines():
        line = re.sub(r"^[\s-]+", "", line).strip()
        if match := _KEY.match(line):
            keys.append(match[1])
            expected = []
        elif match := _CLASS.match(line):
            if see.endswith("--help`.") and len(keys) == 1:
                see = f"See `explllm {stage} --{keys[0]}.help {match[1].rpartition('.')[2]}`."
        elif match := _UNKNOWN_KEY.match(line):
            hint = suggestion(match[1], [*options, *_settings()], 0.7)
            return ConfigError(f"unknown key {'.'.join([*keys, match[1]])}", remedy=hint + see)
        elif (match := _NO_CLASS.match(line)) and keys:
            known = classes.get(keys[-1].rpartition(".")[2], ())
            return ConfigError(
                f"{'.'.join(keys)}: there is no class {match[1]}",
                remedy=suggestion(match[1], known)
                + (f"Use {', '.join(known)}, or another by its import path." if known else "Pass its import path."),
            )
        elif match := _RESTRICTED.match(line):
            return ConfigError(f"{'.'.join(keys)} is {match[1]}, not a whole number {match[2]}", remedy=see)
        elif match := _EXPECTED.match(line):
            expected.append(match[1])
            if match[2] is not None:
                return _wrong_type(keys, expected, match[2], see)
        elif (match := _GIVEN.match(line)) and expected:
            return _wrong_type(keys, expected, match[1], see)
    if keys and (reason := " ".join(line.split())) and not _KEY.match(reason):
        return ConfigError(f"{'.'.join(keys)}: {reason[:200].rstrip('. ')}", remedy=see)
    return None


def _settings() -> set[str]:
    """Return the names of the settings of our models and data, for suggestions."""
    nested = ("NetworkSettings", "LoraSettings", "OptimizationSettings", "Augment")
    return {setting.name for name in (*MODELS, *DATA, *nested) for setting in settings_of(name)}


def _wrong_type(keys: Sequence[str], expected: Sequence[str], value: str, see: str) -> ConfigError:
    types = " or ".join(dict.fromkeys(map(_type_in_words, expected)))
    return ConfigError(f"{'.'.join(keys)} is {value[:80]!r}, not {types}", remedy=see)


def _type_in_words(name: str) -> str:
    literals = re.search(r"Literal\[(.*)\]", name)
    if literals:
        return f"one of {literals[1]}".replace("'", "")
    plain = re.sub(r"<class '([\w.]+)'>", r"\1", name).rpartition(".")[2].rstrip(".")
    return _WORDS.get(plain, plain)


def _without_value(arguments: Sequence[str]) -> str:
    """Find the first option without a value; the parser names only the group that it belongs to."""
    for option, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if option.startswith("--") and "=" not in option and following.startswith("--"):
            return option
    return "that comes last"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
