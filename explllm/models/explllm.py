"""ExpLLM: vision encoder, projector and language model (paper, Section III-C-1) as one Hugging Face model.

Shape legend:
    B batch, T text and image tokens, N image tokens per image, D width of the language model, V vocabulary,
    S supervised tokens of the whole batch, H and W image height and width
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast, overload

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError, InputError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.images import as_images
from explllm.faces.pixels import ImagePreset, ImageSource
from explllm.models import generation, storage
from explllm.models.configuration import ExpLLMConfig
from explllm.models.drafts import Drafts
from explllm.models.feallm import FEALLMProjector, FEALLMSettings
from explllm.models.generation import Recognition, Recognitions
from explllm.models.known import shipped_model
from explllm.models.lora import LoraSettings, add_lora
from explllm.models.loss import ExpLLMOutput, answer_positions, conversation_loss
from explllm.models.parts import MultiPartModel, Part, checkpoint_in_evaluation_mode
from explllm.models.vision import (
    ActionUnitTokens,
    ExpressionHead,
    Pooling,
    Projector,
    UnitHead,
    add_drop_path,
    block_features,
    vision_shape,
)

PartName = Literal["vision", "projector", "action_unit_tokens", "language", "action_unit_head", "expression_head"]

_HEAD_WIDTH = 128
"""Features of each unit in the action unit head."""

# Models with these settings scale or cap their logits in their own forward method.
_SPECIAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class ExpLLM(MultiPartModel, PreTrainedModel):
    """Recognizes a facial expression and explains it.

    `from_pretrained` opens a trained model; `explllm.models.build.build` creates a new one.

    Examples:
        A tiny model with random weights, saved and loaded, and a drawn face:

        >>> import tempfile
        >>> from explllm import ExpLLM
        >>> from explllm.drawn_faces import draw_faces
        >>> from explllm.models.build import NetworkSettings, build
        >>> folder = tempfile.TemporaryDirectory()
        >>> build(NetworkSettings(preset="tiny", labels="rafdb")).save_pretrained(f"{folder.name}/model")
        >>> model = ExpLLM.from_pretrained(f"{folder.name}/model")
        >>> faces = draw_faces(f"{folder.name}/faces", train=0, val=0, test=1, size=64)
        >>> [recognition] = model.recognize(faces.image_path(0))
        >>> len(recognition.probabilities)
        7
        >>> type(model.explain(faces.image_path(0), max_new_tokens=2)).__name__
        'ChainOfThought'
        >>> folder.cleanup()
    """

    config_class = ExpLLMConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    entry_points = ("recognize_pixels", "explain_pixels", "recognize_and_explain_pixels")

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
            keep_file_dtype: Leave trainable base weights in the type of their files, instead of float32. See
                `explllm.models.build.build`.

        Raises:
            ConfigError: If no layer matches the LoRA targets, or the tokenizer lacks the template or the placeholder.
        """
        super().__init__(config)
        self.conversations = ConversationEncoder(tokenizer, config.image_tokens)
        self.image = ImagePreset.from_dict(config.image or {})
        self._checkpoints_frozen_parts = False
        self.max_batch_sizes: dict[str, int] = {}
        """Maximum faces per batch of ``recognition`` and ``explanation``; out-of-memory errors reduce it."""
        self.drafts = Drafts()
        """Predictions of the next tokens of an explanation, for speculative decoding."""
        self.speculate = True
        """Whether explanations are decoded speculatively: the same text in fewer forward passes."""
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
        """Whether the encoder and the heads on its features are in evaluation mode and get no gradient."""
        if config.vision_drop_path:
            add_drop_path(self.vision, config.vision_drop_path)
        if config.vision_train == "lora":
            add_lora(self.vision, LoraSettings(**(config.vision_lora or {})))
        if config.text_train == "lora":
            add_lora(self.language, LoraSettings(**(config.text_lora or {})))
        self.freeze(convert=not keep_file_dtype)
        self.eval()

    def new_projector(self) -> Projector | FEALLMProjector:
        """Create the module that maps an image to embeddings of the language model, with random weights."""
        config = self.config
        return Projector(config.vision_width, config.text_config.hidden_size, config.projector_layers)

    @staticmethod
    def class_for(config: ExpLLMConfig) -> "type[ExpLLM]":
        """Return the class of a configuration's architecture."""
        return FEALLM if config.architecture == "feallm" else ExpLLM

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template."""
        return self.conversations.tokenizer

    @property
    def labels(self) -> tuple[Expression, ...]:
        """The expressions the model distinguishes, in index order."""
        return tuple(Expression(label) for label in self.config.labels or ())

    def parts(self, config: ExpLLMConfig | None = None) -> dict[PartName, Part]:
        """Return each part by name, as the model's configuration, or another one, trains it."""
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
            action_units: Estimate action units from the image tokens, unless `action_unit_tokens` do it already.
            labels: Number of labels to classify by the image tokens; 0 for no such head.
        """
        width = self.config.text_config.hidden_size
        if action_units and self.action_unit_tokens is None:
            self.action_unit_head = UnitHead(self.config.image_tokens, width, _HEAD_WIDTH)
        if labels:
            self.expression_head = ExpressionHead(width, labels)

    def freeze_encoder(self) -> None:
        """Stop training the encoder and the heads on its features; projector and language model continue."""
        self.encoder_frozen = True
        self.train(self.training)

    def unused_weights(self, part: str) -> frozenset[str]:
        """Return the encoder's parameters that do not affect its features."""
        config = self.config
        if part != "vision":
            return frozenset()
        return vision_shape(config.vision_config, self.image.size, *self._features).unused

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Recompute activations inside encoder and language model layers: less memory, about a third more time."""
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in (self.vision, self.language):
            if part.supports_gradient_checkpointing:
                # transformers renamed the method; older releases have only the second name.
                enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
                enable(options)
        self._checkpoints_frozen_parts = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "ExpLLM":
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
        """Encode images as `encode_image` does; return the estimated action units (B, 24) too, if the model has any.

        `measured_units` (B, 24) replace the estimates in the `action_unit_tokens`, except where they are NaN.
        """
        weights = next(self.vision.parameters())
        pixel_values = pixel_values.to(device=weights.device, dtype=weights.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            with_earlier = self.projector.reads_earlier_blocks
            *earlier, features = block_features(self.vision, pixel_values, *self._features, with_earlier)
        tokens = self.projector(features, earlier, pixel_values)
        if self.action_unit_tokens is None:
            return tokens, None if self.action_unit_head is None else self.action_unit_head(tokens)
        mirrored = None
        if self.config.average_flipped and not self.training:
            mirrored = block_features(self.vision, pixel_values.flip(-1), *self._features)[-1]
        units, unit_tokens = self.action_unit_tokens(features, mirrored, measured_units)
        return torch.cat([tokens, unit_tokens.to(tokens.dtype)], dim=1), units

    @property
    def _features(self) -> tuple[int, Pooling]:
        """The encoder's layer whose features are used, and their pooling."""
        return self.config.vision_feature_layer, self.config.token_pooling

    def embed(self, input_ids: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Embed tokens and replace the placeholders by the image embeddings, in order.

        Args:
            input_ids: (B, T).
            image_embeds: (B, N, D).

        Returns:
            (B, T, D), in the type of the language model's embeddings.

        Raises:
            InputError: If a row does not have N placeholders.
        """
        placeholders = input_ids == self.config.image_token_id
        images, expected = image_embeds.shape[:2]
        # Per row: with an equal total, a row with too many placeholders would receive parts of the next row's image.
        counts = placeholders.sum(1).tolist()
        if counts != [expected] * images:
            row = next((row for row, count in enumerate(counts) if count != expected), len(counts))
            found = f"{counts[row]} image placeholders in row {row}" if row < len(counts) else f"{len(counts)} rows"
            raise InputError(
                f"{found} of input_ids for {images} images of {expected} tokens",
                remedy=f"Insert {expected} placeholders (id {self.config.image_token_id}) per row, one image each.",
            )
        # The placeholder's id may lie outside the vocabulary (32000 of 32000 in the released weights).
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
    ) -> ExpLLMOutput:
        """Predict the next token at each position of conversations about images.

        Args:
            pixel_values: (B, 3, H, W), one image per run of placeholders, in order.
            input_ids: (B, T), with one placeholder per image token. Without them, only the heads on the image run.
            attention_mask: (B, T), 1 for tokens and 0 for padding; all 1 by default.
            labels: (B, T), tokens to predict, -100 at positions without loss.
            logits_at_labels_only: Compute logits only at supervised positions, which saves most of the output layer's
                work. Requires `labels`.
            measured_units: (B, 24) intensities in [0, 1] for the `action_unit_tokens` instead of the model's estimates;
                NaN keeps the estimate.

        Returns:
            ``loss`` (with `labels`): cross entropy, averaged within each conversation, then over conversations, as the
            released code trains with one conversation per step. ``logits``: (B, T, V), or (S, V) in row order.
            ``action_units``: (B, 24) and ``expression_logits``: (B, K), if the model has heads for them.

        Raises:
            InputError: If the placeholders do not match the images, or `labels` are missing.
        """
        image_embeds, units = self.encode_image_and_units(pixel_values, measured_units)  # (B, N, D)
        if input_ids is None:
            expression_logits = None if self.expression_head is None else self.expression_head(image_embeds)
            return ExpLLMOutput(action_units=units, expression_logits=expression_logits)
        embeds = self.embed(input_ids, image_embeds)  # (B, T, D)
        if any(getattr(self.config.text_config, name, None) for name in _SPECIAL_HEADS):
            logits = self.language(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False).logits
            head: nn.Module = nn.Identity()
        else:
            states = self.language.base_model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)
            logits, head = states.last_hidden_state, self.language.get_output_embeddings()
        if labels is None:
            if logits_at_labels_only:
                raise InputError("logits_at_labels_only without labels", remedy="Pass labels.")
            return ExpLLMOutput(logits=head(logits), action_units=units)
        rows, columns, targets = answer_positions(labels)
        if logits_at_labels_only:
            logits = answers = head(logits[rows, columns])  # (S, V)
        else:
            logits = head(logits)  # (B, T, V)
            answers = logits[rows, columns]
        loss = conversation_loss(answers, targets, rows, len(labels))
        return ExpLLMOutput(loss=loss, logits=logits, action_units=units)

    def recognize(self, images: ImageSource | Iterable[ImageSource], batch_size: int = 16) -> Recognitions:
        """Recognize the expression of faces.

        The probability of a class is the likelihood of its whole label, normalized over the classes, without sampling.

        Args:
            images: One image or any iterable of images, such as a generator. See `explllm.faces.images.ImageSource` for
                the types; sizes may differ.
            batch_size: Images per batch. Only one batch of images is in memory.

        Returns:
            One recognition per image; ``to_frame`` returns a table.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        return Recognitions(
            recognition
            for chunk in _chunks(as_images(images)[0], batch_size)
            for recognition in self.recognize_pixels(torch.stack([self.image(image) for image in chunk]))
        )

    def recognize_pixels(self, pixel_values: torch.Tensor) -> list[Recognition]:
        """Recognize the expression of preprocessed faces.

        Args:
            pixel_values: (B, 3, H, W).

        Returns:
            One recognition per image.

        Raises:
            ConfigError: If the model has no labels.
        """
        self._check_labels()
        probabilities = generation.label_probabilities(self, pixel_values)
        return [Recognition.of(self.labels, row) for row in probabilities.tolist()]

    @overload
    def explain(  # type: ignore[overload-overlap]
        self, images: ImageSource, max_new_tokens: int = ..., batch_size: int = ...
    ) -> ChainOfThought: ...

    @overload
    def explain(
        self, images: Iterable[ImageSource], max_new_tokens: int = ..., batch_size: int = ...
    ) -> list[ChainOfThought]: ...

    def explain(
        self, images: ImageSource | Iterable[ImageSource], max_new_tokens: int = 320, batch_size: int = 8
    ) -> ChainOfThought | list[ChainOfThought]:
        """Explain the expression of faces: recognize it, then generate the chain of thought that follows the label.

        Args:
            images: One image or several, as for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens.
            batch_size: Images per batch.

        Returns:
            A chain of thought for one image, or a list for several.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        several, single = as_images(images)
        texts = [text for _, text in self.recognize_and_explain(several, max_new_tokens, batch_size)]
        return texts[0] if single else texts

    def recognize_and_explain(
        self, images: ImageSource | Iterable[ImageSource], max_new_tokens: int = 320, batch_size: int = 8
    ) -> list[tuple[Recognition, ChainOfThought]]:
        """Recognize faces and explain their expressions, with one prefill of image and prompt for both answers.

        Args:
            images: One image or several, as for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens.
            batch_size: Images per batch.

        Returns:
            The recognition and the chain of thought of each image.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        self._check_labels()
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", remedy="Give at least 1.")
        faces = (self.image(image) for image in as_images(images)[0])
        answers = generation.recognize_and_explain(self, faces, batch_size, max_new_tokens)
        return [(recognition, ChainOfThought.parse(text)) for recognition, text in answers]

    def recognize_and_explain_pixels(
        self, pixel_values: torch.Tensor, max_new_tokens: int = 320
    ) -> list[tuple[Recognition, ChainOfThought]]:
        """Recognize and explain preprocessed faces, as `recognize_and_explain` does.

        Args:
            pixel_values: (B, 3, H, W).
            max_new_tokens: Maximum length of a text, in tokens.

        Returns:
            The recognition and the chain of thought of each image.
        """
        self._check_labels()
        answers = generation.recognize_and_explain(self, pixel_values, len(pixel_values), max_new_tokens)
        return [(recognition, ChainOfThought.parse(text)) for recognition, text in answers]

    def explain_pixels(
        self, pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int = 320
    ) -> list[ChainOfThought]:
        """Generate the chains of thought of preprocessed faces, given their labels.

        Args:
            pixel_values: (B, 3, H, W).
            labels: The answer of the first round for each image.
            max_new_tokens: Maximum length of a text, in tokens.

        Returns:
            One chain of thought per image.
        """
        return [ChainOfThought.parse(text) for text in generation.explain(self, pixel_values, labels, max_new_tokens)]

    def stream(self, image: ImageSource, max_new_tokens: int = 320) -> Iterator[str]:
        """Generate the chain of thought of one face piece by piece.

        Args:
            image: As for `recognize`.
            max_new_tokens: Maximum length of a text, in tokens.

        Yields:
            Pieces of text that join to the text of `explain`.
        """
        pixels = self.image(image).unsqueeze(0)
        label = self.recognize_pixels(pixels)[0].expression
        yield from generation.stream(self, pixels, label, max_new_tokens)

    def _check_labels(self) -> None:
        if not self.labels:
            raise ConfigError("the model has no labels", remedy="Set `labels` in its config.json.")

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | PathLike[str],
        *,
        include_base: bool = False,
        merge: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Save configuration, trained weights and tokenizer to a folder. See `explllm.models.storage.save`.

        Args:
            save_directory: The folder. An existing model folder is replaced.
            include_base: Copy frozen base weights too.
            merge: Copy all weights, with LoRA merged.
            push_to_hub: Upload the folder to the Hugging Face hub. See `explllm.models.storage.upload`.
            repo_id: Name of the repository on the hub; by default that of the folder.
            private: Whether a new repository is private.
            token: Access token for the hub.
            state_dict: Weights to save instead of the model's own, such as those of a checkpoint.
        """
        storage.save(self, save_directory, include_base=include_base, merge=merge, weights=state_dict)
        if push_to_hub:
            storage.upload(save_directory, repo_id or Path(save_directory).name, private, token)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        include_base: bool = False,
        merge: bool = False,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face hub. The arguments are those of `save_pretrained`.

        Returns:
            The URL of the commit.
        """
        with TemporaryDirectory() as temporary:
            storage.save(self, Path(temporary, "model"), include_base=include_base, merge=merge)
            return storage.upload(Path(temporary, "model"), repo_id, private, token)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        load_in_4bit: bool | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "ExpLLM":
        """Load a model from its folder. See `explllm.models.storage.load` for the errors.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the Hugging Face hub; by default the
                model that comes with the package.
            revision: The revision on the hub.
            dtype: Type of the frozen base weights, ``auto`` for that of their files; by default as saved.
            torch_dtype: The former name of `dtype`.
            device: Device of the weights; by default the CPU.
            device_map: Placement of the language model by accelerate, such as ``auto``.
            attn_implementation: Attention of transformers: ``eager``, ``sdpa``, ``flash_attention_2``.
            load_in_4bit: Quantize the language model's base weights to 4-bit (requires bitsandbytes); by default as
                saved.
            token: Access token for the hub.
            cache_dir: Folder for downloads.
            local_files_only: Use only files that were downloaded before.

        Returns:
            The model, in evaluation mode.
        """
        return storage.load(
            cls,
            shipped_model() if pretrained_model_name_or_path is None else pretrained_model_name_or_path,
            revision=revision,
            dtype=torch_dtype if dtype is None else dtype,
            device=device,
            device_map=device_map,
            attn_implementation=attn_implementation,
            load_in_4bit=load_in_4bit,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )


class FEALLM(ExpLLM):
    """An ExpLLM whose image tokens come from all blocks of the encoder and from crops of the face.

    Only the way from an image to the language model differs; see `explllm.models.feallm`. Conversations, training,
    recognition and explanation are ExpLLM's. `NetworkSettings(architecture="feallm")` builds one.
    """

    def new_projector(self) -> FEALLMProjector:
        """Create the local clue aggregator and the multi-perspective projector, with random weights."""
        config = self.config
        shape = vision_shape(config.vision_config, self.image.size, *self._features, with_earlier=True)
        settings = FEALLMSettings(**(config.feallm or {}))
        return FEALLMProjector(config.vision_width, shape.earlier_widths, config.text_config.hidden_size, settings)


def _chunks(images: Iterable[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    if size < 1:
        raise ConfigError(f"batch_size is {size}", remedy="Give at least 1.")
    remaining = iter(images)
    while chunk := list(islice(remaining, size)):
        yield chunk
