"""The LightningDataModule of faces: the mixture of conversations, and loaders for every rank."""

import logging
from typing import Any, Literal, Protocol

import pandas as pd
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError, ManifestError
from explllm.core.manifest import Manifest
from explllm.data.dataset import CotOrder, EvaluationDataset, ImageCache, Sample, TrainingDataset, collator, face_source
from explllm.data.mixture import BatchSampler, Mixture, SinglePass, accumulation
from explllm.data.preparation import Split, prepare
from explllm.data.transforms import Augment
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.pixels import ImagePreset, ImageSource

_log = logging.getLogger(__name__)


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
        cot_order: CotOrder = "label_first",
        augment: Augment | None = None,
        val_fraction: float = 0.0,
        write_cot: bool = True,
        shuffle_labels: bool = False,
        margin: float = DEFAULT_MARGIN,
        cache_megabytes: float = 1000,
        num_workers: int = 0,
        seed: int = 0,
        max_unreadable: int = 0,
    ) -> None:
        """Keep the settings.

        Args:
            batch_size: Conversations in one optimizer step, over all devices; accumulation follows from it.
            micro_batch_size: Conversations that one device handles at a time.
            eval_batch_size: Faces that one device recognizes at a time.
            fer_share: Share of FER conversations, the rest being CoT (paper, Table IV: 0.75).
            conversations: ``mixture`` of FER and CoT, or ``captions`` for the first stage.
            cot_order: Order of the two rounds of a CoT conversation: ``label_first``, as when the model is used;
                ``cot_first`` or ``random``, as the authors' released code trained on RAF-DB and on AffectNet.
            augment: Augmentation of training images; none if null.
            val_fraction: Share of training rows held out for validation where the data has no such split.
            write_cot: Write missing chains of thought from action units by rules (marked ``offline``).
            shuffle_labels: Shuffle the training labels: a check that nothing leaks, accuracy must fall to chance.
            margin: Added on each side of a face's box, as a share of its longer side; rows without a box are faces
                already.
            cache_megabytes: Memory for decoded training images, in MB, for each worker.
            num_workers: Processes that prepare batches; 0: the main process does.
            seed: Seeds the order of conversations, augmentation and the held-out rows.
            max_unreadable: Unreadable images that are named and counted before the run stops.
        """
        super().__init__()
        self.batch_size, self.micro_batch_size, self.eval_batch_size = batch_size, micro_batch_size, eval_batch_size
        self.fer_share, self.conversation_kind, self.augment = fer_share, conversations, augment
        self.cot_order: CotOrder = cot_order
        self.val_fraction, self.write_cot, self.shuffle_labels = val_fraction, write_cot, shuffle_labels
        self.margin, self.cache_megabytes, self.num_workers, self.seed = margin, cache_megabytes, num_workers, seed
        self.max_unreadable = max_unreadable
        self.manifest: Manifest | None = None
        self.stage: str | None = None
        self._images: ImageCache | None = None
        self._sampler: BatchSampler | None = None
        self._resumed: dict[str, Any] | None = None

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
            if faceless := sum(manifest.face_not_found()):
                _log.warning(
                    "%s: in %d of %d images no face was found; they are used whole.",
                    manifest.path or manifest.root,
                    faceless,
                    len(manifest),
                )
            self.manifest = (
                manifest
                if self.stage == "predict"
                else prepare(
                    manifest,
                    val_fraction=self.val_fraction,
                    write_cot=self.write_cot,
                    shuffle_labels=self.shuffle_labels,
                    captions=self.conversation_kind == "captions",
                    seed=self.seed,
                )
            )
        if stage == "fit" and self.trainer is not None:
            self.trainer.accumulate_grad_batches = accumulation(
                self.batch_size, self.micro_batch_size, self.trainer.world_size
            )
            if self.conversation_kind == "captions" or self.frame("val").empty:
                # Nothing to recognize: Lightning then leaves validation out without a word.
                self.trainer.limit_val_batches = 0

    def frame(self, split: Split | None = None) -> pd.DataFrame:
        """Return the table, or the rows of a split; the index is the row's number everywhere."""
        if self.manifest is None:
            self.setup()
        manifest = self._manifest()
        return manifest.frame if split is None else manifest.frame[manifest.frame["split"] == split]

    @property
    def training_data_note(self) -> str:
        """What must be said wherever figures from this data are shown: drawn faces, texts written by rules."""
        frame, notes = self._manifest().frame, []
        if self._manifest().is_synthetic().any():
            notes.append("The faces are drawn by a program, not photographs.")
        if (_strings(frame, "cot_source") == "offline").any():
            notes.append(
                "The chains of thought to learn from were written by rules, not by a language model or a person."
            )
        if self.shuffle_labels:
            notes.append("The training labels were shuffled.")
        return " ".join(notes)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Conversations for training.

        Raises:
            InputError: If there are none, or a resumed run began with other settings.
        """
        frame, model = self.frame("train"), self._model()
        if frame.empty:
            raise ManifestError(
                "no row has the split `train`",
                where=self._manifest().root,
                remedy="Add a `train` folder, or rows of that split to the manifest.",
            )
        plan: Mixture | SinglePass
        if self.conversation_kind == "captions":
            plan = SinglePass(_rows(frame, "caption"), self.seed)
        else:
            fer = _rows(frame, "expression")
            plan = Mixture(fer, sorted({*fer} & {*_rows(frame, "cot")}), self.fer_share, self.seed)
        rank, world = self._rank_and_world()
        self._sampler = BatchSampler(plan, self.batch_size, self.micro_batch_size, rank, world)
        self._restore_position(self._sampler)
        dataset = TrainingDataset(
            self._manifest(),
            self.images(),
            model.conversations,
            list(frame.index),
            self.augment,
            self.max_unreadable,
            self.cot_order,
        )
        return DataLoader(
            dataset,
            batch_sampler=self._sampler,
            collate_fn=collator(model.conversations),
            **self._worker_options(),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Faces of the split ``val``."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Faces of the split ``test``."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Every face, labeled or not."""
        return self._evaluation(None)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data: epoch and micro-batch to go on with, and what both numbers rest on.

        Only batches that training has finished count, not those that workers have prepared ahead.
        """
        trainer: Any = self.trainer
        if trainer is None or self._sampler is None:
            return {}
        loop = trainer.fit_loop
        epoch, batch = loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready
        if batch >= trainer.num_training_batches:
            # At the last batch of an epoch, which counts as processed a moment later.
            epoch, batch = loop.epoch_progress.current.ready, 0
        return {"epoch": epoch, "batch": batch, "requirements": _resume_requirements(self._sampler)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the place where the training loader shall begin."""
        self._resumed = state_dict

    def _restore_position(self, sampler: BatchSampler) -> None:
        """Go to the place of the checkpoint, where there is one.

        A loader's own state would come too late: Lightning restores it only into a loader that is made after the
        optimizer, whose schedule needs the loader's length.
        """
        state, self._resumed = self._resumed, None
        if state is None:
            if self.trainer is not None and self.trainer.ckpt_path is not None and self.trainer.global_step == 0:
                raise ConfigError(
                    f"the checkpoint is of a run on other data than {type(self).__name__}",
                    where=str(self.trainer.ckpt_path),
                    remedy="Resume with the data that it began with, or start from its `model` by --model.init_from.",
                )
            return
        for name, value in _resume_requirements(sampler).items():
            if state["requirements"].get(name) != value:
                raise ConfigError(
                    f"the run began with {state['rests_on'].get(name)} {name}, now it is {value}",
                    remedy="Resume with the settings that it began with, or begin another run.",
                )
        sampler.restore_position(state["epoch"], state["batch"])

    def images(self) -> ImageCache:
        """Return the resized images by row."""
        if self._images is None:
            self._images = ImageCache(self._manifest(), self._model().image, self.cache_megabytes, self.margin)
        return self._images

    def face(self, row: int) -> ImageSource:
        """Return the face of a row, as the model is given it; see `face_source`."""
        return face_source(self._manifest(), row, self.margin)

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
        dataset = EvaluationDataset(self._manifest(), self.images(), self._share(frame.index))
        return DataLoader(
            dataset,
            batch_size=self.eval_batch_size,
            collate_fn=collator(self._model().conversations),
            **self._worker_options(),
        )

    def _share(self, rows: pd.Index) -> list[int]:
        """Return the rows that this process evaluates; those given as -1 - row fill up its share and do not count."""
        rank, world = self._rank_and_world()
        share = [int(row) for row in rows[rank::world]]
        # Every process makes the same number of steps.
        return share + [-1 - share[0] if share else -1] * (-(-len(rows) // world) - len(share))

    def _manifest(self) -> Manifest:
        if self.manifest is None:
            raise TypeError("setup() comes first")
        return self.manifest

    def _model(self) -> FaceModel:
        if self.trainer is None or self.trainer.lightning_module is None:
            raise TypeError("loaders need a Trainer with a model: they take its tokenizer and image preset")
        return self.trainer.lightning_module  # type: ignore[return-value]

    def _rank_and_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _worker_options(self) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0, "pin_memory": pinned}


def _resume_requirements(sampler: BatchSampler) -> dict[str, int]:
    return {
        "conversations in an epoch": len(sampler.plan),
        "conversations in a global batch": sampler.batch_size,
        "conversations in a micro-batch": sampler.micro_batch_size,
        "devices": sampler.world_size,
        "as the seed of the data": sampler.plan.seed,
    }


def _rows(frame: pd.DataFrame, column: str) -> list[int]:
    return [int(row) for row in frame.index[frame[column].notna()]] if column in frame else []


def _strings(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame[column].astype(str) if column in frame else pd.Series(dtype=str)
