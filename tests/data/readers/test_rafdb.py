import json
from collections import Counter

import pytest

from explllm.core.errors import InputError, MissingPathError
from explllm.core.expressions import LABEL_SETS


def test_aligned(publishers, read, cells, tmp_path):
    reading = read("rafdb", publishers.rafdb(tmp_path / "basic"))
    assert cells(reading, "image", "expression", "split") == [
        ("Image/aligned/train_00001_aligned.jpg", "Sadness", "train"),
        ("Image/aligned/train_00002_aligned.jpg", "Surprise", "train"),
        ("Image/aligned/train_00003_aligned.jpg", "Happiness", "train"),
        ("Image/aligned/test_0001_aligned.jpg", "Neutral", "test"),
        ("Image/aligned/test_0002_aligned.jpg", "Fear", "test"),
    ]
    assert all(reading.manifest.image_path(row).is_file() for row in range(5))
    (difference,) = reading.differences
    assert "RAF-DB, Li et al., CVPR 2017" in difference
    assert "train 3 instead of 12,271" in difference and "test Fear 1 instead of 74" in difference


def test_originals_have_boxes(publishers, read, cells, tmp_path):
    root = publishers.rafdb(tmp_path)
    (root / "Annotation" / "boundingbox" / "test_0002_boundingbox.txt").unlink()
    reading = read("rafdb", root, images="original", check_images=True)
    assert cells(reading, "image", "box")[0] == ("Image/original/train_00001.jpg", [10.5, 5.0, 30.0, 30.0])
    assert cells(reading, "box")[4] == (None,)
    assert reading.remarks == {"original images without a box": 1}


@pytest.mark.parametrize("place", ["EmoLabel/list_partition_label.txt", "list_patition_label.txt"])
def test_other_places_of_the_list(publishers, read, tmp_path, place):
    root = publishers.rafdb(tmp_path)
    (root / "EmoLabel" / "list_patition_label.txt").rename(root / place)
    assert len(read("rafdb", root).manifest) == 5


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train_00001.jpg", "invalid line"),
        ("train_00001.jpg 8", "8 is not in the label set rafdb"),
        ("val_00001.jpg 1", "names no split"),
        ("train_00009.jpg 1", "missing image .*train_00009_aligned.jpg"),
        ("train_00001.jpg 1", "a second, different row of the same face"),
    ],
)
def test_bad_lines_are_reported_and_can_be_skipped(publishers, read, tmp_path, line, found):
    root = publishers.rafdb(tmp_path)
    listing = root / "EmoLabel" / "list_patition_label.txt"
    listing.write_text(listing.read_text() + f"\n{line}\n")
    with pytest.raises(InputError, match=found) as caught:
        read("rafdb", root)
    assert "list_patition_label.txt, line 7]" in str(caught.value) and "--max_bad" in str(caught.value)
    reading = read("rafdb", root, max_bad=1)
    assert len(reading.manifest) == 5 and len(reading.bad) == 1
    assert (
        len(read.warnings) == 1 and "row 1 of at most 1 left out" in read.warnings[0] and "line 7]" in read.warnings[0]
    )
    listing.write_text(listing.read_text() + "nonsense\n")
    with pytest.raises(InputError, match="2 bad rows, last: invalid line 'nonsense'"):
        read("rafdb", root, max_bad=1)


def test_images_that_cannot_be_used(publishers, read, tmp_path):
    root = publishers.rafdb(tmp_path)
    image = root / "Image" / "original" / "train_00002.jpg"
    box = root / "Annotation" / "boundingbox" / "train_00003_boundingbox.txt"
    whole = image.read_bytes()
    image.write_bytes(b"")
    assert len(read("rafdb", root, images="original").manifest) == 5  # nothing is decoded unless asked
    with pytest.raises(InputError, match=r"train_00002.jpg is empty \(0 bytes\) \[.*line 2\]"):
        read("rafdb", root, images="original", check_images=True)
    image.write_bytes(whole[:200])
    with pytest.raises(InputError, match=r"train_00002.jpg: .*line 2\]"):
        read("rafdb", root, images="original", check_images=True)
    image.write_bytes(whole)
    box.write_text("70 5 80 30")
    with pytest.raises(InputError, match=r"is outside the image .*train_00003.jpg of 60 x 40 pixels \[.*line 3\]"):
        read("rafdb", root, images="original", check_images=True)
    box.write_text("-1 5 40 30")
    assert read("rafdb", root, images="original", check_images=True).remarks == {
        "boxes that extend beyond their image": 1
    }
    for wrong in ("40 5 40 30", "1 2 3", "a b c d"):
        box.write_text(wrong)
        with pytest.raises(InputError, match=r"train_00003_boundingbox.txt \[.*line 3\]"):
            read("rafdb", root, images="original")


def test_missing_parts(publishers, read, tmp_path):
    with pytest.raises(
        MissingPathError, match="no label list of RAF-DB .*Expected EmoLabel/list_patition_label.txt or "
    ):
        read("rafdb", tmp_path)
    root = publishers.rafdb(tmp_path / "basic")
    (root / "Image" / "aligned").rename(root / "Image" / "other")
    with pytest.raises(MissingPathError, match="no folder of aligned images"):
        read("rafdb", root)


def test_the_real_list_has_the_published_counts(publishers, read, reference_data, tmp_path):
    """RAF-DB's own names and labels, taken from the released lists and written in the publisher's form."""
    numbers = LABEL_SETS["rafdb"]
    lines = []
    for name in ("rafdb_train.json", "rafdb_valid.json"):
        for record in json.loads((reference_data / "rafdb" / name).read_text()):
            label = numbers.index(numbers.parse(record["emo"]))
            lines.append(f"{record['file_name'].replace('_aligned', '')} {label}")
    publishers.text(tmp_path / "EmoLabel" / "list_patition_label.txt", *lines)
    (tmp_path / "Image" / "aligned").mkdir(parents=True)
    reading = read("rafdb", tmp_path, images_exist=False)
    assert reading.differences == () and reading.bad == () and reading.left_out == {}
    assert Counter(reading.manifest.frame["split"]) == {"train": 12271, "test": 3068}
