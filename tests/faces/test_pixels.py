"""Images of any kind become the same pixels that one would make by hand."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from explllm.core.errors import ConfigError, ImageError, MissingPathError
from explllm.faces.pixels import IMAGE_PRESETS, ImagePreset, load_image


@pytest.fixture
def picture():
    """A smooth color picture, wider than high."""
    y, x = np.mgrid[0:60, 0:80]
    return np.stack([x * 3, y * 4, 255 - x * 3], axis=2).astype(np.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def test_every_way_of_giving_an_image(picture, tmp_path):
    image = Image.fromarray(picture)
    path = saved(image, tmp_path / "face.png")
    for source in (path, str(path), image, picture):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), picture)
    gray = picture[:, :, 0]
    assert np.array_equal(np.asarray(load_image(gray)), np.repeat(gray[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_become_rgb(picture, mode):
    image = Image.fromarray(picture).convert("RGB")
    loaded = np.asarray(load_image(image.convert(mode))).astype(int)
    expected = np.asarray(image.convert(mode).convert("RGB"))
    assert loaded.shape == (60, 80, 3)
    assert np.abs(loaded - expected.astype(int)).max() <= 1


def test_transparency_lies_over_white(picture):
    alpha = np.full((60, 80, 1), 255, np.uint8)
    alpha[:30] = 0
    loaded = np.asarray(load_image(np.concatenate([picture, alpha], axis=2)))
    assert (loaded[:30] == 255).all() and np.array_equal(loaded[30:], picture[30:])
    half = Image.fromarray(np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 128, np.uint8)]), "RGBA")
    assert np.abs(np.asarray(load_image(half)).astype(int) - 127).max() <= 1
    # A palette with a transparent color, as GIF files have.
    palette = Image.fromarray(picture).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert load_image(palette).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    loaded = np.asarray(load_image(path))[:, :, 0].astype(float)
    assert np.abs(loaded - values / 257).max() < 1
    assert loaded.min() == 0 and loaded.max() == 255


def test_exif_orientation_is_applied(picture, tmp_path):
    turned = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 270 degrees to look at it
    path = saved(turned, tmp_path / "phone.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(path)), picture)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats_whatever_the_name_says(picture, tmp_path, format_):
    path = tmp_path / "face.jpg"
    Image.fromarray(picture).save(path, format_)
    assert np.abs(np.asarray(load_image(path)).astype(int) - picture).mean() < 8


@pytest.mark.parametrize("length", [0, 10, 200, -20])
def test_broken_files(picture, tmp_path, length):
    held = io.BytesIO()
    Image.fromarray(picture).save(held, "JPEG")
    path = tmp_path / "broken.jpg"
    path.write_bytes(held.getvalue()[:length])
    with pytest.raises(ImageError, match=r"unreadable image: .* \[.*broken.jpg\]. Replace the file or remove it."):
        load_image(path)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="not an image, or of an unknown format"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(MissingPathError, match=r"there is no such image \[none.jpg\]"):
        load_image("none.jpg")
    with pytest.raises(MissingPathError):
        load_image(tmp_path)  # a folder


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((3,), np.uint8), np.zeros((0, 4, 3), np.uint8)],
    ids=["float", "two channels", "one dimension", "empty"],
)
def test_arrays_that_are_no_images(array):
    with pytest.raises(ImageError, match="is not an image"):
        load_image(array)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = saved(Image.new("RGB", (50, 50)), tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="unreadable image"):
        load_image(path)


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
