"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | PathLike[str]) -> Iterator[Path]:
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
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
    with written_whole(target) as temporary:
        temporary.write_text(json.dumps(held, indent=2) + "\n", encoding="utf-8")
    return held
