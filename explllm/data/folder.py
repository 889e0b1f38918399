"""Read a folder of class folders, with action units beside it where there are any."""

from __future__ import annotations

import csv
from os import PathLike
from pathlib import Path

import pandas as pd

from explllm.core.action_units import NAMES, check_action_units
from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import Expression, LabelSet
from explllm.core.manifest import Manifest

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of the files that count as images, in any case."""
ACTION_UNITS_NAME = "action_units.csv"
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Folder names that mean a split, and the split's name in a manifest."""
_AU_COLUMNS = tuple(f"au{index}" for index in range(len(NAMES)))
_LAYOUT = "Expected images in root/{train,val,test}/<class>/ or root/<class>/, with classes such as happy or anger."


def read_folder(root: str | PathLike[str], *, split: str | None = None, label_set: LabelSet | None = None) -> Manifest:
    """Read a folder of images sorted into class folders.

    The layout is ``root/{train,val,test}/<class>/<image>`` (``valid`` and ``validation`` mean ``val``) or
    ``root/<class>/<image>``. If the root holds ``action_units.csv`` with the columns ``file`` (path below the root) and
    ``au0`` to ``au23``, its intensities are taken over; images without a row have none. Hidden files and folders are
    passed over.

    Args:
        root: The folder.
        split: Read this split alone. In a folder without split folders, all images are of this split.
        label_set: The classes that may occur; class folders may then also carry the data set's own numbers.

    Returns:
        The manifest, sorted by path. Without split folders and ``split``, the split is ``train``.

    Raises:
        MissingPathError: If the root, or the folder of the split, does not exist.
        UnknownExpressionError: If a class folder's name is no expression, or none of the label set.
        InputError: If there is no class folder, or one without images.
        ManifestError: If ``action_units.csv`` cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingPathError("there is no such folder", where=root, remedy=f"Check the path. {_LAYOUT}")
    folders = _subfolders(root)
    if not folders:
        raise InputError("no class folders", where=root, remedy=_LAYOUT)
    wanted = None if split is None else SPLIT_FOLDERS.get(split.lower(), split)
    split_folders = [folder for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    if not split_folders:
        rows = _read_classes(root, root, wanted or "train", label_set)
    else:
        _refuse_mixture(folders, split_folders, root)
        parts = [(folder, SPLIT_FOLDERS[folder.name.lower()]) for folder in split_folders]
        chosen = [(folder, name) for folder, name in parts if wanted in (None, name)]
        if not chosen:
            found = ", ".join(folder.name for folder in split_folders)
            raise MissingPathError(f"no folder of the split {split}", where=root, remedy=f"Use one of {found}.")
        rows = [row for folder, name in chosen for row in _read_classes(folder, root, name, label_set)]
    frame = pd.DataFrame(rows).sort_values("image", ignore_index=True)
    table = root / ACTION_UNITS_NAME
    if table.is_file():
        units = _read_action_units(table)
        known = frame["image"].isin(list(units))
        if split is None and not known.any():
            raise ManifestError(
                "no row belongs to an image",
                where=table,
                remedy=f"Write paths below the folder in the column file, such as {frame['image'].iloc[0]}.",
            )
        frame["action_units"] = pd.Series([units.get(image) for image in frame["image"]], dtype=object)
        frame["action_units_source"] = [ACTION_UNITS_NAME if image_known else None for image_known in known]
    return Manifest(frame, root)


def read_unsorted_folder(root: str | PathLike[str]) -> Manifest | None:
    """Read the images of a folder that is not sorted into classes, which shows in images lying in the folder itself.

    Args:
        root: The folder.

    Returns:
        A manifest with the column ``image`` alone, sorted by path: all images in the folder and below it. None if no
        image lies in the folder itself.
    """
    root = Path(root)
    if not root.is_dir() or not _images(root):
        return None
    folders = [root]
    for folder in folders:  # grows on the way
        folders += _subfolders(folder)
    names = sorted(path.relative_to(root).as_posix() for folder in folders for path in _images(folder))
    return Manifest(pd.DataFrame({"image": names}), root)


def _images(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _subfolders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    return sorted(found, key=lambda path: path.name)


def _refuse_mixture(folders: list[Path], split_folders: list[Path], root: Path) -> None:
    """Refuse class folders beside split folders: their images would go missing without a word."""
    for folder in folders:
        if folder not in split_folders and _is_expression(folder.name):
            raise InputError(
                f"a class folder {folder.name} beside the split folder {split_folders[0].name}",
                where=root,
                remedy="Move the class folders into split folders.",
            )


def _is_expression(word: str) -> bool:
    try:
        Expression.parse(word)
    except UnknownExpressionError:
        return False
    return True


def _read_classes(folder: Path, root: Path, split: str, label_set: LabelSet | None) -> list[dict[str, str]]:
    classes = _subfolders(folder)
    if not classes:
        raise InputError("no class folders", where=folder, remedy=_LAYOUT)
    rows = []
    for class_folder in classes:
        expression = _expression(class_folder, label_set)
        images = _images(class_folder)
        if not images:
            raise InputError(
                f"no images in the class folder {class_folder.name}",
                where=class_folder,
                remedy=f"Put images into it ({' '.join(sorted(IMAGE_SUFFIXES))}) or remove it.",
            )
        rows += [
            {"image": path.relative_to(root).as_posix(), "expression": str(expression), "split": split}
            for path in images
        ]
    return rows


def _expression(folder: Path, label_set: LabelSet | None) -> Expression:
    try:
        return Expression.parse(folder.name) if label_set is None else label_set.parse(folder.name)
    except UnknownExpressionError as error:
        raise UnknownExpressionError(
            error.found, where=folder, remedy=f"Rename or remove the class folder. {error.remedy}"
        ) from None


def _read_action_units(path: Path) -> dict[str, list[float]]:
    """Return the intensities by image path below the root."""
    units: dict[str, list[float]] = {}
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        missing = [column for column in ("file", *_AU_COLUMNS) if column not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(
                f"no column {', '.join(missing)}",
                where=path,
                remedy=f"Name the columns file, {_AU_COLUMNS[0]}, ..., {_AU_COLUMNS[-1]}.",
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            image = Path(row["file"]).as_posix()
            if image in units:
                raise ManifestError(f"a second row of {image}", where=where, remedy="Keep one row an image.")
            try:
                units[image] = check_action_units([row[column] for column in _AU_COLUMNS], where)  # type: ignore[misc]
            except InputError as error:
                raise ManifestError(error.found, where=error.where, remedy=error.remedy) from None
    return units
