"""Image-caption pairs for the first stage: LLaVA's lists next to their images, or WebDataset shards."""

import gzip
import json
import tarfile
import zlib
from os import PathLike
from pathlib import Path, PurePosixPath

import pandas as pd

from explllm.core.errors import ImageError, InputError, ManifestError, MissingPathError
from explllm.core.manifest import Manifest
from explllm.data.readers.published import CC3M_LLAVA, LLAVA_PRETRAIN
from explllm.data.readers.source import Source
from explllm.faces.images import IMAGE_SUFFIXES

LISTS = {"chat.json": CC3M_LLAVA, "blip_laion_cc_sbu_558k.json": LLAVA_PRETRAIN}
"""LLaVA's lists of captions: CC3M (595 K pairs, LLaVA) and LAION/CC/SBU (558 K pairs, LLaVA 1.5)."""
_SHARDS = (".tar", ".tar.gz", ".tgz")
_LAYOUT = 'Expected a list of {"image": ..., "conversations": [{"from": "gpt", "value": CAPTION}]}.'


def read_cc3m(source: Source) -> None:
    """Read image-caption pairs.

    LLaVA's sets consist of ``chat.json`` or ``blip_laion_cc_sbu_558k.json`` next to the images or to ``images/``.
    Shards are ``*.tar``, ``*.tar.gz`` or ``*.tgz`` files in which KEY.jpg is adjacent to KEY.txt or KEY.json (with the
    key ``caption``). If there is no list, shards in subfolders are read as well. Shards are read as a stream, with one
    image in memory at a time, and their images are written to a folder.

    Args:
        source: The folder.

    Raises:
        MissingPathError: If the folder has no list and no shard.
        ManifestError: If a shard is not a tar file, or is truncated.
    """
    # Search subfolders for shards only if there is no list, because a list's images may be in many folders.
    listed = any((source.root / name).is_file() for name in LISTS)
    shards = _shards(source.root, "*" if listed else "**/*")
    if not shards:
        listing = source.first("list of captions and no shard (*.tar)", *LISTS)
        source.add_manifest(read_llava_captions(source.root), listing)
        source.compare(LISTS[listing.name])
        return
    with source.written_images() as (folder, prefix):
        for shard in source.track(shards, len(shards)):
            name = shard.relative_to(source.root).as_posix()
            stem = name.removesuffix(next(suffix for suffix in _SHARDS if name.endswith(suffix)))
            try:
                if shard.suffix == ".tar":
                    _check_end(shard)
                    with tarfile.open(shard, "r|") as tar:
                        _read_shard(source, tar, shard, stem, folder, prefix)
                else:
                    # gzip itself detects truncated files.
                    with gzip.open(shard) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                        _read_shard(source, tar, shard, stem, folder, prefix)
                        while stream.read(2**20):
                            pass
            except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise ManifestError(
                    f"the shard is damaged or truncated ({error})", where=shard, remedy="Download it again."
                ) from error


def read_llava_captions(root: str | PathLike[str]) -> Manifest:
    """Read one of LLaVA's lists of captions (`LISTS`).

    Args:
        root: The folder of the list. Its images are in the subfolder ``images`` if that exists, otherwise next to the
            list.

    Returns:
        A manifest with the columns image, caption and split (``train``).

    Raises:
        MissingPathError: If there is no list.
        ManifestError: If the list is invalid; the message names the first invalid entry.
    """
    path = next((Path(root, name) for name in LISTS if Path(root, name).is_file()), None)
    if path is None:
        raise MissingPathError(
            f"no list of captions ({' or '.join(LISTS)})",
            where=root,
            remedy="Use the folder of a LLaVA pretraining set, which contains the list and its images.",
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"invalid JSON ({error})", where=path, remedy="Download it again.") from error
    if not isinstance(entries, list) or not entries:
        raise ManifestError("not a list of images with captions", where=path, remedy=_LAYOUT)
    rows = []
    for number, entry in enumerate(entries):
        try:
            answers = [turn["value"].strip() for turn in entry["conversations"] if turn["from"] == "gpt"]
            caption = next(answer for answer in answers if answer)
            rows.append({"image": entry["image"], "caption": caption, "split": "train"})
        except (KeyError, StopIteration, TypeError, AttributeError) as error:
            raise ManifestError(f"entry {number} has no image or no caption", where=path, remedy=_LAYOUT) from error
    images = Path(root, "images")
    return Manifest(pd.DataFrame(rows), images if images.is_dir() else root, path)


def _shards(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if path.name.endswith(_SHARDS) and path.is_file())


def _check_end(shard: Path) -> None:
    """Check for the two empty blocks that end an archive.

    Without this check, tarfile would accept a file truncated between two members.
    """
    with shard.open("rb") as stream:
        stream.seek(max(0, shard.stat().st_size - 2 * tarfile.BLOCKSIZE))
        if stream.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError("its end is missing")


def _read_shard(source: Source, tar: tarfile.TarFile, shard: Path, stem: str, folder: Path, prefix: str) -> None:
    key, parts = "", dict[str, bytes]()
    for member in tar:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        member_key = path.with_suffix("").as_posix()
        if member_key != key:
            _add_pair(source, shard, stem, key, parts, folder, prefix)
            key, parts = member_key, {}
        stream = tar.extractfile(member)
        parts[path.suffix.lower()] = b"" if stream is None else stream.read()
    _add_pair(source, shard, stem, key, parts, folder, prefix)


def _add_pair(
    source: Source, shard: Path, stem: str, key: str, parts: dict[str, bytes], folder: Path, prefix: str
) -> None:
    """Write the image of one key and add its row."""
    if not parts:
        return
    with source.row(f"{shard}, {key}"):
        suffix = next((suffix for suffix in parts if suffix in IMAGE_SUFFIXES), None)
        if suffix is None or not parts[suffix]:
            raise ImageError("no image, or an empty one", remedy="Download the shard again.")
        caption = _caption(parts)
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise InputError(f"the path {key} leaves the folder", remedy="Do not use this file.")
        name = f"{stem}/{key}{suffix}"
        path = folder / name
        repeated = path.exists()
        if repeated and path.read_bytes() != parts[suffix]:
            raise ManifestError("another image has the same name", remedy="Write the shard again with unique keys.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parts[suffix])
        try:
            source.add(f"{prefix}/{name}", file=path, caption=caption, split="train")
        except InputError:
            # The image of a repeated key belongs to an earlier row.
            if not repeated:
                path.unlink()
            raise


def _caption(parts: dict[str, bytes]) -> str:
    try:
        text = parts[".txt"].decode("utf-8") if ".txt" in parts else json.loads(parts[".json"])["caption"]
        caption = text.strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        caption = ""
    if not caption:
        raise ManifestError("no caption", remedy="Each image needs a KEY.txt, or a KEY.json with the key caption.")
    return caption
