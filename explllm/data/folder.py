"""Read a folder of class folders, with the action units of its ``action_units.csv`` if there is one."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path

import pandas as pd

from explllm.core.action_units import NAMES, check_action_units
from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError
from explllm.core.expressions import LABEL_SETS, Expression, LabelSet
from explllm.core.manifest import Manifest
from explllm.core.manifest_files import check_csv
from explllm.faces.images import IMAGE_SUFFIXES, walk_images

ACTION_UNITS_NAME = "action_units.csv"
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of split folders, and the corresponding split names in a manifest."""
MIN_ROWS_FOR_ZERO_UNITS = 100
"""Minimum number of rows in ``action_units.csv`` for a unit that stays at zero to count as unmeasured. Among fewer
faces, rare movements such as a jaw thrust may simply not occur."""
ZERO_BELOW = 0.05
"""A unit counts as staying at zero if no row reaches this intensity, because MediaPipe outputs up to 0.03 for units
that it cannot measure."""
_IGNORED = (".", "__")
"""Beginnings of the names of folders that are ignored."""
_AU_COLUMNS = tuple(f"au{index}" for index in range(len(NAMES)))
_LAYOUT = "Expected images in root/{train,val,test}/<class>/ or root/<class>/, with classes such as happy or anger."
_log = logging.getLogger(__name__)


def read_folder(
    root: str | PathLike[str],
    *,
    split: str | None = None,
    label_set: LabelSet | None = None,
    keep_zero_units: bool = False,
    note: Callable[[str], None] = _log.warning,
    guard: Callable[[Path], AbstractContextManager[None]] = lambda path: nullcontext(),
) -> Manifest:
    """Read a folder of images sorted into class folders.

    The layout is ``root/{train,val,test}/<class>/<image>`` (or with other names in `SPLIT_FOLDERS`, such as ``valid``)
    or ``root/<class>/<image>``. Hidden files and folders, and folders whose names begin with ``__``, are ignored.

    Action units are read from ``root/action_units.csv``, with the columns ``file`` (path relative to the root) and
    ``au0`` to ``au23``. Empty cells and ``nan`` mean that a unit was not measured. In a large table, a unit that stays
    at zero is also treated as not measured, because estimators write 0 for units that they do not support.

    Args:
        root: The folder.
        split: Read only this split. Without split folders, all images get this split.
        label_set: The allowed classes. If it is given, class folders may also be named by its class numbers.
        keep_zero_units: Treat units that stay at zero in every row as measured.
        note: Receives remarks on ``action_units.csv``; by default they are logged as warnings.
        guard: Returns the context manager in which a class folder is read; it may suppress errors to skip the folder.

    Returns:
        The manifest, sorted by path. With no split folders and no `split`, all rows are ``train``.

    Raises:
        MissingPathError: If the root, or the folder of the split, does not exist.
        UnknownExpressionError: If the name of a class folder is not an expression, or not in the label set.
        InputError: If there is no class folder, or a class folder has no images or is next to split folders.
        ManifestError: If ``action_units.csv`` is invalid.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingPathError("the folder does not exist", where=root, remedy=f"Check the path. {_LAYOUT}")
    folders = _subfolders(root)
    if not folders:
        raise InputError("no class folders", where=root, remedy=_LAYOUT)
    only = None if split is None else SPLIT_FOLDERS.get(split.lower(), split)
    split_folders = [folder for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    if not split_folders:
        rows = _read_classes(root, root, only or "train", label_set, guard)
    else:
        _refuse_mixture(folders, split_folders, root)
        parts = [(folder, SPLIT_FOLDERS[folder.name.lower()]) for folder in split_folders]
        chosen = [(folder, name) for folder, name in parts if only in (None, name)]
        if not chosen:
            existing = ", ".join(folder.name for folder in split_folders)
            raise MissingPathError(f"no folder of the split {split}", where=root, remedy=f"Use one of {existing}.")
        rows = [row for folder, name in chosen for row in _read_classes(folder, root, name, label_set, guard)]
    frame = pd.DataFrame(rows, columns=["image", "expression", "split"]).sort_values("image", ignore_index=True)
    if len(frame) and (root / ACTION_UNITS_NAME).is_file():
        _add_action_units(frame, root, keep_zero_units, note, partial=split is not None)
    return Manifest(frame, root)


def read_unsorted_folder(root: str | PathLike[str]) -> Manifest | None:
    """Read a folder of images that are not sorted into class folders.

    Returns:
        A manifest of all images in the folder and its subfolders, with only the column ``image``, sorted by path. None
        if the folder does not exist or has no image outside its subfolders, which are then assumed to be class folders.
    """
    root = Path(root)
    if not root.is_dir() or not _images(root):
        return None
    paths = walk_images(root, _IGNORED, _fail)
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return Manifest(pd.DataFrame({"image": names}), root)


def _fail(error: OSError) -> None:
    raise error


def _images(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def _subfolders(folder: Path) -> list[Path]:
    folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(_IGNORED))
    return sorted(folders, key=lambda path: path.name)


def _refuse_mixture(folders: list[Path], split_folders: list[Path], root: Path) -> None:
    """Reject class folders next to split folders, because images in the former would otherwise be ignored."""
    for folder in folders:
        if folder not in split_folders and Expression.parse_or_none(folder.name) is not None:
            raise InputError(
                f"a class folder {folder.name} next to the split folder {split_folders[0].name}",
                where=root,
                remedy="Move the class folders into split folders.",
            )


def has_class_folders(root: Path) -> bool:
    """Return whether a folder has a subfolder named after a split or an expression."""
    return any(
        folder.name.lower() in SPLIT_FOLDERS or Expression.parse_or_none(folder.name) for folder in _subfolders(root)
    )


def _read_classes(
    folder: Path,
    root: Path,
    split: str,
    label_set: LabelSet | None,
    guard: Callable[[Path], AbstractContextManager[None]],
) -> list[dict[str, str]]:
    classes = _subfolders(folder)
    if not classes:
        raise InputError("no class folders", where=folder, remedy=_LAYOUT)
    rows = []
    for class_folder in classes:
        with guard(class_folder):
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
        if label_set is None and folder.name.isdecimal():
            remedy = f"Name the label set that defines the numbers: --label_set, one of {', '.join(LABEL_SETS)}."
        else:
            remedy = f"Rename or remove the class folder. {error.remedy}"
        raise UnknownExpressionError(error.found, where=folder, remedy=remedy) from None


def _add_action_units(
    frame: pd.DataFrame, root: Path, keep_zero_units: bool, note: Callable[[str], None], partial: bool
) -> None:
    """Add the columns of ``action_units.csv`` to a table of images, in place."""
    table = root / ACTION_UNITS_NAME
    units = _read_action_units(table)
    has_units = frame["image"].isin(list(units))
    if not partial and not has_units.any():
        raise ManifestError(
            "no row matches an image in the folder",
            where=table,
            remedy=f"In the column `file`, write paths relative to the folder, such as {frame['image'].iloc[0]}.",
        )
    if unused := [] if partial else sorted({*units} - {*frame["image"]}):
        names = ", ".join(unused[:5]) + (", ..." if len(unused) > 5 else "")
        note(f"{table}: rows without an image in the folder: {len(unused):,} ({names})")
    zero: set[str] = set()
    if not keep_zero_units and len(units) >= MIN_ROWS_FOR_ZERO_UNITS:
        columns = zip(*units.values(), strict=True)
        zero = {
            name
            for name, values in zip(NAMES, columns, strict=True)
            if max((value for value in values if value is not None), default=1) < ZERO_BELOW
        }
    if zero:
        names = ", ".join(name for name in NAMES if name in zero)
        note(f"{table}: below {ZERO_BELOW} in all {len(units):,} rows, treated as not measured: {names}")

    def missing(image: str) -> str | None:
        cells = units.get(image, ())
        return ", ".join(n for n, cell in zip(NAMES, cells, strict=False) if cell is None or n in zero) or None

    frame["action_units"] = pd.Series(
        [[cell or 0.0 for cell in units[image]] if image in units else None for image in frame["image"]], dtype=object
    )
    frame["action_units_missing"] = pd.Series([missing(image) for image in frame["image"]], dtype=object)
    frame["action_units_source"] = [ACTION_UNITS_NAME if known else None for known in has_units]


def _read_action_units(path: Path) -> dict[str, list[float | None]]:
    """Return the intensities by image path (relative to the root), with None for units that were not measured."""
    units: dict[str, list[float | None]] = {}
    try:
        check_csv(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"not a CSV table in UTF-8: {error}", where=path, remedy="Save it as CSV in UTF-8."
        ) from error
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
                raise ManifestError(f"a second row of {image}", where=where, remedy="Keep one row per image.")
            cells = [row[column] for column in _AU_COLUMNS]
            measured = [cell is None or cell.strip().lower() not in ("", "nan") for cell in cells]
            try:
                values = check_action_units(
                    [cell if known else 0.0 for cell, known in zip(cells, measured, strict=True)],
                    where,
                )
            except InputError as error:
                raise ManifestError(error.found, where=error.where, remedy=error.remedy) from None
            units[image] = [value if known else None for value, known in zip(values, measured, strict=True)]
    return units
