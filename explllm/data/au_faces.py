"""Datasets and LightningDataModules of faces with action units, for training and testing the regressor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from explllm.core.action_units import FEAFA
from explllm.core.errors import ManifestError
from explllm.core.manifest import Manifest
from explllm.data.datamodules import DrawnFaces, ManifestFaces
from explllm.data.dataset import Augmentation, Batch, ImageCache, find_readable, rows_from
from explllm.data.face_data_module import FaceDataModule
from explllm.data.mixture import SampleSpec, SinglePass
from explllm.data.preparation import Split
from explllm.data.transforms import Augment
from explllm.faces.crop import DEFAULT_MARGIN


@dataclass(frozen=True)
class UnitSample:
    """One face with its labels."""

    pixel_values: torch.Tensor
    """float32 (3, H, W)."""
    row: int
    """Row of the table; -1 - row for a padding face, which equalizes the ranks' shares and is not counted."""
    action_units: torch.Tensor
    """(24,) intensities, NaN for units without a label."""
    facs: torch.Tensor
    """(K,) FACS units: 0, 1, or NaN in a row without labels; empty in training and for data without FACS labels."""
    unreadable: tuple[str, ...] = ()
    """Images that could not be read, with the reason."""
    readable: bool = True
    """Whether the image could be read; `pixel_values` are zeros otherwise."""


@dataclass(frozen=True)
class UnitLabels:
    """The labels of all rows of a table."""

    action_units: np.ndarray
    """(rows, 24) float32, NaN for units without a label."""
    facs_set: str | None
    """Name of the set of FACS units, if the table has one."""
    facs: np.ndarray
    """(rows, K) float32, NaN in rows without labels; K is 0 for a table without FACS labels."""

    @classmethod
    def of(cls, manifest: Manifest) -> "UnitLabels":
        """Return the labels of a table; units listed in its column ``action_units_missing`` have no label.

        Raises:
            ManifestError: If the FACS labels are invalid.
        """
        frame = manifest.frame
        units = np.full((len(frame), len(FEAFA)), np.nan, np.float32)
        for row, cell in enumerate(manifest.intensities()):
            if cell is not None:
                units[row] = [np.nan if value is None else value for value in cell]
        return cls(units, *manifest.facs_labels())

    def labeled(self) -> np.ndarray:
        """Return which rows have a label for at least one FEAFA or FACS unit: (rows,) bool."""
        return ~np.all(np.isnan(self.action_units), 1) | np.any(~np.isnan(self.facs), 1)


class TrainingUnits(Dataset[UnitSample]):
    """Training faces with their intensities, indexed by `SampleSpec`."""

    def __init__(
        self,
        images: ImageCache,
        labels: UnitLabels,
        rows: Sequence[int],
        augment: Augmentation | None = None,
        max_unreadable: int = 0,
    ) -> None:
        """Store the images, the labels and the settings.

        Args:
            images: The images by row.
            labels: The labels by row.
            rows: The training rows; a row with an unreadable image is replaced with another of these rows.
            augment: Changes the image and the intensities together; none by default.
            max_unreadable: Maximum number of consecutive unreadable images to skip.
        """
        self.images, self.labels, self.augment, self.max_unreadable = images, labels, augment, max_unreadable
        self.rows = list(rows)
        self.index_of = {row: index for index, row in enumerate(self.rows)}

    def __len__(self) -> int:
        """Return the number of training rows."""
        return len(self.rows)

    def __getitem__(self, spec: SampleSpec) -> UnitSample:  # pyrefly: ignore[bad-override-param-name]
        """Return a sample.

        A row with an unreadable image is recorded in the sample and replaced with the next row. If more than
        `max_unreadable` consecutive images are unreadable, the sample has no face and the training step raises an
        error.
        """
        rows = rows_from(self.rows, self.index_of[spec.row])
        face, unreadable = find_readable(self.images, rows, self.max_unreadable)
        if face is None:
            return replace(_blank(self.images, self.labels, spec.row, unreadable), facs=torch.zeros(0))
        image, units = face.image, self.labels.action_units[face.row].tolist()
        if self.augment is not None:
            image, units, _ = self.augment(image, units, None, spec.seed)
        pixels = self.images.preset.normalize(image)
        return UnitSample(pixels, face.row, torch.tensor(units), torch.zeros(0), unreadable)


class EvaluationUnits(Dataset[UnitSample]):
    """Faces with their labels, in the table's order."""

    def __init__(self, images: ImageCache, labels: UnitLabels, rows: Sequence[int]) -> None:
        """Store the labels and the rows that this process evaluates; see `EvaluationDataset`."""
        self.images, self.labels, self.rows = images, labels, list(rows)

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.rows)

    def __getitem__(self, index: int) -> UnitSample:
        """Return a face; if its image is unreadable, pixels are zeros, labels are NaN, and `unreadable` names it."""
        number = self.rows[index]
        row = number if number >= 0 else -1 - number
        face, unreadable = find_readable(self.images, [row])
        if face is None:
            return _blank(self.images, self.labels, number, unreadable)
        pixels = self.images.preset.normalize(face.image)
        units, facs = torch.tensor(self.labels.action_units[row]), torch.tensor(self.labels.facs[row])
        return UnitSample(pixels, number, units, facs)


def collate_units(samples: list[UnitSample]) -> Batch:
    """Return a `Batch` with ``action_units`` (B, 24) and ``facs`` (B, K), but without expressions or conversations."""
    return {
        "pixel_values": torch.stack([sample.pixel_values for sample in samples]),
        "action_units": torch.stack([sample.action_units for sample in samples]),
        "facs": torch.stack([sample.facs for sample in samples]),
        "rows": torch.tensor([sample.row for sample in samples]),
        "readable": torch.tensor([sample.readable for sample in samples]),
        "unreadable": [name for sample in samples for name in sample.unreadable],
    }


class ActionUnitData(FaceDataModule):
    """Faces with action units; subclasses read them from a source."""

    def __init__(
        self,
        batch_size: int = 64,
        micro_batch_size: int = 32,
        eval_batch_size: int = 64,
        augment: Augment | None = None,
        val_fraction: float = 0.0,
        margin: float = DEFAULT_MARGIN,
        cache_megabytes: float = 1000,
        num_workers: int = 0,
        seed: int | None = None,
        max_unreadable: int = 0,
    ) -> None:
        """Check and store the settings.

        Args:
            batch_size: Faces in one optimizer step, across all devices; determines gradient accumulation.
            micro_batch_size: Faces that one device processes at a time.
            eval_batch_size: Number of faces whose action units one device estimates at a time.
            augment: Augmentation of training images; none if null. Set its `erase` to 0, because erased areas would
                hide units.
            val_fraction: Share of the training rows (or people, if all rows have an identity) to hold out for
                validation if the data has no split ``val``.
            margin: Margin added on each side of a face's box, as a share of its longer side. Images without a box are
                assumed to be face crops and are used whole.
            cache_megabytes: Memory for decoded images, in MB per worker.
            num_workers: Worker processes that prepare batches; with 0, the main process prepares them.
            seed: Seed of the augmentation, the held-out rows and the order of faces; by default the run's
                ``seed_everything``, or 0 if that is not set.
            max_unreadable: Maximum number of unreadable images to report and skip before the run stops.

        Raises:
            ConfigError: If a number is out of range.
        """
        super().__init__(
            batch_size=batch_size,
            micro_batch_size=micro_batch_size,
            eval_batch_size=eval_batch_size,
            augment=augment,
            val_fraction=val_fraction,
            write_cot=False,
            margin=margin,
            cache_megabytes=cache_megabytes,
            num_workers=num_workers,
            seed=seed,
            max_unreadable=max_unreadable,
        )
        self._labels: UnitLabels | None = None

    @property
    def labels(self) -> UnitLabels:
        """The labels by row."""
        if self._labels is None:
            self._labels = UnitLabels.of(self._manifest())
        return self._labels

    @property
    def training_data_note(self) -> str:
        """A caveat for all metrics of models trained on this data: drawn faces, sources of labels; may be empty."""
        frame = self._manifest().frame
        sources = sorted({str(name) for name in frame.get("action_units_source", pd.Series(dtype=object)).dropna()})
        others = ", ".join(name for name in sources if name != "drawn")
        notes = (self._manifest().drawn_note, others and f"Action unit labels by: {others}.")
        return " ".join(filter(None, notes))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training faces; an epoch contains each face with intensities at most once.

        Raises:
            InputError: If no row has intensities, or the settings differ from those of the resumed run.
        """
        frame, labels = self._split("train"), self.labels
        has_units = ~np.all(np.isnan(labels.action_units), 1)
        rows = [int(row) for row in frame.index if has_units[row]]
        if not rows:
            raise ManifestError(
                "no row of the split `train` has action units",
                where=self._where(),
                remedy="Use a manifest with intensities, such as one written by `explllm data feafa` or `explllm aus`.",
            )
        dataset = TrainingUnits(self.images(), labels, rows, self.augment, self.max_unreadable)
        return self._training_loader(SinglePass(rows, "action_units", self.seed), dataset, collate_units)

    def _can_validate(self) -> bool:
        return not self.frame("val").empty

    def _evaluation_loader(self, split: Split | None) -> DataLoader[Any]:
        frame, labels = self._split(split), self.labels
        rows = frame.index if split is None else frame.index[labels.labeled()[frame.index]]
        if rows.empty:
            raise ManifestError(
                f"no row of the split `{split}` has FEAFA or FACS action units",
                where=self._where(),
                remedy="Use a manifest with labels, or `explllm predict`.",
            )
        return self._loader(EvaluationUnits(self.images(), labels, self._share(rows)), collate_units)


class ManifestActionUnits(ManifestFaces, ActionUnitData):
    """The rows of a manifest with action units: FEAFA intensities, or, for evaluation, FACS units (DISFA, BP4D)."""

    def required(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the required columns: ``action_units``, except outside training if there is a column ``facs``."""
        return () if "facs" in manifest.frame and self.stage != "fit" else ("action_units",)


class DrawnActionUnits(DrawnFaces, ActionUnitData):
    """Faces drawn by a program from their action units, for training and testing without a download."""


def _blank(images: ImageCache, labels: UnitLabels, row: int, unreadable: tuple[str, ...]) -> UnitSample:
    """Return a sample of zeros without labels."""
    pixels = torch.zeros(3, images.preset.size, images.preset.size)
    facs = torch.full((labels.facs.shape[1],), torch.nan)
    return UnitSample(pixels, row, torch.full((len(FEAFA),), torch.nan), facs, unreadable, readable=False)
