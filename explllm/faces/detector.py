"""Face detection with SCRFD (Guo et al., arXiv:2105.04714; the paper's detector), through insightface."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.faces.boxes import Detection, Detections
from explllm.faces.images import ImageSource, ReducedImage, load_reduced
from explllm.faces.onnx_session import Provider, describe_provider, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DEFAULT_INPUT_SIZE = 640
"""Input width and height in pixels for a detector that accepts any size; SCRFD was trained with this size."""

_OUTPUTS = {6: (3, False), 9: (3, True), 10: (5, False), 15: (5, True)}
"""Maps the number of outputs of an SCRFD model to its number of pyramid levels and whether it predicts landmarks."""

_BORDER = 0.5
"""Width of the border for the second attempt, as a share of the longer side: the face then fills half of the frame.

Of 150 tightly cropped faces, the SCRFD model of 500 MFLOPs detects 4 without a border, 106 with a border of 0.25, 147
with 0.5 and 147 with 1.
"""


class FaceDetector:
    """Detects the faces of an image.

    SCRFD misses faces that fill the image, so an image without a detection is tried again with a black border.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        input_size: int | None = None,
        threshold: float = 0.5,
        provider: Provider = "auto",
        threads: int | None = None,
    ) -> None:
        """Open a detector.

        Args:
            path: An SCRFD ONNX file, or a folder that contains exactly one (and possibly other models).
            input_size: Width and height of the input in pixels, a multiple of 32 (of 128 for a model with five pyramid
                levels); 640 by default. It can be set only for a file that accepts any size.
            threshold: Minimum score of a face.
            provider: Device of the model.
            threads: CPU threads; all available cores by default.

        Raises:
            MissingPathError: If the file does not exist, or the folder has no ONNX file.
            CheckpointError: If the file is not an ONNX model of SCRFD, or the folder does not contain exactly one.
            ConfigError: If insightface or onnxruntime is not installed, the requested GPU cannot be used, or the size
                or the threshold is invalid.
        """
        if not 0 < threshold < 1:
            raise ConfigError(f"the threshold is {threshold:g}", remedy="Use a number between 0 and 1.")
        self.file, self.session = _scrfd(Path(path), provider, threads)
        self.runs_on = describe_provider(self.session, "face detector", provider)
        self.size = _input_size(self.session, input_size, self.file)
        try:
            from insightface.model_zoo.scrfd import SCRFD
        except ImportError as error:
            raise ConfigError(
                f"insightface cannot be imported ({error})", remedy='Install it: pip install "explllm[faces]".'
            ) from error
        self._scrfd: Any = SCRFD(model_file=str(self.file), session=self.session)
        # If no size is set, insightface runs a file that accepts any size at two sizes and returns some faces twice.
        self._scrfd.prepare(0, input_size=(self.size, self.size), det_thresh=threshold)
        _check_outputs(self.session, self.size, self.file)

    def detect(self, image: ImageSource) -> Detections:
        """Detect the faces of an image, which is rotated according to its EXIF orientation.

        Returns:
            The faces by descending score; boxes and landmarks in pixels of the upright image.

        Raises:
            ImageError: If the image cannot be read.
            MissingPathError: If the file does not exist.
        """
        return self.detect_reduced(load_reduced(image, 2 * self.size))

    def detect_reduced(self, image: ReducedImage) -> Detections:
        """Detect the faces of an image that may have been reduced, but not below twice the input size; see `detect`."""
        pixels = image.pixels
        height, width = pixels.shape[:2]
        if max(width, height) > 2 * self.size:
            # insightface downsamples without antialiasing, which is harmless only up to a factor of 2.
            scale = self.size / max(width, height)
            smaller = max(round(width * scale), 1), max(round(height * scale), 1)
            pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        faces = self._run(pixels, 0)
        if not faces:
            faces = self._run(pixels, round(_BORDER * max(pixels.shape[:2])))
        back = image.size[0] / pixels.shape[1], image.size[1] / pixels.shape[0]
        scaled = (_detection(corners, score, points, back, image.size) for corners, score, points in faces)
        return Detections(face for face in scaled if face is not None)

    def _run(self, pixels: np.ndarray, border: int) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
        """Return the corners (4,), score and landmarks (5, 2) of each face."""
        height, width = pixels.shape[:2]
        # A narrow strip would shrink to zero pixels, so widen it enough to leave at least one pixel.
        thin = max(0, -(-max(width, height) // self.size) - min(width, height))
        down, right = border + thin * (height < width), border + thin * (width < height)
        if border or thin:
            pixels = cv2.copyMakeBorder(pixels, border, down, border, right, cv2.BORDER_CONSTANT)
        boxes, points = self._scrfd.detect(pixels)
        return [
            (box[:4] - border, float(box[4]), None if points is None else points[index] - border)
            for index, box in enumerate(boxes)
        ]


def _detection(
    corners: np.ndarray, score: float, points: np.ndarray | None, scale: tuple[float, float], size: tuple[int, int]
) -> Detection | None:
    """Return a face in image pixel coordinates; None if it lies outside the image."""
    left, right = np.clip(corners[[0, 2]] * scale[0], 0, size[0]).tolist()
    top, bottom = np.clip(corners[[1, 3]] * scale[1], 0, size[1]).tolist()
    box = tuple(round(number, 2) for number in (left, top, right - left, bottom - top))
    if min(box[2:]) <= 0:
        return None
    marks = None
    if points is not None:
        marks = tuple((round(x * scale[0], 2), round(y * scale[1], 2)) for x, y in points.tolist())
    return Detection((box[0], box[1], box[2], box[3]), round(min(max(score, 0.0), 1.0), 4), marks)


def _scrfd(path: Path, provider: Provider, threads: int | None) -> tuple[Path, InferenceSession]:
    """Return the path and session of an SCRFD file, or of the only SCRFD file in a folder."""
    if not path.is_dir():
        session = open_session(path, provider, threads)
        _check_form(session, path)
        return path, session
    files = sorted(path.glob("*.onnx"))
    if not files:
        raise MissingPathError("the folder has no .onnx files", where=path, remedy="Pass the detector's file.")
    detectors = []
    for file in files:
        try:
            detectors.append(_scrfd(file, provider, threads))
        except CheckpointError:
            continue
    if len(detectors) != 1:
        names = ", ".join(file.name for file, _ in detectors) or "none"
        count = f"{len(detectors)} SCRFD detectors among {len(files)} ONNX files"
        raise CheckpointError(f"{count}: {names}", where=path, remedy="Pass the path of one of them.")
    return detectors[0]


def _not_scrfd(what: str, file: Path) -> CheckpointError:
    return CheckpointError(
        f"an ONNX model that is not an SCRFD face detector: {what}",
        where=file,
        remedy="Use a file such as scrfd_10g_bnkps.onnx or buffalo_l's det_10g.onnx.",
    )


def _check_form(session: InferenceSession, file: Path) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(outputs) not in _OUTPUTS:
        raise _not_scrfd(f"{len(outputs)} outputs instead of {', '.join(map(str, _OUTPUTS))}", file)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        raise _not_scrfd(f"its input is {[value.shape for value in inputs]}, not (B, 3, H, W)", file)


def _input_size(session: InferenceSession, requested: int | None, file: Path) -> int:
    height, width = session.get_inputs()[0].shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        if height != width:
            raise _not_scrfd(f"its input is {width} x {height}, not square", file)
        if requested not in (None, width):
            raise ConfigError(
                f"the input size is {requested}, but the detector takes {width} x {height} pixels",
                where=file,
                remedy="Omit --input_size, or use a file that accepts any size.",
            )
        return width
    size = DEFAULT_INPUT_SIZE if requested is None else requested
    step = 128 if _OUTPUTS[len(session.get_outputs())][0] == 5 else 32
    if size < step or size % step:
        raise ConfigError(f"the input size is {size}", where=file, remedy=f"Use a multiple of {step}.")
    return size


def _check_outputs(session: InferenceSession, size: int, file: Path) -> None:
    """Run the model once to check its output shapes, because other models may have the same number of outputs."""
    value = session.get_inputs()[0]
    kind = np.float16 if value.type == "tensor(float16)" else np.float32
    try:
        outputs: Sequence[Any] = session.run(None, {value.name: np.zeros((1, 3, size, size), kind)})
    except Exception as error:  # onnxruntime's errors have no common base class
        raise _not_scrfd(f"it cannot run on {size} x {size} pixels", file) from error
    levels = _OUTPUTS[len(outputs)][0]
    anchors = 2 if levels == 3 else 1
    for index, output in enumerate(outputs):
        stride, wide = 8 * 2 ** (index % levels), (1, 4, 10)[index // levels]
        tall = (size // stride) ** 2 * anchors
        if np.shape(output)[-2:] != (tall, wide):
            raise _not_scrfd(f"output {index + 1} is {np.shape(output)}, not {tall} x {wide}", file)
