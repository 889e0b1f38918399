"""What DISFA and BP4D share: a row of FACS units present or absent, lists of frames, and people in published folds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.data.readers.folds import split_by_fold
from explllm.data.readers.parsing import split_of_name
from explllm.data.readers.source import Source


class Frames:
    """Takes frames with their units into a manifest.

    The column ``facs`` holds 0 or 1 for each unit, in the order of the set that ``facs_set`` names: ``disfa8`` is
    `explllm.core.action_units.DISFA_8`, ``bp4d12`` is `BP4D_12`.
    """

    def __init__(self, source: Source, facs_set: str, parts: Mapping[str, int], fold: int | None) -> None:
        """Name the set.

        Args:
            source: What is read.
            facs_set: The name of the set of units.
            parts: Each person's part in the literature's folds.
            fold: The part to test on; all rows are ``train`` if None, or of the split that their list's name tells of.
        """
        self._source, self._set, self._parts, self._fold = source, facs_set, parts, fold

    def add(self, image: str, person: str, active: Sequence[int], split: str | None = None) -> None:
        """Take a frame.

        Args:
            image: The image's path.
            person: Who is shown.
            active: 0 or 1 for each unit.
            split: The split where no fold was chosen.
        """
        split = split_by_fold(person, self._parts, self._fold) if self._fold or not split else split
        self._source.add(image, split=split, identity=person, facs=list(active), facs_set=self._set)

    def add_list(self, listing: str, parse: Callable[[str], tuple[str, Sequence[int]]], name: Callable) -> None:
        """Take the frames of a list, a line each.

        Args:
            listing: The list, a path of its own or below the root.
            parse: Reads a line: the image's path and its units.
            name: Finds the person in the image's path.

        Raises:
            MissingPathError: If there is no such list.
        """
        source = self._source
        path = Path(listing) if Path(listing).is_file() else source.root / listing
        if not path.is_file():
            raise MissingPathError("there is no such list", where=path, remedy="Check --list.")
        split = split_of_name(path.stem)
        if split is None and self._fold is None:
            source.remarks[f"lists whose name ({path.name}) tells no split: their rows are train"] += 1
        for line, text in source.lines(path):
            with source.row(path, line):
                image, active = parse(text)
                self.add(image, name(image), active, split)


def frame_path(pattern: str, **values: str | int) -> str:
    """Return the path of a frame's image.

    Args:
        pattern: The path with the fields in braces, such as ``{subject}/{frame:05d}.jpg``.
        **values: What the fields stand for.

    Returns:
        The path.

    Raises:
        ConfigError: If the pattern has other fields.
    """
    try:
        return pattern.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"the pattern {pattern!r} ({type(error).__name__} {error})", remedy=f"Its fields are {', '.join(values)}."
        ) from None


def check_fold(fold: int | None, parts: Mapping[str, int]) -> None:
    """Refuse a fold that the literature does not have.

    Args:
        fold: The part to test on, or None.
        parts: Each person's part.

    Raises:
        ConfigError: If there is no such part.
    """
    if fold is not None and fold not in parts.values():
        raise ConfigError(f"fold {fold}", remedy=f"Use 1 to {max(parts.values())}.")


def binary(values: Sequence[str], count: int) -> list[int]:
    """Return units that are written as 0 and 1.

    Args:
        values: The words.
        count: How many there must be.

    Returns:
        The numbers.

    Raises:
        InputError: If there are not so many, or one is something else.
    """
    if len(values) != count or not set(values) <= {"0", "1"}:
        raise InputError(f"{' '.join(values)[:60]!r} instead of {count} times 0 or 1", remedy="Mend the line.")
    return [int(value) for value in values]
