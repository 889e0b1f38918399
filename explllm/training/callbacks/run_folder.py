"""The run folder: metrics, predictions, the report, and the model to open with ``ExpLLM.from_pretrained``."""

from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from lightning.pytorch import Trainer
from rich import get_console

from explllm.core.errors import ConfigError, ImageError
from explllm.core.expressions import Expression, LabelSet
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.answers import Answers, UnknownLabels
from explllm.metrics.evaluation import best_and_worst_faces, explanation_metrics, recognition_metrics
from explllm.metrics.judges.rules import OfflineJudge
from explllm.models.generation import Recognition
from explllm.models.storage import read_config
from explllm.report.cot_section import cot_section
from explllm.report.explained import ExplainedFace
from explllm.report.page import write_report
from explllm.report.terminal import print_explained, print_metrics
from explllm.training.callbacks.run_record import RunRecord
from explllm.training.face_task import gathered
from explllm.training.sample import fixed_sample
from explllm.training.task import ExpLLMTask

REPORT = "report.html"
SCORED_FACES = 16
"""Faces of a test, besides those that it shows, whose explanations are measured and judged."""
_CARRIED = ("image", "split", "expression", "box", "action_units", "action_units_source")
_AT_ONCE = 8


class RunFolder(RunRecord):
    """Writes what a run of `ExpLLMTask` leaves behind, every file whole."""

    figures_of_a_model = (METRICS_FILE, PREDICTIONS_FILE, REPORT)

    def __init__(
        self,
        run_dir: str,
        explained_faces: int = 3,
        predictions: str | None = None,
        answer_labels: str | None = None,
        unknown_labels: UnknownLabels = "refuse",
    ) -> None:
        """Set where, and how answers are scored.

        Args:
            run_dir: The run folder.
            explained_faces: Faces that a test explains, for the report and on the screen. Unless there are none, it
                explains a fixed sample of `SCORED_FACES` too, and measures these texts.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.
            answer_labels: The label set of the test faces, such as ``affectnet7``: answers are sought among its
                expressions alone, and the probability of the model's others is shared out. By default every expression
                of the model may be the answer, and one that the data lacks counts as wrong.
            unknown_labels: What to do with test faces whose expression is no possible answer: ``refuse`` them, or
                ``leave_out``, which counts them.

        Raises:
            ConfigError: If `explained_faces` is negative, or one of the last two is unknown.
        """
        if explained_faces < 0:
            raise ConfigError(f"{explained_faces} explained faces", remedy="Give 0 or more.")
        if unknown_labels not in get_args(UnknownLabels):
            raise ConfigError(
                f"unknown_labels {unknown_labels!r}", remedy=f"Use one of {', '.join(get_args(UnknownLabels))}."
            )
        super().__init__(run_dir, predictions)
        self.answer_labels = None if answer_labels is None else LabelSet.by_name(answer_labels)
        self.unknown_labels: UnknownLabels = unknown_labels
        self.explained_faces = explained_faces

    def setup(self, trainer: Trainer, pl_module: ExpLLMTask, stage: str) -> None:  # type: ignore[override]
        """Tell the task whether faces of unknown expressions are left out."""
        pl_module.leave_out_unknown_labels = self.unknown_labels == "leave_out"

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Say what trains; take over what must be said of the model that it starts from."""
        if pl_module.init_from is not None:
            # Here, where its weights have just been read: when training ends, it may be gone.
            pl_module.explllm.config.training_data_note = read_config(Path(pl_module.init_from)).training_data_note
        super().on_fit_start(trainer, pl_module)

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ExpLLMTask,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's predictions."""
        if trainer.state.fn == "validate":
            self._keep(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write and print the figures."""
        if trainer.state.fn != "validate":
            return
        answers, _ = self._answers(trainer, pl_module)
        if trainer.is_global_zero:
            print_metrics(get_console(), self._score(trainer, pl_module, answers, "val"), "val")
            self._notice(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write metrics, predictions and report; print the figures and some explained faces."""
        answers, table = self._answers(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        written = self._score(trainer, pl_module, answers, "test")
        table.loc[answers.rows, "predicted"] = answers.names
        shown, sample = self._explain(trainer, pl_module, answers, table)
        sections = []
        if sample:
            references = trainer.datamodule.frame().reindex(columns=["cot"])["cot"]  # type: ignore[attr-defined]
            known = [references.get(row) for row in sample]
            explanations = explanation_metrics(
                [face.cot.text for face in sample.values()],
                [face.recognition.expression for face in sample.values()],
                [face.action_units for face in sample.values()],
                [text if isinstance(text, str) else None for text in known],
            )
            written = self._write_metrics(trainer, {f"test/cot/{name}": value for name, value in explanations.items()})
            sections = [cot_section(explanations)]
        self._write_predictions(Manifest(table, trainer.datamodule.manifest.root))  # type: ignore[attr-defined]
        write_report(self.run_dir / REPORT, self.run_dir.name, written, shown, sections)
        print_metrics(get_console(), written, "test")
        for face in shown:
            print_explained(get_console(), face.image, face.expression, face.recognition, face.cot)
        self._notice(trainer)
        get_console().print(f"report: {self.run_dir / REPORT}", soft_wrap=True, markup=False)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Write the predictions."""
        rows = gathered(self.rows)
        if not trainer.is_global_zero:
            return
        root = trainer.datamodule.manifest.root  # type: ignore[attr-defined]
        self._write_predictions(Manifest(self._table(trainer, rows), root))
        lost = sum("unreadable" in row for row in rows)
        read = f"; {lost} could not be read, see the column unreadable" if lost else ""
        get_console().print(f"{len(rows)} faces{read}", soft_wrap=True)
        self._notice(trainer)

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
        self.rows += [{"row": row, "unreadable": reason} for row, reason in self._lost(batch)]

    def _table(self, trainer: Trainer, rows: list[dict[str, Any]]) -> pd.DataFrame:
        """Join the predictions to what is known of their faces; the index is the row's number."""
        faces = trainer.datamodule.frame()  # type: ignore[attr-defined]
        found = pd.DataFrame(rows).set_index("row").sort_index()
        return faces.loc[found.index, [name for name in _CARRIED if name in faces]].join(found)

    def _answers(self, trainer: Trainer, pl_module: ExpLLMTask) -> tuple[Answers, pd.DataFrame]:
        """Gather the answers of all ranks, on each of them, so that a mistake stops them all."""
        table = self._table(trainer, gathered(self.rows))
        answers = None
        if "predicted" in table:
            answers = Answers.from_table(table, pl_module.labels, self.answer_labels, self.unknown_labels)
        elif pl_module.unreadable:
            raise ImageError(
                f"no face can be read, first {pl_module.unreadable[0]}",
                remedy="Check the root and the files of the data.",
            )
        if answers is None or not answers.rows:
            raise ConfigError(
                "no face has an expression that the model may answer", remedy="Check the labels of model and data."
            )
        return answers, table

    def _score(self, trainer: Trainer, pl_module: ExpLLMTask, answers: Answers, stage: str) -> dict[str, Any]:
        """Compute the figures, and write them to ``metrics.json`` in the place of earlier ones."""
        return self._write_figures(trainer, pl_module, recognition_metrics(answers), stage)

    def _explain(
        self, trainer: Trainer, pl_module: ExpLLMTask, answers: Answers, table: pd.DataFrame
    ) -> tuple[list[ExplainedFace], dict[int, ExplainedFace]]:
        """Explain the faces to show and those to score.

        Returns:
            The faces to show: those recognized best and worst, of as many different expressions as there are faces.
            And by row those to score, a sample that does not look at what the model makes of a face: the mean over
            best and worst would be a figure of nothing.
        """
        scored = pd.DataFrame(
            {
                "expression": [str(answers.labels[place]) for place in answers.targets],
                "correct": answers.correct,
                "truth_probability": answers.truth_probability,
            },
            index=answers.rows,
        )
        shown = [int(str(row)) for row in best_and_worst_faces(scored, self.explained_faces)]
        if not shown:
            return [], {}
        data = trainer.datamodule  # type: ignore[attr-defined]
        known = data.frame().reindex(columns=["cot", "action_units_source"]).loc[scored.index]
        told = scored[known["cot"].notna()]
        sample = fixed_sample(scored if told.empty else told, SCORED_FACES)
        rows = list(dict.fromkeys([*shown, *sample]))
        cots: list[ChainOfThought] = []
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            pixels = torch.stack([pl_module.image(data.face(row)) for row in part])
            predicted = [Expression(label) for label in table.loc[part, "predicted"]]
            cots += pl_module.explllm.explain_pixels(pixels, predicted, pl_module.max_new_tokens)
        table["cot"] = pd.Series([cot.text for cot in cots], index=rows, dtype=object)
        table["cot_source"] = pd.Series(self._source, index=rows, dtype=object)
        shares = dict(zip(answers.rows, answers.probabilities.tolist(), strict=True))
        explained, judge = {}, OfflineJudge()
        for row, cot in zip(rows, cots, strict=True):
            text, source = known.loc[row]
            face = ExplainedFace(
                data.manifest.image_path(row),
                Expression(str(scored.at[row, "expression"])),
                Recognition.of(answers.labels, shares[row]),
                cot,
                data.manifest.intensities_at(row),
                source if isinstance(source, str) else None,
                data.manifest.box(row),
                data.margin,
            )
            if isinstance(text, str):
                face = face.with_scores(judge.compare(cot.text, text), judge.name)
            explained[row] = face
        return [explained[row] for row in shown], {row: explained[row] for row in sample}
