"""Build new models: the configuration, tokenizer and parts that the settings describe."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from difflib import get_close_matches
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from explllm.conversation.encoder import ConversationEncoder
from explllm.conversation.messages import NATIVE, caption, explanation
from explllm.conversation.tokenizer import load_tokenizer, train_tokenizer
from explllm.core.action_units import FEAFA
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression, LabelSet
from explllm.explanations.rule_writer import RuleWriter
from explllm.faces.pixels import ImagePreset
from explllm.models import storage
from explllm.models.configuration import ExpLLMConfig, Train
from explllm.models.explllm import ExpLLM
from explllm.models.feallm import FEALLMProjector
from explllm.models.pretrained import base_config, base_revision, image_preset, load_language, load_vision
from explllm.models.settings import ARCHITECTURES, NetworkSettings
from explllm.models.settings import PRESETS as PRESETS
from explllm.models.vision import ActionUnitTokens, vision_shape, vision_tower_config


class ConfigAndTokenizer(NamedTuple):
    """Everything that a new model needs besides weights."""

    config: ExpLLMConfig
    tokenizer: PreTrainedTokenizerBase


def build_config(settings: NetworkSettings, init_from: str | PathLike[str] | None = None) -> ConfigAndTokenizer:
    """Create the configuration and the tokenizer of a new model, without loading weights.

    Args:
        settings: Settings of the model.
        init_from: Folder of the model to start from. Its chat format applies unless `chat_format` is set, its
            preprocessing unless `image_preset` or `image_size` is set, and its commits of base models unless the
            settings name other base models or revisions.

    Returns:
        The configuration and its tokenizer.

    Raises:
        ConfigError: If a part is unknown, the parts are incompatible, or a pretrained tokenizer cannot be loaded.
        MissingPathError: If `init_from` contains no model.
        CheckpointError: If the configuration of a pretrained part, or the one in `init_from`, cannot be read.
    """
    inherited = None if init_from is None else storage.read_config(Path(init_from))
    if inherited is not None and settings.chat_format is None:
        settings = replace(settings, chat_format=inherited.chat_format)
    inherits_image = inherited is not None and settings.image_preset is None and settings.image_size is None
    settings = settings.resolved()
    if inherited is not None and settings.vision == inherited.vision_base:
        settings = replace(settings, vision_revision=settings.vision_revision or inherited.vision_revision)
    if inherited is not None and settings.language == inherited.text_base:
        settings = replace(settings, language_revision=settings.language_revision or inherited.text_revision)
    chat_format = cast(str, settings.chat_format)
    vision_config, vision_base = part_config(settings.vision, settings.vision_revision, "vision")
    vision_config = vision_tower_config(vision_config)
    text_config, text_base = part_config(settings.language, settings.language_revision, "language")
    if not hasattr(text_config, "hidden_size"):
        raise ConfigError(
            f"language: a {text_config.model_type} is not a text-only language model",
            remedy="Set model.network.language to one that is.",
        )
    if text_base is None:
        tokenizer = small_tokenizer(settings.vocabulary or 1024, chat_format)
        text_config.vocab_size = len(tokenizer)
        text_config.bos_token_id, text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        text_config.pad_token_id = None
    else:
        tokenizer = load_tokenizer(text_base, chat_format, settings.language_revision)
        if tokenizer.pad_token_id >= text_config.vocab_size:
            # Some repositories add a padding token without an embedding.
            # Padding is masked, so any token with an embedding can be used instead.
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if inherited is not None and inherits_image:
        image = ImagePreset.from_dict(inherited.image or {})
    elif settings.image_preset == NATIVE:
        image = _native_preset(settings.vision, settings.vision_revision, settings.image_size)
    else:
        image = ImagePreset.named(cast(str, settings.image_preset), settings.image_size)
    layer, pooling = settings.vision_feature_layer, settings.token_pooling
    shape = vision_shape(vision_config, image.size, layer, pooling)
    is_feallm = settings.architecture == "feallm"
    image_tokens = shape.tokens + (FEALLMProjector.extra_tokens if is_feallm else 0)
    image_tokens += ActionUnitTokens.count if settings.action_unit_tokens else 0
    conversations = ConversationEncoder(tokenizer, image_tokens)
    needed = len(conversations.encode_prompt(explanation(str(Expression.NEUTRAL))))
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions is not None and positions < needed:
        raise ConfigError(
            f"the language model has {positions} positions, but image and prompt take {needed}",
            remedy="Raise max_position_embeddings, or use fewer image tokens (image_size, token_pooling).",
        )
    config = ExpLLMConfig(
        architecture=settings.architecture,
        feallm=asdict(settings.feallm) if is_feallm and settings.feallm else None,
        vision_config=vision_config,
        text_config=text_config,
        vision_base=vision_base,
        vision_revision=base_revision(vision_base, settings.vision_revision) if vision_base else None,
        text_base=text_base,
        text_revision=base_revision(text_base, settings.language_revision) if text_base else None,
        vision_train=cast(Train, settings.vision_train),
        projector_train=cast(Train, settings.projector_train),
        text_train=cast(Train, settings.language_train),
        vision_lora=asdict(settings.vision_lora),
        text_lora=asdict(settings.language_lora),
        base_dtype=settings.base_dtype,
        load_in_4bit=settings.load_in_4bit,
        projector_layers=settings.projector_layers,
        vision_feature_layer=layer,
        token_pooling=pooling,
        vision_drop_path=settings.vision_drop_path,
        action_unit_tokens=settings.action_unit_tokens,
        average_flipped=settings.average_flipped,
        image=image.to_dict(),
        image_tokens=image_tokens,
        vision_width=shape.width,
        image_token_id=conversations.image_token_id,
        chat_format=chat_format,
        labels=_labels(settings.labels),
    )
    return ConfigAndTokenizer(config, tokenizer)


def build(
    settings: NetworkSettings, prepared: ConfigAndTokenizer | None = None, keep_file_dtype: bool = False
) -> ExpLLM:
    """Create a new model. Pretrained parts are loaded; other weights are random.

    Seed PyTorch first to get the same random weights again.

    Args:
        settings: Settings of the model.
        prepared: The result of `build_config` for these settings; by default it is computed here.
        keep_file_dtype: Keep base weights in the data type of their files, regardless of `base_dtype` and of whether
            they are trained. Such weights are memory-mapped and take no extra memory.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: If a part is unknown, the parts are incompatible, or 4-bit weights are not available.
        CheckpointError: If a pretrained part cannot be loaded.
    """
    settings = settings.resolved()
    config, tokenizer = prepared or build_config(settings)
    dtype = None if keep_file_dtype else storage.dtype_by_name(settings.base_dtype)
    if settings.load_in_4bit and not supports_4bit(settings):
        raise ConfigError(
            "4-bit weights require a pretrained language model that is `frozen` or trained with `lora`",
            remedy="Set load_in_4bit to false, or language_train to lora.",
        )
    vision = language = None
    if config.vision_base:
        vision = load_vision(config.vision_base, config.vision_revision, dtype)
    if config.text_base:
        language = load_language(config.text_base, config.text_revision, dtype, settings.load_in_4bit)
    return ExpLLM.class_for(config)(config, tokenizer, vision, language, keep_file_dtype)


def supports_4bit(settings: NetworkSettings) -> bool:
    """Return whether the language model can be quantized to 4-bit, which requires frozen pretrained weights."""
    return isinstance(settings.language, str) and settings.language_train != "full"


def build_on_meta(settings: NetworkSettings) -> ExpLLM:
    """Create a model on the meta device: all parts and shapes, without weights. Presets need no download.

    The model's tokenizer is a placeholder, since a pretrained tokenizer would need a download.

    Args:
        settings: Settings of the model.

    Returns:
        The model, without weights.

    Raises:
        ConfigError: If a part is unknown, or the parts are incompatible.
        CheckpointError: If the configuration of a pretrained part cannot be read.
    """
    settings = settings.resolved()
    vision, _ = part_config(architecture(settings.vision), settings.vision_revision, "vision")
    language, _ = part_config(architecture(settings.language), settings.language_revision, "language")
    from_fields = replace(
        settings,
        vision=config_fields(vision_tower_config(vision)),
        language=config_fields(language),
        vision_revision=None,
        language_revision=None,
        # The placeholder tokenizer has no template of its own.
        chat_format="vicuna" if settings.chat_format == NATIVE else settings.chat_format,
    )
    if settings.image_preset == NATIVE:
        native = _native_preset(settings.vision, settings.vision_revision, settings.image_size)
        from_fields = replace(from_fields, image_preset="dinov2", image_size=native.size)
    config, tokenizer = build_config(from_fields)
    if settings.vocabulary is None or isinstance(settings.language, str):
        config.text_config.vocab_size = language.vocab_size
    with torch.device("meta"):
        return ExpLLM.class_for(config)(config, tokenizer)


def architecture(part: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """Return the configuration fields of a part that is a preset's base model; return any other part unchanged."""
    return dict(ARCHITECTURES[part]) if isinstance(part, str) and part in ARCHITECTURES else part


def config_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Convert a configuration to the dictionary that describes a part with random weights in the settings."""
    return {**config.to_dict(), "model_type": config.model_type}


def small_tokenizer(vocabulary: int, chat_format: str) -> PreTrainedTokenizerBase:
    """Train a tokenizer on the prompts and on texts from the rule-based writer, for models with random weights.

    Args:
        vocabulary: Maximum vocabulary size.
        chat_format: One of `explllm.conversation.messages.TEMPLATES`.

    Returns:
        The tokenizer. The same arguments always give the same tokenizer.
    """
    return deepcopy(_trained_tokenizer(vocabulary, chat_format))


@cache
def _trained_tokenizer(vocabulary: int, chat_format: str) -> PreTrainedTokenizerBase:
    writer, random = RuleWriter(), np.random.default_rng(0)
    texts = []
    for number, expression in enumerate(list(Expression) * 60):
        intensities = random.uniform(0, 1, len(FEAFA)) * (random.uniform(size=len(FEAFA)) < 0.3)
        texts.append(writer.write(intensities.tolist(), expression, seed=number).text)
    prompts = " ".join(str(message["content"]) for message in [*explanation("Neutral"), *caption()])
    return train_tokenizer([*texts, *[prompts] * 60], [str(label) for label in Expression], vocabulary, chat_format)


def part_config(
    part: str | dict[str, Any] | None, revision: str | None, role: str
) -> tuple[PreTrainedConfig, str | None]:
    """Return a part's configuration and the name of its base weights.

    Args:
        part: A Hugging Face name or folder, or configuration fields for random weights.
        revision: Revision of the pretrained part on the hub.
        role: The part's name in error messages.

    Returns:
        The configuration, and the name (None for random weights).

    Raises:
        ConfigError: If `model_type` or another field is unknown, or a value is invalid.
        CheckpointError: If the configuration of a pretrained part cannot be read.
    """
    if isinstance(part, str):
        return base_config(part, revision), part
    values = dict(part or {})
    kind = values.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"{role}: {kind!r} is not a model_type that transformers supports",
            remedy="Set a Hugging Face name or folder, or a mapping with a `model_type` such as dinov2 or llama.",
        )
    _check_fields(values, set(CONFIG_MAPPING[kind]().to_dict()), role)
    try:
        return CONFIG_MAPPING[kind](**values), None
    except Exception as error:  # transformers configurations validate their fields in many ways
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise ConfigError(
            f"{role}: the fields do not fit a {kind}: {reason}", remedy=f"Correct model.network.{role}."
        ) from error


def _check_fields(values: dict[str, Any], known: set[str], role: str) -> None:
    """Reject fields that a transformers configuration would store but never read, and sizes below 1.

    Raises:
        ConfigError: If there is such a field.
    """
    for name, value in values.items():
        # transformers still reads some former names, which are not in `known`. Common fields, such as
        # `intermediate_size`, are accepted for all architectures, although some have no such field.
        if name not in known | _common_fields() and not name.startswith(("rope_", "torch_dtype", "_")):
            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(f"unknown key model.network.{role}.{name}", remedy=f"{hint}Correct or remove it.")
        if name in _COUNTS and isinstance(value, int) and value < 1:
            raise ConfigError(f"model.network.{role}.{name} is {value}", remedy="Use at least 1.")


@cache
def _common_fields() -> frozenset[str]:
    return frozenset(CONFIG_MAPPING["llama"]().to_dict()) | frozenset(CONFIG_MAPPING["vit"]().to_dict())


_COUNTS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _native_preset(vision: str | dict[str, Any] | None, revision: str | None, size: int | None) -> ImagePreset:
    if not isinstance(vision, str):
        raise ConfigError("the image preset `native` requires a pretrained encoder", remedy="Set image_preset.")
    preset = image_preset(vision, revision)
    return preset if size is None else replace(preset, size=size)


def _labels(labels: str | Sequence[str] | None) -> list[str] | None:
    if isinstance(labels, str):
        return [str(label) for label in LabelSet.by_name(labels)]
    if not labels:
        return None
    parsed = [str(Expression.parse(label)) for label in labels]
    if len(set(parsed)) < len(parsed):
        raise ConfigError(f"labels repeat an expression: {', '.join(labels)}", remedy="Name each expression once.")
    return parsed


def distinct_expressions(expressions: Sequence[str]) -> list[Expression]:
    """Return the distinct expressions in a column, in the paper's order; they are a model's default labels."""
    present = set(expressions)
    return [expression for expression in Expression if str(expression) in present]
