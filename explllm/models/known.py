"""The model that comes with the package, and published weights that `explllm models get` downloads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import escape, glob
from importlib import resources
from pathlib import Path, PurePosixPath

from explllm.core.downloads import DownloadError, RemoteFile, cache_folder, check_space, download, mirrored
from explllm.core.errors import CheckpointError, MissingPathError
from explllm.core.files import atomic_write

SHIPPED = "pocket"
"""Name of the shipped model."""

RELEASED_REPOSITORY = "starhiking/ExpLLM"
"""The authors' repository on the Hugging Face hub, named in the README of github.com/starhiking/ExpLLM_TMM. Its
checkpoints are folders such as ``ckpts/RAFDB_91.03``."""

# Not included: training_args.bin, which is a pickle, and optimizer states, which are not needed.
_RELEASED_FILES = (
    "config.json",
    "generation_config.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
)

Progress = Callable[[str, int, int], None]
"""A callback that gets a file's name, the number of bytes received so far, and the file's size."""


@dataclass(frozen=True)
class KnownFile:
    """A published file for face detection or action units."""

    name: str
    """The name for `explllm models get`."""
    summary: str
    license: str
    file: RemoteFile
    """The file to download."""
    target: str
    """Path inside the cache folder."""
    member: str | None = None
    """Name of the file to extract, if `file` is a zip archive; otherwise None."""
    member_sha256: str | None = None

    @property
    def path(self) -> Path:
        """The file's path in the cache, whether or not the file has been downloaded."""
        return cache_folder() / self.target


# SHA-256 of the published files. The hash of the landmarker was computed from a copy, and many public projects pin the
# same hash for this URL; the hashes of the archive and its detector are pinned by public projects for the insightface
# release v0.7.
KNOWN_FILES = {
    known.name: known
    for known in (
        KnownFile(
            "scrfd",
            "face detector SCRFD-500M of insightface",
            "non-commercial research",
            RemoteFile(
                "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_sc.zip",
                16_140_916,
                "57d31b56b6ffa911c8a73cfc1707c73cab76efe7f13b675a05223bf42de47c72",
            ),
            "scrfd/det_500m.onnx",
            "det_500m.onnx",
            "5e4447f50245bbd7966bd6c0fa52938c61474a04ec7def48753668a9d8b4ea3a",
        ),
        KnownFile(
            "landmarker",
            "face landmarker of MediaPipe: measures action units",
            "Apache-2.0",
            RemoteFile(
                "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
                "face_landmarker.task",
                3_758_596,
                "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            ),
            "landmarker/face_landmarker.task",
        ),
    )
}


def shipped_model() -> Path:
    """Return the folder of the model that comes with the package.

    Raises:
        MissingPathError: If this installation lacks the model's configuration or weights.
    """
    folder = Path(str(resources.files("explllm"))) / "pretrained" / SHIPPED
    missing = next((name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()), None)
    if missing is not None:
        raise MissingPathError(
            f"this installation of explllm does not include the packaged model: {missing} is missing",
            where=folder,
            remedy="Reinstall the package, or name a model: --model DIR, ExpLLM.from_pretrained(DIR).",
        )
    return folder


def released_models(name: str = "") -> list[Path]:
    """Return the folders in the cache that contain converted released models.

    Args:
        name: Text that the folder names must contain; case is ignored.
    """
    # In a folder that cannot be read, this finds nothing, whereas Path.glob may raise an error.
    folders = sorted(Path(path).parent for path in glob(f"{escape(str(cache_folder() / 'models'))}/*/config.json"))
    return [folder for folder in folders if name.lower() in folder.name.lower()]


def cached(name: str) -> Path | None:
    """Return the path of a downloaded known file, or None if it is missing or the cache cannot be read."""
    path = KNOWN_FILES[name].path
    return path if os.path.isfile(path) else None  # Path.is_file would raise an error if the cache cannot be read


def run_models(runs: Path) -> Iterator[Path]:
    """Yield the folders (RUN/model) of trained ExpLLM and FEALLM models in a folder of runs and its subfolders."""
    for path in sorted(runs.glob("**/model/config.json")):
        try:
            kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        if kind == "explllm":
            yield path.parent


def get_file(name: str, progress: Progress | None = None) -> Path:
    """Download a known file into the cache and check it, unless it is already there.

    Raises:
        DownloadError: If the file cannot be downloaded, or its content is not as expected.
        ConfigError: If there is not enough free disk space.
    """
    known = KNOWN_FILES[name]
    target = known.path
    if target.is_file():
        return target
    check_space(target.parent, 2 * known.file.size)
    source = RemoteFile(mirrored(known.file.url), known.file.size, known.file.sha256)
    archive = target if known.member is None else target.with_name(source.name)
    download(source, archive, progress=_bound(progress, source))
    if known.member is not None:
        _unpack(known, archive)
        archive.unlink()
    return target


def _unpack(known: KnownFile, archive: Path) -> None:
    assert known.member is not None
    with zipfile.ZipFile(archive) as content, atomic_write(known.path) as partial:
        member = next((name for name in content.namelist() if PurePosixPath(name).name == known.member), None)
        if member is None:
            raise DownloadError(
                f"the archive has no {known.member}", where=known.file.url, remedy="Report this: the release changed."
            )
        with content.open(member) as stream, partial.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        with partial.open("rb") as copy:
            checksum = hashlib.file_digest(copy, "sha256").hexdigest()
        if checksum != known.member_sha256:
            raise DownloadError(
                f"{known.member} in the archive has a different checksum: {checksum}, not {known.member_sha256}",
                where=known.file.url,
                remedy="Report this: the release changed.",
            )


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A folder in the authors' repository that contains a model in the released format."""

    folder: str
    """Path in the repository."""
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)

    @property
    def downloads(self) -> Path:
        """The folder of the downloaded files in the cache."""
        return cache_folder() / "released" / PurePosixPath(self.folder).name

    @property
    def model(self) -> Path:
        """The folder of the converted model in the cache."""
        return cache_folder() / "models" / PurePosixPath(self.folder).name


def released_checkpoints(repository: str = RELEASED_REPOSITORY) -> list[ReleasedCheckpoint]:
    """List the checkpoints of a repository on the Hugging Face hub, with the hub's checksums.

    Raises:
        DownloadError: If the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    endpoint = _endpoint()
    api = HfApi(endpoint=endpoint, token=_token())
    try:
        commit = api.model_info(repository).sha
        entries = list(api.list_repo_tree(repository, recursive=True, revision=commit))
    except Exception as error:  # network errors, error responses and offline-mode errors have no common base class
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DownloadError(
            f"the hub cannot be read: {reason}",
            where=f"{endpoint}/{repository}",
            remedy="Check the network, HF_ENDPOINT, and HF_TOKEN if the repository is private.",
        ) from error
    folders: dict[str, list[RemoteFile]] = {}
    for entry in entries:
        path = PurePosixPath(entry.path)
        if isinstance(entry, RepoFile) and any(fnmatch(path.name, pattern) for pattern in _RELEASED_FILES):
            url = hf_hub_url(repository, entry.path, revision=commit, endpoint=endpoint)
            sha256 = entry.lfs.sha256 if entry.lfs else None
            file = RemoteFile(url, entry.size, sha256, None if sha256 else entry.blob_id)
            folders.setdefault(str(path.parent), []).append(file)
    return [
        ReleasedCheckpoint(folder, tuple(files))
        for folder, files in sorted(folders.items())
        if {"config.json"} < {file.name for file in files}
        and any(file.name.startswith("pytorch_model") for file in files)
    ]


def choose_checkpoint(checkpoints: list[ReleasedCheckpoint], name: str) -> ReleasedCheckpoint:
    """Return the only checkpoint, or the only one whose path contains `name`, ignoring case.

    Raises:
        CheckpointError: If there are no checkpoints, or if there are several and not exactly one matches.
    """
    matches = [one for one in checkpoints if name.lower() in one.folder.lower()]
    if len(checkpoints) == 1 or len(matches) == 1:
        return (matches or checkpoints)[0]
    folders = ", ".join(one.folder for one in checkpoints) or "none"
    raise CheckpointError(
        f"{len(matches) or 'no'} checkpoints of the repository match {name!r}; it has: {folders}",
        where=RELEASED_REPOSITORY,
        remedy="Select one with --checkpoint.",
    )


def download_checkpoint(checkpoint: ReleasedCheckpoint, progress: Progress | None = None) -> Path:
    """Download a checkpoint into the cache. An interrupted download resumes where it stopped.

    Returns:
        The folder, in the released format.

    Raises:
        DownloadError: If a file cannot be downloaded, or its checksum differs from the hub's.
    """
    for file in checkpoint.files:
        download(file, checkpoint.downloads / file.name, _token(), _bound(progress, file))
    return checkpoint.downloads


def _bound(progress: Progress | None, file: RemoteFile) -> Callable[[int], None] | None:
    return None if progress is None else lambda received: progress(file.name, received, file.size)


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()
