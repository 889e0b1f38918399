"""The action-unit regressor: forward pass, saved folder, ONNX export."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from explllm.core.action_units import FEAFA, NAMES, mirror_action_units
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.drawn_faces.dataset import draw_faces
from explllm.faces.estimators.onnx_regressor import OnnxRegressor
from explllm.models import au_export
from explllm.models.au_export import export_onnx
from explllm.models.au_regressor import (
    ActionUnitRegressor,
    RegressorSettings,
    build_regressor,
    build_regressor_on_meta,
    regressor_config,
)
from explllm.models.storage import WEIGHTS

CONV = RegressorSettings(
    vision={"model_type": "explllm_conv", "hidden_sizes": [8, 16, 32], "depths": [1, 2, 1]},
    vision_train="full",
    image_preset="small",
    image_size=32,
    head_width=16,
)
DINO = RegressorSettings(
    vision={
        "model_type": "dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 70,
        "patch_size": 14,
    },
    vision_train="lora",
    image_size=42,  # differs from the encoder's: position embeddings are interpolated
)


@pytest.fixture(params=[CONV, DINO], ids=["conv", "dinov2"])
def model(request):
    torch.manual_seed(0)
    model = build_regressor(regressor_config(request.param))
    with torch.no_grad():
        # As after training, no weight has its initial value.
        for name, weight in model.named_parameters():
            if "lora_B" in name or name == "head.place":
                weight.normal_(std=0.5)
        model.head.bias.normal_()
    return model


def images(model, count=5):
    return torch.randn(count, 3, model.image.size, model.image.size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_flipping_the_image_flips_the_estimates_exactly(model):
    pixels = images(model)
    estimates, flipped = model(pixels), model(pixels.flip(-1))
    assert estimates.shape == (5, 24) and estimates.min() >= 0 and estimates.max() <= 1
    assert torch.equal(torch.tensor([mirror_action_units(row) for row in flipped.tolist()]), estimates)
    # A single view lacks this symmetry, which comes from the mean.
    assert (
        model.forward_single_view(pixels.flip(-1))[:, model.mirror] - model.forward_single_view(pixels)
    ).abs().max() > 1e-3
    sided = [unit.number - 1 for unit in FEAFA if unit.side]
    assert (estimates - flipped)[:, sided].abs().max() > 1e-3


def test_trainable_weights(model):
    counts = model.trainable_counts()
    if model.config.vision_train == "lora":
        assert counts["vision"] == 2 * 2 * 2 * 8 * 32  # two layers, query and value, two factors of rank 8
    else:
        assert counts["vision"] == sum(weight.numel() for weight in model.vision.parameters())
    assert counts["head"] == sum(weight.numel() for weight in model.head.parameters())
    model.train().forward_single_view(images(model)).sum().backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = ActionUnitRegressor.from_pretrained(tmp_path / "model")
    assert again.image == model.image and not again.training
    with torch.no_grad():
        assert torch.equal(again(images(model)), model(images(model)))
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "explllm_action_units"


def test_weights_of_transformers_5_17(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / WEIGHTS
    weights = load_file(path)
    save_file({name.replace(".q_proj.", ".attention.query."): value for name, value in weights.items()}, path)
    again = ActionUnitRegressor.from_pretrained(tmp_path / "model")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in weights.items())


def test_named_base_weights_are_not_copied(tmp_path):
    plain = build_regressor(regressor_config(DINO))
    base = ActionUnitRegressor(regressor_config(RegressorSettings(**{**vars(DINO), "vision_train": "frozen"})))
    base.vision.save_pretrained(tmp_path / "dinov2")
    named = build_regressor(regressor_config(RegressorSettings(**{**vars(DINO), "vision": str(tmp_path / "dinov2")})))
    named.save_pretrained(tmp_path / "named")
    plain.save_pretrained(tmp_path / "plain")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("named", "plain")]
    assert sizes[0] < sizes[1] / 2
    again = ActionUnitRegressor.from_pretrained(tmp_path / "named")
    with torch.no_grad():
        assert torch.equal(again(images(named)), named(images(named)))


def test_estimates_of_image_files(tmp_path):
    frame = draw_faces(tmp_path / "drawn", train=0, val=0, test=2, size=32)
    model = build_regressor(regressor_config(CONV))
    paths = [frame.image_path(row) for row in range(2)]
    estimates = model.estimate(paths)
    assert np.shape(estimates) == (2, 24)
    assert model.estimate(paths[0])[0] == pytest.approx(estimates[0], abs=1e-6)
    [flipped] = model.estimate(ImageOps.mirror(Image.open(paths[1])))
    assert mirror_action_units(flipped) == pytest.approx(estimates[1], abs=1e-6)
    assert model.estimate([]) == []


def test_other_folders(tiny_model, tmp_path):
    with pytest.raises(MissingPathError, match="no config.json"):
        ActionUnitRegressor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'explllm', not 'explllm_action_units'"):
        tiny_model.save_pretrained(tmp_path / "explllm")
        ActionUnitRegressor.from_pretrained(tmp_path / "explllm")
    from explllm import ExpLLM

    model = build_regressor(regressor_config(CONV))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="type 'explllm_action_units', not 'explllm'"):
        ExpLLM.from_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ActionUnitRegressor.from_pretrained(tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="something other than a model"):
        model.save_pretrained(tmp_path / "full")


def test_invalid_settings():
    with pytest.raises(ConfigError, match="not a model_type"):
        regressor_config(RegressorSettings(vision={"model_type": "none"}))
    with pytest.raises(ConfigError, match="no image preset"):
        regressor_config(RegressorSettings(**{**vars(CONV), "image_preset": "none"}))
    with pytest.raises(ConfigError, match="head_width is 0"):
        regressor_config(RegressorSettings(**{**vars(CONV), "head_width": 0}))
    with pytest.raises(ConfigError, match="does not accept images of 4 pixels"):
        regressor_config(RegressorSettings(**{**vars(CONV), "image_size": 4}))


def test_meta_device_needs_no_download():
    parts = build_regressor_on_meta(RegressorSettings()).trainable_counts()
    assert parts["vision"] == 786_432  # as in the paper's encoder


@pytest.fixture
def needs_onnx():
    pytest.importorskip("onnx", reason="no onnx: pip install onnx")
    pytest.importorskip("onnxruntime", reason='no onnxruntime: pip install "explllm[aus]"')


def test_the_onnx_file_equals_the_model(model, tmp_path, needs_onnx):
    import onnxruntime

    difference = export_onnx(model, tmp_path / "au.onnx", images(model))
    assert difference <= 1e-5  # tolerance of the export: 1e-4; measured: 3e-7
    session = onnxruntime.InferenceSession(str(tmp_path / "au.onnx"), providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape[1:], value.type) for value in session.get_inputs()] == [
        ("pixel_values", [3, model.image.size, model.image.size], "tensor(float)")
    ]
    for count in (1, 2, 7):
        pixels = images(model, count)
        [estimates] = session.run(None, {"pixel_values": pixels.numpy()})
        with torch.no_grad():
            assert np.abs(estimates - model(pixels).numpy()).max() <= 1e-5
        [flipped] = session.run(None, {"pixel_values": pixels.flip(-1).numpy()})
        assert np.array_equal(flipped[:, model.mirror.numpy()], estimates)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["action_units"]) == list(NAMES)
    assert json.loads(metadata["image"]) == model.image.to_dict()
    assert metadata["image_preset"] == model.config.image_preset
    assert not {"margin", "training_data_note"} & set(metadata)


def test_the_onnx_file_carries_margin_and_training_data_note(model, tmp_path, needs_onnx):
    model.config.margin, model.config.training_data_note = 0.3, "The faces are drawn by a program, not photographs."
    model.save_pretrained(tmp_path / "model")
    reloaded = ActionUnitRegressor.from_pretrained(tmp_path / "model")
    export_onnx(reloaded, tmp_path / "au.onnx")
    estimator = OnnxRegressor(tmp_path / "au.onnx")
    assert (estimator.margin, estimator.training_data_note) == (0.3, model.config.training_data_note)
    assert estimator.preset == model.image


@pytest.mark.parametrize("broken", ["torch.onnx.export", "onnx.save", "onnxruntime.InferenceSession.run"])
def test_a_failed_export_is_one_line(model, tmp_path, needs_onnx, monkeypatch, broken):
    def fail(*arguments, **options):
        raise RuntimeError("no operator\nin this set")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(CheckpointError, match=r"cannot be written as ONNX \(RuntimeError: no operator in this set\)"):
        export_onnx(model, tmp_path / "au.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_estimates_is_not_written(model, tmp_path, needs_onnx, monkeypatch):
    (tmp_path / "au.onnx").write_bytes(b"the previous file")
    monkeypatch.setattr(au_export, "TOLERANCE", -1.0)
    with pytest.raises(CheckpointError, match="differ by .* from the model's"):
        export_onnx(model, tmp_path / "au.onnx")
    assert (tmp_path / "au.onnx").read_bytes() == b"the previous file"
    assert [path.name for path in tmp_path.iterdir()] == ["au.onnx"]


def test_the_comparison_detects_a_difference(model, tmp_path, needs_onnx):
    export_onnx(model, tmp_path / "au.onnx")
    with torch.no_grad():
        model.head.bias[3] += 0.01
    assert au_export.onnx_difference(model, tmp_path / "au.onnx", images(model)) > 1e-4
