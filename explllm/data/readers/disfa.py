"""DISFA: intensities of 8 FACS units, in one file per unit and person, or active units, in a list of frames."""

import json
import re
from collections.abc import Sequence
from typing import Annotated

from explllm.core.action_units import DISFA_8
from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.core.options import Option
from explllm.data.readers.facs import Frames, frame_paths
from explllm.data.readers.folds import VAL_FRACTION, named_parts
from explllm.data.readers.parsing import integer
from explllm.data.readers.published import DISFA
from explllm.data.readers.source import Source

PARTS = named_parts(
    "SN001 SN002 SN009 SN010 SN016 SN026 SN027 SN030 SN032",
    "SN006 SN011 SN012 SN013 SN018 SN021 SN024 SN028 SN031",
    "SN003 SN004 SN005 SN007 SN008 SN017 SN023 SN025 SN029",
)
"""The three parts used in the literature, as listed by ME-GraphAU (Luo et al., IJCAI 2022).

Fold k tests on part k, as in lists named ``DISFA_test1``; ME-GraphAU numbers folds in reverse (fold 1 tests on part 3).
"""
_NONE = 999


def read_disfa(
    source: Source,
    fold: int | None = None,
    val_fraction: float = VAL_FRACTION,
    listing: Annotated[str | None, Option("list")] = None,
    frames: str = "RightVideo{subject}/frame_{frame}.jpg",
    threshold: Annotated[int, Option(minimum=1, maximum=5)] = 2,
) -> None:
    """Read ``ActionUnit_Labels/SN001/SN001_au1.txt`` (lines ``frame,intensity``), or a list of frames.

    DISFA consists of videos. Extract the frames first, and give the pattern of their paths with --frames. By default, a
    unit counts as active at intensity 2 (of 5) or higher, as in the literature. Each line of a list has the form
    ``{"img_path": ..., "AUs": [999, 2, ...]}``, with the numbers of the active units and 999 for the others.

    Args:
        source: The folder.
        fold: Test on part N of the people, 1 to 3; by default, all rows get the split in the list's name, or
            ``train``.
        val_fraction: With --fold, share of the other people to use as ``val``. Unless it is 0, at least one
            person is used.
        listing: Read this list of frames instead of the publisher's files.
        frames: Path of a frame, relative to ROOT, with the fields {subject}, {frame} (from 1) and {frame0} (from 0).
        threshold: Minimum intensity (of 5) that counts as active.

    Raises:
        MissingPathError: If the file of a unit is missing.
    """
    table = Frames(source, "disfa8", PARTS, fold, val_fraction)
    if listing is not None:
        table.add_list(listing, _parse, _person)
    else:
        source.image_remedy = "Describe the image paths with --frames, such as 'img/{subject}/{frame0}.png'."
        labels = source.first("folder of labels", "ActionUnit_Labels")
        for folder in sorted(path for path in labels.iterdir() if re.fullmatch(r"SN\d{3}", path.name)):
            for frame, grades in sorted(_grades(source, folder.name).items()):
                if None in grades.values():
                    continue  # already reported
                with source.row(folder, frame, "frame"):
                    missing = [str(unit) for unit in DISFA_8 if unit not in grades]
                    if missing:
                        raise ManifestError(
                            f"no intensity of AU {', '.join(missing)}", remedy="Unpack the files again."
                        )
                    paths = frame_paths(frames, subject=folder.name, frame=frame, frame0=frame - 1)
                    active = [int((grades[unit] or 0) >= threshold) for unit in DISFA_8]
                    table.add(source.first_image(paths), folder.name, active)
    source.compare(DISFA)


def _grades(source: Source, person: str) -> dict[int, dict[int, int | None]]:
    """Return the intensities by frame and unit; None for an intensity whose line is invalid."""
    grades: dict[int, dict[int, int | None]] = {}
    for unit in DISFA_8:
        path = source.root / "ActionUnit_Labels" / person / f"{person}_au{unit}.txt"
        if not path.is_file():
            raise MissingPathError("missing label file of a unit", where=path, remedy="Unpack the labels again.")
        for line, text in source.lines(path):
            with source.row(path, line):
                frame_text, _, grade = text.partition(",")
                frame = integer(frame_text, "frame number", 1)
                grades.setdefault(frame, {})[unit] = None
                grades[frame][unit] = integer(grade, "intensity", 0, 5)
    return grades


def _parse(text: str) -> tuple[str, Sequence[int]]:
    try:
        entry = json.loads(text)
        image, active = str(entry["img_path"]), {int(unit) for unit in entry["AUs"]}
    except (ValueError, KeyError, TypeError):
        raise ManifestError("invalid line", remedy='Expected the form {"img_path": ..., "AUs": [...]}.') from None
    unknown = active - {_NONE, *DISFA_8}
    if unknown:
        raise InputError(
            f"unknown unit {min(unknown)}", remedy=f"Units are {', '.join(map(str, DISFA_8))}, or {_NONE}."
        )
    return image, [int(unit in active) for unit in DISFA_8]


def _person(image: str) -> str:
    match = re.search(r"SN\d{3}(?!\d)", image)
    if match is None:
        raise InputError(f"no person in the path {image!r}", remedy="DISFA's people are SN001 to SN032.")
    return match[0]
