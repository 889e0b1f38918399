"""Any ONNX model with 24 outputs, held against the same arithmetic in NumPy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from explllm.core.action_units import NAMES
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.core.manifest import Manifest
from explllm.faces.crop import face_crop
from explllm.faces.estimators.onnx_regressor import OnnxRegressor
from explllm.faces.pixels import ImagePreset

onnx = pytest.importorskip("onnx", reason='no onnx, which insightface brings: pip install "explllm[faces]"')
pytest.importorskip("onnxruntime", reason='no onnxruntime: pip install "explllm[aus]"')

WEIGHTS = np.random.default_rng(0).normal(scale=0.3, size=(3, 24)).astype(np.float32)
BIAS = np.linspace(0.2, 0.8, 24, dtype=np.float32)


@pytest.fixture
def model(tmp_path):
    """Writes a model: the mean of each channel, a linear layer, and an output beside it."""
    make = onnx.helper

    def write(batch="batch", size=32, outputs=24, scale=1.0, name="au24.onnx"):
        weights, bias = WEIGHTS[:, :outputs] * np.float32(scale), BIAS[:outputs]
        nodes = [
            make.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            make.make_node("Flatten", ["pooled"], ["means"]),
            make.make_node("Gemm", ["means", "weights", "bias"], ["units"]),
        ]
        values = [
            make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (
                ("image", [batch, 3, size, size]),
                ("means", [batch, 3]),
                ("units", [batch, outputs]),
            )
        ]
        held = [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(bias, "bias")]
        graph = make.make_graph(nodes, "au", values[:1], values[1:], held)
        path = tmp_path / name
        onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), path)
        return path

    return write


@pytest.fixture
def images():
    random = np.random.default_rng(1)
    return [
        Image.fromarray(random.integers(0, 256, (40 + number, 50, 3)).astype(np.uint8) // (1 + number % 3))
        for number in range(19)
    ]


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_it_gives_the_models_numbers_clipped(model, images, batch):
    estimator = OnnxRegressor(model(batch), preset="small", threads=1)
    assert estimator.preset.size == 32 and estimator.name == "onnx:au24.onnx"
    preset = ImagePreset.named("small", 32)
    means = np.stack([preset(image).numpy().mean(axis=(1, 2)) for image in images])
    expected = np.clip(means @ WEIGHTS + BIAS, 0, 1)
    assert np.abs(np.array(estimator.estimate(images)) - expected).max() < 1e-5
    assert (expected == 0).any() and (expected == 1).any()
    assert np.allclose(estimator.estimate(images[3:4]), expected[3:4], atol=1e-5)


def test_a_file_says_how_it_sees_images(model, images):
    path = model()
    assert OnnxRegressor(path).preset == ImagePreset.named("small", 32)
    held = onnx.load(path)
    own = replace(ImagePreset.named("dinov2", 32), square="stretch")
    onnx.helper.set_model_props(held, {"image": json.dumps(own.to_dict())})
    onnx.save(held, path)
    assert OnnxRegressor(path).preset == own
    assert OnnxRegressor(path, preset="small").preset == ImagePreset.named("small", 32)
    onnx.helper.set_model_props(held, {"image": '{"color": 3}'})
    onnx.save(held, path)
    with pytest.raises(CheckpointError, match="metadata about its images cannot be read"):
        OnnxRegressor(path)


def with_metadata(path, **told):
    held = onnx.load(path)
    onnx.helper.set_model_props(held, told)
    onnx.save(held, path)
    return path


def test_units_in_another_order_are_refused(model):
    assert OnnxRegressor(with_metadata(model(), action_units=json.dumps(NAMES))).margin is None
    for names in (NAMES[::-1], NAMES[:12]):
        with pytest.raises(CheckpointError, match="does not list FEAFA's 24 units in order"):
            OnnxRegressor(with_metadata(model(), action_units=json.dumps(names)))
    with pytest.raises(CheckpointError, match="metadata about its units cannot be read"):
        OnnxRegressor(with_metadata(model(), action_units="Jaw Drop"))


def test_the_margin_is_the_files_own(model, images, explllm, tmp_path):
    """Photographs of which the middle is dark: the wider the margin, the lighter the face."""
    photograph = np.full((60, 60, 3), 255, np.uint8)
    photograph[20:40, 20:40] = 0
    Image.fromarray(photograph).save(tmp_path / "face.png")
    (tmp_path / "m.jsonl").write_text('{"image": "face.png", "box": [20, 20, 20, 20]}')
    path, training_data_note = model(), "The faces are drawn by a program, not photographs."

    def estimated(*options):
        done = explllm("aus", "m.jsonl", "-o", "o.jsonl", "--onnx", path, "--overwrite", *options)
        assert done.status == 0, done.err
        return Manifest.read("o.jsonl").frame["action_units"][0], done.err

    default, said = estimated()
    assert "training data" not in said
    with_metadata(path, margin="0.5", training_data_note=training_data_note)
    own, said = estimated()
    assert f"note: training data of this model: {training_data_note}" in said
    for found, margin in ((default, 0.1), (own, 0.5), (estimated("--margin", 0.25)[0], 0.25)):
        face = face_crop(Image.fromarray(photograph), (20, 20, 20, 20), margin)
        assert found == pytest.approx(OnnxRegressor(path).estimate([face])[0], abs=1e-4)
    assert np.abs(np.array(own) - default).max() > 0.1
    for margin in ('"wide"', "NaN", "-1", "true", "{"):
        with pytest.raises(CheckpointError, match="metadata about its margin cannot be read"):
            OnnxRegressor(with_metadata(path, margin=margin))


def test_the_size_is_the_models_own_or_the_presets(model):
    assert OnnxRegressor(model(size="side"), preset="small").preset.size == 64
    assert OnnxRegressor(model(size="side"), preset="small", size=48).preset.size == 48
    with pytest.raises(ConfigError, match="the size is 48, but the model takes 32 x 32 pixels"):
        OnnxRegressor(model(), size=48)
    with pytest.raises(ConfigError, match="there is no image preset 'large'"):
        OnnxRegressor(model(), preset="large")


def test_numbers_that_are_not_finite_are_none(model, images):
    estimator = OnnxRegressor(model(scale=float("nan")))
    assert estimator.estimate(images[:2]) == [None, None]


def test_models_that_do_not_fit(model, tmp_path, detector_file):
    with pytest.raises(MissingPathError):
        OnnxRegressor(tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match=r"the model's output is \(16, 3\) and \(16, 12\), not \(16, 24\)"):
        OnnxRegressor(model(outputs=12))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match="a file that is not an ONNX model"):
        OnnxRegressor(tmp_path / "text.onnx")
    with pytest.raises(CheckpointError, match="the model's output is"):
        OnnxRegressor(detector_file)
