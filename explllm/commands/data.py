"""Read a data set in its publisher's layout and write its manifest, which all other commands read.

  explllm data rafdb RAF-DB/basic -o rafdb.parquet

Nothing is guessed: rows that cannot be used are listed with file and line.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from explllm.commands.outputs import check_new_manifest
from explllm.commands.parser import Option
from explllm.core.errors import MissingPathError
from explllm.data.readers.registry import READERS, Reader, Reading, read_data_set


def read(
    name: str,
    root: Path,
    *,
    out: Path,
    max_bad: Annotated[int, Option(minimum=0)] = 0,
    check_images: bool = False,
    lists_only: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Read a data set in its publisher's layout and write its manifest.

    Args:
        name: The data set.
        root: The folder in the publisher's layout.
        out: The manifest to write (.parquet, .csv, .jsonl).
        max_bad: Bad rows that are listed and left out before reading stops.
        check_images: Decode every image and check its box.
        lists_only: Do not check that the images exist.
        overwrite: Replace an existing manifest.
        **options: The reader's own options.

    Raises:
        InputError: As for `explllm.data.readers.registry.read_data_set`; also if the manifest exists.
    """
    check_new_manifest(out, overwrite)
    if not root.exists():
        raise MissingPathError("there is no such folder", where=root, remedy="Check ROOT.")
    reading = read_data_set(
        name,
        root,
        out=out.with_name(f"{out.stem}-images"),
        overwrite=overwrite,
        max_bad=max_bad,
        check_images=check_images,
        images_exist=not lists_only,
        **options,
    )
    reading.manifest.write(out)
    _print(reading, out)


def _command(reader: Reader) -> Callable[..., int | None]:
    """Return the subcommand of a reader, with the reader's own options."""
    command: Any = partial(read, reader.name)
    command.__doc__, command.more = f"{reader.summary}.", reader.read
    return command


COMMANDS = {name: _command(reader) for name, reader in READERS.items()}


def _print(reading: Reading, out: Path) -> None:
    manifest = reading.manifest
    for difference in reading.differences:
        sys.stderr.write(f"warning: {difference}\n")
    for remark, count in reading.remarks.items():
        sys.stderr.write(f"note: {count:,} {remark}\n")
    splits = manifest.frame.groupby("split", sort=False) if "split" in manifest.frame else ()
    for split, rows in splits:
        classes = rows["expression"].value_counts().items() if "expression" in rows else ()
        counts = ", ".join(f"{name} {count:,}" for name, count in classes)
        sys.stdout.write(f"{split:9}{len(rows):9,}{f'   {counts}' if counts else ''}\n")
    for reason, count in reading.left_out.items():
        sys.stdout.write(f"left out {count:9,}   {reason}\n")
    if reading.bad:
        sys.stdout.write(f"bad      {len(reading.bad):9,}   listed above\n")
    sys.stdout.write(f"wrote    {len(manifest):9,}   {out}\n")
    sys.stdout.write(f"use it with --data ManifestFaces --data.manifest {out} --data.root {manifest.root}\n")
