"""Base weights and preprocessing of pretrained parts, from the Hugging Face hub or a local folder."""

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.models.auto.image_processing_auto import get_image_processor_config

from explllm.core.errors import CheckpointError, ConfigError
from explllm.faces.pixels import ImagePreset
from explllm.models.vision import vision_shape, vision_tower_config

HUB_OPTIONS = ("token", "cache_dir", "local_files_only")
"""Download options of the public functions here, which pass them on to transformers or huggingface_hub."""

# For a repository without safetensors, transformers requests a conversion from a service on the hub; disable this.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def base_config(name: str, revision: str | None, **options: Any) -> Any:
    """Read the configuration of a base model, given its Hugging Face name or folder. `options` are `HUB_OPTIONS`.

    Raises:
        CheckpointError: If the configuration cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    except (HTTPError, OSError, ValueError) as error:
        raise _loading_error(name, error) from error


def base_revision(name: str, revision: str | None, **options: Any) -> str | None:
    """Return the commit of a base model whose configuration has already been read; None for a folder.

    `revision` is the revision on the hub, such as a branch; it is returned unchanged if the configuration is not in the
    cache. `options` are `HUB_OPTIONS`.
    """
    if Path(name).is_dir():
        return None
    path = try_to_load_from_cache(name, "config.json", options.get("cache_dir"), revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def image_preset(name: str, revision: str | None, **options: Any) -> ImagePreset:
    """Return the preprocessing of a pretrained encoder, from its ``preprocessor_config.json``.

    If an encoder's preprocessing resizes to a larger image and crops its center, the preset uses the image's largest
    central square instead, because the smaller crop would cut off parts of a face that fills its image.

    Raises:
        ConfigError: If the encoder has no such file, or a preset cannot express the image size or scale in the file.
        CheckpointError: If the file cannot be read.
    """
    remedy = "Set image_preset, such as dinov2, clip or siglip, and image_size."
    try:
        values = get_image_processor_config(name, revision=revision, **options)
    except (HTTPError, OSError, ValueError) as error:
        raise _loading_error(name, error) from error
    if not values:
        raise ConfigError("the encoder has no preprocessor_config.json", where=name, remedy=remedy)
    size = values.get("crop_size") if values.get("do_center_crop") else None
    size = size or values.get("size")
    square: Literal["crop", "stretch"] = "stretch"
    if isinstance(size, dict):
        square = "crop" if values.get("do_center_crop") or "shortest_edge" in size else "stretch"
        size = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    elif values.get("do_center_crop"):
        square = "crop"
    resample = Image.Resampling(values.get("resample", 3)).name.lower()
    mean, std = values.get("image_mean", (0.5,) * 3), values.get("image_std", (0.5,) * 3)
    if not values.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    usual = 1 / 255
    if not isinstance(size, int) or abs(values.get("rescale_factor", usual) - usual) > 1e-6:
        raise ConfigError("unusual image size or scale in preprocessor_config.json", where=name, remedy=remedy)
    return ImagePreset(size, square, resample=cast(Any, resample), mean=tuple(mean), std=tuple(std))


def load_vision(name: str, revision: str | None, dtype: torch.dtype | None, **options: Any) -> PreTrainedModel:
    """Load a pretrained vision encoder. For CLIP and SigLIP, load the vision tower only.

    Args:
        name: Hugging Face name or folder.
        revision: The revision on the hub.
        dtype: Data type of the weights; by default, the data type of their files.
        **options: `HUB_OPTIONS` and ``attn_implementation``.

    Raises:
        CheckpointError: If the encoder cannot be loaded.
    """
    hub = {key: options[key] for key in HUB_OPTIONS if key in options}
    config = vision_tower_config(base_config(name, revision, **hub))
    encoder, missing = _load(AutoModel, name, revision, dtype, config=config, **options)
    # A checkpoint may lack weights that the features do not depend on, such as a pooling head.
    if missing and (missing := missing - vision_shape(config, config.image_size).unused):
        raise _missing_weights(name, missing)
    return encoder


def load_language(
    name: str, revision: str | None, dtype: torch.dtype | None, load_in_4bit: bool = False, **options: Any
) -> PreTrainedModel:
    """Load a pretrained causal language model.

    Args:
        name: Hugging Face name or folder.
        revision: The revision on the hub.
        dtype: Data type of the weights; by default, the data type of their files.
        load_in_4bit: Quantize the linear layers to 4-bit (bitsandbytes: NF4 with double quantization, computation in
            bfloat16), and use bfloat16 for the other weights, whatever `dtype` is. A 7B model can then be trained with
            LoRA on one 24 GB GPU.
        **options: `HUB_OPTIONS`, ``attn_implementation`` and ``device_map``.

    Raises:
        CheckpointError: If the language model cannot be loaded.
        ConfigError: If `load_in_4bit` is set and bitsandbytes is not installed.
    """
    if load_in_4bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError("4-bit weights need bitsandbytes", remedy='Install it: pip install "explllm[gpu]".')
        dtype = torch.bfloat16
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    language, missing = _load(AutoModelForCausalLM, name, revision, dtype, **options)
    if missing:
        raise _missing_weights(name, missing)
    return language


def _load(
    auto: Any, name: str, revision: str | None, dtype: torch.dtype | None, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """Return a model and the names of the weights that its files lack."""
    try:
        # transformers loads safetensors if the repository has them, otherwise .bin files; `weights_only` prevents
        # the loading of pickled objects from the latter. The type "auto" is the data type of the files.
        model, info = auto.from_pretrained(
            name,
            revision=revision,
            dtype=dtype or "auto",
            weights_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the base model's files are damaged, or contain objects other than tensors; they were not loaded",
            where=name,
            remedy="Use files that contain only tensors, from a source that you trust.",
        ) from error
    except (HTTPError, OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise _loading_error(name, error) from error
    return model, set(info["missing_keys"])


def _missing_weights(name: str, missing: set[str]) -> CheckpointError:
    return CheckpointError(
        f"the base model's files lack {len(missing)} weights, first {min(missing)}",
        where=name,
        remedy="Copy or download the files again.",
    )


def _loading_error(name: str, error: Exception) -> CheckpointError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CheckpointError(
        f"the base model cannot be loaded: {reason}",
        where=name,
        remedy="Pass a folder with a model's files, or the name of a model on the Hugging Face hub. "
        "If it is private or gated, set HF_TOKEN.",
    )
