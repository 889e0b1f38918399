"""The lists that the authors of ExpLLM released: file name, expression, and for some action units and explanation."""

import json
import re
from pathlib import Path

from explllm.core.action_units import check_action_units
from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.expressions import Expression
from explllm.data.readers.parsing import split_of_name
from explllm.data.readers.published import AFFECTNET_KAGGLE, RAFDB
from explllm.data.readers.source import Source

RELEASED = "released"
"""What the columns of sources say of these action units and explanations."""


def read_released(source: Source, image_dir: str | None = None, split: str | None = None) -> None:
    """Read a JSON list of ``{"file_name", "emo", "au", "description"}``, or a folder of such lists.

    The file's name tells the split; what the authors call ``valid`` is the papers' test set, and becomes ``test``.
    Action units and explanations that a record lacks stay empty.

    Args:
        source: The list, or the folder that holds lists.
        image_dir: The folder that the file names start from; by default the lists' own.
        split: The split of all rows, in place of what the file's name tells.

    Raises:
        MissingPathError: If there is no list, or no such folder of images.
        ManifestError: If a file is no such list, or its name tells no split.
    """
    lists = [source.root] if source.root.is_file() else sorted(source.root.glob("*.json"))
    if not lists:
        raise MissingPathError("no list (*.json)", where=source.root, remedy="Give the list, or the folder it is in.")
    source.images = lists[0].parent if image_dir is None else Path(image_dir)
    if not source.images.is_dir():
        raise MissingPathError("there is no such folder", where=source.images, remedy="Check --image-dir.")
    source.image_remedy = "Name the folder that the file names start from by --image-dir."
    names = []
    for path in lists:
        told = split or {"train": "train", "val": "test", "test": "test"}.get(split_of_name(path.stem) or "")
        if told is None:
            raise ManifestError("a list whose name tells no split", where=path, remedy="Give it by --split.")
        for entry, record in enumerate(source.track(_records(path)), 1):
            with source.row(path, entry, "entry"):
                if not isinstance(record, dict) or not {"file_name", "emo"} <= set(record):
                    raise ManifestError("no file_name or no emo", remedy='An entry is {"file_name": ..., "emo": ...}.')
                units, cot = record.get("au"), str(record.get("description") or "").strip() or None
                source.add(
                    str(record["file_name"]),
                    expression=str(Expression.parse(record["emo"])),
                    split=told,
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
        raise ManifestError(f"the file is no JSON ({error})", where=path, remedy="Download it again.") from error
    if not isinstance(records, list):
        raise ManifestError("the file holds no list", where=path, remedy="Expected a list of records.")
    return records
