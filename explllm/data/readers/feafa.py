"""FEAFA and FEAFA+: frames with 24 intensities each, in ``.auw`` files next to the images."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from explllm.core.action_units import check_action_units
from explllm.core.errors import ManifestError, MissingPathError
from explllm.data.readers.folds import VAL_FRACTION, fold_splits, split_of, subject_parts
from explllm.data.readers.published import FEAFA, FEAFA_PLUS
from explllm.data.readers.source import Source
from explllm.faces.images import IMAGE_SUFFIXES

_PARTS = re.compile(r"(feafa|disfa)[-_ ]?a?", re.IGNORECASE)
"""Folders of FEAFA+ that contain subject folders: FEAFA-A, and DISFA-A with re-annotated videos of DISFA."""
_DISFA_PERSON = re.compile(r"SN\d{3}")


def read_feafa(
    source: Source,
    fold: int | None = None,
    val_fraction: float = VAL_FRACTION,
    folds: int = 5,
    seed: int = 0,
) -> None:
    """Read ``SUBJECT/SEQUENCE/FRAME.jpg`` with ``FRAME.auw`` next to it: 24 numbers from 0 to 1 in FEAFA's order.

    In FEAFA+, the subject folders are in ``FEAFA-A/`` and ``DISFA-A/``. The column ``identity`` is the subject; for
    DISFA's videos, it is DISFA's own identifier, such as SN001, which reveals overlaps with a DISFA test set. The
    publisher defines no splits: subjects are assigned to folds at random, and no subject is in two splits.

    Args:
        source: The folder.
        fold: Test on part N of the people, counted from 1; by default, all rows become ``train``.
        val_fraction: With --fold, share of the other people to use as ``val``. Unless it is 0, at least one
            person is used.
        folds: Number of parts that the people are divided into.
        seed: Seed of the parts and of the people in ``val``.

    Raises:
        MissingPathError: If there is no ``.auw`` file.
    """
    files = list(source.track(_annotations(source.root)))
    if not files:
        raise MissingPathError("no .auw file", where=source.root, remedy="Expected SUBJECT/SEQUENCE/FRAME.auw.")
    people = _people([file.relative_to(source.root).parts for file in files])
    parts = dict.fromkeys(people, 1) if fold is None else subject_parts(people, folds, seed)
    splits = fold_splits(parts, fold, val_fraction, seed)
    for file, person in zip(source.track(files, len(files)), people, strict=True):
        with source.row(file):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                raise ManifestError("not a text file", remedy="Unpack it again.") from None
            units = check_action_units(text.replace(",", " ").split())
            source.add(
                _image(source, file),
                split=split_of(person, splits),
                identity=person,
                action_units=units,
                action_units_source="FEAFA's annotators",
            )
    source.compare(FEAFA_PLUS if len(files) > FEAFA.counts["rows"] else FEAFA)


def _people(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the subject of each annotation file, from its path relative to the root."""
    people, sets = [], defaultdict(set)
    for path in paths:
        data_set, folder = path[:2] if _PARTS.fullmatch(path[0]) and len(path) > 2 else ("", path[0])
        disfa = _DISFA_PERSON.search("/".join(path[:-1]))
        person = disfa[0] if disfa else folder
        people.append((data_set, person))
        sets[person].add(data_set)
    # The same folder name in two sets means two different people, unless it is a DISFA subject ID.
    return [
        f"{data_set}/{person}" if len(sets[person]) > 1 and not _DISFA_PERSON.fullmatch(person) else person
        for data_set, person in people
    ]


def _annotations(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        if folder != str(root):
            yield from (Path(folder, name) for name in sorted(files) if name.lower().endswith(".auw"))


def _image(source: Source, file: Path) -> str:
    """Return the path of the image next to an annotation, relative to the root; if no image exists, the .jpg path."""
    stem = file.relative_to(source.root).with_suffix("").as_posix()
    return source.first_image(stem + ending for ending in (".jpg", *sorted(IMAGE_SUFFIXES - {".jpg"})))
