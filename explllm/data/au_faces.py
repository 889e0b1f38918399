"""Faces with action units, for the regressor that estimates them: data sets and Lightning data modules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from explllm.core.action_units import FEAFA
from explllm.core.errors import ManifestError
from explllm.core.facs import FACS_SETS
from explllm.core.manifest import Manifest
from explllm.data.datamodules import DrawnFaces, ManifestFaces
from explllm.data.dataset import Augmentation, Batch, ImageCache, find_readable, rows_from
from explllm.data.face_data_module import FaceDataModule
from explllm.data.mixture import BatchSampler, SampleSpec, SinglePass
from explllm.data.preparation import Split
from explllm.data.transforms import Augment
from explllm.faces.crop import DEFAULT_MARGIN


@dataclass(frozen=True)
class UnitSample:
    """One face with its labels."""

    pixel_values: torch.Tensor
    """float32 (3, H, W)."""
    row: int
    """Row of the table; -1 - row where the face fills up a process's share and does not count."""
    action_units: torch.Tensor
    """(24,) intensities, not a number where a unit is not labeled."""
    facs: torch.Tensor
    """(K,) FACS units, 0 or 1; empty where the data has none."""
    unreadable: tuple[str, ...] = ()
    """Images, with the reason, that could not be read."""
    readable: bool = True
    """Whether `pixel_values` are a face; zeros otherwise."""


@dataclass(frozen=True)
class UnitLabels:
    """The labels of all rows of a table."""

    action_units: np.ndarray
    """(rows, 24) float32, not a number where a unit is not labeled."""
    facs_set: str | None
    """The name of the set of FACS units, if the table has one."""
    facs: np.ndarray
    """(rows, K) float32, not a number in rows without labels; K is 0 if the table has none."""

    @classmethod
    def of(cls, manifest: Manifest) -> "UnitLabels":
        """Take the labels out of a table.

        Units that the column ``action_units_missing`` names are not labeled: their intensity there says 0.

        Args:
            manifest: The table.

        Returns:
            The labels.

        Raises:
            ManifestError: If the FACS labels cannot be understood.
        """
        frame = manifest.frame
        units = np.full((len(frame), len(FEAFA)), np.nan, np.float32)
        for row, cell in enumerate(manifest.intensities()):
            if cell is not None:
                units[row] = [np.nan if value is None else value for value in cell]
        return cls(units, *_facs(frame))

    def labeled(self) -> np.ndarray:
        """Return which rows have a label of some unit, FEAFA's or FACS's: (rows,) bool."""
        return ~np.isnan(self.action_units).all(1) | (~np.isnan(self.facs)).any(1)


class TrainingUnits(Dataset[UnitSample]):
    """Augmented faces by `SampleSpec`."""

    def __init__(
        self,
        images: ImageCache,
        labels: UnitLabels,
        rows: Sequence[int],
        augment: Augmentation | None = None,
        max_unreadable: int = 0,
    ) -> None:
        """Keep what a sample is made of.

        Args:
            images: The images by row.
            labels: The labels by row.
            rows: The rows to learn from; only they take the place of an unreadable one.
            augment: Changes image and intensities together; a flip exchanges left and right in both.
            max_unreadable: Unreadable images in a row after which the search for a readable one ends.
        """
        self.images, self.labels, self.augment, self.max_unreadable = images, labels, augment, max_unreadable
        self.rows = list(rows)
        self.places = {row: place for place, row in enumerate(self.rows)}

    def __len__(self) -> int:
        """Return the number of rows to learn from."""
        return len(self.rows)

    def __getitem__(self, draw: SampleSpec) -> UnitSample:
        """Make a sample; a row whose image cannot be read is named in it and replaced by the next row.

        Where more rows than `max_unreadable` are tried in vain, the sample has no face: whoever counts stops the run.
        """
        rows = rows_from(self.rows, self.places[draw.row])
        found, unreadable = find_readable(self.images, rows, self.max_unreadable)
        if found is None:
            return _blank(self.images, self.labels, draw.row, unreadable)
        row, image = found
        units = self.labels.action_units[row].tolist()
        if self.augment is not None:
            image, units, _ = self.augment(image, units, None, draw.seed)
        pixels = self.images.preset.normalize(image)
        return UnitSample(pixels, row, torch.tensor(units), torch.zeros(0), unreadable)


class EvaluationUnits(Dataset[UnitSample]):
    """Faces as they are, in the table's order."""

    def __init__(self, images: ImageCache, labels: UnitLabels, rows: Sequence[int]) -> None:
        """Keep the labels and the rows that this process evaluates; a row given as -1 - row fills up its share."""
        self.images, self.labels, self.rows = images, labels, list(rows)

    def __len__(self) -> int:
        """Return the number of faces."""
        return len(self.rows)

    def __getitem__(self, index: int) -> UnitSample:
        """Return a face; one that cannot be read comes as zeros with its name in `unreadable`, to be counted."""
        row = self.rows[index]
        place = row if row >= 0 else -1 - row
        found, unreadable = find_readable(self.images, [place])
        if found is None:
            return _blank(self.images, self.labels, row, unreadable)
        pixels = self.images.preset.normalize(found[1])
        units, facs = torch.tensor(self.labels.action_units[place]), torch.tensor(self.labels.facs[place])
        return UnitSample(pixels, row, units, facs)


def collate_units(samples: list[UnitSample]) -> Batch:
    """Make a batch: as `Batch`, with ``action_units`` (B, 24) and ``facs`` (B, K) in the place of conversations."""
    return {
        "pixel_values": torch.stack([sample.pixel_values for sample in samples]),
        "action_units": torch.stack([sample.action_units for sample in samples]),
        "facs": torch.stack([sample.facs for sample in samples]),
        "rows": torch.tensor([sample.row for sample in samples]),
        "readable": torch.tensor([sample.readable for sample in samples]),
        "unreadable": [name for sample in samples for name in sample.unreadable],
    }


class ActionUnitData(FaceDataModule):
    """Faces with action units; subclasses say where they come from."""

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
        seed: int = 0,
        max_unreadable: int = 0,
    ) -> None:
        """Keep the settings.

        Args:
            batch_size: Faces in one optimizer step, over all devices; accumulation follows from it.
            micro_batch_size: Faces that one device handles at a time.
            eval_batch_size: Faces that one device estimates at a time.
            augment: Augmentation of training images; none if null. Erased areas hide units: turn `erase` off.
            val_fraction: Share of the training people (or rows, where no one is named) held out for validation where
                the data has no such split.
            margin: Added on each side of a face's box, as a share of its longer side; rows without a box are faces
                already.
            cache_megabytes: Memory for decoded training images, in MB, for each worker.
            num_workers: Processes that prepare batches; 0: the main process does.
            seed: Seeds the order of faces, augmentation and the held-out rows.
            max_unreadable: Unreadable images that are named and counted before the run stops.
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
        """What must be said wherever figures from this data are shown: where the intensities come from."""
        frame = self._manifest().frame
        sources = sorted({str(name) for name in frame.get("action_units_source", pd.Series(dtype=object)).dropna()})
        notes = ["The faces are drawn by a program, not photographs."] if self._manifest().is_synthetic().any() else []
        others = [name for name in sources if name != "drawn"]
        return " ".join([*notes, *([f"Labels of action units by: {', '.join(others)}."] if others else [])])

    def train_dataloader(self) -> DataLoader[Any]:
        """Faces for training: every labeled one once an epoch.

        Raises:
            InputError: If there are none, or a resumed run began with other settings.
        """
        frame, labels = self.frame("train"), self.labels
        known = ~np.isnan(labels.action_units).all(1)
        rows = [int(row) for row in frame.index if known[row]]
        if not rows:
            raise ManifestError(
                "no row of the split `train` has action units",
                where=self._manifest().root,
                remedy="Pass a manifest with intensities, such as `explllm data feafa` or `explllm aus` writes.",
            )
        # Every face once an epoch, as captions are read; the kind that this plan gives its draws means nothing here.
        plan = SinglePass(rows, self.seed)
        self._sampler = BatchSampler(plan, self.batch_size, self.micro_batch_size, *self._rank_and_world())
        self._restore_position(self._sampler)
        dataset = TrainingUnits(self.images(), labels, rows, self.augment, self.max_unreadable)
        return DataLoader(dataset, batch_sampler=self._sampler, collate_fn=collate_units, **self._worker_options())

    def _evaluation(self, split: Split | None) -> DataLoader[Any]:
        frame, labels = self.frame(split), self.labels
        if frame.empty:
            raise ManifestError(
                f"no row has the split `{split}`",
                where=self._manifest().root,
                remedy="Add rows of that split to the manifest; `explllm data feafa --fold 1` deals people out.",
            )
        counting = frame.index if split is None else frame.index[labels.labeled()[frame.index]]
        if counting.empty:
            raise ManifestError(
                f"no row of the split `{split}` has action units, FEAFA's or FACS's",
                where=self._manifest().root,
                remedy="Pass a manifest with labels, or use `explllm predict`.",
            )
        return DataLoader(
            EvaluationUnits(self.images(), labels, self._share(counting)),
            batch_size=self.eval_batch_size,
            collate_fn=collate_units,
            **self._worker_options(),
        )


class ManifestActionUnits(ManifestFaces, ActionUnitData):
    """The rows of a manifest with action units: FEAFA's intensities, or for tests DISFA's and BP4D's FACS units."""

    def required(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the labels: action units, for tests and validation FACS units as well."""
        return () if "facs" in manifest.frame and self.stage != "fit" else ("action_units",)


class DrawnActionUnits(DrawnFaces, ActionUnitData):
    """Faces drawn by a program from their action units: to learn and to test without any download."""


def _blank(images: ImageCache, labels: UnitLabels, row: int, unreadable: tuple[str, ...]) -> UnitSample:
    """Return a sample without a face and without labels."""
    pixels = torch.zeros(3, images.preset.size, images.preset.size)
    facs = torch.full((labels.facs.shape[1],), torch.nan)
    return UnitSample(pixels, row, torch.full((len(FEAFA),), torch.nan), facs, unreadable, readable=False)


def _facs(frame: pd.DataFrame) -> tuple[str | None, np.ndarray]:
    """Return the name of the set of FACS units, and its labels."""
    names = sorted({str(name) for name in frame.get("facs_set", pd.Series(dtype=object)).dropna()})
    if not names or "facs" not in frame:
        return None, np.zeros((len(frame), 0), np.float32)
    if len(names) > 1 or names[0] not in FACS_SETS:
        raise ManifestError(
            f"the column facs_set names {' and '.join(names)}",
            remedy=f"Keep the rows of one set: {' or '.join(FACS_SETS)}.",
        )
    labels = np.full((len(frame), len(FACS_SETS[names[0]])), np.nan, np.float32)
    for row, (cell, name) in enumerate(zip(frame["facs"], frame["facs_set"], strict=True)):
        if not isinstance(cell, list | np.ndarray) or name != names[0]:
            continue
        values = np.asarray(cell, dtype=np.float32)
        if values.shape != labels[row].shape or not np.isin(values, (0, 1)).all():
            raise ManifestError(
                f"{values.tolist()} are no labels of {names[0]}",
                where=f"row {row + 1}, column facs",
                remedy=f"Give {labels.shape[1]} times 0 or 1.",
            )
        labels[row] = values
    return names[0], labels
