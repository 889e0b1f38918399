"""The checkpoint that a run is resumed from."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from explllm.core.errors import ConfigError


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` in the run folder: what trains, the optimizer's state, and the place in the data.

    It is written after an optimizer step and never between two, where half a step's gradients would be lost: a run that
    goes on from it makes the very steps that the unbroken run would have made.
    """

    def __init__(self, run_dir: str, every_n_steps: int = 200) -> None:
        """Set where and how often.

        Args:
            run_dir: The run folder.
            every_n_steps: Optimizer steps between two checkpoints; there is one more at each epoch's end.

        Raises:
            ConfigError: If `every_n_steps` is less than 1.
        """
        if every_n_steps < 1:
            raise ConfigError(f"a checkpoint every {every_n_steps} steps", remedy="Give 1 or more.")
        self.path, self.every_n_steps = last_checkpoint(run_dir), every_n_steps
        self._step = 0
        """The step that the last checkpoint was written after, or the run was resumed at."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so where the checkpoint of an earlier run will be replaced."""
        if trainer.ckpt_path is None and self.path.is_file():
            pl_module.print(
                f"{self.path} is of an earlier run and will be replaced; --ckpt_path last would go on with that run"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the run begins."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint after an optimizer step, if it is time, or the last step of an epoch or run."""
        step = trainer.global_step
        if step == self._step:
            return
        over = trainer.is_last_batch or trainer.should_stop or step == trainer.max_steps
        if over or step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state, where something else than the number of steps or epochs has ended the run."""
        if trainer.global_step != self._step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Add to an interruption how the run can go on."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            exception.add_note(
                f"The same command with --ckpt_path last goes on from step {self._step}."
                if self._step
                else "There is no checkpoint of it yet."
            )

    def _save(self, trainer: Trainer) -> None:
        self._step = trainer.global_step
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self.path, weights_only=False)


def last_checkpoint(run_dir: str | Path) -> Path:
    """Return the path of a run's last checkpoint."""
    return Path(run_dir, "checkpoints", "last.ckpt")
