"""FER2013 as class folders or CSV files of pixels, with its own labels or the votes of FER+."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from explllm.core.errors import ImageError, InputError, ManifestError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.data.folder import read_folder
from explllm.data.readers.parsing import Cells
from explllm.data.readers.published import FER2013, FER2013_FOLDERS, FERPLUS
from explllm.data.readers.source import Source

SIDE = 48
"""Width and height of the images, in pixels."""
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""The publisher's split names."""
VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
"""FER+'s columns of votes; NF means no face."""
_PLUS_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
_TOGETHER = "Use two files that belong together."
_LISTS = ("fer2013.csv", "icml_face_data.csv")
_KAGGLE_TRAIN = "train.csv"
"""The labeled data of Kaggle's competition. This file has no column Usage: all rows are training images."""


def read_fer2013(source: Source, labels: Literal["fer2013", "ferplus"] = "fer2013") -> None:
    """Read FER2013.

    The CSV file contains pixels, which are written as PNG files. Its public test set becomes the split ``val``, and its
    private test set becomes ``test``; class folders combine both in ``test``. Kaggle's files ``icml_face_data.csv``
    (all rows) and ``train.csv`` (training rows only) are read too. FER+ (``fer2013new.csv``, with one line for each
    line of the CSV file) contains ten people's votes on each face, and the option with the most votes becomes the
    label. Faces with a tie, or with the most votes for unknown or no face, are left out and counted. The votes are kept
    in the column ``votes``.

    Args:
        source: The folder.
        labels: ``fer2013`` for the data set's own labels, ``ferplus`` for those with the most FER+ votes.
    """
    if labels == "ferplus":
        _read_plus(source)
    elif any((source.root / name).is_file() for name in (*_LISTS, _KAGGLE_TRAIN)):
        listing = source.first("list of FER2013", *_LISTS, _KAGGLE_TRAIN)
        columns = ("emotion", "pixels") if listing.name == _KAGGLE_TRAIN else ("emotion", "pixels", "Usage")
        with source.written_images() as (folder, prefix):
            for index, (line, cells) in enumerate(source.table(listing, *columns)):
                with source.row(listing, line):
                    split = _usage(cells) if "Usage" in columns else "train"
                    expression = str(LABEL_SETS["fer2013"].parse(cells["emotion"]))
                    name = f"{split}/{index:05d}.png"
                    _write(cells["pixels"], folder / name)
                    source.add(f"{prefix}/{name}", file=folder / name, expression=expression, split=split)
        source.compare(FER2013)
    else:
        manifest = read_folder(source.root, label_set=LABEL_SETS["fer2013"], guard=source.row)
        source.add_manifest(manifest, source.root)
        source.compare(FER2013_FOLDERS)


def _read_plus(source: Source) -> None:
    votes = source.first("list of FER+", "fer2013new.csv")
    listing = None
    if not all((source.root / folder).is_dir() for folder in _PLUS_FOLDERS.values()):
        listing = source.first("list of FER2013 and no folder FER2013Train, FER2013Valid, FER2013Test", *_LISTS)
    faces = 0
    with nullcontext((source.root, "")) if listing is None else source.written_images() as (folder, prefix):
        for line, cells, own in _pairs(source, votes, listing):
            with source.row(votes, line):
                faces += 1
                split, counts = _usage(cells), _counts(cells)
                if own is not None and own["Usage"] != cells["Usage"]:
                    difference = f"the usage {cells['Usage']} differs from {own['Usage']} in the file of pixels"
                    raise InputError(difference, remedy=_TOGETHER)
                label = _winner(source, counts)
                if label is None:
                    continue
                if own is None:
                    image, file = f"{_PLUS_FOLDERS[cells['Usage']]}/{cells['Image name']}", None
                else:
                    name = f"{split}/{faces - 1:05d}.png"
                    image, file = f"{prefix}/{name}", folder / name
                    _write(own["pixels"], file)
                source.add(image, file=file, expression=str(label), split=split, votes=counts)
    source.compare(FERPLUS, faces=faces)


def _pairs(source: Source, votes: Path, listing: Path | None) -> Iterator[tuple[int, Cells, Cells | None]]:
    """Yield each face's line number and votes, and its row of pixels if the pixels are in a CSV file."""
    plus = source.table(votes, "Usage", "Image name", *VOTES)
    if listing is None:
        yield from ((line, cells, None) for line, cells in plus)
        return
    try:
        # A line missing in one of the files would shift all labels after it; strict=True detects this at the end.
        for (line, cells), (_, own) in zip(plus, source.table(listing, "pixels", "Usage"), strict=True):
            yield line, cells, own
    except InputError:
        raise
    except ValueError:
        raise ManifestError(f"the number of lines differs from {listing.name}", where=votes, remedy=_TOGETHER) from None


def _usage(cells: Cells) -> str:
    usage = cells["Usage"]
    if usage not in USAGES:
        raise InputError(f"unknown usage {usage!r}", remedy=f"Usages are {', '.join(USAGES)}.")
    return USAGES[usage]


def _counts(cells: Cells) -> list[int]:
    try:
        counts = [int(cells[column]) for column in VOTES]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0 or not sum(counts):
        raise InputError("invalid votes", remedy=f"Each of {', '.join(VOTES)} must be a whole number.")
    return counts


def _winner(source: Source, counts: list[int]) -> Expression | None:
    """Return the expression with the most votes, or None (counted as left out) for ties and non-expressions."""
    winners = [name for name, count in zip(VOTES, counts, strict=True) if count == max(counts)]
    if len(winners) > 1:
        source.left_out["faces whose votes tie"] += 1
        return None
    if winners[0] in ("unknown", "NF"):
        source.left_out[f"faces that most call {'unknown' if winners[0] == 'unknown' else 'no face'}"] += 1
        return None
    return Expression.parse(winners[0])


def _write(pixels: str, path: Path) -> None:
    try:
        values = np.array(pixels.split(), dtype=np.uint8)
    except (ValueError, OverflowError):
        raise ImageError("pixels that are not numbers from 0 to 255", remedy="Fix or remove the line.") from None
    if values.size != SIDE * SIDE:
        raise ImageError(f"{values.size} pixels instead of {SIDE * SIDE}", remedy="Fix or remove the line.")
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.reshape(SIDE, SIDE)).save(path)
