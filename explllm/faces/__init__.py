"""From photographs to faces: image reading, face detection, square crops, and action unit estimation.

`pixels` reads images of any mode and prepares model input. `detector` finds faces, `boxes` selects among them and
`crop` cuts them out. `estimators` is the registry of action unit estimators. `detection` and `estimation` process the
rows of a manifest with them, as resumable `jobs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.faces.boxes import Box, Detection, iou
    from explllm.faces.crop import DEFAULT_MARGIN, face_crop, load_face
    from explllm.faces.detector import FaceDetector
    from explllm.faces.estimators import ESTIMATORS, Estimator, open_estimator, register_estimator
    from explllm.faces.pixels import IMAGE_PRESETS, ImagePreset, ImageSource, load_image

_MODULES = {
    "DEFAULT_MARGIN": "crop",
    "ESTIMATORS": "estimators",
    "IMAGE_PRESETS": "pixels",
    "Box": "boxes",
    "Detection": "boxes",
    "Estimator": "estimators",
    "FaceDetector": "detector",
    "ImagePreset": "pixels",
    "ImageSource": "pixels",
    "face_crop": "crop",
    "iou": "boxes",
    "load_face": "crop",
    "load_image": "pixels",
    "open_estimator": "estimators",
    "register_estimator": "estimators",
}

__all__ = [
    "DEFAULT_MARGIN",
    "ESTIMATORS",
    "IMAGE_PRESETS",
    "Box",
    "Detection",
    "Estimator",
    "FaceDetector",
    "ImagePreset",
    "ImageSource",
    "face_crop",
    "iou",
    "load_face",
    "load_image",
    "open_estimator",
    "register_estimator",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
