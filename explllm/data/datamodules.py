"""LightningDataModules, one for each source of faces."""

from os import PathLike
from pathlib import Path
from typing import Any

from explllm.core.errors import ConfigError, MissingPathError
from explllm.core.expressions import LabelSet
from explllm.core.manifest import Manifest
from explllm.data.face_data_module import FaceDataModule, check_share
from explllm.data.folder import read_folder, read_unsorted_folder
from explllm.data.preparation import hold_out_split
from explllm.data.readers.cc3m import read_llava_captions
from explllm.drawn_faces.dataset import draw_faces


class FolderFaces(FaceDataModule):
    """A folder of class folders, with or without split folders, and an optional ``action_units.csv``."""

    def __init__(
        self,
        root: str | PathLike[str],
        test_fraction: float = 0.0,
        label_set: str | None = None,
        keep_zero_units: bool = False,
        **settings: Any,
    ) -> None:
        """Store the folder and the settings.

        Args:
            root: The folder: ``root/{train,val,test}/<class>/*`` or ``root/<class>/*``; for `predict` also ``root/*``.
            test_fraction: Share of the training images to hold out for testing if there is no ``test`` folder. Set it
                for `fit`; `test` takes it from the run.
            label_set: Label set with the allowed classes, such as ``rafdb``; required if class folders are named by
                numbers.
            keep_zero_units: Treat action units that stay at zero in ``action_units.csv`` as measured.
            **settings: See `FaceDataModule`.

        Raises:
            ConfigError: If a number is out of range, or the label set is unknown.
        """
        super().__init__(**settings)
        check_share("test_fraction", test_fraction)
        self.root, self.test_fraction, self.keep_zero_units = root, test_fraction, keep_zero_units
        self.label_set = None if label_set is None else LabelSet.by_name(label_set)

    def read(self) -> Manifest:
        """Read the folder; for `predict`, images need not be sorted into class folders."""
        if self.stage == "predict" and (manifest := read_unsorted_folder(self.root)):
            return manifest
        manifest = read_folder(self.root, label_set=self.label_set, keep_zero_units=self.keep_zero_units)
        if self.test_fraction and not (manifest.frame["split"] == "test").any():
            hold_out_split(manifest.frame, "test", self.test_fraction, self.seed)
        return manifest


class ManifestFaces(FaceDataModule):
    """The rows of a manifest."""

    def __init__(self, manifest: str | PathLike[str], root: str | PathLike[str] | None = None, **settings: Any) -> None:
        """Store the paths and the settings.

        Args:
            manifest: A ``.parquet``, ``.csv`` or ``.jsonl`` file.
            root: The folder that the image paths are relative to; by default the manifest's folder.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.path, self.root = manifest, root

    def read(self) -> Manifest:
        """Read the manifest and, except for `predict`, check that the required columns have values."""
        if self.root is not None and not Path(self.root).is_dir():
            raise MissingPathError("the folder does not exist", where=self.root, remedy="Check --data.root.")
        manifest = Manifest.read(self.path, root=self.root)
        if self.stage != "predict" and len(manifest):
            manifest.require("split", *self.required(manifest))
        return manifest

    def required(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the required label columns: ``expression``, except for captions or training only on ``unit_state``."""
        kinds = {kind for kind, share in self.shares.items() if share}
        trains_units_only = self.stage == "fit" and kinds == {"unit_state"}
        return () if trains_units_only or self.conversation_kind == "captions" else ("expression",)


class CaptionedImages(FaceDataModule):
    """Images with captions in LLaVA's layout, for the first stage (paper: CC3M)."""

    def __init__(self, root: str | PathLike[str], **settings: Any) -> None:
        """Store the folder and the settings.

        Args:
            root: The folder with ``chat.json`` or ``blip_laion_cc_sbu_558k.json``, and with the images, which may be in
                ``images/``.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.root = root
        self.conversation_kind = "captions"

    def read(self) -> Manifest:
        """Read the list of captions."""
        return read_llava_captions(self.root)


class DrawnFaces(FaceDataModule):
    """Faces drawn by a program from their action units, for training and testing without a download."""

    def __init__(
        self,
        folder: str | PathLike[str] = "data/drawn",
        train: int = 1400,
        val: int = 140,
        test: int = 350,
        size: int = 96,
        drawing_seed: int = 0,
        **settings: Any,
    ) -> None:
        """Store the numbers of faces and the settings.

        Args:
            folder: Folder of the images and their manifest; reused as long as the settings are the same.
            train: Number of training faces.
            val: Number of validation faces.
            test: Number of test faces; no identity appears in two splits.
            size: Width and height of the images, in pixels.
            drawing_seed: Seed of the drawn faces. It is independent of ``seed``, so that runs with different seeds use
                the same faces.
            **settings: See `FaceDataModule`.

        Raises:
            ConfigError: If a number is out of range.
        """
        super().__init__(**settings)
        for name, count in (("train", train), ("val", val), ("test", test), ("drawing_seed", drawing_seed)):
            if count < 0:
                raise ConfigError(f"`data.{name}` is {count}", remedy="Use 0 or more.")
        self.folder, self.counts, self.size = folder, {"train": train, "val": val, "test": test}, size
        self.drawing_seed = drawing_seed

    def prepare_data(self) -> None:
        """Draw the faces, in one process only."""
        self.read()

    def read(self) -> Manifest:
        """Draw the faces, or read them if they have been drawn before with the same settings."""
        train, val, test = (self.counts[split] for split in ("train", "val", "test"))
        return draw_faces(self.folder, train=train, val=val, test=test, size=self.size, seed=self.drawing_seed)
