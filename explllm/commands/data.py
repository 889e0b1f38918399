"""Read a data set in its publisher's layout and write its manifest, the table of faces that other commands read.

  explllm data rafdb RAF-DB/basic -o rafdb.parquet

No values are guessed: unusable rows are listed with their file and line.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

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
        max_bad: Maximum number of bad rows, which are listed and left out; if there are more, reading stops.
        check_images: Decode every image and check its box.
        lists_only: Do not check that the images exist.
        overwrite: Replace an existing manifest.
        **options: The reader's own options.

    Raises:
        InputError: As for `explllm.data.readers.registry.read_data_set`; also if the manifest exists.
    """
    check_new_manifest(out, overwrite)
    if not root.exists():
        raise MissingPathError("the folder does not exist", where=root, remedy="Check ROOT.")
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
    _print_counts(manifest.frame)
    for reason, count in reading.left_out.items():
        sys.stdout.write(f"left out {count:9,}   {reason}\n")
    if reading.bad:
        sys.stdout.write(f"bad      {len(reading.bad):9,}   listed above\n")
    sys.stdout.write(f"wrote    {len(manifest):9,}   {out}\n")
    sys.stdout.write(f"use it with --data ManifestFaces --data.manifest {out} --data.root {manifest.root}\n")


def _print_counts(frame: pd.DataFrame) -> None:
    """Print the number of faces by split, and by expression if they have one."""
    from rich.console import Console
    from rich.table import Table

    from explllm.core.console import print_table

    if "split" not in frame:
        return
    splits = list(frame["split"].dropna().unique())
    table = Table("expression" if "expression" in frame else "")
    for split in splits:
        table.add_column(str(split), justify="right")
    if "expression" in frame:
        counts = frame.groupby(["expression", "split"]).size().unstack(fill_value=0)
        counts = counts.reindex(columns=splits, fill_value=0)  # a split may have no labels
        for name in counts.sum(axis=1).sort_values(ascending=False, kind="stable").index:
            table.add_row(str(name), *(f"{int(counts.loc[name, split]):,}" for split in splits))
        table.add_section()
    table.add_row("all", *(f"{(frame['split'] == split).sum():,}" for split in splits))
    print_table(Console(highlight=False), table)
