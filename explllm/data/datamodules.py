"""LightningDataModules: a source of faces, the mixture of conversations, and loaders for every rank."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from explllm.chat.offline import OfflineWriter
from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError, ManifestError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.captions import read_llava_captions
from explllm.data.dataset import EvaluationDataset, ImageCache, Sample, TrainingDataset, collator
from explllm.data.drawn_faces.generate import draw_faces
from explllm.data.folder import read_folder
from explllm.data.mixture import BatchSampler, Captions, Mixture, accumulation
from explllm.data.transforms import Augment
from explllm.faces.pixels import ImagePreset

Split = Literal["train", "val", "test"]


class FaceModel(Protocol):
    """What the data must know of the model: the LightningModule offers it."""

    conversations: ConversationEncoder
    image: ImagePreset


class FaceDataModule(LightningDataModule):
    """Faces with expressions, action units and chains of thought; subclasses say where they come from."""

    def __init__(
        self,
        batch_size: int = 128,
        micro_batch_size: int = 16,
        eval_batch_size: int = 64,
        fer_share: float = 0.75,
        conversations: Literal["mixture", "captions"] = "mixture",
        augment: Augment | None = None,
        val_fraction: float = 0.0,
        write_cot: bool = True,
        shuffle_labels: bool = False,
        cache_megabytes: float = 1000,
        num_workers: int = 0,
        seed: int = 0,
        max_unreadable: int = 0,
    ) -> None:
        """Keep the settings.

        Args:
            batch_size: Conversations in one optimiser step, over all devices; accumulation follows from it.
            micro_batch_size: Conversations that one device handles at a time.
            eval_batch_size: Faces that one device recognises at a time.
            fer_share: Share of FER conversations, the rest being CoT (paper, Table IV: 0.75).
            conversations: ``mixture`` of FER and CoT, or ``captions`` for the first stage.
            augment: Augmentation of training images; none if null.
            val_fraction: Share of training rows held out for validation where the data has no such split.
            write_cot: Write missing chains of thought from action units by rules (marked ``offline``).
            shuffle_labels: Shuffle the training labels: a check that nothing leaks, accuracy must fall to chance.
            cache_megabytes: Memory for decoded training images, in MB, for each worker.
            num_workers: Processes that prepare batches; 0: the main process does.
            seed: Seeds the order of conversations, augmentation and the held-out rows.
            max_unreadable: Unreadable images that are named and counted before the run stops.
        """
        super().__init__()
        self.batch_size, self.micro_batch_size, self.eval_batch_size = batch_size, micro_batch_size, eval_batch_size
        self.fer_share, self.conversation_kind, self.augment = fer_share, conversations, augment
        self.val_fraction, self.write_cot, self.shuffle_labels = val_fraction, write_cot, shuffle_labels
        self.cache_megabytes, self.num_workers, self.seed = cache_megabytes, num_workers, seed
        self.max_unreadable = max_unreadable
        self.manifest: Manifest | None = None
        self.stage: str | None = None
        self._images: ImageCache | None = None

    def read(self) -> Manifest:
        """Read the faces, all splits; subclasses do."""
        raise TypeError(f"{type(self).__name__} must say where its faces come from: override read()")

    def setup(self, stage: str | None = None) -> None:
        """Read the faces once, write missing chains of thought, and set the accumulation that the batch size asks for.

        Args:
            stage: Lightning's stage; what the data must hold depends on it.

        Raises:
            InputError: If the data is not there, incomplete, or does not fit the settings.
        """
        self.stage = stage or self.stage
        if self.manifest is None:
            manifest = self.read()
            if len(manifest) == 0:
                raise ManifestError("there are no faces", where=manifest.root, remedy="Check the data's root.")
            self.manifest = prepare(
                manifest,
                val_fraction=self.val_fraction,
                write_cot=self.write_cot,
                shuffle_labels=self.shuffle_labels,
                captions=self.conversation_kind == "captions",
                seed=self.seed,
            )
        if stage == "fit" and self.trainer is not None:
            self.trainer.accumulate_grad_batches = accumulation(
                self.batch_size, self.micro_batch_size, self.trainer.world_size
            )
            if self.conversation_kind == "captions" or self.frame("val").empty:
                # Nothing to recognise: Lightning then leaves validation out without a word.
                self.trainer.limit_val_batches = 0

    def frame(self, split: Split | None = None) -> pd.DataFrame:
        """Return the table, or the rows of a split; the index is the row's number everywhere."""
        if self.manifest is None:
            self.setup()
        manifest = self._manifest()
        return manifest.frame if split is None else manifest.frame[manifest.frame["split"] == split]

    @property
    def notice(self) -> str:
        """What must be said wherever figures from this data are shown: drawn faces, texts written by rules."""
        frame, notes = self._manifest().frame, []
        if (_strings(frame, "action_units_source") == "drawn").any():
            notes.append("The faces are drawn by a program, not photographs.")
        if (_strings(frame, "cot_source") == "offline").any():
            notes.append(
                "The chains of thought to learn from were written by rules, not by a language model or a person."
            )
        if self.shuffle_labels:
            notes.append("The training labels were shuffled.")
        return " ".join(notes)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Conversations for training."""
        frame, model = self.frame("train"), self._model()
        if frame.empty:
            raise ManifestError(
                "no row has the split `train`",
                where=self._manifest().root,
                remedy="Add a `train` folder, or rows of that split to the manifest.",
            )
        plan: Mixture | Captions
        if self.conversation_kind == "captions":
            plan = Captions(_rows(frame, "caption"), self.seed)
        else:
            fer = _rows(frame, "expression")
            plan = Mixture(fer, sorted({*fer} & {*_rows(frame, "cot")}), self.fer_share, self.seed)
        rank, world = self._place()
        sampler = BatchSampler(plan, self.batch_size, self.micro_batch_size, rank, world)
        dataset = TrainingDataset(
            self._manifest(), self.images(), model.conversations, frame.index, self.augment, self.max_unreadable
        )
        return ResumableLoader(
            dataset, sampler, self, collate_fn=collator(model.conversations), **self._worker_options()
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Faces of the split ``val``."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Faces of the split ``test``."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Every face, labelled or not."""
        return self._evaluation(None)

    def images(self) -> ImageCache:
        """Return the resized images by row."""
        if self._images is None:
            self._images = ImageCache(self._manifest(), self._model().image, self.cache_megabytes)
        return self._images

    def _evaluation(self, split: Split | None) -> DataLoader[Sample]:
        frame = self.frame(split)
        if frame.empty:
            raise ManifestError(
                f"no row has the split `{split}`",
                where=self._manifest().root,
                remedy=f"Add a `{split}` folder, or rows of that split to the manifest.",
            )
        if split is not None and frame["expression"].isna().any():
            row = int(frame.index[frame["expression"].isna()][0])
            raise ManifestError(
                f"row {row} of the split `{split}` has no expression",
                where=self._manifest().image_path(row),
                remedy="Label it, or use `explllm predict`.",
            )
        rank, world = self._place()
        rows = [int(row) for row in frame.index[rank::world]]
        # Every rank makes the same number of steps; rows that fill up are marked by their number and not counted.
        rows += [-1 - rows[0] if rows else -1] * (-(-len(frame) // world) - len(rows))
        dataset = EvaluationDataset(self._manifest(), self.images(), rows)
        return DataLoader(
            dataset, self.eval_batch_size, collate_fn=collator(self._model().conversations), **self._worker_options()
        )

    def _manifest(self) -> Manifest:
        if self.manifest is None:
            raise TypeError("setup() comes first")
        return self.manifest

    def _model(self) -> FaceModel:
        if self.trainer is None or self.trainer.lightning_module is None:
            raise TypeError("loaders need a Trainer with a model: they take its tokenizer and image preset")
        return self.trainer.lightning_module  # type: ignore[return-value]

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _worker_options(self) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0, "pin_memory": pinned}


class FolderFaces(FaceDataModule):
    """A folder of class subfolders, in split folders or not; action units from an ``action_units.csv`` in it."""

    def __init__(self, root: str | PathLike[str], test_fraction: float = 0.0, **settings: Any) -> None:
        """Name the folder.

        Args:
            root: The folder: ``root/{train,val,test}/<class>/*`` or ``root/<class>/*``.
            test_fraction: Share of the images held out for testing where the folder has no ``test`` folder.
            **settings: See `FaceDataModule`.
        """
        super().__init__(**settings)
        self.root, self.test_fraction = root, test_fraction

    def read(self) -> Manifest:
        """Read the folder."""
        manifest = read_folder(self.root)
        if self.test_fraction:
            hold_out(manifest.frame, "test", self.test_fraction, self.seed)
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
        manifest = Manifest.read(self.path, root=self.root)
        manifest.require("image", "caption" if self.conversation_kind == "captions" else "expression", "split")
        return manifest


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
        return draw_faces(self.folder, size=self.size, seed=self.seed, **self.counts)


class ResumableLoader(DataLoader[Sample]):
    """A training loader whose state is the number of batches that training has finished.

    Lightning saves and restores it, so that a run goes on in the middle of an epoch with the very next batch. Batches that
    workers have prepared ahead do not count.
    """

    def __init__(
        self, dataset: TrainingDataset, sampler: BatchSampler, data: LightningDataModule, **options: Any
    ) -> None:
        """Wrap a dataset and its batch sampler; `data` knows the trainer."""
        super().__init__(dataset, batch_sampler=sampler, **options)
        self.position, self.data = sampler, data

    def state_dict(self) -> dict[str, int]:
        """Return epoch and micro-batch to go on with."""
        loop = self.data.trainer.fit_loop  # type: ignore[union-attr]
        epoch, batch = loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready
        return {"epoch": epoch, "batch": batch} if batch < len(self.position) else {"epoch": epoch + 1, "batch": 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state says."""
        self.position.go_to(state["epoch"], state["batch"])


def prepare(
    manifest: Manifest, *, val_fraction: float, write_cot: bool, shuffle_labels: bool, captions: bool, seed: int
) -> Manifest:
    """Complete a table for training: splits, shuffled labels where asked, chains of thought, captions.

    Args:
        manifest: The table as read; it is not changed.
        val_fraction: Share of ``train`` to hold out as ``val`` where there is no ``val``.
        write_cot: Write missing chains of thought by rules where action units are known.
        shuffle_labels: Shuffle the labels of ``train``.
        captions: Take key observations as captions where there is no column ``caption``.
        seed: Seeds all of it.

    Returns:
        The new table, indexed from 0.
    """
    frame = manifest.frame.reset_index(drop=True).copy()
    for column in ("split", "expression", "cot", "cot_source"):
        if column not in frame:
            frame[column] = pd.Series([None] * len(frame), dtype=object)
        frame[column] = frame[column].astype(object)
    frame["split"] = frame["split"].where(frame["split"].notna(), "train")
    if val_fraction and not (frame["split"] == "val").any():
        hold_out(frame, "val", val_fraction, seed)
    if shuffle_labels:
        train = frame.index[frame["split"] == "train"]
        frame.loc[train, "expression"] = np.random.default_rng(seed).permutation(frame.loc[train, "expression"])
        # A chain of thought names the true label.
        frame.loc[train, ["cot", "cot_source"]] = None
    if write_cot and "action_units" in frame:
        writer = OfflineWriter()
        missing = frame.index[frame["cot"].isna() & frame["expression"].notna() & _known(frame["action_units"])]
        for row in missing:
            units, expression = frame.at[row, "action_units"], Expression(frame.at[row, "expression"])
            frame.at[row, "cot"] = writer.write(units, expression, seed=seed + int(row)).text
        frame.loc[missing, "cot_source"] = writer.name
    if captions and "caption" not in frame:
        from explllm.core.chain_of_thought import ChainOfThought

        frame["caption"] = [
            None if pd.isna(cot) else ChainOfThought.parse(cot).key_observations or None for cot in frame["cot"]
        ]
    return Manifest(frame, manifest.root)


def hold_out(frame: pd.DataFrame, split: Split, fraction: float, seed: int) -> None:
    """Move a share of each class's training rows to another split, in place; a person's rows stay together.

    Args:
        frame: The table; identities count where it has a column ``identity``.
        split: The split to make.
        fraction: Share of the training rows, in [0, 1).
        seed: Seeds the choice.

    Raises:
        ConfigError: If the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"a held-out share of {fraction}", remedy="Give a share from 0 to below 1.")
    random = np.random.default_rng(seed)
    train = frame[frame["split"] == "train"]
    if "identity" in frame and train["identity"].notna().all():
        people = random.permutation(np.sort(train["identity"].astype(str).unique()))
        chosen = set(people[: round(len(people) * fraction)])
        frame.loc[train.index[train["identity"].astype(str).isin(chosen)], "split"] = split
        return
    for _, rows in train.groupby("expression", dropna=False, sort=True):
        picked = random.permutation(rows.index.to_numpy())[: round(len(rows) * fraction)]
        frame.loc[picked, "split"] = split


def _known(column: pd.Series) -> pd.Series:
    return column.map(lambda value: isinstance(value, Sequence | np.ndarray) and len(value) > 0).astype(bool)


def _rows(frame: pd.DataFrame, column: str) -> list[int]:
    return [int(row) for row in frame.index[frame[column].notna()]] if column in frame else []


def _strings(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame[column].astype(str) if column in frame else pd.Series(dtype=str)
