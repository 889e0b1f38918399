import json

import numpy as np
import pytest

from explllm.core.errors import ConfigError, InputError, ManifestError, MissingPathError
from explllm.core.expressions import LABEL_SETS
from explllm.data.readers.published import AFFECTNET


def test_arrays(publishers, read, cells, tmp_path):
    root = publishers.affectnet_arrays(tmp_path)
    reading = read("affectnet", root)
    assert cells(reading, "image", "expression", "split") == [
        ("train_set/images/8.jpg", "Neutral", "train"),
        ("train_set/images/9.jpg", "Happiness", "train"),
        ("train_set/images/10.jpg", "Anger", "train"),
        ("train_set/images/12.jpg", "Contempt", "train"),
        ("val_set/images/8.jpg", "Sadness", "test"),
        ("val_set/images/9.jpg", "Contempt", "test"),
    ]
    assert reading.left_out == {"images labeled Uncertain": 1}
    assert "train 4 instead of 287,651" in reading.differences[0]
    seven = read("affectnet", root, classes=7)
    assert len(seven.manifest) == 4
    assert seven.left_out == {"images labeled Uncertain": 1, "images labeled Contempt": 2}
    assert "train 3 instead of 283,901" in seven.differences[0] and "Contempt" not in seven.differences[0]


def test_invalid_arrays(publishers, read, tmp_path):
    root = publishers.affectnet_arrays(tmp_path)
    broken = root / "train_set" / "annotations" / "9_exp.npy"
    for content, found in ((b"", "invalid NumPy array"), (b"nonsense", "invalid NumPy array")):
        broken.write_bytes(content)
        with pytest.raises(ManifestError, match=rf"{found}.*9_exp.npy\]"):
            read("affectnet", root)
    np.save(broken, np.array(["1", "2"]))
    with pytest.raises(ManifestError, match="2 values instead of a label"):
        read("affectnet", root)
    np.save(broken, np.array(["11"]))
    with pytest.raises(InputError, match=r"11 is not in the label set affectnet8 \[.*9_exp.npy\]"):
        read("affectnet", root)
    (root / "train_set" / "images" / "10.jpg").unlink()
    assert len(read("affectnet", root, max_bad=2).manifest) == 4 and len(read.warnings) == 2


def test_lists(publishers, read, cells, tmp_path):
    reading = read("affectnet", publishers.affectnet_lists(tmp_path), check_images=True)
    assert cells(reading, "image", "expression", "split", "box") == [
        ("Manually_Annotated_Images/1/a.jpg", "Happiness", "train", [2.0, 3.0, 10.0, 9.0]),
        ("Manually_Annotated_Images/2/c.jpg", "Contempt", "test", [0.0, 0.0, 20.0, 16.0]),
        ("Manually_Annotated_Images/2/d.jpg", "Anger", "test", [1.0, 1.0, 5.0, 5.0]),
    ]
    assert reading.left_out == {"images labeled Non-Face": 1}


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("1/z.jpg,0,0,5,5,x,1,0,0", r"missing image .*1/z.jpg \[.*training.csv, line 4\]"),
        ("1/b.jpg,0,0,0,5,x,1,0,0", r"has no area \[.*line 4\]"),
        ("1/b.jpg,0,0,NULL,5,x,1,0,0", r"'NULL' is not a valid face_width \[.*line 4\]"),
        ("1/b.jpg,0,0,5,5,x,12,0,0", r"12 is not in the label set .*line 4\]"),
        ("1/b.jpg,0,0,5,5", r"5 cells under 9 column names \[.*line 4\]"),
    ],
)
def test_bad_rows_of_lists(publishers, read, tmp_path, row, found):
    root = publishers.affectnet_lists(tmp_path)
    with (root / "training.csv").open("a") as stream:
        stream.write(row + "\n")
    with pytest.raises(InputError, match=found):
        read("affectnet", root)
    assert len(read("affectnet", root, max_bad=1).manifest) == 3


def test_a_list_without_a_column(publishers, read, tmp_path):
    root = publishers.affectnet_lists(tmp_path)
    path = root / "training.csv"
    path.write_text(path.read_text().replace("face_width", "width"))
    with pytest.raises(ManifestError, match=r"no column face_width among .*training.csv\]"):
        read("affectnet", root)
    path.unlink()
    assert read("affectnet", root).remarks == {"sets without a list training.csv": 1}


def test_kaggle_subset(publishers, read, cells, tmp_path):
    root = publishers.affectnet_kaggle(tmp_path)
    expected = [
        ("train_class/class001/image0000000.jpg", "Neutral", "train"),
        ("train_class/class008/image0000001.jpg", "Contempt", "train"),
        ("train_class/class003/image0000002.jpg", "Sadness", "train"),
        ("val_class/class007/image0000000.jpg", "Anger", "test"),
    ]
    assert cells(read("affectnet", root), "image", "expression", "split") == expected
    for name in ("train", "valid"):  # without its lists, the class folders tell the same
        (root / f"{name}-sample-affectnet.csv").unlink()
    publishers.text(root / "train_class" / "class001" / "notes.txt", "no image")
    reading = read("affectnet", root, classes=7)
    assert cells(reading, "image", "expression", "split") == [expected[0], expected[2], expected[3]]
    assert reading.left_out == {"files in class folders that are not images": 1, "images labeled Contempt": 1}


def test_paths_in_kaggle_lists(publishers, read, tmp_path):
    root = publishers.affectnet_kaggle(tmp_path)
    path = root / "train-sample-affectnet.csv"
    path.write_text(path.read_text().replace("train_class/", "/home/someone/AffectNet/train_class/"))
    assert read("affectnet", root).manifest.frame["image"][0] == "train_class/class001/image0000000.jpg"
    path.write_text(path.read_text().replace(",1\n", ",0\n"))
    with pytest.raises(InputError, match=r"'0' is not a class of the subset \[.*train-sample-affectnet.csv, line 2\]"):
        read("affectnet", root)


def test_list_of_words(publishers, read, cells, tmp_path):
    reading = read("affectnet", publishers.affectnet_words(tmp_path))
    assert cells(reading, "image", "expression", "split") == [
        ("anger/image1.jpg", "Anger", "train"),
        ("anger/image2.jpg", "Surprise", "train"),
        ("happy/image3.jpg", "Happiness", "train"),
    ]
    assert reading.remarks == {
        "rows without a split: used as train": 3,
        "rows whose label differs from their class folder: the label of the list is used": 1,
    }
    with (tmp_path / "labels.csv").open("a") as stream:
        stream.write("3,happy/image3.jpg,bored,0.5\n")
    with pytest.raises(InputError, match=r"'bored' is not in the label set .*labels.csv, line 5\]"):
        read("affectnet", tmp_path)


def test_unknown_layout(read, tmp_path):
    with pytest.raises(MissingPathError, match="unknown layout of AffectNet .*Expected train_set/"):
        read("affectnet", tmp_path)
    with pytest.raises(MissingPathError, match="the folder does not exist"):
        read("affectnet", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="unknown data set 'affectnot'. Use one of rafdb, affectnet"):
        read("affectnot", tmp_path)


def test_the_real_lists_of_kaggle_have_the_published_counts(publishers, read, reference_data, tmp_path):
    """The subset's own names and labels, taken from the released lists and written in the publisher's form."""
    numbers = LABEL_SETS["affectnet8"]
    for name in ("train", "valid"):
        path = reference_data / "affectnet" / f"Affectnet_kaggle_{name}-sample-affectnet.json"
        rows = [(r["file_name"], numbers.index(numbers.parse(r["emo"])) + 1) for r in json.loads(path.read_text())]
        publishers.table(tmp_path / f"{name}-sample-affectnet.csv", ["image", "emotion"], rows)
    reading = read("affectnet", tmp_path, images_exist=False)
    assert reading.differences == () and reading.remarks == {} and reading.left_out == {}
    assert reading.manifest.frame["split"].value_counts().to_dict() == {"train": 37553, "test": 4000}
    assert set(reading.manifest.select(split="test").frame["expression"].value_counts()) == {500}
    seven = read("affectnet", tmp_path, images_exist=False, classes=7)
    assert seven.differences == () and len(seven.manifest.select(split="test")) == 3500  # as in the paper


def test_the_published_counts_add_up():
    assert AFFECTNET.counts["train"] == 287651 and AFFECTNET.counts["test"] == 4000
