"""The run folder of an action unit regressor: model, ONNX file, metrics, a per-unit table, and predictions."""

import sys
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Trainer
from rich import get_console

from explllm.core.errors import ImageError, InputError
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE, update_json
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.models.au_export import export_onnx
from explllm.models.au_regressor import ActionUnitRegressor
from explllm.report.action_units import agreement_plot, print_agreement, print_facs, write_agreement
from explllm.report.page import PLOTS
from explllm.report.plots import write_plots
from explllm.training.au_task import ActionUnitTask
from explllm.training.callbacks.base_run_folder import MODEL, BaseRunFolder
from explllm.training.face_task import all_gather_list

ONNX, BY_UNIT = "au_regressor.onnx", "action_units.csv"
_COMPARED_FACES = 4
"""Number of faces on which the ONNX file is compared with the model, in addition to random images."""


class ActionUnitRunFolder(BaseRunFolder):
    """Writes the run folder of an `ActionUnitTask`; every file is written atomically."""

    model_results = (METRICS_FILE, PREDICTIONS_FILE, BY_UNIT, ONNX)

    def on_fit_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # pyrefly: ignore[bad-override]
        """Write the model and its metrics, then the ONNX file, so that a failed export loses nothing else."""
        super().on_fit_end(trainer, pl_module)
        if self._writes_model(trainer):
            difference = self._export(trainer, pl_module)
            if pl_module.last_loss is not None:
                update_json(self.run_dir / METRICS_FILE, {"fit/onnx_difference": difference})

    # pyrefly: ignore[bad-override]
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:
        """Write and print the metrics after a standalone validation run, not during training."""
        if trainer.state.fn == "validate":
            self._score(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # pyrefly: ignore[bad-override]
        """Write the metrics, the predictions, and the per-unit table and plot; print the metrics."""
        self._score(trainer, pl_module, "test")

    # pyrefly: ignore[bad-override]
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:
        """Merge and write the estimates of all ranks."""
        estimates = self._merged_predictions(trainer)
        if estimates is not None:
            self._write_predictions(self._estimates(trainer, estimates))
            self._parts.remove()
            get_console().print(f"{len(estimates)} faces", soft_wrap=True)
            self._print_note(trainer)

    def _collect(self, pl_module: ActionUnitTask, outputs: dict[str, Any], batch: Batch) -> None:
        """Add a batch's intensities to `rows` and, for each unreadable image, the reason."""
        pairs = zip(outputs["rows"].tolist(), outputs["action_units"].tolist(), strict=True)
        self.rows += [{"row": row, "action_units": units, "unreadable": None} for row, units in pairs]
        unreadable = self._unreadable_rows(batch)
        self.rows += [{"row": row, "action_units": None, "unreadable": reason} for row, reason in unreadable]

    def _export(self, trainer: Trainer, pl_module: ActionUnitTask) -> float | None:
        """Write the ONNX file and return its difference from the model; if that fails, warn and return None."""
        path, data = self.run_dir / ONNX, trainer.datamodule  # pyrefly: ignore[missing-attribute]
        images, rows = data.images(), list(data.frame("train").index)
        faces = []
        for row in rows[: _COMPARED_FACES + len(pl_module.unreadable_images)]:
            try:
                faces.append(pl_module.image.normalize(images[row]))
            except InputError:
                continue
        try:
            # Load the model from the folder, because under FSDP2 this rank has only shards of the weights.
            model = ActionUnitRegressor.from_pretrained(self.run_dir / MODEL)
            difference = export_onnx(model, path, torch.stack(faces) if faces else None)
        except InputError as error:
            sys.stderr.write(f"warning: no {path}: {error}\n")
            return None
        get_console().print(
            f"onnx: {path}, within {difference:.1g} of the model; explllm aus M -o OUT --onnx {path}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        return difference

    def _score(self, trainer: Trainer, pl_module: ActionUnitTask, stage: str) -> None:
        """Write and print the metrics; every rank must call it."""
        metrics, rows = pl_module.compute_metrics(), all_gather_list(self.rows)
        if not (metrics.get("faces") or metrics.get("facs", {}).get("faces")):
            raise ImageError("no labeled face can be read", remedy="Check the data's root and files.")
        if not trainer.is_global_zero:
            return
        self._write_stage_metrics(trainer, pl_module, metrics, stage)
        console, facs = get_console(), metrics.pop("facs", None)
        if stage == "test":
            self._write_predictions(self._estimates(trainer, pd.DataFrame(rows)))
        if metrics:
            print_agreement(console, metrics, stage)
            if stage == "test":
                write_agreement(self.run_dir / BY_UNIT, metrics)
                write_plots(self.run_dir / PLOTS, [agreement_plot(metrics)])
                paths = f"{self.run_dir / BY_UNIT}, {self.run_dir / PLOTS}"
                console.print(f"by unit: {paths}", soft_wrap=True, markup=False)
        if facs is not None:
            print_facs(console, facs, stage)
        self._print_note(trainer)

    def _estimates(self, trainer: Trainer, estimates: pd.DataFrame) -> Manifest:
        """Return the manifest with the estimates in ``action_units``; labels move to ``action_units_true``."""
        manifest: Manifest = trainer.datamodule.manifest  # pyrefly: ignore[missing-attribute]
        estimates = estimates.set_index("row").sort_index()
        table = manifest.frame.loc[estimates.index].copy()
        if "action_units" in table:
            table["action_units_true"] = table["action_units"]
            if "action_units_source" in table:
                table["action_units_true_source"] = _label_source(table, manifest.is_synthetic().loc[table.index])
        units = [list(cell) if isinstance(cell, list | np.ndarray) else None for cell in estimates["action_units"]]
        table["action_units"] = pd.Series(units, index=table.index, dtype=object)
        sources = [None if cell is None else self._source for cell in units]
        table["action_units_source"] = pd.Series(sources, index=table.index, dtype=object)
        # These columns describe an earlier estimator; this one estimates every unit.
        table = table.drop(columns=["action_units_missing", "action_units_status"], errors="ignore")
        if estimates["unreadable"].notna().any():
            reasons = estimates["unreadable"].astype(object)
            table["unreadable"] = reasons.where(reasons.notna(), None)
        return Manifest(table, manifest.root)


def _label_source(table: pd.DataFrame, drawn: pd.Series) -> pd.Series:
    """Return the source of the labels; drawn faces stay marked as drawn, even after several estimations."""
    source = table["action_units_source"].astype(object)
    marked = source.map(lambda name: "drawn" if pd.isna(name) or name == "drawn" else f"{name}, drawn")
    return source.where(~drawn, marked)
