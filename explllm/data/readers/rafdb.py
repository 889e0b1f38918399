"""RAF-DB, basic expressions: ``EmoLabel/list_patition_label.txt`` and ``Image/{aligned,original}/``."""

from pathlib import Path
from typing import Literal

from explllm.core.errors import InputError, MissingPathError
from explllm.core.expressions import LABEL_SETS
from explllm.data.readers.parsing import box_of_corners, number, words
from explllm.data.readers.published import RAFDB
from explllm.data.readers.source import Source

LISTS = (
    "EmoLabel/list_patition_label.txt",
    "EmoLabel/list_partition_label.txt",
    "list_patition_label.txt",
    "list_partition_label.txt",
)
"""Paths of the label list; the publisher's spelling is ``patition``."""
COMPOUND_LABELS = frozenset({"8", "9", "10", "11"})
"""Labels that occur only in the compound set, which has 11 classes such as Happily Surprised."""


def read_rafdb(source: Source, images: Literal["aligned", "original"] = "aligned") -> None:
    """Read RAF-DB's folder ``basic``.

    Each line of the list has the form ``train_00001.jpg 5``; the file name begins with the split. Original images show
    more than the face, so the face's box is read from ``Annotation/boundingbox/train_00001_boundingbox.txt`` (x1 y1 x2
    y2) if it exists.

    Args:
        source: The folder.
        images: The publisher's aligned faces (100 x 100 pixels), or the original images with the publisher's boxes.

    Raises:
        MissingPathError: If the label list or the images are missing; the message suggests ``basic`` if that exists.
        InputError: If the folder contains the compound set.
    """
    if not any((source.root / path).is_file() for path in LISTS) and (source.root / "basic").is_dir():
        raise MissingPathError(
            "no label list of RAF-DB", where=source.root, remedy=f"Did you mean {source.root / 'basic'}?"
        )
    listing = source.first("label list of RAF-DB", *LISTS)
    _refuse_compound(source, listing)
    folder = source.first(f"folder of {images} images", f"Image/{images}").relative_to(source.root).as_posix()
    boxes = source.root / "Annotation" / "boundingbox"
    for line, text in source.lines(listing):
        with source.row(listing, line):
            name, label = words(text, 2, "train_00001.jpg 5")
            split, stem = name.partition("_")[0], Path(name).stem
            if split not in ("train", "test"):
                raise InputError(f"{name!r} names no split", remedy="Names start with train_ or test_.")
            expression = str(LABEL_SETS["rafdb"].parse(label))
            if images == "aligned":
                source.add(f"{folder}/{stem}_aligned{Path(name).suffix}", expression=expression, split=split)
            else:
                box = _box(boxes / f"{stem}_boundingbox.txt")
                source.add(f"{folder}/{name}", expression=expression, split=split, box=box)
                source.remarks["original images without a box"] += box is None
    source.compare(RAFDB)


def _refuse_compound(source: Source, listing: Path) -> None:
    """Reject the compound set, whose labels 1 to 7 would otherwise be read as basic expressions."""
    labels = {text.split()[-1] for _, text in source.lines(listing)}
    # A single label out of range is a bad row of the basic set.
    if source.root.name.lower() == "compound" or len(labels & COMPOUND_LABELS) > 1:
        raise InputError(
            "this is RAF-DB's compound set, with 11 classes such as Happily Surprised",
            where=listing,
            remedy="Use the folder `basic`; compound expressions are not supported.",
        )


def _box(path: Path) -> list[float] | None:
    if not path.is_file():
        return None
    try:
        corners = [number(word, "pixel") for word in words(path.read_text(encoding="utf-8"), 4, "x1 y1 x2 y2")]
        return box_of_corners(*corners)
    except InputError as error:
        raise InputError(f"{error.found} in {path}", remedy=error.remedy) from None
