"""Outputs of commands: checks of paths before any work starts, names of files, and saving interrupted work."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from explllm.commands.parser_errors import one_sentence
from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.files import check_writable
from explllm.llm.settings import ChatSettings


def check_ending(out: Path, endings: Sequence[str] | None = None) -> None:
    """Check that the output has one of the given extensions, by default those of a manifest.

    Raises:
        ConfigError: If it does not.
    """
    # Deferred import: the module imports pandas, which --help does not need.
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
    """Check that no output is the same file as one of the others, even through a link.

    Args:
        option: The option that names the outputs.
        outs: The outputs.
        others: Files that must not be replaced; None is ignored.
        what: What the message calls such a file.

    Raises:
        ConfigError: If an output is one of the other files.
    """
    # Unlike Path.resolve, realpath raises no error for a loop of links.
    resolved = {os.path.realpath(other) for other in others if other is not None}
    if replaced := next((out for out in outs if os.path.realpath(out) in resolved), None):
        raise ConfigError(f"{option} would replace {what}", where=replaced, remedy="Choose another path.")


@contextmanager
def keep_finished(keep: Callable[[], str]) -> Iterator[None]:
    """Keep the finished part of the block's work when Ctrl-C, SIGTERM or an error ends it.

    Args:
        keep: Writes the finished work and returns a sentence about it.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM (`Terminated`), with the sentence as a note.
        ConfigError: After an out-of-memory error, with the sentence.
        Exception: Any other error of the block, with the sentence as a note.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(keep())
        raise
    except Exception as error:
        sentence = keep()
        # PyTorch's error is a RuntimeError; compare its name, because this module does not import PyTorch.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise ConfigError(
                f"out of memory: {one_sentence(error)}. {sentence}"[:-1],
                remedy="Use a smaller --batch_size, a smaller model, or --device cpu.",
            ) from error
        error.add_note(sentence)
        raise


def check_root(root: Path | None) -> None:
    """Check that ``--root`` exists.

    Raises:
        MissingPathError: If it does not.
    """
    if root is not None and not root.is_dir():
        raise MissingPathError("the folder does not exist", where=root, remedy="Check --root.")


def check_no_model_options(chat: ChatSettings, remedy: str) -> None:
    """Reject language model options in a run that does not use a language model.

    Raises:
        ConfigError: If such an option is set.
    """
    for field in fields(chat):
        if getattr(chat, field.name) != field.default:
            raise ConfigError(f"--{field.name} has no effect without a language model", remedy=remedy)


def run_folder(out: Path, run_dir: Path | None) -> Path:
    """Return the folder of a run's ledger and progress: ``run_dir``, or OUT with the suffix ``.run``."""
    return run_dir or out.with_suffix(".run")


def as_file_name(model: str) -> str:
    """Replace characters that are invalid in file names, such as the slashes in Hugging Face hub names."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", model)


def drawing_files(picture: Path, files: Sequence[str]) -> list[Path]:
    """Return the file to draw into for each picture.

    Raises:
        ConfigError: If ``--picture`` is one file for several pictures, does not have an image file's extension, or is
            one of the input pictures.
    """
    if picture.is_dir() or not picture.suffix:
        check_writable(picture / "picture.png")
        numbers: Counter[str] = Counter()
        names: dict[str, None] = {}
        for name in (Path(file).stem for file in files):
            unique = name
            # A picture may already have a name such as a-2.
            while unique in names:
                numbers[name] += 1
                unique = f"{name}-{numbers[name] + 1}"
            names[unique] = None
        drawings = [picture / f"{name}.png" for name in names]
    else:
        check_drawing(picture)
        if len(files) != 1:
            found = f"--picture is one file for {len(files)} images"
            raise ConfigError(found, where=picture, remedy="Pass a folder.")
        drawings = [picture]
        check_writable(picture)
    check_replaces_none("--picture", drawings, files, "an input image")
    return drawings


def check_drawing(picture: Path) -> None:
    """Check that ``--picture`` has the extension of a PNG, JPEG or WebP file.

    Raises:
        ConfigError: If it does not.
    """
    from PIL import Image

    suffix = picture.suffix.lower()
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in ("PNG", "JPEG", "WEBP")}
    if suffix not in writable:
        raise ConfigError(f"--picture has the extension {suffix!r}", where=picture, remedy="Use .png, .jpg or .webp.")
