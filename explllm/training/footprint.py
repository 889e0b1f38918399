"""Size, optimizer steps and memory of a training run, computed without weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from explllm.core.errors import InputError
from explllm.core.manifest import Manifest
from explllm.data.folder import read_folder
from explllm.data.mixture import MIXED_KINDS, Mixture, mixture_shares
from explllm.models.au_regressor import ActionUnitRegressor, RegressorSettings, build_regressor_on_meta
from explllm.models.build import NetworkSettings, build_on_meta, supports_4bit
from explllm.models.explllm import ExpLLM
from explllm.models.feallm import FEALLMProjector
from explllm.models.lora import LoraSettings
from explllm.models.loss import chunk_bytes
from explllm.training.activations import activation_bytes, evaluation_bytes
from explllm.training.au_task import ActionUnitTask
from explllm.training.optimization import OptimizationSettings, warmup_steps
from explllm.training.strategies import transformer_blocks

PUBLISHED_IMAGES = {"rafdb": 12_271, "affectnet8": 287_651, "affectnet7": 283_901, "CaptionedImages": 595_375}
"""Published numbers of training images, for data that is not on this machine: RAF-DB (Li et al. 2017), AffectNet
(Mollahosseini et al. 2019), CC3M as filtered for LLaVA (Liu et al. 2023)."""

TEXT_TOKENS = 384
"""Number of text tokens in a long CoT conversation: with Llama's tokenizer, the longest of 600 real conversations has
356 in the format ``vicuna`` and 375 in ``expllm``."""

PROMPT_TOKENS = 96
"""Number of text tokens in an evaluation prompt and all labels: 77 for Vicuna and eight expressions."""

GPU_SIZES = (16, 24, 40, 48, 80, 141)
"""Memory in GB of common GPUs, such as V100, RTX 4090, A100, L40S, H100 and H200."""

_USABLE = 0.92
"""Share of a GPU's memory that a run can use; the rest is lost to fragmentation and the driver."""


@dataclass(frozen=True)
class PartSize:
    """One part of the model."""

    name: str
    """``vision``, ``projector``, ``language``, ``action_unit_tokens`` or ``head``; for FEALLM,
    ``projector.local_clues`` and ``projector.perspectives``."""
    architecture: str
    """Class of the part."""
    train: str
    """How it is trained: frozen, lora or full."""
    weights: int
    """Number of weights."""
    trainable: int
    """Number of trainable weights."""


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU in training, in GB (10^9 bytes)."""

    strategy: str
    """ddp, fsdp2 or ddp with 4-bit base weights."""
    frozen: float
    """Frozen weights; under fsdp2, this GPU's share and two gathered blocks."""
    trained: float
    """Trainable weights with gradients (twice under ddp) and the optimizer's two moments, all float32."""
    activations: float
    """Activations of one micro-batch, with logits and their gradients."""
    other: float
    """Memory of the framework, assumed to be 1.5 GB."""
    micro_batch: int
    """Conversations in a micro-batch."""
    per_device: int
    """Conversations per GPU in a global batch."""

    @property
    def total(self) -> float:
        """Sum of frozen and trained weights, activations and other memory, in GB."""
        return self.frozen + self.trained + self.activations + self.other

    @property
    def gpu(self) -> int | None:
        """Memory of the smallest common GPU that is large enough; None if no GPU is."""
        return _smallest_gpu(self.total)

    @property
    def suggested_micro_batch(self) -> int | None:
        """The largest micro-batch that fits in `gpu` GB and divides `per_device`; None if no GPU is large enough."""
        if self.gpu is None:
            return None
        free = _USABLE * self.gpu - (self.total - self.activations)
        most = free / (self.activations / self.micro_batch)
        return max(size for size in range(1, self.per_device + 1) if self.per_device % size == 0 and size <= most)


@dataclass(frozen=True)
class EvaluationMemory:
    """Memory in GB (10^9 bytes) that ``test`` or ``predict`` needs on one GPU that holds the whole model."""

    weights: float
    """All weights."""
    recognition: float
    """Memory for recognizing `eval_batch_size` faces at a time."""
    explanation: float
    """Memory for explaining `explanation_batch_size` faces at a time, with `max_new_tokens` tokens each."""
    eval_batch_size: int
    """Number of faces whose expressions are recognized at a time."""
    explanation_batch_size: int
    """Number of faces explained at a time."""
    other: float
    """Memory of the framework, assumed to be 1.5 GB."""

    @property
    def total(self) -> float:
        """Total memory, which includes the larger of recognition and explanation."""
        return self.weights + max(self.recognition, self.explanation) + self.other

    @property
    def gpu(self) -> int | None:
        """Memory of the smallest common GPU that is large enough; None if no GPU is."""
        return _smallest_gpu(self.total)


@dataclass(frozen=True)
class Description:
    """Parts, optimizer steps and estimated memory of a configuration."""

    parts: list[PartSize]
    """Vision encoder, projector, language model and any action unit tokens; for a regressor, encoder and head."""
    image_tokens: int
    """Number of tokens per image."""
    sequence: int
    """Assumed number of tokens in a long conversation; for an action unit regressor, only the image tokens."""
    images: int | None
    """Number of training images; None if unknown."""
    images_source: str
    """Source of the number of training images."""
    conversations: int | None
    """Number of conversations per epoch; for an action unit regressor, number of faces. None if `images` is None."""
    steps: int | None
    """Optimizer steps of the whole run; None if `images` is None."""
    warmup: int | None
    """Warm-up steps; None if `images` is None."""
    memory: list[Memory]
    """Memory estimates by strategy; empty for an action unit regressor."""
    evaluation: EvaluationMemory | None
    """Memory estimate for an evaluation; None for an action unit regressor."""
    gpus: int
    """Number of GPUs in the estimates."""
    micro_batch: int
    """Number of conversations that one GPU processes at a time."""

    @property
    def trainable(self) -> int:
        """Number of trainable weights."""
        return sum(part.trainable for part in self.parts)


def describe_configuration(config: Namespace, images: int | None = None, gpus: int = 8) -> Description:
    """Compute the parts, steps and memory of a configuration.

    Args:
        config: The parsed settings of ``fit``: `model`, `data` and `trainer`.
        images: Number of training images; by default, the images are counted; if the data is not on this machine, the
            published number is used.
        gpus: Number of GPUs in the memory estimates.

    Returns:
        The description.

    Raises:
        InputError: If a setting is wrong.
    """
    if _class(config.model) == ActionUnitTask.__name__:
        return _describe_regressor(config, images, gpus)
    model, data = config.model.init_args, config.data.init_args
    network = (
        model.network
        if isinstance(model.network, NetworkSettings)
        else NetworkSettings.from_fields(model.network.as_dict())
    )
    settings = network.resolved()
    built = build_on_meta(settings)
    parts = part_sizes(built)
    count, source = (images, "given") if images else _images(config)
    conversations = steps = warmup = None
    if count is not None:
        rows = range(count)
        captions = data.get("conversations") == "captions" or _class(config.data) == "CaptionedImages"
        conversations = (
            count
            if captions
            else len(Mixture(dict.fromkeys(MIXED_KINDS, rows), mixture_shares(data.fer_share, data.get("mixture"))))
        )
        steps, warmup = _steps(config, conversations)
    dtype = getattr(torch, settings.base_dtype or "float32")
    tokens, micro_batch = built.config.image_tokens, data.micro_batch_size
    activations = activation_bytes(built, dtype, TEXT_TOKENS, model.gradient_checkpointing)
    head = built.language.get_output_embeddings().weight
    loss = chunk_bytes(micro_batch * TEXT_TOKENS, len(head), dtype)
    if head.requires_grad:
        loss += 2 * 4 * head.numel()  # its gradient, and a copy multiplied by the loss's scale
    memory = [
        estimate_memory(built, settings, strategy, gpus, micro_batch, activations + loss / micro_batch, data.batch_size)
        for strategy in ("ddp", "fsdp2", *(["ddp, 4-bit base"] if supports_4bit(settings) else []))
    ]
    return Description(
        parts,
        tokens,
        tokens + TEXT_TOKENS,
        count,
        source,
        conversations,
        steps,
        warmup,
        memory,
        _evaluation_memory(built, model, data.eval_batch_size),
        gpus,
        micro_batch,
    )


def _describe_regressor(config: Namespace, images: int | None, gpus: int) -> Description:
    """Describe the configuration of an action unit regressor; its memory is not estimated."""
    network, data = config.model.init_args.network, config.data.init_args
    if not isinstance(network, RegressorSettings):
        fields = _plain(network)
        values: dict[str, Any] = {**fields, "vision_lora": LoraSettings(**_plain(fields["vision_lora"]))}
        network = RegressorSettings(**values)
    built = build_regressor_on_meta(network)
    count, source = (images, "given") if images else _images(config)
    steps = warmup = None
    if count is not None:
        steps, warmup = _steps(config, count)
    tokens = built.config.image_tokens
    return Description(
        part_sizes(built), tokens, tokens, count, source, count, steps, warmup, [], None, gpus, data.micro_batch_size
    )


def part_sizes(model: ExpLLM | ActionUnitRegressor) -> list[PartSize]:
    """Count the weights and trainable weights of each part. FEALLM's projector is listed as its two modules."""
    sizes = []
    for name, (module, train, _) in model.parts().items():
        children = dict(module.named_children()) if isinstance(module, FEALLMProjector) else {}
        for child, part in ({f"{name}.{key}": one for key, one in children.items()} or {name: module}).items():
            weights = [(weight.numel(), weight.requires_grad) for weight in part.parameters()]
            sizes.append(
                PartSize(
                    child,
                    type(part).__name__,
                    train,
                    sum(count for count, _ in weights),
                    sum(count for count, trains in weights if trains),
                )
            )
    return sizes


def estimate_memory(
    model: ExpLLM,
    settings: NetworkSettings,
    strategy: str,
    gpus: int,
    micro_batch: int,
    activations: float,
    batch: int = 128,
) -> Memory:
    """Compute the memory of one GPU in training.

    Weights, gradients and moments are exact.

    Args:
        model: The model, on the meta device.
        settings: The model's resolved settings.
        strategy: ``ddp``, ``fsdp2`` or ``ddp, 4-bit base``.
        gpus: Number of GPUs. They share the global batch and, under ``fsdp2``, the weights.
        micro_batch: Conversations in a micro-batch.
        activations: Bytes of one conversation's activations, from `activation_bytes`, plus its share of `chunk_bytes`.
        batch: Conversations in a global batch.

    Returns:
        The memory.
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
        # NF4 with double quantization: 4 bits and 0.127 bits of constants per weight (Dettmers et al. 2023).
        frozen -= linear * half - linear * 4.127 / 8
    state: float = trained * (16 if strategy == "fsdp2" else 20)  # DDP keeps a copy of the gradients in its buckets
    if strategy == "fsdp2":
        # While a block runs, the weights of the next one are gathered.
        blocks = (*transformer_blocks(model.vision), *transformer_blocks(model.language))
        largest = max((sum(w.numel() for w in block.parameters()) for block in blocks), default=0) * half
        frozen, state = frozen / gpus + 2 * largest, state / gpus
    per_device = max(batch // gpus, micro_batch)
    return Memory(strategy, frozen / 1e9, state / 1e9, micro_batch * activations / 1e9, 1.5, micro_batch, per_device)


def _evaluation_memory(built: ExpLLM, model: Namespace, eval_batch_size: int) -> EvaluationMemory:
    """Compute the memory of an evaluation. The model is on the meta device; its weights have their final data types."""
    face = evaluation_bytes(built, PROMPT_TOKENS, model.max_new_tokens)
    weights = sum(weight.nbytes for weight in built.parameters())
    sizes = (eval_batch_size, model.explanation_batch_size)
    memory = (sizes[0] * face.recognition / 1e9, sizes[1] * face.explanation / 1e9)
    return EvaluationMemory(weights / 1e9, *memory, *sizes, other=1.5)


def _smallest_gpu(gigabytes: float) -> int | None:
    return next((size for size in GPU_SIZES if gigabytes <= _USABLE * size), None)


def _steps(config: Namespace, samples: int) -> tuple[int, int]:
    """Return the numbers of optimizer steps and of warm-up steps in a run, given the samples per epoch."""
    steps = samples // config.data.init_args.batch_size * (config.trainer.max_epochs or 1000)
    if config.trainer.max_steps > 0:
        steps = min(steps, config.trainer.max_steps)
    return steps, warmup_steps(OptimizationSettings(**_plain(config.model.init_args.optimization)), steps)


def _images(config: Namespace) -> tuple[int | None, str]:
    """Return the number of training images, either counted or published (None if unknown), and its source."""
    data, kind = config.data.init_args, _class(config.data)
    try:
        if kind in ("ManifestFaces", "ManifestActionUnits") and Path(str(data.manifest)).is_file():
            frame = Manifest.read(data.manifest, root=data.root).frame
            held_out = 0.0 if (frame["split"] == "val").any() else data.val_fraction
            return ceil((frame["split"] == "train").sum() * (1 - held_out)), str(data.manifest)
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
        held_out = data.get("val_fraction") or 0.0
        source = f"as published, {held_out:.0%} held out" if held_out else "as published"
        return ceil(PUBLISHED_IMAGES[name] * (1 - held_out)), f"{source}; the data is not on this machine"
    return None, "the data is not on this machine"


def _class(settings: Namespace) -> str:
    return str(settings.class_path).rpartition(".")[2]


def _plain(settings: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(settings).items() if key != "class_path"}
