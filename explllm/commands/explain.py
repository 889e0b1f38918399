"""What ``explllm explain`` does: recognize faces and explain them, on the terminal, as JSON lines or as a picture."""

import json
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape

from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError
from explllm.core.files import atomic_write
from explllm.faces.boxes import Box, FaceChoice, select_faces
from explllm.faces.crop import DEFAULT_MARGIN, face_crop
from explllm.faces.detector import FaceDetector
from explllm.faces.estimators import Estimator, open_estimator
from explllm.faces.pixels import load_image
from explllm.models.explllm import ExpLLM
from explllm.report.explained import strongest_units
from explllm.report.picture import PicturedFace, draw_picture
from explllm.report.terminal import print_explained


def explain_images(
    images: Sequence[str],
    model: str,
    device: str | None = None,
    max_new_tokens: int = 320,
    as_json: bool = False,
    *,
    detector: str | None = None,
    which: FaceChoice = "all",
    margin: float | None = None,
    landmarker: str | None = None,
    onnx: str | None = None,
    picture: str | None = None,
) -> int:
    """Recognize and explain images, and print the results in order.

    Args:
        images: Paths: of faces, or with a detector of photographs with any number of faces.
        model: A model's folder, or its name on the Hugging Face hub.
        device: Where the model runs, such as ``cuda``.
        max_new_tokens: Longest chain of thought, in tokens.
        as_json: Print one JSON object a line instead of panels.
        detector: An SCRFD file, as for `explllm.faces.detector.FaceDetector`.
        which: The faces of a photograph with several.
        margin: Around a face, as for `explllm.faces.crop.face_crop`; by default that with which the model was
            trained, else `DEFAULT_MARGIN`.
        landmarker: MediaPipe's ``face_landmarker.task``, to measure action units too; the model does not see them.
        onnx: A regressor of action units to measure them by instead, as for
            the estimator `onnx`. Without `margin` it sees faces with its own.
        picture: Write the photograph with its faces explained as an image file; for a single image.

    Returns:
        0; 1 if a photograph shows no face.

    Raises:
        InputError: If an image, the model, the detector or what measures action units does not exist or cannot be
            read, two of the latter are given, the picture cannot be written, or there is no such device; nothing is
            computed then.
    """
    if max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens {max_new_tokens}", remedy="Give at least 1.")
    if picture is not None:
        _check_picture(picture, images)
    for image in images:
        load_image(image)
    _check_device(device)
    finder = None if detector is None else FaceDetector(detector)
    opening = _estimator(landmarker, onnx)
    for line in [*(finder.runs_on if finder else ()), *(opening.runs_on if opening else ())]:
        sys.stderr.write(f"{line}\n")
    with nullcontext() if opening is None else closing(opening) as estimator:
        opened = ExpLLM.from_pretrained(model, device=device)
        own = _first(margin, opened.config.margin, DEFAULT_MARGIN)
        margins = own, _first(margin, estimator.margin if estimator else None, own)
        sources = {
            "this model": opened.config.training_data_note,
            "the estimator": estimator and estimator.training_data_note,
        }
        notes = [f"Note: of the data that {name} learned from: {said}" for name, said in sources.items() if said]
        status = 0
        for path in images:
            faces = _explained(path, opened, max_new_tokens, finder, which, margins, estimator)
            _print(path, faces, finder is not None, as_json)
            status = status if faces else 1
            if picture is not None and faces:
                with atomic_write(picture) as partial:
                    draw_picture(load_image(path), faces, " ".join(notes) or None).save(partial)
        for note in notes:
            sys.stderr.write(f"{note}\n")
    return status


def _first(*margins: float | None) -> float:
    return next(margin for margin in margins if margin is not None)


def _estimator(landmarker: str | None, onnx: str | None) -> Estimator | None:
    """Open what measures action units, if anything shall."""
    if landmarker is not None and onnx is not None:
        raise ConfigError("two estimators of action units", remedy="Give --landmarker or --onnx.")
    if onnx is not None:
        return open_estimator("onnx", onnx)
    return None if landmarker is None else open_estimator("landmarker", landmarker)


def _explained(
    path: str,
    model: ExpLLM,
    max_new_tokens: int,
    detector: FaceDetector | None,
    which: FaceChoice,
    margins: tuple[float, float],
    estimator: Estimator | None,
) -> list[PicturedFace]:
    """Return the faces of an image with all that is said of them.

    The margins are those with which the model and the estimator see a face.
    """
    boxes: list[Box | None] = [None]
    photograph = load_image(path)
    # Without a detector the model reads the file itself: one with the released preprocessing ignores the orientation.
    sources: list[str | Image.Image] = [path]
    crops = seen = [photograph]
    if detector is not None:
        boxes = [face.box for face in select_faces(detector.detect(photograph), which, photograph.size)]
        crops, seen = ([face_crop(photograph, box, margin) for box in boxes if box is not None] for margin in margins)
        sources = list(crops)
    measured = [None] * len(crops) if estimator is None else estimator.estimate(seen)
    faces = []
    for box, crop, source, units in zip(boxes, crops, sources, measured, strict=True):
        pixels = model.image(source).unsqueeze(0)
        [recognition] = model.recognize_pixels(pixels)
        [cot] = model.explain_pixels(pixels, [recognition.expression], max_new_tokens)
        name = None if units is None or estimator is None else estimator.name
        faces.append(PicturedFace(crop, box, recognition, cot, units, name))
    return faces


def _print(path: str, faces: Sequence[PicturedFace], searched: bool, as_json: bool) -> None:
    """Print the faces of an image."""
    if as_json:
        for line in [_as_json(path, faces, number, searched) for number in range(len(faces))] or [
            {"image": path, "faces": 0}
        ]:
            sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return
    console = Console()
    if not faces:
        console.print(f"{escape(path)}: no face found", highlight=False)
    for number, face in enumerate(faces, 1):
        name = f"{path}, face {number} of {len(faces)}" if len(faces) > 1 else path
        print_explained(console, name, None, face.recognition, face.cot)
        if face.action_units is not None:
            said = (
                ", ".join(f"{unit.lower()} {value:.2f}" for unit, value in strongest_units(face.action_units))
                or "none seen"
            )
            console.print(f"action units by {face.action_units_source}: {said}", highlight=False)


def _as_json(path: str, faces: Sequence[PicturedFace], place: int, searched: bool) -> dict[str, Any]:
    face = faces[place]
    line: dict[str, Any] = {
        "image": path,
        "expression": face.recognition.expression,
        "probabilities": face.recognition.probabilities,
        "key_observations": face.cot.key_observations,
        "interpretation": face.cot.interpretation,
        "conclusion": face.cot.conclusion,
        "text": face.cot.text,
    }
    if searched:
        line |= {"faces": len(faces), "face": place + 1, "box": face.box}
    if face.action_units is not None:
        line |= {
            "action_units": dict(zip(NAMES, face.action_units, strict=True)),
            "action_units_source": face.action_units_source,
        }
    return line


def _check_picture(picture: str | PathLike[str], images: Sequence[str]) -> None:
    suffix = Path(picture).suffix.lower()
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in ("PNG", "JPEG", "WEBP")}
    if suffix not in writable:
        raise ConfigError(f"a picture with the ending {suffix!r}", where=picture, remedy="Use .png, .jpg or .webp.")
    if len(images) != 1:
        raise ConfigError(f"--picture for {len(images)} images", remedy="Give one image.")


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device} cannot be used", remedy="Give one that this machine has, such as cpu or cuda:0."
        ) from error
