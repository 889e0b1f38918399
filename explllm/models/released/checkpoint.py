"""Read a folder in the released format: the configuration, and PyTorch shards, from which only tensors are loaded."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from explllm.core.errors import CheckpointError, MissingPathError

MODEL_TYPE = "locllm"
"""Model type in the released ``config.json``."""
SHARD = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_COPY_AGAIN = "Copy or download the file again."


def read_released_config(folder: Path) -> dict[str, Any]:
    """Read the released ``config.json``.

    Raises:
        MissingPathError: If the file does not exist.
        CheckpointError: If it cannot be read or belongs to another kind of model.
    """
    config = _read_json(folder / "config.json", "Pass a folder in the authors' released format.")
    model_type = config.get("model_type")
    if model_type != MODEL_TYPE:
        raise CheckpointError(
            f"the folder holds a model of type {model_type!r}, not {MODEL_TYPE!r}",
            where=folder,
            remedy="Pass a folder in the authors' released format."
            + (" This model needs no conversion." if model_type == "explllm" else ""),
        )
    return config


def read_released_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read ``pytorch_model.bin``, or all shards that the index file names, with ``weights_only=True``.

    The tensors keep their released names, and are memory-mapped if the file format allows it.

    Raises:
        MissingPathError: If a file is missing.
        CheckpointError: If a file is truncated, contains objects other than tensors, or does not match the index.
    """
    if (folder / SHARD).is_file():
        return _read_shard(folder / SHARD)
    if not (folder / INDEX).is_file():
        raise MissingPathError(
            f"the folder has no weights ({SHARD} or {INDEX})",
            where=folder,
            remedy="Pass a folder in the authors' released format.",
        )
    shard_of = _read_json(folder / INDEX, _COPY_AGAIN).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError("the index has no weight map", where=folder / INDEX, remedy=_COPY_AGAIN)
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"the index names a shard outside the folder: {shard}", where=folder / INDEX, remedy=_COPY_AGAIN
            )
        if not (folder / shard).is_file():
            raise MissingPathError("a shard is missing", where=folder / shard, remedy=_COPY_AGAIN)
        content = _read_shard(folder / shard)
        expected = {name for name, file in shard_of.items() if file == shard}
        for problem, names in (("lacks", expected - set(content)), ("also holds", set(content) - expected)):
            if names:
                raise CheckpointError(
                    f"the shard does not match {INDEX}: it {problem} {min(names)}",
                    where=folder / shard,
                    remedy=_COPY_AGAIN,
                )
        weights |= content
    return weights


def _read_shard(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Files written before PyTorch 1.6 are not zip archives and cannot be memory-mapped.
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the file is damaged, or contains objects other than tensors; they were not loaded",
            where=path,
            remedy="Use a file that contains only tensors, from a source that you trust.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {str(error).splitlines()[0] if str(error) else 'the file is truncated'}",
            where=path,
            remedy=_COPY_AGAIN,
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(
            "the file is not a dictionary of tensors", where=path, remedy="Use a file of model weights."
        )
    return weights


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise MissingPathError("the file does not exist", where=path, remedy=remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the file is not valid JSON: {error}", where=path, remedy=_COPY_AGAIN) from error
    if not isinstance(values, dict):
        raise CheckpointError("the file is not a JSON object", where=path, remedy=_COPY_AGAIN)
    return values
