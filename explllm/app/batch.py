"""Batches of pictures: files and zip files become a table and a report."""

from __future__ import annotations

import lzma
import os
import tempfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explllm.app.explainer import Job
from explllm.app.photographs import MAX_PIXELS, Photograph, open_photograph, preprocess
from explllm.app.views import FaceView, document, face_html, square_in_crop
from explllm.core.errors import ImageError, InputError
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.detector import FaceDetector
from explllm.faces.images import IMAGE_SUFFIXES, chunked
from explllm.report.json_lines import face_record, table_row
from explllm.report.picture import PicturedFace

if TYPE_CHECKING:
    from explllm.app.page import Services

_MAX_PICTURES = 5000
_MAX_BYTES = 50 * 2**20
"""Maximum size of an unpacked picture from a zip file, in bytes."""
_AT_ONCE = 64
"""Maximum number of pictures in memory."""
_PIXELS_AT_ONCE = 2 * MAX_PIXELS
"""When the pictures in memory reach this number of pixels, they are processed before the next one is read."""
_MAX_REPORTED = 300
"""Maximum number of faces in the report; the table has all of them."""


def describe_batch(
    files: Sequence[str], services: Services, name: str, explained: bool, progress: Callable[[int, int], None]
) -> tuple[str, Path, Path]:
    """Recognize the expressions of faces in pictures, and explain them if requested.

    Args:
        files: Pictures and zip files.
        services: The models and helpers.
        name: The model's name.
        explained: Whether to explain the faces.
        progress: Called with the number of finished pictures and the total.

    Returns:
        A short summary of the result, the path of the table (CSV), and the path of the report (HTML).

    Raises:
        InputError: If there are no pictures or too many, a zip file cannot be read, or the model's queue is full.
    """
    import pandas as pd

    total = sum(1 for _ in pictures(files, names_only=True))
    if not 0 < total <= _MAX_PICTURES:
        found = f"{total:,} pictures" if total else "no pictures"
        raise InputError(found, remedy=f"Choose 1 to {_MAX_PICTURES:,}, as files, a folder or a zip file.")
    rows: list[dict[str, Any]] = []
    views: list[str] = []
    faces = unusable = done = 0
    opened = ((path, _open(content, services.detector)) for path, content in pictures(files))
    for chunk in chunked(opened, lambda picture: _pixels(picture[1]), _AT_ONCE, _PIXELS_AT_ONCE):
        for record, view, is_last in _answers(chunk, services, name, explained):
            rows.append(table_row(record))
            faces += view is not None
            unusable += view is None
            if view is not None and len(views) < _MAX_REPORTED:
                views.append(face_html(view))
            done += is_last
            progress(done, total)
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    table, report = folder / "faces.csv", folder / "report.html"
    pd.DataFrame(rows).to_csv(table, index=False)
    note = services.explainers[name].model.config.training_data_note
    report.write_text(document(f"{faces:,} faces, {name}", views, note), encoding="utf-8")
    text = f"{faces:,} faces in {total:,} pictures."
    if unusable:
        text += f" Unusable pictures: {unusable:,}; the table has the reasons."
    if faces > _MAX_REPORTED:
        text += f" The report shows the first {_MAX_REPORTED}."
    return text, table, report


def pictures(files: Sequence[str], names_only: bool = False) -> Iterator[tuple[str, bytes | ImageError]]:
    """Yield the name of each picture with its content, or with an error if it is a damaged entry of a zip file.

    Args:
        files: Paths of pictures and zip files; other files are skipped.
        names_only: Leave the contents empty.

    Raises:
        ImageError: If a zip file is damaged or has a password.
    """
    for file in map(Path, files):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            yield file.name, b"" if names_only else file.read_bytes()
        elif file.suffix.lower() == ".zip":
            try:
                with zipfile.ZipFile(file) as archive:
                    for entry in archive.infolist():
                        hidden = Path(entry.filename).name.startswith(".")
                        if Path(entry.filename).suffix.lower() not in IMAGE_SUFFIXES or hidden:
                            continue
                        yield entry.filename, _unpacked(archive, entry, 0 if names_only else _MAX_BYTES)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
                raise ImageError(
                    f"the zip file cannot be read ({error})",
                    where=file.name,
                    remedy="Pack it again, without a password.",
                ) from error


def _open(content: bytes | ImageError, detector: FaceDetector | None) -> Photograph | str:
    """Return a picture, or the reason why it is unusable."""
    try:
        if isinstance(content, ImageError):
            raise content
        return open_photograph(content, detector, max_pixels=MAX_PIXELS)
    except InputError as error:
        return str(error)


def _pixels(photograph: Photograph | str) -> int:
    return 0 if isinstance(photograph, str) else photograph.image.width * photograph.image.height


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int) -> bytes | ImageError:
    """Return up to `size` bytes of an entry, or an error if it is damaged."""
    try:
        # If the header understates the size, the content is cut off and the picture is unreadable.
        with archive.open(entry) as stream:
            return stream.read(size)
    # Errors of the archive and its three compression methods; a password raises RuntimeError.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, lzma.LZMAError) as error:
        return ImageError(f"the zip file's entry is damaged ({error})", remedy="Pack the picture again.")


def _answers(
    chunk: Sequence[tuple[str, Photograph | str]], services: Services, name: str, explained: bool
) -> Iterator[tuple[dict[str, Any], FaceView | None, bool]]:
    """Yield each face's record, its view (None for an unusable picture), and whether it is the picture's last face."""
    explainer = services.explainers[name]
    model = explainer.model
    limit = services.max_new_tokens if explained else 0
    margin = DEFAULT_MARGIN if model.config.margin is None else model.config.margin
    new = (
        Job(preprocess(model, photograph, face), limit)
        for _, photograph in chunk
        if not isinstance(photograph, str)
        for face in range(len(photograph.boxes))
    )
    waiting: deque[Job] = deque()

    def submit(count: int) -> None:
        jobs = list(islice(new, count))
        explainer.submit(*jobs)
        waiting.extend(jobs)

    # Use at most a quarter of the queue: a chunk can have more faces than the queue accepts, and other users need room.
    submit(max(explainer.max_waiting // 4, 1))
    for path, photograph in chunk:
        if isinstance(photograph, str):
            yield {"image": path, "error": photograph}, None, True
            continue
        for face, box in enumerate(photograph.boxes):
            answer = waiting.popleft().result.result()
            submit(1)
            crop = photograph.crop(face, margin)
            cot = ChainOfThought.parse(answer.text) if explained else None
            pictured = PicturedFace(crop, box, answer.recognition, cot, warnings=photograph.warnings)
            detected = (face + 1, len(photograph.boxes)) if box is not None else None
            note = model.config.training_data_note
            square = square_in_crop(box, margin)
            view = FaceView(crop, square, path, answer.recognition, answer.text, True, warnings=photograph.warnings)
            yield face_record(path, pictured, detected, note), view, face + 1 == len(photograph.boxes)
