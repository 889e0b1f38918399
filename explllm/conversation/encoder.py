"""Encode messages as token ids and labels, for training and inference alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from explllm.conversation.messages import IMAGE_TOKEN, Messages
from explllm.core.errors import ConfigError

IGNORED = -100
"""Label of positions that the loss ignores (PyTorch's ``ignore_index``)."""


class Encoded(NamedTuple):
    """One tokenized conversation."""

    input_ids: tuple[int, ...]
    """Token ids, with one placeholder for each image token."""
    labels: tuple[int, ...]
    """Labels of the same length: the token ids of answers (including the end token), and `IGNORED` elsewhere."""


@dataclass(frozen=True)
class TokenBatch:
    """Conversations padded to the same length."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 1 for tokens and 0 for padding."""
    labels: torch.Tensor
    """(B, T) int64, `IGNORED` outside answers."""


class ConversationEncoder:
    """Encodes conversations with the chat template that is saved with the tokenizer.

    The whole conversation is tokenized at once, because tokenizing the turns separately would give different tokens at
    their boundaries.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_tokens: int) -> None:
        """Check the tokenizer.

        Args:
            tokenizer: A fast tokenizer with a chat template and the image placeholder.
            image_tokens: Number of tokens per image.

        Raises:
            ConfigError: If the tokenizer lacks a chat template, the placeholder or character offsets.
        """
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if tokenizer.chat_template is None:
            raise ConfigError(
                "the tokenizer has no chat template", where=name, remedy="Save one with it; see explllm.conversation."
            )
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            raise ConfigError(
                f"the tokenizer lacks the token {IMAGE_TOKEN}", where=name, remedy="Call prepare_tokenizer() first."
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "the tokenizer has no character offsets", where=name, remedy="Use a fast (Rust) tokenizer."
            )
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        self.image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]
        # Recognition uses the same conversations for every image; a cache avoids tokenizing them again.
        self._cached = lru_cache(maxsize=256)(self._encode_frozen)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the cache, which cannot be pickled; spawned data loader workers receive a pickled encoder."""
        return {name: value for name, value in self.__dict__.items() if name != "_cached"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the encoder with an empty cache."""
        self.__dict__.update(state)
        self._cached = lru_cache(maxsize=256)(self._encode_frozen)

    def encode(self, messages: Messages) -> Encoded:
        """Encode a whole conversation.

        Args:
            messages: The messages, including the answers.

        Returns:
            Token ids and labels, both of length T.

        Raises:
            ConfigError: If the text of a message contains the image placeholder, if the template fails or does not
                write `image_tokens` placeholders, or if a native template changes the text of a message or ends an
                answer without a special token.
        """
        for message in messages:
            if IMAGE_TOKEN in message["content"]:
                raise ConfigError(
                    f"the text of a {message['role']} message contains the image placeholder {IMAGE_TOKEN}",
                    remedy="Remove it from the text.",
                )
        return self._cached(tuple(tuple(sorted(message.items())) for message in messages))

    def encode_prompt(self, messages: Messages) -> tuple[int, ...]:
        """Encode a conversation that ends with a question; the ids end where the answer begins."""
        return self.encode(messages).input_ids

    def encode_answer(self, messages: Messages, answer: str) -> tuple[int, ...]:
        """Tokenize an answer to the last question in context, and return its ids, including the end token."""
        prompt = self.encode_prompt(messages)
        ids, labels = self.encode([*messages, {"role": "assistant", "content": answer}])
        if ids[: len(prompt)] != prompt:
            raise ConfigError(
                "the chat template changes a question once it is answered", remedy="Set another chat_format."
            )
        # Whitespace that a native template writes after the end token is not part of the answer.
        end = max(position for position, label in enumerate(labels) if label != IGNORED)
        return ids[len(prompt) : end + 1]

    def after_image(self, ids: Sequence[int]) -> list[int]:
        """Return the token ids that follow the image tokens in a conversation."""
        return [*ids][len(ids) - [*reversed(ids)].index(self.image_token_id) :]

    def decode(self, ids: list[int] | torch.Tensor) -> str:
        """Decode generated ids to text without special tokens, and strip whitespace."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def batch(self, rows: Sequence[Encoded], side: Literal["left", "right"]) -> TokenBatch:
        """Pad conversations to the length T of the longest: on the right for training, on the left for generation."""
        length = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
        for number, row in enumerate(rows):
            size = len(row.input_ids)
            span = slice(0, size) if side == "right" else slice(length - size, length)
            input_ids[number, span] = torch.tensor(row.input_ids)
            attention_mask[number, span] = 1
            labels[number, span] = torch.tensor(row.labels)
        return TokenBatch(input_ids, attention_mask, labels)

    @property
    def pad_token_id(self) -> int:
        """The id of the padding token, or of the end token if there is no padding token (padding is masked anyway)."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def end_token_ids(self) -> list[int]:
        """Ids of the tokens that end an answer: the end tokens of the chat template and the tokenizer."""
        answer = self.encode_answer([{"role": "user", "content": "?", "image": True, "name": "?", "task": "?"}], "!")
        return sorted({answer[-1], int(self.tokenizer.eos_token_id)})

    def _encode_native(self, messages: Messages) -> Encoded:
        """Encode a conversation with a template that does not mark answers or images.

        The first message begins with the image. The labels of an answer extend from its first token to the first
        special token after its text, which ends the turn.
        """
        answered = messages[-1]["role"] == "assistant"
        contents = [
            (IMAGE_TOKEN * self.image_tokens + "\n" if message.get("image") else "") + message["content"].strip()
            for message in messages
        ]
        turns = [{"role": message["role"], "content": text} for message, text in zip(messages, contents, strict=True)]
        try:
            options: dict[str, Any] = {"add_generation_prompt": not answered, "enable_thinking": False}
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except TemplateError as error:
            raise ConfigError(f"the chat template failed: {error}", remedy="Set another chat_format.") from error
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = encoding["input_ids"]
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder} - {self.image_token_id}
        labels = [IGNORED] * len(ids)
        position = 0
        for message, content in zip(messages, contents, strict=True):
            start = text.find(content, position)
            if start < 0:
                raise ConfigError("the chat template changes the text of a message", remedy="Set another chat_format.")
            position = start + len(content)
            if message["role"] != "assistant":
                continue
            for index, (begin, end) in enumerate(encoding["offset_mapping"]):
                if end <= start:
                    continue
                labels[index] = ids[index]
                if begin < position or text[begin:end].isspace():
                    continue
                if ids[index] not in special:
                    raise ConfigError(
                        "the chat template ends an answer without a special token", remedy="Set another chat_format."
                    )
                break
        return Encoded(tuple(ids), tuple(labels))

    def _encode_frozen(self, frozen: tuple[tuple[tuple[str, Any], ...], ...]) -> Encoded:
        messages = [dict(message) for message in frozen]
        if "generation %}" not in str(self.tokenizer.chat_template):
            return self._encode_native(messages)
        answered = messages[-1]["role"] == "assistant"
        try:
            rendered: Any = self.tokenizer.apply_chat_template(
                messages,
                image_tokens=self.image_tokens,
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=answered,
            )
        except TemplateError as error:
            raise ConfigError(
                f"the chat template failed: {error}", remedy="Correct the tokenizer's chat_template.jinja."
            ) from error
        ids = tuple(rendered["input_ids"])
        count = ids.count(self.image_token_id)
        if count != self.image_tokens:
            raise ConfigError(
                f"the chat template writes {count} image placeholders, but the model expects {self.image_tokens}",
                remedy="Correct the tokenizer's chat_template.jinja to write image_tokens placeholders in the first "
                "message.",
            )
        in_answer = rendered["assistant_masks"] if answered else (0,) * len(ids)
        return Encoded(ids, tuple(token if answer else IGNORED for token, answer in zip(ids, in_answer, strict=True)))
