"""Atomic checkpoint files: the last checkpoint, from which a run resumes, and the best, which becomes the model."""

import json
import math
import os
import signal
import threading
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.files import atomic_write
from explllm.models import storage
from explllm.models.au_regressor import ActionUnitRegressor, RegressorSettings, build_regressor, regressor_config
from explllm.models.build import NetworkSettings, build, build_config
from explllm.models.explllm import ExpLLM
from explllm.models.lora import LoraSettings
from explllm.models.parts import remap_keys
from explllm.models.storage import without_training_only
from explllm.training.face_task import all_gather_list
from explllm.training.strategies import is_rank_failure

_REMEDY = (
    "Use a checkpoint that `explllm fit` wrote, or start from the weights of a finished run: --model.init_from "
    "RUN/model."
)
_SIGNALS = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


def last_checkpoint(run_dir: str | Path) -> Path:
    """Return the path of a run's last checkpoint."""
    return Path(run_dir, "checkpoints", "last.ckpt")


def best_checkpoint(run_dir: str | Path) -> Path:
    """Return the path of a run's best checkpoint; only runs with validation data have one."""
    return Path(run_dir, "checkpoints", "best.ckpt")


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint as `AtomicCheckpointIO.load_checkpoint` does; its tensors are mapped from the file."""
    return AtomicCheckpointIO().load_checkpoint(path)


def model_from_checkpoint(path: str | os.PathLike[str]) -> ExpLLM | ActionUnitRegressor:
    """Build the model from a checkpoint.

    Args:
        path: A checkpoint of `explllm fit`.

    Returns:
        The model with the checkpoint's weights, in evaluation mode.

    Raises:
        CheckpointError: If the file is not a checkpoint, its weights do not fit the model that it describes, or a
            pretrained base model cannot be loaded.
    """
    checkpoint = read_checkpoint(path)
    if "network" not in checkpoint:
        raise CheckpointError("the checkpoint does not describe its model", where=path, remedy=_REMEDY)
    fields = checkpoint["network"]
    model: ExpLLM | ActionUnitRegressor
    if checkpoint["task"] == "ActionUnitTask":
        values: dict[str, Any] = {**fields, "vision_lora": LoraSettings(**fields["vision_lora"])}
        regressor = regressor_config(RegressorSettings(**values))
        _set_metadata(regressor, checkpoint)
        model = build_regressor(regressor)
    else:
        settings = NetworkSettings.from_fields(fields)
        prepared = build_config(settings)
        prepared.config.labels = checkpoint["labels"]
        _set_metadata(prepared.config, checkpoint)
        model = build(settings, prepared)
    weights = without_training_only(
        {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    )
    weights = remap_keys(weights, model.state_dict())
    if isinstance(model, ExpLLM):
        storage.forget_bases(model, model.parts_with_own_base(weights))
    model.check_state_dict(weights, str(path))
    model.load_state_dict(weights, strict=False)
    return model


def _set_metadata(config: Any, checkpoint: dict[str, Any]) -> None:
    """Set the fields of a model's configuration that come from the data or `init_from`, not from settings."""
    for name, value in checkpoint["model_metadata"].items():
        setattr(config, name, value)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and never unpickles objects.

    Lightning's own writer uses the system's temporary folder. If that folder is on a different disk than the run
    folder, killing the process during the copy leaves a truncated checkpoint. This class writes next to the target,
    then renames the file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Use a fixed name, so that the next attempt overwrites the file that a killed process left behind.
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; only tensors, numbers and text are accepted, regardless of `weights_only`.

        Raises:
            CheckpointError: If the file is truncated, is not a checkpoint of explllm, or contains pickled objects.
        """
        if not zipfile.is_zipfile(path):
            raise CheckpointError("the file is truncated or not a checkpoint", where=path, remedy=_REMEDY)
        try:
            # Map the file: under FSDP2, each rank needs only its shards of the tensors.
            content = torch.load(path, map_location=map_location, weights_only=True, mmap=True)
        except UnpicklingError as error:
            raise CheckpointError(
                "the file contains pickled objects; none of them was executed", where=path, remedy=_REMEDY
            ) from error
        except RuntimeError as error:
            raise CheckpointError(f"the file cannot be read ({error})", where=path, remedy=_REMEDY) from error
        if not isinstance(content, dict) or "state_dict" not in content or "labels" not in content:
            raise CheckpointError("the checkpoint belongs to another kind of model", where=path, remedy=_REMEDY)
        return content


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``: weights that no base model provides, optimizer state and position in the data.

    Checkpoints are written after an optimizer step, never between the micro-batches of one step, where accumulated
    gradients would be lost. A resumed run therefore takes exactly the same steps as an uninterrupted one. On SIGTERM
    or SIGUSR1, which schedulers send before they end a job, the run finishes its step, writes a checkpoint and stops.
    """

    def __init__(self, run_dir: str, every_n_steps: int = 200) -> None:
        """Configure the path and the interval.

        Args:
            run_dir: The run folder.
            every_n_steps: Optimizer steps between checkpoints; each epoch also ends with a checkpoint.

        Raises:
            ConfigError: If `every_n_steps` is less than 1.
        """
        if every_n_steps < 1:
            raise ConfigError(f"`every_n_steps` must be at least 1, got {every_n_steps}", remedy="Set 1 or more.")
        self.path, self.every_n_steps = last_checkpoint(run_dir), every_n_steps
        self._step = 0
        """Step of the last checkpoint, or the step that the run resumed from."""
        self._signaled = self._stopping = False
        self._handlers: dict[signal.Signals, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if a new run will replace the checkpoint of an earlier run."""
        if trainer.ckpt_path is None and self.path.is_file():
            pl_module.print(
                f"{self.path} belongs to an earlier run and will be replaced; --ckpt_path last resumes that run"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the step that training starts from, and handle signals."""
        self._step = trainer.global_step
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.processed == epochs.ready:  # pyrefly: ignore[missing-attribute]
            # A run that resumes at the end of an epoch starts the next one. Otherwise, Lightning would not count it,
            # and a second resumed run would train for one epoch too many.
            trainer.fit_loop.reset_restart_stage()
        if threading.current_thread() is threading.main_thread():
            # Replace Lightning's signal handlers, in which ranks communicate and can wait for each other forever.
            # Lightning restores the original handlers after training.
            self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint every n optimizer steps, after the last step of an epoch or run, and on a signal."""
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        self._stopping = self._any_rank_signaled(trainer, pl_module)
        last = trainer.is_last_batch or trainer.should_stop or step == trainer.max_steps
        if step != self._step and (self._stopping or last or step % self.every_n_steps == 0):
            self._save(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop after a signal: Lightning has logged the last step by now."""
        if self._stopping:
            raise SIGTERMException

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a signal, because there may be no time for the validation; the resumed run starts with it."""
        if self._stopping:
            raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state if something other than the step or epoch limit ended the run."""
        self._restore_handlers()
        if trainer.global_step != self._step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """If the run was interrupted or another rank failed, add a note on how to resume it."""
        self._restore_handlers()
        if isinstance(exception, KeyboardInterrupt | SIGTERMException) or is_rank_failure(exception):
            if self._step:
                note = f"The same command with --ckpt_path last resumes from step {self._step}."
            elif self.path.is_file():
                note = (
                    "The same command with --ckpt_path last resumes the earlier run, whose checkpoints are unchanged."
                )
            else:
                note = "The run has no checkpoint yet."
            exception.add_note(note)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signaled = True

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _any_rank_signaled(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        if trainer.world_size == 1:
            return self._signaled
        flag = torch.tensor(float(self._signaled), device=pl_module.device)
        return bool(trainer.strategy.reduce(flag, reduce_op="sum"))

    def _save(self, trainer: Trainer) -> None:
        self._step = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path, weights_only=False)


class BestCheckpoint(Checkpoint):
    """Keeps ``checkpoints/best.ckpt``: the weights with the highest validation metric (on ties, the latest).

    With `encoder_share`, only the last epoch counts, because labels are learned before texts, and the metric measures
    only labels. Without validation data, this file does not exist.

    The last checkpoint is written before the validation. If a run is killed during a validation, the resumed run
    therefore starts with this validation, which Lightning would skip.
    """

    def __init__(self, run_dir: str, monitor: str = "val/macro_recall") -> None:
        """Configure the path and the metric.

        Args:
            run_dir: The run folder.
            monitor: Name of the metric.
        """
        self.path, self.monitor = best_checkpoint(run_dir), monitor
        self._best: float | None = None
        self._from_earlier_run = False
        """Whether the file may belong to an earlier run, which this run is going to replace."""
        self._running = self.path.with_name("validation.json")
        """Exists during a validation; contains its epoch and the number of the last batch."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the best value of the run being resumed."""
        # Resolve both paths, because one may be relative or contain a link.
        folder = self.path.parent.resolve()
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).resolve().parent == folder
        self._from_earlier_run = not resumed
        if resumed and self.path.is_file():
            self._best = read_checkpoint(self.path).get("best")
        # All ranks save together, so they must compare with the same value. A machine with its own disk may lack the
        # file.
        self._best = all_gather_list([self._best])[0]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeat a validation that the resumed run did not finish."""
        self.repeat_validation(trainer, pl_module)

    def repeat_validation(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeat a validation that the resumed run did not finish, if there is one. Every rank must call it."""
        unfinished = None
        if not self._from_earlier_run and self._running.is_file():
            unfinished = json.loads(self._running.read_text(encoding="utf-8"))
        unfinished = all_gather_list([unfinished])[0]
        loop = trainer.fit_loop
        if unfinished is None or unfinished["batch"] != loop.epoch_loop.total_batch_idx:
            return
        # The trainer may have resumed at the next epoch.
        progress = loop.epoch_progress.current
        completed, progress.completed = progress.completed, unfinished["epoch"]
        # Otherwise, the loop would continue an earlier validation, the last one that the checkpoint contains.
        loop.epoch_loop.val_loop.restarting = False
        trainer.validating = True
        loop.epoch_loop.val_loop.run()
        trainer.training = True
        if completed > progress.completed:
            for callback in trainer.callbacks:  # pyrefly: ignore[missing-attribute]
                if isinstance(callback, EarlyStopping):  # checks the metrics at the end of an epoch
                    callback.on_train_epoch_end(trainer, pl_module)
        progress.completed = completed

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Delete the files of an earlier run when this run writes its first checkpoint."""
        if self._from_earlier_run and trainer.is_global_zero:
            self.path.unlink(missing_ok=True)
            self._running.unlink(missing_ok=True)
        self._from_earlier_run = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that a validation has started."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_global_zero:
            with atomic_write(self._running) as partial:
                position = {"batch": trainer.fit_loop.epoch_loop.total_batch_idx, "epoch": trainer.current_epoch}
                partial.write_text(json.dumps(position), encoding="utf-8")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights if they are the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        selectable = trainer.current_epoch >= getattr(pl_module, "first_selectable_epoch", 0)
        if selectable and value >= (-math.inf if self._best is None else self._best):  # false for NaN
            self._best = pl_module.best_value = value  # pyrefly: ignore[bad-argument-type]
            if self._from_earlier_run and trainer.is_global_zero:
                # Both checkpoints must belong to the same run.
                last_checkpoint(self.path.parent.parent).unlink(missing_ok=True)
            self._from_earlier_run = False
            trainer.save_checkpoint(self.path, weights_only=True)
        if trainer.is_global_zero:
            self._running.unlink(missing_ok=True)
