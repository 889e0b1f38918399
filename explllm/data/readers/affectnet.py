"""AffectNet in its three common layouts: arrays next to the images, CSV lists, and Kaggle's subset."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.data.readers.parsing import Cells, number, split_of_name
from explllm.data.readers.published import AFFECTNET, AFFECTNET_KAGGLE
from explllm.data.readers.source import Source
from explllm.faces.images import IMAGE_SUFFIXES

NOT_EXPRESSIONS = {8: "None", 9: "Uncertain", 10: "Non-Face"}
"""Labels that follow the eight expressions (Mollahosseini et al., 2017)."""
_LIST_FOLDERS = ("", "Manually_Annotated_file_lists/")
_IMAGE_FOLDERS = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_AUTOMATIC_LISTS = ("automatically_annotated.csv", "Automatically_annotated_file_list/automatically_annotated.csv")
_AUTOMATIC_IMAGES = ("Automatically_Annotated_Images", "Automatically_Annotated/Automatically_Annotated_Images")
_SET_FOLDERS = {"train_set": "train", "val_set": "test"}
_CLASS_FOLDERS = {"train_class": "train", "val_class": "test"}
_LAYOUTS = (
    "Expected train_set/ and val_set/ with images/ and annotations/; training.csv and validation.csv next to "
    "Manually_Annotated_Images/; or Kaggle's subset: either a CSV file with the columns image and emotion (or pth and "
    "label), or the folders train_class/ and val_class/."
)


def read_affectnet(
    source: Source, classes: Literal[7, 8] = 8, annotations: Literal["manual", "automatic"] = "manual"
) -> None:
    """Read AffectNet; the layout is detected.

    AffectNet's test set was never released, so its validation set becomes the split ``test``, as in all papers. Images
    labeled None, Uncertain or Non-Face are left out and counted.

    Args:
        source: The folder.
        classes: 8 expressions, or 7 without Contempt.
        annotations: Read the manual labels, or those produced by the publisher's network, all as ``train``.

    Raises:
        MissingPathError: If the folder has none of the three layouts, or only automatic annotations were found.
    """
    root = source.root
    published = AFFECTNET
    if annotations == "automatic":
        listing = source.first("list of automatic annotations", *_AUTOMATIC_LISTS)
        images = source.first("folder of images", *_AUTOMATIC_IMAGES).relative_to(root).as_posix()
        _read_list(source, listing, images, "train", classes)
        return
    if any((root / name / "annotations").is_dir() for name in _SET_FOLDERS):
        _read_arrays(source, classes)
    elif any(
        (root / f"{folder}{name}.csv").is_file() for folder in _LIST_FOLDERS for name in ("training", "validation")
    ):
        _read_lists(source, classes)
    elif any((root / name).is_file() for name in _AUTOMATIC_LISTS):
        raise MissingPathError(
            "only AffectNet's automatic annotations, which a network produced",
            where=root,
            remedy="Pass --annotations automatic to read them.",
        )
    elif any(root.glob("*.csv")) or any((root / name).is_dir() for name in _CLASS_FOLDERS):
        _read_kaggle(source, classes)
        published = AFFECTNET_KAGGLE
    else:
        raise MissingPathError("unknown layout of AffectNet", where=root, remedy=_LAYOUTS)
    source.compare(published if classes == 8 else published.without(Expression.CONTEMPT))


def _expression(source: Source, value: str | int, classes: int) -> str | None:
    """Return the name of a label, or None (counted as left out) if it is not one of the classes."""
    word = str(value).strip()
    index = int(word) if word.isdecimal() else None
    if index in NOT_EXPRESSIONS:
        source.left_out[f"images labeled {NOT_EXPRESSIONS[index]}"] += 1
        return None
    expression = LABEL_SETS["affectnet8"].parse(word)
    if classes == 7 and expression is Expression.CONTEMPT:
        source.left_out["images labeled Contempt"] += 1
        return None
    return str(expression)


def _read_arrays(source: Source, classes: int) -> None:
    """Read ``train_set/annotations/ID_exp.npy``: one label per image, as a number or as text."""
    for name, split in _SET_FOLDERS.items():
        folder = source.root / name / "annotations"
        if not folder.is_dir():
            source.remarks[f"sets without a folder {name}"] += 1
            continue
        files = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith("_exp.npy"))
        for file in source.track(sorted(files, key=len), len(files)):
            with source.row(folder / file):
                expression = _expression(source, _array(folder / file), classes)
                if expression is not None:
                    image = f"{name}/images/{file.removesuffix('_exp.npy')}.jpg"
                    source.add(image, expression=expression, split=split)


def _array(path: Path) -> str:
    try:
        value = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ManifestError(f"invalid NumPy array ({error})", remedy="Unpack the file again.") from None
    if value.size != 1:
        raise ManifestError(f"{value.size} values instead of a label", remedy="Unpack the file again.")
    label = value.item()
    return label.decode() if isinstance(label, bytes) else str(label).removesuffix(".0")


def _read_lists(source: Source, classes: int) -> None:
    """Read ``training.csv`` and ``validation.csv`` of the full release."""
    images = source.first("folder of images", *_IMAGE_FOLDERS).relative_to(source.root).as_posix()
    for name, split in (("training", "train"), ("validation", "test")):
        candidates = [source.root / f"{folder}{name}.csv" for folder in _LIST_FOLDERS]
        listing = next((path for path in candidates if path.is_file()), None)
        if listing is None:
            source.remarks[f"sets without a list {name}.csv"] += 1
            continue
        _read_list(source, listing, images, split, classes)


def _read_list(source: Source, listing: Path, images: str, split: str, classes: int) -> None:
    """Read a CSV list of the full release, with boxes."""
    columns = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
    for line, cells in source.table(listing, *columns):
        with source.row(listing, line):
            expression = _expression(source, cells["expression"], classes)
            if expression is not None:
                box = [number(cells[column], column) for column in columns[1:5]]
                if min(box[2:]) <= 0:
                    raise InputError(f"the box {box} has no area", remedy="Fix or remove the line.")
                image = f"{images}/{cells['subDirectory_filePath']}"
                source.add(image, expression=expression, split=split, box=box)


def _read_kaggle(source: Source, classes: int) -> None:
    """Read Kaggle's subsets from their CSV files if there are any, otherwise from their class folders."""
    listings = sorted(source.root.glob("*.csv"))
    if not listings:
        for name, split in _CLASS_FOLDERS.items():
            for path in source.track(sorted((source.root / name).glob("class*/*"))):
                if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                    source.left_out["files in class folders that are not images"] += 1
                    continue
                with source.row(path):
                    _add_kaggle(source, path.relative_to(source.root).as_posix(), None, split, classes)
        return
    for listing in listings:
        listed_split = split_of_name(listing.stem)
        for line, cells in _kaggle_rows(source, listing):
            with source.row(listing, line):
                numbered = "emotion" in cells
                image, label = (cells["image"], cells["emotion"]) if numbered else (cells["pth"], cells["label"])
                # The paths in the published lists start with a folder on their author's machine.
                image = re.sub(r"^.*/(?=(?:train|val)_class/)", "", image).removeprefix("./")
                # Like the class folders, labels in the column emotion start at 1; the publisher's start at 0.
                _add_kaggle(source, image, _from_one(label) if numbered else label, listed_split, classes)


def _kaggle_rows(source: Source, listing: Path) -> Iterator[tuple[int, Cells]]:
    with listing.open(encoding="utf-8-sig", errors="replace") as stream:
        numbered = "emotion" in stream.readline()
    return source.table(listing, *(("image", "emotion") if numbered else ("pth", "label")))


def _from_one(label: str) -> str:
    if not label.isdecimal() or not 1 <= int(label) <= 8:
        raise UnknownExpressionError(
            f"{label!r} is not a class of the subset", remedy="Classes are 1 (Neutral) to 8 (Contempt)."
        )
    return str(int(label) - 1)


def _add_kaggle(source: Source, image: str, label: str | None, split: str | None, classes: int) -> None:
    folders = Path(image).parts[:-1]
    class_folder = re.fullmatch(r"class0*(\d)", folders[-1]) if folders else None
    folder_label = _from_one(class_folder[1]) if class_folder else folders[-1] if folders else ""
    expression = _expression(source, folder_label if label is None else label, classes)
    if expression is None:
        return
    split = (split_of_name(folders[0]) if folders else None) or split
    source.add(image, expression=expression, split="train" if split in ("train", None) else "test")
    source.remarks["rows without a split: used as train"] += split is None
    if label is not None and folder_label and _differs(folder_label, expression):
        source.remarks["rows whose label differs from their class folder: the label of the list is used"] += 1


def _differs(folder_label: str, expression: str) -> bool:
    try:
        return str(LABEL_SETS["affectnet8"].parse(folder_label)) != expression
    except UnknownExpressionError:
        return False
