"""Further layouts in which copies of the data sets circulate."""

import csv
import gzip
import json
import shutil

import pytest

from explllm.core.errors import InputError, ManifestError, MissingPathError, UnknownExpressionError


def test_feafa_plus_has_the_people_below_its_two_parts(publishers, read, tmp_path):
    publishers.feafa(tmp_path / "FEAFA-A", people=3)
    for video in ("LeftVideoSN001", "RightVideoSN001", "RightVideoSN002"):
        image = publishers.image(tmp_path / "DISFA-A" / video / "0001.jpg")
        publishers.text(image.with_suffix(".auw"), " ".join(["0.5"] * 24))
    frame = read("feafa", tmp_path).manifest.frame
    assert set(frame["identity"]) == {"P1", "P2", "P3", "SN001", "SN002"}
    assert dict(zip(frame["image"], frame["identity"], strict=True))["DISFA-A/LeftVideoSN001/0001.jpg"] == "SN001"
    # One name in both parts is two people.
    shutil.copytree(tmp_path / "FEAFA-A" / "P1", tmp_path / "DISFA-A" / "P1")
    people = set(read("feafa", tmp_path).manifest.frame["identity"])
    assert people == {"FEAFA-A/P1", "DISFA-A/P1", "P2", "P3", "SN001", "SN002"}


def test_rafdb_compound_is_refused_and_basic_suggested(publishers, read, tmp_path):
    publishers.rafdb(tmp_path / "basic")
    with pytest.raises(MissingPathError, match=rf"no label list .*Did you mean {tmp_path}/basic\?"):
        read("rafdb", tmp_path)
    root = publishers.rafdb(tmp_path / "other")
    with (root / "EmoLabel/list_patition_label.txt").open("a") as stream:
        stream.write("train_0004.jpg 8\ntrain_0005.jpg 11\n")
    with pytest.raises(InputError, match=r"RAF-DB's compound set, with 11 classes .*Use the folder `basic`"):
        read("rafdb", root, max_bad=99, images_exist=False)
    with pytest.raises(InputError, match="compound set"):
        read("rafdb", publishers.rafdb(tmp_path / "compound"))


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_bp4d_frames_of_several_numbers_of_digits(publishers, read, tmp_path, digits):
    root = publishers.bp4d(tmp_path)
    for folder in ("F001", "F003"):
        path = root / "AUCoding/AU_OCC" / f"{folder}_T1.csv"
        path.write_text(path.read_text().replace("\n2440,", "\n9,").replace("\n2441,", "\n10,"))
    for number in (9, 10):
        publishers.image(root / "F001/T1" / f"{number:0{digits}d}.jpg")
        publishers.image(root / "F003/T1" / f"{number:04d}.jpg")
    images = read("bp4d", root).manifest.frame["image"].tolist()
    assert images == [f"F001/T1/{number:0{digits}d}.jpg" for number in (9, 10)] + [
        "F003/T1/0009.jpg",
        "F003/T1/0010.jpg",
    ]


def test_llava_pretrain_list(publishers, read, cells, tmp_path):
    publishers.cc3m_llava(tmp_path)
    entries = json.loads((tmp_path / "chat.json").read_text())
    for entry in entries:
        entry["image"] = f"00453/{entry['image']}"
    (tmp_path / "images").rename(tmp_path / "00453")
    (tmp_path / "chat.json").unlink()
    (tmp_path / "blip_laion_cc_sbu_558k.json").write_text(json.dumps(entries))
    reading = read("cc3m", tmp_path)
    assert cells(reading, "image", "caption")[0] == ("00453/GCC_0.jpg", "caption 0")
    assert reading.manifest.image_path(0).is_file() and "rows 3 instead of 558,128" in reading.differences[0]


def test_shards_in_subfolders_and_compressed(publishers, read, cells, tmp_path):
    root = publishers.cc3m_shards(tmp_path / "cc3m")
    (root / "part").mkdir()
    (root / "00000.tar").rename(root / "part/00000.tar")
    packed = root / "00001.tar.gz"
    packed.write_bytes(gzip.compress((root / "00001.tar").read_bytes()))
    (root / "00001.tar").unlink()
    reading = read("cc3m", root, check_images=True)
    assert cells(reading, "image", "caption") == [
        ("faces-images/00001/000010000.jpg", "ein Straßencafé"),
        ("faces-images/part/00000/000000000.jpg", "a red bus"),
        ("faces-images/part/00000/000000001.jpg", "two dogs"),
    ]
    content = packed.read_bytes()
    for broken in (content[:-20], content[: len(content) // 2], b"not gzip"):
        packed.write_bytes(broken)
        with pytest.raises(ManifestError, match=r"the shard is damaged or truncated .*00001.tar.gz\]"):
            read("cc3m", root, overwrite=True)


def test_fer2013_as_on_kaggle(publishers, read, cells, tmp_path):
    publishers.fer2013_csv(tmp_path)
    with (tmp_path / "fer2013.csv").open() as stream:
        rows = list(csv.reader(stream))
    (tmp_path / "fer2013.csv").unlink()
    publishers.table(
        tmp_path / "icml_face_data.csv", ["emotion", " Usage", " pixels"], [[r[0], r[2], r[1]] for r in rows[1:]]
    )
    assert [split for (split,) in cells(read("fer2013", tmp_path), "split")] == ["train", "train", "val", "test"]
    (tmp_path / "icml_face_data.csv").unlink()
    publishers.table(tmp_path / "train.csv", ["emotion", "pixels"], [row[:2] for row in rows[1:]])
    publishers.table(tmp_path / "test.csv", ["pixels"], [row[1:2] for row in rows[1:]])
    frame = read("fer2013", tmp_path, overwrite=True).manifest.frame
    assert len(frame) == 4 and set(frame["split"]) == {"train"}


def test_affectnet_automatic_lists_are_read_only_when_asked_for(publishers, read, cells, tmp_path):
    root = publishers.affectnet_lists(tmp_path)
    (root / "Automatically_annotated_file_list").mkdir()
    (root / "training.csv").rename(root / "Automatically_annotated_file_list/automatically_annotated.csv")
    shutil.copytree(root / "Manually_Annotated_Images", root / "Automatically_Annotated_Images")
    assert len(read("affectnet", root).manifest) == 2  # the manual validation list
    reading = read("affectnet", root, annotations="automatic")
    assert cells(reading, "image", "expression", "split") == [
        ("Automatically_Annotated_Images/1/a.jpg", "Happiness", "train")
    ]
    (root / "validation.csv").unlink()
    with pytest.raises(MissingPathError, match="which a network produced .*Pass --annotations automatic"):
        read("affectnet", root)


def test_an_extra_class_folder_is_one_bad_row(publishers, read, cells, tmp_path):
    root = publishers.fer2013_folders(tmp_path)
    publishers.image(root / "train" / "blurry" / "1.png")
    for name in ("folder", "fer2013"):
        with pytest.raises(UnknownExpressionError, match=r"'blurry'.* Pass --max_bad N"):
            read(name, root)
        reading = read(name, root, max_bad=1)
        assert len(reading.manifest) == 3 and len(reading.bad) == 1 and "train/blurry]" in reading.bad[0]


def test_a_folder_of_photographs_has_no_labels(publishers, read, tmp_path):
    for name in ("b.jpg", "a.png", "holiday/c.jpg"):
        publishers.image(tmp_path / name)
    reading = read("folder", tmp_path)
    assert list(reading.manifest.frame.columns) == ["image"]
    assert reading.manifest.frame["image"].tolist() == ["a.png", "b.jpg", "holiday/c.jpg"]
    assert reading.remarks == {"photographs without labels: they are not in class folders": 3}
    # A stray image beside class folders does not cost them their labels.
    publishers.image(tmp_path / "happy" / "d.jpg")
    (tmp_path / "holiday" / "c.jpg").unlink()
    (tmp_path / "holiday").rmdir()
    assert read("folder", tmp_path).manifest.frame["expression"].tolist() == ["Happiness"]
