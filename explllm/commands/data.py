"""What ``explllm data`` does and says."""

import sys
from argparse import ArgumentParser
from pathlib import Path

from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.manifest import SUFFIXES
from explllm.data.readers.registry import READERS, Reading, read_data_set


def read_data(arguments: list[str], parser_class: type[ArgumentParser] = ArgumentParser) -> None:
    """Read a data set as its publisher ships it and write its manifest.

    Args:
        arguments: The command line after ``explllm data``.
        parser_class: The parser to use; its `error` says how a wrong command line is reported.

    Raises:
        InputError: As for `explllm.data.readers.registry.read_data_set`; also if the manifest exists.
    """
    options = vars(_parser(parser_class).parse_args(arguments))
    name, root, out = options.pop("name"), options.pop("root"), Path(options.pop("out"))
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a manifest with the ending {out.suffix!r}", where=out, remedy=f"Use {', '.join(SUFFIXES)}.")
    if out.exists() and not options["overwrite"]:
        raise ConfigError("the manifest exists", where=out, remedy="Name another one, or pass --overwrite.")
    if not Path(root).exists():
        raise MissingPathError("there is no such folder", where=root, remedy="Check ROOT.")
    options["images_there"] = not options.pop("lists_only")
    reading = read_data_set(name, root, out=out.with_name(f"{out.stem}-images"), **options)
    reading.manifest.write(out)
    _tell(reading, out)


def _parser(parser_class: type[ArgumentParser]) -> ArgumentParser:
    parser = parser_class(
        prog="explllm data",
        description="Read a data set as its publisher ships it, and write the manifest that all other commands read. "
        "Nothing is guessed: what cannot be used is named with its file and line.",
        epilog="example: explllm data rafdb RAF-DB/basic -o rafdb.parquet",
    )
    sets = parser.add_subparsers(dest="name", metavar="NAME", required=True, parser_class=parser_class)
    for reader in READERS.values():
        one = sets.add_parser(reader.name, help=reader.summary, description=reader.summary)
        one.add_argument("root", metavar="ROOT", help="the folder as the publisher ships it")
        one.add_argument("-o", "--out", required=True, metavar="FILE", help="the manifest: .parquet, .csv or .jsonl")
        for option, settings in reader.options.items():
            one.add_argument(option, **settings)
        one.add_argument(
            "--max-bad", type=int, default=0, metavar="N", help="bad rows that are named and left out (default: 0)"
        )
        one.add_argument("--check-images", action="store_true", help="decode every image and check its box")
        one.add_argument("--lists-only", action="store_true", help="do not look whether the images are there")
        one.add_argument("--overwrite", action="store_true", help="replace an existing manifest")
    return parser


def _tell(reading: Reading, out: Path) -> None:
    manifest = reading.manifest
    for difference in reading.differences:
        sys.stderr.write(f"warning: {difference}\n")
    for remark, count in reading.remarks.items():
        sys.stderr.write(f"note: {count:,} {remark}\n")
    for split, rows in manifest.frame.groupby("split", sort=False):
        classes = rows["expression"].value_counts().items() if "expression" in rows else ()
        counts = ", ".join(f"{name} {count:,}" for name, count in classes)
        sys.stdout.write(f"{split:9}{len(rows):9,}{f'   {counts}' if counts else ''}\n")
    for reason, count in reading.left_out.items():
        sys.stdout.write(f"left out {count:9,}   {reason}\n")
    if reading.bad:
        sys.stdout.write(f"bad      {len(reading.bad):9,}   named above\n")
    sys.stdout.write(f"wrote    {len(manifest):9,}   {out}\n")
    sys.stdout.write(f"use it by --data ManifestFaces --data.manifest {out} --data.root {manifest.root}\n")
