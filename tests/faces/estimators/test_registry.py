"""A new estimator is one file, and both the library and the command line use it."""

from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from explllm.core.errors import ConfigError
from explllm.faces.estimators import (
    ESTIMATORS,
    Estimator,
    EstimatorSpec,
    estimator_options,
    open_estimator,
    register_estimator,
    selected_estimator,
)


@pytest.fixture
def brightness(monkeypatch):
    monkeypatch.setattr("explllm.faces.estimators.registry.ESTIMATORS", dict(ESTIMATORS))

    @register_estimator("brightness")
    class Brightness(Estimator):
        file_help = "A text file with a unit's number."
        name = "brightness"
        margin = 0.25

        def __init__(self, path, *, gain: float = 1.0, threads: int | None = None):
            """Open it.

            Args:
                path: The file.
                gain: Factor on the brightness.
                threads: CPU threads.
            """
            self.unit, self.gain, self.threads = int(Path(path).read_text()), gain, threads

        def estimate(self, images):
            means = [self.gain * image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255 for image in images]
            return [[mean if unit == self.unit else None for unit in range(24)] for mean in means]

    return Brightness


def test_a_new_estimator_is_one_class(brightness, tmp_path):
    (tmp_path / "unit.txt").write_text("3")
    options = estimator_options()
    assert {"landmarker", "onnx", "brightness", "preset", "size", "gain"} == {item.name for item in fields(options)}
    assert "gain: Factor on the brightness." in options.__doc__
    spec = selected_estimator(options(brightness=tmp_path / "unit.txt", gain=0.5))
    assert spec == EstimatorSpec("brightness", tmp_path / "unit.txt", {"gain": 0.5})
    estimator = spec.open(provider="cpu", threads=2)
    assert isinstance(estimator, brightness) and estimator.threads == 2 and estimator.batch_size == 1
    [units] = estimator.estimate([Image.new("RGB", (8, 8), (255, 255, 255))])
    assert units[3] == 0.5 and units.count(None) == 23


def test_wrong_selections_are_refused(brightness, tmp_path):
    options = estimator_options()
    assert selected_estimator(options()) is None
    with pytest.raises(ConfigError, match="none of .*--landmarker.* is given"):
        selected_estimator(options(), required=True)
    with pytest.raises(ConfigError, match="none of .* is given"):
        selected_estimator(options(size=64))
    with pytest.raises(ConfigError, match="both --landmarker and --onnx are given"):
        selected_estimator(options(landmarker=Path("a"), onnx=Path("b")))
    with pytest.raises(ConfigError, match="--gain does not apply to --onnx"):
        open_estimator("onnx", tmp_path, gain=2.0)
    with pytest.raises(ConfigError, match="unknown action unit estimator 'nose'. Use one of landmarker, onnx"):
        open_estimator("nose", tmp_path)
    with pytest.raises(ConfigError, match="two action unit estimators named 'onnx'"):
        register_estimator("onnx")(brightness)
