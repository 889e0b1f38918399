"""The square around a box."""

import numpy as np
import pytest
from PIL import Image

from explllm.core.errors import ImageError
from explllm.faces.crop import face_crop, load_face


@pytest.fixture
def picture():
    """Every pixel tells its place."""
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


def place(crop, x, y):
    return crop.getpixel((x, y))[:2]


def test_the_longer_side_with_the_margin_around_the_middle(picture):
    crop = face_crop(picture, (30, 20, 10, 20), margin=0.25)
    assert crop.size == (30, 30)  # 20 and a quarter of it on each side
    assert place(crop, 0, 0) == (20, 15) and place(crop, 29, 29) == (49, 44)
    plain = face_crop(picture, (30, 20, 20, 20), margin=0)
    assert np.array_equal(np.asarray(plain), np.asarray(picture.crop((30, 20, 50, 40))))
    assert face_crop(picture, (30, 20, 20, 20), margin=-0.25).size == (10, 10)


def test_the_edge_is_repeated_where_the_square_reaches_beyond(picture):
    crop = face_crop(picture, (0, 0, 20, 20), margin=0.5)
    assert crop.size == (40, 40)
    assert place(crop, 0, 0) == place(crop, 10, 10) == (0, 0)
    assert place(crop, 39, 39) == (29, 29) and place(crop, 0, 39) == (0, 29)
    far = face_crop(picture, (70, 50, 20, 20), margin=0)
    assert far.size == (20, 20) and place(far, 19, 19) == (79, 59) and place(far, 0, 0) == (70, 50)


@pytest.mark.parametrize("box", [(80, 0, 5, 5), (0, 60, 5, 5), (-9, 0, 9, 9), (0, 0, 700, 10), (0, 0, 1e9, 1e9)])
def test_boxes_that_do_not_fit(picture, box):
    with pytest.raises(ImageError, match="does not fit the image of 80 x 60 pixels"):
        face_crop(picture, box)


def test_reading_a_face(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    assert load_face(tmp_path / "a.png", None).size == (80, 60)
    assert load_face(tmp_path / "a.png", None, max_size=40).size == (40, 30)
    assert load_face(tmp_path / "a.png", (30, 20, 20, 20), 0, 40).size == (20, 20)
