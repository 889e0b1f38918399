"""Checks of a command's outputs before it does any work, and the name of its run folder."""

import re
from dataclasses import fields
from pathlib import Path

from explllm.core.errors import ConfigError, MissingPathError
from explllm.llm.settings import ChatSettings


def check_ending(out: Path) -> None:
    """Check that the output has the extension of a manifest.

    Raises:
        ConfigError: If it does not.
    """
    # Imported late: the module loads pandas, which --help does not need.
    from explllm.core.manifest import SUFFIXES

    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--out has the extension {out.suffix!r}",
            where=out,
            remedy=f"Use one of the extensions {', '.join(SUFFIXES)}.",
        )


def check_new_manifest(out: Path, overwrite: bool) -> None:
    """Check that the output has the extension of a manifest, and does not exist unless `overwrite`.

    Raises:
        ConfigError: If the extension is wrong, or the manifest exists.
    """
    check_ending(out)
    if out.exists() and not overwrite:
        raise ConfigError("the manifest exists", where=out, remedy="Choose another --out, or pass --overwrite.")


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
