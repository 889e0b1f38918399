"""The file of a job's results: each result is appended as a line of JSON, and the next run resumes from these lines.

Only eight bytes per result stay in memory; results are read when they are needed.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from os import PathLike
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from explllm.core.errors import ConfigError

Result = dict[str, Any]
"""The result for one item, serializable as JSON. ``bad`` is the reason if the item is unusable, otherwise None;
``missing`` is True if its file does not exist."""


class Results:
    """The results in a file, read on access."""

    def __init__(self, partial: Path) -> None:
        """Index a file of results; if an item has several results, the last one counts."""
        self._file = partial.open("rb")
        self._offsets = array("q")
        self.bad: set[int] = set()
        """Indices of unusable items."""
        next(_complete_lines(self._file), None)
        offset = self._file.tell()
        for line in _complete_lines(self._file):
            if "index" in line:
                index = line["index"]
                self._offsets.extend([-1] * (index + 1 - len(self._offsets)))
                self._offsets[index] = offset
                (self.bad.discard if line["bad"] is None else self.bad.add)(index)
            offset = self._file.tell()

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self._offsets) - self._offsets.count(-1)

    def __contains__(self, index: int) -> bool:
        """Return whether there is a result for an item."""
        return index < len(self._offsets) and self._offsets[index] >= 0

    def __getitem__(self, index: int) -> Result:
        """Return the result for an item."""
        if index not in self:
            raise KeyError(index)
        self._file.seek(self._offsets[index])
        result: Result = json.loads(self._file.readline())
        return result

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def begin(partial: Path, settings: dict[str, Any]) -> tuple[bytearray, Counter[int]]:
    """Create the file, or check that it belongs to this run.

    Returns:
        Whether each item has a good result, and how often a process died while processing each item.

    Raises:
        ConfigError: If the file belongs to a run with other settings.
    """
    settings = json.loads(json.dumps(settings))  # JSON turns tuples into lists
    done, started = bytearray(), Counter[int]()
    if not partial.is_file() or not partial.stat().st_size:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            append(file, settings)
        return done, started
    with partial.open("r+b") as stream:
        recorded = next(_complete_lines(stream), None)
        if recorded != settings:
            other = sorted(
                key for key in settings if not isinstance(recorded, dict) or recorded.get(key) != settings[key]
            )
            raise ConfigError(
                f"an unfinished run with another {', '.join(other) or 'version of this program'}",
                where=partial,
                remedy="Use the same settings to resume it, or delete this file to start over.",
            )
        end = stream.tell()
        for line in _complete_lines(stream):
            end = stream.tell()
            if "index" not in line:
                started.update(line.get("started", ()))
                for index in line.get("stopped", ()):
                    del started[index]
                continue
            index = line["index"]
            del started[index]
            done.extend(bytes(max(index + 1 - len(done), 0)))
            done[index] = line["bad"] is None  # Unusable items may have been fixed since.
        # Drop a line that was incomplete when the run was killed.
        stream.truncate(end)
    return done, started


def _complete_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the remaining JSON objects, up to an incomplete line."""
    # Iterating over the file would read ahead and disable tell().
    while (line := file.readline()).endswith(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            return


def append(file: IO[str], line: dict[str, Any]) -> None:
    """Append a line of JSON and flush it."""
    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    file.flush()


@contextmanager
def exclusive(out: str | PathLike[str]) -> Iterator[None]:
    """Lock an output file, so that two runs cannot write it at the same time.

    Raises:
        ConfigError: If another run has locked it.
    """
    path = Path(f"{out}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            "another run is writing this manifest", where=out, remedy="Wait for it, or use another output."
        ) from error
    try:
        yield
    finally:
        # Delete the file before releasing it: another run could lock it in between. Windows deletes no open files, so
        # the file remains there.
        with suppress(OSError):
            path.unlink()
        lock.release()


def file_sha256(path: str | PathLike[str]) -> str:
    """Return the SHA-256 of a file, which identifies it when a run resumes."""
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def partial_path(out: str | PathLike[str]) -> Path:
    """Return the path of the partial results of a manifest: ``OUT.partial.jsonl``."""
    return Path(f"{out}.partial.jsonl")
