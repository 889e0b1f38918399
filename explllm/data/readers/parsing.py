"""Words, numbers, boxes and cells as they stand in the publishers' lists."""

from collections.abc import Iterator, Mapping

import numpy as np

from explllm.core.errors import InputError
from explllm.data.folder import SPLIT_FOLDERS


class Cells(Mapping[str, str]):
    """The cells of one row of a CSV file; one that is absent is an `InputError`."""

    def __init__(self, header: list[str], cells: list[str]) -> None:
        """Take the row."""
        self._header, self._cells = header, cells

    def __getitem__(self, column: str) -> str:
        """Return a cell without white space around it."""
        if column not in self._header:
            raise KeyError(column)
        if len(self._cells) != len(self._header):
            raise InputError(
                f"{len(self._cells)} cells under {len(self._header)} column names", remedy="Mend or remove the line."
            )
        return self._cells[self._header.index(column)].strip()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the column names."""
        return iter(self._header)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._header)


def words(line: str, count: int, form: str) -> list[str]:
    """Split a line at white space.

    Args:
        line: The line.
        count: How many words it must have.
        form: What it must look like, for the message.

    Returns:
        The words.

    Raises:
        InputError: If there are not so many.
    """
    found = line.split()
    if len(found) != count:
        raise InputError(f"the line {line[:80]!r} has another form", remedy=f"A line is: {form}.")
    return found


def number(text: str, what: str) -> float:
    """Return a finite number.

    Args:
        text: The number as it stands in the file.
        what: What it is, for the message.

    Returns:
        The number.

    Raises:
        InputError: If it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{text!r} is no {what}", remedy="Mend or remove the line.")
    return value


def whole(text: str, what: str, least: int, most: int | None = None) -> int:
    """Return a whole number.

    Args:
        text: The number as it stands in the file.
        what: What it is, for the message.
        least: The smallest that it can be.
        most: The largest, if there is one.

    Returns:
        The number.

    Raises:
        InputError: If it is none, or out of range.
    """
    word = text.strip()
    if not word.isdecimal() or int(word) < least or (most is not None and int(word) > most):
        raise InputError(f"{word!r} is no {what}", remedy="Mend or remove the line.")
    return int(word)


def box_of_corners(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Return a box as the manifest holds it.

    Args:
        left: Left edge, pixels from the image's left edge.
        top: Upper edge, pixels from the image's upper edge.
        right: Right edge, pixels.
        bottom: Lower edge, pixels.

    Returns:
        x, y, width and height.

    Raises:
        InputError: If the box has no area.
    """
    if right <= left or bottom <= top:
        raise InputError(
            f"the box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no area", remedy="Mend or remove it."
        )
    return [left, top, right - left, bottom - top]


def split_of_name(name: str) -> str | None:
    """Return the split that a file's or folder's name tells of.

    Args:
        name: A name such as ``rafdb_valid.json`` or ``train_class``.

    Returns:
        ``train``, ``val`` or ``test``; None if the name has no word, or words of several splits.
    """
    letters = "".join(letter if letter.isalpha() else " " for letter in name.lower())
    found = {SPLIT_FOLDERS[word] for word in letters.split() if word in SPLIT_FOLDERS}
    return found.pop() if len(found) == 1 else None
