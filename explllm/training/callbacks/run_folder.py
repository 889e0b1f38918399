"""The run folder: metrics, predictions, the report, and the model to open with ``ExpLLM.from_pretrained``."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from rich import get_console

from explllm import __version__
from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.errors import ConfigError, ImageError
from explllm.core.expressions import Expression
from explllm.core.files import update_json
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.metrics.recognition import RecognitionMetrics
from explllm.models.recognition import Recognition
from explllm.report.page import ExplainedFace, write_report
from explllm.report.text import print_explained, print_figures
from explllm.training.task import ExpLLMTask, gathered

METRICS, PREDICTIONS, REPORT, MODEL = "metrics.json", "predictions.parquet", "report.html", "model"
_CARRIED = ("image", "split", "expression", "box")


class RunFolder(Callback):
    """Writes what a run leaves behind, every file whole."""

    def __init__(self, run_dir: str, explained_faces: int = 3, predictions: str | None = None) -> None:
        """Set where.

        Args:
            run_dir: The run folder.
            explained_faces: Faces that a test explains, for the report and on the screen.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.

        Raises:
            ConfigError: If `explained_faces` is negative.
        """
        if explained_faces < 0:
            raise ConfigError(f"{explained_faces} explained faces", remedy="Give 0 or more.")
        self.run_dir, self.explained_faces = Path(run_dir), explained_faces
        self.predictions = Path(predictions) if predictions else self.run_dir / PREDICTIONS
        self.metrics: RecognitionMetrics | None = None
        self.rows: list[dict[str, Any]] = []
        self._seconds, self._started = 0.0, 0.0
        self._first_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Keep how long the run has trained."""
        return {"seconds": self._seconds + time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Say what trains."""
        if not trainer.is_global_zero:
            return
        counts = pl_module.explllm.freeze()
        said = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        get_console().print(f"trainable weights: {said}; {sum(counts.values()):,} in all", soft_wrap=True)
        self._notice(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Note time and step."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Note how long the run has trained."""
        self._seconds, self._started = self.state_dict()["seconds"], time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the model; figures of the model that was there before go, as they are not this one's."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        pl_module.explllm.save_pretrained(self.run_dir / MODEL)
        if self._first_step is not None and trainer.global_step > self._first_step:
            for name in (METRICS, PREDICTIONS, REPORT):
                (self.run_dir / name).unlink(missing_ok=True)
        if pl_module.last_loss is not None:
            trainable = sum(w.numel() for w in pl_module.parameters() if w.requires_grad)
            figures = {
                "fit/seconds": round(self._seconds, 1),
                "fit/steps": trainer.global_step,
                "fit/loss": float(pl_module.last_loss),
                "fit/unreadable": pl_module.unreadable,
                "fit/trainable_weights": trainable,
            }
            # A finished run that is resumed trains nothing: its figures stand, the last seconds too.
            held = update_json(self.run_dir / METRICS, {})
            if any(held.get(name) != figures[name] for name in ("fit/steps", "fit/loss")):
                self._write_metrics(trainer, figures)
        get_console().print(f"model: {self.run_dir / MODEL}", soft_wrap=True)

    def on_validation_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start counting, if validation is no part of training."""
        self._begin(pl_module, counting=trainer.state.fn == "validate")

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ExpLLMTask,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        if self.metrics is not None:
            self.metrics.update(outputs["probabilities"], outputs["targets"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write and print the figures."""
        if self.metrics is None:
            return
        written = self._count(trainer, pl_module, self.metrics, "val")
        if trainer.is_global_zero:
            print_figures(get_console(), written, "val")
            self._notice(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start counting."""
        self._begin(pl_module)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ExpLLMTask,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch and keep its predictions."""
        self._keep(pl_module, outputs, batch)
        if self.metrics is not None:
            self.metrics.update(outputs["probabilities"], outputs["targets"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write metrics, predictions and report; print the figures and some explained faces."""
        if self.metrics is None:
            return
        rows = gathered(self.rows)
        written = self._count(trainer, pl_module, self.metrics, "test")
        if not trainer.is_global_zero:
            return
        table = self._table(trainer, rows)
        explained = self._explain(trainer, pl_module, table)
        self._write_predictions(trainer, table)
        write_report(self.run_dir / REPORT, self.run_dir.name, written, explained)
        print_figures(get_console(), written, "test")
        for face in explained:
            print_explained(get_console(), face.image, face.expression, face.recognition, face.cot)
        self._notice(trainer)
        get_console().print(f"report: {self.run_dir / REPORT}", soft_wrap=True)

    def on_predict_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start keeping."""
        self._begin(pl_module)

    def on_predict_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ExpLLMTask,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        self._keep(pl_module, outputs, batch)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the predictions."""
        rows = gathered(self.rows)
        if not trainer.is_global_zero:
            return
        self._write_predictions(trainer, self._table(trainer, rows))
        lost = sum("unreadable" in row for row in rows)
        read = f"; {lost} could not be read, see the column unreadable" if lost else ""
        get_console().print(f"{len(rows)} faces{read}", soft_wrap=True)
        self._notice(trainer)

    def _begin(self, pl_module: ExpLLMTask, counting: bool = True) -> None:
        self.rows = []
        self.metrics = RecognitionMetrics(pl_module.labels).to(pl_module.device) if counting else None

    def _keep(self, pl_module: ExpLLMTask, outputs: dict[str, Any], batch: Batch) -> None:
        """Keep a batch's predictions by row, and the reason where there is none."""
        labels = pl_module.labels
        cots: list[ChainOfThought | None] = outputs.get("cots") or [None] * len(outputs["rows"])
        columns = (outputs["rows"].tolist(), outputs["probabilities"].tolist(), cots)
        for row, probabilities, cot in zip(*columns, strict=True):
            found = Recognition.of(labels, probabilities)
            shares = {f"p_{label}": value for label, value in found.probabilities.items()}
            kept = {"row": row, "predicted": str(found.expression), **shares}
            self.rows.append(kept if cot is None else {**kept, "cot": cot.text, "cot_source": self._source})
        lost = batch["rows"][~batch["readable"]].tolist()
        pairs = zip(lost, batch["unreadable"], strict=True)
        self.rows += [{"row": row, "unreadable": reason} for row, reason in pairs if row >= 0]

    @property
    def _source(self) -> str:
        return f"explllm {self.run_dir.name}"

    def _table(self, trainer: Trainer, rows: list[dict[str, Any]]) -> pd.DataFrame:
        """Join the predictions to what is known of their faces; the index is the row's number."""
        faces = trainer.datamodule.frame()  # type: ignore[attr-defined]
        found = pd.DataFrame(rows).set_index("row").sort_index()
        return faces.loc[found.index, [name for name in _CARRIED if name in faces]].join(found)

    def _count(
        self, trainer: Trainer, pl_module: ExpLLMTask, metrics: RecognitionMetrics, stage: str
    ) -> dict[str, Any]:
        """Compute the figures over all ranks, and add them to ``metrics.json``."""
        figures = metrics.compute()
        unreadable = pl_module.unreadable
        if not figures["count"]:
            raise ImageError(
                f"no face can be read, first {unreadable[0]}", remedy="Check the root and the files of the data."
            )
        figures = {f"{stage}/{name}": value for name, value in {**figures, "unreadable": unreadable}.items()}
        return self._write_metrics(trainer, figures) if trainer.is_global_zero else figures

    def _explain(self, trainer: Trainer, pl_module: ExpLLMTask, table: pd.DataFrame) -> list[ExplainedFace]:
        """Explain a few faces, of as many different expressions as there are faces to explain."""
        read = table[table["predicted"].notna()]
        place = read.groupby("expression").cumcount()
        chosen = read.assign(place=place).sort_values("place", kind="stable").head(self.explained_faces)
        if chosen.empty:
            return []
        root, labels = trainer.datamodule.manifest.root, pl_module.labels  # type: ignore[attr-defined]
        images = [root / name for name in chosen["image"]]
        pixels = torch.stack([pl_module.image(image) for image in images])
        predicted = [Expression(label) for label in chosen["predicted"]]
        cots = pl_module.explllm.explain_pixels(pixels, predicted, pl_module.max_new_tokens)
        table["cot"] = pd.Series([cot.text for cot in cots], index=chosen.index, dtype=object)
        table["cot_source"] = pd.Series(self._source, index=chosen.index, dtype=object)
        shares = chosen[[f"p_{label}" for label in labels]].to_numpy().tolist()
        recognitions = [Recognition.of(labels, row) for row in shares]
        return [
            ExplainedFace(image, Expression(truth), recognition, cot)
            for image, truth, recognition, cot in zip(images, chosen["expression"], recognitions, cots, strict=True)
        ]

    def _write_metrics(self, trainer: Trainer, figures: dict[str, Any]) -> dict[str, Any]:
        notice = trainer.datamodule.notice  # type: ignore[attr-defined]
        return update_json(self.run_dir / METRICS, {**figures, "notice": notice, "explllm": __version__})

    def _write_predictions(self, trainer: Trainer, table: pd.DataFrame) -> None:
        Manifest(table, trainer.datamodule.manifest.root).write(self.predictions)  # type: ignore[attr-defined]
        get_console().print(f"predictions: {self.predictions}", soft_wrap=True)

    def _notice(self, trainer: Trainer) -> None:
        if notice := trainer.datamodule.notice:  # type: ignore[attr-defined]
            get_console().print(f"[bold]Note:[/bold] {notice}", soft_wrap=True)
