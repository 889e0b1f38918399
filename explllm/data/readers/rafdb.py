"""RAF-DB, basic expressions: ``EmoLabel/list_patition_label.txt`` and ``Image/{aligned,original}/``."""

from pathlib import Path
from typing import Literal

from explllm.core.errors import InputError
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
"""Where the list may lie; the publisher spells it without the r."""


def read_rafdb(source: Source, images: Literal["aligned", "original"] = "aligned") -> None:
    """Read RAF-DB's folder ``basic``.

    A line of the list is ``train_00001.jpg 5``; the name's beginning is the split. Original images show more than the
    face: its box is taken from ``Annotation/boundingbox/train_00001_boundingbox.txt`` (x1 y1 x2 y2) where that is.

    Args:
        source: The folder.
        images: The publisher's aligned faces (100 x 100 pixels), or the original images.
    """
    listing = source.first("list of RAF-DB", *LISTS)
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


def _box(path: Path) -> list[float] | None:
    if not path.is_file():
        return None
    try:
        corners = [number(word, "pixel") for word in words(path.read_text(encoding="utf-8"), 4, "x1 y1 x2 y2")]
        return box_of_corners(*corners)
    except InputError as error:
        raise InputError(f"{error.found} in {path}", remedy=error.remedy) from None
