"""The progress bar, and metrics reported during training: accuracy, macro recall and the prediction histogram."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

from explllm.conversation.messages import recognition
from explllm.core.errors import ConfigError
from explllm.data.dataset import Batch
from explllm.metrics.recognition import RecognitionMetrics
from explllm.report.terminal import metrics_line
from explllm.training.task import ExpLLMTask


class TrainingProgressBar(RichProgressBar):
    """Lightning's progress bar without the version number of the log folder."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics shown next to the bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class LiveAccuracy(Callback):
    """Shows early whether the model learns the labels or collapses to one class.

    On training batches, the callback uses the logits that were computed for the loss. The model's answer is the label
    whose first token has the highest logit. In the epochs that train only the encoder, it is the class with the highest
    logit of the expression head. If labels share a first token, training batches are not evaluated. After each
    validation, the callback reports the same metrics for the validation faces.
    """

    def __init__(self, every_n_steps: int = 50, show: bool = True) -> None:
        """Configure the interval.

        Args:
            every_n_steps: Optimizer steps between reports; each covers the training batches since the previous one.
            show: Print each report on the terminal.

        Raises:
            ConfigError: If `every_n_steps` is less than 1.
        """
        if every_n_steps < 1:
            raise ConfigError(f"`every_n_steps` must be at least 1, got {every_n_steps}", remedy="Set 1 or more.")
        self.every_n_steps, self.show = every_n_steps, show
        self.training: RecognitionMetrics | None = None
        self.validation: RecognitionMetrics | None = None
        self._first_tokens = torch.empty(0)
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Prepare the metrics, unless the model trains on captions or labels share a first token."""
        self._last_step, self.training = trainer.global_step, None
        if getattr(trainer.datamodule, "conversation_kind", None) == "captions":  # pyrefly: ignore[missing-attribute]
            return
        answers = [pl_module.conversations.encode_answer(recognition(), str(label)) for label in pl_module.labels]
        first = [answer[0] for answer in answers]
        # The first token cannot distinguish labels that share it.
        if first and len(set(first)) == len(first):
            self._first_tokens = torch.tensor(first, device=pl_module.device)
            self.training = RecognitionMetrics(pl_module.labels).to(pl_module.device)

    def on_train_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the predicted labels of a batch; log every n steps."""
        if self.training is None:
            return
        targets = pl_module.targets(batch)
        labeled = targets >= 0  # other conversations, such as those about action units, do not begin with a label
        if "expression_logits" in outputs:
            logits = outputs["expression_logits"]
        else:
            logits = outputs["label_logits"][:, self._first_tokens]
        self.training.update(logits[labeled].float().softmax(1), targets[labeled])
        if trainer.global_step - self._last_step < self.every_n_steps:
            return
        self._last_step = trainer.global_step
        metrics = self.training.compute()
        self.training.reset()
        if not metrics["count"]:
            return
        pl_module.log("train/accuracy", metrics["accuracy"], prog_bar=True, batch_size=1)
        pl_module.log("train/macro_recall", metrics["macro_recall"], batch_size=1)
        self._log_histogram(pl_module, "train", metrics)
        self._print(trainer, f"loss {float(pl_module.last_loss):.3f}, train {metrics_line(metrics)}")

    def on_validation_start(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Create empty metrics in `fit`; a standalone validation run has none."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        self.validation = RecognitionMetrics(pl_module.labels).to(pl_module.device) if fitting else None

    def on_validation_batch_end(  # pyrefly: ignore[bad-override]
        self, trainer: Trainer, pl_module: ExpLLMTask, outputs: Any, *_: Any
    ) -> None:
        """Count a batch of validation faces."""
        if self.validation is not None:
            self.validation.update(outputs["probabilities"], outputs["targets"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Log and print the metrics and the histogram."""
        if self.validation is None:
            return
        metrics = self.validation.compute()
        for name in ("accuracy", "macro_recall", "nll"):
            # Log on every rank, where callbacks such as EarlyStopping read the value; it is the same on all ranks.
            pl_module.log(f"val/{name}", metrics[name], prog_bar=name == "accuracy")
        self._log_histogram(pl_module, "val", metrics)
        self._print(trainer, f"val {metrics_line(metrics)}")

    def _print(self, trainer: Trainer, line: str) -> None:
        if self.show and trainer.is_global_zero:
            get_console().print(f"step {trainer.global_step}: {line}", soft_wrap=True, highlight=False)

    @staticmethod
    def _log_histogram(pl_module: ExpLLMTask, stage: str, metrics: dict[str, Any]) -> None:
        shares = {
            f"{stage}/predictions/{name}": count / max(metrics["count"], 1)
            for name, count in metrics["predictions"].items()
        }
        pl_module.log_dict(shares, batch_size=1, rank_zero_only=True)
