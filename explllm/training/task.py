"""The LightningModule that trains and evaluates an ExpLLM."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from explllm.conversation.encoder import IGNORED, ConversationEncoder
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.data.dataset import EXPRESSION_NUMBER, Batch
from explllm.faces.pixels import ImagePreset
from explllm.models import storage
from explllm.models.build import NetworkSettings, build, build_config, distinct_expressions
from explllm.models.explllm import ExpLLM
from explllm.models.generation import label_log_likelihoods
from explllm.training.face_task import FaceTask
from explllm.training.optimization import OptimizationSettings


class ExpLLMTask(FaceTask):
    """Trains an ExpLLM on conversations about faces; recognizes faces in validation, test and prediction.

    The paper's two stages are two configurations of it: first the projector alone on captions, then LoRA and projector
    on the mixture of FER and CoT, started from the first stage's model by ``init_from``.
    """

    other_weights_remedy = "To go on from its weights alone, name the run's `model` folder by --model.init_from."

    def __init__(
        self,
        network: NetworkSettings | None = None,
        optimization: OptimizationSettings | None = None,
        init_from: str | os.PathLike[str] | None = None,
        gradient_checkpointing: bool = False,
        explain_predictions: bool = False,
        max_new_tokens: int = 320,
    ) -> None:
        """Make configuration and tokenizer; the weights come later, in `configure_model`.

        Args:
            network: The model's parts.
            optimization: Learning rate, decay, warm-up.
            init_from: A model folder to start from, such as the first stage's ``runs/NAME/model``.
            gradient_checkpointing: Keep no activations inside layers: less memory, about a third more time.
            explain_predictions: Write a chain of thought for each face in ``predict``.
            max_new_tokens: Longest chain of thought, in tokens.
        """
        super().__init__()
        self.network = network or NetworkSettings()
        self.optimization = optimization or OptimizationSettings()
        self.init_from, self.gradient_checkpointing = init_from, gradient_checkpointing
        self.explain_predictions, self.max_new_tokens = explain_predictions, max_new_tokens
        self.prepared = build_config(self.network, init_from)
        self.conversations = ConversationEncoder(self.prepared[1], self.prepared[0].image_tokens)
        self.image = ImagePreset.from_dict(self.prepared[0].image or {})
        self.model: ExpLLM | None = None
        self.leave_out_unknown_labels = False
        """Whether a test goes on where the data holds expressions that the model lacks; such faces do not count."""
        self.explained_sample: tuple[int, dict[int, Any]] = (-1, {})

    @property
    def explllm(self) -> ExpLLM:
        """The model, once `configure_model` has run."""
        if self.model is None:
            raise TypeError("configure_model() comes first")
        return self.model

    @property
    def labels(self) -> tuple[Expression, ...]:
        """The expressions that the model tells apart."""
        return tuple(Expression(label) for label in self.prepared[0].labels or ())

    def setup(self, stage: str) -> None:
        """Take the labels from the model to start from, else from the training data, where the settings name none."""
        super().setup(stage)
        data = self._data()
        if self.labels:
            return
        if self.init_from is not None:
            self.prepared[0].labels = storage.read_config(Path(self.init_from)).labels
        if not self.labels and stage != "predict" and data is not None and data.conversation_kind == "mixture":
            frame = data.frame()
            self.set_labels(distinct_expressions(frame.loc[frame["split"] == "train", "expression"].dropna()))

    def on_fit_start(self) -> None:
        """Check that the model tells apart every expression of the data."""
        self._check_labels()

    def on_validation_start(self) -> None:
        """Check that the model tells apart every expression of the data."""
        self._check_labels()

    def on_test_start(self) -> None:
        """Check that the model tells apart every expression of the data."""
        self._check_labels()

    def set_labels(self, labels: Sequence[Expression]) -> None:
        """Set the expressions that the model tells apart, in index order."""
        self.prepared[0].labels = [str(label) for label in labels]

    def configure_model(self) -> None:
        """Build the model; loads base weights, and the weights of ``init_from``."""
        if self.model is not None:
            return
        self.model = build(self.network, self.prepared)
        if self.init_from is not None:
            storage.initialize(self.model, Path(self.init_from))
            self.print(f"weights: {self.init_from}")
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        # Lightning trains modules in the mode that it finds them in; parts that are frozen stay in evaluation mode.
        self.model.train()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss, and the logits (B, V) of each conversation's first answer token.

        ``train/loss`` is the mean over a global batch, that is over all micro-batches and devices of an optimizer step:
        single micro-batches hold conversations of one kind, and their losses are far apart.
        """
        step = self._is_step(batch_idx)
        self._check_readable(batch, step)
        output = self.explllm(
            batch["pixel_values"],
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"],
            logits_at_labels_only=True,
        )
        self._log_loss(output.loss, step)
        answers = (batch["labels"][:, 1:] != IGNORED).sum(1)
        first = answers.cumsum(0) - answers
        return {"loss": output.loss, "first_logits": output.logits[first].detach()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Recognize faces: probabilities (B, K), targets (B,), rows (B,) of those that count."""
        return self._recognize(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Recognize faces, as in validation."""
        return self._recognize(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Recognize faces, and explain them if asked."""
        found: dict[str, Any] = self._recognize(batch)
        if self.explain_predictions:
            kept = batch["pixel_values"][self._counting(batch)]
            labels = [self.labels[index] for index in found["probabilities"].argmax(1).tolist()]
            found["cots"] = self.explllm.explain_pixels(kept, labels, self.max_new_tokens) if labels else []
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the labels too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = [str(label) for label in self.labels]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this architecture, and take over its labels.

        Raises:
            CheckpointError: If it is not; the message names the first weight that does not fit.
        """
        super().on_load_checkpoint(checkpoint)
        self.set_labels([Expression(label) for label in checkpoint["labels"]])

    def targets(self, batch: Batch) -> torch.Tensor:
        """Return the labels' numbers in the model's order, (B,); -1 where there is no label that the model knows."""
        lookup = torch.full((len(Expression) + 1,), -1, device=self.device)
        for index, label in enumerate(self.labels):
            lookup[EXPRESSION_NUMBER[label]] = index
        return lookup[batch["expressions"]]  # -1, no label, finds the last place

    def _check_labels(self) -> None:
        data = self._data()
        if data is None or data.conversation_kind == "captions":
            return
        unknown = sorted({*data.frame()["expression"].dropna()} - {str(label) for label in self.labels})
        if unknown and (self.trainer.state.fn == "fit" or not self.leave_out_unknown_labels):
            known = ", ".join(self.labels) or "none"
            raise ConfigError(
                f"the data holds {', '.join(unknown)}, which the model does not tell apart (it has {known})",
                remedy="Take these rows out, or train a model with `model.network.labels` that have them; "
                "`test --unknown_labels leave_out` leaves them out and counts them.",
            )

    def _recognize(self, batch: Batch) -> dict[str, torch.Tensor]:
        self._count_unreadable(batch)
        counting = self._counting(batch)
        pixels = batch["pixel_values"][counting]
        if len(pixels):
            probabilities = label_log_likelihoods(self.explllm, pixels).softmax(1)
        else:
            probabilities = torch.zeros(0, len(self.labels), device=self.device)
        return {
            "probabilities": probabilities,
            "targets": self.targets(batch)[counting],
            "rows": batch["rows"][counting],
        }
