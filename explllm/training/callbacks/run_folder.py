"""The run folder: metrics, predictions, the report, and the model that ``ExpLLM.from_pretrained`` opens."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from lightning.pytorch import Trainer
from rich import get_console

from explllm.conversation.messages import explanation
from explllm.core.errors import ConfigError, ImageError
from explllm.core.expressions import Expression, LabelSet
from explllm.core.files import METRICS_FILE, PREDICTIONS_FILE
from explllm.core.manifest import Manifest
from explllm.data.dataset import Batch
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.metrics.answers import Answers, UnknownLabels
from explllm.metrics.evaluation import best_and_worst_faces, explanation_metrics, recognition_metrics
from explllm.metrics.judges.rules import OfflineJudge
from explllm.models.configuration import read_config
from explllm.models.drafts import Drafts
from explllm.models.generation import Recognition
from explllm.report.confusion import scored_faces
from explllm.report.cot_section import cot_section
from explllm.report.explained import ExplainedFace
from explllm.report.page import write_report
from explllm.report.terminal import print_explained, print_metrics, print_review
from explllm.training.callbacks.base_run_folder import MODEL, BaseRunFolder
from explllm.training.checkpoints import last_checkpoint
from explllm.training.face_record import TRAINING_FACES, read_record, training_faces, write_record
from explllm.training.face_task import all_gather_list
from explllm.training.leaks import count_training_faces
from explllm.training.sample import explained_face, fixed_sample
from explllm.training.task import ExpLLMTask

REPORT = "report.html"
SCORED_FACES = 16
"""Maximum number of test faces whose explanations are scored; the faces shown in the report are chosen separately."""
_COPIED_COLUMNS = ("image", "split", "expression", "box", "action_units", "action_units_missing", "action_units_source")
_DRAFT_TEXTS = 1000
"""Maximum number of training texts whose n-grams are saved with the model."""


class RunFolder(BaseRunFolder):
    """Writes the run folder of an `ExpLLMTask`; every file is written atomically."""

    model_results = (METRICS_FILE, PREDICTIONS_FILE, REPORT)

    def __init__(
        self,
        run_dir: str,
        explained_faces: int = 3,
        predictions: str | None = None,
        answer_labels: str | None = None,
        unknown_labels: UnknownLabels = "refuse",
        checkpoint: str | None = None,
        scored_faces: int = SCORED_FACES,
    ) -> None:
        """Configure the folder and how answers are scored.

        Args:
            run_dir: The run folder.
            explained_faces: Number of faces that a test explains in the report and in the terminal. If not 0, the test
                also explains and scores a fixed sample of faces.
            predictions: The table of predictions, a ``.parquet``, ``.csv`` or ``.jsonl`` file; by default in the run
                folder.
            answer_labels: The label set of the test faces, such as ``affectnet7``: the model answers only with
                expressions of this set, and their probabilities are renormalized. By default, the model may answer with
                any of its own expressions; an answer that is not among the data's expressions counts as wrong.
            unknown_labels: What to do with test faces whose expression is not a possible answer: raise an error
                (``refuse``), or skip and count them (``leave_out``).
            checkpoint: The checkpoint that `predict` uses. A killed `predict` resumes only with the same checkpoint.
            scored_faces: Maximum size of the scored sample. If any face has a reference chain of thought, only such
                faces are scored.

        Raises:
            ConfigError: If `explained_faces` is negative, or `answer_labels` or `unknown_labels` is unknown.
        """
        if explained_faces < 0:
            raise ConfigError(f"`explained_faces` must be at least 0, got {explained_faces}", remedy="Set 0 or more.")
        if unknown_labels not in get_args(UnknownLabels):
            raise ConfigError(
                f"unknown `unknown_labels` {unknown_labels!r}",
                remedy=f"Use one of {', '.join(get_args(UnknownLabels))}.",
            )
        super().__init__(run_dir, predictions, checkpoint)
        self.answer_labels = None if answer_labels is None else LabelSet.by_name(answer_labels)
        self.unknown_labels: UnknownLabels = unknown_labels
        self.explained_faces, self.scored_faces = explained_faces, scored_faces
        self._record: pd.DataFrame | None = None
        """The training faces, until the first checkpoint is written."""

    def setup(self, trainer: Trainer, pl_module: ExpLLMTask, stage: str) -> None:  # pyrefly: ignore[bad-override]
        """Set up the base class, and pass `unknown_labels` to the task."""
        super().setup(trainer, pl_module, stage)
        pl_module.leave_out_unknown_labels = self.unknown_labels == "leave_out"

    def on_fit_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Record the training faces; print the trainable weights; inherit the training data note of `init_from`."""
        if pl_module.init_from is not None:
            # Read the note now, like the weights, because the folder may no longer exist when training ends.
            pl_module.explllm.config.training_data_note = read_config(Path(pl_module.init_from)).training_data_note
        if self._writes_model(trainer):
            faces = trainer.datamodule.manifest  # pyrefly: ignore[missing-attribute]
            self._record = training_faces(faces, pl_module.init_from, trainer.ckpt_path)
        super().on_fit_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: ExpLLMTask, checkpoint: dict[str, Any]) -> None:  # pyrefly: ignore[bad-override]
        """Store the record of training faces with the first checkpoint: a resumed run may use different data."""
        if self._record is not None:
            write_record(self._record, self._checkpoints)
            self._record = None

    def on_fit_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Write the model (with n-grams of the training texts for speculative decoding) and its training faces."""
        data = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        if trainer.is_global_zero and data.conversation_kind == "mixture":
            faces = data.frame("train").reindex(columns=["expression", "cot"]).dropna()
            faces = faces.sample(min(len(faces), _DRAFT_TEXTS), random_state=0)
            encoder = pl_module.conversations
            pl_module.explllm.drafts = Drafts.of_texts(
                encoder.after_image(encoder.encode(explanation(label, text)).input_ids)
                for label, text in zip(faces["expression"], faces["cot"], strict=True)
            )
        record = read_record(self._checkpoints) if self._writes_model(trainer) else None
        if record is not None:
            # Delete the old record first: if the process is killed in between, no record is better than another
            # model's.
            (self.run_dir / TRAINING_FACES).unlink(missing_ok=True)
        super().on_fit_end(trainer, pl_module)
        if record is not None:
            write_record(record, self.run_dir)

    @property
    def _checkpoints(self) -> Path:
        return last_checkpoint(self.run_dir).parent

    def on_validation_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Collect a batch's predictions in a standalone validation run."""
        if trainer.state.fn == "validate":
            self._collect(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Write and print the metrics after a standalone validation run, not during training."""
        if trainer.state.fn != "validate":
            return
        answers, _ = self._answers(trainer, pl_module)
        if trainer.is_global_zero:
            print_metrics(get_console(), self._score(trainer, pl_module, answers, "val"), "val")
            self._print_note(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Write the metrics, the predictions and the report; print the metrics and some explained faces."""
        data = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        answers, table = self._answers(trainer, pl_module)
        table.loc[answers.rows, "predicted"] = answers.names
        # Run on every rank: under FSDP2, all ranks must take part in every forward pass.
        shown, sample = self._explain(trainer, pl_module, answers, table)
        if not trainer.is_global_zero:
            return
        written = self._score(trainer, pl_module, answers, "test")
        sections = []
        if sample:
            references = data.frame().reindex(columns=["cot"])["cot"]
            texts = [references.get(row) for row in sample]
            explanations = explanation_metrics(
                [face.cot.text for face in sample.values()],
                [face.recognition.expression for face in sample.values()],
                [face.action_units for face in sample.values()],
                [text if isinstance(text, str) else None for text in texts],
            )
            written = self._write_metrics(trainer, {f"test/cot/{name}": value for name, value in explanations.items()})
            sections = [cot_section(explanations)]
        self._write_predictions(Manifest(table, data.manifest.root))
        tested = scored_faces(answers, table, data.manifest.root, data.margin)
        write_report(self.run_dir / REPORT, self.run_dir.name, written, shown, sections, tested)
        print_metrics(get_console(), written, "test")
        for face in shown:
            print_explained(get_console(), face.image, face.expression, face.recognition, face.cot)
            print_review(get_console(), face.review, face.action_units_source, face.review.warnings)
        self._print_note(trainer)
        get_console().print(f"report: {self.run_dir / REPORT}", soft_wrap=True, markup=False)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Merge and write the predictions of all ranks."""
        predictions = self._merged_predictions(trainer)
        if predictions is None:
            return
        root = trainer.datamodule.manifest.root  # pyrefly: ignore[missing-attribute]
        self._write_predictions(Manifest(self._table(trainer, predictions), root))
        self._parts.remove()
        unreadable = int(predictions["unreadable"].notna().sum()) if "unreadable" in predictions else 0
        note = f"; {unreadable} could not be read, see the column unreadable" if unreadable else ""
        get_console().print(f"{len(predictions)} faces{note}", soft_wrap=True)
        self._print_note(trainer)

    def _collect(self, pl_module: ExpLLMTask, outputs: dict[str, Any], batch: Batch) -> None:
        """Add a batch's predictions to `rows` and, for each unreadable image, the reason."""
        labels = pl_module.labels
        cots: list[ChainOfThought | None] = outputs.get("cots") or [None] * len(outputs["rows"])
        values = (outputs["rows"].tolist(), outputs["probabilities"].tolist(), cots)
        for row, probabilities, cot in zip(*values, strict=True):
            recognition = Recognition.of(labels, probabilities)
            columns = {f"p_{label}": value for label, value in recognition.probabilities.items()}
            record = {"row": row, "predicted": str(recognition.expression), **columns}
            self.rows.append(record if cot is None else {**record, "cot": cot.text, "cot_source": self._source})
        self.rows += [{"row": row, "unreadable": reason} for row, reason in self._unreadable_rows(batch)]

    def _table(self, trainer: Trainer, predictions: pd.DataFrame) -> pd.DataFrame:
        """Join the predictions to the manifest's columns; the index is the row number."""
        faces = trainer.datamodule.frame()  # pyrefly: ignore[missing-attribute]
        predictions = predictions.set_index("row").sort_index()
        return faces.loc[predictions.index, [name for name in _COPIED_COLUMNS if name in faces]].join(predictions)

    def _answers(self, trainer: Trainer, pl_module: ExpLLMTask) -> tuple[Answers, pd.DataFrame]:
        """Gather the answers of all ranks on every rank, because an error must stop every rank."""
        table = self._table(trainer, pd.DataFrame(all_gather_list(self.rows)))
        answers = None
        if "predicted" in table:
            answers = Answers.from_table(table, pl_module.labels, self.answer_labels, self.unknown_labels)
        elif pl_module.unreadable_images:
            raise ImageError(
                f"no face can be read, first {pl_module.unreadable_images[0]}",
                remedy="Check the data's root and files.",
            )
        if answers is None or not answers.rows:
            raise ConfigError(
                "no face has an expression that the model can answer with", remedy="Check the labels of model and data."
            )
        return answers, table

    def _score(self, trainer: Trainer, pl_module: ExpLLMTask, answers: Answers, stage: str) -> dict[str, Any]:
        """Compute the metrics and write them to ``metrics.json``, replacing the stage's earlier metrics."""
        metrics = recognition_metrics(answers)
        if stage == "test" and (count := self._training_faces_among(answers.rows, trainer, pl_module)):
            metrics["training_faces"] = count
        return self._write_stage_metrics(trainer, pl_module, metrics, stage)

    def _training_faces_among(self, rows: Sequence[int], trainer: Trainer, pl_module: ExpLLMTask) -> int:
        """Return how many of these rows the model was trained or validated on; 0 if that is unknown."""
        data = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        # The record is next to the checkpoints and next to the model folder.
        evaluated = self._checkpoint or os.path.abspath(pl_module.init_from or self.run_dir / MODEL)
        record, tested = read_record(Path(evaluated).parent), Manifest(data.frame().loc[rows], data.manifest.root)
        return 0 if record is None else count_training_faces(record, tested)

    def _explain(
        self, trainer: Trainer, pl_module: ExpLLMTask, answers: Answers, table: pd.DataFrame
    ) -> tuple[list[ExplainedFace], dict[int, ExplainedFace]]:
        """Explain the faces to show and the faces to score.

        Returns:
            The faces to show: those with the highest and lowest probability of the true label, with different
            expressions if possible. Also, by row, the faces to score: a sample that does not depend on the model's
            answers, because a mean over the best and worst faces would be meaningless.
        """
        scored = pd.DataFrame(
            {
                "expression": [str(answers.labels[target]) for target in answers.targets],
                "correct": answers.correct,
                "truth_probability": answers.truth_probability,
            },
            index=answers.rows,
        )
        shown = [int(str(row)) for row in best_and_worst_faces(scored, self.explained_faces)]
        if not shown:
            return [], {}
        data = trainer.datamodule  # pyrefly: ignore[missing-attribute]
        metadata = data.frame().reindex(columns=["cot", "action_units_source"]).loc[scored.index]
        with_reference = scored[metadata["cot"].notna()]
        sample = fixed_sample(scored if with_reference.empty else with_reference, self.scored_faces)
        rows = list(dict.fromkeys([*shown, *sample]))
        pixels = torch.stack([pl_module.image(data.face(row)) for row in rows])
        predicted = [Expression(label) for label in table.loc[rows, "predicted"]]
        with trainer.precision_plugin.forward_context():  # training precision, as for the probabilities
            cots = pl_module.explllm.explain_pixels(pixels, predicted, pl_module.max_new_tokens)
        table["cot"] = pd.Series([cot.text for cot in cots], index=rows, dtype=object)
        table["cot_source"] = pd.Series(self._source, index=rows, dtype=object)
        probabilities = dict(zip(answers.rows, answers.probabilities.tolist(), strict=True))
        explained, judge = {}, OfflineJudge()
        for row, cot in zip(rows, cots, strict=True):
            text, source = metadata.loc[row]
            label, recognition = str(scored.at[row, "expression"]), Recognition.of(answers.labels, probabilities[row])
            face = explained_face(data, row, label, recognition, cot, source)
            if isinstance(text, str):
                face = face.with_scores(judge.compare(cot.text, text), judge.name)
            explained[row] = face
        return [explained[row] for row in shown], {row: explained[row] for row in sample}
