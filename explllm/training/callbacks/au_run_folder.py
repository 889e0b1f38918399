"""The run folder of a regressor of action units: model, ONNX file, metrics, figures by unit, predictions."""

import sys
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Trainer
from rich import get_console

from explllm.core.errors import ImageError, InputError
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE, update_json
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.models.au_export import export_onnx
from explllm.report.action_units import agreement_plot, print_agreement, print_facs, write_agreement
from explllm.report.page import PLOTS
from explllm.report.plots import write_plots
from explllm.training.au_task import ActionUnitTask
from explllm.training.callbacks.base_run_folder import RunRecord
from explllm.training.face_task import gathered

ONNX, BY_UNIT = "au_regressor.onnx", "action_units.csv"
_COMPARED = 4
"""Faces that the ONNX file is compared on, beside random images."""


class ActionUnitRunFolder(RunRecord):
    """Writes what a run of `ActionUnitTask` leaves behind, every file whole."""

    figures_of_a_model = (METRICS_FILE, PREDICTIONS_FILE, BY_UNIT, ONNX)

    def on_fit_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write the model, its figures, and last its ONNX file, which the other two do not rest on."""
        super().on_fit_end(trainer, pl_module)
        if self._keeps_model(trainer):
            difference = self._export(trainer, pl_module)
            if pl_module.last_loss is not None:
                update_json(self.run_dir / METRICS_FILE, {"fit/onnx_difference": difference})

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write and print the figures, if validation is no part of training."""
        if trainer.state.fn == "validate":
            self._score(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write metrics, predictions, table and picture by unit; print the figures."""
        self._score(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ActionUnitTask) -> None:  # type: ignore[override]
        """Write the estimates."""
        rows = gathered(self.rows)
        if trainer.is_global_zero:
            self._write_predictions(self._estimates(trainer, rows))
            get_console().print(f"{len(rows)} faces", soft_wrap=True)
            self._notice(trainer)

    def _keep(self, pl_module: ActionUnitTask, outputs: dict[str, Any], batch: Batch) -> None:
        """Keep (row, intensities, reason why there are none)."""
        pairs = zip(outputs["rows"].tolist(), outputs["action_units"].tolist(), strict=True)
        self.rows += [(row, units, None) for row, units in pairs]
        self.rows += [(row, None, reason) for row, reason in self._lost(batch)]

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
            markup=False,
            highlight=False,
        )
        return difference

    def _score(self, trainer: Trainer, pl_module: ActionUnitTask, stage: str) -> None:
        """Write and print the figures; every process takes part in them."""
        figures, rows = pl_module.figures(), gathered(self.rows)
        if not (figures.get("faces") or figures.get("facs", {}).get("faces")):
            raise ImageError("no labeled face can be read", remedy="Check the root and the files of the data.")
        if not trainer.is_global_zero:
            return
        self._write_figures(trainer, pl_module, figures, stage)
        console, facs = get_console(), figures.pop("facs", None)
        if stage == "test":
            self._write_predictions(self._estimates(trainer, rows))
        if figures:
            print_agreement(console, figures, stage)
            if stage == "test":
                write_agreement(self.run_dir / BY_UNIT, figures)
                write_plots(self.run_dir / PLOTS, [agreement_plot(figures)])
                where = f"{self.run_dir / BY_UNIT}, {self.run_dir / PLOTS}"
                console.print(f"by unit: {where}", soft_wrap=True, markup=False)
        if facs is not None:
            print_facs(console, facs, stage)
        self._notice(trainer)

    def _estimates(self, trainer: Trainer, rows: list[tuple[int, list[float] | None, str | None]]) -> Manifest:
        """Return a table with the estimates as its action units; labels move to ``action_units_true``."""
        manifest: Manifest = trainer.datamodule.manifest  # type: ignore[attr-defined]
        rows = sorted(rows, key=lambda row: row[0])
        table = manifest.frame.loc[[row for row, _, _ in rows]].copy()
        if "action_units" in table:
            table["action_units_true"] = table["action_units"]
            if "action_units_source" in table:
                table["action_units_true_source"] = _former_source(table, manifest.is_synthetic().loc[table.index])
        table["action_units"] = pd.Series([units for _, units, _ in rows], index=table.index, dtype=object)
        sources = [None if units is None else self._source for _, units, _ in rows]
        table["action_units_source"] = pd.Series(sources, index=table.index, dtype=object)
        # What an earlier estimator did not know, this one estimates.
        table = table.drop(columns=["action_units_missing", "action_units_status"], errors="ignore")
        if any(reason is not None for _, _, reason in rows):
            table["unreadable"] = pd.Series([reason for _, _, reason in rows], index=table.index, dtype=object)
        return Manifest(table, manifest.root)


def _former_source(table: pd.DataFrame, drawn: pd.Series) -> pd.Series:
    """Return where the labels come from; of a drawn face also that it is drawn, however often it was estimated."""
    source = table["action_units_source"].astype(object)
    noted = source.map(lambda name: "drawn" if pd.isna(name) or name == "drawn" else f"{name}, drawn")
    return source.where(~drawn, noted)
