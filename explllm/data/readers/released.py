"""Lists released by ExpLLM's authors: file name, expression, and, for some rows, action units and an explanation."""

import json
import re
from pathlib import Path
from typing import Literal

from explllm.core.action_units import check_action_units
from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.data.readers.parsing import split_of_name
from explllm.data.readers.published import AFFECTNET_KAGGLE, RAFDB
from explllm.data.readers.source import Source

RELEASED = "released"
"""Value of the source columns for these action units and explanations."""


def read_released(
    source: Source, image_dir: str | None = None, split: Literal["train", "val", "test"] | None = None
) -> None:
    """Read a JSON list of ``{"file_name", "emo", "au", "description"}``, or a folder of such lists.

    The name of each list contains its split; the authors' ``valid`` is the papers' test set and becomes ``test``.
    Missing action units and explanations stay empty.

    Args:
        source: The list, or a folder of lists.
        image_dir: Folder that the images' file names are relative to; by default the folder of the lists.
        split: The split of all rows; by default the split in the name of each list.

    Raises:
        MissingPathError: If there is no list, or no such image folder.
        ManifestError: If a file is not such a list, or its name contains no split and `split` is not given.
    """
    lists = [source.root] if source.root.is_file() else sorted(source.root.glob("*.json"))
    if not lists:
        raise MissingPathError("no list (*.json)", where=source.root, remedy="Pass the list, or its folder.")
    source.images = lists[0].parent if image_dir is None else Path(image_dir)
    if not source.images.is_dir():
        raise MissingPathError("the folder does not exist", where=source.images, remedy="Check --image_dir.")
    source.image_remedy = "Pass the folder that file names are relative to as --image_dir."
    names = []
    for path in lists:
        list_split = split or {"train": "train", "val": "test", "test": "test"}.get(split_of_name(path.stem) or "")
        if list_split is None:
            raise ManifestError("no split in the name of the list", where=path, remedy="Pass --split.")
        for entry, record in enumerate(source.track(_records(path)), 1):
            with source.row(path, entry, "entry"):
                if not isinstance(record, dict) or not {"file_name", "emo"} <= set(record):
                    raise ManifestError(
                        "no file_name or no emo", remedy='Expected the form {"file_name": ..., "emo": ...}.'
                    )
                units, cot = record.get("au"), str(record.get("description") or "").strip() or None
                source.add(
                    str(record["file_name"]),
                    expression=str(Expression.parse(record["emo"])),
                    split=list_split,
                    action_units=None if units is None else check_action_units(units),
                    action_units_source=None if units is None else RELEASED,
                    cot=cot,
                    cot_source=None if cot is None else RELEASED,
                )
                names.append(str(record["file_name"]))
    for pattern, published in ((r"(train|test)_\d+_aligned\.jpg", RAFDB), (r"(train|val)_class/.*", AFFECTNET_KAGGLE)):
        if names and all(re.fullmatch(pattern, name) for name in names):
            source.compare(published)


def _records(path: Path) -> list:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"invalid JSON ({error})", where=path, remedy="Download it again.") from error
    if not isinstance(records, list):
        raise ManifestError("not a list of records", where=path, remedy="Expected a JSON list.")
    return records
