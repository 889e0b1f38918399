"""What the run folders of all tasks have in common: the model, metrics, the table of predictions, the time taken."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich import get_console
from rich.markup import escape

from explllm import __version__
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE, atomic_write, update_json
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.models.configuration import joined_notes
from explllm.report.page import PLOTS
from explllm.training.face_task import FaceTask

MODEL = "model"


class RunRecord(Callback):
    """Writes what a run leaves behind, every file whole; subclasses add what is their task's own."""

    figures_of_a_model: tuple[str, ...] = (METRICS_FILE, PREDICTIONS_FILE)
    """Files that go when another model takes the place of the one that they are about."""

    def __init__(self, run_dir: str, predictions: str | None = None) -> None:
        """Set where.

        Args:
            run_dir: The run folder.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.
        """
        self.run_dir = Path(run_dir)
        self.predictions = Path(predictions) if predictions else self.run_dir / PREDICTIONS_FILE
        self.rows: list[Any] = []
        """What is kept of each face of an evaluation."""
        self._seconds, self._started = 0.0, 0.0
        self._first_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Keep how long the run has trained."""
        return {"seconds": self._seconds + time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # type: ignore[override]
        """Say what trains."""
        if not trainer.is_global_zero:
            return
        counts = pl_module.model.trainable_counts()
        said = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        get_console().print(f"trainable weights: {said}; {sum(counts.values()):,} in all", soft_wrap=True)
        self._notice(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # type: ignore[override]
        """Note time and step."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: FaceTask) -> None:  # type: ignore[override]
        """Note how long the run has trained."""
        self._seconds, self._started = self.state_dict()["seconds"], time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: FaceTask) -> None:  # type: ignore[override]
        """Write the model; figures of the model that was there before go, as they are not this one's."""
        if not self._keeps_model(trainer):
            return
        config, data = pl_module.model.config, trainer.datamodule  # type: ignore[attr-defined]
        config.training_data_note = joined_notes(config.training_data_note, data.training_data_note)
        config.margin = data.margin
        pl_module.model.save_pretrained(self.run_dir / MODEL)
        if self._first_step is not None and trainer.global_step > self._first_step:
            for name in self.figures_of_a_model:
                (self.run_dir / name).unlink(missing_ok=True)
            shutil.rmtree(self.run_dir / PLOTS, ignore_errors=True)
        if pl_module.last_loss is not None:
            figures = {
                "fit/seconds": round(self._seconds, 1),
                "fit/steps": trainer.global_step,
                "fit/loss": float(pl_module.last_loss),
                "fit/unreadable": pl_module.unreadable,
                "fit/trainable_weights": sum(w.numel() for w in pl_module.parameters() if w.requires_grad),
            }
            # A finished run that is resumed trains nothing: its figures stand, the last seconds too.
            held = update_json(self.run_dir / METRICS_FILE, {})
            if any(held.get(name) != figures[name] for name in ("fit/steps", "fit/loss")):
                self._write_metrics(trainer, figures)
        get_console().print(f"model: {self.run_dir / MODEL}", soft_wrap=True, markup=False)

    def on_validation_start(self, trainer: Trainer, pl_module: FaceTask) -> None:  # type: ignore[override]
        """Start keeping."""
        self.rows = []

    on_test_start = on_predict_start = on_validation_start  # type: ignore[assignment]

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: FaceTask,
        outputs: dict[str, torch.Tensor],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was found in a batch."""
        self._keep(pl_module, outputs, batch)

    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]

    def _keep(self, pl_module: Any, outputs: dict[str, Any], batch: Batch) -> None:
        """Add to `rows` what was found in a batch, and why where nothing was; subclasses do."""
        raise TypeError(f"{type(self).__name__} must say what it keeps of a batch: override _keep()")

    def _lost(self, batch: Batch) -> list[tuple[int, str]]:
        """Return the rows of a batch whose image could not be read, with the reason."""
        lost = zip(batch["rows"][~batch["readable"]].tolist(), batch["unreadable"], strict=True)
        return [(row, reason) for row, reason in lost if row >= 0]

    @property
    def _source(self) -> str:
        """What tables say of texts and intensities that this run's model gave."""
        return f"explllm {self.run_dir.name}"

    def _keeps_model(self, trainer: Trainer) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]

    def _write_figures(
        self, trainer: Trainer, pl_module: FaceTask, figures: dict[str, Any], stage: str
    ) -> dict[str, Any]:
        """Write the figures of an evaluation and what they rest on, in the place of earlier ones of its stage."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        figures = {**figures, "unreadable": pl_module.unreadable}
        figures |= {"root": str(data.manifest.root.resolve()), "margin": data.margin}
        return self._write_metrics(trainer, {f"{stage}/{name}": value for name, value in figures.items()}, f"{stage}/")

    def _write_metrics(
        self, trainer: Trainer, figures: dict[str, Any], instead_of: str | None = None
    ) -> dict[str, Any]:
        """Add figures to ``metrics.json``, in the place of all whose names begin with `instead_of`."""
        path, note = self.run_dir / METRICS_FILE, trainer.datamodule.training_data_note  # type: ignore[attr-defined]
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        # A test among other expressions or units leaves other names behind.
        kept = {name: value for name, value in held.items() if instead_of is None or not name.startswith(instead_of)}
        written = {**kept, **figures, "training_data_note": note, "explllm": __version__}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        return written

    def _write_predictions(self, manifest: Manifest) -> None:
        manifest.write(self.predictions)
        get_console().print(f"predictions: {self.predictions}", soft_wrap=True, markup=False)

    def _notice(self, trainer: Trainer) -> None:
        if note := trainer.datamodule.training_data_note:  # type: ignore[attr-defined]
            get_console().print(f"[bold]Note:[/bold] {escape(note)}", soft_wrap=True)
