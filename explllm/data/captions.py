"""Read image-caption pairs in LLaVA's layout, for the first stage."""

import json
from os import PathLike
from pathlib import Path

import pandas as pd

from explllm.core.errors import ManifestError, MissingPathError
from explllm.core.manifest import Manifest


def read_llava_captions(root: str | PathLike[str], listing: str = "chat.json") -> Manifest:
    """Read LLaVA's filtered CC3M (595 K pairs): a JSON list beside its images.

    Args:
        root: The folder; the images lie in it or in its subfolder ``images``.
        listing: The JSON file: a list of ``{"image": ..., "conversations": [{"from": "human", ...}, {"from": "gpt",
            "value": caption}]}``.

    Returns:
        A manifest with the columns image, caption and split (``train``).

    Raises:
        MissingPathError: If folder or file do not exist.
        ManifestError: If an entry has another form; it names the first.
    """
    path = Path(root, listing)
    if not path.is_file():
        raise MissingPathError(
            "there is no such list of captions",
            where=path,
            remedy="Give the folder of LLaVA's CC3M pretraining set, which holds chat.json and images/.",
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"the file is no JSON ({error})", where=path, remedy="Download it again.") from error
    if not isinstance(entries, list) or not entries:
        raise ManifestError(
            "the file holds no list of images with captions", where=path, remedy="See LLaVA's chat.json for the form."
        )
    rows = []
    for number, entry in enumerate(entries):
        try:
            answers = [turn["value"].strip() for turn in entry["conversations"] if turn["from"] == "gpt"]
            caption = next(answer for answer in answers if answer)
            rows.append({"image": entry["image"], "caption": caption, "split": "train"})
        except (KeyError, StopIteration, TypeError, AttributeError) as error:
            raise ManifestError(
                f"entry {number} has no image or no caption", where=path, remedy="See LLaVA's chat.json for the form."
            ) from error
    images = Path(root, "images")
    return Manifest(pd.DataFrame(rows), images if images.is_dir() else root, path)
