"""Size, optimizer steps and memory of a training run, computed without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from explllm.core.errors import InputError
from explllm.core.manifest import Manifest
from explllm.data.folder import read_folder
from explllm.data.mixture import Mixture
from explllm.models.au_regressor import ActionUnitRegressor, RegressorSettings, build_regressor_on_meta
from explllm.models.build import NetworkSettings, build_on_meta, supports_4bit
from explllm.models.explllm import ExpLLM
from explllm.models.lora import LoraSettings
from explllm.training.au_task import ActionUnitTask
from explllm.training.optimization import OptimizationSettings, warmup_steps

PUBLISHED_IMAGES = {"rafdb": 12_271, "affectnet8": 287_651, "affectnet7": 283_901, "CaptionedImages": 595_375}
"""Training images as published, for data that is not on this machine: RAF-DB (Li et al. 2017), AffectNet (Mollahosseini
et al. 2019), CC3M as LLaVA filtered it (Liu et al. 2023)."""

TEXT_TOKENS = 384
"""Text tokens of a long CoT conversation: with Llama's tokenizer the longest of 600 real ones has 356 in the format
``vicuna`` and 375 in ``expllm``."""


@dataclass(frozen=True)
class PartSize:
    """One part of the model."""

    name: str
    """vision, projector, language or head."""
    architecture: str
    """Class of the part."""
    train: str
    """How it trains: frozen, lora or full."""
    weights: int
    """All weights."""
    trainable: int
    """Trainable weights."""


@dataclass(frozen=True)
class Memory:
    """Estimated memory of one GPU in training, in GB (10^9 bytes)."""

    strategy: str
    """ddp, fsdp or ddp with 4-bit base weights."""
    frozen: float
    """Frozen weights."""
    trained: float
    """Trainable weights with gradients and the optimizer's two moments, all float32."""
    activations: float
    """Activations of one micro-batch, with logits and their gradients."""
    other: float
    """Memory of the framework: an assumption of 1.5 GB."""

    @property
    def total(self) -> float:
        """The sum."""
        return self.frozen + self.trained + self.activations + self.other


@dataclass(frozen=True)
class Description:
    """What a configuration means."""

    parts: list[PartSize]
    """Vision encoder, projector, language model; for a regressor of action units, vision encoder and head."""
    image_tokens: int
    """Tokens for each image."""
    sequence: int
    """Assumed tokens of a long conversation; the image's alone for a regressor of action units."""
    images: int | None
    """Training images; None if unknown."""
    images_source: str
    """Source of that number."""
    conversations: int | None
    """Conversations in an epoch; faces for a regressor of action units."""
    steps: int | None
    """Optimizer steps of the whole run."""
    warmup: int | None
    """Warm-up steps."""
    memory: list[Memory]
    """Estimates by strategy; none for a regressor of action units."""
    gpus: int
    """GPUs that the estimates are for."""
    micro_batch: int
    """Conversations that one GPU handles at a time."""

    @property
    def trainable(self) -> int:
        """Trainable weights in all."""
        return sum(part.trainable for part in self.parts)


def describe_configuration(config: Namespace, images: int | None = None, gpus: int = 8) -> Description:
    """Compute parts, steps and memory of a configuration.

    Args:
        config: The settings of ``fit``, as parsed: `model`, `data`, `trainer`.
        images: Training images, if the data is not on this machine.
        gpus: GPUs that the memory is estimated for.

    Returns:
        The description.

    Raises:
        InputError: If a setting is wrong.
    """
    if _class(config.model) == ActionUnitTask.__name__:
        return _describe_regressor(config, images, gpus)
    model, data = config.model.init_args, config.data.init_args
    network = model.network if isinstance(model.network, NetworkSettings) else _settings(model.network)
    settings = network.resolved()
    built = build_on_meta(settings)
    parts = part_sizes(built)
    count, source = (images, "given") if images else _images(config)
    conversations = steps = warmup = None
    if count is not None:
        rows = range(count)
        captions = data.get("conversations") == "captions" or _class(config.data) == "CaptionedImages"
        conversations = count if captions else len(Mixture(rows, rows, data.fer_share))
        steps, warmup = _steps(config, conversations)
    sequence = built.config.image_tokens + TEXT_TOKENS
    memory = [
        estimate_memory(built, settings, strategy, gpus, data.micro_batch_size, sequence, model.gradient_checkpointing)
        for strategy in ("ddp", "fsdp", *(["ddp, 4-bit base"] if supports_4bit(settings) else []))
    ]
    return Description(
        parts,
        built.config.image_tokens,
        sequence,
        count,
        source,
        conversations,
        steps,
        warmup,
        memory,
        gpus,
        data.micro_batch_size,
    )


def _describe_regressor(config: Namespace, images: int | None, gpus: int) -> Description:
    """Describe the configuration of a regressor of action units; its memory is not estimated."""
    network, data = config.model.init_args.network, config.data.init_args
    if not isinstance(network, RegressorSettings):
        fields = _plain(network)
        network = RegressorSettings(**{**fields, "vision_lora": LoraSettings(**_plain(fields["vision_lora"]))})
    built = build_regressor_on_meta(network)
    count, source = (images, "given") if images else _images(config)
    steps = warmup = None
    if count is not None:
        steps, warmup = _steps(config, count)
    tokens = built.config.image_tokens
    return Description(
        part_sizes(built), tokens, tokens, count, source, count, steps, warmup, [], gpus, data.micro_batch_size
    )


def part_sizes(model: ExpLLM | ActionUnitRegressor) -> list[PartSize]:
    """Count the weights of each part, and those that train."""
    counts: Mapping[Any, int] = model.trainable_counts()
    return [
        PartSize(name, type(module).__name__, train, sum(w.numel() for w in module.parameters()), counts[name])
        for name, (module, train, _) in model.parts().items()
    ]


def estimate_memory(
    model: ExpLLM,
    settings: NetworkSettings,
    strategy: str,
    gpus: int,
    micro_batch: int,
    sequence: int,
    checkpointing: bool,
) -> Memory:
    """Estimate the memory of one GPU in training.

    Weights, gradients and moments are exact; activations follow the usual inventory of a transformer layer
    with fused attention (about 16 widths and 4 inner widths a token, Korthikanti et al. 2022), kept for every layer, or
    with gradient checkpointing for one layer and one width for each of the others.

    Args:
        model: The model, on the meta device.
        settings: Its settings, resolved.
        strategy: ``ddp``, ``fsdp`` or ``ddp, 4-bit base``.
        gpus: GPUs that share the weights under FSDP.
        micro_batch: Conversations in a micro-batch.
        sequence: Tokens of a conversation.
        checkpointing: Whether activations are kept for one layer only.

    Returns:
        The estimate.
    """
    half = 4 if settings.base_dtype == "float32" else 2
    frozen: float = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad) * half
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if strategy == "ddp, 4-bit base":
        linear = sum(
            module.weight.numel()
            for name, module in model.language.named_modules()
            if isinstance(module, nn.Linear) and "lora_" not in name and "lm_head" not in name
        )
        # NF4 with double quantization: 4 bits and 0.127 of constants a weight (Dettmers et al. 2023).
        frozen -= linear * half - linear * 4.127 / 8
    state: float = trained * (16 if strategy == "fsdp" else 20)  # DDP keeps a copy of the gradients in its buckets
    if strategy == "fsdp":
        layer = max(sum(w.numel() for w in m.parameters()) for m in _layers(model.language)) * half
        frozen, state = frozen / gpus + 2 * layer, state / gpus
    text, vision = model.config.text_config, model.config.vision_config
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    kept = _activations(micro_batch * sequence, text.hidden_size, inner, text.num_hidden_layers, checkpointing, half)
    if hasattr(vision, "num_hidden_layers") and isinstance(vision.hidden_size, int):
        tokens, width = micro_batch * (model.config.image_tokens + 1), vision.hidden_size
        kept += _activations(tokens, width, 4 * width, vision.num_hidden_layers, checkpointing, half)
    # Float32 logits at the answers' positions, their softmax and their gradient.
    kept += 3 * 4 * micro_batch * (sequence - model.config.image_tokens) * text.vocab_size
    return Memory(strategy, frozen / 1e9, state / 1e9, kept / 1e9, 1.5)


def _activations(tokens: int, width: int, inner: int, layers: int, checkpointing: bool, size: int) -> int:
    layer = tokens * (16 * width + 4 * inner) * size
    return layer + layers * tokens * width * size if checkpointing else layers * layer


def _layers(part: nn.Module) -> list[nn.Module]:
    lists = [list(module) for module in part.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return lists[0] if lists else [part]


def _steps(config: Namespace, samples: int) -> tuple[int, int]:
    """Return the optimizer steps of a run with this many samples an epoch, and those of the warm-up."""
    steps = samples // config.data.init_args.batch_size * (config.trainer.max_epochs or 1000)
    if config.trainer.max_steps > 0:
        steps = min(steps, config.trainer.max_steps)
    return steps, warmup_steps(OptimizationSettings(**_plain(config.model.init_args.optimization)), steps)


def _images(config: Namespace) -> tuple[int | None, str]:
    """Count the training images: those on this machine, else as published."""
    data, kind = config.data.init_args, _class(config.data)
    try:
        if kind in ("ManifestFaces", "ManifestActionUnits") and Path(str(data.manifest)).is_file():
            frame = Manifest.read(data.manifest, root=data.root).frame
            return int((frame["split"] == "train").sum()), str(data.manifest)
        if kind == "FolderFaces" and Path(str(data.root)).is_dir():
            frame = read_folder(data.root).frame
            return ceil((frame["split"] == "train").sum() * (1 - data.val_fraction)), str(data.root)
    except InputError as error:
        return None, str(error)
    if kind in ("DrawnFaces", "DrawnActionUnits"):
        return int(data.train), "to be drawn"
    labels = None if kind == "ManifestActionUnits" else config.model.init_args.network.get("labels")
    name = kind if kind in PUBLISHED_IMAGES else labels if isinstance(labels, str) else None
    if name in PUBLISHED_IMAGES:
        return PUBLISHED_IMAGES[name], "as published; the data is not here"
    return None, "the data is not here"


def _class(settings: Namespace) -> str:
    return str(settings.class_path).rpartition(".")[2]


def _plain(settings: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(settings).items() if key != "class_path"}


def _settings(values: Namespace) -> NetworkSettings:
    fields = _plain(values)
    for name in ("vision_lora", "language_lora"):
        fields[name] = LoraSettings(**_plain(fields[name]))
    return NetworkSettings(**fields)
