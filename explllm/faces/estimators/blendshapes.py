"""FEAFA's action units from the blendshapes of MediaPipe's face landmarker.

MediaPipe gives 52 scores in [0, 1] with the names of ARKit's blendshapes. Left and right are the person's own, as in
FEAFA. The intensity of a unit is the mean of the blendshapes that move the same part of the face in the same way. The
mapping is ours, because neither MediaPipe nor the authors of FEAFA publish one. The scores are not FACS grades.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.faces.estimators.registry import Estimator, Intensities, register_estimator

BLENDSHAPES: dict[str, tuple[str, ...]] = {
    "Left Eye Close": ("eyeBlinkLeft",),
    "Right Eye Close": ("eyeBlinkRight",),
    "Left Lid Raise": ("eyeWideLeft",),
    "Right Lid Raise": ("eyeWideRight",),
    "Left Brow Lower": ("browDownLeft",),
    "Right Brow Lower": ("browDownRight",),
    # FEAFA's Brow Raise covers the whole brow. The inner blendshape has no side, so both units use it.
    "Left Brow Raise": ("browOuterUpLeft", "browInnerUp"),
    "Right Brow Raise": ("browOuterUpRight", "browInnerUp"),
    "Jaw Drop": ("jawOpen",),
    "Jaw Slide Left": ("jawLeft",),
    "Jaw Slide Right": ("jawRight",),
    "Left Lip Corner Pull": ("mouthSmileLeft",),
    "Right Lip Corner Pull": ("mouthSmileRight",),
    "Left Lip Corner Stretch": ("mouthStretchLeft",),
    "Right Lip Corner Stretch": ("mouthStretchRight",),
    "Upper Lip Suck": ("mouthRollUpper",),
    "Lower Lip Suck": ("mouthRollLower",),
    "Jaw Thrust": ("jawForward",),
    "Upper Lip Raise": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "Lower Lip Depress": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    # mouthShrugUpper is left out. It correlates with mouthShrugLower (0.71 on 301 faces of FER2013), but the mean of
    # both separates sad faces worse (AUC 0.60 instead of 0.66) and agrees less with the mirror image (0.51 instead
    # of 0.58).
    "Chin Raise": ("mouthShrugLower",),
    "Lip Pucker": ("mouthPucker",),
    "Cheeks Puff": ("cheekPuff",),
    "Nose Wrinkle": ("noseSneerLeft", "noseSneerRight"),
}
"""The blendshapes of each unit; their mean is the unit's intensity."""

UNMEASURED: tuple[str, ...] = ("Jaw Thrust", "Cheeks Puff", "Nose Wrinkle")
"""Units whose blendshapes stay near 0 on every photograph. They are reported as unmeasured, not as absent."""

_BORDER = 0.25
"""Width of the border for the second attempt, as a share of the longer side (56 of 224 pixels)."""


@register_estimator("landmarker")
class MediaPipeBlendshapes(Estimator):
    """Estimates action units with MediaPipe's face landmarker.

    The landmarker measures the most prominent face of each image. It misses faces that fill the image, so an image
    without a result is tried again with a border of repeated edge pixels. The width of the border is a quarter of the
    longer side.
    """

    file_help = "MediaPipe's face_landmarker.task: blendshapes, mapped to action units."
    name = "mediapipe-blendshapes"
    runs_on = ("face landmarker: CPU",)

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open a landmarker.

        Args:
            path: MediaPipe's ``face_landmarker.task``, in a version with blendshapes.

        Raises:
            MissingPathError: If the file does not exist.
            CheckpointError: If the file is not a face landmarker with blendshapes.
            ConfigError: If mediapipe is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingPathError("the landmarker does not exist", where=path, remedy="Check the path.")
        self._mediapipe, self._landmarker = _open_landmarker(path)

    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces; see `Estimator.estimate`."""
        return [
            self._estimate_one(np.asarray(image if image.mode == "RGB" else image.convert("RGB"))) for image in images
        ]

    def close(self) -> None:
        """Release the landmarker. If it is closed only at interpreter shutdown, mediapipe prints a traceback."""
        self._landmarker.close()

    def _estimate_one(self, pixels: np.ndarray) -> Intensities | None:
        scores = self._scores(pixels)
        if scores is None:
            border = round(_BORDER * max(pixels.shape[:2]))
            framed = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
            scores = self._scores(framed)
        if scores is None:
            return None
        return [None if name in UNMEASURED else _mean(scores, BLENDSHAPES[name]) for name in NAMES]

    def _scores(self, pixels: np.ndarray) -> dict[str, float] | None:
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        faces = self._landmarker.detect(image).face_blendshapes
        return {shape.category_name: shape.score for shape in faces[0]} if faces else None


def _open_landmarker(path: Path) -> tuple[Any, Any]:
    """Return the mediapipe module and a landmarker."""
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except ImportError as error:
        raise ConfigError(
            f"mediapipe cannot be imported ({error})", remedy='Install it: pip install "explllm[aus]".'
        ) from error
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(path)), output_face_blendshapes=True, num_faces=1
    )
    blank = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.zeros((64, 64, 3), np.uint8))
    try:
        _ignore_sigprof()
        with _silence_stderr():
            landmarker = vision.FaceLandmarker.create_from_options(options)
            # On the first call, mediapipe's libraries write to the terminal.
            landmarker.detect(blank)
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            "a file that is not a face landmarker with blendshapes",
            where=path,
            remedy="Pass MediaPipe's face_landmarker.task.",
        ) from error
    return mediapipe, landmarker


def _mean(scores: dict[str, float], shapes: Sequence[str]) -> float:
    return min(max(sum(scores[shape] for shape in shapes) / len(shapes), 0.0), 1.0)


def _ignore_sigprof() -> None:
    """Make Python aware that SIGPROF is ignored.

    mediapipe runs timers that send SIGPROF, and ignores the signal without Python's knowledge. After each run,
    Lightning restores the handlers that Python reports. For SIGPROF, that would be the default handler, and the
    next timer would end the process.
    """
    sigprof = getattr(signal, "SIGPROF", None)  # absent on Windows
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and sigprof and signal.getsignal(sigprof) == signal.SIG_DFL:
        signal.signal(sigprof, signal.SIG_IGN)


@contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard what C++ libraries write to the stderr of the process."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
