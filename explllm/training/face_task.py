"""What the LightningModules share: they read faces, of which some cannot be read, and train one model."""

import os
import sys
from typing import Any

import torch
import torch.distributed as distributed
from lightning.pytorch import LightningModule

from explllm.core.errors import CheckpointError, ImageError
from explllm.data.dataset import Batch
from explllm.training.optimization import OptimizationSettings, build_optimizer


class FaceTask(LightningModule):
    """Seeds each step by its number, counts unreadable images over all processes, and keeps what trains."""

    other_weights_remedy = "Resume with the settings that it began with, or begin another run."
    """What to do where a checkpoint is of a run that trained other weights."""
    optimization: OptimizationSettings

    def __init__(self) -> None:
        """Start with no unreadable image."""
        super().__init__()
        self.model: Any = None
        """What is trained, once `configure_model` has run."""
        self.unreadable: list[str] = []
        self._new_unreadable: list[str] = []
        self._blank = False
        self.last_loss: Any = None
        """Of the last optimizer step; None before the first."""
        self._losses: list[torch.Tensor] = []
        # Frozen base weights are not in checkpoints; on_load_checkpoint accounts for every name instead.
        self.strict_loading = False

    def setup(self, stage: str) -> None:
        """Prepare the data for this model's preprocessing and tokenizer."""
        if self._data() is not None:
            self._data().prepare_for(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the batch's number, so that a resumed run goes on exactly as an unbroken one."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed((seed * 1_000_003 + number) * 4096 + self.global_rank)

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule, in optimizer steps."""
        optimizer, schedule = build_optimizer(
            self.parameters(), self.optimization, int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the weights that no named base can give back; what trains, loss, images not read."""
        own = self.model.weights_to_save()
        checkpoint["state_dict"] = {
            name: value for name, value in checkpoint["state_dict"].items() if name.removeprefix("model.") in own
        }
        checkpoint["trains"], checkpoint["unreadable"] = self._trains(), self.unreadable
        checkpoint["loss"] = None if self.last_loss is None else float(self.last_loss)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this architecture.

        Raises:
            CheckpointError: If it is not; the message names the first weight that does not fit.
        """
        where = str(self.trainer.ckpt_path)
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        self.model.check_state_dict(weights, where)
        if self.trainer.state.fn == "fit":
            if checkpoint["trains"] != self._trains():
                raise CheckpointError(
                    "the checkpoint is of a run that trained other weights",
                    where=where,
                    remedy=self.other_weights_remedy,
                )
            self.last_loss, self.unreadable = checkpoint["loss"], checkpoint["unreadable"]
            self.print(f"goes on after step {checkpoint['global_step']}: {where}")
        else:
            self.print(f"weights: {where}")

    def _trains(self) -> list[str]:
        return [name for name, weight in self.named_parameters() if weight.requires_grad]

    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def _counting(self, batch: Batch) -> torch.Tensor:
        return batch["readable"] & (batch["rows"] >= 0)

    def _check_readable(self, batch: Batch, step: bool) -> None:
        """Count the unreadable images of a training batch, and stop where nothing is left to learn from.

        Args:
            batch: The micro-batch.
            step: Whether an optimizer step follows it.

        Raises:
            ImageError: If there are more than the data allows, or no image can be read.
        """
        # Before the optimizer's step, and never after it: nothing may be learned from a face that is none.
        self._count_unreadable(batch, settle=step)
        self._blank = self._blank or (bool(batch["unreadable"]) and not bool(batch["readable"].all()))
        if step and self._blank:
            raise ImageError(
                "no training image can be read",
                where=self._data().frame("train")["image"].iloc[0],
                remedy="Check the root of the data.",
            )

    def _log_loss(self, loss: torch.Tensor, step: bool) -> None:
        """Log ``train/loss``, the mean over a global batch: over all micro-batches and devices of an optimizer step.

        Args:
            loss: Of the micro-batch.
            step: Whether an optimizer step follows it.
        """
        self._losses.append(loss.detach())
        if step:
            self.last_loss = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
            self.log("train/loss", self.last_loss, prog_bar=True, batch_size=1)
            self._losses = []

    def _is_step(self, batch_idx: int) -> bool:
        """Tell whether an optimizer step follows a training micro-batch."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch

    def _count_unreadable(self, batch: Batch, settle: bool = True) -> None:
        """Name and count images that could not be read; every rank knows those of all.

        Args:
            batch: A batch.
            settle: Tell the other ranks, and see whether there are too many. All ranks must do so in the same steps.

        Raises:
            ImageError: If there are more than the data allows.
        """
        self._new_unreadable += batch["unreadable"]
        if not settle or not _total(self._new_unreadable):
            return
        limit = self._data().max_unreadable
        for name in dict.fromkeys(gathered(self._new_unreadable)):
            if name in self.unreadable:
                continue
            self.unreadable.append(name)
            count = len(self.unreadable)
            if count > limit:
                raise ImageError(
                    f"{count} image{'s' * (count > 1)} cannot be read, last {name}",
                    remedy=f"Replace or remove such images, or allow more by --data.max_unreadable (now {limit}).",
                )
            if self.trainer.is_global_zero:
                sys.stderr.write(f"warning: image {count} of at most {limit} that cannot be read: {name}\n")
        self._new_unreadable = []


def gathered(items: list[Any]) -> list[Any]:
    """Join the lists of all ranks, in their order."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    lists: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def _total(items: list[Any]) -> int:
    """Add up the lengths of all ranks' lists."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return len(items)
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    count = torch.tensor(len(items), device=device)
    distributed.all_reduce(count)
    return int(count)
