"""A model's folder: configuration, weights as safetensors, and tokenizer with its chat template.

The weights of pretrained base models are copied only on request; the configuration contains their names and revisions.
"""

from collections.abc import Container, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel

from explllm.conversation.messages import IMAGE_TOKEN
from explllm.core.errors import CheckpointError, ConfigError, InputError, MissingPathError
from explllm.core.files import atomic_write_folder
from explllm.models.configuration import ExpLLMConfig, read_config, unusable_config
from explllm.models.drafts import Drafts
from explllm.models.lora import is_lora, plain_state_dict, reset_magnitudes
from explllm.models.parts import remap_keys
from explllm.models.pretrained import load_language, load_vision

if TYPE_CHECKING:
    from explllm.models.explllm import ExpLLM

WEIGHTS = "model.safetensors"
DRAFTS = "drafts.safetensors"
"""N-grams of the training texts; optional."""
TRAINING_ONLY = ("action_unit_head.", "expression_head.")
"""Prefixes of weights that only training uses: checkpoints contain them, but model folders do not."""


def save(
    model: "ExpLLM",
    folder: str | PathLike[str],
    include_base: bool = False,
    merge: bool = False,
    replace: bool = True,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model's folder atomically.

    Args:
        model: The model.
        folder: The folder to write.
        include_base: Also copy the frozen base weights, into the subfolders ``vision`` and ``language``, which
            transformers can open on their own. The folder is then self-contained.
        merge: Copy the encoder and the language model to these subfolders, with LoRA merged. Merged layers are saved in
            float32; loading them in another type rounds them.
        replace: Replace an existing model folder.
        weights: The weights to save instead of the model's own: from a checkpoint, or gathered from several devices.

    Raises:
        CheckpointError: If the path exists and may not be replaced, or the base weights to copy are quantized to 4-bit.
    """
    target = Path(folder)
    check_target(target, replace)
    config = ExpLLMConfig.from_dict(model.config.to_dict())
    # The folder will be replaced, so base weights in it must be copied.
    bases = [Path(base).resolve() for base in (config.vision_base, config.text_base) if base]
    include_base = include_base or any(base.is_relative_to(target.resolve()) for base in bases)
    copied: dict[str, PreTrainedModel] = {}
    if merge or (include_base and config.vision_train != "full"):
        copied["vision"] = model.vision
    if merge or (include_base and config.text_train != "full"):
        copied["language"] = model.language
    if merge:
        config.vision_train = config.text_train = "frozen"
        config.vision_lora = config.text_lora = None
    if merge or include_base:
        config.vision_base = "./vision" if "vision" in copied else None
        config.text_base = "./language" if "language" in copied else None
        config.vision_revision = config.text_revision = None
    if any(getattr(part, "is_quantized", False) for part in copied.values()):
        raise CheckpointError(
            "base weights in 4-bit cannot be saved", where=target, remedy="Load the model without `load_in_4bit`."
        )
    with atomic_write_folder(target) as temporary:
        config.save_pretrained(temporary)
        model.tokenizer.save_pretrained(temporary)
        weights = without_training_only(weights or model.weights_to_save(model.parts(config)))
        save_weights(weights, temporary / WEIGHTS)
        if model.drafts.table:
            save_weights(model.drafts.to_tensors(), temporary / DRAFTS)
        for name, part in copied.items():
            _allow_sampling(part)
            state = {key: value.contiguous() for key, value in plain_state_dict(part, merge).items()}
            part.save_pretrained(temporary / name, state_dict=state, max_shard_size="5GB")
        if "language" in copied:
            model.tokenizer.save_pretrained(temporary / "language")


def load(
    model_class: "type[ExpLLM]",
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    load_in_4bit: bool | None = None,
    **hub: Any,
) -> "ExpLLM":
    """Load a model from its folder.

    Args:
        model_class: The requested class. A subclass is instantiated if the folder contains a model of that subclass.
        name: A folder, or the name of a repository on the Hugging Face hub.
        revision: The revision on the hub.
        dtype: Data type of the frozen base weights, or ``auto`` for the data type of their files; by default, as saved.
        device: Device of the weights; by default the CPU.
        device_map: How accelerate places the language model, such as ``auto``. The other parts are placed on the device
            of the language model's embeddings.
        attn_implementation: Attention implementation of transformers: ``eager``, ``sdpa`` or ``flash_attention_2``.
            FlashAttention accepts no masks: each label then takes a forward pass, and so does each token of a text.
        load_in_4bit: Quantize the language model's base weights to 4-bit; by default as saved. See `load_language`.
        **hub: Download options; see `explllm.models.pretrained.HUB_OPTIONS`.

    Returns:
        The model, in evaluation mode.

    Raises:
        MissingPathError: If there is no such folder or repository, or its configuration or weights are missing.
        CheckpointError: If a file cannot be read, the folder contains another kind of model, or its weights do not fit.
        ConfigError: If an option is invalid.
    """
    if device is not None and device_map is not None:
        raise ConfigError("both `device` and `device_map` are set", remedy="Set one of them.")
    folder = _find_folder(name, revision, **hub)
    config = read_config(folder)
    requested, model_class = model_class, model_class.class_for(config)
    if not issubclass(model_class, requested):
        raise CheckpointError(
            f"the folder holds a model of class {model_class.__name__}, not {requested.__name__}",
            where=folder,
            remedy=f"Open it with {model_class.__name__}.from_pretrained.",
        )
    if dtype is not None:
        config.base_dtype = None if dtype == "auto" else str(dtype).removeprefix("torch.")
    if load_in_4bit is not None:
        config.load_in_4bit = load_in_4bit
    config.vision_base = _resolve_base(config.vision_base, folder)
    config.text_base = _resolve_base(config.text_base, folder)
    base_dtype = dtype_by_name(config.base_dtype)
    tokenizer = _read_tokenizer(folder, config)
    # The folder contains all weights of a part that was trained in full, so its base is not loaded.
    vision = language = None
    if attn_implementation is not None:
        hub["attn_implementation"] = attn_implementation
        for part in (config.vision_config, config.text_config):
            if hasattr(part, "num_attention_heads"):
                part._attn_implementation = attn_implementation
    if config.vision_base and config.vision_train != "full":
        vision = load_vision(config.vision_base, config.vision_revision, base_dtype, **hub)
    if config.text_base and config.text_train != "full":
        options = hub if device_map is None else {**hub, "device_map": device_map}
        if config.load_in_4bit and device_map is None:
            # Otherwise, transformers would put the 4-bit weights on the GPU, but the other parts would stay on the CPU.
            options = {**hub, "device_map": {"": "cpu" if device is None else str(device)}}
        language = load_language(config.text_base, config.text_revision, base_dtype, config.load_in_4bit, **options)
    elif load_in_4bit:
        raise ConfigError(
            "4-bit weights require a pretrained language model that is `frozen` or trained with `lora`",
            where=folder,
            remedy="Load the model without `load_in_4bit`.",
        )
    try:
        model = model_class(config, tokenizer, vision, language)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # transformers does not validate every field, so some invalid values cause errors only when a part is built.
        raise unusable_config(folder, error) from error
    model.name_or_path = str(folder)
    weights = remap_keys(read_weights(folder / WEIGHTS), model.state_dict())
    model.check_state_dict(weights, str(folder / WEIGHTS))
    for key, parameter in model.named_parameters():
        if key in weights and not parameter.requires_grad and not key.startswith("projector."):
            # Frozen weights that do not come from a base model keep their saved data type, unless `dtype` is set.
            parameter.data = parameter.data.to((dtype and base_dtype) or weights[key].dtype)
    model.load_state_dict(weights, strict=False)
    if (folder / DRAFTS).is_file():
        model.drafts = Drafts.from_tensors(read_weights(folder / DRAFTS))
    if device_map is not None:
        if language is None:
            return model.to(_single_device(device_map))  # pyrefly: ignore[bad-argument-type]
        embeddings = language.get_input_embeddings()
        # Offloaded weights are on the meta device; accelerate's hook names the device that computes with them.
        hook = getattr(embeddings, "_hf_hook", None)
        used_on = getattr(hook, "execution_device", None)
        target = cast(torch.Tensor, embeddings.weight).device if used_on is None else used_on
        for name, part in model.parts().items():
            if name != "language":
                part.module.to(target)
        return model
    return model if device is None else model.to(device)  # pyrefly: ignore[bad-argument-type]


def dtype_by_name(name: str | None) -> torch.dtype | None:
    """Return PyTorch's floating-point type for a name such as ``bfloat16``; None for None.

    Raises:
        ConfigError: If there is no such type.
    """
    if name is None:
        return None
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"{name!r} is not a floating-point type", remedy="Use float32, bfloat16 or float16.")
    return dtype


def without_training_only(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights without those that only training uses."""
    return {name: value for name, value in weights.items() if not name.startswith(TRAINING_ONLY)}


def initialize(model: "ExpLLM", folder: Path, keep_file_dtype: bool = False) -> None:
    """Initialize a new model with the weights in another model's folder, such as the projector from the first stage.

    If the folder's weights file contains a part's base weights (because they were trained), the new model's
    configuration no longer names a base for that part, and the new model's folder and checkpoints also contain these
    weights.

    Args:
        model: The new model. Weights that the folder does not contain remain unchanged.
        folder: The folder.
        keep_file_dtype: Keep weights of pretrained parts in the data type of the file, which allows memory-mapping.

    Raises:
        MissingPathError: If the folder does not exist or contains no model.
        CheckpointError: If the folder contains a weight that the model lacks or has in another shape, or merged weights
            of a part that the model loads from elsewhere.
    """
    _check_merged(cast(ExpLLMConfig, model.config), read_config(folder), folder)
    current = model.state_dict()
    weights: dict[str, torch.Tensor] = {}
    for name, value in remap_keys(read_weights(folder / WEIGHTS), current).items():
        layer, _, leaf = name.rpartition(".")
        # peft moves the weights of a layer with LoRA to its base layer.
        target = name if name in current else f"{layer}.base_layer.{leaf}"
        shape = tuple(current[target].shape) if target in current else None
        if shape != tuple(value.shape):
            raise CheckpointError(
                f"the model to start from does not fit: {name} is {tuple(value.shape)}, but {shape or 'missing'} in "
                "the new model",
                where=folder,
                remedy="Start from a model with the same parts.",
            )
        weights[target] = value
    copied = dict(weights)
    if keep_file_dtype:
        for name, part in model.parts().items():
            for key, weight in part.module.named_parameters(prefix=name):
                if part.base and key in copied:
                    weight.data = copied.pop(key)
    model.load_state_dict(copied, strict=False)
    reset_magnitudes(model.vision, "vision", weights)
    reset_magnitudes(model.language, "language", weights)
    forget_bases(model, {name.partition(".")[0] for name in weights if not is_lora(name)})


def _check_merged(config: ExpLLMConfig, source: ExpLLMConfig, folder: Path) -> None:
    """Check that a new model that starts from a folder with merged weights uses them, not the original base weights."""
    for part, own, trained, base in (
        ("vision", source.vision_base, source.vision_train, config.vision_base),
        ("language", source.text_base, source.text_train, config.text_base),
    ):
        merged = own is not None and own.startswith("./") and trained == "frozen"
        if merged and (base is None or Path(base).resolve() != (folder / own).resolve()):
            raise CheckpointError(
                f"the model to start from has {part} weights of its own, but the settings name {base or 'none'}",
                where=folder,
                remedy=f"Set --model.network.{part} {folder / own}.",
            )


def forget_bases(model: "ExpLLM", parts: Container[str]) -> None:
    """Remove the bases of some parts from the configuration; the model's folder then contains all of their weights.

    Args:
        model: The model.
        parts: Names of the parts.
    """
    if "vision" in parts:
        model.config.vision_base = model.config.vision_revision = None
    if "language" in parts:
        model.config.text_base = model.config.text_revision = None


def upload(folder: str | PathLike[str], repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload a model's folder to the Hugging Face hub.

    Args:
        folder: The folder.
        repo_id: Name of the repository, created if missing.
        private: Whether a new repository is private; by default according to the account's settings.
        token: Access token; by default, the one saved at login.

    Returns:
        The URL of the commit.

    Raises:
        CheckpointError: If the base weights are in another folder on this machine, or the upload fails.
    """
    config = read_config(Path(folder))
    bases = [base for base in (config.vision_base, config.text_base) if base and not base.startswith("./")]
    local = [base for base in bases if Path(base).is_absolute() or Path(base).is_dir()]
    if local:
        raise CheckpointError(
            "the model's base weights are in a folder on this machine",
            where=local[0],
            remedy="Save the model with include_base=True or merge=True.",
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repo_id, folder_path=Path(folder), commit_message="Upload model").commit_url
        )
    except (HTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"the upload failed: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=repo_id,
            remedy="Check the name and the token.",
        ) from error


def check_target(target: Path, replace: bool) -> None:
    """Check that a model's folder may be written to a path.

    Args:
        target: The path.
        replace: Whether an existing model folder may be replaced.

    Raises:
        CheckpointError: If the path exists, unless it is an empty folder or a model folder that may be replaced.
    """
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not (replace and (target / "config.json").is_file()):
        raise CheckpointError(
            f"the path {'already exists' if not replace else 'holds something other than a model'}",
            where=target,
            remedy="Pass another folder, or empty this one.",
        )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        MissingPathError: If the file does not exist.
        CheckpointError: If the file is truncated or not a safetensors file.
    """
    if not path.is_file():
        raise MissingPathError("the weights file does not exist", where=path, remedy="Save the model again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {error}", where=path, remedy="Save or copy them again."
        ) from error


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file of weights on any device."""
    save_file({name: value.cpu().contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def _allow_sampling(part: PreTrainedModel) -> None:
    """Set `do_sample` in a generation configuration that requires it; Vicuna's has a temperature but no `do_sample`.

    Releases of transformers before 5.23 refuse to save such a configuration.
    """
    generation = getattr(part, "generation_config", None)
    if generation is not None and any(getattr(generation, name) is not None for name in ("temperature", "top_p")):
        generation.do_sample = True


def _find_folder(name: str | PathLike[str], revision: str | None, **hub: Any) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder.absolute()
    remedy = "Name a folder that `fit` wrote (runs/NAME/model), or a model on the Hugging Face hub."
    if isinstance(name, PathLike) or str(name).count("/") != 1 or str(name).startswith(("/", ".", "~", "runs/")):
        raise MissingPathError("the model folder does not exist", where=folder, remedy=remedy)
    try:
        patterns = ["*.json", "*.jinja", "*.safetensors"]
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns, **hub))
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise MissingPathError(
            f"neither a folder nor a model on the hub that can be downloaded: {reason}",
            where=folder,
            remedy=f"{remedy} If it is private or gated, set HF_TOKEN.",
        ) from error


def _read_tokenizer(folder: Path, config: ExpLLMConfig) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many types of errors
        missing = not (folder / "tokenizer.json").is_file()
        raise CheckpointError(
            "the model folder has no tokenizer.json" if missing else "the tokenizer cannot be read",
            where=folder,
            remedy="Copy the whole folder that `explllm fit` wrote, with the tokenizer and its chat template.",
        ) from error
    found = tokenizer.get_vocab().get(IMAGE_TOKEN, config.image_token_id)
    if found != config.image_token_id:
        raise CheckpointError(
            f"image_token_id is {config.image_token_id}, but the tokenizer has {IMAGE_TOKEN} as {found}",
            where=folder / "config.json",
            remedy="Correct this value, or copy the configuration and the tokenizer of one model.",
        )
    return tokenizer


def _resolve_base(base: str | None, folder: Path) -> str | None:
    return str(folder / base) if base is not None and base.startswith("./") else base


def _single_device(device_map: Any) -> torch.device:
    """Return the device for a model without a pretrained language model; accelerate does not place such a model."""
    devices = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
    if devices <= {"auto", "balanced", "balanced_low_0", "sequential"}:
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    if len(devices) > 1:
        raise ConfigError(
            "a device_map with several devices requires a pretrained language model", remedy="Set `device` instead."
        )
    return torch.device(devices.pop())
