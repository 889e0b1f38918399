"""FEAFA's action units from the blendshapes of MediaPipe's face landmarker.

MediaPipe gives 52 scores in [0, 1], named as ARKit names its blendshapes; left and right are the person's own, as in
FEAFA. A unit is the mean of the shapes that move the same part of the face in the same way. The mapping is this
project's own proposal: neither MediaPipe nor FEAFA's authors give one, and the scores are shapes, not FACS grades.
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
from explllm.faces.estimators import Intensities

BLENDSHAPES: dict[str, tuple[str, ...]] = {
    "Left Eye Close": ("eyeBlinkLeft",),
    "Right Eye Close": ("eyeBlinkRight",),
    "Left Lid Raise": ("eyeWideLeft",),
    "Right Lid Raise": ("eyeWideRight",),
    "Left Brow Lower": ("browDownLeft",),
    "Right Brow Lower": ("browDownRight",),
    # FEAFA raises a brow as a whole; the inner shape has no sides.
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
    "Chin Raise": ("mouthShrugLower",),
    "Lip Pucker": ("mouthPucker",),
    "Cheeks Puff": ("cheekPuff",),
    "Nose Wrinkle": ("noseSneerLeft", "noseSneerRight"),
}
"""The blendshapes whose mean is each unit's intensity."""

DEAD: tuple[str, ...] = ("Jaw Thrust", "Cheeks Puff", "Nose Wrinkle")
"""Units whose blendshapes hardly leave 0 on any photograph: they are reported as missing, not as absent."""

_BORDER = 0.25
"""Width of the border of the second look, as a share of the longer side (56 of 224 pixels)."""


class MediaPipeBlendshapes:
    """Estimates action units by MediaPipe's face landmarker.

    The most prominent face of each image counts. Where none is found, the image is looked at once more with its edge
    repeated around it, a quarter of the longer side wide: the landmarker misses faces that fill the frame.
    """

    name = "mediapipe-blendshapes"
    nothing = "no face found"
    batch = 1

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open a landmarker.

        Args:
            path: MediaPipe's ``face_landmarker.task``, one with blendshapes.

        Raises:
            MissingPathError: If there is no such file.
            CheckpointError: If the file is no face landmarker with blendshapes.
            ConfigError: If mediapipe is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingPathError("there is no such landmarker", where=path, remedy="Check the path.")
        self._mediapipe, self._landmarker = _opened(path)
        self.runs_on = ["face landmarker: CPU"]

    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces; as for `explllm.faces.estimators.Estimator`."""
        return [self._one(np.asarray(image.convert("RGB"))) for image in images]

    def close(self) -> None:
        """Free the landmarker; left to the end of the interpreter, mediapipe does so with a traceback."""
        self._landmarker.close()

    def _one(self, pixels: np.ndarray) -> Intensities | None:
        scores = self._scores(pixels)
        if scores is None:
            border = round(_BORDER * max(pixels.shape[:2]))
            framed = cv2.copyMakeBorder(pixels, border, border, border, border, cv2.BORDER_REPLICATE)
            scores = self._scores(framed)
        if scores is None:
            return None
        return [None if name in DEAD else _mean(scores, BLENDSHAPES[name]) for name in NAMES]

    def _scores(self, pixels: np.ndarray) -> dict[str, float] | None:
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        found = self._landmarker.detect(image).face_blendshapes
        return {shape.category_name: shape.score for shape in found[0]} if found else None


def _opened(path: Path) -> tuple[Any, Any]:
    """Return mediapipe and a landmarker."""
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
        _ignore_ticks()
        with _silence():
            landmarker = vision.FaceLandmarker.create_from_options(options)
            # Once for nothing, as its libraries write to the terminal then.
            landmarker.detect(blank)
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            "a file that is no face landmarker with blendshapes",
            where=path,
            remedy="Give MediaPipe's face_landmarker.task.",
        ) from error
    return mediapipe, landmarker


def _mean(scores: dict[str, float], shapes: Sequence[str]) -> float:
    return min(max(sum(scores[shape] for shape in shapes) / len(shapes), 0.0), 1.0)


def _ignore_ticks() -> None:
    """Have Python know that SIGPROF is to be ignored.

    mediapipe's library runs timers that send it, and has it ignored behind Python's back. Lightning ends each run by
    restoring the handlers that Python knows of, which would be the default one: the next tick would end the process.
    """
    tick = getattr(signal, "SIGPROF", None)  # not on Windows
    if threading.current_thread() is threading.main_thread() and tick and signal.getsignal(tick) == signal.SIG_DFL:
        signal.signal(tick, signal.SIG_IGN)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what a C++ library writes to the process's stderr from the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
