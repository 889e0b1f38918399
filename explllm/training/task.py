"""The LightningModule that trains and evaluates an ExpLLM."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.data.dataset import EXPRESSION_NUMBER, Batch
from explllm.faces.pixels import ImagePreset
from explllm.models import storage
from explllm.models.build import ConfigAndTokenizer, NetworkSettings, build, build_config, distinct_expressions
from explllm.models.explllm import ExpLLM, PartName, Recognition
from explllm.models.kernels import add_liger_kernels, check_packing, set_attention
from explllm.models.lora import is_lora
from explllm.models.loss import ExpLLMOutput, LossSettings
from explllm.training.au_task import regression_loss
from explllm.training.batches import measured_units, mixed_up, parts_of_similar_length
from explllm.training.checkpoints import read_checkpoint
from explllm.training.face_task import FaceTask
from explllm.training.optimization import OptimizationSettings
from explllm.training.sample import ExplainedSample
from explllm.training.strategies import shard

_MIN_FACES_FOR_CCC = 8


class ExpLLMTask(FaceTask):
    """Trains an ExpLLM on conversations about faces; recognizes expressions in validation, test and prediction.

    The paper's two stages are two configurations of this task: the first trains the projector on captions, the second
    trains LoRA and the projector on the FER and CoT mixture, starting from the first stage's model (`init_from`).
    """

    other_weights_remedy = "To start from its weights only, pass the run's `model` folder to --model.init_from."

    def __init__(
        self,
        network: NetworkSettings | None = None,
        optimization: OptimizationSettings | None = None,
        init_from: str | os.PathLike[str] | None = None,
        gradient_checkpointing: bool = False,
        packing: bool = False,
        attention: str | None = None,
        liger_kernels: bool = False,
        explain_predictions: bool = False,
        max_new_tokens: int = 320,
        explanation_batch_size: int = 8,
        label_smoothing: float = 0.0,
        action_unit_weight: float = 0.0,
        encoder_share: float = 0.0,
        mixup: float = 0.0,
        measured_units_share: float = 0.0,
        average_answers: bool = False,
        calibrate: bool = False,
    ) -> None:
        """Build the configuration and the tokenizer; `configure_model` loads the weights.

        Args:
            network: The model's parts.
            optimization: Learning rate, weight decay and warm-up.
            init_from: A model folder to start from, such as the first stage's ``runs/NAME/model``.
            gradient_checkpointing: Recompute the activations inside layers in the backward pass, which saves memory but
                takes about a third more time.
            packing: Process the conversations of a micro-batch as one row without padding. Use it with
                ``flash_attention_2``: other implementations compute a mask of all pairs of tokens.
            attention: Attention implementation of the language model in training, by its name in transformers: ``sdpa``
                (the default), ``flash_attention_2`` (needs a GPU, the package flash-attn and bfloat16) or ``eager``.
                Evaluation uses the default, also during `fit`: packed labels and drafts need attention masks, which
                FlashAttention does not accept.
            liger_kernels: Compute norms, rotary positions and MLPs of the language model with the Triton kernels of the
                package liger-kernel, which needs a GPU.
            explain_predictions: Write a chain of thought for each face in ``predict``.
            max_new_tokens: Maximum length of a chain of thought, in tokens.
            explanation_batch_size: Number of faces that one device explains at a time. With Vicuna-7B, a face's cache
                takes 0.4 GB.
            label_smoothing: Share of each target token's probability that is spread over the vocabulary, in [0, 1).
                Training on imbalanced data may need it; the paper does not use it. With `encoder_share`, it applies
                only to the classification in the first epochs, and is spread over the labels.
            action_unit_weight: Weight of an auxiliary loss (`regression_loss`) for a head that estimates the measured
                action units; without `network.action_unit_tokens`, the head reads the image tokens. The loss makes
                explanations more faithful to the face. The paper does not use it.
            encoder_share: Share of the epochs (rounded down to whole epochs) at the start of the run that train only
                the encoder and the projector. These learn to classify the expression from the mean of the image tokens
                and, with `action_unit_weight`, to estimate action units. Then the encoder is frozen, and the projector
                and the language model are trained on conversations, with their own warm-up. Use it for an encoder with
                random weights, which would learn little from the language model's loss alone. If a run has only such
                epochs, another run can start from the resulting model.
            mixup: In the epochs of `encoder_share`, blend pairs of images and their targets, with a weight drawn from
                Beta(mixup, mixup) (Zhang et al. 2018); 0 for none. It reduces overfitting to a small data set. The
                training accuracy then refers to blended images.
            measured_units_share: Share of the conversations about action units (chains of thought, questions about
                single units) whose `action_unit_tokens` show the measured action units instead of the estimates. The
                answers were written from the measured units, so the language model learns sooner which token each
                statement is based on.
            average_answers: Average the loss within each answer before averaging over a conversation: the label and the
                chain of thought of a CoT conversation then count equally. The paper averages over all tokens.
            calibrate: After each validation (except in the first epochs of `encoder_share`), fit the temperature of the
                probabilities to the validation faces, and save it with the model.

        Raises:
            ConfigError: If a number is out of range, or the settings or parts do not fit each other.
            CheckpointError: If the configuration or tokenizer of a pretrained part or of `init_from` cannot be read.
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}", remedy="Change it.")
        if not 0 <= action_unit_weight < math.inf:
            raise ConfigError(f"`action_unit_weight` must be at least 0, got {action_unit_weight}", remedy="Change it.")
        if explanation_batch_size < 1:
            raise ConfigError(
                f"`explanation_batch_size` must be at least 1, got {explanation_batch_size}", remedy="Change it."
            )
        if not 0 <= encoder_share <= 1:
            raise ConfigError(f"`encoder_share` must be in [0, 1], got {encoder_share}", remedy="Change it.")
        if not 0 <= mixup < math.inf:
            raise ConfigError(f"`mixup` must be at least 0, got {mixup}", remedy="Change it.")
        if mixup and not encoder_share:
            raise ConfigError("`mixup` has no effect without `encoder_share`", remedy="Set both, or none.")
        if not 0 <= measured_units_share <= 1:
            raise ConfigError(
                f"`measured_units_share` must be in [0, 1], got {measured_units_share}", remedy="Change it."
            )
        if measured_units_share and not (network and network.action_unit_tokens):
            raise ConfigError(
                "`measured_units_share` requires action unit tokens",
                remedy="Set `network.action_unit_tokens`, or remove `measured_units_share`.",
            )
        if network and network.action_unit_tokens and not (action_unit_weight or init_from):
            raise ConfigError(
                "`network.action_unit_tokens` without `action_unit_weight`: nothing would train the estimates",
                remedy="Set `action_unit_weight`, such as 1.0, or set `init_from` to a model with trained estimates.",
            )
        self.mixup, self.measured_units_share = mixup, measured_units_share
        self.label_smoothing, self.action_unit_weight = label_smoothing, action_unit_weight
        self.encoder_share, self.calibrate = encoder_share, calibrate
        self.average_answers, self.explanation_batch_size = average_answers, explanation_batch_size
        self.network = network or NetworkSettings()
        self.optimization = optimization or OptimizationSettings()
        self.init_from, self.gradient_checkpointing = init_from, gradient_checkpointing
        self.packing, self.attention, self.liger_kernels = packing, attention, liger_kernels
        if max_new_tokens < 1:
            raise ConfigError(f"model.max_new_tokens is {max_new_tokens}", remedy="Use at least 1.")
        self.explain_predictions, self.max_new_tokens = explain_predictions, max_new_tokens
        # With a checkpoint, the folder is not needed (see `use_metadata_of`). Otherwise, `setup` reports its absence.
        present = init_from is not None and Path(init_from).is_dir()
        self.config, tokenizer = build_config(self.network, init_from if present else None)
        self.conversations = ConversationEncoder(tokenizer, self.config.image_tokens)
        self.image = ImagePreset.from_dict(self.config.image or {})
        self.model: ExpLLM | None = None
        self.leave_out_unknown_labels = False
        """Whether a test leaves out faces whose expression the model has no label for, instead of raising an error."""
        self.explained_sample = ExplainedSample()
        self._default_attention = "sdpa"

    @property
    def explllm(self) -> ExpLLM:
        """The model, once `configure_model` has run."""
        if self.model is None:
            raise TypeError("call configure_model() first")
        return self.model

    @property
    def labels(self) -> tuple[Expression, ...]:
        """The expressions that the model distinguishes, in index order."""
        return tuple(Expression(label) for label in self.config.labels or ())

    def setup(self, stage: str) -> None:
        """Set up the base class; without labels in the settings, use those of `init_from` or of the training data.

        The expressions in the training data are used only if `init_from` has no labels, and never in `predict`. An
        evaluation of the model in `init_from` also uses its temperature.

        Raises:
            MissingPathError: If `init_from` contains no model.
        """
        if self.init_from is not None and self.model is None:
            inherited = storage.read_config(Path(self.init_from))
            self.config.labels = self.config.labels or inherited.labels
            if stage != "fit":
                self.config.temperature = inherited.temperature
        super().setup(stage)
        data = self._data()
        if not self.labels and stage != "predict" and data is not None and data.conversation_kind == "mixture":
            frame = data.frame()
            self.set_labels(distinct_expressions(frame.loc[frame["split"] == "train", "expression"].dropna()))

    def use_metadata_of(self, path: str | os.PathLike[str]) -> None:
        """Use a checkpoint's preprocessing, chat format, labels, temperature, data note and base model commits.

        The checkpoint's run may have inherited them from `init_from`, which is no longer read, because the checkpoint
        contains all weights. Call this before evaluating the checkpoint or resuming its run.
        """
        self.init_from = None
        checkpoint = read_checkpoint(path)
        metadata = checkpoint.get("model_metadata", {})
        if checkpoint.get("task") != type(self).__name__ or "image" not in metadata:
            return  # a different kind of model is rejected when its weights are loaded
        tokenizer, chat_format = self.conversations.tokenizer, checkpoint["network"]["chat_format"]
        if chat_format != self.config.chat_format:
            self.config, tokenizer = build_config(replace(self.network, chat_format=chat_format))
        self._use_commits_of(checkpoint)
        for name in ("image", "image_tokens", "temperature", "training_data_note"):
            setattr(self.config, name, metadata.get(name, getattr(self.config, name)))
        if checkpoint.get("labels"):
            # Otherwise, `setup` would use the labels of the data, if any.
            self.set_labels([Expression(label) for label in checkpoint["labels"]])
        self.conversations = ConversationEncoder(tokenizer, metadata["image_tokens"])
        self.image = ImagePreset.from_dict(metadata["image"])

    def _use_commits_of(self, checkpoint: dict[str, Any]) -> None:
        trained = NetworkSettings.from_fields(checkpoint["network"]).resolved()
        network = self.network.resolved()
        for part, name in (("vision", "vision_revision"), ("language", "text_revision")):
            commit = checkpoint.get("model_metadata", {}).get(name)
            # Skip this if the settings now name another model or revision.
            same = all(getattr(network, item) == getattr(trained, item) for item in (part, f"{part}_revision"))
            if commit and same:
                setattr(self.config, name, commit)

    def on_fit_start(self) -> None:
        """Check the labels and the strategy, set the attention, and allow NaN probabilities during `fit`."""
        self._check_labels()
        self.explllm.allow_nan = self.trainer.state.fn == "fit"
        if self.trainer.state.fn == "fit" and self.encoder_share and self.device_mesh is not None:
            raise ConfigError(
                "`encoder_share` leaves weights without gradients, which fsdp2 does not support",
                remedy="Use --trainer.strategy ddp, or one device.",
            )
        self._set_attention(self.trainer.training)

    on_validation_start = on_test_start = on_fit_start

    def on_validation_end(self) -> None:
        """Return to the attention of training."""
        self._set_attention(self.trainer.state.fn == "fit")

    def on_fit_end(self) -> None:
        """Reject NaN probabilities and use the default attention from now on."""
        self.explllm.allow_nan = False
        self._set_attention(training=False)

    def _set_attention(self, training: bool) -> None:
        if self.attention is not None:
            set_attention(self.explllm.language, self.attention if training else self._default_attention)

    def set_labels(self, labels: Sequence[Expression]) -> None:
        """Set the expressions that the model distinguishes, in index order."""
        self.config.labels = [str(label) for label in labels]

    def configure_model(self) -> None:
        """Build the model with its base weights and the weights of `init_from`; under FSDP2, shard it."""
        settings, mesh = self.network.resolved(), self.device_mesh
        dtype = getattr(torch, settings.base_dtype) if settings.base_dtype else None
        pretrained: list[PartName] = []
        if self.model is None:
            if mesh is not None and settings.load_in_4bit:
                raise ConfigError(
                    "fsdp2 does not shard 4-bit weights, whose packed blocks cannot be divided by rows",
                    remedy="Use --trainer.strategy ddp: in 4-bit, the whole model fits on each GPU.",
                )
            prepared = ConfigAndTokenizer(self.config, self.conversations.tokenizer)
            self.model = build(settings, prepared, keep_file_dtype=mesh is not None)
            self.model.max_batch_sizes["explanation"] = self.explanation_batch_size
            pretrained = [name for name, part in self.model.parts().items() if part.base]
            if mesh is not None and dtype is not None:
                # peft creates LoRA in the data type of the base, which here is still the data type of its files.
                for name in pretrained:
                    for key, weight in self.model.parts()[name].module.named_parameters():
                        if is_lora(key):
                            weight.data = weight.data.to(dtype).to(torch.float32)
            if self.init_from is not None:
                storage.initialize(self.model, Path(self.init_from), keep_file_dtype=mesh is not None)
                self.print(f"weights: {self.init_from}")
            self._default_attention = self.model.language.config._attn_implementation
            if self.packing:
                check_packing(self.model.language)
            if self.liger_kernels:
                add_liger_kernels(self.model.language)
            if self.gradient_checkpointing:
                self.model.gradient_checkpointing_enable()
            self.model.add_training_heads(self.action_unit_weight > 0, len(self.labels) if self.encoder_share else 0)
            # Lightning does not set training mode; frozen parts stay in evaluation mode.
            self.model.train()
        if mesh is not None and not isinstance(self.model, FSDPModule):
            shard(self.model, mesh["data_parallel"], dtype, pretrained)

    @property
    def encoder_epochs(self) -> int:
        """Number of epochs at the start that train without the language model."""
        return int(self.encoder_share * max(self.trainer.max_epochs or 0, 0))

    @property
    def first_selectable_epoch(self) -> int:
        """First epoch that `BestCheckpoint` considers, counted from 0; with `encoder_share`, this is the last epoch."""
        return max(self.trainer.max_epochs or 0, 1) - 1 if self.encoder_epochs else 0

    @property
    def trains_encoder_only(self) -> bool:
        """Whether this is an epoch that trains without the language model."""
        return self.trainer.state.fn == "fit" and self.trainer.current_epoch < self.encoder_epochs

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the zero gradients of idle weights, because otherwise weight decay would shrink these weights."""
        for weight in self._idle_weights():
            weight.grad = None

    def _idle_weights(self) -> list[torch.nn.Parameter]:
        """Return the trainable weights that get no gradient, because they belong to another phase or an unused head."""
        model = self.explllm
        unit_head = model.action_unit_head if model.action_unit_tokens is None else model.action_unit_tokens.head
        idle: list[torch.nn.Module | None] = []
        if not self.action_unit_weight:
            idle += [unit_head]
        if self.trains_encoder_only:
            idle += [model.language]
        elif self.encoder_share:
            idle += [model.expression_head]
            if self.encoder_epochs:
                idle += [model.vision, unit_head]
        return [weight for part in idle if part is not None for weight in part.parameters() if weight.requires_grad]

    def _with_idle_weights(self, loss: torch.Tensor) -> torch.Tensor:
        """Under DDP on several devices, add 0 times the idle weights to the loss: it waits for every gradient."""
        if self.trainer.world_size == 1 or self.device_mesh is not None:
            return loss
        return loss + 0 * sum(weight.sum() for weight in self._idle_weights())

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss and, as ``label_logits``, the logits (B, V) of the first token of each conversation's label.

        In the first `encoder_epochs` epochs, return ``expression_logits`` (B, K) instead, one for each label.

        ``train/loss`` is the mean over a global batch, that is, over all micro-batches and devices of an optimizer
        step. The loss of one micro-batch would say little, because its conversations are all of one kind, and the
        losses of FER and CoT differ widely.
        """
        step = self._is_step(batch_idx)
        self._check_readable(batch, step)
        if self.trains_encoder_only:
            return self._encoder_step(batch, step)
        if self.encoder_epochs:
            if not self.explllm.encoder_frozen:  # checked here, because a run can resume in the middle of an epoch
                self.explllm.freeze_encoder()
            # The frozen encoder processes each face independently, so a batch can be split.
            order, parts = parts_of_similar_length(batch)
            results = [self._conversation_loss(part) for part in parts]
            shares = [len(part["rows"]) / len(order) for part in parts]
            loss = torch.stack([share * loss for share, (loss, _) in zip(shares, results, strict=True)]).sum()
            logits = torch.cat([logits for _, logits in results])[order.argsort()]
        else:
            loss, logits = self._conversation_loss(batch)
        self._log_loss(loss, step)
        return {"loss": self._with_idle_weights(loss), "label_logits": logits}

    def _conversation_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of conversations and the logits (B, V) of the first token of their labels."""
        output = self.explllm(
            batch["pixel_values"],
            batch["input_ids"],
            # Padding is on the right, where causal attention never sees it; without a mask, a faster kernel is used.
            attention_mask=batch["attention_mask"] if self.packing else None,
            labels=batch["labels"],
            measured_units=measured_units(batch, self.measured_units_share) if self.measured_units_share else None,
            training_loss=LossSettings(0.0 if self.encoder_epochs else self.label_smoothing, self.average_answers),
            packed=self.packing,
        )
        loss = cast(torch.Tensor, output.loss)
        if self.action_unit_weight and not self.encoder_epochs:
            loss = loss + self.action_unit_weight * self._action_unit_loss(output, batch["action_units"])
        return loss, cast(torch.Tensor, output.logits)

    def _encoder_step(self, batch: Batch, step: bool) -> dict[str, torch.Tensor]:
        targets, (pixels, units, order, share) = self.targets(batch), mixed_up(batch, self.mixup)
        output = self.explllm(pixels)
        logits = output.expression_logits
        loss = share * self._expression_loss(logits, targets)
        if order is not None:
            loss = loss + (1 - share) * self._expression_loss(logits, targets[order])
        if self.action_unit_weight:
            loss = loss + self.action_unit_weight * self._action_unit_loss(output, units)
        self._log_loss(loss, step)
        return {"loss": self._with_idle_weights(loss), "expression_logits": cast(torch.Tensor, logits).detach()}

    def _expression_loss(self, logits: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(
            cast(torch.Tensor, logits), targets, ignore_index=-1, label_smoothing=self.label_smoothing
        )
        return loss.nan_to_num()  # NaN if no face of the micro-batch has an expression

    @staticmethod
    def _action_unit_loss(output: ExpLLMOutput, targets: torch.Tensor) -> torch.Tensor:
        # CCC is computed across faces; in a micro-batch of a few faces, it would be mostly noise.
        ccc_weight = float(len(targets) >= _MIN_FACES_FOR_CCC)
        return regression_loss(cast(torch.Tensor, output.action_units).float(), targets, ccc_weight)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Recognize expressions; return probabilities (N, K), targets (N,) and rows (N,) of N valid faces."""
        return self._recognize(batch)[1]

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Do the same as `validation_step`; with `explain_predictions`, also return chains of thought as ``cots``."""
        recognitions, outputs = self._recognize(batch)
        if self.explain_predictions:
            labels = [recognition.expression for recognition in recognitions]
            cots = self.explllm.explain_pixels(batch["pixel_values"], labels, self.max_new_tokens)
            outputs["cots"] = [cot for cot, valid in zip(cots, self._valid_rows(batch).tolist(), strict=True) if valid]
        return outputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the labels and the chat format as well."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labels"] = [str(label) for label in self.labels]
        checkpoint["network"]["chat_format"] = self.config.chat_format  # may come from `init_from`

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits this architecture and these settings, and use its labels.

        Raises:
            CheckpointError: If the checkpoint does not fit; the message names the first mismatched weight, if any.
            ConfigError: See `FaceTask.on_load_checkpoint`.
        """
        names = (name.removeprefix("model.") for name in checkpoint["state_dict"])
        storage.forget_bases(self.explllm, self.explllm.parts_with_own_base(names))
        super().on_load_checkpoint(checkpoint)
        self.set_labels([Expression(label) for label in checkpoint["labels"]])

    def _complete_settings(self, network: dict[str, Any]) -> dict[str, Any]:
        # Without a setting, the chat format comes from `init_from` or the checkpoint.
        chat_format = network["chat_format"] or self.config.chat_format
        return asdict(NetworkSettings.from_fields({**network, "chat_format": chat_format}).resolved())

    def targets(self, batch: Batch) -> torch.Tensor:
        """Return label indices in the model's order, (B,); -1 for missing and unknown labels."""
        lookup = torch.full((len(Expression) + 1,), -1, device=self.device)
        for index, label in enumerate(self.labels):
            lookup[EXPRESSION_NUMBER[label]] = index
        return lookup[batch["expressions"]]  # -1 (no label) selects the last entry, which is -1

    def _check_labels(self) -> None:
        data = self._data()
        if data is None or data.conversation_kind == "captions":
            return
        unknown = sorted({*data.frame()["expression"].dropna()} - {str(label) for label in self.labels})
        if unknown and (self.trainer.state.fn == "fit" or not self.leave_out_unknown_labels):
            known = ", ".join(self.labels) or "none"
            raise ConfigError(
                f"the data contains {', '.join(unknown)}, which the model has no label for (it has {known})",
                remedy="Remove the rows with these labels, or train a model whose `model.network.labels` include them; "
                "`test --unknown_labels leave_out` skips and counts them.",
            )

    def _recognize(self, batch: Batch) -> tuple[list[Recognition], dict[str, Any]]:
        self._count_unreadable(batch)
        valid = self._valid_rows(batch)
        # Include invalid faces: under FSDP2, every rank must take part in every forward pass.
        if self.trains_encoder_only:
            logits = self.explllm(batch["pixel_values"]).expression_logits
            recognitions = [Recognition.of(self.labels, row) for row in logits.softmax(1).tolist()]
        else:
            recognitions = self.explllm.recognize_pixels(batch["pixel_values"])
        probabilities = torch.tensor(
            [[*recognition.probabilities.values()] for recognition in recognitions], device=self.device
        )
        return recognitions, {
            "probabilities": probabilities[valid],
            "targets": self.targets(batch)[valid],
            "rows": batch["rows"][valid],
        }
