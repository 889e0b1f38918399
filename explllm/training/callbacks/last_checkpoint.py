"""The checkpoint that a run is resumed from."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt`` in the run folder: what trains, the optimiser's state, and the place in the data.

    Lightning writes a checkpoint to a temporary file and renames it, so that a killed run leaves the one before whole.
    """

    def __init__(self, run_dir: str, every_n_steps: int = 200) -> None:
        """Set where and how often.

        Args:
            run_dir: The run folder.
            every_n_steps: Optimiser steps between two checkpoints; there is one more at the end.
        """
        super().__init__(
            dirpath=Path(run_dir, "checkpoints"),
            filename="last",
            every_n_train_steps=every_n_steps,
            save_top_k=1,
            enable_version_counter=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state."""
        super().on_train_end(trainer, pl_module)
        trainer.save_checkpoint(last_checkpoint(trainer.default_root_dir))

    def state_dict(self) -> dict[str, Any]:
        """Keep nothing: the path is the run folder's, wherever it has been moved to."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing was kept."""


def last_checkpoint(run_dir: str | Path) -> Path:
    """Return the path of a run's last checkpoint."""
    return Path(run_dir, "checkpoints", "last.ckpt")
