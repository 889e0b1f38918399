import pytest

from explllm.core.errors import ConfigError, InputError, MissingPathError


def test_faces_above_the_confidence(publishers, read, cells, tmp_path):
    reading = read("expw", publishers.expw(tmp_path), check_images=True)
    assert cells(reading, "image", "expression", "split", "box") == [
        ("image/origin/a.jpg", "Happiness", "test", [2.0, 3.0, 10.0, 11.0]),
        ("image/origin/a.jpg", "Neutral", "test", [13.0, 1.0, 6.0, 8.0]),
        ("image/origin/b.jpg", "Surprise", "test", [0.0, 0.0, 12.0, 12.0]),
    ]
    assert reading.left_out == {"faces with a confidence of at most 60": 1, "repeated rows": 1}
    assert reading.differences == (
        "differs from the published counts (ExpW, Zhang et al., ICCV 2015): faces 5 instead of 91,793",
    )
    assert len(read("expw", tmp_path, min_confidence=0).manifest) == 4


def test_draws(publishers, read, tmp_path):
    root = publishers.expw(tmp_path)
    faces = [f"a.jpg {i} {i} 0 9 {i + 5} 90 {i % 7}" for i in range(10)]
    publishers.text(root / "label" / "label.lst", *faces)
    drawn = {seed: list(read("expw", root, draw=4, seed=seed).manifest.frame["box"]) for seed in (0, 0, 1)}
    assert drawn[0] == list(read("expw", root, draw=4).manifest.frame["box"])
    assert drawn[0] != drawn[1] and all(
        len(boxes) == 4 and boxes == sorted(boxes, key=lambda b: b[1]) for boxes in drawn.values()
    )
    assert read("expw", root, draw=4).left_out == {"rows not drawn": 6}
    for wrong in (0, 11):
        with pytest.raises(ConfigError, match="cannot draw .* of 10 rows"):
            read("expw", root, draw=wrong)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a.jpg 0 3 2 12 14 80.5", "invalid line .*Expected the form: image_name face_id top left right bottom"),
        ("a.jpg 0 3 12 2 14 80.5 3", "has no area"),
        ("a.jpg 0 3 2 12 14 high 3", "'high' is not a valid confidence"),
        ("a.jpg 0 3 2 12 14 80.5 7", "7 is not in the label set expw"),
        ("c.jpg 0 3 2 12 14 80.5 3", "missing image .*c.jpg"),
        ("a.jpg 0 3 2 12 14 80.5 4", "a second, different row of the same face in image/origin/a.jpg"),
    ],
)
def test_bad_lines(publishers, read, tmp_path, line, found):
    root = publishers.expw(tmp_path)
    with (root / "label" / "label.lst").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=found) as caught:
        read("expw", root)
    assert "label.lst, line 6]" in str(caught.value)
    assert len(read("expw", root, max_bad=1).manifest) == 3


def test_boxes_outside_their_image(publishers, read, tmp_path):
    root = publishers.expw(tmp_path)
    publishers.text(root / "label" / "label.lst", "a.jpg 0 16 0 10 30 90 1")
    assert len(read("expw", root).manifest) == 1
    with pytest.raises(InputError, match=r"\[0.0, 16.0, 10.0, 14.0\] is outside the image .* of 20 x 16 pixels"):
        read("expw", root, check_images=True)


def test_folders(publishers, read, tmp_path):
    root = publishers.expw(tmp_path)
    (root / "image").rename(root / "pictures")
    with pytest.raises(MissingPathError, match="no folder of images .*Expected image/origin or data/image/origin"):
        read("expw", root)
    assert read("expw", root, image_dir="pictures/origin").manifest.frame["image"][0] == "pictures/origin/a.jpg"
