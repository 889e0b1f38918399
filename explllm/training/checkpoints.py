"""Checkpoints as files: written whole, and read without running any code that is in them."""

import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from explllm.core.errors import CheckpointError

_REMEDY = (
    "Use a checkpoint that `explllm fit` wrote; a finished run's weights are in its `model` too (--model.init_from)."
)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, so that a killed run leaves the one before whole.

    Lightning's own writer goes through the system's temporary folder. Where that is on another disk than the run
    folder, the checkpoint is copied into place, and a kill in that moment leaves half of it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its content.
            path: Where to.
            storage_options: Not used.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # One name for all attempts: what a kill leaves behind is overwritten by the next one.
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint: tensors, numbers and text alone, whatever `weights_only` says.

        Args:
            path: The file.
            map_location: Where the tensors go.
            weights_only: Not used.

        Returns:
            Its content.

        Raises:
            CheckpointError: If the file is truncated, no checkpoint, or holds anything that would have to be executed.
        """
        if not zipfile.is_zipfile(path):
            raise CheckpointError("the file is truncated, or no checkpoint", where=path, remedy=_REMEDY)
        try:
            held = torch.load(path, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            raise CheckpointError(
                "the file holds more than tensors, numbers and text; nothing in it was run", where=path, remedy=_REMEDY
            ) from error
        except RuntimeError as error:
            raise CheckpointError(f"the file cannot be read ({error})", where=path, remedy=_REMEDY) from error
        if not isinstance(held, dict) or "state_dict" not in held or "labels" not in held:
            raise CheckpointError("the checkpoint is of another kind of model", where=path, remedy=_REMEDY)
        return held
