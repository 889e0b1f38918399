"""ExpLLM: vision encoder, projector and language model (paper, Section III-C-1), as one Hugging Face model."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal, overload

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from explllm.conversation.encoder import ConversationEncoder
from explllm.core.errors import ConfigError, InputError
from explllm.core.expressions import Expression
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.pixels import ImagePreset, ImageSource
from explllm.models import generation, storage
from explllm.models.configuration import ExpLLMConfig, Train
from explllm.models.drop_path import add_drop_path
from explllm.models.lora import LoraSettings, add_lora, is_lora
from explllm.models.loss import ExpLLMOutput, answer_positions, conversation_loss
from explllm.models.projector import Projector
from explllm.models.recognition import Recognition
from explllm.models.vision import image_features, vision_shape

Part = Literal["vision", "projector", "language"]

# Output heads that scale or cap their logits: there the language model's own forward makes them.
_SPECIAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class ExpLLM(PreTrainedModel):
    """Recognizes a facial expression and explains it.

    ``ExpLLM.from_pretrained(folder)`` opens a trained model; `explllm.models.build.build` makes a new one.
    """

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
    ) -> None:
        """Assemble the parts, put LoRA where the configuration asks for it, and freeze what does not train.

        Args:
            config: The configuration.
            tokenizer: A tokenizer with the chat template and the image placeholder.
            vision: An encoder with its weights; by default one with random weights.
            language: A language model with its weights; by default one with random weights.

        Raises:
            ConfigError: If a part has no layers for LoRA, or the tokenizer does not fit.
        """
        super().__init__(config)
        self.conversations = ConversationEncoder(tokenizer, config.image_tokens)
        self.image = ImagePreset.from_dict(config.image or {})
        self.vision = vision or AutoModel.from_config(config.vision_config, dtype=torch.float32)
        self.projector = Projector(config.vision_width, config.text_config.hidden_size, config.projector_layers)
        self.language = language or AutoModelForCausalLM.from_config(config.text_config, dtype=torch.float32)
        if config.vision_drop_path:
            add_drop_path(self.vision, config.vision_drop_path)
        if config.vision_train == "lora":
            add_lora(self.vision, LoraSettings(**(config.vision_lora or {})))
        if config.text_train == "lora":
            add_lora(self.language, LoraSettings(**(config.text_lora or {})))
        self.freeze()
        self.eval()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with the chat template."""
        return self.conversations.tokenizer

    @property
    def labels(self) -> tuple[Expression, ...]:
        """The expressions that the model tells apart, in index order."""
        return tuple(Expression(label) for label in self.config.labels or ())

    def parts(self) -> dict[Part, tuple[nn.Module, Train, str | None]]:
        """Return each part by name: the module, what trains in it, and where its base weights come from."""
        config = self.config
        return {
            "vision": (self.vision, config.vision_train, config.vision_base),
            "projector": (self.projector, config.projector_train, None),
            "language": (self.language, config.text_train, config.text_base),
        }

    def freeze(self) -> dict[Part, int]:
        """Set which weights train, by the configuration; trainable weights become float32.

        Returns:
            Number of trainable weights by part.
        """
        counts: dict[Part, int] = {}
        for part, (module, train, _) in self.parts().items():
            unused: frozenset[str] = frozenset()
            if part == "vision" and train == "full":
                unused = vision_shape(self.config.vision_config, self.image.size).unused
            for name, weight in module.named_parameters():
                weight.requires_grad_(
                    (train == "full" and name not in unused) or (train == "lora" and is_lora(f".{name}"))
                )
                if weight.requires_grad:
                    weight.data = weight.data.to(torch.float32)
            counts[part] = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
        return counts

    def train(self, mode: bool = True) -> "ExpLLM":
        """Switch dropout and batch statistics on or off; parts that are frozen stay in evaluation mode."""
        super().train(mode)
        for module, train, _ in self.parts().values():
            if train == "frozen":
                module.eval()
        return self

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Trade time for memory: keep no activations inside encoder and language model layers."""
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in (self.vision, self.language):
            if part.supports_gradient_checkpointing:
                # The newer name; older releases have the other one alone.
                enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
                enable(options)

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embeddings."""
        return self.language.get_input_embeddings()

    def encode_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Turn images into embeddings of the language model.

        Args:
            pixel_values: (B, 3, H, W).

        Returns:
            (B, N, hidden size of the language model).
        """
        weights = next(self.vision.parameters())
        features = image_features(self.vision, pixel_values.to(device=weights.device, dtype=weights.dtype))
        return self.projector(features)

    def embed(self, input_ids: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Embed tokens and put the images in the place of their placeholders, in order.

        Args:
            input_ids: (B, T).
            image_embeds: (images, N, H).

        Returns:
            (B, T, H), in the type of the language model's embeddings.

        Raises:
            InputError: If the number of placeholders is not that of the image tokens.
        """
        placeholders = input_ids == self.config.image_token_id
        found, given = int(placeholders.sum()), image_embeds.shape[0] * image_embeds.shape[1]
        if found != given:
            raise InputError(
                f"{found} image placeholders in input_ids, but {given} image tokens "
                f"({image_embeds.shape[0]} images of {image_embeds.shape[1]})",
                remedy=f"Put {image_embeds.shape[1]} placeholders (id {self.config.image_token_id}) for each image.",
            )
        # The placeholder's id may lie outside the vocabulary (32000 of 32000 in the released weights).
        embeds = self.get_input_embeddings()(input_ids.masked_fill(placeholders, 0))
        return embeds.masked_scatter(placeholders.unsqueeze(-1), image_embeds.to(embeds.dtype))

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_at_labels_only: bool = False,
    ) -> ExpLLMOutput:
        """Predict the next token at each position of conversations about images.

        Args:
            pixel_values: One image for each run of placeholders, in order.
            input_ids: Tokens, with one placeholder for each image token.
            attention_mask: 1 for tokens, 0 for padding; all 1 if missing.
            labels: Tokens to predict, -100 where no loss is taken.
            logits_at_labels_only: Compute logits only at supervised positions, which saves most of the work of the
                output layer; needs `labels`.

        Returns:
            ``loss`` (if labels are given): cross entropy, averaged inside each conversation first and then over the
            conversations, as the released code trains with one conversation a step; and ``logits``.

        Raises:
            InputError: If the placeholders do not fit the images, or `logits_at_labels_only` comes without labels.

        Shape legend:
            pixel_values (B, 3, H, W); input_ids, attention_mask, labels (B, T); logits (B, T, V), or with
            `logits_at_labels_only` (S, V) for the S supervised tokens in row order.
        """
        embeds = self.embed(input_ids, self.encode_image(pixel_values))  # (B, T, H)
        if any(getattr(self.config.text_config, name, None) for name in _SPECIAL_HEADS):
            logits = self.language(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False).logits
            head: nn.Module = nn.Identity()
        else:
            states = self.language.base_model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)
            logits, head = states.last_hidden_state, self.language.get_output_embeddings()
        if labels is None:
            if logits_at_labels_only:
                raise InputError("logits_at_labels_only without labels", remedy="Pass labels.")
            return ExpLLMOutput(logits=head(logits))
        rows, columns, targets = answer_positions(labels)
        if logits_at_labels_only:
            logits = answers = head(logits[rows, columns])  # (S, V)
        else:
            logits = head(logits)  # (B, T, V)
            answers = logits[rows, columns]
        return ExpLLMOutput(loss=conversation_loss(answers, targets, rows, len(labels)), logits=logits)

    def recognize(self, images: ImageSource | Sequence[ImageSource], batch_size: int = 16) -> list[Recognition]:
        """Tell the expression of faces.

        A class's probability is the likelihood of its whole label, normalized over the classes; nothing is sampled.

        Args:
            images: One image or several: paths, PIL images of any mode, or uint8 arrays, of any size.
            batch_size: Images at a time.

        Returns:
            One recognition for each image.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        return [
            recognition
            for chunk in _chunks(_as_list(images), batch_size)
            for recognition in self.recognize_pixels(torch.stack([self.image(image) for image in chunk]))
        ]

    def recognize_pixels(self, pixel_values: torch.Tensor) -> list[Recognition]:
        """Tell the expression of faces that are preprocessed already.

        Args:
            pixel_values: (B, 3, H, W).

        Returns:
            One recognition for each image.
        """
        if not self.labels:
            raise ConfigError("the model has no labels", remedy="Set `labels` in its config.json.")
        likelihoods = generation.label_log_likelihoods(self, pixel_values)
        return [Recognition.of(self.labels, row) for row in likelihoods.softmax(dim=1).tolist()]

    @overload
    def explain(  # type: ignore[overload-overlap]
        self, images: ImageSource, max_new_tokens: int = ..., batch_size: int = ...
    ) -> ChainOfThought: ...

    @overload
    def explain(
        self, images: Sequence[ImageSource], max_new_tokens: int = ..., batch_size: int = ...
    ) -> list[ChainOfThought]: ...

    def explain(
        self, images: ImageSource | Sequence[ImageSource], max_new_tokens: int = 320, batch_size: int = 8
    ) -> ChainOfThought | list[ChainOfThought]:
        """Explain the expression of faces: recognize first, then write the chain of thought after the label found.

        Args:
            images: One image or several, as for `recognize`.
            max_new_tokens: Longest text, in tokens.
            batch_size: Images at a time.

        Returns:
            A chain of thought for one image, a list of them for a list.

        Raises:
            InputError: If an image does not exist or cannot be read, or the model has no labels.
        """
        texts: list[ChainOfThought] = []
        for chunk in _chunks(_as_list(images), batch_size):
            pixels = torch.stack([self.image(image) for image in chunk])
            labels = [recognition.expression for recognition in self.recognize_pixels(pixels)]
            texts += self.explain_pixels(pixels, labels, max_new_tokens)
        return texts if isinstance(images, list | tuple) else texts[0]

    def explain_pixels(
        self, pixel_values: torch.Tensor, labels: Sequence[Expression], max_new_tokens: int = 320
    ) -> list[ChainOfThought]:
        """Write the chains of thought of preprocessed faces after given labels.

        Args:
            pixel_values: (B, 3, H, W).
            labels: The answer of the first round, for each image.
            max_new_tokens: Longest text, in tokens.

        Returns:
            One chain of thought for each image.
        """
        return [ChainOfThought.parse(text) for text in generation.explain(self, pixel_values, labels, max_new_tokens)]

    def stream(self, image: ImageSource, max_new_tokens: int = 320) -> Iterator[str]:
        """Write the chain of thought of one face piece by piece, as it is generated.

        Args:
            image: As for `recognize`.
            max_new_tokens: Longest text, in tokens.

        Yields:
            Pieces of text; joined, they are the text of `explain`.
        """
        pixels = self.image(image).unsqueeze(0)
        label = self.recognize_pixels(pixels)[0].expression
        yield from generation.stream(self, pixels, label, max_new_tokens)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | PathLike[str], include_base: bool = False, merge: bool = False, **_: Any
    ) -> None:
        """Write the model's folder: configuration, trained weights, tokenizer with its template. See `storage.save`."""
        storage.save(self, save_directory, include_base=include_base, merge=merge)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        load_in_4bit: bool = False,
        **_: Any,
    ) -> "ExpLLM":
        """Open a model's folder. See `storage.load` for the errors.

        Args:
            pretrained_model_name_or_path: A folder, or the name of a repository on the Hugging Face hub.
            revision: The revision on the hub.
            dtype: Type of the frozen base weights; by default that of their files.
            device: Where the weights go; by default the CPU.
            load_in_4bit: Bring the language model's base weights to 4 bits (needs bitsandbytes).

        Returns:
            The model, in evaluation mode.
        """
        return storage.load(pretrained_model_name_or_path, revision, dtype, device, load_in_4bit)


def _as_list(images: ImageSource | Sequence[ImageSource]) -> list[ImageSource]:
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]


def _chunks(images: list[ImageSource], size: int) -> Iterator[list[ImageSource]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
