"""Command-line completion for bash, zsh, fish and other shells, with shtab."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import shtab

from explllm.commands.config_files import shipped_configs
from explllm.commands.parser import command_arguments, summary
from explllm.core.errors import ConfigError


def completion_script(shell: str, table: Mapping[str, tuple[str, str]]) -> str:
    """Return a script that completes commands, subcommands, options, their values, and files.

    Args:
        shell: A shell that shtab supports, such as bash.
        table: `explllm.cli.COMMANDS`.

    Raises:
        ConfigError: If the shell is not supported.
    """
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(f"--print_completion is {shell!r}", remedy=f"Use one of {', '.join(shtab.SUPPORTED_SHELLS)}.")
    parser = argparse.ArgumentParser("explllm")
    commands = parser.add_subparsers()
    for name, (text, target) in table.items():
        command = commands.add_parser(name, help=text.replace("%", "%%"))
        module_name, _, function_name = target.partition(":")
        module = import_module(f"explllm.commands.{module_name}")
        if function_name:
            _add_options(command, getattr(module, function_name))
            continue
        subcommands = command.add_subparsers()
        for subname, function in module.COMMANDS.items():
            help_text = summary(function).replace("%", "%%")
            _add_options(subcommands.add_parser(subname, help=help_text), function)
    return str(shtab.complete(parser, shell))


def _add_options(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add the options of a command, with completion of file and folder names."""
    if getattr(function, "parses_itself", False):
        names = sorted(str(path.relative_to(shipped_configs())) for path in shipped_configs().rglob("*.yaml"))
        parser.add_argument("--config", choices=names)
        parser.add_argument("--ckpt_path", choices=["last", "best"])
        _complete_files(parser.add_argument("--run_dir"))
        return
    for argument in command_arguments(function):
        names = [argument.name] if argument.positional else [f"--{argument.name}"]
        help_text = argument.help.replace("%", "%%")
        if argument.annotation is bool:
            parser.add_argument(*names, action="store_true", help=help_text)
            continue
        settings: dict[str, Any] = {"help": help_text}
        if get_origin(argument.kind) is Literal:
            settings["choices"] = list(map(str, get_args(argument.kind)))
        if argument.positional and get_origin(argument.kind) is list:
            settings["nargs"] = "+"
        action = parser.add_argument(*names, **settings)
        if argument.kind is Path or argument.positional or argument.name in ("model", "detector"):
            _complete_files(action)


def _complete_files(action: argparse.Action) -> None:
    if action.choices is None:
        action.complete = shtab.FILE  # pyrefly: ignore[missing-attribute]
