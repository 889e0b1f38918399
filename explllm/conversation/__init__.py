"""Conversations about one image: prompts, chat formats, tokenization and label masks.

Training and inference share this one path. `messages` builds a conversation from prompts and answers, `tokenizer` loads
or trains a tokenizer that carries the chat template, and `ConversationEncoder` turns messages into token ids and
labels.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explllm.conversation.encoder import ConversationEncoder
    from explllm.conversation.messages import caption, conversation, explanation, recognition
    from explllm.conversation.tokenizer import load_tokenizer, train_tokenizer

__all__ = [
    "ConversationEncoder",
    "caption",
    "conversation",
    "explanation",
    "load_tokenizer",
    "recognition",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the tokenizers import transformers.
    modules = {"ConversationEncoder": "encoder", "load_tokenizer": "tokenizer", "train_tokenizer": "tokenizer"}
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules.get(name, 'messages')}"), name)
