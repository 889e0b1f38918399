"""The command ``explllm explain``: terminal, JSON lines or an annotated picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from explllm.commands.parser import Option
from explllm.commands.streaming import EstimatorOptions
from explllm.core.errors import ConfigError
from explllm.core.files import atomic_write
from explllm.faces.boxes import Box, FaceChoice, select_faces
from explllm.faces.crop import DEFAULT_MARGIN, crop_warning, face_crop
from explllm.faces.estimators import selected_estimator
from explllm.faces.pixels import load_image

if TYPE_CHECKING:
    from PIL import Image

    from explllm.faces.detector import FaceDetector
    from explllm.faces.estimators import Estimator
    from explllm.models.explllm import ExpLLM
    from explllm.report.picture import PicturedFace

_BATCH = 8
"""Faces that are explained at a time."""
_IMAGES = 32
"""Images that are read at a time; a new face takes the place of one whose explanation is finished."""


def explain(
    images: list[str],
    *,
    model: str,
    device: Annotated[str | None, Option(default="cpu")] = None,
    max_new_tokens: Annotated[int, Option(minimum=1)] = 320,
    as_json: Annotated[bool, Option("json")] = False,
    detector: Path | None = None,
    which: FaceChoice = "all",
    margin: Annotated[float | None, Option(minimum=-0.4, default="as in the model's training")] = None,
    estimator: EstimatorOptions,
    picture: Path | None = None,
    no_speculation: bool = False,
) -> int:
    """Recognize the expression of faces and explain it.

    The explanation has three parts: key observations, interpretation, conclusion. Without --detector each picture is
    one cropped face; with it, the faces of a photograph are detected first.

      explllm explain face.jpg --model runs/demo/model
      explllm explain party.jpg --model DIR --detector scrfd.onnx --picture out.png

    The exit status is 1 if a photograph shows no face.

    Args:
        images: A picture of one face, or with --detector of any number of faces.
        model: A folder that `fit` wrote, such as runs/NAME/model.
        device: Device of the model, such as cuda or cpu.
        max_new_tokens: Maximum length of an explanation, in tokens.
        as_json: Print one JSON object a line.
        detector: Detect the faces first, with this SCRFD detector (ONNX).
        which: The face to explain if the detector finds several.
        margin: Margin on each side of a detected face, as a share of its longer side.
        estimator: The estimator that measures the action units too, and its options.
        picture: Draw boxes, labels, action units and texts into this file (.png, .jpg, .webp).
        no_speculation: Compute one token per forward pass. The texts are the same; it takes longer.

    Raises:
        InputError: If a file, the model or the device does not exist or cannot be used; nothing is computed then.
    """
    from explllm.faces.detector import FaceDetector
    from explllm.models.explllm import ExpLLM
    from explllm.report.picture import draw_picture

    spec = selected_estimator(estimator)
    if picture is not None:
        _check_picture(picture, images)
    for image in images:
        load_image(image)
    _check_device(device)
    finder = None if detector is None else FaceDetector(detector)
    opening = spec.open() if spec else None
    for line in [*(finder.runs_on if finder else ()), *(opening.runs_on if opening else ())]:
        sys.stderr.write(f"{line}\n")
    with nullcontext() if opening is None else closing(opening) as measure:
        opened = ExpLLM.from_pretrained(model, device=device)
        opened.speculate = not no_speculation
        own = _first(margin, opened.config.margin, DEFAULT_MARGIN)
        margins = own, _first(margin, measure.margin if measure else None, own)
        sources = {
            "this model": opened.config.training_data_note,
            "the estimator": measure and measure.training_data_note,
        }
        notes = [f"Note: training data of {name}: {note}" for name, note in sources.items() if note]
        status = 0
        for start in range(0, len(images), _IMAGES):
            paths = images[start : start + _IMAGES]
            explained = _explained(paths, opened, max_new_tokens, finder, which, margins, measure)
            for path, faces in zip(paths, explained, strict=True):
                _print(path, faces, finder is not None, as_json, opened.config.training_data_note)
                status = status if faces else 1
                if picture is not None and faces:
                    with atomic_write(picture) as partial:
                        draw_picture(load_image(path), faces, " ".join(notes) or None).save(partial)
        for note in notes:
            sys.stderr.write(f"{note}\n")
    return status


def _first(*margins: float | None) -> float:
    return next(margin for margin in margins if margin is not None)


def _explained(
    paths: Sequence[str],
    model: ExpLLM,
    max_new_tokens: int,
    detector: FaceDetector | None,
    which: FaceChoice,
    margins: tuple[float, float],
    estimator: Estimator | None,
) -> list[list[PicturedFace]]:
    """Return the explained faces of each image; `margins` are those of the model and of the estimator."""
    from explllm.report.picture import PicturedFace

    detected: list[list[tuple[Any, ...]]] = []
    sources: list[str | Image.Image] = []
    for path in paths:
        boxes: list[Box | None] = [None]
        photograph = load_image(path)
        crops = measured_crops = [photograph]
        if detector is not None:
            boxes = [face.box for face in select_faces(detector.detect(photograph), which, photograph.size)]
            crops, measured_crops = (
                [face_crop(photograph, box, margin) for box in boxes if box is not None] for margin in margins
            )
        # Without a detector the model reads the file itself: the released preprocessing ignores the orientation.
        sources += [path] if detector is None else crops
        units = [None] * len(crops) if estimator is None else estimator.estimate(measured_crops)
        detected.append(list(zip(boxes, crops, units, strict=True)))
    answers = iter(model.recognize_and_explain(sources, max_new_tokens, _BATCH))
    explained: list[list[PicturedFace]] = []
    for faces in detected:
        explained.append([])
        for box, crop, units in faces:
            name = None if units is None or estimator is None else estimator.name
            warnings = []
            if detector is None and estimator is not None and units is None:
                warnings.append(f"The picture may show no face: {estimator.name} found none.")
            elif detector is None and (warning := crop_warning(crop)):
                warnings.append(warning)
            explained[-1].append(PicturedFace(crop, box, *next(answers), units, name, warnings))
    return explained


def _print(path: str, faces: Sequence[PicturedFace], searched: bool, as_json: bool, note: str | None) -> None:
    """Print the faces of an image."""
    from rich.console import Console
    from rich.markup import escape

    from explllm.report.explained import strongest_units
    from explllm.report.json_lines import face_record
    from explllm.report.terminal import print_explained, print_review

    if as_json:
        records: list[dict[str, Any]] = [
            face_record(path, face, (number, len(faces)) if searched else None, note)
            for number, face in enumerate(faces, 1)
        ]
        for record in records or [{"image": path, "faces": 0}]:
            sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
        return
    console = Console()
    if not faces:
        console.print(f"{escape(path)}: no face found", highlight=False)
    for number, face in enumerate(faces, 1):
        name = f"{path}, face {number} of {len(faces)}" if len(faces) > 1 else path
        print_explained(console, name, None, face.recognition, face.cot, note)
        if face.action_units is not None:
            units = strongest_units(face.action_units)
            measured = ", ".join(f"{unit.lower()} {value:.2f}" for unit, value in units) or "none active"
            console.print(f"action units by {face.action_units_source}: {measured}", highlight=False)
        print_review(console, face.review, face.action_units_source, face.all_warnings)


def _check_picture(picture: Path, images: Sequence[str]) -> None:
    from PIL import Image

    suffix = picture.suffix.lower()
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in ("PNG", "JPEG", "WEBP")}
    if suffix not in writable:
        raise ConfigError(f"--picture has the ending {suffix!r}", where=picture, remedy="Use .png, .jpg or .webp.")
    if len(images) != 1:
        raise ConfigError(f"--picture is given for {len(images)} images", remedy="Give one image.")


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device} of --device cannot be used",
            remedy="Give one that this machine has, such as cpu or cuda:0.",
        ) from error
