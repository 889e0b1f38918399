"""Code shared by the DISFA and BP4D readers: binary FACS units, lists of frames, and published folds."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.data.readers.folds import fold_splits, split_of
from explllm.data.readers.parsing import split_of_name
from explllm.data.readers.source import Source


class Frames:
    """Adds frames and their FACS units to a manifest.

    The column ``facs`` holds 0 or 1 for each unit, in the order of the set that ``facs_set`` names: ``disfa8`` is
    `explllm.core.action_units.DISFA_8`, and ``bp4d12`` is `BP4D_12`.
    """

    def __init__(
        self, source: Source, facs_set: str, parts: Mapping[str, int], fold: int | None, val_fraction: float
    ) -> None:
        """Store the set of units, and assign the data set's people to splits.

        Args:
            source: The folder being read.
            facs_set: Name of the set of units.
            parts: Part of each person in the published folds.
            fold: The part to test on; if None, rows get the split named in the file name of their list, or ``train``.
            val_fraction: Share of the people in the other parts to hold out for validation.

        Raises:
            ConfigError: If there is no such part, or the share is out of range.
        """
        self._source, self._set, self._fold = source, facs_set, fold
        self._splits = fold_splits(parts, fold, val_fraction)

    def add(self, image: str, person: str, active: Sequence[int], split: str | None = None) -> None:
        """Add a frame of a person, with 0 or 1 for each unit; `split` applies if no fold was chosen."""
        split = split_of(person, self._splits) if self._fold is not None else split or "train"
        self._source.add(image, split=split, identity=person, facs=list(active), facs_set=self._set)

    def add_list(self, listing: str, parse: Callable[[str], tuple[str, Sequence[int]]], name: Callable) -> None:
        """Add the frames of a list, one per line.

        Args:
            listing: Path of the list: an existing path, or one relative to the root.
            parse: Parses a line into the image path and its units.
            name: Returns the person shown in an image, from its path.

        Raises:
            MissingPathError: If there is no such list.
        """
        source = self._source
        path = Path(listing) if Path(listing).is_file() else source.root / listing
        if not path.is_file():
            raise MissingPathError("the list does not exist", where=path, remedy="Check --list.")
        split = split_of_name(path.stem)
        if split is None and self._fold is None:
            source.remarks[f"lists without a split in their name ({path.name}): their rows are used as train"] += 1
        for line, text in source.lines(path):
            with source.row(path, line):
                image, active = parse(text)
                self.add(image, name(image), active, split)


def frame_paths(pattern: str, **values: str | int) -> list[str]:
    """Return the possible paths of a frame's image; frame numbers without a format are also padded to 3 to 6 digits.

    Copies of a data set pad frame numbers to different lengths, even within one copy.

    Args:
        pattern: The path with fields in braces, such as ``{subject}/{frame:05d}.jpg``.
        **values: Values of the fields.

    Raises:
        ConfigError: If the pattern is invalid or contains other fields.
    """
    patterns = [re.sub(r"\{(frame0?)\}", rf"{{\1:0{digits}d}}", pattern) for digits in (1, 3, 4, 5, 6)]
    try:
        return list(dict.fromkeys(padded.format(**values) for padded in patterns))
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"invalid --frames {pattern!r} ({type(error).__name__} {error})",
            remedy=f"Use the fields {', '.join(values)}.",
        ) from None


def binary(values: Sequence[str], count: int) -> list[int]:
    """Parse `count` units written as 0 or 1; raise InputError if there are more, fewer or other values."""
    if len(values) != count or not set(values) <= {"0", "1"}:
        raise InputError(f"{' '.join(values)[:60]!r} instead of {count} values 0 or 1", remedy="Fix the line.")
    return [int(value) for value in values]
