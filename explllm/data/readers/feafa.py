"""FEAFA and FEAFA+: frames with 24 intensities each, in ``.auw`` files beside the images."""

import os
from collections.abc import Iterator
from pathlib import Path

from explllm.core.action_units import check_action_units
from explllm.core.errors import ManifestError, MissingPathError
from explllm.data.folder import IMAGE_SUFFIXES
from explllm.data.readers.folds import split_by_fold, subject_parts
from explllm.data.readers.published import FEAFA, FEAFA_PLUS
from explllm.data.readers.source import Source


def read_feafa(source: Source, fold: int | None = None, folds: int = 5, seed: int = 0) -> None:
    """Read ``SUBJECT/SEQUENCE/FRAME.jpg`` with ``FRAME.auw`` beside it: 24 numbers from 0 to 1 in FEAFA's order.

    The first folder below the root is the person, in the column ``identity``. The publisher names no splits: people
    are dealt out to folds at random, and no person stands on both sides.

    Args:
        source: The folder.
        fold: The part to test on, from 1; all rows are ``train`` if None.
        folds: How many parts.
        seed: Seeds the dealing.

    Raises:
        MissingPathError: If there is no ``.auw`` file.
    """
    files = list(source.track(_annotations(source.root)))
    if not files:
        raise MissingPathError("no .auw file", where=source.root, remedy="Expected SUBJECT/SEQUENCE/FRAME.auw.")
    people = [file.relative_to(source.root).parts[0] for file in files]
    parts = subject_parts(people, folds, seed) if fold is not None else {}
    for file, person in zip(source.track(files, len(files)), people, strict=True):
        with source.row(file):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                raise ManifestError("the file is no text", remedy="Unpack it again.") from None
            units = check_action_units(text.replace(",", " ").split())  # type: ignore[arg-type]
            source.add(
                _image(source, file),
                split=split_by_fold(person, parts, fold),
                identity=person,
                action_units=units,
                action_units_source="FEAFA's annotators",
            )
    source.compare(FEAFA_PLUS if len(files) > FEAFA.counts["rows"] else FEAFA)


def _annotations(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        if folder != str(root):
            yield from (Path(folder, name) for name in sorted(files) if name.lower().endswith(".auw"))


def _image(source: Source, file: Path) -> str:
    """Return the image beside an annotation, by its path below the root; .jpg where none is to be seen."""
    stem = file.relative_to(source.root).with_suffix("").as_posix()
    return source.beside(stem, (".jpg", *sorted(IMAGE_SUFFIXES - {".jpg"})))
