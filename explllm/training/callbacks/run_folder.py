"""The run folder: metrics, predictions, the report, and the model to open with ``ExpLLM.from_pretrained``."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as distributed
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from explllm import __version__
from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import Expression
from explllm.core.files import update_json, written_whole
from explllm.data.dataset import Batch
from explllm.metrics.recognition import RecognitionMetrics
from explllm.report.page import ExplainedFace, write_report
from explllm.report.text import print_explained, print_figures
from explllm.training.task import ExpLLMTask


class RunFolder(Callback):
    """Writes what a run leaves behind, every file whole."""

    def __init__(self, run_dir: str, explained_faces: int = 3) -> None:
        """Set where.

        Args:
            run_dir: The run folder.
            explained_faces: Faces that a test explains, for the report and on the screen.
        """
        self.run_dir, self.explained_faces = Path(run_dir), explained_faces
        self.console = Console()
        self.metrics: RecognitionMetrics | None = None
        self.rows: list[dict[str, Any]] = []
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Say what trains, and note the time."""
        self._started = time.monotonic()
        if trainer.is_global_zero:
            counts = pl_module.explllm.freeze()
            said = ", ".join(f"{part} {count:,}" for part, count in counts.items())
            self.console.print(f"trainable weights: {said}; {sum(counts.values()):,} in all", soft_wrap=True)
            self._notice(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the model."""
        if not trainer.is_global_zero:
            return
        pl_module.explllm.save_pretrained(self.run_dir / "model")
        loss = trainer.callback_metrics.get("train/loss")
        self._write_metrics(
            trainer,
            {
                "fit/seconds": round(time.monotonic() - self._started, 1),
                "fit/steps": trainer.global_step,
                "fit/loss": None if loss is None else float(loss),
                "fit/unreadable": pl_module.unreadable,
                "fit/trainable_weights": sum(w.numel() for w in pl_module.parameters() if w.requires_grad),
            },
        )
        self.console.print(f"model: {self.run_dir / 'model'}", soft_wrap=True)

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
        self._keep(trainer, pl_module, outputs)
        if self.metrics is not None:
            self.metrics.update(outputs["probabilities"], outputs["targets"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write metrics, predictions and report; print the figures and some explained faces."""
        if self.metrics is None:
            return
        figures = self.metrics.compute()
        rows, unreadable = _gathered(self.rows), _gathered(pl_module.unreadable)
        if not trainer.is_global_zero:
            return
        predictions = pd.DataFrame(rows).sort_values("row", kind="stable").drop(columns="row").reset_index(drop=True)
        explained = self._explain(trainer, pl_module, predictions)
        figures = {f"test/{name}": value for name, value in figures.items()}
        written = self._write_metrics(trainer, {**figures, "test/unreadable": unreadable})
        self._write_predictions(predictions)
        write_report(self.run_dir / "report.html", self.run_dir.name, written, explained)
        print_figures(self.console, written)
        for face in explained:
            print_explained(self.console, face.image, face.expression, face.recognition, face.cot)
        self._notice(trainer)
        self.console.print(f"report: {self.run_dir / 'report.html'}", soft_wrap=True)

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
        self._keep(trainer, pl_module, outputs)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the predictions."""
        rows = _gathered(self.rows)
        if trainer.is_global_zero:
            frame = pd.DataFrame(rows).sort_values("row", kind="stable").drop(columns="row").reset_index(drop=True)
            self._write_predictions(frame)

    def _begin(self, pl_module: ExpLLMTask) -> None:
        self.rows = []
        self.metrics = RecognitionMetrics(pl_module.labels).to(pl_module.device)

    def _keep(self, trainer: Trainer, pl_module: ExpLLMTask, outputs: dict[str, Any]) -> None:
        frame, labels = trainer.datamodule.frame(), pl_module.labels  # type: ignore[attr-defined]
        cots: list[ChainOfThought | None] = outputs.get("cots") or [None] * len(outputs["rows"])
        columns = (outputs["rows"].tolist(), outputs["probabilities"].tolist(), cots)
        for row, probabilities, cot in zip(*columns, strict=True):
            best = max(range(len(labels)), key=probabilities.__getitem__)
            kept = {
                "row": row,
                "image": frame.at[row, "image"],
                "split": frame.at[row, "split"],
                "expression": frame.at[row, "expression"],
                "predicted": str(labels[best]),
                **{f"p_{label}": value for label, value in zip(labels, probabilities, strict=True)},
            }
            self.rows.append(kept if cot is None else {**kept, "cot": cot.text})

    def _explain(self, trainer: Trainer, pl_module: ExpLLMTask, predictions: pd.DataFrame) -> list[ExplainedFace]:
        """Explain a few test faces, of as many different expressions as there are faces to explain."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        place = predictions.groupby("expression").cumcount()
        chosen = predictions.assign(place=place).sort_values("place", kind="stable").head(self.explained_faces)
        if chosen.empty:
            return []
        images = [data.manifest.root / name for name in chosen["image"]]
        pixels = torch.stack([pl_module.image(image) for image in images])
        labels = [Expression(label) for label in chosen["predicted"]]
        cots = pl_module.explllm.explain_pixels(pixels, labels, pl_module.max_new_tokens)
        recognitions = pl_module.explllm.recognize_pixels(pixels)
        predictions["cot"] = None
        predictions.loc[chosen.index, "cot"] = [cot.text for cot in cots]
        return [
            ExplainedFace(image, Expression(truth), recognition, cot)
            for image, truth, recognition, cot in zip(images, chosen["expression"], recognitions, cots, strict=True)
        ]

    def _write_metrics(self, trainer: Trainer, figures: dict[str, Any]) -> dict[str, Any]:
        notice = trainer.datamodule.notice  # type: ignore[attr-defined]
        return update_json(self.run_dir / "metrics.json", {**figures, "notice": notice, "explllm": __version__})

    def _write_predictions(self, frame: pd.DataFrame) -> None:
        path = self.run_dir / "predictions.parquet"
        with written_whole(path) as temporary:
            frame.to_parquet(temporary, index=False)
        self.console.print(f"predictions: {path}", soft_wrap=True)

    def _notice(self, trainer: Trainer) -> None:
        if notice := trainer.datamodule.notice:  # type: ignore[attr-defined]
            self.console.print(f"[bold]Note:[/bold] {notice}", soft_wrap=True)


def _gathered(items: list[Any]) -> list[Any]:
    """Join the lists of all ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return items
    lists: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]
