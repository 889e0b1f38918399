"""The ``explllm`` command line: a table of commands, each of which imports what it needs only when it runs."""

import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper

from explllm import __version__
from explllm.core.errors import ConfigError, InputError, Terminated

COMMANDS = {
    "fit": ("train a model: explllm fit --config demo.yaml", "stages:fit"),
    "validate": ("evaluate a run on its validation faces", "stages:validate"),
    "test": ("evaluate a run on its test faces; write metrics and a report", "stages:test"),
    "predict": ("recognize expressions in a data set, labeled or not", "stages:predict"),
    "recognize": ("recognize expressions in images, without explanations", "explain:recognize"),
    "explain": ("recognize and explain expressions in images", "explain:explain"),
    "watch": ("recognize expressions in a video or camera stream over time", "watch:watch"),
    "app": ("open a web page that explains faces", "app:app"),
    "serve": ("serve a model with an OpenAI-compatible HTTP API", "serve:serve"),
    "data": ("read a published data set and write its manifest", "data"),
    "faces": ("detect the faces in a manifest's images", "faces:faces"),
    "aus": ("estimate the 24 action units of a manifest's faces", "aus:aus"),
    "reliability": ("measure how reliable an estimator's action units are", "reliability:reliability"),
    "cot": ("chains of thought: build, estimate, status, check, show", "cot"),
    "fea": ("instruction data for FEALLM: build", "fea"),
    "baseline": ("evaluate a multimodal model such as GPT-4o on images", "baseline:baseline"),
    "score": ("evaluate chains of thought: grounding, Exp-CoT Score", "score:score"),
    "compare": ("compare tested runs, with significance tests", "compare:compare"),
    "bench": ("compare models on expressions, action units and reasoning", "bench"),
    "describe": ("describe a configuration: weights, steps, memory", "describe:describe"),
    "models": ("list available models; download published weights", "models"),
    "doctor": ("check the installation", "doctor:doctor"),
    "convert": ("convert released weights, or merge LoRA into a model", "convert"),
}
"""Summary and ``module:function`` (in `explllm.commands`) of each command. If only a module is given, its table
``COMMANDS`` holds the subcommands, and its ``DEFAULT``, if defined, is the one that runs when the user names none."""

_HELP = ("-h", "--help")
_COMPLETION = "__print_completion"
"""The option ``--print_completion`` or ``--print-completion``, with every hyphen replaced by an underscore."""

_CLOSED_OUTPUT = 141
"""Exit status after writing to a closed pipe, as if SIGPIPE had killed the program."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command-line arguments without the program name; by default those of the process.

    Returns:
        The exit status: 0; 1 if part of the work failed or a check found a problem; 2 after a user error, which is
        printed on one line; 130 after Ctrl-C; 143 after SIGTERM (0 after both for `serve`); 141 if the output pipe is
        closed, for example by `head`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    _print_any_text()
    try:
        status = _run(words) or 0
        sys.stdout.flush()  # now, because a closed pipe is handled here but not at exit
        return status
    except InputError as error:
        sys.stderr.write(f"{_rank()}error: {error}\n")
        return 2
    except OSError as error:
        finished = "".join(f"{note}\n" for note in getattr(error, "__notes__", []))
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            sys.stderr.write(finished)
            # Otherwise, Python would flush the output to the closed pipe at exit and print another error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _CLOSED_OUTPUT
        # Inaccessible files and full disks are user errors; any other OSError is a bug in the program.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "" if error.filename is None else f" [{error.filename}]"
        remedy = "Check the path, its permissions and its disk."
        sys.stderr.write(f"{_rank()}error: {error.strerror}{where}. {remedy}\n{finished}")
        return 2
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, Terminated)
        word = "terminated." if terminated else "interrupted."
        sys.stderr.write(" ".join([word, *getattr(stop, "__notes__", [])]) + "\n")
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def _open_closed_streams() -> None:
    """Discard output to stdout or stderr if the stream was closed at startup, as in ``explllm models >&-``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # The null device takes the descriptor of the closed stream; otherwise, the next opened file would get it.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _print_any_text() -> None:
    """Print "?" for characters that the output encoding lacks; for example, cp1252 on Windows has no check mark."""
    if isinstance(sys.stdout, TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")


def _run(words: list[str]) -> int | None:
    if not words:
        from explllm.commands.overview import overview

        sys.stdout.write(overview())
        return 0
    name, rest = words[0], words[1:]
    if name.replace("-", "_") == _COMPLETION:
        from explllm.commands.completion import completion_script

        if len(rest) != 1:
            raise ConfigError("--print_completion needs a shell", remedy="Pass a shell, such as bash, zsh or fish.")
        sys.stdout.write(completion_script(rest[0], COMMANDS))
        return 0
    if name in _HELP:
        sys.stdout.write(_help())
        raise SystemExit(0)
    if name == "--version":
        sys.stdout.write(f"explllm {__version__}\n")
        raise SystemExit(0)
    target = COMMANDS[_known(name, COMMANDS, "explllm")][1]
    module_name, _, function_name = target.partition(":")
    module = import_module(f"explllm.commands.{module_name}")
    if function_name:
        return _call(getattr(module, function_name), f"explllm {name}", rest)
    functions: dict[str, Callable[..., int | None]] = module.COMMANDS
    if rest and rest[0] in _HELP:
        sys.stdout.write(_group_help(name, module.__doc__ or "", functions))
        raise SystemExit(0)
    if (default := getattr(module, "DEFAULT", None)) and (not rest or rest[0].startswith("-")):
        rest = [default, *rest]
    if not rest:
        raise ConfigError(
            f"`explllm {name}` needs a subcommand", remedy=f"Use one of {', '.join(functions)}. {_see(name)}"
        )
    known = _known(rest[0], functions, f"explllm {name}")
    return _call(functions[known], f"explllm {name} {known}", rest[1:])


def _call(function: Callable[..., int | None], prog: str, arguments: list[str]) -> int | None:
    """Run a command; if Lightning parses its arguments, pass them on unchanged."""
    if getattr(function, "parses_itself", False):
        return function(arguments)
    # Deferred import: `explllm --help` needs no parser.
    from explllm.commands.parser import run_command

    with _sigterm_like_ctrl_c():
        return run_command(function, prog, arguments, getattr(function, "more", None))


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM: unfinished outputs are deleted and finished work is kept, as after Ctrl-C."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        raise Terminated

    # Python allows signal handlers only in the main thread. A signal that the parent process ignores stays ignored.
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        # None stands for a handler that was not installed by Python, which cannot be restored.
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _known(name: str, table: Collection[str], prog: str) -> str:
    if name in table:
        return name
    from difflib import get_close_matches

    near = get_close_matches(name, table, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown command {name}", remedy=f"{hint}See `{prog} --help`.")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, (text, _) in COMMANDS.items())
    return (
        "usage: explllm COMMAND [options]\n\nRecognize and explain facial expressions.\n\n"
        f"commands:\n{lines}\n\n`explllm COMMAND --help` describes a command.\n"
        "`explllm --version` prints the version.\n"
        "`explllm --print_completion bash` (or zsh, fish) prints a completion script.\n"
    )


def _group_help(name: str, text: str, functions: dict[str, Callable[..., int | None]]) -> str:
    from textwrap import fill

    from explllm.commands.parser import WIDTH, for_terminal, summary

    width = max(map(len, functions))
    lines = (
        fill(f"  {command:{width}}  {summary(function)}", WIDTH, subsequent_indent=" " * (width + 4))
        for command, function in functions.items()
    )
    return (
        f"usage: explllm {name} COMMAND [options]\n\n{for_terminal(text)}\ncommands:\n"
        + "\n".join(lines)
        + f"\n\n`explllm {name} COMMAND --help` describes a command.\n"
    )


def _see(name: str) -> str:
    return f"See `explllm {name} --help`."


def _output_is_closed() -> bool:
    """Return whether the output is a closed pipe; any other broken pipe is a bug in the program."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _rank() -> str:
    """Return a prefix with the rank of the process; empty for rank 0."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "
