"""The run folder of a regressor of action units: model, ONNX file, metrics, figures by unit, predictions."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, Trainer
from rich import get_console

from explllm import __version__
from explllm.core.errors import ImageError, InputError
from explllm.core.files import update_json, written_whole
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.models.au_export import export_onnx
from explllm.report.action_units import agreement_plot, print_agreement, print_facs, write_agreement
from explllm.report.page import PLOTS
from explllm.report.plots import write_plots
from explllm.training.au_task import ActionUnitTask
from explllm.training.callbacks.run_folder import METRICS, MODEL, PREDICTIONS
from explllm.training.face_task import gathered

ONNX, BY_UNIT = "au_regressor.onnx", "action_units.csv"
_COMPARED = 4
"""Faces that the ONNX file is compared on, beside random images."""


class ActionUnitRunFolder(Callback):
    """Writes what a run of `ActionUnitTask` leaves behind, every file whole."""

    def __init__(self, run_dir: str, predictions: str | None = None) -> None:
        """Set where.

        Args:
            run_dir: The run folder.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.
        """
        self.run_dir = Path(run_dir)
        self.predictions = Path(predictions) if predictions else self.run_dir / PREDICTIONS
        self.rows: list[tuple[int, list[float] | None, str | None]] = []
        self._seconds, self._started = 0.0, 0.0
        self._first_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Keep how long the run has trained."""
        return {"seconds": self._seconds + time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Say what trains."""
        if not trainer.is_global_zero:
            return
        counts = pl_module.regressor.freeze()
        said = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        get_console().print(f"trainable weights: {said}; {sum(counts.values()):,} in all", soft_wrap=True)
        self._notice(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Note time and step."""
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Note how long the run has trained."""
        self._seconds, self._started = self.state_dict()["seconds"], time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write the model and its ONNX file; figures of the model that was there before go with it."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        pl_module.regressor.save_pretrained(self.run_dir / MODEL)
        if self._first_step is not None and trainer.global_step > self._first_step:
            for name in (METRICS, PREDICTIONS, BY_UNIT, ONNX):
                (self.run_dir / name).unlink(missing_ok=True)
            shutil.rmtree(self.run_dir / PLOTS, ignore_errors=True)
        get_console().print(f"model: {self.run_dir / MODEL}", soft_wrap=True)
        difference = self._export(trainer, pl_module)
        if pl_module.last_loss is not None:
            figures = {
                "fit/seconds": round(self._seconds, 1),
                "fit/steps": trainer.global_step,
                "fit/loss": float(pl_module.last_loss),
                "fit/unreadable": pl_module.unreadable,
                "fit/trainable_weights": sum(w.numel() for w in pl_module.parameters() if w.requires_grad),
                "fit/onnx_difference": difference,
            }
            # A finished run that is resumed trains nothing: its figures stand, the last seconds too.
            held = update_json(self.run_dir / METRICS, {})
            if any(held.get(name) != figures[name] for name in ("fit/steps", "fit/loss")):
                self._write_metrics(trainer, figures, None)

    def on_validation_start(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Start keeping, if validation is no part of training."""
        self.rows = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write and print the figures, if validation is no part of training."""
        if trainer.state.fn == "validate":
            self._score(trainer, pl_module, "val")

    def on_test_start(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Start keeping."""
        self.rows = []

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ActionUnitTask,
        outputs: dict[str, torch.Tensor],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's estimates."""
        self._keep(outputs, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write metrics, predictions, table and picture by unit; print the figures."""
        self._score(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Start keeping."""
        self.rows = []

    def on_predict_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ActionUnitTask,
        outputs: dict[str, torch.Tensor],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's estimates."""
        self._keep(outputs, batch)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write the estimates."""
        rows = gathered(self.rows)
        if trainer.is_global_zero:
            self._write_predictions(trainer, rows)
            get_console().print(f"{len(rows)} faces", soft_wrap=True)

    def _keep(self, outputs: dict[str, torch.Tensor], batch: Batch) -> None:
        pairs = zip(outputs["rows"].tolist(), outputs["action_units"].tolist(), strict=True)
        self.rows += [(row, units, None) for row, units in pairs]
        lost = zip(batch["rows"][~batch["readable"]].tolist(), batch["unreadable"], strict=True)
        self.rows += [(row, None, reason) for row, reason in lost if row >= 0]

    def _export(self, trainer: Trainer, pl_module: ActionUnitTask) -> float | None:
        """Write the ONNX file; a finished training is not lost where that cannot be done."""
        path, data = self.run_dir / ONNX, trainer.datamodule  # type: ignore[attr-defined]
        images, rows = data.images(), list(data.frame("train").index)
        faces = []
        for row in rows[: _COMPARED + len(pl_module.unreadable)]:
            try:
                faces.append(pl_module.image.normalize(images[row]))
            except InputError:
                continue
        try:
            difference = export_onnx(pl_module.regressor, path, torch.stack(faces) if faces else None)
        except InputError as error:
            sys.stderr.write(f"warning: no {path}: {error}\n")
            return None
        get_console().print(
            f"onnx: {path}, within {difference:.1g} of the model; explllm aus M -o OUT --onnx {path}",
            soft_wrap=True,
            highlight=False,
        )
        return difference

    def _score(self, trainer: Trainer, pl_module: ActionUnitTask, stage: str) -> None:
        """Write and print the figures; every process takes part in them."""
        figures, rows = pl_module.figures(), gathered(self.rows)
        if not (figures.get("faces") or figures.get("facs", {}).get("faces")):
            raise ImageError("no labelled face can be read", remedy="Check the root and the files of the data.")
        if not trainer.is_global_zero:
            return
        root = trainer.datamodule.manifest.root  # type: ignore[attr-defined]
        more = {"unreadable": pl_module.unreadable, "root": str(root.resolve())}
        written = {f"{stage}/{name}": value for name, value in {**figures, **more}.items()}
        self._write_metrics(trainer, written, f"{stage}/")
        console, facs = get_console(), figures.pop("facs", None)
        if stage == "test":
            self._write_predictions(trainer, rows)
        if figures:
            print_agreement(console, figures, stage)
            if stage == "test":
                write_agreement(self.run_dir / BY_UNIT, figures)
                write_plots(self.run_dir / PLOTS, [agreement_plot(figures)])
                console.print(f"by unit: {self.run_dir / BY_UNIT}, {self.run_dir / PLOTS}", soft_wrap=True)
        if facs is not None:
            print_facs(console, facs, stage)
        self._notice(trainer)

    def _write_metrics(self, trainer: Trainer, figures: dict[str, Any], instead_of: str | None) -> None:
        """Add figures to ``metrics.json``, in the place of all whose names begin with `instead_of`."""
        path, notice = self.run_dir / METRICS, trainer.datamodule.notice  # type: ignore[attr-defined]
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kept = {name: value for name, value in held.items() if instead_of is None or not name.startswith(instead_of)}
        with written_whole(path) as temporary:
            values = {**kept, **figures, "notice": notice, "explllm": __version__}
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _write_predictions(self, trainer: Trainer, rows: list[tuple[int, list[float] | None, str | None]]) -> None:
        """Write a manifest with the estimates as its action units; labels move to ``action_units_true``."""
        manifest: Manifest = trainer.datamodule.manifest  # type: ignore[attr-defined]
        rows = sorted(rows, key=lambda row: row[0])
        table = manifest.frame.loc[[row for row, _, _ in rows]].copy()
        if "action_units" in table:
            table["action_units_true"] = table["action_units"]
        table["action_units"] = pd.Series([units for _, units, _ in rows], index=table.index, dtype=object)
        sources = [None if units is None else f"explllm {self.run_dir.name}" for _, units, _ in rows]
        table["action_units_source"] = pd.Series(sources, index=table.index, dtype=object)
        # What an earlier estimator did not know, this one estimates.
        table = table.drop(columns=["action_units_missing", "action_units_status"], errors="ignore")
        if any(reason is not None for _, _, reason in rows):
            table["unreadable"] = pd.Series([reason for _, _, reason in rows], index=table.index, dtype=object)
        Manifest(table, manifest.root).write(self.predictions)
        get_console().print(f"predictions: {self.predictions}", soft_wrap=True)

    def _notice(self, trainer: Trainer) -> None:
        if notice := trainer.datamodule.notice:  # type: ignore[attr-defined]
            get_console().print(f"[bold]Note:[/bold] {notice}", soft_wrap=True)
