"""Parse words, numbers, boxes and cells of the publishers' lists."""

from collections.abc import Iterator, Mapping

import numpy as np

from explllm.core.errors import InputError
from explllm.data.folder import SPLIT_FOLDERS


class Cells(Mapping[str, str]):
    """The cells of one row of a CSV file; access to a row of the wrong length raises `InputError`."""

    def __init__(self, header: list[str], cells: list[str]) -> None:
        """Store the row."""
        self._header, self._cells = header, cells

    def __getitem__(self, column: str) -> str:
        """Return a cell, stripped of whitespace."""
        if column not in self._header:
            raise KeyError(column)
        if len(self._cells) != len(self._header):
            raise InputError(
                f"{len(self._cells)} cells under {len(self._header)} column names", remedy="Fix or remove the line."
            )
        return self._cells[self._header.index(column)].strip()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the column names."""
        return iter(self._header)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._header)


def words(line: str, count: int, form: str) -> list[str]:
    """Split a line into `count` words, or raise an InputError that shows `form`, an example of a valid line."""
    parts = line.split()
    if len(parts) != count:
        raise InputError(f"invalid line {line[:80]!r}", remedy=f"Expected the form: {form}.")
    return parts


def number(text: str, what: str) -> float:
    """Parse a finite number, or raise an InputError that refers to the text as `what`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{text!r} is not a valid {what}", remedy="Fix or remove the line.")
    return value


def integer(text: str, what: str, minimum: int, maximum: int | None = None) -> int:
    """Parse an integer from `minimum` to `maximum`, or raise an InputError that refers to the text as `what`."""
    word = text.strip()
    if not word.isdecimal() or int(word) < minimum or (maximum is not None and int(word) > maximum):
        raise InputError(f"{word!r} is not a valid {what}", remedy="Fix or remove the line.")
    return int(word)


def box_of_corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Convert the edges of a box, in pixels, to the manifest's x, y, width and height.

    Raises:
        InputError: If the box has no area.
    """
    if right <= left or bottom <= top:
        raise InputError(
            f"the box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no area", remedy="Fix or remove it."
        )
    return [left, top, right - left, bottom - top]


def split_of_name(name: str) -> str | None:
    """Return the split in a name such as ``rafdb_valid.json`` or ``train_class``; None for none or several."""
    letters = "".join(letter if letter.isalpha() else " " for letter in name.lower())
    splits = {SPLIT_FOLDERS[word] for word in letters.split() if word in SPLIT_FOLDERS}
    return splits.pop() if len(splits) == 1 else None
