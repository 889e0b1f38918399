"""The base class of all run folders: the model, metrics, the table of predictions, and the training time."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Callback, Trainer
from rich import get_console
from rich.markup import escape

from explllm import __version__
from explllm.core.files import METRICS_FILE, PREDICT_FOLDER, PREDICTIONS_FILE, update_json
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.models.configuration import joined_notes
from explllm.report.page import PLOTS
from explllm.training.checkpoints import BestCheckpoint, best_checkpoint, read_checkpoint
from explllm.training.face_record import face_table
from explllm.training.face_task import FaceTask, all_gather_list
from explllm.training.prediction_parts import PredictionParts, file_identity
from explllm.training.strategies import full_weights

MODEL = "model"
_BATCHES_PER_PART = 8


class BaseRunFolder(Callback):
    """Writes a run folder, each file atomically; subclasses add the files of their task."""

    model_results: tuple[str, ...] = (METRICS_FILE, PREDICTIONS_FILE)
    """Files about the model, which are deleted when training replaces the model."""

    def __init__(self, run_dir: str, predictions: str | None = None, checkpoint: str | None = None) -> None:
        """Configure the folder.

        Args:
            run_dir: The run folder.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.
            checkpoint: The checkpoint that `predict` uses. A killed `predict` resumes only with the same checkpoint.
        """
        self.run_dir = Path(run_dir)
        self.predictions = Path(predictions) if predictions else self.run_dir / PREDICTIONS_FILE
        self.rows: list[dict[str, Any]] = []
        """One record per evaluated face, with its row in the manifest; in `predict`, only records not yet written."""
        self._parts, self._checkpoint = PredictionParts(self.predictions), checkpoint
        self._seconds, self._started = 0.0, 0.0
        self._first_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the training time so far."""
        return {"seconds": self._seconds + time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the training time."""
        self._seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # pyrefly: ignore[bad-override]
        """Describe the training data in the model's configuration; print the number of trainable weights."""
        config, data = pl_module.model.config, trainer.datamodule  # pyrefly: ignore[missing-attribute]
        config.training_data_note = joined_notes(config.training_data_note, data.training_data_note)
        config.margin = data.margin
        if not trainer.is_global_zero:
            return
        counts = pl_module.model.trainable_counts()
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        get_console().print(f"trainable weights: {parts}; {sum(counts.values()):,} in total", soft_wrap=True)
        self._print_note(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # pyrefly: ignore[bad-override]
        """Record the start time and step."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: FaceTask) -> None:  # pyrefly: ignore[bad-override]
        """Record the training time."""
        self._seconds, self._started = self.state_dict()["seconds"], time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: FaceTask) -> None:  # pyrefly: ignore[bad-override]
        """Write the best checkpoint's model and the training metrics; delete an earlier model's results in the folder.

        Without validation data, the final weights are written. Afterward, the task's model has the written
        weights, too, unless several machines have separate run folders.
        """
        if trainer.fast_dev_run:  # pyrefly: ignore[missing-attribute]
            return
        best, step = best_checkpoint(self.run_dir), trainer.global_step
        # pyrefly: ignore[missing-attribute]
        choosing = [callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)]
        for callback in choosing:
            # A run that resumes at `max_steps` does not start training, which repeats an unfinished validation.
            callback.repeat_validation(trainer, pl_module)
        # Without the callback BestCheckpoint, an existing file belongs to an earlier run.
        chooses = bool(choosing)
        # If the folder is on a local disk, other machines lack the file.
        found = all_gather_list([chooses and best.is_file()])
        checkpoint = read_checkpoint(best) if found[0] and best.is_file() else None
        step = step if checkpoint is None else checkpoint["global_step"]
        if checkpoint is not None:
            pl_module.rename_weights(checkpoint)
        if checkpoint is not None and all(found):
            trainer.strategy.load_model_state_dict(checkpoint, strict=False)
            if "temperature" in checkpoint["model_metadata"]:
                pl_module.model.config.temperature = checkpoint["model_metadata"]["temperature"]
        weights = dict(full_weights(pl_module.model, keep=trainer.is_global_zero))
        if checkpoint is not None and not all(found):
            weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        if not trainer.is_global_zero:
            return
        pl_module.model.save_pretrained(self.run_dir / MODEL, state_dict=weights)
        if self._first_step is not None and trainer.global_step > self._first_step:
            predicted = self.run_dir / PREDICT_FOLDER / PREDICTIONS_FILE
            for path in (predicted, *(self.run_dir / name for name in self.model_results)):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.run_dir / PLOTS, ignore_errors=True)
            PredictionParts(predicted).remove()
        if pl_module.last_loss is not None:
            metrics = {
                "fit/seconds": round(self._seconds, 1),
                "fit/steps": trainer.global_step,
                "fit/model_step": step,
                "fit/loss": float(pl_module.last_loss),
                "fit/unreadable": pl_module.unreadable_images,
                "fit/trainable_weights": sum(w.numel() for w in pl_module.parameters() if w.requires_grad),
            }
            # Resuming a finished run does not train, so its metrics are kept, including the training time.
            existing = update_json(self.run_dir / METRICS_FILE, {})
            if any(existing.get(name) != metrics[name] for name in ("fit/steps", "fit/loss")):
                self._write_metrics(trainer, metrics)
        note = "" if step == trainer.global_step else f", the best checkpoint (step {step} of {trainer.global_step})"
        get_console().print(f"model: {self.run_dir / MODEL}{note}", soft_wrap=True, markup=False)

    def on_validation_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # pyrefly: ignore[bad-override]
        """Discard the records of an earlier evaluation."""
        self.rows = []

    on_test_start = on_predict_start = on_validation_start  # pyrefly: ignore[bad-override]

    def setup(self, trainer: Trainer, pl_module: FaceTask, stage: str) -> None:  # pyrefly: ignore[bad-override]
        """Find the predictions of a killed `predict` with the same checkpoint, data and settings."""
        if stage != "predict":
            return
        data: Any = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        start = getattr(pl_module, "init_from", None)
        table = face_table(Manifest(data.frame(), data.manifest.root))
        faces = json.dumps(table[["image", "box"]].to_numpy().tolist(), default=str)
        origin = {
            "checkpoint": file_identity(self._checkpoint),
            "init_from": [file_identity(path) for path in sorted(Path(start).glob("*.safetensors"))] if start else None,
            "faces": hashlib.sha256(faces.encode()).hexdigest(),
            "margin": data.margin,
            "explain": getattr(pl_module, "explain_predictions", False),
            "max_new_tokens": getattr(pl_module, "max_new_tokens", None),
        }
        data.predicted_rows = self._parts.resume(trainer, origin)
        if data.predicted_rows and trainer.is_global_zero:
            get_console().print(f"resuming after {len(data.predicted_rows):,} of {len(data.frame()):,} faces")

    def on_test_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: FaceTask, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Collect a batch's results."""
        self._collect(pl_module, outputs, batch)

    def on_predict_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: FaceTask, outputs: Any, batch: Batch, batch_idx: int, *_: int
    ) -> None:
        """Collect a batch's results, and write them to disk every few batches."""
        self._collect(pl_module, outputs, batch)
        if (batch_idx + 1) % _BATCHES_PER_PART == 0:
            self._write_part(trainer)

    def _write_part(self, trainer: Trainer) -> None:
        self._parts.write(trainer, self.rows)
        self.rows = []

    def _merged_predictions(self, trainer: Trainer) -> pd.DataFrame | None:
        """Write this rank's last part; return the records of all ranks on rank 0, None on other ranks."""
        self._write_part(trainer)
        trainer.strategy.barrier()
        return self._parts.merge() if trainer.is_global_zero else None

    def _collect(self, pl_module: Any, outputs: dict[str, Any], batch: Batch) -> None:
        """Add a batch's results to `rows`; subclasses override this."""
        raise TypeError(f"{type(self).__name__} must override _collect()")

    def _unreadable_rows(self, batch: Batch) -> list[tuple[int, str]]:
        """Return the rows of a batch whose images could not be read, with the reasons."""
        pairs = zip(batch["rows"][~batch["readable"]].tolist(), batch["unreadable"], strict=True)
        return [(row, reason) for row, reason in pairs if row >= 0]

    @property
    def _source(self) -> str:
        """The value of the source columns for texts and intensities from this run's model."""
        return f"explllm {self.run_dir.name}"

    def _writes_model(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run  # pyrefly: ignore[missing-attribute]

    def _write_stage_metrics(
        self, trainer: Trainer, pl_module: FaceTask, metrics: dict[str, Any], stage: str
    ) -> dict[str, Any]:
        """Write a stage's metrics, with the root and margin of its data, replacing the stage's earlier metrics."""
        data = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        metrics = {**metrics, "unreadable": pl_module.unreadable_images}
        metrics |= {"root": str(data.manifest.root.resolve()), "margin": data.margin}
        return self._write_metrics(trainer, {f"{stage}/{name}": value for name, value in metrics.items()}, f"{stage}/")

    def _write_metrics(
        self, trainer: Trainer, metrics: dict[str, Any], replace_prefix: str | None = None
    ) -> dict[str, Any]:
        """Add metrics to ``metrics.json`` after removing those whose names begin with `replace_prefix`."""
        # pyrefly: ignore[missing-attribute]
        note = trainer.datamodule.training_data_note
        written = {**metrics, "training_data_note": note, "explllm": __version__}
        # An earlier test may have other metric names, because it may have had other expressions or units.
        return update_json(self.run_dir / METRICS_FILE, written, replace_prefix)

    def _write_predictions(self, manifest: Manifest) -> None:
        manifest.write(self.predictions)
        get_console().print(f"predictions: {self.predictions}", soft_wrap=True, markup=False)

    def _print_note(self, trainer: Trainer) -> None:
        if note := trainer.datamodule.training_data_note:  # pyrefly: ignore[missing-attribute]
            get_console().print(f"[bold]Note:[/bold] {escape(note)}", soft_wrap=True)
