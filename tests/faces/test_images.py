"""Images of any kind become the pixels that one would make by hand."""

import io
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps

from explllm.core.errors import ImageError, MissingPathError
from explllm.faces.crop import load_face
from explllm.faces.images import allow_pixels, image_files, load_image, load_reduced


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


@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_sixteen_bits_are_scaled(tmp_path, options):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png", **options)
    loaded = np.asarray(load_image(path))[:, :, 0].astype(float)
    assert np.abs(loaded - values / 257).max() < 1
    assert loaded.min() == 0 and loaded.max() == 255


def test_exif_orientation_is_applied(picture, tmp_path):
    turned = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 270 degrees to look at it
    path = saved(turned, tmp_path / "phone.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(path)), picture)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_formats_whatever_the_name_says(picture, tmp_path, format_):
    path = tmp_path / "face.jpg"
    Image.fromarray(picture).save(path, format_)
    assert np.abs(np.asarray(load_image(path)).astype(int) - picture).mean() < 8


def test_heic_photographs(picture, tmp_path, monkeypatch):
    """Apple's format needs an extra package, and the message names it."""
    heif = pytest.importorskip("pillow_heif", reason='no pillow-heif: pip install "explllm[heif]"')
    heif.from_pillow(Image.fromarray(picture)).save(tmp_path / "photo.HEIC", quality=95)
    content = (tmp_path / "photo.HEIC").read_bytes()
    # Another test may have registered the reader. PIL registers its own readers only once, so before the lists change.
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: reader for name, reader in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "pillow_heif", None)
        with pytest.raises(ImageError, match=r'photo.HEIC\]. Install it: pip install "explllm\[heif\]"'):
            load_image(tmp_path / "photo.HEIC")
    for source in (tmp_path / "photo.HEIC", content, io.BytesIO(content)):
        assert np.abs(np.asarray(load_image(source)).astype(int) - picture).mean() < 4
    assert load_reduced(content, 10).size == (80, 60)
    with pytest.raises(ImageError, match="unreadable image"):
        load_image(content[:300])


def test_eps_is_rejected_without_ghostscript(picture, tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether Pillow has found the program
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "EPS")
    (tmp_path / "face.jpg").write_bytes(content.getvalue())
    for read in (load_image, lambda source: load_reduced(source, 10)):
        for source in (tmp_path / "face.jpg", content, content.getvalue() + b"truncated"):
            with pytest.raises(ImageError, match="unreadable image: not an image, or in an unknown format"):
                read(source)
    assert not (tmp_path / "started").exists()


def test_several_pictures_in_one_jpeg_file(picture, tmp_path):
    """Some cameras write them, in the format MPO."""
    first, second = Image.fromarray(picture), Image.fromarray(picture[::-1])
    path = saved(first, tmp_path / "face.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(np.asarray(load_image(path)).astype(int) - picture).mean() < 8


def test_lists_of_files(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.heic", "._a.jpg", "notes.txt", "empty/notes.txt", "odd[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def listed(*names):
        return [path.removeprefix(f"{tmp_path}/") for path in image_files(f"{tmp_path}/{name}" for name in names)]

    assert listed("") == ["a.JPG", "b.png", "deep/c.heic", "odd[1].png"]
    assert listed("*.png", "odd[1].png", "none.png") == ["b.png", "odd[1].png", "odd[1].png", "none.png"]
    assert listed("**/*.heic", "deep") == ["deep/c.heic"] * 2
    with pytest.raises(MissingPathError, match=r"the folder has no images \[.*empty\]. Use a folder with .bmp"):
        listed("empty")
    with pytest.raises(MissingPathError, match=r"no file matches the pattern \[.*\*.gif\]. Check the pattern."):
        listed("b.png", "*.gif")
    # Linked folders are searched, each once, even if a link leads back to a parent.
    for link, target in (("deep/up", tmp_path), ("deep/a", tmp_path / "more"), ("more/b", tmp_path / "deep")):
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(target)
    (tmp_path / "more/d.png").touch()
    assert listed("") == ["a.JPG", "b.png", "deep/c.heic", "more/d.png", "odd[1].png"]
    assert listed("deep") == ["deep/a/d.png", "deep/c.heic", "deep/up/a.JPG", "deep/up/b.png", "deep/up/odd[1].png"]


@pytest.mark.parametrize("length", [0, 10, 200])
def test_broken_files(picture, tmp_path, length):
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG")
    path = tmp_path / "broken.jpg"
    path.write_bytes(content.getvalue()[:length])
    with pytest.raises(ImageError, match=r"unreadable image: .* \[.*broken.jpg\]. Replace the file or remove it."):
        load_image(path)


def test_a_jpeg_that_lacks_its_end_is_read_with_a_warning(photographs, tmp_path):
    content = io.BytesIO()
    photographs["astronaut"].save(content, "JPEG", quality=90)
    complete = np.asarray(load_image(content)).astype(int)
    path = tmp_path / "cut.jpg"
    for share in (0.999, 0.9):
        path.write_bytes(content.getvalue()[: int(len(content.getvalue()) * share)])
        with pytest.warns(UserWarning, match=r"the image file is truncated \[.*cut.jpg\]"):
            image = load_image(path)
        assert image.info["truncated"] and np.array_equal(np.asarray(image)[:380], complete[:380])
        with pytest.warns(UserWarning, match="truncated"):
            assert load_reduced(path, 64).truncated and load_face(path, (10, 10, 50, 50), max_size=40).info["truncated"]
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    with pytest.raises(ImageError, match="unreadable image: .*truncated"):
        load_image(path)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match="not an image, or in an unknown format"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(MissingPathError, match=r"the image does not exist \[none.jpg\]"):
        load_image("none.jpg")
    with pytest.raises(MissingPathError, match=r"a folder, not an image \[.*\]. List its images with"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    "array",
    [np.full((4, 4, 3), 2.0), np.full((4, 4), np.nan), np.zeros((9, 9, 2), np.uint8), np.zeros((3,), np.uint8),
     np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.int64)],
    ids=["range", "nan", "two channels", "one dimension", "empty", "integers"],
)  # fmt: skip
def test_arrays_that_are_not_images(array):
    with pytest.raises(ImageError, match="is not an image"):
        load_image(array)


def test_too_many_pixels_need_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = saved(Image.new("RGB", (50, 50)), tmp_path / "bomb.jpg")
    for load in (load_image, lambda path: load_reduced(path, 10)):
        with pytest.raises(
            ImageError, match=r"the image has 2,500 pixels, more than the limit \[.*`explllm aus` have --max_pixels"
        ):
            load(path)
    with warnings.catch_warnings():
        allow_pixels(2500)
        assert load_image(path).size == load_reduced(path, 50).size == (50, 50)


def test_arrays_and_tensors_in_any_layout(picture):
    image = np.asarray(load_image(picture))
    floats = picture / np.float32(255)
    tensor = torch.from_numpy(floats).permute(2, 0, 1)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    for source in (floats, floats.astype(np.float64), picture.transpose(2, 0, 1), tensor, content, content.getvalue()):
        assert np.array_equal(np.asarray(load_image(source)), image)
    half = tensor.to(torch.bfloat16)
    assert np.array_equal(np.asarray(load_image(half)), np.asarray(load_image(half.float())))


def test_wide_pixels_are_read_correctly_or_refused(tmp_path):
    gray = np.arange(256, dtype=np.float32).reshape(16, 16)
    expected = np.repeat(gray[:, :, None], 3, axis=2).astype(np.uint8)
    for name, values in {
        "one": gray / 255,
        "bytes": gray,
        "int": gray.astype(np.int32),
        "deep": (gray * 257).astype(np.int32),
        "sixteen": (gray * 257).astype(np.uint16),
    }.items():
        path = saved(Image.fromarray(values), tmp_path / f"{name}.tiff")
        assert np.array_equal(np.asarray(load_image(path)), expected), name
    dark = saved(Image.fromarray(np.full((4, 4), 200, np.uint16)), tmp_path / "dark.png")
    assert np.asarray(load_image(dark)).max() == 1  # 200 of 65,535
    for values in (gray * 1000, gray - 5, np.full((4, 4), np.nan, np.float32), (gray * 9999).astype(np.int32)):
        path = saved(Image.fromarray(values), tmp_path / "unclear.tiff")
        with pytest.raises(ImageError, match=r"pixels from .*, whose range is unclear \[.*unclear.tiff\]"):
            load_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_images_are_upright_and_alike(photographs, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = photographs["astronaut"].crop((0, 0, 400, 512))
    path = saved(source, tmp_path / "phone.jpg", exif=exif, quality=95)
    upright = load_image(path)
    whole = load_reduced(path, 300)
    assert whole.size == upright.size and np.array_equal(whole.pixels, np.asarray(upright))
    half = load_reduced(path, 256)
    assert half.size == upright.size and max(half.pixels.shape) == 256
    shrunk = np.asarray(upright.resize(half.pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(half.pixels - shrunk).mean() < 3
    # A part keeps its pixels.
    assert max(load_reduced(path, 256, part=300).pixels.shape) == 512
    box = (100, 100, 200, 200)
    crop, exact = load_face(path, box, 0, 100), load_face(path, box, 0)
    assert crop.size == (100, 100) and exact.size == (200, 200)
    assert np.abs(np.asarray(crop).astype(int) - np.asarray(exact.resize((100, 100)))).mean() < 4
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), np.asarray(upright))
