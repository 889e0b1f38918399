"""DISFA: intensities of 8 FACS units, a file a unit and person, or a list of frames with their active units."""

import json
import re
from collections.abc import Sequence

from explllm.core.action_units import DISFA_8
from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.data.readers.facs import Frames, check_fold, frame_path
from explllm.data.readers.folds import named_parts
from explllm.data.readers.parsing import whole
from explllm.data.readers.published import DISFA
from explllm.data.readers.source import Source

PARTS = named_parts(
    "SN001 SN002 SN009 SN010 SN016 SN026 SN027 SN030 SN032",
    "SN006 SN011 SN012 SN013 SN018 SN021 SN024 SN028 SN031",
    "SN003 SN004 SN005 SN007 SN008 SN017 SN023 SN025 SN029",
)
"""The three parts of the literature, as ME-GraphAU (Luo et al., IJCAI 2022) lists them.

Fold k tests on part k, as in the lists that are named ``DISFA_test1`` and so on; ME-GraphAU numbers the other way
round (its fold 1 tests on part 3).
"""
_NONE = 999


def read_disfa(
    source: Source,
    fold: int | None = None,
    listing: str | None = None,
    frames: str = "RightVideo{subject}/frame_{frame}.jpg",
    threshold: int = 2,
) -> None:
    """Read ``ActionUnit_Labels/SN001/SN001_au1.txt`` (lines ``frame,intensity``), or a list of frames.

    DISFA ships videos: the frames are those that someone cut from them, named by a pattern. A unit is active from
    intensity 2 of 5 on, as in the literature. A line of a list is ``{"img_path": ..., "AUs": [999, 2, ...]}`` with the
    numbers of the active units and 999 for each other.

    Args:
        source: The folder.
        fold: The part to test on, 1 to 3.
        listing: A list to read in place of the folder's own files.
        frames: Where a frame's image lies below the root; {frame} counts as the files do, from 1, {frame0} from 0.
        threshold: The lowest intensity that counts as active.

    Raises:
        MissingPathError: If a unit's file is absent.
    """
    check_fold(fold, PARTS)
    taken = Frames(source, "disfa8", PARTS, fold)
    if listing is not None:
        taken.add_list(listing, _parse, _person)
    else:
        source.image_remedy = "Name the images by --frames, such as 'img/{subject}/{frame0}.png'."
        labels = source.first("folder of labels", "ActionUnit_Labels")
        for folder in sorted(path for path in labels.iterdir() if re.fullmatch(r"SN\d{3}", path.name)):
            for frame, grades in sorted(_grades(source, folder.name).items()):
                if None in grades.values():
                    continue  # reported with its line
                with source.row(folder, frame, "frame"):
                    missing = [str(unit) for unit in DISFA_8 if unit not in grades]
                    if missing:
                        raise ManifestError(
                            f"no intensity of AU {', '.join(missing)}", remedy="Unpack the files again."
                        )
                    image = frame_path(frames, subject=folder.name, frame=frame, frame0=frame - 1)
                    active = [int((grades[unit] or 0) >= threshold) for unit in DISFA_8]
                    taken.add(image, folder.name, active)
    source.compare(DISFA)


def _grades(source: Source, person: str) -> dict[int, dict[int, int | None]]:
    """Return the intensity of each unit by frame; None where the line cannot be read."""
    grades: dict[int, dict[int, int | None]] = {}
    for unit in DISFA_8:
        path = source.root / "ActionUnit_Labels" / person / f"{person}_au{unit}.txt"
        if not path.is_file():
            raise MissingPathError("there is no such file of a unit", where=path, remedy="Unpack the labels again.")
        for line, text in source.lines(path):
            with source.row(path, line):
                frame_text, _, grade = text.partition(",")
                frame = whole(frame_text, "number of a frame", 1)
                grades.setdefault(frame, {})[unit] = None
                grades[frame][unit] = whole(grade, "intensity", 0, 5)
    return grades


def _parse(text: str) -> tuple[str, Sequence[int]]:
    try:
        entry = json.loads(text)
        image, active = str(entry["img_path"]), {int(unit) for unit in entry["AUs"]}
    except (ValueError, KeyError, TypeError):
        raise ManifestError("no frame with its units", remedy='A line is {"img_path": ..., "AUs": [...]}.') from None
    unknown = active - {_NONE, *DISFA_8}
    if unknown:
        raise InputError(f"unit {min(unknown)}", remedy=f"Units are {', '.join(map(str, DISFA_8))}, or {_NONE}.")
    return image, [int(unit in active) for unit in DISFA_8]


def _person(image: str) -> str:
    found = re.search(r"SN\d{3}(?!\d)", image)
    if found is None:
        raise InputError(f"{image!r} names nobody", remedy="DISFA's people are SN001 to SN032.")
    return found[0]
