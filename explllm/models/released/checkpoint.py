"""Reading a folder in the released format: configuration, and PyTorch shards without running anything in them."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from explllm.core.errors import CheckpointError, MissingPathError

MODEL_TYPE = "locllm"
"""The model type in the released ``config.json``."""
SHARD = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"

_COPY_AGAIN = "Copy or download the file again."


def read_released_config(folder: Path) -> dict[str, Any]:
    """Read the released ``config.json``.

    Args:
        folder: The folder.

    Returns:
        Its fields.

    Raises:
        MissingPathError: If there is none.
        CheckpointError: If it cannot be read or is that of another model.
    """
    config = _read_json(folder / "config.json", "Name a folder in the authors' released format.")
    kind = config.get("model_type")
    if kind != MODEL_TYPE:
        raise CheckpointError(
            f"the folder holds a model of type {kind!r}, not {MODEL_TYPE!r}",
            where=folder,
            remedy="Name a folder in the authors' released format."
            + (" This one needs no conversion." if kind == "explllm" else ""),
        )
    return config


def read_released_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read ``pytorch_model.bin``, or all shards that its index names; weights only, no code in them is run.

    Args:
        folder: The folder.

    Returns:
        Tensors by their released names, mapped into memory rather than read where the file allows it.

    Raises:
        MissingPathError: If a file is missing.
        CheckpointError: If a file is truncated, holds more than tensors, or is at odds with the index.
    """
    if (folder / SHARD).is_file():
        return _read_shard(folder / SHARD)
    if not (folder / INDEX).is_file():
        raise MissingPathError(
            f"there are no weights: neither {SHARD} nor {INDEX}",
            where=folder,
            remedy="Name a folder in the authors' released format.",
        )
    places = _read_json(folder / INDEX, _COPY_AGAIN).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError("the index names no weights", where=folder / INDEX, remedy=_COPY_AGAIN)
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"the index names a shard elsewhere: {shard}", where=folder / INDEX, remedy=_COPY_AGAIN
            )
        if not (folder / shard).is_file():
            raise MissingPathError("a shard is missing", where=folder / shard, remedy=_COPY_AGAIN)
        held = _read_shard(folder / shard)
        promised = {name for name, place in places.items() if place == shard}
        for fault, names in (("lacks", promised - set(held)), ("holds also", set(held) - promised)):
            if names:
                raise CheckpointError(
                    f"the shard is at odds with {INDEX}: it {fault} {min(names)}",
                    where=folder / shard,
                    remedy=_COPY_AGAIN,
                )
        weights |= held
    return weights


def _read_shard(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Older files are no archives and cannot be mapped.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "the file is damaged, or holds code or objects beside tensors; nothing in it was run",
            where=path,
            remedy="Use a file of tensors alone, from a source that you trust.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"the weights cannot be read: {str(error).splitlines()[0] if str(error) else 'the file ends too early'}",
            where=path,
            remedy=_COPY_AGAIN,
        ) from error
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        raise CheckpointError("the file is no table of tensors", where=path, remedy="Name a model's weights.")
    return held


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise MissingPathError("there is no such file", where=path, remedy=remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the file is no JSON: {error}", where=path, remedy=_COPY_AGAIN) from error
    if not isinstance(values, dict):
        raise CheckpointError("the file holds no fields", where=path, remedy=_COPY_AGAIN)
    return values
