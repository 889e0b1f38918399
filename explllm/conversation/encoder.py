"""From messages to token ids and label masks: the one path that training and inference share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from explllm.conversation.formats import IMAGE_TOKEN
from explllm.conversation.messages import Messages
from explllm.core.errors import ConfigError

IGNORED = -100
"""The label of a position that no loss is taken at (PyTorch's ``ignore_index``)."""


class Encoded(NamedTuple):
    """One conversation as tokens."""

    input_ids: tuple[int, ...]
    """Token ids, with one placeholder for each image token."""
    labels: tuple[int, ...]
    """The same length: the token's id where the assistant speaks (the end token included), `IGNORED` elsewhere."""


@dataclass(frozen=True)
class TokenBatch:
    """Conversations padded to one length."""

    input_ids: torch.Tensor
    """(B, T) int64."""
    attention_mask: torch.Tensor
    """(B, T) int64, 1 where there is a token and 0 where there is padding."""
    labels: torch.Tensor
    """(B, T) int64, `IGNORED` wherever no answer is predicted."""


class ConversationEncoder:
    """Encodes conversations by the chat template that is saved with the tokenizer.

    The whole conversation is tokenized in one piece, so that token borders at the turns are those of a single text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_tokens: int) -> None:
        """Keep the tokenizer.

        Args:
            tokenizer: A fast tokenizer with a chat template and the placeholder token.
            image_tokens: Tokens for each image.

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
                f"the tokenizer lacks the token {IMAGE_TOKEN}", where=name, remedy="Prepare it by prepare_tokenizer()."
            )
        if not tokenizer.is_fast:
            raise ConfigError(
                "the tokenizer gives no character offsets", where=name, remedy="Use a fast (Rust) tokenizer."
            )
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        self.image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]
        # Recognition has one conversation for each label and one prompt: worth keeping, as tokenizing is not free.
        self._cached = lru_cache(maxsize=256)(self._encode_frozen)

    def encode(self, messages: Messages) -> Encoded:
        """Encode a whole conversation.

        Args:
            messages: Its messages, answers included.

        Returns:
            Token ids and labels of one length T.

        Raises:
            ConfigError: If a message carries the placeholder in its text.
        """
        for message in messages:
            if IMAGE_TOKEN in message["content"]:
                raise ConfigError(
                    f"a {message['role']}'s message holds the image placeholder {IMAGE_TOKEN}",
                    remedy="Remove it from the text.",
                )
        return self._cached(tuple(tuple(sorted(message.items())) for message in messages))

    def encode_prompt(self, messages: Messages) -> tuple[int, ...]:
        """Encode a conversation whose last question is still open; the ids end where the answer begins."""
        return self.encode(messages).input_ids

    def encode_answer(self, messages: Messages, answer: str) -> tuple[int, ...]:
        """Return the tokens that the answer to an open question has in the whole conversation, end token included.

        Args:
            messages: A conversation that ends in a question.
            answer: The assistant's text.

        Returns:
            The ids that follow those of the prompt.
        """
        encoded = self.encode([*messages, {"role": "assistant", "content": answer}])
        return encoded.input_ids[len(self.encode_prompt(messages)) :]

    def decode(self, ids: list[int] | torch.Tensor) -> str:
        """Return the text of generated ids, without special tokens and outer white space."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def batch(self, rows: Sequence[Encoded], side: Literal["left", "right"]) -> TokenBatch:
        """Pad conversations to one length.

        Args:
            rows: Encoded conversations.
            side: Where the padding goes: right in training, left in generation.

        Returns:
            Tensors (B, T), T the longest length.
        """
        length = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
        for number, row in enumerate(rows):
            size = len(row.input_ids)
            place = slice(0, size) if side == "right" else slice(length - size, length)
            input_ids[number, place] = torch.tensor(row.input_ids)
            attention_mask[number, place] = 1
            labels[number, place] = torch.tensor(row.labels)
        return TokenBatch(input_ids, attention_mask, labels)

    @property
    def pad_token_id(self) -> int:
        """The id that fills a row; the end token's where the tokenizer has no padding token (it is masked anyway)."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _encode_frozen(self, frozen: tuple[tuple[tuple[str, Any], ...], ...]) -> Encoded:
        messages = [dict(message) for message in frozen]
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
                f"the chat template fails: {error}", remedy="Correct the tokenizer's chat_template.jinja."
            ) from error
        ids = tuple(rendered["input_ids"])
        said = rendered["assistant_masks"] if answered else (0,) * len(ids)
        return Encoded(ids, tuple(token if spoken else IGNORED for token, spoken in zip(ids, said, strict=True)))
