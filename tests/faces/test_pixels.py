"""Presets give the pixels that one would make by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from explllm.core.errors import ConfigError
from explllm.faces.pixels import IMAGE_PRESETS, ImagePreset


@pytest.fixture
def picture():
    """A smooth color picture, wider than high."""
    y, x = np.mgrid[0:60, 0:80]
    return np.stack([x * 3, y * 4, 255 - x * 3], axis=2).astype(np.uint8)


def test_dinov2_pixels_are_those_of_its_own_processor(picture):
    """Resizing apart, which the test below holds: ImageNet's mean and deviation, channels first."""
    square = np.ascontiguousarray(picture[:56, :56])
    preset = ImagePreset.named("dinov2", size=56)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((square / 255 - mean) / std).transpose(2, 0, 1)
    pixels = preset(square)
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 56, 56)
    assert np.abs(pixels.numpy() - expected).max() < 1e-5


def test_squares(picture):
    """A red bar at the left edge of a wide picture: padded it stays, cropped it goes, stretched it stays."""
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :4] = (255, 0, 0)
    made = {
        way: ImagePreset(size=80, square=way, fill=(0, 0, 255)).resize(picture) for way in ("pad", "crop", "stretch")
    }
    assert all(image.shape == (80, 80, 3) for image in made.values())
    assert (made["pad"][:18] == (0, 0, 255)).all() and (made["pad"][62:] == (0, 0, 255)).all()
    assert made["pad"][40, 1, 0] > 200 and made["stretch"][:, 1, 0].min() > 200
    assert made["crop"][:, :, 0].max() < 30


def test_resizing_is_pillows(picture):
    image = Image.fromarray(picture)
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(ImagePreset(size=24, square="stretch", resample="bilinear").resize(picture), expected)
    # What has the size already is not touched.
    square = picture[:24, :24]
    assert np.array_equal(ImagePreset(size=24).resize(square), square)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_presets_survive_json(name):
    preset = IMAGE_PRESETS[name]
    assert ImagePreset.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    assert ImagePreset.named(name) == preset
    assert ImagePreset.named(name, 32).size == 32
    gray = np.full((9, 9, 3), 128, np.uint8)
    assert ImagePreset.named(name, 9)(gray).abs().max() < 1  # near the middle of what the encoder has seen


def test_an_unknown_preset():
    with pytest.raises(
        ConfigError, match="there is no image preset 'resnet'. Use one of dinov2, clip, released, siglip, small."
    ):
        ImagePreset.named("resnet")


def test_real_faces(reference_data):
    path = next(iter(sorted((reference_data / "faces").rglob("*.jpg")) or sorted(reference_data.rglob("*.png"))))
    pixels = ImagePreset.named("dinov2")(path)
    assert pixels.shape == (3, 224, 224) and pixels.isfinite().all() and pixels.std() > 0.2


def test_the_released_preset_ignores_orientation_and_pads(tmp_path):
    path = tmp_path / "turned.jpg"
    picture = np.zeros((20, 31, 3), np.uint8)
    picture[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture).save(path, exif=exif, quality=100)
    image = ImagePreset.named("released", size=31).resize(path)
    assert image.shape == (31, 31, 3)
    assert (image[:5] == (123, 117, 104)).all()
    assert (image[-6:] == (123, 117, 104)).all()
    assert image[15, 2].min() > 200 > 60 > image[15, 25].max()
    upright = ImagePreset.named("dinov2", size=31).resize(path)
    assert not np.array_equal(image, upright)


def test_without_antialiasing_a_shrunk_image_skips_pixels():
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::8] = 255
    smooth = ImagePreset(size=8, resample="bilinear").resize(lines)
    plain = ImagePreset(size=8, resample="bilinear", antialias=False).resize(lines)
    assert 0 < smooth.min() < smooth.max() < 255
    assert plain.max() == 0  # it looks between the fourth and the fifth pixel of eight
