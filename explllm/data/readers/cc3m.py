"""CC3M for the first stage: LLaVA's list beside its images, or WebDataset shards."""

import json
import tarfile
from os import PathLike
from pathlib import Path, PurePosixPath

import pandas as pd

from explllm.core.errors import ImageError, InputError, ManifestError, MissingPathError
from explllm.core.manifest import Manifest
from explllm.data.folder import IMAGE_SUFFIXES
from explllm.data.readers.published import CC3M_LLAVA
from explllm.data.readers.source import Source


def read_cc3m(source: Source) -> None:
    """Read image-caption pairs.

    LLaVA's set is ``chat.json`` beside ``images/``. Shards are ``*.tar`` with KEY.jpg and KEY.txt or KEY.json (with the
    key ``caption``) one after the other; they are read as a stream, an image in memory at a time, and the images
    written out.

    Args:
        source: The folder.

    Raises:
        MissingPathError: If there is neither a list nor a shard.
        ManifestError: If a shard is no tar file, or ends too early.
    """
    shards = sorted(source.root.glob("*.tar"))
    if not shards:
        listing = source.first("list of captions and no shard (*.tar)", "chat.json")
        source.add_manifest(read_llava_captions(source.root, listing.name), listing)
        source.compare(CC3M_LLAVA)
        return
    with source.written_images() as (folder, prefix):
        for shard in source.track(shards, len(shards)):
            try:
                _refuse_cut_off(shard)
                with tarfile.open(shard, "r|") as tar:
                    _read_shard(source, tar, shard, folder, prefix)
            except (tarfile.TarError, EOFError) as error:
                raise ManifestError(
                    f"a shard that cannot be read to its end ({error})", where=shard, remedy="Download it again."
                ) from error


def _refuse_cut_off(shard: Path) -> None:
    """Refuse a file without the two empty blocks that end an archive: tarfile takes one cut between files for whole."""
    with shard.open("rb") as stream:
        stream.seek(max(0, shard.stat().st_size - 2 * tarfile.BLOCKSIZE))
        if stream.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")


def _read_shard(source: Source, tar: tarfile.TarFile, shard: Path, folder: Path, prefix: str) -> None:
    key, parts = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        stem = path.with_suffix("").as_posix()
        if stem != key:
            _take(source, shard, key, parts, folder, prefix)
            key, parts = stem, {}
        stream = tar.extractfile(member)
        parts[path.suffix.lower()] = b"" if stream is None else stream.read()
    _take(source, shard, key, parts, folder, prefix)


def _take(source: Source, shard: Path, key: str, parts: dict[str, bytes], folder: Path, prefix: str) -> None:
    if not parts:
        return
    with source.row(f"{shard}, {key}"):
        suffix = next((suffix for suffix in parts if suffix in IMAGE_SUFFIXES), None)
        if suffix is None or not parts[suffix]:
            raise ImageError("no image, or one of 0 bytes", remedy="Download the shard again.")
        caption = _caption(parts)
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise InputError(f"the name {key} leads out of the folder", remedy="Do not use this file.")
        name = f"{shard.stem}/{key}{suffix}"
        path = folder / name
        repeated = path.exists()
        if repeated and path.read_bytes() != parts[suffix]:
            raise ManifestError("another image of the same name stands before it", remedy="Make the shard again.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parts[suffix])
        try:
            source.add(f"{prefix}/{name}", file=path, caption=caption, split="train")
        except InputError:
            # Of a repeated one, the row before it needs the image.
            if not repeated:
                path.unlink()
            raise


def _caption(parts: dict[str, bytes]) -> str:
    try:
        told = parts[".txt"].decode("utf-8") if ".txt" in parts else json.loads(parts[".json"])["caption"]
        caption = told.strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        caption = ""
    if not caption:
        raise ManifestError("no caption", remedy="Each image needs a KEY.txt, or a KEY.json with the key caption.")
    return caption


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
