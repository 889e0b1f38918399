"""The base class of the LightningModules: optimizer, checkpoints and the count of unreadable images."""

import os
import sys
from dataclasses import asdict
from typing import Any, Self

import torch
import torch.distributed as distributed
from lightning.pytorch import LightningModule

from explllm.core.errors import CheckpointError, ConfigError, ImageError
from explllm.data.dataset import Batch
from explllm.faces.pixels import ImagePreset
from explllm.models.parts import remap_keys
from explllm.models.settings import decisive_settings
from explllm.training.optimization import OptimizationSettings, build_optimizer
from explllm.training.strategies import check_limits, check_trainer


class FaceTask(LightningModule):
    """Trains a model on faces.

    It seeds each step, counts unreadable images, and omits frozen base weights from checkpoints.
    """

    other_weights_remedy = "Resume with the run's original settings, or start another run."
    """What to do if a checkpoint belongs to a run with other trainable weights."""
    network: Any
    """Settings of the model's parts."""
    optimization: OptimizationSettings

    def __init__(self) -> None:
        """Start without a model, recorded losses or unreadable images."""
        super().__init__()
        self.model: Any = None
        """The model; None until `configure_model` has run."""
        self.unreadable_images: list[str] = []
        self._new_unreadable_images: list[str] = []
        self._missing_face = False
        self.last_loss: Any = None
        """Loss of the last optimizer step; None before the first."""
        self.best_value: float | None = None
        """The best validation metric so far; None without validation."""
        self._losses: list[torch.Tensor] = []
        # Checkpoints omit frozen base weights; on_load_checkpoint checks every name instead.
        self.strict_loading = False

    def setup(self, stage: str) -> None:
        """Check the trainer's settings; prepare the data for this model's preprocessing and tokenizer."""
        check_trainer(self.trainer)
        if stage == "fit":
            check_limits(self.trainer)
        if self._data() is not None:
            self._data().prepare_for(self)

    def cpu(self) -> Self:
        """Move the weights to host memory, on the first process only.

        At the end of a run, Lightning calls this on every process of a machine, where 8 copies of a 7B model
        would take 113 GB.
        """
        return super().cpu() if self.global_rank == 0 else self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout with the run's seed, the batch number and the rank.

        A resumed run then takes the same steps as an uninterrupted one.
        """
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed((seed * 1_000_003 + number) * 4096 + self.global_rank)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, which advances every optimizer step."""
        steps, epochs = int(self.trainer.estimated_stepping_batches), getattr(self, "encoder_epochs", 0)
        first_phase = steps * epochs // (self.trainer.max_epochs or 1) if epochs else 0
        optimizer, schedule = build_optimizer(self.model, self.optimization, steps, first_phase)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the weights that no pretrained base model provides, and what is needed to resume or rebuild the model.

        The latter comprises the names of trainable weights, the model's settings, the loss, the best metric, the
        unreadable images and the number of accumulated micro-batches.
        """
        saved = self.model.weights_to_save()
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name.removeprefix("model.") in saved
        }
        checkpoint["trains"], checkpoint["unreadable"] = self._trainable_names(), self.unreadable_images
        config = self.model.config
        checkpoint["task"], checkpoint["network"] = type(self).__name__, asdict(self.network)
        names = ("training_data_note", "margin", "image", "image_tokens", "temperature")
        names += ("vision_revision", "text_revision")
        checkpoint["model_metadata"] = {name: getattr(config, name) for name in names if hasattr(config, name)}
        checkpoint["best"], checkpoint["accumulation"] = self.best_value, self.trainer.accumulate_grad_batches
        checkpoint["loss"] = None if self.last_loss is None else float(self.last_loss)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits this architecture.

        Raises:
            CheckpointError: If the checkpoint does not fit; the message names the first mismatched weight, if any. In
                `fit`, also if it contains only weights or belongs to a run with other trainable weights.
            ConfigError: If the run to resume is already past the epoch or step limit, or had different values for the
                settings that determine what the weights mean.
        """
        where = str(self.trainer.ckpt_path)
        self.rename_weights(checkpoint)
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        self.model.check_state_dict(weights, where)
        if self.trainer.state.fn == "fit":
            if "optimizer_states" not in checkpoint:
                raise CheckpointError(
                    "the checkpoint contains only weights, so no run can resume from it",
                    where=where,
                    remedy="Use --ckpt_path last. To start a new run from these weights, write them to a folder with "
                    "`explllm convert checkpoint` and pass it as --model.init_from.",
                )
            self._check_settings(checkpoint, where)
            if checkpoint["trains"] != self._trainable_names():
                raise CheckpointError(
                    "the checkpoint belongs to a run with other trainable weights",
                    where=where,
                    remedy=self.other_weights_remedy,
                )
            self._check_length(checkpoint, where)
            self._rescale_progress(checkpoint)
            self.last_loss, self.unreadable_images = checkpoint["loss"], checkpoint["unreadable"]
            self.print(f"resuming from step {checkpoint['global_step']}: {where}")
        else:
            self.print(f"weights: {where}")

    def rename_weights(self, checkpoint: dict[str, Any]) -> None:
        """Rename the weights in a checkpoint, in place, as the installed release of transformers names them."""
        names = self.state_dict()
        checkpoint["state_dict"] = remap_keys(checkpoint["state_dict"], names)
        checkpoint["trains"] = list(remap_keys(dict.fromkeys(checkpoint["trains"]), names))

    def _complete_settings(self, network: dict[str, Any]) -> dict[str, Any]:
        """Return the settings in a checkpoint's `network`, or of this task in that form, with defaults filled in."""
        return network

    def _check_settings(self, checkpoint: dict[str, Any], where: str) -> None:
        """Reject settings with which the checkpoint's weights would fit, but have another meaning."""
        networks = (checkpoint["network"], asdict(self.network))
        trained, found = (decisive_settings(self._complete_settings(network)) for network in networks)
        for name, value in found.items():
            if value != trained.get(name, value):
                raise ConfigError(
                    f"model.network.{name} is {value}, but the run to resume was trained with {trained[name]}",
                    where=where,
                    remedy="Resume with the run's original settings, or start another run.",
                )
        image = checkpoint["model_metadata"]["image"]
        if ImagePreset.from_dict(image) != ImagePreset.from_dict(self.model.config.image):
            raise ConfigError(
                "the preprocessing of images differs from that of the run to resume",
                where=where,
                remedy="Resume with the run's original settings, or start another run.",
            )

    def _check_length(self, checkpoint: dict[str, Any], where: str) -> None:
        """Reject an epoch or step limit that the run already exceeds: the model would be rewritten without training."""
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
        for name, done in (("max_epochs", epochs), ("max_steps", checkpoint["global_step"])):
            limit = getattr(self.trainer, name)
            if limit not in (None, -1) and done > limit:
                raise ConfigError(
                    f"--trainer.{name} is {limit}, but the run to resume has {done} {name.removeprefix('max_')}",
                    where=where,
                    remedy=f"Use at least {done}, or resume from an earlier checkpoint.",
                )

    def _rescale_progress(self, checkpoint: dict[str, Any]) -> None:
        """Convert Lightning's counts of micro-batches, if the run resumes on a different number of devices."""
        before, now = checkpoint["accumulation"], self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["current"], progress["total"]):
            # A checkpoint is written in the last hook of a batch, before the batch counts as completed.
            incomplete = counts["ready"] - counts["completed"]
            steps = counts["ready"] // before
            counts |= dict.fromkeys(("ready", "started", "processed"), steps * now)
            counts["completed"] = steps * now - incomplete

    def _trainable_names(self) -> list[str]:
        return [name for name, weight in self.named_parameters() if weight.requires_grad]

    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _valid_rows(self, batch: Batch) -> torch.Tensor:
        """Return a mask (B,) of the faces in a batch that are readable and not padding."""
        return batch["readable"] & (batch["rows"] >= 0)

    def _check_readable(self, batch: Batch, step: bool) -> None:
        """Count the unreadable images of a training batch and stop the run if a conversation has no readable face.

        Args:
            batch: The micro-batch.
            step: Whether an optimizer step follows it.

        Raises:
            ImageError: If more images are unreadable than the data module's `max_unreadable`, or no image can be read.
        """
        # Check before the optimizer step, because the model must not learn from a blank image.
        self._count_unreadable(batch, sync=step)
        self._missing_face = self._missing_face or (bool(batch["unreadable"]) and not bool(batch["readable"].all()))
        if step and self._missing_face:
            raise ImageError(
                "no training image can be read",
                where=self._data().frame("train")["image"].iloc[0],
                remedy="Check the data's root.",
            )

    def _log_loss(self, loss: torch.Tensor, step: bool) -> None:
        """Log ``train/loss``, the mean over the global batch: all micro-batches and devices of an optimizer step.

        Args:
            loss: Loss of the micro-batch.
            step: Whether an optimizer step follows it.
        """
        self._losses.append(loss.detach())
        if step:
            self.last_loss = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
            self.log("train/loss", self.last_loss, prog_bar=True, batch_size=1)
            self._losses = []

    def _is_step(self, batch_idx: int) -> bool:
        """Return whether an optimizer step follows a training micro-batch."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def _count_unreadable(self, batch: Batch, sync: bool = True) -> None:
        """Report and count images that cannot be read; every rank keeps the combined list of all ranks.

        Args:
            batch: A batch.
            sync: Exchange the lists of all ranks, and compare the number of distinct images in the run with the limit.
                All ranks must set this in the same steps.

        Raises:
            ImageError: If more images are unreadable than the data module's `max_unreadable`.
        """
        self._new_unreadable_images += batch["unreadable"]
        if not sync or not _total_length(self._new_unreadable_images):
            return
        limit = self._data().max_unreadable
        for name in dict.fromkeys(all_gather_list(self._new_unreadable_images)):
            if name in self.unreadable_images:
                continue
            self.unreadable_images.append(name)
            count = len(self.unreadable_images)
            if count > limit:
                raise ImageError(
                    f"{count} image{'s' * (count > 1)} cannot be read, last {name}",
                    remedy=f"Replace or remove such images, or raise --data.max_unreadable (now {limit}).",
                )
            if self.trainer.is_global_zero:
                sys.stderr.write(f"warning: image {count} of at most {limit} that cannot be read: {name}\n")
        self._new_unreadable_images = []


def all_gather_list(items: list[Any]) -> list[Any]:
    """Concatenate the lists of all ranks, in rank order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    lists: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def _total_length(items: list[Any]) -> int:
    """Return the sum of the lengths of all ranks' lists."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return len(items)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    count = torch.tensor(len(items), device=device)
    distributed.all_reduce(count)
    return int(count)
