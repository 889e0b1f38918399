"""Downloads to the cache: resumed after interruptions, verified, and visible only once complete."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from explllm.core.errors import ConfigError, InputError

CACHE_VARIABLE = "EXPLLLM_CACHE"
"""Environment variable that sets the download folder."""
MIRROR_VARIABLE = "EXPLLLM_MIRROR"
"""Environment variable that sets the base URL of a mirror, used for every host except the Hugging Face hub."""

_ATTEMPTS = 3
"""Number of consecutive attempts that receive no data before a download fails."""
_CHUNK = 1 << 20
_TIMEOUT = 30
"""Seconds without a response after which an attempt fails."""


class DownloadError(InputError):
    """A file cannot be downloaded, or its content is not as expected."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, with its size and checksum."""

    url: str
    size: int
    """Bytes."""
    sha256: str | None = None
    git_sha1: str | None = None
    """Git's hash of the content; the Hugging Face hub provides it instead of SHA-256 for small files."""

    @property
    def name(self) -> str:
        """The last component of the URL's path."""
        return urlsplit(self.url).path.rpartition("/")[2]


def cache_folder() -> Path:
    """Return the download folder: ``$EXPLLLM_CACHE``, by default ``explllm`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "explllm"


def mirrored(url: str) -> str:
    """Return a file's URL on the mirror ``$EXPLLLM_MIRROR`` if that variable is set, otherwise `url` unchanged."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    return mirror.rstrip("/") + urlsplit(url).path if mirror else url


def check_space(folder: Path, size: int) -> None:
    """Check that there is enough free disk space for a download.

    Raises:
        ConfigError: If less than `size` bytes plus a reserve of 5% are free.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < 1.05 * size:
        raise ConfigError(
            f"{file_size(size)} needed, {file_size(free)} free",
            where=existing,
            remedy=f"Free disk space, or set {CACHE_VARIABLE} to a folder on another disk.",
        )


def download(
    file: RemoteFile, target: Path, token: str | None = None, progress: Callable[[int], None] | None = None
) -> Path:
    """Download a file unless it already exists with the expected size.

    A partial download stays next to the target as ``.NAME.HASH.partial``, and the next call resumes it.

    Args:
        file: The file.
        target: Where to write it.
        token: Access token, sent only to the URL's host, not to hosts that it redirects to.
        progress: Called with the number of bytes received so far, including those before an interruption.

    Returns:
        `target`.

    Raises:
        DownloadError: If the server cannot be reached or refuses the request, or the content is not as expected.
    """
    if target.is_file() and target.stat().st_size == file.size:
        return target
    from filelock import FileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    identity = file.sha256 or file.git_sha1 or hashlib.sha256(file.url.encode()).hexdigest()
    partial = target.with_name(f".{target.name}.{identity[:12]}.partial")
    with FileLock(target.parent / ".download.lock"):
        if target.is_file() and target.stat().st_size == file.size:
            return target  # another process downloaded it meanwhile
        _receive(file, partial, token, progress)
        try:
            _check(file, partial)
        except DownloadError:
            partial.unlink()  # resuming would not help
            raise
        os.replace(partial, target)
    return target


def fetch(url: str, max_size: int) -> bytes:
    """Return the content of a URL.

    Raises:
        DownloadError: If the server cannot be reached or refuses the request, or the content is larger than `max_size`
            bytes.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "explllm"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            content: bytes = response.read(max_size + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"the image cannot be fetched: {reason}", where=url, remedy="Check the URL.") from error
    if len(content) > max_size:
        raise DownloadError(f"more than {file_size(max_size)}", where=url, remedy="Use a smaller image.")
    return content


def _receive(file: RemoteFile, partial: Path, token: str | None, progress: Callable[[int], None] | None) -> None:
    """Append to a partial file until it has the full size."""
    failures = 0
    partial.touch()
    while True:
        start = partial.stat().st_size
        if start == file.size:
            return
        if start > file.size:
            os.truncate(partial, start := 0)
        try:
            _append(file.url, partial, start, token, progress)
            if partial.stat().st_size == start:
                raise ConnectionError("the server sent nothing")
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise DownloadError(
                    f"the server responds with {error.code} {error.reason}",
                    where=file.url,
                    remedy="Check the name and, for a private repository, the access token (HF_TOKEN).",
                ) from error
            failures = _failed(file, failures, error)
        except (OSError, http.client.HTTPException) as error:
            failures = _failed(file, 0 if partial.stat().st_size > start else failures, error)


def _append(url: str, partial: Path, start: int, token: str | None, progress: Callable[[int], None] | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "explllm", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        # A server that ignores the Range header sends the whole file, with status 200.
        resumed = start > 0 and response.status == 206
        with partial.open("ab" if resumed else "wb") as stream:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                if progress is not None:
                    progress(stream.tell())


def _failed(file: RemoteFile, failures: int, error: Exception) -> int:
    """Count a failed attempt and wait before the next one; after the last one, raise an error."""
    if failures + 1 >= _ATTEMPTS:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"the download failed: {reason}",
            where=file.url,
            remedy="Check the network and run the command again; it resumes where it stopped.",
        ) from error
    time.sleep(0.5 * 2**failures)
    return failures + 1


def _check(file: RemoteFile, path: Path) -> None:
    """Compare a downloaded file with its checksum."""
    if file.sha256:
        expected, digest = file.sha256, hashlib.sha256()
    elif file.git_sha1:
        expected, digest = file.git_sha1, hashlib.sha1(usedforsecurity=False)
        digest.update(f"blob {file.size}\0".encode())
    else:
        return
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DownloadError(
            f"the file does not have the published checksum: {digest.hexdigest()}, not {expected}; it was deleted",
            where=file.url,
            remedy="Run the command again. If that does not help, the file has changed, or a proxy replaced it.",
        )


def file_size(size: int) -> str:
    """Format a number of bytes, for example as ``15.0 GB``."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
