"""Action units from any ONNX model with 24 outputs."""

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
from explllm.faces.estimators import Intensities
from explllm.faces.onnx_session import Provider, describe_provider, open_session
from explllm.faces.pixels import ImagePreset


class OnnxRegressor:
    """Estimates action units by a model whose output is 24 intensities in FEAFA's order.

    Intensities below 0 and above 1 count as 0 and 1, as a regressor without a bound may overshoot. What the file's
    metadata say is kept: the margin around the faces' boxes (`margin`), and what is to be said of the data that the
    model learned from (`training_data_note`); each None where they say nothing.
    """

    nothing = "the model gave no finite numbers"

    def __init__(
        self,
        path: str | PathLike[str],
        preset: str | None = None,
        size: int | None = None,
        provider: Provider = "auto",
        threads: int | None = None,
    ) -> None:
        """Open a model.

        Args:
            path: An ONNX file; its input is (B, 3, H, W) float32, with a batch of any size or of 1, and its first
                output of 24 columns is taken.
            preset: Name of the `explllm.faces.pixels.ImagePreset` that the model was trained with; by default what the
                file's metadata say (``image``, its fields as JSON), as the files of this library do, else ``small``.
            size: Width and height of its input in pixels; by default the model's own, else the preset's.
            provider: Where it runs.
            threads: CPU threads; all usable cores by default.

        Raises:
            MissingPathError: If there is no such file.
            CheckpointError: If the file is no ONNX model, has another input or output, or metadata that cannot be read
                or name the units in another order.
            ConfigError: If there is no such preset, or the size is not that of the model.
        """
        path = Path(path)
        if preset is not None:
            ImagePreset.named(preset)
        self.name = f"onnx:{path.name}"
        self.session = open_session(path, provider, threads)
        self.runs_on = describe_provider(self.session, "action units", provider)
        told = self.session.get_modelmeta().custom_metadata_map
        if "action_units" in told and _read(told, "action_units", "units", path) != list(NAMES):
            raise CheckpointError(
                "a model whose metadata name other units than FEAFA's 24, or another order",
                where=path,
                remedy="Give one whose outputs are in the order of explllm.core.action_units.NAMES.",
            )
        self.margin = _own_margin(told, path)
        self.training_data_note: str | None = told.get("training_data_note")
        self.preset = _own_preset(told, path) if preset is None else ImagePreset.named(preset)
        if size is not None:
            self.preset = replace(self.preset, size=size)
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or inputs[0].type != "tensor(float)":
            raise CheckpointError(
                f"a model whose input is {[(value.shape, value.type) for value in inputs]}",
                where=path,
                remedy="Give one with a single input (B, 3, H, W) of float32.",
            )
        own = {side for side in shape[2:] if isinstance(side, int)}
        if own and size is None and len(own) == 1:
            self.preset = replace(self.preset, size=own.pop())
        elif own - {self.preset.size}:
            raise ConfigError(
                f"a size of {self.preset.size} for a model of {shape[3]} x {shape[2]} pixels",
                where=path,
                remedy="Leave --size out.",
            )
        self._any_batch = not isinstance(shape[0], int)
        self.batch = 16 if self._any_batch else shape[0]
        self._input = inputs[0].name
        self._output = self._place(path)

    def _place(self, path: Path) -> int:
        """Return which output holds the intensities, found by running the model once."""
        try:
            outputs = self.session.run(None, {self._input: self._blank(self.batch)})
        except Exception as error:  # onnxruntime's own errors have no common base below it
            raise CheckpointError(
                f"a model that cannot be run on {self.preset.size} x {self.preset.size} pixels",
                where=path,
                remedy="Give --size, the width and height that it was trained with.",
            ) from error
        shapes = [np.shape(output) for output in outputs]
        if (self.batch, len(FEAFA)) not in shapes:
            raise CheckpointError(
                f"a model whose output is {' and '.join(map(str, shapes))}, not {(self.batch, len(FEAFA))}",
                where=path,
                remedy=f"Give one with {len(FEAFA)} intensities, in FEAFA's order.",
            )
        return shapes.index((self.batch, len(FEAFA)))

    def _blank(self, count: int) -> np.ndarray:
        return np.zeros((count, 3, self.preset.size, self.preset.size), np.float32)

    def estimate(self, images: Sequence[Image.Image]) -> list[Intensities | None]:
        """Estimate the action units of faces; as for `explllm.faces.estimators.Estimator`."""
        found: list[Intensities | None] = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            pixels = self._blank(len(part) if self._any_batch else self.batch)
            for place, image in enumerate(part):
                pixels[place] = self.preset(image).numpy()
            values = self.session.run(None, {self._input: pixels})[self._output][: len(part)]
            for row in np.asarray(values, dtype=np.float64):
                found.append([float(value) for value in np.clip(row, 0, 1)] if np.isfinite(row).all() else None)
        return found

    def close(self) -> None:
        """Do nothing: onnxruntime frees the model with this object."""


def _own_preset(told: dict[str, str], path: Path) -> ImagePreset:
    """Return how images become a model's pixels, as its file says."""
    if "image" not in told:
        return ImagePreset.named("small")
    try:
        return ImagePreset.from_dict(_read(told, "image", "images", path))
    except (ValueError, TypeError, AttributeError) as error:
        raise _unreadable("images", path) from error


def _own_margin(told: dict[str, str], path: Path) -> float | None:
    """Return the margin around the faces that a model learned from, as its file says."""
    if "margin" not in told:
        return None
    margin = _read(told, "margin", "margin", path)
    # The least is that of the command: a crop of a fifth of the box.
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not -0.4 <= margin < float("inf"):
        raise _unreadable("margin", path)
    return float(margin)


def _read(told: dict[str, str], key: str, what: str, path: Path) -> Any:
    try:
        return json.loads(told[key])
    except ValueError as error:
        raise _unreadable(what, path) from error


def _unreadable(what: str, path: Path) -> CheckpointError:
    remedy = "Pass --preset." if what == "images" else "Mend the file's metadata, or export it again."
    return CheckpointError(f"a model whose metadata say nothing readable of its {what}", where=path, remedy=remedy)
