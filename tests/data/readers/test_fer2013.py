import numpy as np
import pytest
from PIL import Image

from explllm.core.errors import ConfigError, InputError, ManifestError, MissingPathError
from explllm.data.readers.published import FER2013, FER2013_FOLDERS


def test_pixels_are_written_out(publishers, read, cells, tmp_path):
    reading = read("fer2013", publishers.fer2013_csv(tmp_path), check_images=True)
    assert cells(reading, "image", "expression", "split") == [
        ("faces-images/train/00000.png", "Anger", "train"),
        ("faces-images/train/00001.png", "Happiness", "train"),
        ("faces-images/val/00002.png", "Neutral", "val"),
        ("faces-images/test/00003.png", "Disgust", "test"),
    ]
    assert reading.manifest.root == tmp_path / "written"
    for row in range(4):
        pixels = np.array(Image.open(reading.manifest.image_path(row)))
        assert pixels.shape == (48, 48) and set(pixels.ravel()) == {50 * row}
    with pytest.raises(ConfigError, match=r"the folder of images exists \[.*faces-images\]"):
        read("fer2013", tmp_path)
    assert len(read("fer2013", tmp_path, overwrite=True).manifest) == 4


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("7,{good},Training", "7 is not in the label set fer2013"),
        ("0,{good} 1,Training", "2305 pixels instead of 2304"),
        ("0,1 2 x,Training", "pixels that are not numbers from 0 to 255"),
        ("0,{good},Trial", "unknown usage 'Trial'"),
    ],
)
def test_bad_rows(publishers, read, tmp_path, row, found):
    root = publishers.fer2013_csv(tmp_path)
    with (root / "fer2013.csv").open("a") as stream:
        stream.write(row.format(good=" ".join(["7"] * 2304)) + "\n")
    with pytest.raises(InputError, match=found) as caught:
        read("fer2013", root)
    assert "fer2013.csv, line 6]" in str(caught.value)
    assert not (tmp_path / "written" / "faces-images").exists()  # whole or not at all
    assert len(read("fer2013", root, max_bad=1).manifest) == 4


def test_class_folders(publishers, read, cells, tmp_path):
    reading = read("fer2013", publishers.fer2013_folders(tmp_path))
    assert cells(reading, "image", "expression", "split") == [
        ("test/neutral/1.png", "Neutral", "test"),
        ("train/angry/1.png", "Anger", "train"),
        ("train/happy/1.png", "Happiness", "train"),
    ]
    assert "train 2 instead of 28,709" in reading.differences[0] and "test 1 instead of 7,178" in reading.differences[0]


@pytest.mark.parametrize("layout", ["csv", "folders"])
def test_votes(publishers, read, cells, tmp_path, layout):
    if layout == "csv":
        publishers.fer2013_csv(tmp_path)
        publishers.ferplus(tmp_path)
        images = ["faces-images/train/00000.png", "faces-images/test/00003.png"]
    else:
        publishers.ferplus_folders(tmp_path)
        images = ["FER2013Train/fer0000000.png", "FER2013Test/fer0000003.png"]
    reading = read("fer2013", tmp_path, labels="ferplus")
    assert cells(reading, "image", "expression", "split", "votes") == [
        (images[0], "Happiness", "train", [1, 7, 0, 0, 0, 0, 0, 0, 2, 0]),
        (images[1], "Contempt", "test", [0, 0, 0, 0, 0, 1, 0, 5, 4, 0]),
    ]
    assert reading.left_out == {"faces whose votes tie": 1, "faces that most call no face": 1}
    assert all(reading.manifest.image_path(row).is_file() for row in range(2))


def test_votes_of_other_faces(publishers, read, tmp_path):
    publishers.ferplus(tmp_path)
    with pytest.raises(MissingPathError, match="no list of FER2013 and no folder FER2013Train"):
        read("fer2013", tmp_path, labels="ferplus")
    publishers.fer2013_csv(tmp_path)
    path = tmp_path / "fer2013.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ManifestError, match=r"the number of lines differs from fer2013.csv \[.*fer2013new.csv\]"):
        read("fer2013", tmp_path, labels="ferplus")
    path.write_text("".join([*lines[:2], lines[3], lines[2], lines[4]]))
    with pytest.raises(
        InputError, match="the usage Training differs from PublicTest in the file of pixels .*fer2013new.csv, line 3"
    ):
        read("fer2013", tmp_path, labels="ferplus")
    path.write_text("".join(lines))
    votes = tmp_path / "fer2013new.csv"
    votes.write_text(votes.read_text().replace(",1,7,", ",one,7,"))
    with pytest.raises(InputError, match=r"invalid votes \[.*line 2\]"):
        read("fer2013", tmp_path, labels="ferplus")


def test_the_published_counts_add_up():
    assert [FER2013.counts[split] for split in ("train", "val", "test")] == [28709, 3589, 3589]
    assert [FER2013_FOLDERS.counts[split] for split in ("train", "test")] == [28709, 7178]
