"""Accuracy, macro recall and the histogram of predictions while training runs."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich import get_console

from explllm.conversation.messages import recognition
from explllm.core.errors import ConfigError
from explllm.data.dataset import Batch
from explllm.metrics.recognition import RecognitionMetrics
from explllm.report.terminal import metrics_line
from explllm.training.task import ExpLLMTask


class LiveAccuracy(Callback):
    """Shows from the first steps on whether the model learns the labels, or collapses to one class.

    On training batches it costs nothing: the label's first token is predicted anyway, and the label that has the
    highest logit there counts as the model's answer. After each validation it shows the same figures for the validation
    faces.
    """

    def __init__(self, every_n_steps: int = 50, show: bool = True) -> None:
        """Set how often to look.

        Args:
            every_n_steps: Optimizer steps between two looks at the training batches since the last one.
            show: Print a line with the histogram of predictions at each look.

        Raises:
            ConfigError: If `every_n_steps` is less than 1.
        """
        if every_n_steps < 1:
            raise ConfigError(f"a look at the accuracy every {every_n_steps} steps", remedy="Give 1 or more.")
        self.every_n_steps, self.show = every_n_steps, show
        self.training: RecognitionMetrics | None = None
        self.validation: RecognitionMetrics | None = None
        self._first_tokens = torch.empty(0)
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Prepare the counts, unless captions are learned."""
        self._last_step, self.training = trainer.global_step, None
        if getattr(trainer.datamodule, "conversation_kind", None) == "captions":  # type: ignore[attr-defined]
            return
        answers = [pl_module.conversations.encode_answer(recognition(), str(label)) for label in pl_module.labels]
        first = [answer[0] for answer in answers]
        # Labels that share their first token cannot be told apart by it.
        if first and len(set(first)) == len(first):
            self._first_tokens = torch.tensor(first, device=pl_module.device)
            self.training = RecognitionMetrics(pl_module.labels).to(pl_module.device)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the labels that the batch predicts; log now and then."""
        if self.training is None:
            return
        # With `cot_first` or `random`, the first answer of some conversations is a chain of thought, not the label.
        counted = batch["label_first"]
        probabilities = outputs["first_logits"].float()[counted][:, self._first_tokens].softmax(1)
        self.training.update(probabilities, pl_module.targets(batch)[counted])
        if trainer.global_step - self._last_step < self.every_n_steps:
            return
        self._last_step = trainer.global_step
        figures = self.training.compute()
        self.training.reset()
        if not figures["count"]:
            return
        pl_module.log("train/accuracy", figures["accuracy"], prog_bar=True, batch_size=1)
        pl_module.log("train/macro_recall", figures["macro_recall"], batch_size=1)
        self._log_histogram(pl_module, "train", figures)
        self._print(trainer, f"loss {float(pl_module.last_loss):.3f}, train {metrics_line(figures)}")

    def on_validation_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Start counting anew, if validation is part of training."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        self.validation = RecognitionMetrics(pl_module.labels).to(pl_module.device) if fitting else None

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: ExpLLMTask,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch of validation faces."""
        if self.validation is not None:
            self.validation.update(outputs["probabilities"], outputs["targets"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # type: ignore[override]
        """Log the figures and print the histogram."""
        if self.validation is None:
            return
        figures = self.validation.compute()
        for name in ("accuracy", "macro_recall", "nll"):
            pl_module.log(f"val/{name}", figures[name], prog_bar=name == "accuracy", rank_zero_only=True)
        self._log_histogram(pl_module, "val", figures)
        self._print(trainer, f"val {metrics_line(figures)}")

    def _print(self, trainer: Trainer, line: str) -> None:
        if self.show and trainer.is_global_zero:
            get_console().print(f"step {trainer.global_step}: {line}", soft_wrap=True, highlight=False)

    @staticmethod
    def _log_histogram(pl_module: ExpLLMTask, stage: str, figures: dict[str, Any]) -> None:
        shares = {
            f"{stage}/predictions/{name}": count / max(figures["count"], 1)
            for name, count in figures["predictions"].items()
        }
        pl_module.log_dict(shares, batch_size=1, rank_zero_only=True)
