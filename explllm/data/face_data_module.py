"""The base LightningDataModule: conversations for training, faces for evaluation, and loaders for every rank."""

import logging
import math
import os
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pandas as pd
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError, ManifestError
from explllm.core.manifest import Manifest
from explllm.data.dataset import Collator, CotOrder, EvaluationDataset, ImageCache, TrainingDataset, face_source
from explllm.data.mixture import (
    BatchSampler,
    ClassBalance,
    Kind,
    Mixture,
    SinglePass,
    accumulation,
    mixture_shares,
)
from explllm.data.preparation import Split, prepare
from explllm.data.transforms import Augment
from explllm.data.workers import worker_options
from explllm.explanations.instructions import INSTRUCTION_KINDS
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.pixels import ImagePreset, ImageSource

_log = logging.getLogger(__name__)


class FaceModel(Protocol):
    """A model that the data can be prepared for: an `ExpLLM`, an `ActionUnitRegressor` or a LightningModule."""

    image: ImagePreset


@dataclass(frozen=True)
class ModelInputs:
    """Properties of the model that determine its inputs."""

    image: ImagePreset
    """Preprocessing of images."""
    conversations: ConversationEncoder | None
    """Tokenization of conversations; None for models without a language model."""


class FaceDataModule(LightningDataModule):
    """Faces with expressions, action units and chains of thought; subclasses read them from a source.

    A Trainer prepares the data for its model. Without a Trainer, call `prepare_for`::

        data = FolderFaces("faces", batch_size=8, micro_batch_size=8)
        data.prepare_for(ExpLLM.from_pretrained("runs/demo/model"))
        batch = next(iter(data.train_dataloader()))
    """

    def __init__(
        self,
        batch_size: int = 128,
        micro_batch_size: int = 16,
        eval_batch_size: int = 64,
        fer_share: float = 0.75,
        mixture: dict[str, float] | None = None,
        conversations: Literal["mixture", "captions"] = "mixture",
        cot_order: CotOrder = "label_first",
        class_balance: ClassBalance = "none",
        augment: Augment | None = None,
        val_fraction: float = 0.0,
        write_cot: bool = True,
        shuffle_labels: bool = False,
        margin: float = DEFAULT_MARGIN,
        cache_megabytes: float = 1000,
        num_workers: int = 0,
        seed: int | None = None,
        max_unreadable: int = 0,
    ) -> None:
        """Check and store the settings.

        Args:
            batch_size: Conversations in one optimizer step, across all devices; determines gradient accumulation.
            micro_batch_size: Conversations that one device processes at a time.
            eval_batch_size: Number of faces that one device recognizes at a time.
            fer_share: Share of FER conversations; the others are CoT (paper, Table IV: 0.75).
            mixture: Weights of the kinds of conversations, instead of `fer_share`: ``fer``, ``cot``, and for FEALLM
                ``unit_state`` (whether individual action units are active), ``description``, ``units`` and
                ``reasoning`` (texts from ``explllm fea build``, or written by rules from action units).
            conversations: ``mixture`` for the kinds that `fer_share` or `mixture` selects, or ``captions`` for the
                first stage.
            cot_order: Order of the two rounds of a CoT conversation: ``label_first`` (as in inference), or
                ``cot_first`` or ``random``, which the authors' released code uses for RAF-DB and AffectNet,
                respectively.
            class_balance: Share of each class in an epoch: as in the data (``none``), proportional to the square root
                of its number of rows (``sqrt``), or equal (``uniform``). Intended for imbalanced data such as
                AffectNet.
            augment: Augmentation of training images; none if null.
            val_fraction: Share of the training rows (or people, if all rows have an identity) to hold out for
                validation if the data has no split ``val``.
            write_cot: Generate missing chains of thought from action units with the rule-based writer (marked
                ``offline``).
            shuffle_labels: Shuffle the training labels, to check for leaks: accuracy must fall to chance.
            margin: Margin added on each side of a face's box, as a share of its longer side. Images without a box are
                assumed to be face crops and are used whole.
            cache_megabytes: Memory for decoded images, in MB per worker.
            num_workers: Worker processes that prepare batches; with 0, the main process prepares them.
            seed: Seed of the augmentation, the held-out rows and the order of conversations; by default the run's
                ``seed_everything``, or 0 if that is not set.
            max_unreadable: Maximum number of unreadable images to report and skip before the run stops.

        Raises:
            ConfigError: If a number is out of range, or `mixture` names an unknown kind.
        """
        super().__init__()
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("micro_batch_size", micro_batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("cache_megabytes", cache_megabytes, 0),
            ("max_unreadable", max_unreadable, 0),
            ("seed", 0 if seed is None else seed, 0),
        ):
            if not minimum <= value < math.inf:
                raise ConfigError(f"`data.{name}` is {value}", remedy=f"Use {minimum} or more.")
        check_share("fer_share", fer_share, inclusive=True)
        check_share("val_fraction", val_fraction)
        if not -0.5 < margin <= 10:
            raise ConfigError(f"`data.margin` is {margin}", remedy=f"Use a share such as {DEFAULT_MARGIN}.")
        self.batch_size, self.micro_batch_size, self.eval_batch_size = batch_size, micro_batch_size, eval_batch_size
        self.shares = mixture_shares(fer_share, mixture)
        self.fer_share, self.conversation_kind, self.augment = fer_share, conversations, augment
        self.cot_order: CotOrder = cot_order
        self.class_balance: ClassBalance = class_balance
        self.val_fraction, self.write_cot, self.shuffle_labels = val_fraction, write_cot, shuffle_labels
        self.margin, self.cache_megabytes, self.num_workers = margin, cache_megabytes, num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.max_unreadable = max_unreadable
        self.manifest: Manifest | None = None
        self.stage: str | None = None
        self._model_inputs: ModelInputs | None = None
        self._images: ImageCache | None = None
        self._sampler: BatchSampler | None = None
        self._resumed: dict[str, Any] | None = None
        self.predicted_rows: set[int] = set()
        """Rows that an interrupted `predict` has already finished; the prediction loader skips them."""

    def read(self) -> Manifest:
        """Read all splits of the data; implemented by subclasses."""
        raise TypeError(f"{type(self).__name__} does not override read(), which reads the faces")

    def prepare_for(self, model: FaceModel) -> None:
        """Take the preprocessing and tokenization from a model; a LightningModule calls this method in `setup`."""
        self._model_inputs = ModelInputs(model.image, getattr(model, "conversations", None))
        self._images = None

    def setup(self, stage: str | None = None) -> None:
        """Read the faces once, complete the table (except for ``predict``), and set gradient accumulation for ``fit``.

        Raises:
            InputError: If the data is missing, incomplete, or does not match the settings.
        """
        self.stage = stage or self.stage
        if self.manifest is None:
            manifest = self.read()
            if len(manifest) == 0:
                raise ManifestError(
                    "the manifest has no rows",
                    where=manifest.path or manifest.root,
                    remedy="Write it again; check the options of the command that wrote it.",
                )
            if count := sum(manifest.face_not_found()):
                where = manifest.path or manifest.root
                _log.warning(
                    "%s: no face was found in %d of %d images; they are used whole.", where, count, len(manifest)
                )
            if self.stage != "predict":
                manifest = prepare(
                    manifest,
                    val_fraction=self.val_fraction,
                    write_cot=self.write_cot,
                    shuffle_labels=self.shuffle_labels,
                    captions=self.conversation_kind == "captions",
                    seed=self.seed,
                )
            self.manifest = manifest
        if stage == "fit" and self.trainer is not None:
            micro_batches = accumulation(self.batch_size, self.micro_batch_size, self.trainer.world_size)
            self.trainer.accumulate_grad_batches = micro_batches
            if not self._can_validate():
                # With this limit, Lightning skips validation without a warning.
                self.trainer.limit_val_batches = 0

    def frame(self, split: Split | None = None) -> pd.DataFrame:
        """Return the table, or the rows of a split; its index contains the row numbers used in samples and batches."""
        if self.manifest is None:
            self.setup()
        frame = self._manifest().frame
        return frame if split is None else frame[frame["split"] == split]

    @property
    def training_data_note(self) -> str:
        """A caveat for all metrics of models trained on this data, such as a note on drawn faces; may be empty."""
        frame, notes = self._manifest().frame, [self._manifest().drawn_note]
        if "cot_source" in frame and (frame["cot_source"].astype(str) == "offline").any():
            notes.append("The chains of thought used for training were written by rules, not by a model or a person.")
        if self.shuffle_labels:
            notes.append("The training labels were shuffled.")
        return " ".join(filter(None, notes))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training conversations.

        Raises:
            InputError: If there are no conversations, or the settings differ from those of the resumed run.
        """
        frame, conversations = self._split("train"), self._conversations()
        rows, options = list(frame.index), (self.augment, self.max_unreadable, self.cot_order)
        dataset = TrainingDataset(self._manifest(), self.images(), conversations, rows, *options)
        return self._training_loader(self._plan(frame), dataset, Collator(conversations))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the ``val`` split; rows without an expression, such as BP4D's, are skipped."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the ``test`` split."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of all faces, labeled or not."""
        if self.manifest is None:
            self.setup("predict")
        return self._evaluation_loader(None)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data (epoch and global batch) and the settings for which it is valid.

        Only batches that training has processed count, not those that workers have prefetched.
        """
        trainer: Any = self.trainer
        if trainer is None or self._sampler is None:
            return {}
        loop = trainer.fit_loop
        epoch, batch = loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.ready
        if batch >= trainer.num_training_batches:
            # After the last batch of an epoch, Lightning has not yet counted the epoch as processed.
            epoch, batch = loop.epoch_progress.current.ready, 0
        # Count global batches, because a run may resume on a different number of devices.
        window = batch // self._sampler.accumulation
        return {"epoch": epoch, "global_batch": window, "requirements": self._sampler.resume_requirements()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the position at which the training loader starts."""
        self._resumed = state_dict
        if self._sampler is not None:
            # Under FSDP2, Lightning creates the loader before it reads the checkpoint.
            self._restore_position(self._sampler)

    def images(self) -> ImageCache:
        """Return the resized images by row."""
        if self._images is None:
            self._images = ImageCache(self._manifest(), self._inputs().image, self.cache_megabytes, self.margin)
        return self._images

    def face(self, row: int) -> ImageSource:
        """Return the face of a row as the model receives it; see `face_source`."""
        return face_source(self._manifest(), row, self.margin)

    def _plan(self, frame: pd.DataFrame) -> Mixture | SinglePass:
        """Return the plan that determines the samples of each epoch."""
        if self.conversation_kind == "captions":
            rows = _filled(frame, "caption")
            if not rows:
                raise ConfigError(
                    "no training row has a caption", where=self._where(), remedy="Add a column `caption` to the data."
                )
            return SinglePass(rows, "caption", self.seed, dict(frame.loc[rows, "caption"].str.len()))
        fer = _filled(frame, "expression")
        cot = sorted({*fer} & {*_filled(frame, "cot")})
        classes = dict(zip(fer, frame.loc[fer, "expression"], strict=True))
        units = _filled(frame, "action_units")
        possible: dict[Kind, list[int]] = {
            "fer": fer,
            "cot": cot,
            "unit_state": sorted({*units, *_filled(frame, "facs")}),
        }
        for kind in INSTRUCTION_KINDS:
            possible[kind] = sorted({*fer} & {*units, *_filled(frame, f"fea_{kind}")})
        lengths = dict(frame.loc[cot, "cot"].str.len()) if cot else {}
        return Mixture(possible, self.shares, self.seed, classes, self.class_balance, lengths)

    def _training_loader(self, plan: Mixture | SinglePass, dataset: Any, collate: Any) -> DataLoader[Any]:
        self._sampler = BatchSampler(plan, self.batch_size, self.micro_batch_size, *self._rank_and_world())
        self._restore_position(self._sampler)
        return DataLoader(dataset, batch_sampler=self._sampler, collate_fn=collate, **self._worker_options())

    def _restore_position(self, sampler: BatchSampler) -> None:
        """Move to the checkpoint's position if the run is resumed.

        Restoring the loader's own state would be too late: Lightning restores that state after it creates the
        optimizer, whose schedule needs the loader's length.
        """
        state, self._resumed = self._resumed, None
        if state is None:
            if self.trainer is not None and self.trainer.ckpt_path is not None and self.trainer.global_step == 0:
                raise ConfigError(
                    f"the checkpoint was not trained on {type(self).__name__}",
                    where=str(self.trainer.ckpt_path),
                    remedy="Resume with the data of the first run, or start from its `model` folder with "
                    "--model.init_from.",
                )
            return
        for name, value in sampler.resume_requirements().items():
            saved = state["requirements"].get(name)
            if saved != value:
                raise ConfigError(
                    f"the run started with {name} {saved}, now it is {value}",
                    remedy="Resume with the original settings, or start another run.",
                )
        sampler.restore_position(state["epoch"], state["global_batch"] * sampler.accumulation)

    def _split(self, split: Split | None) -> pd.DataFrame:
        """Return the rows of a split; without a split, all rows that `predict` has not finished.

        Raises:
            ManifestError: If the split has no rows.
        """
        frame = self.frame(split)
        if split is None and self.predicted_rows:
            remaining = frame.index.difference(pd.Index(sorted(self.predicted_rows)))
            # A loader needs at least one row, and predicting one twice does no harm.
            frame = frame.loc[remaining if len(remaining) else frame.index[-1:]]
        if frame.empty:
            splits = ", ".join(f"{name} {count:,}" for name, count in self.frame()["split"].value_counts().items())
            # Every data module has `val_fraction`, but only those that read folders have `test_fraction`.
            name = f"{split}_fraction"
            fraction = f", or hold some out with `data.{name}` before training" if hasattr(self, name) else ""
            raise ManifestError(
                f"the `{split}` split has no rows (rows: {splits})",
                where=self._where(),
                remedy=f"Set the column `split` of some rows to `{split}`{fraction}.",
            )
        return frame

    def _can_validate(self) -> bool:
        """Return whether the ``val`` split has a row to validate recognition on."""
        return self.conversation_kind != "captions" and bool(self.frame("val")["expression"].notna().any())

    def _evaluation_loader(self, split: Split | None) -> DataLoader[Any]:
        frame = self._split(split)
        labeled = frame if split is None else frame[frame["expression"].notna()]
        if len(labeled) < len(frame) and (split != "val" or labeled.empty):
            row = int(frame.index[frame["expression"].isna()][0])
            raise ManifestError(
                f"row {row} of the split `{split}` has no expression",
                where=self._manifest().image_path(row),
                remedy="Label it, or use `explllm predict`.",
            )
        dataset = EvaluationDataset(self._manifest(), self.images(), self._share(labeled.index))
        return self._loader(dataset, Collator(self._conversations()))

    def _loader(self, dataset: Any, collate: Any) -> DataLoader[Any]:
        options = self._worker_options()
        return DataLoader(dataset, batch_size=self.eval_batch_size, collate_fn=collate, **options)

    def _share(self, rows: pd.Index) -> list[int]:
        """Return the rows that this process evaluates, including padding rows (as -1 - row), which are not counted."""
        rank, world = self._rank_and_world()
        share = [int(row) for row in rows[rank::world]]
        # Every process must run the same number of steps.
        return share + [-1 - share[0] if share else -1] * (-(-len(rows) // world) - len(share))

    def _manifest(self) -> Manifest:
        if self.manifest is None:
            raise TypeError("setup() has not been called")
        return self.manifest

    def _where(self) -> Any:
        return self._manifest().path or self._manifest().root

    def _inputs(self) -> ModelInputs:
        if self._model_inputs is None:
            raise ConfigError(
                "the data module does not know the model's tokenizer and image size",
                remedy="Call `data.prepare_for(model)` before making a data loader.",
            )
        return self._model_inputs

    def _conversations(self) -> ConversationEncoder:
        conversations = self._inputs().conversations
        if conversations is None:
            raise ConfigError(
                f"{type(self).__name__} needs a model with a tokenizer", remedy="Pass an ExpLLM to `prepare_for`."
            )
        return conversations

    def _rank_and_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _worker_options(self) -> dict[str, Any]:
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        options: dict[str, Any] = {"num_workers": self.num_workers, "pin_memory": pinned}
        if self.num_workers:
            options |= {"persistent_workers": True, **worker_options(self._rank_and_world()[0])}
        return options


def check_share(name: str, share: float, inclusive: bool = False) -> None:
    """Raise ConfigError if the share ``data.NAME`` is outside [0, 1), or [0, 1] if `inclusive`."""
    if not (0 <= share < 1 or (inclusive and share == 1)):
        allowed = "from 0 to 1" if inclusive else "of at least 0 and below 1"
        raise ConfigError(f"`data.{name}` is {share}", remedy=f"Use a share {allowed}.")


def _filled(frame: pd.DataFrame, column: str) -> list[int]:
    return [int(row) for row in frame.index[frame[column].notna()]] if column in frame else []
