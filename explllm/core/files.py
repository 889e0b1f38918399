"""Files and folders that are written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from explllm.core.errors import ConfigError

METRICS_FILE = "metrics.json"
"""The figures of a run, in its folder."""
PREDICTIONS_FILE = "predictions.parquet"
"""What a run said of each face, a manifest in its folder."""


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside the wanted one, and rename it when the block ends without an error.

    Args:
        path: Where the file shall be; missing folders are made.

    Yields:
        The temporary path, with the same suffix.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        yield temporary
        # The content must be on the disk before the name is: a power cut may otherwise leave an empty file.
        with temporary.open("r+b") as stream:  # Windows wants it open for writing
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    finally:
        # A second failure must not hide the first, such as a parent that is no folder.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: str | PathLike[str]) -> None:
    """Make sure, before work is done for it, that a file can be written.

    Args:
        path: Where the file shall be; missing folders are made.

    Raises:
        ConfigError: If a folder is there, or no file can be made.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise ConfigError("a folder, where a file is to be written", where=target, remedy="Name a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"no file can be written: {error.strerror}", where=target, remedy="Name another place, or make room there."
        ) from error


@contextmanager
def atomic_write_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """Give an empty folder, and put it in the place of the wanted one when the block ends without an error.

    Args:
        path: Where the folder shall be; what is there is replaced, so check first that it may be.

    Yields:
        The temporary folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, because a rename works only inside one file system.
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        # One level deeper, because mkdtemp ignores the user's umask and mkdir does not.
        made = temporary / "made"
        made.mkdir()
        yield made
        # Some writers (safetensors) keep their files to the owner; the folder's own mode says who may read.
        for path in made.rglob("*"):
            if path.is_file():
                path.chmod(made.stat().st_mode & 0o666)
        if target.exists():
            # Renamed away first: a folder cannot be replaced in one step, and deleting takes long.
            os.rename(target, temporary / "replaced")
        os.rename(made, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def update_json(path: str | PathLike[str], values: dict[str, Any]) -> dict[str, Any]:
    """Add or replace keys in a JSON file, which is made if it is missing.

    Args:
        path: The file.
        values: What to set.

    Returns:
        All that the file holds now.
    """
    target = Path(path)
    held = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    held |= values
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")
    return held
