from .encoder import ConversationEncoder as ConversationEncoder
from .messages import (
    caption as caption,
)
from .messages import (
    conversation as conversation,
)
from .messages import (
    explanation as explanation,
)
from .messages import (
    recognition as recognition,
)
from .tokenizer import load_tokenizer as load_tokenizer
from .tokenizer import train_tokenizer as train_tokenizer
