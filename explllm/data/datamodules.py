"""Where faces come from: a LightningDataModule for each source."""

from os import PathLike
from pathlib import Path
from typing import Any

from explllm.core.errors import MissingPathError
from explllm.core.manifest import Manifest
from explllm.data.captions import read_llava_captions
from explllm.data.face_data_module import FaceDataModule
from explllm.data.folder import read_folder, read_unsorted_folder
from explllm.data.preparation import hold_out_split
from explllm.drawn_faces.dataset import draw_faces


class FolderFaces(FaceDataModule):
    """A folder of class subfolders, in split folders or not; action units from an ``action_units.csv`` in it."""

    def __init__(self, root: str | PathLike[str], test_fraction: float = 0.0, **settings: Any) -> None:
        """Name the folder.

        Args:
            root: The folder: ``root/{train,val,test}/<class>/*`` or ``root/<class>/*``; to predict also ``root/*``.
            test_fraction: Share of the images held out for testing where the folder has no ``test`` folder.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.root, self.test_fraction = root, test_fraction

    def read(self) -> Manifest:
        """Read the folder; for `predict` it may also hold images that are not sorted into classes."""
        if self.stage == "predict" and (manifest := read_unsorted_folder(self.root)):
            return manifest
        manifest = read_folder(self.root)
        if self.test_fraction and not (manifest.frame["split"] == "test").any():
            hold_out_split(manifest.frame, "test", self.test_fraction, self.seed)
        return manifest


class ManifestFaces(FaceDataModule):
    """The rows of a manifest."""

    def __init__(self, manifest: str | PathLike[str], root: str | PathLike[str] | None = None, **settings: Any) -> None:
        """Name the table.

        Args:
            manifest: A ``.parquet``, ``.csv`` or ``.jsonl`` file.
            root: The folder that its image paths are relative to; by default its own.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.path, self.root = manifest, root

    def read(self) -> Manifest:
        """Read the table."""
        if self.root is not None and not Path(self.root).is_dir():
            raise MissingPathError("there is no such folder", where=self.root, remedy="Check --data.root.")
        manifest = Manifest.read(self.path, root=self.root)
        if self.stage != "predict":
            manifest.require("split", *self.required(manifest))
        return manifest

    def required(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the columns of labels that are needed, unless it is to predict."""
        return () if self.conversation_kind == "captions" else ("expression",)


class CaptionedImages(FaceDataModule):
    """Images with captions in LLaVA's layout, for the first stage (paper: CC3M)."""

    def __init__(self, root: str | PathLike[str], **settings: Any) -> None:
        """Name the folder.

        Args:
            root: The folder that holds ``chat.json`` and ``images/``.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.root, self.conversation_kind = root, "captions"

    def read(self) -> Manifest:
        """Read the list."""
        return read_llava_captions(self.root)


class DrawnFaces(FaceDataModule):
    """Faces drawn by a program from their action units: to learn and to test without any download."""

    def __init__(
        self,
        folder: str | PathLike[str] = "data/drawn",
        train: int = 1400,
        val: int = 140,
        test: int = 350,
        size: int = 96,
        **settings: Any,
    ) -> None:
        """Say how many faces.

        Args:
            folder: Where the images and their manifest go; kept and used again while the settings are the same.
            train: Faces to learn from.
            val: Faces to validate on.
            test: Faces to test on; no identity appears in two splits.
            size: Width and height of the images, in pixels.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.folder, self.counts, self.size = folder, {"train": train, "val": val, "test": test}, size

    def prepare_data(self) -> None:
        """Draw the faces, on one process only."""
        self.read()

    def read(self) -> Manifest:
        """Draw the faces, or read those drawn before."""
        train, val, test = (self.counts[split] for split in ("train", "val", "test"))
        return draw_faces(self.folder, train=train, val=val, test=test, size=self.size, seed=self.seed)
