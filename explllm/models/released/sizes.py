"""Sizes of a released checkpoint, and the names and shapes of its weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from explllm.core.errors import CheckpointError

# DINOv2's encoders: width, blocks, heads (Oquab et al. 2023, Table 17).
_DINOV2 = {"vits14": (384, 12, 6), "vitb14": (768, 12, 12), "vitl14": (1024, 24, 16)}
_SMALL_HEAD_WIDTH = 16

_LANGUAGE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "crop_size",
    "num_patches",
    "im_patch_token",
)


@dataclass(frozen=True)
class ReleasedSizes:
    """Sizes of a released checkpoint.

    The language model's sizes come from the configuration; the encoder's sizes, which the configuration lacks, come
    from the weights.
    """

    hidden: int
    """Width H of the language model."""
    intermediate: int
    """Width I of the language model's feed-forward layers."""
    layers: int
    """Number of the language model's layers."""
    heads: int
    """Number of the language model's attention heads."""
    key_value_heads: int
    """Number of the language model's key and value heads."""
    vocabulary: int
    """Number of tokens V in the language model's embeddings."""
    vision_width: int
    """Width C of the encoder."""
    vision_depth: int
    """Number of the encoder's blocks."""
    vision_heads: int
    """Number of the encoder's attention heads. No file contains this number; see `released_sizes`."""
    vision_heads_assumed: bool
    """Whether `vision_heads` is assumed: it was not given, and the encoder's width is not one of DINOv2's."""
    vision_intermediate: int
    """Width M of the encoder's feed-forward layers."""
    patch: int
    """Width and height of a patch, in pixels."""
    positions: int
    """Number of patch positions in the encoder's position embedding, without the class token."""
    grid: int
    """Number of patches along one side of an image."""
    language_lora: int | None
    """Rank of LoRA in the language model; None without LoRA."""
    vision_lora: int | None
    """Rank of LoRA in the encoder; None without LoRA."""


def released_sizes(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], vision_heads: int | None, where: Path
) -> ReleasedSizes:
    """Return the sizes of the released checkpoint in the folder `where`.

    No released file contains the encoder's number of heads. Unless `vision_heads` is given, it is inferred from the
    width: DINOv2's number of heads if one of its encoders has this width, otherwise one head for every 16 features.

    Raises:
        CheckpointError: If a field or weight that determines a size is missing or invalid, or sizes do not match.
    """
    for name in _LANGUAGE_FIELDS:
        if not isinstance(config.get(name), int) or config[name] <= 0:
            raise CheckpointError(
                f"config.json has {name}: {config.get(name)!r}, not a positive integer",
                where=where,
                remedy="Copy config.json again from the source of the weights.",
            )
    width = _size(weights, "vision_model.cls_token", 3, 2, where)
    patch = _size(weights, "vision_model.patch_embed.proj.weight", 4, 2, where)
    positions = _size(weights, "vision_model.pos_embed", 3, 1, where) - 1
    intermediate = _size(weights, "vision_model.blocks.0.mlp.fc1.weight", 2, 0, where)
    blocks = {int(name.split(".")[2]) for name in weights if name.startswith("vision_model.blocks.")}
    depth = max(blocks) + 1
    known = {size[0]: size for size in _DINOV2.values()}.get(width)
    if known is not None:
        depth = max(depth, known[1])
    grid = config["crop_size"] // patch
    if config["crop_size"] % patch or grid**2 != config["num_patches"]:
        raise CheckpointError(
            f"images of {config['crop_size']} pixels in patches of {patch} do not give {config['num_patches']} patches",
            where=where,
            remedy="Copy config.json again from the source of the weights.",
        )
    if math.isqrt(positions) ** 2 != positions:
        raise CheckpointError(
            f"vision_model.pos_embed holds {positions} positions, which is not a square",
            where=where,
            remedy="Use weights of a model trained on square images.",
        )
    if intermediate % width:
        raise CheckpointError(
            f"vision_model.blocks.0.mlp.fc1.weight is {intermediate} wide, not a multiple of the width {width}",
            where=where,
            remedy="Use weights of a DINOv2 encoder.",
        )
    heads = vision_heads or (known[2] if known else max(width // _SMALL_HEAD_WIDTH, 1))
    if width % heads:
        raise CheckpointError(
            f"{heads} heads do not divide the encoder's width of {width}",
            where=where,
            remedy="Set the number of heads with --vision_heads.",
        )
    return ReleasedSizes(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        vision_width=width,
        vision_depth=depth,
        vision_heads=heads,
        vision_heads_assumed=vision_heads is None and known is None,
        vision_intermediate=intermediate,
        patch=patch,
        positions=positions,
        grid=grid,
        language_lora=config.get("lora_llm_r", 8) if config.get("lora_llm_enable") else None,
        vision_lora=config.get("lora_vision_r", 8) if config.get("lora_vision_enable") else None,
    )


def released_shapes(sizes: ReleasedSizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights of a released checkpoint by their released names."""
    hidden, inner = sizes.hidden, sizes.intermediate
    keys = hidden // sizes.heads * sizes.key_value_heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (sizes.vocabulary, hidden),
    }
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
        }
        if rank := sizes.language_lora:
            for name, width in (("q_proj", hidden), ("v_proj", keys)):
                shapes[f"{prefix}.self_attn.{name}.lora_A"] = (rank, hidden)
                shapes[f"{prefix}.self_attn.{name}.lora_B"] = (width, rank)
    width, inner = sizes.vision_width, sizes.vision_intermediate
    shapes |= {
        "vision_model.cls_token": (1, 1, width),
        "vision_model.pos_embed": (1, sizes.positions + 1, width),
        "vision_model.mask_token": (1, width),
        "vision_model.patch_embed.proj.weight": (width, 3, sizes.patch, sizes.patch),
        "vision_model.patch_embed.proj.bias": (width,),
        "vision_model.norm.weight": (width,),
        "vision_model.norm.bias": (width,),
    }
    for block in range(sizes.vision_depth):
        prefix = f"vision_model.blocks.{block}"
        shapes |= {
            f"{prefix}.norm1.weight": (width,),
            f"{prefix}.norm1.bias": (width,),
            f"{prefix}.attn.qkv.weight": (3 * width, width),
            f"{prefix}.attn.qkv.bias": (3 * width,),
            f"{prefix}.attn.proj.weight": (width, width),
            f"{prefix}.attn.proj.bias": (width,),
            f"{prefix}.ls1.gamma": (width,),
            f"{prefix}.norm2.weight": (width,),
            f"{prefix}.norm2.bias": (width,),
            f"{prefix}.mlp.fc1.weight": (inner, width),
            f"{prefix}.mlp.fc1.bias": (inner,),
            f"{prefix}.mlp.fc2.weight": (width, inner),
            f"{prefix}.mlp.fc2.bias": (width,),
            f"{prefix}.ls2.gamma": (width,),
        }
        if rank := sizes.vision_lora:
            for name in "qv":
                shapes[f"{prefix}.attn.lora_A_{name}"] = (rank, width)
                shapes[f"{prefix}.attn.lora_B_{name}"] = (width, rank)
    return shapes | {
        "mm_projector.0.weight": (hidden, width),
        "mm_projector.0.bias": (hidden,),
        "mm_projector.2.weight": (hidden, hidden),
        "mm_projector.2.bias": (hidden,),
    }


def check_released(weights: Mapping[str, torch.Tensor], sizes: ReleasedSizes, where: Path) -> dict[str, torch.Tensor]:
    """Check that the weights from the folder `where` are exactly those of a released checkpoint.

    Returns:
        The weights without the rotary embedding's constants, which the language model computes.

    Raises:
        CheckpointError: If a weight is unexpected, missing, or of the wrong shape or type. The message names the first.
    """
    shapes = released_shapes(sizes)
    # transformers before 4.32 saved these constants.
    checked = {name: value for name, value in weights.items() if not name.endswith(".rotary_emb.inv_freq")}
    problems = (
        ("missing", [name for name in shapes if name not in checked]),
        ("unexpected", [name for name in checked if name not in shapes]),
        ("of the wrong shape", [n for n, shape in shapes.items() if n in checked and tuple(checked[n].shape) != shape]),
        ("not floating point", [name for name, value in checked.items() if not value.is_floating_point()]),
    )
    for problem, names in problems:
        if not names:
            continue
        name, remedy = names[0], "Use an unmodified folder that the released code wrote."
        detail = f" {tuple(checked[name].shape)}, not {shapes[name]}" if problem == "of the wrong shape" else ""
        if ".lora_" in name:
            ranks = f"lora_llm_r {sizes.language_lora}, lora_vision_r {sizes.vision_lora}"
            remedy = f"config.json has {ranks} (None: without LoRA). Copy the config.json of these weights."
        raise CheckpointError(
            f"the weights do not fit config.json: {len(names)} {problem}, first {name}{detail}",
            where=where,
            remedy=remedy,
        )
    return checked


def _size(weights: Mapping[str, torch.Tensor], name: str, dimensions: int, axis: int, where: Path) -> int:
    if name not in weights or weights[name].ndim != dimensions:
        problem = f"of the wrong shape {tuple(weights[name].shape)}" if name in weights else "missing"
        raise CheckpointError(
            f"the weight {name} is {problem}",
            where=where,
            remedy="Use an unmodified folder that the released code wrote.",
        )
    return weights[name].shape[axis]
