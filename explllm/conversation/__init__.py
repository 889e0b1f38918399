"""Conversations about one image: prompts, chat formats, tokenization and label masks.

Training and inference both use this code. `messages` builds a conversation from prompts and answers, `tokenizer` loads
or trains a tokenizer that carries the chat template, and `ConversationEncoder` turns messages into token ids and
labels.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
