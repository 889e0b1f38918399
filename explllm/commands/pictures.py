"""Code shared by `explllm recognize` and `explllm explain`: reading pictures, batching faces, and writing results."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.outputs import check_new_manifest, check_replaces_none, drawing_files, keep_finished
from explllm.commands.parser import Option
from explllm.core.downloads import fetch
from explllm.core.errors import ConfigError, ImageError, InputError
from explllm.core.files import atomic_write, check_writable
from explllm.core.progress import ProgressBar
from explllm.faces.boxes import Box, FaceChoice, select_faces
from explllm.faces.crop import DEFAULT_MARGIN, crop_warning, face_crop, is_face_crop
from explllm.faces.images import TRUNCATED, chunked, image_files, load_image
from explllm.models.known import cached, shipped_model

if TYPE_CHECKING:
    from PIL import Image

    from explllm.faces.detector import FaceDetector
    from explllm.faces.estimators import Estimator, EstimatorSpec
    from explllm.models.explllm import ExpLLM
    from explllm.report.picture import PicturedFace

AUTO, NONE = "auto", "none"
"""Values of ``--detector`` besides a file."""
STDIN = "-"
"""The name of an image that is read from standard input."""
_MAX_FETCHED = 50_000_000
"""Maximum size of an image from a URL, in bytes."""
_PIXELS_AT_ONCE = 200_000_000
"""When the images in memory reach this number of pixels (0.6 GB), they are processed before the next one is read."""
_GET_DETECTOR = "`explllm models get scrfd` downloads a detector"


@dataclass(frozen=True)
class PictureOptions:
    """Options of ``recognize`` and ``explain``: the model, the faces of a picture, and the output."""

    model: Annotated[str | None, Option(default="the model that comes with explllm")] = None
    """A model folder that `fit` or `convert` wrote, such as runs/NAME/model, or a name on the Hugging Face hub.
    `explllm models` lists models."""
    device: Annotated[str | None, Option(default="cpu")] = None
    """Device to run the model on, such as cuda or cpu."""
    batch_size: Annotated[int, Option(minimum=1, maximum=1024)] = 8
    """Number of faces processed at a time."""
    as_json: Annotated[bool, Option("json")] = False
    """Print one JSON object per line."""
    out: Annotated[Path | None, Option(default="printed only")] = None
    """Write a table, one row per face (.csv, .jsonl, .parquet)."""
    overwrite: bool = False
    """Replace an existing OUT."""
    picture: Path | None = None
    """Draw boxes, labels and texts into this file (.png, .jpg, .webp), or into one file per picture in this folder."""
    detector: str = AUTO
    """Face detector to run first: an SCRFD file (ONNX), none, or auto for the detector that `explllm models get scrfd`
    downloads, if present."""
    which: FaceChoice = "all"
    """Which faces to use if the detector finds several."""
    margin: Annotated[float | None, Option(minimum=-0.4, maximum=3, default="as in the model's training")] = None
    """Margin added on each side of a detected face, as a share of the longer side of its box."""
    allow_urls: bool = False
    """Fetch images given as http or https URLs."""


@dataclass
class _Inputs:
    """Pictures by name: paths, URLs, and - for standard input."""

    names: list[str]
    _contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, images: Sequence[str], allow_urls: bool) -> _Inputs:
        """List the pictures given as files, folders, patterns, URLs or -."""
        names: list[str] = []
        for image in images:
            if (is_url := image.startswith(("http://", "https://"))) and not allow_urls:
                raise ConfigError("an image is a URL", where=image, remedy="Pass --allow_urls to fetch it.")
            names += [image] if is_url or image == STDIN else image_files([image])
        return cls(names)

    def source(self, name: str) -> str | bytes:
        """Return a picture's path or, for a URL and standard input, its content."""
        if name != STDIN and not name.startswith(("http://", "https://")):
            return name
        if name not in self._contents:
            self._contents.clear()  # the latest is enough, because only a single picture is read twice
            if name == STDIN and sys.stdin is None:
                raise ImageError("the standard input is closed", where=name, remedy="Send the bytes of an image file.")
            self._contents[name] = sys.stdin.buffer.read() if name == STDIN else fetch(name, _MAX_FETCHED)
            if not self._contents[name]:
                where = "standard input" if name == STDIN else name
                raise ImageError("the picture is empty", where=where, remedy="Send the bytes of an image file.")
        return self._contents[name]


@dataclass
class _Picture:
    """A picture and the results for its faces."""

    path: str
    """The file, the URL, or - for standard input."""
    source: str | bytes
    """The file's path, or its content."""
    photograph: Image.Image | None = None
    """The picture, if it will be drawn."""
    boxes: list[Box | None] = field(default_factory=list)
    crops: list[Image.Image] = field(default_factory=list)
    """What the model sees of each face."""
    units: list[Any] = field(default_factory=list)
    """Action units of each face."""
    warnings: list[str] = field(default_factory=list)
    error: str | None = None
    """Why the picture cannot be read."""
    faces: list[PicturedFace] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        """Maximum number of pixels in memory; the photograph may also be the only crop."""
        return sum(image.width * image.height for image in (self.photograph, *self.crops) if image is not None)


def answer_pictures(
    images: Sequence[str],
    options: PictureOptions,
    spec: EstimatorSpec | None,
    max_new_tokens: int | None,
    speculate: bool = True,
) -> int:
    """Recognize the expressions of faces in pictures, explain them if requested, and print, draw or write the results.

    Args:
        images: Files, folders, patterns, URLs, or - for standard input.
        options: The options.
        spec: The action unit estimator, if any.
        max_new_tokens: Maximum length of an explanation, in tokens; None for no explanations.
        speculate: Decode explanations speculatively.

    Returns:
        The exit status: 1 if a picture cannot be read or shows no face.

    Raises:
        InputError: If the only picture, the model or an option cannot be used.
    """
    _check_effect(options)
    inputs = _Inputs.of(images, options.allow_urls)
    files = inputs.names
    folder = options.model or str(shipped_model())
    drawings = [] if options.picture is None else drawing_files(options.picture, files)
    if options.out is not None:
        check_replaces_none("--out", [options.out], files, "an input image")
        check_new_manifest(options.out, options.overwrite)
        check_writable(options.out)
    if len(files) == 1:
        _load(inputs.source(files[0]))
    check_device(options.device)
    # Deferred import: the checks above do not need the model classes.
    from explllm.models.explllm import ExpLLM

    detector, detector_lines = open_detector(options.detector)
    opening = spec.open() if spec else None
    rows: list[list[dict[str, Any]]] = []  # one list per picture
    counts: Counter[str] = Counter()
    # Answers printed on the terminal already show the progress.
    shows_bar = len(files) > 1 and (options.out is not None or not sys.stdout.isatty())
    progress = ProgressBar("explaining" if max_new_tokens else "recognizing", len(files))

    def keep() -> str:
        """Write the rows of the finished pictures."""
        assert options.out is not None
        if rows:
            _write(rows, options.out)
        return f"{len(rows):,} of {len(files):,} pictures are done{f': {options.out}' if rows else ''}."

    with ExitStack() as stack:
        if options.out is not None:
            stack.enter_context(keep_finished(keep))
        estimator = stack.enter_context(closing(opening)) if opening else None
        model = ExpLLM.from_pretrained(folder, device=options.device)
        lines = [] if options.model else [f"model: {folder}"]
        for line in [*lines, *detector_lines, *(opening.runs_on if opening else ())]:
            sys.stderr.write(f"{line}\n")
        note = model.config.training_data_note
        sources = {"this model": note, "the estimator": estimator and estimator.training_data_note}
        notes = [f"Note: training data of {name}: {text}" for name, text in sources.items() if text]
        model.speculate = speculate
        # Pass more faces than a batch holds, so that a new face can take the place of each finished one.
        at_once = options.batch_size * (1 if max_new_tokens is None else 4)
        if shows_bar:
            stack.enter_context(progress)
        pictures = (_read(path, inputs, options, model.config.margin, detector, estimator) for path in files)
        done = 0
        for batch in chunked(pictures, lambda picture: picture.pixels, at_once, _PIXELS_AT_ONCE):
            _answer(batch, model, options, max_new_tokens, estimator)
            for number, picture in enumerate(batch, done):
                kind = "unreadable" if picture.error else "faces" if picture.faces else "without a face"
                counts[kind] += len(picture.faces) or 1
                records = _records(picture, note)
                if options.out is not None:
                    rows.append(records)
                if options.as_json:
                    sys.stdout.write("".join(json.dumps(record) + "\n" for record in records))
                    sys.stdout.flush()
                elif options.out is None:
                    _print(picture, note)
                if drawings and picture.faces:
                    _draw(picture, drawings[number], notes)
            done += len(batch)
            if shows_bar:
                progress.advance(len(batch))
    if options.out is not None:
        _write(rows, options.out)
        sys.stderr.write(f"{', '.join(f'{count:,} {kind}' for kind, count in counts.items())}: {options.out}\n")
    sys.stderr.write("".join(f"{line}\n" for line in notes))
    return int(counts["unreadable"] + counts["without a face"] > 0)


def _check_effect(options: PictureOptions) -> None:
    """Reject options that have no effect."""
    without = options.detector == NONE or (options.detector == AUTO and cached("scrfd") is None)
    if without and options.which != "all":
        raise ConfigError("--which has no effect without --detector", remedy="Pass --detector, or omit --which.")
    if without and options.margin is not None:
        raise ConfigError("--margin has no effect without --detector", remedy="Pass --detector, or omit --margin.")
    if options.out is None and options.overwrite:
        raise ConfigError("--overwrite has no effect without --out", remedy="Pass --out, or omit --overwrite.")


def open_detector(name: str) -> tuple[FaceDetector | None, list[str]]:
    """Return the face detector that ``--detector`` selects, or None, and lines to print."""
    if name == NONE:
        return None, []
    path = Path(name) if name != AUTO else cached("scrfd")
    if path is None:
        return None, [f"no face detector: each picture is treated as one face ({_GET_DETECTOR})"]
    if name == AUTO and (missing := [name for name in ("insightface", "onnxruntime") if find_spec(name) is None]):
        return None, [
            f"the face detector needs {' and '.join(missing)}: each picture is treated as one face "
            '(pip install "explllm[faces]")'
        ]
    from explllm.faces.detector import FaceDetector

    detector = FaceDetector(path)
    return detector, detector.runs_on


def _load(source: str | bytes) -> Image.Image:
    """Read a picture; if the file is truncated, the image's ``info`` says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TRUNCATED)
        return load_image(source)


def _read(
    path: str,
    inputs: _Inputs,
    options: PictureOptions,
    trained_margin: float | None,
    detector: FaceDetector | None,
    estimator: Estimator | None,
) -> _Picture:
    """Read a picture, crop its faces, and measure their action units."""
    picture = _Picture(path, path)
    own = _first(options.margin, trained_margin, DEFAULT_MARGIN)
    measured = _first(options.margin, estimator.margin if estimator else None, own)
    try:
        picture.source = inputs.source(path)
        photograph = _load(picture.source)
        picture.boxes = [None]
        picture.crops, crops = [photograph], [photograph]
        detections = [] if detector is None else detector.detect(photograph)
        if detector is not None and not (options.detector == AUTO and is_face_crop(photograph, detections)):
            faces = select_faces(detections, options.which, photograph.size)
            picture.boxes = [face.box for face in faces]
            picture.crops, crops = (
                [face_crop(photograph, face.box, margin) for face in faces] for margin in (own, measured)
            )
    except (InputError, OSError) as error:
        return _Picture(path, path, error=str(error))
    if options.picture is not None:
        picture.photograph = photograph
    picture.units = [None] * len(crops) if estimator is None or not crops else estimator.estimate(crops)
    if photograph.info.get("truncated"):
        picture.warnings.append("The image file is truncated.")
    if detector is None and estimator is not None and picture.units == [None]:
        picture.warnings.append(f"The picture may show no face: {estimator.name} found none.")
    elif detector is None and (warning := crop_warning(photograph)):
        remedy = f"{warning.removesuffix('.')} ({_GET_DETECTOR})."
        picture.warnings.append(remedy if options.detector == AUTO else warning)
    elif detector is not None and picture.boxes == [None] and not detections:
        picture.warnings.append("No face was detected; the whole picture is treated as one face.")
    return picture


def _first(*margins: float | None) -> float:
    return next(margin for margin in margins if margin is not None)


def _answer(
    batch: Sequence[_Picture],
    model: ExpLLM,
    options: PictureOptions,
    max_new_tokens: int | None,
    estimator: Estimator | None,
) -> None:
    """Add the model's answers to the pictures; the faces of all pictures share batches."""
    from explllm.report.picture import PicturedFace

    # If a model's preprocessing ignores the EXIF orientation, the model reads the files of uncropped pictures itself.
    sources: list[Any] = [
        picture.source if box is None and not model.image.upright else crop
        for picture in batch
        for box, crop in zip(picture.boxes, picture.crops, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", TRUNCATED)
        answers: Iterator[tuple[Any, Any]]
        if max_new_tokens is None:
            answers = ((recognition, None) for recognition in model.recognize(sources, options.batch_size))
        else:
            answers = iter(model.recognize_and_explain(sources, max_new_tokens, options.batch_size))
    for picture in batch:
        for box, crop, units in zip(picture.boxes, picture.crops, picture.units, strict=True):
            name = None if units is None or estimator is None else estimator.name
            picture.faces.append(PicturedFace(crop, box, *next(answers), units, name, picture.warnings))


def _records(picture: _Picture, note: str | None) -> list[dict[str, Any]]:
    from explllm.report.json_lines import face_record

    if picture.error is not None:
        return [{"image": picture.path, "error": picture.error}]
    faces = picture.faces
    records = [
        face_record(picture.path, face, None if face.box is None else (number, len(faces)), note)
        for number, face in enumerate(faces, 1)
    ]
    return records or [{"image": picture.path, "faces": 0}]


def _print(picture: _Picture, note: str | None) -> None:
    """Print the faces of a picture."""
    from rich.console import Console
    from rich.markup import escape

    from explllm.core.action_units import FACS_CODES
    from explllm.llm.request import escape_surrogates
    from explllm.report.explained import strongest_units
    from explllm.report.terminal import print_explained, print_review

    console = Console()
    # A terminal cannot show the bytes of a file name that is not UTF-8.
    path = escape_surrogates(picture.path)
    if not picture.faces:
        text = "no face found" if picture.error is None else f"error: {escape_surrogates(picture.error)}"
        console.print(f"{escape(path)}: {escape(text)}", highlight=False, soft_wrap=True)
    for number, face in enumerate(picture.faces, 1):
        several = len(picture.faces) > 1
        name = f"{path}, face {number} of {len(picture.faces)}" if several else path
        print_explained(console, name, None, face.recognition, face.cot, note)
        if face.action_units is not None:
            units = strongest_units(face.action_units)
            measured = ", ".join(f"{unit.lower()} ({FACS_CODES[unit]}) {value:.2f}" for unit, value in units)
            console.print(f"action units by {face.action_units_source}: {measured or 'none active'}", highlight=False)
        print_review(console, face.review, face.action_units_source, face.all_warnings)


def _draw(picture: _Picture, path: Path, notes: Sequence[str]) -> None:
    from explllm.report.picture import draw_picture

    assert picture.photograph is not None
    with atomic_write(path) as partial:
        draw_picture(picture.photograph, picture.faces, " ".join(notes) or None).save(partial)


def _write(pictures: Sequence[Sequence[dict[str, Any]]], out: Path) -> None:
    """Write the rows of the pictures as JSON Lines, or in another format as a table with one value per column."""
    import pandas as pd

    from explllm.llm.request import escape_surrogates
    from explllm.report.json_lines import table_row

    rows = [row for records in pictures for row in records]
    with atomic_write(out, keep=True) as partial:
        if out.suffix.lower() == ".jsonl":
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            return
        # A file name that is not UTF-8 contains surrogates, which these formats cannot represent.
        table = pd.DataFrame(
            {key: escape_surrogates(cell) if isinstance(cell, str) else cell for key, cell in table_row(row).items()}
            for row in rows
        )
        table.to_csv(partial, index=False) if out.suffix.lower() == ".csv" else table.to_parquet(partial, index=False)


def check_device(device: str | None) -> None:
    """Check that a device can be used.

    Raises:
        ConfigError: If it cannot.
    """
    import torch

    try:
        torch.zeros(1, device=device).item()  # fails for the device `meta`, which has no data
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {device} cannot be used",
            remedy="Use one that this machine has, such as cpu or cuda:0.",
        ) from error
