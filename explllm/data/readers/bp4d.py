"""BP4D: 12 binary FACS units, in one CSV file per person and task, or in a list of frames."""

import re
from collections.abc import Sequence
from typing import Annotated

from explllm.core.action_units import BP4D_12
from explllm.core.errors import InputError, MissingPathError
from explllm.core.options import Option
from explllm.data.readers.facs import Frames, binary, frame_paths
from explllm.data.readers.folds import VAL_FRACTION, named_parts
from explllm.data.readers.parsing import integer
from explllm.data.readers.published import BP4D
from explllm.data.readers.source import Source

PARTS = named_parts(
    "F001 F002 F008 F009 F010 F016 F018 F023 M001 M004 M007 M008 M012 M014",
    "F003 F005 F011 F013 F020 F022 M002 M005 M010 M011 M013 M016 M017 M018",
    "F004 F006 F007 F012 F014 F015 F017 F019 F021 M003 M006 M009 M015",
)
"""The three parts used in the literature, as listed by ME-GraphAU (Luo et al., IJCAI 2022).

Fold k tests on part k, as in lists named ``bp4d_test1``; ME-GraphAU numbers folds in reverse (fold 1 tests on part 3).
"""
_LABELS = ("AUCoding/AU_OCC", "AU_OCC", "AUCoding")
_UNKNOWN = "9"


def read_bp4d(
    source: Source,
    fold: int | None = None,
    val_fraction: float = VAL_FRACTION,
    listing: Annotated[str | None, Option("list")] = None,
    frames: str = "{subject}/{task}/{frame}.jpg",
) -> None:
    """Read ``AUCoding/AU_OCC/F001_T1.csv``, or a list of frames.

    The header of a CSV file numbers its columns: 0 is the frame; the others are FACS units. Frames with a 9 (not coded)
    in one of the 12 units are left out and counted. Each line of a list has the form ``2F23_10/1001.jpg 1 1 0 ...``: a
    path and 12 values, 0 or 1.

    Args:
        source: The folder.
        fold: Test on part N of the people, 1 to 3; by default, all rows get the split in the list's name, or
            ``train``.
        val_fraction: With --fold, share of the other people to use as ``val``. Unless it is 0, at least one
            person is used.
        listing: Read this list of frames instead of the publisher's files.
        frames: Path of a frame, relative to ROOT, with the fields {subject}, {task} and {frame}.

    Raises:
        MissingPathError: If there is no label file.
    """
    table = Frames(source, "bp4d12", PARTS, fold, val_fraction)
    if listing is not None:
        table.add_list(listing, _parse, _person)
        source.compare(BP4D)
        return
    source.image_remedy = "Describe the image paths with --frames, such as 'img/{subject}/{task}/{frame:04d}.jpg'."
    labels = source.first("folder of labels", *_LABELS)
    files = sorted(path for path in labels.iterdir() if re.fullmatch(r"[FM]\d{3}_T\d+\.csv", path.name))
    if not files:
        raise MissingPathError("no label file", where=labels, remedy="Expected files such as F001_T1.csv.")
    for file in files:
        person, task = file.stem.split("_")
        for line, cells in source.table(file, "0", *map(str, BP4D_12)):
            with source.row(file, line):
                values = [cells[str(unit)] for unit in BP4D_12]
                frame = integer(cells["0"], "frame number", 0)
                if _UNKNOWN in values:
                    source.left_out["frames with a unit that was not coded"] += 1
                    continue
                image = source.first_image(frame_paths(frames, subject=person, task=task, frame=frame))
                table.add(image, person, binary(values, len(BP4D_12)))
    source.compare(BP4D)


def _parse(text: str) -> tuple[str, Sequence[int]]:
    image, *values = text.split()
    return image, binary(values, len(BP4D_12))


def _person(image: str) -> str:
    match = re.search(r"(?<![A-Za-z])([FM])(\d{2,3})(?=[_/])", image)
    if match is None:
        raise InputError(f"no person in the path {image!r}", remedy="BP4D's people are F001 to F023 and M001 to M018.")
    return f"{match[1]}{int(match[2]):03d}"
