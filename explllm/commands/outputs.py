"""Checks of a command's outputs before it does any work, and the name of its run folder."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from explllm.core.errors import ConfigError, MissingPathError, Terminated
from explllm.llm.settings import ChatSettings


def check_ending(out: Path, endings: Sequence[str] | None = None) -> None:
    """Check that the output has one of some extensions, by default those of a manifest.

    Raises:
        ConfigError: If it does not.
    """
    # Imported late: the module loads pandas, which --help does not need.
    from explllm.core.manifest import SUFFIXES

    endings = endings or list(SUFFIXES)
    if out.suffix.lower() not in endings:
        raise ConfigError(
            f"--out has the extension {out.suffix!r}",
            where=out,
            remedy=f"Use {'the extension' if len(endings) == 1 else 'one of the extensions'} {', '.join(endings)}.",
        )


def check_new_manifest(out: Path, overwrite: bool) -> None:
    """Check that the output has the extension of a manifest, and does not exist unless `overwrite`.

    Raises:
        ConfigError: If the extension is wrong, or the manifest exists.
    """
    check_ending(out)
    check_new(out, overwrite, "manifest")


def check_new(out: Path, overwrite: bool, what: str) -> None:
    """Check that the output does not exist unless `overwrite`.

    Raises:
        ConfigError: If it exists.
    """
    if out.exists() and not overwrite:
        raise ConfigError(f"the {what} exists", where=out, remedy="Choose another --out, or pass --overwrite.")


def check_replaces_none(option: str, outs: Iterable[Path], others: Iterable[str | Path | None], what: str) -> None:
    """Check that no output is one of some other files, under whatever name.

    Args:
        option: The option that names the outputs.
        outs: The outputs.
        others: Files that must stay; None is ignored.
        what: Describes such a file.

    Raises:
        ConfigError: If an output is one of the other files.
    """
    # Unlike Path.resolve, realpath raises no error for a loop of links.
    resolved = {os.path.realpath(other) for other in others if other is not None}
    if replaced := next((out for out in outs if os.path.realpath(out) in resolved), None):
        raise ConfigError(f"{option} would replace {what}", where=replaced, remedy="Choose another path.")


@contextmanager
def keep_finished(keep: Callable[[], str]) -> Iterator[None]:
    """Keep the finished part of the block's work when Ctrl-C or SIGTERM interrupts it.

    Args:
        keep: Writes what is finished and returns a sentence about it.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM (`Terminated`), with the sentence as a note.
    """

    def terminate(*_: object) -> None:
        raise Terminated

    # Python allows signal handlers only in the main thread.
    handles = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, terminate) if handles else None
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(keep())
        raise
    finally:
        if handles:
            signal.signal(signal.SIGTERM, previous)


def check_root(root: Path | None) -> None:
    """Check that ``--root`` exists.

    Raises:
        MissingPathError: If it does not.
    """
    if root is not None and not root.is_dir():
        raise MissingPathError("the folder does not exist", where=root, remedy="Check --root.")


def check_no_model_options(chat: ChatSettings, remedy: str) -> None:
    """Check that a run without a language model has no options of one.

    Raises:
        ConfigError: If it has.
    """
    for field in fields(chat):
        if getattr(chat, field.name) != field.default:
            raise ConfigError(f"--{field.name} has no effect without a language model", remedy=remedy)


def run_folder(out: Path, run_dir: Path | None) -> Path:
    """Return the folder of a run's ledger and progress: ``run_dir``, or OUT with the suffix ``.run``."""
    return run_dir or out.with_suffix(".run")


def as_file_name(model: str) -> str:
    """Return a model's name as part of a file name: names of the Hugging Face hub contain slashes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", model)
