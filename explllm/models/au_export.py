"""Export an action unit regressor to ONNX, for `explllm aus --onnx` and other programs.

Shape legend:
    B batch, H and W image height and width
"""

import copy
import json
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explllm.core.action_units import NAMES
from explllm.core.errors import CheckpointError, ConfigError, InputError
from explllm.core.files import atomic_write
from explllm.faces.onnx_session import open_session
from explllm.models.au_regressor import ActionUnitRegressor

INPUT, OUTPUT = "pixel_values", "action_units"
"""Names of the file's input (B, 3, H, W) and output (B, 24)."""

TOLERANCE = 1e-4
"""Maximum difference between the estimates of the ONNX file and those of the model."""

_OPSET = 18
_MAX_BYTES = 1.9e9
"""Maximum size of the weights in bytes: protobuf's file limit of 2 GB, minus room for the model's graph."""


def export_onnx(model: ActionUnitRegressor, path: str | PathLike[str], faces: torch.Tensor | None = None) -> float:
    """Export a model to ONNX, read the file back, and compare its estimates with the model's.

    The batch size is dynamic; height and width are fixed. The file's metadata contains the units' names
    (``action_units``, JSON), the fields of the `explllm.faces.pixels.ImagePreset` (``image``, JSON) and its name
    (``image_preset``). If the model has them, the metadata also contains the margin around the face boxes
    (``margin``, JSON) and the ``training_data_note``.

    Args:
        model: The model.
        path: The file. It is written only if the comparison succeeds.
        faces: (B, 3, H, W) images for the comparison, in addition to random ones.

    Returns:
        The maximum difference over all units and images.

    Raises:
        ConfigError: If onnx or onnxruntime is not installed, or the model is too large for one file.
        CheckpointError: If the export fails in torch, onnx or onnxruntime, or the difference exceeds `TOLERANCE`.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a model cannot be written as ONNX ({error})", remedy='Install it: pip install onnx "explllm[aus]".'
        ) from error
    weights = sum(weight.numel() * 4 for weight in model.parameters())
    if weights > _MAX_BYTES:
        raise ConfigError(
            f"the weights take {weights / 1e9:.1f} GB; an ONNX file can hold 2 GB", remedy="Train a smaller encoder."
        )
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    size = model.image.size
    random = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    compared = random if faces is None else torch.cat([random, faces.cpu().float()])
    with atomic_write(path) as partial:
        try:
            _trace(model, random[:2], partial)
            graph = onnx.load(str(partial))
            onnx.helper.set_model_props(graph, _metadata(model))
            onnx.save(graph, str(partial))
            difference = onnx_difference(model, partial, compared)
        except InputError:
            raise
        except Exception as error:  # the three libraries' errors share no other base class
            raise CheckpointError(
                f"the model cannot be written as ONNX ({type(error).__name__}: {error})",
                where=path,
                remedy="Nothing was written; try another encoder, or another release of torch or onnxruntime.",
            ) from error
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"the ONNX file's estimates differ by {difference:.2g} from the model's; tolerance {TOLERANCE:g}",
                where=path,
                remedy="Nothing was written; try another release of torch or onnxruntime.",
            )
    return difference


def _trace(model: ActionUnitRegressor, example: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        # Ignore the warnings about tracing. A trace can be wrong for other batch sizes, but the comparison that
        # follows checks those. The newer exporter needs an additional package, onnxscript.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def _metadata(model: ActionUnitRegressor) -> dict[str, str]:
    config = model.config
    metadata = {
        "action_units": json.dumps(NAMES),
        "image": json.dumps(model.image.to_dict()),
        "image_preset": config.image_preset,
    }
    if config.margin is not None:
        metadata["margin"] = json.dumps(config.margin)
    if config.training_data_note is not None:
        metadata["training_data_note"] = config.training_data_note
    return metadata


def onnx_difference(model: ActionUnitRegressor, path: str | PathLike[str], pixel_values: torch.Tensor) -> float:
    """Return the maximum absolute difference between the float32 estimates of an ONNX file and of a model, on the CPU.

    The ONNX file processes the images `pixel_values` (B, 3, H, W) in one batch, and the first three also one by one.
    """
    session = open_session(Path(path), "cpu")
    with torch.no_grad():
        expected = model(pixel_values).numpy()
    single: list[Any] = [session.run(None, {INPUT: image[None].numpy()})[0] for image in pixel_values[:3]]
    [together] = session.run(None, {INPUT: pixel_values.numpy()})
    return float(max(np.abs(np.concatenate(single) - expected[:3]).max(), np.abs(together - expected).max()))
