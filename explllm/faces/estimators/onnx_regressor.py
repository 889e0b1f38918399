"""Action units from an ONNX model with 24 outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from explllm.core.action_units import FEAFA, NAMES
from explllm.core.errors import CheckpointError, ConfigError
from explllm.faces.estimators.registry import Estimator, Intensities, register_estimator
from explllm.faces.onnx_session import Provider, describe_provider, open_session
from explllm.faces.pixels import ImagePreset


@register_estimator("onnx")
class OnnxRegressor(Estimator):
    """Estimates action units with a model whose output is 24 intensities in FEAFA's order.

    Intensities are clipped to [0, 1], because a regressor without a bounded output may overshoot. `margin` and
    `training_data_note` come from the file's metadata.
    """

    file_help = "An ONNX model with 24 outputs in FEAFA's order."
    no_result = "the model's output is not finite"

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        preset: str | None = None,
        size: int | None = None,
        provider: Provider = "auto",
        threads: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            path: An ONNX file. Its input is (B, 3, H, W) float32 with a dynamic or fixed batch size. The first output
                with 24 columns contains the intensities.
            preset: Image preset that the model was trained with (default: from its metadata, otherwise small).
            size: Width and height of the input in pixels (default: the model's own, otherwise the preset's).
            provider: Device on which the model runs.
            threads: CPU threads; all available cores by default.

        Raises:
            MissingPathError: If the file does not exist.
            CheckpointError: If the file is not an ONNX model or has an unsupported input or output, or if its metadata
                cannot be read or lists the units in a different order.
            ConfigError: If there is no such preset, the size is invalid or does not match the model's, onnxruntime is
                not installed, or the requested GPU cannot be used.
        """
        path = Path(path)
        if preset is not None:
            ImagePreset.named(preset)
        self.name = f"onnx:{path.name}"
        self.session = open_session(path, provider, threads)
        self.runs_on = describe_provider(self.session, "action units", provider)
        metadata = self.session.get_modelmeta().custom_metadata_map
        if "action_units" in metadata and _read_json(metadata, "action_units", "units", path) != list(NAMES):
            raise CheckpointError(
                "the model's metadata does not list FEAFA's 24 units in order",
                where=path,
                remedy="Use a model whose outputs follow explllm.core.action_units.NAMES.",
            )
        self.margin = _read_margin(metadata, path)
        self.training_data_note: str | None = metadata.get("training_data_note")
        self.preset = _read_preset(metadata, path) if preset is None else ImagePreset.named(preset)
        if size is not None:
            if size < 1:
                raise ConfigError(f"--size is {size}", remedy="Use at least 1.")
            self.preset = replace(self.preset, size=size)
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            raise CheckpointError(
                f"the model's input is {[(value.shape, value.type) for value in inputs]}",
                where=path,
                remedy="Use a model with one float32 input of shape (B, 3, H, W).",
            )
        fixed = {side for side in shape[2:] if isinstance(side, int)}
        if len(fixed) == 1 and size is None:
            self.preset = replace(self.preset, size=fixed.pop())
        elif fixed - {self.preset.size}:
            raise ConfigError(
                f"the size is {self.preset.size}, but the model takes {shape[3]} x {shape[2]} pixels",
                where=path,
                remedy="Omit --size.",
            )
        self._dynamic_batch = not isinstance(shape[0], int)
        self.batch_size = 16 if self._dynamic_batch else shape[0]
        self._input = inputs[0].name
        self._output = self._find_output(path)

    def _find_output(self, path: Path) -> int:
        """Run the model once and return the index of the output that contains the intensities."""
        try:
            outputs: Sequence[Any] = self.session.run(None, {self._input: self._blank(self.batch_size)})
        except Exception as error:  # onnxruntime's errors have no common base class
            raise CheckpointError(
                f"the model cannot run on {self.preset.size} x {self.preset.size} pixels",
                where=path,
                remedy="Pass --size, the width and height that the model was trained with.",
            ) from error
        shapes = [np.shape(output) for output in outputs]
        if (self.batch_size, len(FEAFA)) not in shapes:
            raise CheckpointError(
                f"the model's output is {' and '.join(map(str, shapes))}, not {(self.batch_size, len(FEAFA))}",
                where=path,
                remedy=f"Use a model with {len(FEAFA)} intensities in FEAFA's order.",
            )
        return shapes.index((self.batch_size, len(FEAFA)))

    def _blank(self, count: int) -> np.ndarray:
        return np.zeros((count, 3, self.preset.size, self.preset.size), np.float32)

    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces; see `Estimator.estimate`."""
        results: list[Intensities | None] = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            pixels = self._blank(len(part) if self._dynamic_batch else self.batch_size)
            for place, image in enumerate(part):
                pixels[place] = self.preset(image).numpy()
            outputs: Sequence[Any] = self.session.run(None, {self._input: pixels})
            for row in np.asarray(outputs[self._output][: len(part)], dtype=np.float64):
                results.append([float(value) for value in np.clip(row, 0, 1)] if np.isfinite(row).all() else None)
        return results


def _read_preset(metadata: dict[str, str], path: Path) -> ImagePreset:
    """Return the image preset from the metadata; ``small`` if it is missing there."""
    if "image" not in metadata:
        return ImagePreset.named("small")
    try:
        return ImagePreset.from_dict(_read_json(metadata, "image", "images", path))
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable("images", path) from error


def _read_margin(metadata: dict[str, str], path: Path) -> float | None:
    """Return the margin that the model was trained with, from the metadata; None if it is missing there."""
    if "margin" not in metadata:
        return None
    margin = _read_json(metadata, "margin", "margin", path)
    # The command line has the same minimum, at which the crop's side is a fifth of the box's.
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not -0.4 <= margin < float("inf"):
        raise _unreadable("margin", path)
    return float(margin)


def _read_json(metadata: dict[str, str], key: str, what: str, path: Path) -> Any:
    try:
        return json.loads(metadata[key])
    except ValueError as error:
        raise _unreadable(what, path) from error


def _unreadable(what: str, path: Path) -> CheckpointError:
    remedy = "Pass --preset." if what == "images" else "Fix the file's metadata, or export the model again."
    return CheckpointError(f"a model whose metadata about its {what} cannot be read", where=path, remedy=remedy)
