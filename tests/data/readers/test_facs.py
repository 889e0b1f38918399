"""DISFA and BP4D."""

import json
from collections import Counter

import pytest

from explllm.core.errors import ConfigError, InputError, ManifestError, MissingPathError
from explllm.data.readers import bp4d, disfa
from explllm.data.readers.folds import fold_splits


@pytest.mark.parametrize(("parts", "people"), [(disfa.PARTS, 27), (bp4d.PARTS, 41)])
def test_published_folds_share_no_person(parts, people):
    assert len(parts) == people
    sizes = sorted(list(parts.values()).count(part) for part in (1, 2, 3))
    assert sum(sizes) == people and sizes[2] - sizes[0] <= 1


@pytest.mark.parametrize("parts", [disfa.PARTS, bp4d.PARTS])
@pytest.mark.parametrize("fold", [1, 2, 3])
def test_validation_people_are_held_out_of_training(parts, fold):
    splits = fold_splits(parts, fold, 0.1)
    assert splits == fold_splits(dict(reversed(parts.items())), fold, 0.1)  # not by the order of the people
    assert {name for name, split in splits.items() if split == "test"} == {
        n for n, part in parts.items() if part == fold
    }
    counts = Counter(splits.values())
    assert counts["val"] == round((len(parts) - counts["test"]) * 0.1) and set(splits) == set(parts)
    assert set(fold_splits(parts, fold, 0).values()) == {"train", "test"}
    assert set(fold_splits(parts, None, 0.1).values()) == {"train"}
    assert Counter(fold_splits({"a": 1, "b": 2, "c": 3}, 1, 0.1).values()) == dict.fromkeys(("train", "val", "test"), 1)
    with pytest.raises(ConfigError, match="val_fraction is 1"):
        fold_splits(parts, fold, 1)


def test_disfa(publishers, read, cells, tmp_path):
    root = publishers.disfa(tmp_path)
    reading = read("disfa", root, fold=3)
    four_and_twelve = [0, 0, 1, 0, 0, 1, 0, 0]  # of 1, 2, 4, 6, 9, 12, 25, 26
    assert cells(reading, "image", "split", "identity", "facs", "facs_set") == [
        (f"RightVideo{person}/frame_{frame}.jpg", split, person, four_and_twelve if frame >= 2 else [0] * 8, "disfa8")
        for person, split in (("SN001", "train"), ("SN003", "test"))
        for frame in (1, 2, 3)
    ]
    assert reading.differences == (
        "differs from the published counts (DISFA, Mavadati et al., 2013): people 2 instead of 27",
    )
    assert list(read("disfa", root, threshold=3).manifest.frame["facs"]) == [[0] * 8, [0] * 8, four_and_twelve] * 2
    assert set(read("disfa", root).manifest.frame["split"]) == {"train"}


def test_frame_pattern_of_disfa(publishers, read, tmp_path):
    root = publishers.disfa(tmp_path)
    for person in ("SN001", "SN003"):
        for frame in (0, 1, 2):
            publishers.image(root / "img" / person / f"{frame:03d}.png")
    reading = read("disfa", root, frames="img/{subject}/{frame0:03d}.png")
    assert list(reading.manifest.frame["image"][:3]) == [f"img/SN001/{frame:03d}.png" for frame in (0, 1, 2)]
    with pytest.raises(
        InputError, match=r"missing image .*SN001/3.png \[.*SN001, frame 3\]. Describe the image paths with --fr"
    ):
        read("disfa", root, frames="img/{subject}/{frame}.png")
    with pytest.raises(ConfigError, match="Use the fields subject, frame, frame0"):
        read("disfa", root, frames="img/{person}/{frame}.png")


def test_bad_files_of_disfa(publishers, read, tmp_path):
    root = publishers.disfa(tmp_path)
    path = root / "ActionUnit_Labels" / "SN003" / "SN003_au9.txt"
    for line, found in (
        ("2,6", "'6' is not a valid intensity"),
        ("2", "'' is not a valid intensity"),
        ("two,1", "'two' is not a valid frame number"),
    ):
        path.write_text(f"1,0\n{line}\n3,0\n")
        with pytest.raises(InputError, match=rf"{found}.*SN003_au9.txt, line 2\]"):
            read("disfa", root)
    path.write_text("1,0\n2,9\n3,0\n")
    assert len(read("disfa", root, max_bad=1).manifest) == 5
    path.write_text("1,0\n2,0\n")
    with pytest.raises(ManifestError, match=r"no intensity of AU 9 \[.*SN003, frame 3\]"):
        read("disfa", root)
    path.unlink()
    with pytest.raises(MissingPathError, match=r"missing label file of a unit \[.*SN003_au9.txt\]"):
        read("disfa", root, max_bad=99)
    with pytest.raises(ConfigError, match="fold 4"):
        read("disfa", root, fold=4)


def test_a_list_of_disfa(read, cells, reference_data):
    listing = reference_data / "au_formats" / "SSM_DISFA_test1_head200.jsonl"
    reading = read("disfa", listing.parent, listing=str(listing), images_exist=False)
    first = json.loads(listing.read_text().splitlines()[0])
    assert first == {"img_path": "RightVideoSN010/frame_1.jpg", "AUs": [999, 999, 25, 999, 999, 999, 999, 999]}
    assert len(reading.manifest) == 200
    assert cells(reading, "image", "split", "identity", "facs")[0] == (
        "RightVideoSN010/frame_1.jpg",
        "test",
        "SN010",
        [0, 0, 0, 0, 0, 0, 1, 0],
    )
    assert cells(reading, "facs")[-1] == ([0, 0, 0, 0, 0, 1, 1, 0],)
    # The list's name says that it is the first fold's test, and so does ours.
    fold = read("disfa", listing.parent, listing=str(listing), images_exist=False, fold=1)
    assert set(fold.manifest.frame["split"]) == {"test"}


def test_bp4d(publishers, read, cells, tmp_path):
    reading = read("bp4d", publishers.bp4d(tmp_path), fold=1)
    one_and_twelve = [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]  # of 1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24
    assert cells(reading, "image", "split", "identity", "facs", "facs_set") == [
        (f"{person}/T1/{frame}.jpg", split, person, one_and_twelve, "bp4d12")
        for person, split in (("F001", "test"), ("F003", "train"))
        for frame in (2440, 2441)
    ]
    assert reading.left_out == {"frames with a unit that was not coded": 2}
    assert "people 2 instead of 41" in reading.differences[0]


def test_bad_files_of_bp4d(publishers, read, tmp_path):
    root = publishers.bp4d(tmp_path)
    path = root / "AUCoding" / "AU_OCC" / "F003_T1.csv"
    whole = path.read_text()
    path.write_text(whole.replace("2441,1", "2441,3"))
    with pytest.raises(InputError, match=r"instead of 12 values 0 or 1 \[.*F003_T1.csv, line 3\]"):
        read("bp4d", root)
    path.write_text(whole.replace(",24,", ",240,"))
    with pytest.raises(ManifestError, match=r"no column 24 among .*F003_T1.csv\]"):
        read("bp4d", root)
    path.write_text(whole)
    with pytest.raises(InputError, match=r"missing image .*F001/T1/02440.jpg .*--frames"):
        read("bp4d", root, frames="{subject}/{task}/{frame:05d}.jpg")


def test_a_list_of_bp4d(read, cells, reference_data):
    listing = reference_data / "au_formats" / "SSM_bp4d_test1_head200.list"
    reading = read("bp4d", listing.parent, listing=listing.name, images_exist=False, fold=1)
    assert len(reading.manifest) == 200 and set(reading.manifest.frame["split"]) == {"test"}
    assert cells(reading, "image", "identity", "facs")[6] == (
        "2F23_10/1007.jpg",
        "F023",
        [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
    )
    other = read("bp4d", listing.parent, listing=listing.name, images_exist=False, fold=2)
    assert set(other.manifest.frame["split"]) == {"train"}


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("disfa", '{"img_path": "RightVideoSN010/frame_1.jpg", "AUs": [3]}', "unit 3"),
        ("disfa", '{"img_path": "RightVideoSN010/frame_1.jpg"}', "invalid line"),
        ("disfa", "RightVideoSN010/frame_1.jpg", "invalid line"),
        ("disfa", '{"img_path": "frame_1.jpg", "AUs": [1]}', "no person in the path 'frame_1.jpg'"),
        ("disfa", '{"img_path": "SN099/1.jpg", "AUs": [1]}', "'SN099' is in no fold"),
        ("bp4d", "2F23_10/1001.jpg 1 1", "instead of 12 values 0 or 1"),
        ("bp4d", "1001.jpg 1 1 0 0 0 0 0 0 0 0 0 0", "no person in the path '1001.jpg'"),
    ],
)
def test_bad_lines_of_lists(publishers, read, tmp_path, name, line, found):
    publishers.text(tmp_path / "some.list", line)
    with pytest.raises(InputError, match=found) as caught:
        read(name, tmp_path, listing="some.list", images_exist=False, fold=1)
    assert "some.list, line 1]" in str(caught.value)
    with pytest.raises(MissingPathError, match="the list does not exist"):
        read(name, tmp_path, listing="other.list")
