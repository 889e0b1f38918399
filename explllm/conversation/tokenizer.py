"""Load or train tokenizers with an image placeholder and a chat template."""

import shutil
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from explllm.conversation.messages import IMAGE_TOKEN, NATIVE, chat_template
from explllm.core.errors import ConfigError


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, chat_format: str) -> PreTrainedTokenizerBase:
    """Add the image placeholder, the chat template and, if it is missing, a padding token to a tokenizer.

    The placeholder absorbs whitespace on both sides (except with a native template), as in the released code, so no
    token separates image and text.

    Args:
        tokenizer: A fast tokenizer; changed in place.
        chat_format: One of `explllm.conversation.messages.FORMATS`.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: If the chat format is unknown, or if it is `NATIVE` and the tokenizer has no template.
    """
    strip = chat_format != NATIVE
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, lstrip=strip, rstrip=strip, normalized=False, special=True)])
    if chat_format != NATIVE:
        tokenizer.chat_template = chat_template(chat_format)
    elif tokenizer.chat_template is None:
        raise ConfigError(
            "the language model's tokenizer has no chat template for the chat format `native`",
            where=str(tokenizer.name_or_path),
            remedy="Set chat_format to vicuna or plain.",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def load_tokenizer(name: str | PathLike[str], chat_format: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a language model and add the image placeholder and the chat template.

    Args:
        name: A Hugging Face name, a folder, or a SentencePiece file ``tokenizer.model`` of the Llama family.
        chat_format: One of `explllm.conversation.messages.FORMATS`.
        revision: The revision on the hub.

    Raises:
        ConfigError: If the tokenizer cannot be loaded or has no vocabulary, or if `prepare_tokenizer` fails.
    """
    try:
        if Path(name).suffix == ".model":
            # transformers reads a SentencePiece file only by its canonical name inside a folder.
            with TemporaryDirectory() as folder:
                shutil.copyfile(name, Path(folder, "tokenizer.model"))
                tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                str(name), revision=revision, legacy=False, trust_remote_code=False
            )
    except Exception as error:  # errors of many types, including network errors
        raise ConfigError(
            f"cannot load a tokenizer: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=str(name),
            remedy="Pass a folder with a tokenizer, or the name of a Hugging Face model that this machine can reach.",
        ) from error
    if not tokenizer.encode("Happiness", add_special_tokens=False):  # pyrefly: ignore[missing-attribute]
        # If the vocabulary file is missing or cannot be downloaded, transformers returns a tokenizer without one.
        raise ConfigError(
            "the tokenizer has no vocabulary: a file such as tokenizer.model is missing or was not downloaded",
            where=str(name),
            remedy="Copy the missing file, or run the command again.",
        )
    return prepare_tokenizer(tokenizer, chat_format)  # pyrefly: ignore[bad-argument-type]


def train_tokenizer(
    texts: Iterable[str], whole_words: Sequence[str], vocabulary: int, chat_format: str
) -> PreTrainedTokenizerBase:
    """Train a small byte-level BPE tokenizer, for models trained from scratch.

    Training is deterministic. The vocabulary contains all bytes, so the tokenizer encodes any text.

    Args:
        texts: Training texts.
        whole_words: Words, such as the labels, each of which becomes a single token together with the preceding space.
        vocabulary: Maximum vocabulary size, including the special tokens and a token for each of the 256 bytes. The
            actual size is smaller if the texts contain fewer distinct pieces.
        chat_format: One of `explllm.conversation.messages.FORMATS`.

    Raises:
        ConfigError: If the vocabulary is too small, or the chat format is unknown.
    """
    special = ["<unk>", "<s>", "</s>"]
    if vocabulary < len(special) + 256 + len(whole_words):
        raise ConfigError(
            f"a vocabulary of {vocabulary} is too small for the special tokens, 256 bytes and {len(whole_words)} words",
            remedy=f"Use at least {len(special) + 256 + len(whole_words)}.",
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    # A word includes the space before it; digits and punctuation are separate, so a small vocabulary covers most text.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[0-9]|\s+| ?[^\sA-Za-z0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # prepare_tokenizer() adds the image placeholder
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = list(texts)
    # Repeat the whole words often enough that BPE merges them. Using added tokens instead would change how nearby
    # text is tokenized.
    emphasis = max(1, sum(len(text) for text in texts) // 40)
    tokenizer.train_from_iterator([*texts, *(f" {word}" * emphasis for word in whole_words)], trainer)
    return prepare_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"),
        chat_format,
    )
