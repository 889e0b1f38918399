"""Convert the released format to a folder that `ExpLLM.from_pretrained` can open."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional
from transformers import Dinov2Config, LlamaConfig, LlamaTokenizer, PreTrainedTokenizerBase

from explllm.conversation.messages import IMAGE_TOKEN
from explllm.conversation.tokenizer import prepare_tokenizer
from explllm.core.errors import CheckpointError, MissingPathError
from explllm.core.expressions import Expression
from explllm.faces.pixels import ImagePreset
from explllm.models import storage
from explllm.models.configuration import ExpLLMConfig
from explllm.models.explllm import ExpLLM
from explllm.models.lora import LoraSettings
from explllm.models.parts import remap_keys
from explllm.models.released.checkpoint import read_released_config, read_released_weights
from explllm.models.released.sizes import ReleasedSizes, check_released, released_sizes

# Fields of the released configuration that belong to the language model.
_LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def convert_released(
    folder: str | PathLike[str], out: str | PathLike[str], merge: bool = False, vision_heads: int | None = None
) -> ReleasedSizes:
    """Convert a folder in the authors' released format.

    Args:
        folder: The released folder: ``pytorch_model.bin`` or its shards, ``config.json`` and the tokenizer.
        out: The folder to write, atomically.
        merge: Merge LoRA into the base weights; by default it remains separate.
        vision_heads: Number of the encoder's attention heads, which no released file contains; by default, inferred
            from the encoder's width (see `released_sizes`).

    Returns:
        The sizes of the checkpoint.

    Raises:
        MissingPathError: If a file is missing.
        CheckpointError: If a file is damaged or belongs to another kind of model, if a weight is unexpected, missing or
            of the wrong shape, or if `out` exists and is not an empty folder.
    """
    source, target = Path(folder), Path(out)
    if not source.is_dir():
        raise MissingPathError("the folder does not exist", where=source, remedy="Check the path.")
    storage.check_target(target, replace=False)
    fields = read_released_config(source)
    tokenizer = _tokenizer(source, fields)
    weights = read_released_weights(source)
    sizes = released_sizes(fields, weights, vision_heads, source)
    weights = check_released(weights, sizes, source)
    config = released_model_config(fields, sizes)
    with torch.device("meta"):
        model = ExpLLM(config, tokenizer)
    model.load_state_dict(remap_keys(translate(weights, sizes), model.state_dict()), assign=True)
    model.freeze()
    storage.save(model, target, include_base=True, merge=merge, replace=False)
    return sizes


def check_converted(folder: Path) -> str:
    """Open a converted model, recognize a gray image, and describe the result in one line.

    If the memory is less than 1.5 times the size of the weights, only the configuration is read, to avoid swapping.

    Raises:
        CheckpointError: If the model cannot be opened, or its probabilities are NaN or do not sum to 1.
    """
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if memory < 1.5 * size:
        storage.read_config(folder)
        return f"configuration only: {memory / 1e9:.0f} GB of memory cannot hold {size / 1e9:.0f} GB of weights"
    [recognition] = ExpLLM.from_pretrained(folder).recognize(Image.new("RGB", (224, 224), (128, 128, 128)))
    total = sum(recognition.probabilities.values())
    if not math.isclose(total, 1, rel_tol=1e-3):
        raise CheckpointError(
            f"the probabilities of a gray image sum to {total}", where=folder, remedy="Delete the folder and try again."
        )
    return f"opened, and recognized a gray image as one of {len(recognition.probabilities)} classes"


def released_model_config(fields: Mapping[str, Any], sizes: ReleasedSizes) -> ExpLLMConfig:
    """Build the `ExpLLMConfig` of a released model from the fields of its ``config.json`` and its sizes.

    The configuration has the chat format, the preprocessing and the eight labels of the released test code.
    """
    vision = Dinov2Config(
        hidden_size=sizes.vision_width,
        num_hidden_layers=sizes.vision_depth,
        num_attention_heads=sizes.vision_heads,
        mlp_ratio=sizes.vision_intermediate // sizes.vision_width,
        image_size=fields["crop_size"],
        patch_size=sizes.patch,
        layer_norm_eps=1e-6,
    )
    text = LlamaConfig(**{name: fields[name] for name in _LLAMA_FIELDS if fields.get(name) is not None})

    def lora(part: str, rank: int | None) -> dict[str, Any] | None:
        if rank is None:
            return None
        alpha, dropout = fields.get(f"lora_{part}_alpha", 16), fields.get(f"lora_{part}_dropout", 0.05)
        return asdict(LoraSettings(r=rank, alpha=alpha, dropout=dropout))

    return ExpLLMConfig(
        vision_config=vision,
        text_config=text,
        vision_train="frozen" if sizes.vision_lora is None else "lora",
        text_train="frozen" if sizes.language_lora is None else "lora",
        vision_lora=lora("vision", sizes.vision_lora),
        text_lora=lora("llm", sizes.language_lora),
        image=ImagePreset.named("released", fields["crop_size"]).to_dict(),
        image_tokens=sizes.grid**2,
        vision_width=sizes.vision_width,
        image_token_id=fields["im_patch_token"],
        chat_format="expllm",
        labels=[str(expression) for expression in Expression],
    )


_LANGUAGE_LORA = re.compile(r"model\.(layers\.\d+\.self_attn\.[qv]_proj)\.lora_([AB])")
_VISION_BLOCK = re.compile(r"vision_model\.blocks\.(\d+)\.(.+)")
_VISION_NAMES = {
    "vision_model.cls_token": "vision.embeddings.cls_token",
    "vision_model.mask_token": "vision.embeddings.mask_token",
    "vision_model.patch_embed.proj.weight": "vision.embeddings.patch_embeddings.projection.weight",
    "vision_model.patch_embed.proj.bias": "vision.embeddings.patch_embeddings.projection.bias",
    "vision_model.norm.weight": "vision.layernorm.weight",
    "vision_model.norm.bias": "vision.layernorm.bias",
}
_BLOCK_NAMES = {
    "attn.proj.weight": "attention.o_proj.weight",
    "attn.proj.bias": "attention.o_proj.bias",
    "attn.lora_A_q": "attention.q_proj.lora_A.default.weight",
    "attn.lora_B_q": "attention.q_proj.lora_B.default.weight",
    "attn.lora_A_v": "attention.v_proj.lora_A.default.weight",
    "attn.lora_B_v": "attention.v_proj.lora_B.default.weight",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def translate(weights: Mapping[str, torch.Tensor], sizes: ReleasedSizes) -> dict[str, torch.Tensor]:
    """Convert the weights returned by `check_released` to a state dictionary of `ExpLLM`.

    Each block's fused query, key and value weights are split, and the position embedding is interpolated to the model's
    grid. Other weights are only renamed.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if name == "vision_model.pos_embed":
            state["vision.embeddings.position_embeddings"] = interpolate_positions(value, sizes.grid)
        elif name in _VISION_NAMES:
            state[_VISION_NAMES[name]] = value
        elif block := _VISION_BLOCK.fullmatch(name):
            state |= _block_weight(f"vision.encoder.layer.{block[1]}", block[2], value, sizes.vision_lora is not None)
        elif name.startswith("mm_projector."):
            state[name.replace("mm_projector.", "projector.")] = value
        elif factor := _LANGUAGE_LORA.fullmatch(name):
            state[f"language.model.{factor[1]}.lora_{factor[2]}.default.weight"] = value
        else:
            adapted = sizes.language_lora is not None and name.endswith(("q_proj.weight", "v_proj.weight"))
            state["language." + (name.replace(".weight", ".base_layer.weight") if adapted else name)] = value
    return state


def _block_weight(layer: str, name: str, value: torch.Tensor, lora: bool) -> dict[str, torch.Tensor]:
    if not name.startswith("attn.qkv."):
        return {f"{layer}.{_BLOCK_NAMES.get(name, name)}": value}
    leaf = name.removeprefix("attn.qkv.")
    base = ".base_layer" if lora else ""
    query, key, value = value.chunk(3)
    return {
        f"{layer}.attention.q_proj{base}.{leaf}": query,
        f"{layer}.attention.k_proj.{leaf}": key,
        f"{layer}.attention.v_proj{base}.{leaf}": value,
    }


def interpolate_positions(embedding: torch.Tensor, grid: int) -> torch.Tensor:
    """Interpolate a position embedding to another grid exactly as the released code does in every forward pass.

    The released code uses DINOv2's method: bicubic without antialiasing, with a scale factor computed from the size
    plus 0.1 ("to avoid floating point error"). The result differs from interpolation to a target size.

    Args:
        embedding: (1, 1 + N, C) for the class token and N patches.
        grid: Number of patches along one side of the image.

    Returns:
        (1, 1 + grid ** 2, C), float32.
    """
    embedding = embedding.float()
    positions, width = embedding.shape[1] - 1, embedding.shape[2]
    if positions == grid**2:
        return embedding
    side = math.isqrt(positions)
    factor = (grid + 0.1) / math.sqrt(positions)
    patches = embedding[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    patches = functional.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([embedding[:, :1], patches.permute(0, 2, 3, 1).reshape(1, grid**2, width)], dim=1)


def _tokenizer(folder: Path, fields: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        raise MissingPathError(
            "the folder has no tokenizer (tokenizer.model or tokenizer.json)",
            where=folder,
            remedy="Copy it from the source of the weights.",
        )
    try:
        tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=False)
    except Exception as error:  # the readers of three file formats raise many types of errors
        raise CheckpointError(
            f"the tokenizer cannot be read: {str(error).splitlines()[0]}", where=folder, remedy="Copy it again."
        ) from error
    token_id = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if token_id != fields.get("im_patch_token"):
        actual = f"lacks the token {IMAGE_TOKEN}" if token_id is None else f"has {IMAGE_TOKEN} as {token_id}"
        raise CheckpointError(
            f"the tokenizer {actual}; config.json has im_patch_token: {fields.get('im_patch_token')}",
            where=folder,
            remedy="Copy the tokenizer's files again, including added_tokens.json.",
        )
    return prepare_tokenizer(tokenizer, "expllm")
