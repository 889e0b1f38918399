"""Tokenizers: any Hugging Face one made ready for images and chat, or a small one trained on the spot."""

import shutil
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from explllm.conversation.formats import IMAGE_TOKEN, chat_template
from explllm.core.errors import ConfigError


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_format: str) -> PreTrainedTokenizerBase:
    """Give a tokenizer the image placeholder and the chat format's template.

    The placeholder swallows white space on both sides, as in the released code: no token separates image and text.

    Args:
        tokenizer: A fast tokenizer; changed in place.
        chat_format: One of `explllm.conversation.formats.FORMATS`.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If the chat format is unknown.
    """
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, lstrip=True, rstrip=True, normalized=False, special=True)])
    tokenizer.chat_template = chat_template(chat_format)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_tokenizer(name: str | PathLike[str], chat_format: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a language model's tokenizer and make it ready for images and chat.

    Args:
        name: A Hugging Face name, a folder, or a SentencePiece ``tokenizer.model`` of the Llama family.
        chat_format: One of `explllm.conversation.formats.FORMATS`.
        revision: The revision on the hub.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    try:
        if Path(name).suffix == ".model":
            # transformers reads a SentencePiece file only by its canonical name inside a folder.
            with TemporaryDirectory() as folder:
                shutil.copyfile(name, Path(folder, "tokenizer.model"))
                tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(name), revision=revision, legacy=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no tokenizer can be loaded: {str(error).splitlines()[0]}",
            where=str(name),
            remedy="Give a folder that holds one, or a Hugging Face name that this machine can reach.",
        ) from error
    return prepare_tokenizer(tokenizer, chat_format)


def train_tokenizer(
    texts: Iterable[str], whole_words: Sequence[str], vocabulary: int, chat_format: str
) -> PreTrainedTokenizerBase:
    """Train a small byte-level BPE tokenizer, for models that train from scratch.

    Deterministic: equal texts give an equal tokenizer. Any text can be encoded: all bytes are in the vocabulary.

    Args:
        texts: What it shall encode in few tokens.
        whole_words: Words that shall be one token after a space, such as the labels.
        vocabulary: Greatest size of the vocabulary, special tokens and 256 bytes included; it is smaller where the
            texts are covered in whole words before.
        chat_format: One of `explllm.conversation.formats.FORMATS`.

    Returns:
        The tokenizer, ready for images and chat.

    Raises:
        ConfigError: If the vocabulary is too small, or the chat format unknown.
    """
    special = ["<unk>", "<s>", "</s>"]
    if vocabulary < len(special) + 256 + len(whole_words):
        raise ConfigError(
            f"a vocabulary of {vocabulary} has no room for the special tokens, 256 bytes and {len(whole_words)} words",
            remedy=f"Ask for at least {len(special) + 256 + len(whole_words)}.",
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    # A word takes the space before it; digits and punctuation stand alone, so that few pieces cover much text.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[0-9]|\s+| ?[^\sA-Za-z0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # the placeholder comes on top
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(texts)
    # Whole words win their merges by weight of numbers: no added tokens, so the text around them tokenizes as usual.
    emphasis = max(1, sum(len(text) for text in texts) // 40)
    tokenizer.train_from_iterator([*texts, *(f" {word}" * emphasis for word in whole_words)], trainer)
    return prepare_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"),
        chat_format,
    )
