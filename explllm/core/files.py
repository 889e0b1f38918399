"""Atomic writes: a file or folder appears under its name only once it is complete."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from explllm.core.errors import ConfigError, MissingPathError

_log = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
"""Name of the file with a run's metrics, inside its run folder."""
PREDICTIONS_FILE = "predictions.parquet"
"""Name of the manifest with a run's predictions, inside its run folder."""
PREDICT_FOLDER = "predict"
"""Name of the folder with the results of `explllm predict`, inside its run folder."""


@contextmanager
def atomic_write(path: str | PathLike[str], keep: bool = False) -> Iterator[Path]:
    """Write to a temporary path that replaces ``path`` when the block ends without an error.

    Args:
        path: The target file. Missing parent folders are created.
        keep: If the target cannot be replaced, because another program has it open on Windows, keep the content under
            a new name, which the error message contains.

    Yields:
        A temporary path in the same folder, with the same suffix.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        yield temporary
        # Flush the content to disk before the rename: a power cut could otherwise leave an empty file.
        with temporary.open("r+b") as stream:  # Windows requires a writable handle
            os.fsync(stream.fileno())
        _replace(temporary, target, keep)
    finally:
        # A failed cleanup must not hide the original error.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path, keep: bool) -> None:
    try:
        os.replace(temporary, target)
    except PermissionError as error:
        if not keep:
            raise
        kept = target.with_name(f"{target.stem}.{os.getpid()}{target.suffix}")
        with suppress(OSError):
            os.replace(temporary, kept)
            error.strerror = f"{error.strerror}; the new content is in {kept}"
        # The message names the target instead of the temporary file.
        error.filename, error.filename2 = os.fspath(target), None
        raise


def check_writable(path: str | PathLike[str]) -> None:
    """Check that a file can be written, before the work that produces it starts.

    Args:
        path: The target file. Missing parent folders are created.

    Raises:
        ConfigError: If the path is a folder, or the file cannot be created.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise ConfigError("expected a file, found a folder", where=target, remedy="Name a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ConfigError(
            f"the file cannot be written: {error.strerror}",
            where=target,
            remedy="Choose another path, or free disk space.",
        ) from error


@contextmanager
def atomic_write_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """Provide an empty temporary folder that replaces ``path`` when the block ends without an error.

    Args:
        path: The target folder. An existing folder is deleted, so check first whether there is one.

    Yields:
        The temporary folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling folder, because a rename works only within one file system.
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        # One level deeper, because mkdtemp ignores the user's umask, whereas mkdir respects it.
        content = temporary / "content"
        content.mkdir()
        yield content
        # Some writers (safetensors) make files readable only by their owner. Use the folder's permissions instead.
        for path in content.rglob("*"):
            if path.is_file():
                path.chmod(content.stat().st_mode & 0o666)
        if target.exists():
            # Move the old folder out of the way: replacing a folder is not atomic, and deleting it is slow.
            os.rename(target, temporary / "replaced")
        os.rename(content, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def update_json(path: str | PathLike[str], values: dict[str, Any], replace_prefix: str | None = None) -> dict[str, Any]:
    """Add or replace keys in a JSON file, which is created if it does not exist, and return its full content.

    A damaged file is renamed to NAME.damaged with a warning, because work that took hours may end with this call.

    Args:
        path: The file; it contains a JSON object.
        values: The keys to add or replace.
        replace_prefix: Remove existing keys with this prefix first.
    """
    target = Path(path)
    content = _read_object(target) if target.is_file() else {}
    if replace_prefix is not None:
        content = {name: value for name, value in content.items() if not name.startswith(replace_prefix)}
    content |= values
    with atomic_write(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        reason = f"expected a JSON object, found a {type(content).__name__}"
    except ValueError as error:  # UnicodeDecodeError too
        reason = str(error)
    damaged = path.with_name(f"{path.name}.damaged")
    os.replace(path, damaged)
    _log.warning("%s is damaged (%s). It was renamed to %s, and a new file was started.", path, reason, damaged.name)
    return {}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings; duplicate keys are an error.

    Raises:
        ConfigError: If the file is not valid YAML, or does not contain a mapping.
        MissingPathError: If the file does not exist.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys: list[Any] = []
            for key, _ in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name is not None and name in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name} is given twice", key.start_mark
                    )
                keys.append(name)
            return dict(super().construct_mapping(node, deep))

    if not path.is_file():
        raise MissingPathError("the file does not exist", where=path, remedy="Check --config.")
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(
            f"not valid YAML: {error.problem}", where=f"{path}{line}", remedy="Correct the file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {error}", where=path, remedy="Correct the file.") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            "the file contains no settings",
            where=path,
            remedy="Write them as `name: value`; see the shipped configurations.",
        )
    return settings
