import json

import pytest
from PIL import Image

from explllm.core.errors import InputError, ManifestError, MissingPathError
from explllm.data.readers.cc3m import read_llava_captions


def test_llava_list(publishers, read, cells, tmp_path):
    reading = read("cc3m", publishers.cc3m_llava(tmp_path), check_images=True)
    assert cells(reading, "image", "caption", "split") == [
        (f"GCC_{number}.jpg", f"caption {number}", "train") for number in range(3)
    ]
    assert reading.manifest.root == tmp_path / "images"
    assert "rows 3 instead of 595,375" in reading.differences[0]
    (tmp_path / "images" / "GCC_1.jpg").unlink()
    with pytest.raises(InputError, match=r"missing image .*GCC_1.jpg \[.*chat.json, row 2\]"):
        read("cc3m", tmp_path)
    assert len(read("cc3m", tmp_path, max_bad=1).manifest) == 2


def test_shards(publishers, read, cells, tmp_path):
    reading = read("cc3m", publishers.cc3m_shards(tmp_path), check_images=True)
    assert cells(reading, "image", "caption") == [
        ("faces-images/00000/000000000.jpg", "a red bus"),
        ("faces-images/00000/000000001.jpg", "two dogs"),
        ("faces-images/00001/000010000.jpg", "ein Straßencafé"),
    ]
    for row in range(3):
        assert Image.open(reading.manifest.image_path(row)).size == (8, 8)


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ([("9.jpg", b"JPEG"), ("9.txt", b" ")], r"no caption \[.*00009.tar, 9\]"),
        ([("9.jpg", b"JPEG"), ("9.json", b'{"text": "x"}')], "no caption"),
        ([("9.jpg", b"JPEG"), ("9.json", b"{")], "no caption"),
        ([("9.jpg", b"JPEG")], "no caption"),
        ([("9.txt", b"a cat")], "no image, or an empty one"),
        ([("9.jpg", b""), ("9.txt", b"a cat")], "no image, or an empty one"),
        ([("../9.jpg", b"JPEG"), ("../9.txt", b"a cat")], r"the path ../9 leaves the folder"),
    ],
)
def test_bad_entries(publishers, read, tmp_path, members, found):
    root = publishers.cc3m_shards(tmp_path / "cc3m")
    publishers.shard(root / "00009.tar", members)
    with pytest.raises(InputError, match=found):
        read("cc3m", root)
    reading = read("cc3m", root, max_bad=1)
    assert len(reading.manifest) == 3 and len(read.warnings) == 1
    assert len(list((tmp_path / "written").rglob("*.jpg"))) == 3


@pytest.mark.parametrize("again", [("again.jpg", "JPEG"), ("same.jpg", "other")])
def test_a_repeated_key_does_not_take_the_image_of_the_first(publishers, read, tmp_path, again):
    root = publishers.cc3m_shards(tmp_path / "cc3m")
    pictures = [("9.jpg", b"first"), ("9.txt", b"a cat"), ("x.jpg", b"x"), ("x.txt", b"between")]
    second = [("9.jpg", b"first" if again[1] == "JPEG" else b"another"), ("9.txt", b"a dog")]
    publishers.shard(root / "00009.tar", [*pictures, *second])
    reading = read("cc3m", root, max_bad=1)
    frame = reading.manifest.frame
    [path] = frame[frame["caption"] == "a cat"]["image"]
    assert (reading.manifest.root / path).read_bytes() == b"first"
    assert "a dog" not in set(frame["caption"])


def test_images_are_decoded_when_asked(publishers, read, tmp_path):
    root = publishers.cc3m_shards(tmp_path / "cc3m")
    publishers.shard(root / "00009.tar", [("9.jpg", b"JPEG"), ("9.txt", b"a cat")])
    with pytest.raises(InputError, match=r"9.jpg: .*00009.tar, 9\]"):
        read("cc3m", root, check_images=True)


def test_broken_shards(publishers, read, tmp_path):
    root = publishers.cc3m_shards(tmp_path)
    whole = (root / "00000.tar").read_bytes()
    for content in (whole[: len(whole) // 4], b"nonsense" * 200):
        (root / "00000.tar").write_bytes(content)
        with pytest.raises(ManifestError, match=r"the shard is damaged or truncated .*00000.tar\]"):
            read("cc3m", root)
    assert not (tmp_path / "written" / "faces-images").exists()


def test_neither_list_nor_shards(read, tmp_path):
    with pytest.raises(MissingPathError, match="no list of captions and no shard"):
        read("cc3m", tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"image": "a.png"},
        {"conversations": [{"from": "gpt", "value": "b"}]},
        {"image": "a.png", "conversations": [{"from": "human", "value": "?"}]},
        {"image": "a.png", "conversations": [{"from": "gpt", "value": None}]},
        {"image": "a.png", "conversations": [{"from": "gpt", "value": " "}]},
        ["a.png"],
    ],
)
def test_entries_without_image_or_caption(tmp_path, broken):
    fine = {"image": "x.png", "conversations": [{"from": "gpt", "value": "fine"}]}
    (tmp_path / "chat.json").write_text(json.dumps([fine, broken]))
    with pytest.raises(ManifestError, match=r"entry 1 has no image or no caption \[.*chat.json\]"):
        read_llava_captions(tmp_path)


def test_invalid_lists(tmp_path):
    with pytest.raises(MissingPathError, match=r"no list of captions"):
        read_llava_captions(tmp_path)
    (tmp_path / "chat.json").write_text("[{")
    with pytest.raises(ManifestError, match="invalid JSON"):
        read_llava_captions(tmp_path)
    for content in ("{}", "3", "[]"):
        (tmp_path / "chat.json").write_text(content)
        with pytest.raises(ManifestError, match="not a list of images with captions"):
            read_llava_captions(tmp_path)
