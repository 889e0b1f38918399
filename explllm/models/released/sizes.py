"""What a released checkpoint must hold: its sizes, and the shape of every weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from explllm.core.errors import CheckpointError

# DINOv2's own encoders: width, blocks, heads (Oquab et al. 2023, Table 17).
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

    Those of the language model are from its configuration, the encoder's from its weights: the configuration has none.
    """

    hidden: int
    """Width H of the language model."""
    intermediate: int
    """Width I inside its feed-forward layers."""
    layers: int
    """Its layers."""
    heads: int
    """Its attention heads."""
    key_value_heads: int
    """Its heads of keys and values."""
    vocabulary: int
    """Tokens V of its embeddings."""
    vision_width: int
    """Width C of the encoder."""
    vision_depth: int
    """Its blocks."""
    vision_heads: int
    """Its attention heads; no file holds them, see `released_sizes`."""
    vision_heads_assumed: bool
    """Whether they are a guess, the encoder being none of DINOv2's own."""
    vision_intermediate: int
    """Width M inside its feed-forward layers."""
    patch: int
    """Width and height of a patch, in pixels."""
    positions: int
    """Positions in the embedding that it was trained with, the class token's left out."""
    grid: int
    """Patches along one side of an image."""
    language_lora: int | None
    """Rank of LoRA in the language model; None without it."""
    vision_lora: int | None
    """Rank of LoRA in the encoder; None without it."""


def released_sizes(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], vision_heads: int | None, where: Path
) -> ReleasedSizes:
    """Find the sizes of a released checkpoint.

    The number of the encoder's heads stands neither in the configuration nor in the weights. It is known for DINOv2's
    own encoders by their width; for any other width, heads of 16 features are assumed.

    Args:
        config: The released configuration.
        weights: The released weights.
        vision_heads: The encoder's heads, where the caller knows them.
        where: The folder, for errors.

    Returns:
        The sizes.

    Raises:
        CheckpointError: If a field or a weight that tells a size is missing or makes no sense.
    """
    for name in _LANGUAGE_FIELDS:
        if not isinstance(config.get(name), int) or config[name] <= 0:
            raise CheckpointError(
                f"config.json has {name}: {config.get(name)!r}, not a positive whole number",
                where=where,
                remedy="Copy config.json again from where the weights are from.",
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
            remedy="Copy config.json again from where the weights are from.",
        )
    if math.isqrt(positions) ** 2 != positions:
        raise CheckpointError(
            f"vision_model.pos_embed holds {positions} positions, which make no square",
            where=where,
            remedy="Use weights of a model that was trained on square images.",
        )
    if intermediate % width:
        raise CheckpointError(
            f"vision_model.blocks.0.mlp.fc1.weight is {intermediate} wide, no multiple of the encoder's {width}",
            where=where,
            remedy="Use weights of a DINOv2 encoder.",
        )
    heads = vision_heads or (known[2] if known else max(width // _SMALL_HEAD_WIDTH, 1))
    if width % heads:
        raise CheckpointError(
            f"{heads} heads do not divide the encoder's width of {width}",
            where=where,
            remedy="Give its heads by --vision-heads.",
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
    """Return the shape of every weight that a released checkpoint of these sizes holds, by its released name."""
    hidden, inner = sizes.hidden, sizes.intermediate
    keys = hidden // sizes.heads * sizes.key_value_heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (sizes.vocabulary, hidden),
    }
    for layer in range(sizes.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.k_proj.weight": (keys, hidden),
            f"{at}.self_attn.v_proj.weight": (keys, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.mlp.gate_proj.weight": (inner, hidden),
            f"{at}.mlp.up_proj.weight": (inner, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, inner),
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
        }
        if rank := sizes.language_lora:
            for name, width in (("q_proj", hidden), ("v_proj", keys)):
                shapes[f"{at}.self_attn.{name}.lora_A"] = (rank, hidden)
                shapes[f"{at}.self_attn.{name}.lora_B"] = (width, rank)
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
        at = f"vision_model.blocks.{block}"
        shapes |= {
            f"{at}.norm1.weight": (width,),
            f"{at}.norm1.bias": (width,),
            f"{at}.attn.qkv.weight": (3 * width, width),
            f"{at}.attn.qkv.bias": (3 * width,),
            f"{at}.attn.proj.weight": (width, width),
            f"{at}.attn.proj.bias": (width,),
            f"{at}.ls1.gamma": (width,),
            f"{at}.norm2.weight": (width,),
            f"{at}.norm2.bias": (width,),
            f"{at}.mlp.fc1.weight": (inner, width),
            f"{at}.mlp.fc1.bias": (inner,),
            f"{at}.mlp.fc2.weight": (width, inner),
            f"{at}.mlp.fc2.bias": (width,),
            f"{at}.ls2.gamma": (width,),
        }
        if rank := sizes.vision_lora:
            for name in "qv":
                shapes[f"{at}.attn.lora_A_{name}"] = (rank, width)
                shapes[f"{at}.attn.lora_B_{name}"] = (width, rank)
    return shapes | {
        "mm_projector.0.weight": (hidden, width),
        "mm_projector.0.bias": (hidden,),
        "mm_projector.2.weight": (hidden, hidden),
        "mm_projector.2.bias": (hidden,),
    }


def check_released(weights: Mapping[str, torch.Tensor], sizes: ReleasedSizes, where: Path) -> dict[str, torch.Tensor]:
    """Account for every weight.

    Args:
        weights: The released weights.
        sizes: The sizes that they shall have.
        where: The folder, for errors.

    Returns:
        The weights without the rotary embedding's constants, which the language model computes itself.

    Raises:
        CheckpointError: If a weight is unexpected, missing, of the wrong shape or no number; it names the first.
    """
    shapes = released_shapes(sizes)
    # transformers before 4.32 saved these constants.
    kept = {name: value for name, value in weights.items() if not name.endswith(".rotary_emb.inv_freq")}
    faults = (
        ("missing", [name for name in shapes if name not in kept]),
        ("unexpected", [name for name in kept if name not in shapes]),
        ("of the wrong shape", [n for n, shape in shapes.items() if n in kept and tuple(kept[n].shape) != shape]),
        ("no floating-point numbers", [name for name, value in kept.items() if not value.is_floating_point()]),
    )
    for fault, names in faults:
        if not names:
            continue
        name, remedy = names[0], "Convert a folder as the released code wrote it."
        detail = f" {tuple(kept[name].shape)}, not {shapes[name]}" if fault == "of the wrong shape" else ""
        if ".lora_" in name:
            ranks = f"lora_llm_r {sizes.language_lora}, lora_vision_r {sizes.vision_lora}"
            remedy = f"config.json has {ranks} (None: without LoRA): copy the one that belongs to the weights."
        raise CheckpointError(
            f"the weights do not fit config.json: {len(names)} {fault}, first {name}{detail}",
            where=where,
            remedy=remedy,
        )
    return kept


def _size(weights: Mapping[str, torch.Tensor], name: str, dimensions: int, axis: int, where: Path) -> int:
    if name not in weights or weights[name].ndim != dimensions:
        found = f"of the wrong shape {tuple(weights[name].shape)}" if name in weights else "missing"
        raise CheckpointError(
            f"the weight {name} is {found}", where=where, remedy="Convert a folder as the released code wrote it."
        )
    return weights[name].shape[axis]
