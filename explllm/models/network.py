"""The network of ExpLLM: vision encoder, projector and language model (paper, Section III-C-1).

Shape legend:
    B batch, T text and image tokens, N image tokens per image, D width of the language model, V vocabulary,
    S supervised tokens of the whole batch, H and W image height and width
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from explllm.conversation.encoder import IGNORED, ConversationEncoder
from explllm.core.errors import InputError
from explllm.core.expressions import Expression
from explllm.faces.pixels import ImagePreset
from explllm.models.configuration import ExpLLMConfig
from explllm.models.decoding import attention_masks
from explllm.models.drafts import Drafts
from explllm.models.feallm import FEALLMProjector
from explllm.models.label_scoring import accepts_masks
from explllm.models.last_layer import last_layer_at
from explllm.models.lora import LoraSettings, add_lora
from explllm.models.loss import (
    ExpLLMOutput,
    LossSettings,
    answer_numbers,
    answer_positions,
    chunked_loss,
    conversation_loss,
    label_positions,
    token_weights,
)
from explllm.models.parts import MultiPartModel, Part, checkpoint_in_evaluation_mode
from explllm.models.vision import (
    ActionUnitTokens,
    ExpressionHead,
    Pooling,
    Projector,
    UnitHead,
    add_drop_path,
    block_features,
    mirror_grid,
    pool_grid,
    vision_shape,
)

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM

PartName = Literal["vision", "projector", "action_unit_tokens", "language", "action_unit_head", "expression_head"]

_HEAD_WIDTH = 128
"""Width of each unit's features in the action unit head."""

# Models with these settings scale or cap their logits in their own forward method.
_SPECIAL_HEADS = (
    "final_logit_softcapping",
    "lm_head_multiplier",
    "logit_scale",
    "logits_mup_width_multiplier",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
)


class ExpLLMNetwork(MultiPartModel, PreTrainedModel):
    """The parts of an ExpLLM as one Hugging Face model, with the methods that training needs; see `ExpLLM`."""

    config_class = ExpLLMConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: ExpLLMConfig,
        tokenizer: PreTrainedTokenizerBase,
        vision: PreTrainedModel | None = None,
        language: PreTrainedModel | None = None,
        keep_file_dtype: bool = False,
    ) -> None:
        """Assemble the parts, add LoRA as configured, and freeze the other weights.

        Args:
            config: The configuration.
            tokenizer: A tokenizer with a chat template and the image placeholder.
            vision: A pretrained encoder; random weights by default.
            language: A pretrained language model; random weights by default.
            keep_file_dtype: Keep trainable base weights in the data type of their files instead of float32. See
                `explllm.models.build.build`.

        Raises:
            ConfigError: If no layer matches the LoRA targets, or the tokenizer lacks the template or the placeholder.
        """
        super().__init__(config)
        self.conversations = ConversationEncoder(tokenizer, config.image_tokens)
        self.image = ImagePreset.from_dict(config.image or {})
        self._checkpoints_frozen_parts = False
        self.max_batch_sizes: dict[str, int] = {}
        """Maximum batch size for ``recognition`` and ``explanation``. It is halved after an out-of-memory error; there
        is no limit without an entry."""
        self.drafts = Drafts()
        """Predictions of the next tokens of an explanation, for speculative decoding."""
        self.speculate = True
        """Whether to generate explanations by speculative decoding: fewer passes and, in float32, the same text."""
        self.allow_nan = False
        """Whether NaN probabilities are returned without an error; training then continues with a NaN metric."""
        self.vision = vision or AutoModel.from_config(config.vision_config, dtype=torch.float32)
        self.projector = self.new_projector()
        self.language = language or AutoModelForCausalLM.from_config(config.text_config, dtype=torch.float32)
        self.action_unit_tokens: ActionUnitTokens | None = None
        if config.action_unit_tokens:
            tokens = vision_shape(config.vision_config, self.image.size, *self._features).tokens
            widths = (config.vision_width, _HEAD_WIDTH, config.text_config.hidden_size)
            self.action_unit_tokens = ActionUnitTokens(tokens, *widths)
        self.action_unit_head: UnitHead | None = None
        self.expression_head: ExpressionHead | None = None
        self.encoder_frozen = False
        """Whether the encoder stays in evaluation mode and gets no gradient."""
        if config.vision_drop_path:
            add_drop_path(self.vision, config.vision_drop_path)
        if config.vision_train == "lora":
            add_lora(self.vision, LoraSettings(**(config.vision_lora or {})))
        if config.text_train == "lora":
            add_lora(self.language, LoraSettings(**(config.text_lora or {})))
        self.freeze(convert=not keep_file_dtype)
        self.eval()

    def new_projector(self) -> Projector | FEALLMProjector:
        """Create the module that maps image features to embeddings of the language model, with random weights."""
        config = self.config
        return Projector(config.vision_width, config.text_config.hidden_size, config.projector_layers)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template."""
        return self.conversations.tokenizer

    @property
    def labels(self) -> tuple[Expression, ...]:
        """The expressions the model distinguishes, in index order."""
        return tuple(Expression(label) for label in self.config.labels or ())

    def parts(self, config: ExpLLMConfig | None = None) -> dict[PartName, Part]:
        """Return each part by name, with its training mode in `config` (by default, the model's configuration)."""
        config = config or cast(ExpLLMConfig, self.config)
        parts: dict[PartName, Part] = {
            "vision": Part(self.vision, config.vision_train, config.vision_base),
            "projector": Part(self.projector, config.projector_train, None),
            "language": Part(self.language, config.text_train, config.text_base),
        }
        heads: dict[PartName, nn.Module | None] = {
            "action_unit_tokens": self.action_unit_tokens,
            "action_unit_head": self.action_unit_head,
            "expression_head": self.expression_head,
        }
        return parts | {name: Part(head, "full", None) for name, head in heads.items() if head is not None}

    def add_training_heads(self, action_units: bool, labels: int) -> None:
        """Add heads for auxiliary losses in training. Checkpoints contain their weights; the model's folder does not.

        Args:
            action_units: Estimate action units from the image tokens, unless `action_unit_tokens` estimates them.
            labels: Number of labels to predict from the image tokens; 0 for no such head.
        """
        width = self.config.text_config.hidden_size
        if action_units and self.action_unit_tokens is None:
            self.action_unit_head = UnitHead(self.config.image_tokens, width, _HEAD_WIDTH)
        if labels:
            self.expression_head = ExpressionHead(width, labels)

    def freeze_encoder(self) -> None:
        """Stop training the encoder, which then stays in evaluation mode; other parts are not affected."""
        self.encoder_frozen = True
        self.train(self.training)

    def unused_weights(self, part: str) -> frozenset[str]:
        """Return the names of the encoder's parameters that do not affect its features; none for other parts."""
        config = self.config
        if part != "vision":
            return frozenset()
        return vision_shape(config.vision_config, self.image.size, *self._features).unused

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Recompute the layers' activations in the backward pass; this saves memory, but takes about 1/3 more time."""
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in (self.vision, self.language):
            if part.supports_gradient_checkpointing:
                # transformers renamed the method; older releases have only the second name.
                enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
                enable(options)
        self._checkpoints_frozen_parts = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and batch statistics on or off. Frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode and self._checkpoints_frozen_parts:
            for part in self.parts().values():
                if part.train == "frozen":
                    checkpoint_in_evaluation_mode(part.module)
        if self.encoder_frozen:
            self.vision.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embeddings."""
        return self.language.get_input_embeddings()

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode images as embeddings for the language model.

        Args:
            pixel_values: (B, 3, H, W).

        Returns:
            (B, N, D).
        """
        return self.encode_image_and_units(pixel_values)[0]

    def encode_image_and_units(
        self, pixel_values: torch.Tensor, measured_units: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode images like `encode_image`, and estimate the action units (B, 24) if the model has a head for them.

        `measured_units` (B, 24) replace the estimates in the `action_unit_tokens`, except where they are NaN.
        """
        pixel_values = pixel_values.to(next(self.vision.parameters()).device)
        blocks, mirrored = self._encode_blocks(pixel_values)
        sides = blocks[-1:]
        if mirrored is not None:
            # Pool after averaging, because mirroring the pooled tokens of an odd grid would shift them.
            sides = [pool_grid(side[-1], self.config.token_pooling) for side in (blocks, mirrored)]
            blocks = [(block + mirror_grid(other)) / 2 for block, other in zip(blocks, mirrored, strict=True)]
            blocks[-1] = pool_grid(blocks[-1], self.config.token_pooling)
        *earlier, features = blocks
        tokens = self.projector(features, earlier, pixel_values.to(features))
        if self.action_unit_tokens is None:
            return tokens, None if self.action_unit_head is None else self.action_unit_head(tokens)
        # Averaging the estimates from the image and its mirror image is better than estimating from averaged features.
        units, unit_tokens = self.action_unit_tokens(*sides, measured=measured_units)
        return torch.cat([tokens, unit_tokens.to(tokens.dtype)], dim=1), units

    def _encode_blocks(self, pixel_values: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
        """Encode images; in inference with `average_flipped`, also encode their mirror images and pool neither.

        Returns:
            The features of the images and those of their mirror images (None if not encoded). Each list contains the
            features of the encoder's earlier blocks (if the projector reads them) and of the selected block.
        """
        weights = next(self.vision.parameters())
        pixel_values = pixel_values.to(weights.dtype)
        average = self.config.average_flipped and not self.training
        if average:
            pixel_values = torch.cat([pixel_values, pixel_values.flip(-1)])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            layer, pooling = self._features
            blocks = block_features(
                self.vision, pixel_values, layer, "none" if average else pooling, self.projector.reads_earlier_blocks
            )
        if not average:
            return blocks, None
        sides = [block.chunk(2) for block in blocks]
        return [side for side, _ in sides], [side for _, side in sides]

    @property
    def _features(self) -> tuple[int, Pooling]:
        """The encoder layer whose features are used, and their pooling."""
        return self.config.vision_feature_layer, self.config.token_pooling

    def embed(self, input_ids: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Embed tokens and replace the placeholders with the image embeddings, in order.

        Args:
            input_ids: (B, T).
            image_embeds: (B, N, D).

        Returns:
            (B, T, D), in the data type of the language model's embeddings.

        Raises:
            InputError: If a row does not have N placeholders, or there are not as many rows as images.
        """
        placeholders = input_ids == self.config.image_token_id
        images, expected = image_embeds.shape[:2]
        # Count per row: if only the total were checked, a row with too many placeholders could get parts of the next
        # row's image.
        counts = placeholders.sum(1).tolist()
        if counts != [expected] * images:
            row = next((row for row, count in enumerate(counts) if count != expected), len(counts))
            found = f"{counts[row]} image placeholders in row {row}" if row < len(counts) else f"{len(counts)} rows"
            raise InputError(
                f"{found} of input_ids for {images} images of {expected} tokens",
                remedy=f"Insert {expected} placeholders (id {self.config.image_token_id}) per row, and pass one image "
                "per row.",
            )
        # The placeholder's id may lie outside the vocabulary (id 32000 with a vocabulary of 32,000 in the released
        # weights).
        embeds = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        return embeds.masked_scatter(placeholders.unsqueeze(-1), image_embeds.to(embeds.dtype))

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_at_labels_only: bool = False,
        measured_units: torch.Tensor | None = None,
        training_loss: LossSettings | None = None,
        packed: bool = False,
    ) -> ExpLLMOutput:
        """Predict the next token at each position of conversations about images.

        Args:
            pixel_values: (B, 3, H, W), one image per row of `input_ids`.
            input_ids: (B, T), with one placeholder per image token. Without `input_ids`, the language model does not
                run, but the heads on the image tokens do.
            attention_mask: (B, T), 1 for tokens and 0 for padding; all 1 by default.
            labels: (B, T), tokens to predict, -100 at positions without loss.
            logits_at_labels_only: Compute logits only at supervised positions, which saves most of the output layer's
                work. Requires `labels`.
            measured_units: (B, 24) intensities in [0, 1] for the `action_unit_tokens` instead of the model's estimates;
                NaN keeps the estimate.
            training_loss: Settings of the training loss. To save time and memory, the loss is computed in chunks,
                and only the logits at the first token of each conversation's label are kept. Models that cap or scale
                their logits still compute all logits at once. Requires `labels`.
            packed: Process the conversations as one row without padding, but without attention between them. This is
                faster if much of a batch is padding and FlashAttention is used, which separates the conversations
                without a mask.

        Returns:
            ``loss`` (with `labels`): cross entropy, averaged within each conversation, then over conversations, as in
            the released code, which trains with one conversation per step. ``logits`` (with `input_ids`): (B, T, V);
            with `logits_at_labels_only`, (S, V) in row order; with `training_loss`, (B, V) at the first token of each
            conversation's label, without gradient. ``action_units``: (B, 24), if the model has a head for them.
            ``expression_logits`` (only without `input_ids`): (B, K), if the model has a head for them.

        Raises:
            InputError: If the placeholders do not match the images, or an option lacks the `labels` it requires.
        """
        image_embeds, units = self.encode_image_and_units(pixel_values, measured_units)  # (B, N, D)
        if input_ids is None:
            expression_logits = None if self.expression_head is None else self.expression_head(image_embeds)
            return ExpLLMOutput(action_units=units, expression_logits=expression_logits)
        embeds = self.embed(input_ids, image_embeds)  # (B, T, D)
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": attention_mask, "use_cache": False}
        tokens, needed = None, None
        if labels is not None and (logits_at_labels_only or training_loss):
            needed = nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # each token is predicted one position earlier
        if packed:
            tokens = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
            inputs |= self._packed(embeds, tokens)
            needed = None if needed is None else needed[tokens][None]
        with nullcontext() if needed is None else last_layer_at(self.language, needed):
            if _has_plain_head(self.language):
                logits = self.language.base_model(**inputs).last_hidden_state
                head: nn.Module = self.language.get_output_embeddings()
            else:
                logits = self.language(**inputs).logits
                head = nn.Identity()
        if tokens is not None:
            logits = logits.new_zeros(*tokens.shape, logits.shape[-1]).masked_scatter(tokens.unsqueeze(-1), logits)
        if labels is None:
            if logits_at_labels_only or training_loss:
                wrong = "logits_at_labels_only" if logits_at_labels_only else "training_loss"
                raise InputError(f"{wrong} without labels", remedy="Pass labels.")
            return ExpLLMOutput(logits=head(logits), action_units=units)
        rows, columns, targets = answer_positions(labels)
        answers = answer_numbers(rows, columns) if training_loss and training_loss.average_answers else None
        weights = token_weights(rows, len(labels), answers)
        if training_loss:
            states, smoothing = logits[rows, columns], training_loss.label_smoothing  # (S, D)
            loss, logits = chunked_loss(head, states, targets, weights, smoothing, label_positions(labels))
            return ExpLLMOutput(loss=loss, logits=logits, action_units=units)
        if logits_at_labels_only:
            logits = supervised = head(logits[rows, columns])  # (S, V)
        else:
            logits = head(logits)  # (B, T, V)
            supervised = logits[rows, columns]
        return ExpLLMOutput(loss=conversation_loss(supervised, targets, weights), logits=logits, action_units=units)

    def _packed(self, embeds: torch.Tensor, tokens: torch.Tensor) -> dict[str, Any]:
        """Return the language model's inputs for conversations packed into one row.

        Args:
            embeds: (B, T, D).
            tokens: (B, T) bool, False for padding.
        """
        positions = (tokens.cumsum(1) - 1)[tokens][None]
        inputs: dict[str, Any] = {
            "inputs_embeds": embeds[tokens][None],
            "position_ids": positions,
            "attention_mask": None,
        }
        if accepts_masks(self.language):
            rows = torch.arange(len(tokens), device=tokens.device).unsqueeze(1).expand_as(tokens)[tokens]
            same = (rows.unsqueeze(1) == rows).tril()
            inputs["attention_mask"] = attention_masks(cast("ExpLLM", self), same[None, None], positions, positions)
        else:
            # FlashAttention takes the conversations' boundaries instead. Without the boundaries, transformers would
            # derive them from the positions in every layer, and the host would wait for the device each time.
            lengths = tokens.sum(1)
            ends, longest = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), int(lengths.max())
            inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
        return inputs


def _has_plain_head(language: PreTrainedModel) -> bool:
    """Return whether the logits are the output layer's values for the last hidden states.

    Some models scale or cap them, and others, such as BERT decoders, have more layers before the output layer.
    """
    if any(getattr(language.config, name, None) for name in _SPECIAL_HEADS):
        return False
    parts = {part for part in language.children() if next(part.parameters(), None) is not None}
    return parts == {language.base_model, language.get_output_embeddings()}
