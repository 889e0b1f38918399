"""Training and evaluation data: readers, data modules, augmentation.

`readers` turn a data set in its publisher's layout into a manifest. The LightningDataModules read a manifest, a folder
of class folders or drawn faces, and mix FER and CoT conversations for training. They work with a Trainer or, after
`prepare_for(model)`, alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.data.au_faces import DrawnActionUnits, ManifestActionUnits
    from explllm.data.datamodules import CaptionedImages, DrawnFaces, FolderFaces, ManifestFaces
    from explllm.data.folder import read_folder
    from explllm.data.readers.registry import read_data_set
    from explllm.data.transforms import Augment, ReleasedAugment

_MODULES = {
    "Augment": "transforms",
    "CaptionedImages": "datamodules",
    "DrawnActionUnits": "au_faces",
    "DrawnFaces": "datamodules",
    "FolderFaces": "datamodules",
    "ManifestActionUnits": "au_faces",
    "ManifestFaces": "datamodules",
    "ReleasedAugment": "transforms",
    "read_data_set": "readers.registry",
    "read_folder": "folder",
}

__all__ = [
    "Augment",
    "CaptionedImages",
    "DrawnActionUnits",
    "DrawnFaces",
    "FolderFaces",
    "ManifestActionUnits",
    "ManifestFaces",
    "ReleasedAugment",
    "read_data_set",
    "read_folder",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the data modules import Lightning, which takes seconds.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
